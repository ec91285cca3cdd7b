"""The listener: what the dialler publishes, stamped and put onto the spool list, with proof of having listened.

    PubSub ──Ears──▶ Listener ──Spooler──▶ spool list ──▶ the ordinary loader

PubSub is lossy, and a dead subscription looks like a quiet one. So the listener publishes probes to itself: one that
comes back proves that everything published before it has come, too; silence where two should have come ends the
session. What lies between the last proof of one session and the start of the next is a gap: view `audit_gaps`.

One listener at a time holds the spool's lock. What comes when the lock may be another's already isn't kept: whoever has
it hears it as well.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import msgspec
from redis.client import PubSub

from etl.errors import EtlError, Outage
from etl.inbox.connection import Client, translated
from etl.inbox.lock import Lock
from etl.inbox.spool import Spooler
from etl.wire.envelope import kind_and_reference, type_of
from etl.wire.ids import uuid7
from etl.wire.spool import GapReason, Session, pack_heard, pack_session
from etl.wire.times import from_unix_ns

PROBE_SECONDS = 5.0
# Two probes that didn't come back, and a little for the way.
SILENCE_SECONDS = 2 * PROBE_SECONDS + 1.0
# So long after its holder's death a stand-by gets the lock; renewed often enough that two renewals may fail.
LOCK_SECONDS = 8.0
RENEW_SECONDS = 2.0
STANDBY_SECONDS = 0.3
# The reader blocks no longer than this before it looks at the clock and at the stop signal.
READ_SECONDS = 0.2
SUBSCRIBE_SECONDS = 5.0
FINAL_PROBE_MICROSECONDS = 500_000
FLUSH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listening:
    """What to listen to, for which spool. `ignore` holds "kind/sub_type" pairs: counted, and dropped at the door."""

    name: str
    spool: str
    patterns: Sequence[str]
    ignore: frozenset[str] = frozenset()


class Listener:
    """Listens while it holds the lock, stands by while another does. `run` it in a thread of its own."""

    def __init__(self, client: Client, listening: Listening, log: Any, spooler: Spooler | None = None) -> None:
        self._client = client
        self._listening = listening
        self._log = log
        self._spooler = spooler or Spooler(client, listening.spool, log)
        identity = uuid7(time.time_ns() // 1_000_000)
        self._lock = Lock(client, f"{{{listening.spool}}}:listener", f"{listening.name}:{identity}", LOCK_SECONDS)
        self._probe_channel: str | None = None
        self._away = False

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set and what was heard is on the spool."""
        spooling = threading.Thread(target=self._spooler.run, name="spooler", daemon=True)
        spooling.start()
        try:
            with self._pulse():
                while not stop.is_set():
                    with contextlib.suppress(Outage):
                        if self._lock.is_held() or self._lock.hold():
                            self._listen(stop)
                            continue
                    stop.wait(STANDBY_SECONDS)
        finally:
            self._spooler.close(FLUSH_SECONDS)
            spooling.join()
            # Now that the last report is on the spool: what the next holder reports shall come after it.
            with contextlib.suppress(EtlError):
                self._lock.let_go()

    def _listen(self, stop: threading.Event) -> None:
        """One session, from the subscription to its end. Raises `Outage` if there is none to be had."""
        session_id = uuid7(time.time_ns() // 1_000_000)
        ears = Ears(self._client, self._listening.patterns, f"etl:probe:{session_id}")
        try:
            self._subscribe(ears)
            session = OpenSession(self._listening, session_id, ears.probe_channel, self._spooler)
            self._probe_channel = ears.probe_channel
            self._log.info("listening", session=str(session_id))
            reason = self._hear(ears, session, stop)
            session.end(reason)
            self._log.info("listening_ended", session=str(session_id), reason=reason)
        finally:
            self._probe_channel = None
            ears.close()

    def _subscribe(self, ears: "Ears") -> None:
        try:
            ears.subscribe()
        except Outage as outage:
            if not self._away:
                self._log.warning("listener_away", error=str(outage))
            self._away = True
            raise
        self._away = False

    def _hear(self, ears: "Ears", session: "OpenSession", stop: threading.Event) -> GapReason:
        """Take in what comes until there's a reason to end the session."""
        asked_to_stop_at: int | None = None
        while True:
            try:
                heard = ears.next()
            except Outage:
                return session.because("connection lost")
            if session.is_silent() or not self._lock.is_held():
                return session.because("probe lost")
            if heard is not None:
                session.hear(heard)
            if session.overflowed and self._spooler.has_room():
                return "overflow"
            if stop.is_set():
                if asked_to_stop_at is None:
                    asked_to_stop_at = _now()
                    self._send_probe()  # one last proof, so that the gap begins now
                if session.proven_until >= asked_to_stop_at or _now() > asked_to_stop_at + FINAL_PROBE_MICROSECONDS:
                    return session.because("stopped")

    def _send_probe(self) -> None:
        if channel := self._probe_channel:
            with contextlib.suppress(EtlError), translated():
                self._client.publish(channel, _now())

    @contextlib.contextmanager
    def _pulse(self) -> Iterator[None]:
        """Renews the lock and sends probes, in a thread of its own, so that a busy reader is late with neither."""
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()

    def _beat(self, done: threading.Event) -> None:
        probed, probe_at, renew_at = None, 0.0, 0.0
        while not done.wait(0.1):
            now = time.monotonic()
            if self._lock.is_held() and now >= renew_at:
                with contextlib.suppress(EtlError):
                    self._lock.hold()
                renew_at = now + RENEW_SECONDS
            channel = self._probe_channel
            if channel is not None and (channel != probed or now >= probe_at):
                self._send_probe()
                probed, probe_at = channel, now + PROBE_SECONDS


class OpenSession:
    """The session that is on: stamps messages, keeps its books, reports each proof and the end through the spool."""

    def __init__(self, listening: Listening, session_id: UUID, probe_channel: str, spooler: Spooler) -> None:
        now = _now()
        self._ignore = listening.ignore
        self._probe_channel = probe_channel.encode()
        self._spooler = spooler
        self._last_probe = time.monotonic()
        self._session = Session(session_id, listening.name, now, now, received=0, ignored=0, dropped=0)
        self._received = self._ignored = self._dropped = 0
        self.overflowed = False
        self._report()

    @property
    def proven_until(self) -> int:
        return self._session.proven_until

    def is_silent(self) -> bool:
        """Two probes didn't come back."""
        return time.monotonic() > self._last_probe + SILENCE_SECONDS

    def because(self, reason: GapReason) -> GapReason:
        """Why the session ends: once messages were dropped, for that reason and no other."""
        return "overflow" if self.overflowed else reason

    def hear(self, heard: "Heard") -> None:
        if heard.channel == self._probe_channel:
            if heard.message.isdigit():
                self._prove(int(heard.message))
            return
        self._received += 1
        if self._ignore and self._is_ignored(heard):
            self._ignored += 1
        elif self.overflowed or not self._spooler.offer(_stamped(heard)):
            self.overflowed = True
            self._dropped += 1

    def end(self, reason: GapReason) -> None:
        self._report(ended_at=_now(), reason=reason)

    def _prove(self, sent_at: int) -> None:
        """A probe came back that was sent at this time: all that was published before has come."""
        self._last_probe = time.monotonic()
        if not self.overflowed:
            self._report(proven_until=max(sent_at, self._session.proven_until))

    def _is_ignored(self, heard: "Heard") -> bool:
        kind, _ = kind_and_reference(heard.channel.decode(errors="replace"))
        return f"{kind}/{type_of(heard.message)}" in self._ignore

    def _report(self, **changes: Any) -> None:
        counts = {"received": self._received, "ignored": self._ignored, "dropped": self._dropped}
        self._session = msgspec.structs.replace(self._session, **counts, **changes)
        self._spooler.insist(pack_session(self._session))


def _stamped(heard: "Heard") -> bytes:
    now = time.time_ns()
    return pack_heard(uuid7(now // 1_000_000).bytes, from_unix_ns(now), heard.channel, heard.message)


@dataclass(frozen=True, slots=True)
class Heard:
    channel: bytes
    message: bytes


class Ears:
    """One subscription: to the dialler's patterns, and to the channel on which we hear our own probes."""

    def __init__(self, client: Client, patterns: Sequence[str], probe_channel: str) -> None:
        self.probe_channel = probe_channel
        self._patterns = patterns
        self._pubsub: PubSub = cast(Any, client).pubsub()

    def subscribe(self) -> None:
        """Returns when the server has confirmed everything. Raises `Outage`."""
        with translated():
            self._pubsub.psubscribe(*self._patterns)
            self._pubsub.subscribe(self.probe_channel)
            deadline = time.monotonic() + SUBSCRIBE_SECONDS
            missing = len(self._patterns) + 1
            while missing:
                if time.monotonic() > deadline:
                    raise Outage("Redis doesn't confirm the subscription")
                message = self._pubsub.get_message(timeout=READ_SECONDS)
                missing -= message is not None and message["type"] in ("psubscribe", "subscribe")

    def next(self) -> Heard | None:
        """The next message; None after a short while without one. Raises `Outage` when the connection is lost."""
        with translated():
            message = self._pubsub.get_message(timeout=READ_SECONDS)
        if message is None or message["type"] not in ("message", "pmessage"):
            return None
        return Heard(message["channel"], message["data"])

    def close(self) -> None:
        with contextlib.suppress(EtlError), translated():
            self._pubsub.close()


def _now() -> int:
    return from_unix_ns(time.time_ns())
