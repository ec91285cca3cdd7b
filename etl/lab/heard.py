"""A listener that was there: what it would have put on the spool while the simulated days went by, dated as heard.

Whoever publishes can do so only now; so the days of the past have a simulated listener as they have a simulated
dialler. Its session is reported as a real one's is, on a Redis server that the settings name `simulator`: the audit
trail and its gaps say of no other server that anybody listened to it.
"""

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from uuid import UUID

import msgspec

from etl.errors import ConfigurationError
from etl.lab.agents import CLOSING
from etl.lab.call_centre import DAY, HOUR
from etl.lab.simulator import Message, Profile
from etl.settings import Settings
from etl.wire.envelope import kind_and_reference
from etl.wire.spool import Session, pack_heard, pack_session
from etl.wire.times import MICROSECONDS_PER_SECOND, UNIX_SECONDS_AT_EPOCH

NAME = "simulator"  # of the server and of the listener
REPORTED_EVERY = HOUR  # of the simulated time


def last_until(now: float) -> datetime:
    """The latest end that simulated days may have, so that all of it is over now: a Unix time."""
    return datetime.fromtimestamp(int(now) - CLOSING, UTC)


def refuse_others(server: str, heard_by: Sequence[str | None]) -> None:
    """Raises `ConfigurationError` unless the server, and every one that the archive has listened to, is a simulator's.
    `heard_by` are their names; None was told by an etl before 0.2."""
    if not server.startswith(NAME):
        raise ConfigurationError(
            "ETL-931",
            f"{server} isn't named as a simulator's: events of the past would be told as if somebody had listened to"
            f" it. For a Redis and a database that are only for trying out, set ETL_REDIS_NAME={NAME}",
        )
    others = [name or "a server without a name" for name in heard_by if not (name or "").startswith(NAME)]
    if others:
        raise ConfigurationError(
            "ETL-932",
            f"the archive has listened to {', '.join(others)}: simulated events have no place among real ones. Take a"
            " database of its own",
        )


class PastListener:
    """Listens from the UTC midnight before the first call until all is over, and stops then. The same profile has the
    same events, with the same event_ids: played again, it adds none. Raises `ConfigurationError` if the simulated time
    isn't over."""

    def __init__(self, profile: Profile, settings: Settings) -> None:
        until = int(profile.until.timestamp())
        if profile.until > last_until(time.time()):
            raise ConfigurationError(
                "ETL-933",
                f"the simulated days aren't over: nobody has heard them yet. They must end {CLOSING // 60} minutes ago"
                " or earlier",
            )
        self._patterns = settings.listen_patterns
        self._ignore = {_plural(pair) for pair in settings.listen_ignore}
        calls = (profile.cdrs, until, profile.days, profile.seed, profile.late, profile.click2dial)
        self._mark = int.from_bytes(hashlib.sha256(repr(calls).encode()).digest()[:4])
        self._serial = 0
        self._began = (until - profile.days * DAY) // DAY * DAY
        self._ends = until + CLOSING
        self._reported = self._began
        began = _wire_time(self._began)
        self._session = Session(
            self._id(self._began),
            NAME,
            subscribed_at=began,
            proven_until=began,
            received=0,
            ignored=0,
            dropped=0,
            server=settings.server,
            patterns=self._patterns,
        )

    def subscribe(self) -> list[bytes]:
        """What a listener puts on the spool at its beginning."""
        return [pack_session(self._session)]

    def hear(self, messages: Sequence[Message]) -> list[bytes]:
        """And what for these, in the order of their times."""
        records: list[bytes] = []
        for message in messages:
            if message.at > self._reported + REPORTED_EVERY:  # of that moment itself there may be more
                self._reported += (message.at - 1 - self._reported) // REPORTED_EVERY * REPORTED_EVERY
                records.append(self._report(self._reported))
            if not any(fnmatchcase(message.channel, pattern) for pattern in self._patterns):
                continue
            ignored = message.truth in self._ignore
            self._session = msgspec.structs.replace(
                self._session, received=self._session.received + 1, ignored=self._session.ignored + ignored
            )
            event_id = self._id(message.at)  # of what is ignored, too: the others have theirs whatever is
            if not ignored:
                channel = message.channel.encode()
                records.append(pack_heard(event_id.bytes, _wire_time(message.at), channel, message.body))
        return records

    def stop(self) -> list[bytes]:
        """And what at its end."""
        ended_at = _wire_time(self._ends)
        self._session = msgspec.structs.replace(self._session, ended_at=ended_at, reason="stopped")
        return [self._report(self._ends)]

    def _report(self, at: int) -> bytes:
        self._session = msgspec.structs.replace(self._session, proven_until=_wire_time(at))
        return pack_session(self._session)

    def _id(self, at: int) -> UUID:
        """A UUID version 7 of that moment, then the place in the stream: events of one second have an order."""
        self._serial += 1
        high = (at * 1_000) << 16 | 0x7000 | self._serial >> 30
        low = 0b10 << 62 | (self._serial & (1 << 30) - 1) << 32 | self._mark
        return UUID(int=high << 64 | low)


def _plural(pair: str) -> str:
    """The settings may name a kind in the singular, as some channels do."""
    kind, _, sub_type = pair.partition("/")
    return f"{kind_and_reference(kind)[0]}/{sub_type}"


def _wire_time(seconds: int) -> int:
    """Microseconds since 2000 of a Unix time."""
    return (seconds - UNIX_SECONDS_AT_EPOCH) * MICROSECONDS_PER_SECOND
