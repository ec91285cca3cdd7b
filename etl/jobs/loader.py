"""Loading one source list: claim → decode → write → ack.

`run_once` does one claim; `drain` loops until nothing is left, `etl.jobs.pool` for as long as the process lives. Where
a call is if we die:

    claim    before the script: in the source list; after it: in the claim, which is adopted when its lease runs out
    decode   in the claim
    write    in the claim, and from the commit on in Postgres too
    ack      in Postgres; if the claim is still there, its adopter finds it in the ledger and only acknowledges

A list is broken while what is done with it is refused: a key of it holds something else, a right is missing. The pool
lets it rest and tries again; the other lists don't notice.
"""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from etl import logs
from etl.errors import ConfigurationError, Contention, EtlError, LeaseLost
from etl.ids import time_of
from etl.inbox.claims import Claim, Source
from etl.jobs.fetcher import Fetcher
from etl.jobs.patience import Patience, Stopped
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
from etl.wire.dated import Dated
from etl.wire.decode import Decodable, Pieces, Records, Summary
from etl.wire.faults import Reason
from etl.wire.times import from_datetime, from_unix_ns

# How often abandoned claims are looked for; two cheap commands each time.
ADOPT_EVERY_SECONDS = 5.0
# Claims that are fetched and decoded while another is written. With one, the decoder would idle during the commit.
CLAIMS_AHEAD = 2
# Claim lists without an entry in the registry arise by accident only, so they are looked for at start and hourly.
RESCUE_EVERY_SECONDS = 3_600.0


class Decode(Protocol):
    """Decodes a claim, or the piece of it that begins at its message `first`. `captured_at` is the claim's time in
    microseconds since 2000."""

    def __call__(self, messages: Sequence[bytes], batch_id: UUID, captured_at: int, first: int = 0) -> Records: ...


# Does a step, and perhaps repeats it.
Retry = Callable[[Callable[[], Any]], Any]


def once(step: Callable[[], Any]) -> Any:
    """Do it, and raise what it raises."""
    return step()


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one loader."""

    decode: Decode
    worker: str
    batch_size: int
    server: str | None = None  # the Redis server's name
    check_clocks: Callable[[], None] = lambda: None  # raises `Outage` while messages would be misread


class _Taken(NamedTuple):
    claim: Claim
    batch: Batch


class Loader:
    """Loads one source list, in one thread at a time."""

    def __init__(
        self,
        source: Source,
        writer: Writer,
        options: Options,
        patience: Patience,
        counts: Counts,
        log: Any,
        *,
        helps: bool = False,
    ) -> None:
        """`helps`: another loader of this process has the same `source`, and looks after what was left behind."""
        self.key = source.key
        self.beat = counts.beat
        self._source = source
        self._writer = writer
        self._options = options
        self._patience = patience  # retries, and keeps `counts`' pulse
        self._counts = counts
        self._log = log.bind(source_key=source.key)
        self._without: frozenset[str] = frozenset()  # as logged
        counts.broken(None)  # as a process told that is gone
        self._helps = helps
        self._recovering = not helps  # this worker may have left claims before a restart
        self._adopt_at = self._rescue_at = float("inf") if helps else time.monotonic()
        self._rescue_seconds = float("inf") if helps else RESCUE_EVERY_SECONDS
        # Under a backlog the next claims are fetched and decoded while this one is written.
        self._ahead: deque[Future[_Taken | None]] = deque()
        self._unacknowledged: Claim | None = None

    @property
    def has_ahead(self) -> bool:
        """There are claims in hand, or some were asked for."""
        return bool(self._ahead)

    def is_recovering(self) -> bool:
        """There may be something to do though no message waits."""
        return self._recovering or self._unacknowledged is not None or time.monotonic() >= self._rescue_at

    def is_to_adopt(self) -> bool:
        """It's time to look whether a claim was abandoned, if there are claims."""
        return time.monotonic() >= self._adopt_at

    def adopt_now(self) -> None:
        """There are claims to adopt."""
        self._adopt_at = time.monotonic()

    def drain(self, stop: threading.Event, loaded: Callable[[Books], None]) -> None:
        """Load until nothing is left, or until `stop` is set; calls `loaded` after each claim. Raises as `run_once`."""
        fetcher = Fetcher(f"fetch {self.key}")
        try:
            with contextlib.suppress(Stopped):
                while not stop.is_set():
                    books = self.run_once(fetcher, self._patience.retry)
                    if books is None and self._adopt_at > time.monotonic():
                        return
                    if books is not None:
                        loaded(books)
        finally:
            fetcher.close()
            self.give_back_ahead()

    def run_once(self, fetcher: Fetcher | None, retry: Retry = once) -> Books | None:
        """Load one claim. None if there was none; empty books if it was in the ledger already. `fetcher` fetches more
        meanwhile. `retry` does what needs Redis; Postgres is waited for.

        Raises `Outage` if Redis is away, after which the next call goes on where this one ended; after the longest
        allowed outage of Postgres; `Stopped`, or another `EtlError` if the list is broken. Of these the claim is given
        back, or put off if another holds a lock that it needs, unless it's committed: then the next call acknowledges
        it.
        """
        taken = retry(self._take)
        if taken is None:
            return None
        if fetcher and taken.claim.count >= self._options.batch_size:
            while len(self._ahead) < CLAIMS_AHEAD:
                self._ahead.append(fetcher.submit(self._fetch_ahead))
        with logs.about(source_key=self.key, batch_id=str(taken.claim.batch_id)):
            return self._load(taken.claim, taken.batch, retry)

    def finish_fetching(self) -> None:
        """Wait until nothing is being fetched: another thread may go on."""
        wait_for(self._ahead)

    def give_back_ahead(self) -> None:
        """Give back what was fetched and isn't loaded."""
        while self._ahead:
            with contextlib.suppress(EtlError):
                if taken := self._ahead.popleft().result():
                    taken.claim.give_back()

    def is_broken(self, error: EtlError) -> None:
        """Note that `run_once` was refused, and give back what was fetched."""
        self._counts.broken(error.code)
        self._recovering = True  # a claim that was given back, or was made before the rest was refused
        self.give_back_ahead()

    def is_mended(self) -> None:
        """Note that it goes well again."""
        self._counts.broken(None)
        self._rescue_at = time.monotonic()  # whoever mended it may have deleted the registry

    def _load(self, claim: Claim, batch: Batch, retry: Retry) -> Books:
        began = time.monotonic()
        try:
            books = self._patience.retry(lambda: self._writer.write(batch, self._patience.go_on))
        except LeaseLost:  # while it was read: it's in the ledger by now
            self._log.warning("lease_lost")
            return Books()
        except Contention:
            # Somebody keeps a lock that this claim needs, and others may not: on with the list's next ones. Nobody
            # tries this one again until its lease has run out.
            claim.put_off()
            self._log.warning("claim_put_off", claimed=claim.count)
            raise
        except BaseException:
            with contextlib.suppress(EtlError):
                claim.give_back()
                self._log.warning("claim_given_back", claimed=claim.count)
            raise
        self._unacknowledged = claim
        try:
            retry(self._acknowledge)
        finally:
            if books:
                seconds = time.monotonic() - began
                summary = batch.records.summary()
                self._log_loaded(claim, summary, books, seconds)
                self._count(summary, books, seconds)
            else:
                self._log.warning("already_loaded", claimed=claim.count)
        return books or Books()

    def _acknowledge(self) -> None:
        if claim := self._unacknowledged:
            try:
                claim.ack()
            except LeaseLost:
                self._log.warning("lease_lost")
            self._unacknowledged = None
            self._tell_what_is_refused()

    def _take(self) -> _Taken | None:
        self._acknowledge()
        while self._ahead:
            if taken := self._ahead.popleft().result():
                return taken
        return self._fetch()

    def _fetch(self) -> _Taken | None:
        claim = self._next_claim()
        return _Taken(claim, self._batch(claim)) if claim else None

    def _fetch_ahead(self) -> _Taken | None:
        if taken := self._fetch():
            taken.batch.records.prepare()
        return taken

    def _next_claim(self) -> Claim | None:
        """What this worker left before a restart, then what others left, then what is waiting."""
        self._options.check_clocks()
        try:
            if self._recovering:
                if claim := self._source.adopt_own():
                    return claim
                self._recovering = False
            if time.monotonic() >= self._rescue_at:
                self._rescue()
                self._rescue_at = time.monotonic() + self._rescue_seconds
            if time.monotonic() >= self._adopt_at:
                if claim := self._source.adopt():
                    return claim
                self._adopt_at = time.monotonic() + ADOPT_EVERY_SECONDS
            claim = self._source.claim()
        except EtlError:
            # The claim may have been made, though the reply was lost, or may not be read.
            self._recovering = True
            raise
        self._tell_what_is_refused()
        return claim

    def _rescue(self) -> None:
        """Orphans are rare: that this user may not look for them, or mend them, is no reason not to load."""
        try:
            if rescued := self._source.rescue():
                self._log.warning("orphans_rescued", claims=rescued)
        except ConfigurationError as refusal:
            self._log.warning("orphans_not_rescued", error=refusal.text, code=refusal.code)

    def _tell_what_is_refused(self) -> None:
        if not self._helps and self._source.without != self._without:
            self._without = self._source.without
            self._log.warning("claiming_without", refused=sorted(self._without))

    def _batch(self, claim: Claim) -> Batch:
        """Not decoded yet: `Writer` does that while it writes."""
        claimed_at = time_of(claim.batch_id)

        def records(captured_at: int) -> Decodable:
            decode = partial(self._decode, claim.batch_id, captured_at)
            return Pieces(claim.pieces, decode) if claim.adopted else decode(claim.messages)

        return Batch(
            claim.batch_id,
            self._options.worker,
            self._source.key,
            claimed_at,
            claim.count,
            Dated(records, from_datetime(claimed_at)),
            server=self._options.server,
            number=claim.number,
            is_replicated=claim.is_replicated,
        )

    def _decode(self, batch_id: UUID, captured_at: int, messages: Sequence[bytes], first: int = 0) -> Records:
        return self._options.decode(messages, batch_id, captured_at, first)

    def _log_loaded(self, claim: Claim, summary: Summary, books: Books, seconds: float) -> None:
        # Not one message could be read: they are another program's, or of a dialler that we don't know.
        all_dead = 0 < books.claimed == books.dead
        more = {"reason": _reasons(summary, books).most_common(1)[0][0]} if all_dead else {}
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
        if 2 * (refused := _refused(summary, books)) > books.claimed:
            self._log.error("most_refused", refused=refused, claimed=books.claimed)

    def _count(self, summary: Summary, books: Books, seconds: float) -> None:
        counts, now = self._counts, from_unix_ns(time.time_ns())
        counts.add(CLAIMED, books.claimed)
        counts.add(INSERTED, books.inserted)
        counts.add(UPDATED, books.updated)
        counts.add(UNCHANGED, books.unchanged)
        counts.add(EVENTS, books.events)
        for reason, letters in _reasons(summary, books).items():
            counts.add(DEAD, letters, reason)
        for name, values in summary.set_aside.items():
            counts.add(SET_ASIDE, values, name)
        counts.observe(BATCH_SECONDS, seconds)
        counts.observe_ages(LAG_SECONDS, summary.dialed_at, now)


def _reasons(summary: Summary, books: Books) -> Counter[str]:
    """The reasons of the dead letters. Of those that Postgres refused, the books have the number only."""
    reasons = summary.dead.copy()
    reasons[str(Reason.REFUSED_BY_DATABASE)] += _refused(summary, books)
    return reasons


def _refused(summary: Summary, books: Books) -> int:
    """How many messages Postgres refused."""
    return books.dead - summary.dead.total()
