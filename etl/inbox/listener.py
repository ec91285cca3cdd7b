"""The listener: stamps what the dialler publishes, puts it on the spool list, and proves that it listened.

    PubSub ──Subscription──▶ Listener ──Spooler──▶ spool list ──▶ the ordinary loader

PubSub is lossy, and a dead subscription looks like a quiet one. So the listener publishes probes to itself: one that
comes back proves that everything published before it has come too; two missing probes end the session. The time from
the last proof of one session to the start of the next is a gap: view `audit_gaps`. Times are those of the session's
clock, which nobody sets.

One listener at a time holds the spool's lock. A message that comes when the lease may be over is not kept: the next
holder hears it too.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from etl.errors import ConfigurationError, EtlError, Outage
from etl.ids import Series, new_id
from etl.inbox.connection import Client, translated
from etl.inbox.lock import Lock
from etl.inbox.session_clock import SessionClock
from etl.inbox.spool import Spooler
from etl.inbox.subscription import PubSubMessage, Subscription, probe
from etl.logs import OutageLog
from etl.wire.channels import once_a_channel
from etl.wire.envelope import kind_and_reference, type_of
from etl.wire.spool import GapReason, NotPermitted, Session, pack_heard, pack_session
from etl.wire.times import unix_us

PROBE_SECONDS = 5.0
# Two probes, and a second for the second one to come back.
SILENCE_SECONDS = 2 * PROBE_SECONDS + 1.0
# A stand-by gets the lock so long after its holder's death. Renewed often enough that two renewals may fail.
LOCK_SECONDS = 8.0
RENEW_SECONDS = 2.0
STANDBY_SECONDS = 0.3
# What Redis refuses, it refuses for a while: the pauses grow so far.
LONGEST_PAUSE_SECONDS = 5.0
# How long a clean stop waits for the last probe, so that the gap begins at the stop and not earlier.
FINAL_PROBE_SECONDS = 0.5
FLUSH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listening:
    """What to listen to, for which spool. `ignore` holds "kind/sub_type" pairs: counted, but not spooled.
    `server` is the name under which sessions are reported; None reports them as 0.1 did."""

    name: str
    spool: str
    patterns: Sequence[str]
    ignore: frozenset[str] = frozenset()
    server: str | None = None


class Listener:
    """Listens while it holds the lock, stands by while another does. `run` it in a thread of its own."""

    def __init__(self, client: Client, listening: Listening, log: Any, spooler: Spooler) -> None:
        """`client` should have a timeout of about a second: its commands are small and repeated, and waiting for a
        silent Redis makes gaps longer."""
        self._client = client
        self._listening = listening
        self._log = log
        self._spooler = spooler
        self._lock = Lock(client, f"{{{listening.spool}}}:listener", f"{listening.name}:{new_id()}", LOCK_SECONDS)
        # Under it the last session's channel of probes. It doesn't expire, as the lock does.
        self._noted = f"{{{listening.spool}}}:listener:session"
        self._is_new = True  # never asked for the lock
        self._proving: _Proving | None = None
        self._told_unvouched = False
        self._refused = False  # as reported: the gap that goes on is for want of a right
        self._outages = OutageLog(log, "listener_outage_began", "listener_outage_ended")

    def reach(self) -> None:
        """Ask Redis for something that every listener may. Raises `Outage` and `ConfigurationError`."""
        self._lock.holder()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set and what was heard is on the spool. What Redis refuses is told, and tried again."""
        spooling = threading.Thread(target=self._spooler.run, name="spooler", daemon=True)
        spooling.start()
        pause = STANDBY_SECONDS
        with self._pulse():
            try:
                while not stop.is_set():
                    try:
                        self._listen_or_stand_by(stop)
                        pause = STANDBY_SECONDS
                    except EtlError as error:
                        self._outages.failed(error)
                        pause = STANDBY_SECONDS if isinstance(error, Outage) else min(2 * pause, LONGEST_PAUSE_SECONDS)
                    stop.wait(pause)
            finally:
                self._spooler.close(FLUSH_SECONDS)
                spooling.join()
        with contextlib.suppress(EtlError):
            self._lock.release()

    def _listen_or_stand_by(self, stop: threading.Event) -> None:
        # Asked even if we hold it: of a host that slept, the monotonic clock says so, too.
        is_ours = self._lock.acquire()
        was_new, self._is_new = self._is_new, False
        if not is_ours:
            self._outages.succeeded()
        # With a full buffer the session would end at once, by overflow.
        elif self._spooler.has_room():
            # So long the one who lost it may believe that it's his: what he hears we must not hear, too.
            if (self._lock.is_doubtful or (was_new and self._is_another_there())) and stop.wait(LOCK_SECONDS):
                return
            self._listen(stop)

    def _is_another_there(self) -> bool:
        """Whether the last session's subscription still hears, though its lock is gone: Redis' clock was set forward
        before we were here to see it, or its host is. Not known where that is refused."""
        try:
            with translated():
                channel: Any = self._client.get(self._noted)
                return channel is not None and self._client.publish(channel, b"") > 0
        except EtlError:
            return False

    def _note(self, channel: str) -> None:
        """For `_is_another_there`. A full Redis refuses it."""
        with contextlib.suppress(EtlError), translated():
            self._client.set(self._noted, channel)

    def _listen(self, stop: threading.Event) -> None:
        """One session, from the subscription to its end. Raises `Outage` or `ConfigurationError` if subscribing or
        publishing fails."""
        session_id = new_id()
        subscription = Subscription(self._client, self._listening.patterns, session_id)
        try:
            clock = self._subscribe(subscription)
            self._note(subscription.probe_channel)
            self._outages.succeeded()
            session = OpenSession(self._listening, session_id, self._spooler, clock)
            self._proving = _Proving(subscription.probe_channel, clock)
            self._log.info("listening", session=str(session_id))
            reason = self._hear(subscription, session, clock, stop)
            session.end(reason)
            self._log.info("listening_ended", session=str(session_id), reason=reason)
        finally:
            self._proving = None
            subscription.close()

    def _new_clock(self) -> SessionClock:
        clock = SessionClock(self._client)
        if not clock.is_vouched and not self._told_unvouched:
            self._log.warning("listener_clock_unvouched")
            self._told_unvouched = True
        return clock

    def _subscribe(self, subscription: Subscription) -> SessionClock:
        """And see whether it can be proven. What is refused is reported once, as a session of no length: the gap that
        follows has its reason."""
        try:
            subscription.subscribe()
            clock = self._new_clock()  # not earlier: it's slow by its question's way, and would begin before we hear
            probe(self._client, subscription.probe_channel, clock.now())
        except ConfigurationError:
            if not self._refused:
                OpenSession(self._listening, new_id(), self._spooler, self._new_clock()).end("not permitted")
            self._refused = True
            raise
        self._refused = False
        return clock

    def _hear(
        self, subscription: Subscription, session: "OpenSession", clock: SessionClock, stop: threading.Event
    ) -> GapReason:
        """Read messages until there's a reason to end the session, and return it."""
        stopping: _Stopping | None = None
        while True:
            try:
                heard = subscription.heard()
            except EtlError:
                return session.because("probe lost" if session.is_silent() else "connection lost")
            if session.is_silent() or not self._lock.is_held():
                return session.because("probe lost")
            if clock.was_set():
                self._log.warning("clock_set", seconds=round(clock.parted_seconds(), 1))
                return session.because("probe lost")
            session.hear(heard)
            if session.overflowed and self._spooler.has_room():
                return "overflow"
            if stop.is_set():
                if stopping is None:
                    stopping = _Stopping(clock.now(), time.monotonic() + FINAL_PROBE_SECONDS)
                    self._send_probe()  # the last proof: the gap begins now
                if session.proven_until >= stopping.asked_at or time.monotonic() > stopping.deadline:
                    return session.because("stopped")

    def _send_probe(self) -> None:
        if proving := self._proving:
            with contextlib.suppress(EtlError):
                probe(self._client, proving.channel, proving.clock.now())

    @contextlib.contextmanager
    def _pulse(self) -> Iterator[None]:
        """Renews the lock and sends probes, in a thread of its own, so that a busy reader delays neither."""
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()  # so that it can't acquire the lock again after our release

    def _beat(self, done: threading.Event) -> None:
        probed: _Proving | None = None
        probe_at = renew_at = 0.0
        while not done.wait(0.1):
            now = time.monotonic()
            if self._lock.is_held() and now >= renew_at:
                with contextlib.suppress(EtlError):
                    self._lock.acquire()
                renew_at = now + RENEW_SECONDS
            proving = self._proving
            if proving is not None and (proving is not probed or now >= probe_at):
                self._send_probe()
                probed, probe_at = proving, now + PROBE_SECONDS


@dataclass(frozen=True, slots=True)
class _Proving:
    """The channel of a session's probes, and its clock."""

    channel: str
    clock: SessionClock


@dataclass(frozen=True, slots=True)
class _Stopping:
    asked_at: int  # microseconds since 2000
    deadline: float  # of the monotonic clock


class OpenSession:
    """The current session: stamps and counts messages, reports each proof and the end through the spool."""

    def __init__(self, listening: Listening, session_id: UUID, spooler: Spooler, clock: SessionClock) -> None:
        now = clock.now()
        self._clock = clock
        self._ids = Series()
        self._ignore = frozenset(map(_plural, listening.ignore))
        self._spooler = spooler
        self._last_probe = time.monotonic()
        patterns = tuple(dict.fromkeys(_storable(pattern) for pattern in listening.patterns))
        self._session = Session(
            session_id,
            listening.name,
            subscribed_at=now,
            proven_until=now,
            received=0,
            ignored=0,
            dropped=0,
            server=listening.server,
            patterns=patterns if listening.server is not None else None,
        )
        self._received = self._ignored = self._dropped = 0
        self.overflowed = False
        self._report()

    @property
    def proven_until(self) -> int:
        return self._session.proven_until

    def is_silent(self) -> bool:
        """Two probes in a row didn't come back."""
        return time.monotonic() > self._last_probe + SILENCE_SECONDS

    def because(self, reason: GapReason) -> GapReason:
        """The reason to report: overflow, once messages were dropped; else the given one."""
        return "overflow" if self.overflowed else reason

    def hear(self, heard: Iterable[PubSubMessage | int]) -> None:
        """Take in messages, and the times until which everything was heard, in order."""
        records: list[bytes] = []
        now, next_id = self._clock.now, self._ids.next
        for each in heard:
            if isinstance(each, int):
                self._spool(records)
                records = []
                self._prove(each)
                continue
            self._received += 1
            channel, message = each
            if self._ignore and self._is_ignored(channel, message):
                self._ignored += 1
                continue
            at = now()
            records.append(pack_heard(next_id(unix_us(at)), at, channel, message))
        self._spool(records)

    def end(self, reason: GapReason | NotPermitted) -> None:
        if reason == "not permitted":  # which 0.1 doesn't know
            self._report(ended_at=self._clock.now(), reason="stopped", not_permitted=True)
        else:
            self._report(ended_at=self._clock.now(), reason=reason)

    def _spool(self, records: Sequence[bytes]) -> None:
        taken = 0 if self.overflowed else self._spooler.offer(records)
        if taken < len(records):
            self.overflowed = True
            self._dropped += len(records) - taken

    def _prove(self, sent_at: int) -> None:
        self._last_probe = time.monotonic()
        if not self.overflowed:
            self._report(proven_until=max(sent_at, self._session.proven_until))

    def _is_ignored(self, channel: bytes, message: bytes) -> bool:
        """Never true of what is no envelope: that must become a dead letter."""
        sub_type = type_of(message)
        return sub_type is not None and f"{_kind_of(channel)}/{sub_type}" in self._ignore

    def _report(self, **changes: Any) -> None:
        counts = {"received": self._received, "ignored": self._ignored, "dropped": self._dropped}
        self._session = msgspec.structs.replace(self._session, **counts, **changes)
        self._spooler.insist(pack_session(self._session))


@once_a_channel
def _kind_of(channel: bytes) -> str:
    return kind_and_reference(channel.decode(errors="replace"))[0]


def _storable(pattern: str) -> str:
    """Postgres' text can't contain NUL."""
    return pattern.replace("\0", "%00")


def _plural(pair: str) -> str:
    """The pair with its kind in the plural: settings may have the singular, as the dialler's channels do."""
    kind, _, sub_type = pair.partition("/")
    return f"{kind_and_reference(kind)[0]}/{sub_type}"
