"""Loading one source list: claim → decode → write → ack.

`run_once` does one claim; `run` loops and waits, `drain` loops until nothing is left. Where a call is if we die:

    claim    before the script: in the source list; after it: in the claim, which is adopted when its lease runs out
    decode   in the claim
    write    in the claim, and from the commit on in Postgres too
    ack      in Postgres; if the claim is still there, its adopter finds it in the ledger and only acknowledges

A list is broken while what is done with it is refused: a key of it holds something else, a right is missing. `run` lets
it rest and tries again; the loaders of other lists don't notice.
"""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from etl import logs
from etl.errors import EtlError, LeaseLost
from etl.ids import time_of
from etl.inbox.claims import Claim, Source
from etl.jobs.patience import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Patience, Stopped
from etl.logs import OutageLog
from etl.metrics import (
    BATCH_SECONDS,
    CLAIMED,
    DEAD,
    EVENTS,
    INSERTED,
    LAG_SECONDS,
    SET_ASIDE,
    UNCHANGED,
    UPDATED,
    Counts,
)
from etl.store.ledger import Books
from etl.store.writer import Batch, Writer
from etl.wire.cdr import Cdr
from etl.wire.decode import Decoded, Records
from etl.wire.faults import Reason
from etl.wire.times import from_datetime, from_unix_ns

# How often abandoned claims are looked for; two cheap commands each time.
ADOPT_EVERY_SECONDS = 5.0
# Claims that are fetched and decoded while another is written. With one, the decoder would idle during the commit.
CLAIMS_AHEAD = 2
# Claim lists without an entry in the registry arise by accident only, so they are looked for at start and hourly.
RESCUE_EVERY_SECONDS = 3_600.0

_DIALED_AT = itemgetter(Cdr._fields.index("dialed_at"))

# Decodes a claim: its messages, its batch_id, and its time in microseconds since 2000.
Decode = Callable[[Sequence[bytes], UUID, int], Records]


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one loader."""

    decode: Decode
    worker: str
    batch_size: int
    linger_seconds: float
    server: str | None = None  # the Redis server's name


class _Taken(NamedTuple):
    claim: Claim
    batch: Batch


class Loader:
    """Loads one source list, in one thread."""

    def __init__(
        self, source: Source, writer: Writer, options: Options, patience: Patience, counts: Counts, log: Any
    ) -> None:
        self._source = source
        self._writer = writer
        self._options = options
        self._patience = patience  # retries every step, and keeps `counts`' pulse
        self._counts = counts
        self._log = log.bind(source_key=source.key)
        self._broken = OutageLog(self._log, "list_broken", "list_mended")
        self._pause = FIRST_PAUSE_SECONDS  # before the next try of a broken list
        self._recovering = True  # this worker may have left claims before a restart
        self._adopt_at = self._rescue_at = time.monotonic()
        # Under a backlog the next claims are fetched and decoded while this one is written.
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix=f"fetch {source.key}")
        self._ahead: deque[Future[_Taken | None]] = deque()

    def run(self, stop: threading.Event) -> None:
        """Load until `stop` is set; then finish or give back the claims in hand. While the list is broken it's tried
        again with back-off: raises no `EtlError`."""
        with self._until_stopped():
            while not stop.is_set():
                try:
                    books = self.run_once()
                    if books is None or books.claimed < self._options.batch_size:
                        self._wait(stop)
                except EtlError as error:
                    self._rest(error, stop)
                else:
                    self._go_on()

    def drain(self, stop: threading.Event, loaded: Callable[[Books], None]) -> None:
        """Load until nothing is left, or until `stop` is set; calls `loaded` after each claim. Raises as `run_once`."""
        with self._until_stopped():
            while not stop.is_set():
                books = self.run_once()
                if books is None and self._adopt_at > time.monotonic():
                    return
                if books is not None:
                    loaded(books)

    def run_once(self) -> Books | None:
        """Load one claim. None if there was none; empty books if it was in the ledger already.

        Raises `Stopped`, `Outage` after the longest allowed one, or another `EtlError` if the list is broken; then the
        claim is given back.
        """
        taken = self._patience.retry(self._take)
        if taken is None:
            return None
        if len(taken.claim.messages) >= self._options.batch_size:
            while len(self._ahead) < CLAIMS_AHEAD:
                self._ahead.append(self._fetcher.submit(self._fetch_ahead))
        with logs.about(source_key=self._source.key, batch_id=str(taken.claim.batch_id)):
            return self._load(*taken)

    def _load(self, claim: Claim, batch: Batch) -> Books:
        began = time.monotonic()
        try:
            books = self._patience.retry(lambda: self._writer.write(batch))
            self._acknowledge(claim)
        except BaseException:
            with contextlib.suppress(EtlError):
                claim.give_back()
                self._log.warning("claim_given_back", claimed=len(claim.messages))
            raise
        seconds = time.monotonic() - began
        if books is None:
            self._log.warning("already_loaded", claimed=len(claim.messages))
            return Books()
        decoded = batch.records.finish()
        self._log_loaded(claim, decoded, books, seconds)
        self._count(decoded, books, seconds)
        return books

    def _acknowledge(self, claim: Claim) -> None:
        try:
            self._patience.retry(claim.ack)
        except LeaseLost:
            self._log.warning("lease_lost")

    def _rest(self, error: EtlError, stop: threading.Event) -> None:
        self._broken.failed(error)
        self._counts.broken(error.code)
        self._recovering = True  # a claim that was given back, or was made before the rest was refused
        stop.wait(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _go_on(self) -> None:
        if self._pause > FIRST_PAUSE_SECONDS:
            # Whoever mended it may have deleted the registry.
            self._rescue_at = time.monotonic()
            self._pause = FIRST_PAUSE_SECONDS
        self._broken.succeeded()
        self._counts.broken(None)

    @contextlib.contextmanager
    def _until_stopped(self) -> Iterator[None]:
        try:
            with contextlib.suppress(Stopped):
                yield
        finally:
            self._fetcher.shutdown()
            for ahead in self._ahead:
                with contextlib.suppress(EtlError):
                    if taken := ahead.result():
                        taken.claim.give_back()

    def _take(self) -> _Taken | None:
        while self._ahead:
            if taken := self._ahead.popleft().result():
                return taken
        return self._fetch()

    def _fetch(self) -> _Taken | None:
        claim = self._next_claim()
        return _Taken(claim, self._batch(claim)) if claim else None

    def _fetch_ahead(self) -> _Taken | None:
        if taken := self._fetch():
            taken.batch.records.finish()
        return taken

    def _next_claim(self) -> Claim | None:
        """What this worker left before a restart, then what others left, then what is waiting."""
        try:
            if self._recovering:
                if claim := self._source.adopt_own():
                    return claim
                self._recovering = False
            if time.monotonic() >= self._rescue_at:
                if rescued := self._source.rescue():
                    self._log.warning("orphans_rescued", claims=rescued)
                self._rescue_at = time.monotonic() + RESCUE_EVERY_SECONDS
            if time.monotonic() >= self._adopt_at:
                if claim := self._source.adopt():
                    return claim
                self._adopt_at = time.monotonic() + ADOPT_EVERY_SECONDS
            return self._source.claim()
        except EtlError:
            # The claim may have been made, though the reply was lost, or may not be read.
            self._recovering = True
            raise

    def _batch(self, claim: Claim) -> Batch:
        """Not decoded yet: `Writer` does that while it writes."""
        claimed_at = time_of(claim.batch_id)
        records = self._options.decode(claim.messages, claim.batch_id, from_datetime(claimed_at))
        return Batch(
            claim.batch_id,
            self._options.worker,
            self._source.key,
            claimed_at,
            len(claim.messages),
            records,
            server=self._options.server,
        )

    def _wait(self, stop: threading.Event) -> None:
        """Wait for messages, and then `linger_seconds` more if they make less than a batch."""
        arrived = self._patience.retry(self._source.wait)
        if arrived and self._patience.retry(self._source.waiting) < self._options.batch_size:
            stop.wait(self._options.linger_seconds)

    def _log_loaded(self, claim: Claim, records: Decoded, books: Books, seconds: float) -> None:
        # Not one message could be read: they are another program's, or of a dialler that we don't know.
        all_dead = 0 < books.claimed == books.dead
        more = {"reason": _reasons(records, books).most_common(1)[0][0]} if all_dead else {}
        level = self._log.warning if all_dead else self._log.info
        level(
            "loaded",
            adopted=claim.adopted,
            claimed=books.claimed,
            inserted=books.inserted,
            updated=books.updated,
            unchanged=books.unchanged,
            events=books.events,
            dead=books.dead,
            seconds=round(seconds, 3),
            **more,
        )

    def _count(self, records: Decoded, books: Books, seconds: float) -> None:
        counts, now = self._counts, from_unix_ns(time.time_ns())
        counts.add(CLAIMED, books.claimed)
        counts.add(INSERTED, books.inserted)
        counts.add(UPDATED, books.updated)
        counts.add(UNCHANGED, books.unchanged)
        counts.add(EVENTS, books.events)
        for reason, letters in _reasons(records, books).items():
            counts.add(DEAD, letters, reason)
        for name, values in records.set_aside.items():
            counts.add(SET_ASIDE, values, name)
        counts.observe(BATCH_SECONDS, seconds)
        counts.observe_ages(LAG_SECONDS, map(_DIALED_AT, records.cdrs), now)


def _reasons(records: Decoded, books: Books) -> Counter[str]:
    """The reasons of the dead letters. Of those that Postgres refused, the books have the number only."""
    reasons = Counter(str(letter.reason) for letter in records.dead)
    reasons[str(Reason.REFUSED_BY_DATABASE)] += books.dead - len(records.dead)
    return reasons
