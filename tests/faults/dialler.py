"""A dialler that knows exactly what it pushed, and what has to come of it: the other side of the books.

It says the same in the same order for the same seed. Each call's fields are its own: no row can pass for another.
"""

import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import redis

from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, DIALED_AT, Archive, api_cdr, cdr

Identity = tuple[str, str]  # source, call_ref
Row = dict[str, Any]

GROUP = 10  # messages in a push
PAUSE_SECONDS = 0.02  # between two pushes: some hundred messages a second

_ONE_LOOK = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TYPE', key).ok == 'list' then
    for _, message in ipairs(redis.call('LRANGE', key, 0, -1)) do found[#found + 1] = message end
  end
end
return found
"""
_COLUMNS = (
    "source, call_ref, leg, dialed_on, dialed_at, answered_at, connected_at, ended_at, call_time, call_dir, extension, "
    "number, dial_number, campaign_ref, contact_ref, end_reason, end_code, recording_url, uuid, extra"
)


@dataclass(frozen=True)
class Message:
    """`identity` is set for a CDR; `event` is the payload's reference, for an event; a broken message has neither."""

    key: str
    raw: bytes
    identity: Identity | None = None
    row: Row = field(default_factory=dict, hash=False, compare=False)
    event: str | None = None


class Dialler:
    """Pushes calls of two systems in both dialects, and messages that are broken or no CDRs; some of either kind twice.

    `acknowledged` are the copies that Redis confirmed, `attempted` those that may have arrived: the two differ when
    Redis went away before it answered, after which the dialler pushes the same again.
    """

    def __init__(self, archive: Archive, seed: int) -> None:
        self._archive = archive
        self._keys = {source.key for source in archive.sources}
        self._random = random.Random(seed)
        self._said: list[Message] = []
        self._number = 0
        self._lock = threading.Lock()
        self._acknowledged: Counter[Message] = Counter()
        self.attempted: Counter[Message] = Counter()

    def meet(self, archive: Archive) -> None:
        """From here on look into this archive."""
        self._archive = archive

    @property
    def acknowledged(self) -> Counter[Message]:
        with self._lock:
            return self._acknowledged.copy()

    def say(self, count: int) -> None:
        """Push `count` messages."""
        with redis.Redis.from_url(self._archive.redis_url) as client:
            self._say(client, count, threading.Event())

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """Push without end, from a thread of its own."""
        silence = threading.Event()

        def speak() -> None:
            with redis.Redis.from_url(self._archive.redis_url) as client:
                while not silence.wait(PAUSE_SECONDS):
                    self._say(client, GROUP, silence)

        thread = threading.Thread(target=speak, name="dialler")
        thread.start()
        try:
            yield
        finally:
            silence.set()
            thread.join()

    def assert_nothing_is_missing(self) -> None:
        """Each message is in its source list, in a claim, or in Postgres; at any moment, with everything running.

        A message only ever moves from Redis to Postgres, so that whoever looks in this order doesn't miss it.
        """
        said = self.acknowledged
        with redis.Redis.from_url(self._archive.redis_url) as client:
            in_redis = Counter[bytes](client.eval(_ONE_LOOK, 0))
        stored = self._stored_identities()
        dead, events = self._dead_letters(), self._events()
        for message, copies in said.items():
            if message.identity:
                assert message.identity in stored or in_redis[message.raw], message
            elif message.event:
                assert events[message.event] + in_redis[message.raw] >= copies, message
            else:
                assert dead[message.raw] + in_redis[message.raw] >= copies, message

    def assert_all_took_effect_once(self) -> None:
        """Every call is one row with the right content; every other copy is one event or one dead letter."""
        said = self.acknowledged
        expected: dict[Identity, Row] = {}
        for message in said:
            if message.identity:
                expected.setdefault(message.identity, dict.fromkeys(_COLUMNS.split(", "))).update(message.row)
        rows = self._archive.rows(f"SELECT {_COLUMNS} FROM cdrs")
        assert len(rows) == len(expected)
        for row in rows:
            assert row == expected[row["source"], row["call_ref"]]
        assert self._archive.value("SELECT count(*) FROM cdr_revisions") == 0
        dead, events = self._dead_letters(), self._events()
        for counted, identities in (
            (dead, {m: m.raw for m in self.attempted if not m.identity and not m.event}),
            (events, {m: m.event for m in self.attempted if m.event}),
        ):
            assert set(counted) <= set(identities.values())
            for message, identity in identities.items():
                assert said[message] <= counted[identity] <= self.attempted[message], message  # type: ignore[index]
        self._archive.assert_books_balance()

    def _stored_identities(self) -> set[Identity]:
        return {(row["source"], row["call_ref"]) for row in self._archive.rows("SELECT source, call_ref FROM cdrs")}

    def _dead_letters(self) -> Counter[bytes]:
        return Counter(row["raw"] for row in self._archive.rows("SELECT raw FROM dead_letters"))

    def _events(self) -> Counter[str]:
        of_lists = "SELECT reference FROM audit_events WHERE origin = 'list'"
        return Counter(row["reference"] for row in self._archive.rows(of_lists))

    def _say(self, client: "redis.Redis", count: int, silence: threading.Event) -> None:
        by_key: dict[str, list[Message]] = {}
        with self._lock:
            for message in (self._next() for _ in range(count)):
                by_key.setdefault(message.key, []).append(message)
        for key, messages in by_key.items():
            self._push(client, key, messages, silence)

    def _push(self, client: "redis.Redis", key: str, messages: list[Message], silence: threading.Event) -> None:
        while True:
            with self._lock:
                self.attempted.update(messages)
            try:
                client.lpush(key, *(message.raw for message in messages))
            except redis.RedisError:
                # As the dialler does: it keeps what wasn't confirmed, and pushes it again.
                if silence.wait(PAUSE_SECONDS):
                    return
            else:
                with self._lock:
                    self._acknowledged.update(messages)
                return

    def _next(self) -> Message:
        dice = self._random.random()
        if dice < 0.2 and self._said:
            return self._random.choice(self._said)  # the same again, whatever it was
        if dice < 0.25:
            message = self._broken()
        elif dice < 0.3:
            message = self._event()
        elif dice < 0.5 and self._number:
            message = self._call(self._random.randint(1, self._number))  # possibly its other dialect
        else:
            message = self._call(self._count())
        self._said.append(message)
        return message

    def _count(self) -> int:
        self._number += 1
        return self._number

    def _call(self, n: int) -> Message:
        if n % 10 == 0 and CLICK2DIAL in self._keys:
            return self._of_click2dial(n)
        return self._in_dialect_a(n) if self._random.random() < 0.5 else self._in_dialect_b(n)

    def _in_dialect_a(self, n: int, key: str = CAMPAIGNS, source: str = "dialler") -> Message:
        moment = _moment(n)
        fields = {
            "number": f"07{n:08}",
            "contact_ref": f"M{n}",
            "call_time": n % 600,
            "extension": str(1000 + n % 9),
            "recording_url": f"ftp://pbx/{n}.wav",
        }
        # As the published program says it, and as some systems do.
        told = fields | {"end_code": "16"} | ({"call_trail_number": 1} if n % 4 == 0 else {})
        row = {
            **_common(n, source),
            **fields,
            "dial_number": "0126543210",
            "end_code": 16,
            "campaign_ref": "2040",
        }
        return Message(key, cdr(n, dialed_at=int(moment.timestamp()), **told), (source, str(n)), row)

    def _of_click2dial(self, n: int) -> Message:
        return self._in_dialect_a(n, CLICK2DIAL, "click2dial")

    def _in_dialect_b(self, n: int) -> Message:
        moment = _moment(n)
        times = {
            "callee_answered_at": moment + timedelta(seconds=n % 20),
            "agent_answered_at": moment + timedelta(seconds=n % 30),
            "ended_at": moment + timedelta(seconds=n % 700),
        }
        raw = api_cdr(
            n,
            uuid=str(UUID(int=n)),
            dialed_at=moment.isoformat(),
            agent=str(1000 + n % 9),
            recording_location=f"ftp://pbx/{n}.wav",
            **{name: time.isoformat() for name, time in times.items()},
        )
        row = {
            **_common(n, "dialler"),
            "uuid": str(UUID(int=n)),
            "answered_at": times["callee_answered_at"],
            "connected_at": times["agent_answered_at"],
            "ended_at": times["ended_at"],
        }
        return Message(self._api_key, raw, ("dialler", str(n)), row)

    @property
    def _api_key(self) -> str:
        """A dialler that writes to one list writes both dialects there."""
        return CDRS if CDRS in self._keys else CAMPAIGNS

    def _broken(self) -> Message:
        n = self._count()
        ways = (cdr(n, dialed_at=None), b'{"type": "cdr", %d' % n, cdr(n, call_time=["long"]), b"\xff %d" % n)
        return Message(self._random.choice((CAMPAIGNS, self._api_key)), self._random.choice(ways))

    def _event(self) -> Message:
        reference = f"status-{self._count()}"
        status = {"type": "status", "payload": {"status": "started", "ref": reference}}
        return Message(CAMPAIGNS, json.dumps(status).encode(), event=reference)


def _moment(n: int) -> datetime:
    """Calls of three days, so that there are partitions to make."""
    return datetime.fromtimestamp(DIALED_AT, UTC) + timedelta(days=n % 3, seconds=n)


def _common(n: int, source: str) -> Row:
    """What both dialects say of a call."""
    moment = _moment(n)
    return {
        "source": source,
        "call_ref": str(n),
        "leg": 0,
        "dialed_on": moment.date(),
        "dialed_at": moment,
        "call_dir": "outbound",
        "extension": str(1000 + n % 9),
        "end_reason": "callee_hungup",
        "recording_url": f"ftp://pbx/{n}.wav",
    }
