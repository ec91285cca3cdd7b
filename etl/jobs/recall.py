"""The recall window: what was acknowledged is kept in Redis for a while, and loaded again if Postgres forgets it.

Whoever loads looks whether the ledger has every kept claim: when it starts, hourly, and when Postgres turns out to have
another history, since it was promoted, restored or replaced. First the kept claims are read and then the ledger: what
is acknowledged meanwhile can't look forgotten. And since the Redis is the dialler's, the window gives way, the oldest
first, when it's full or memory gets short: in a thread of its own, since a look may have to wait for Postgres.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from etl.errors import ConfigurationError, EtlError
from etl.ids import time_of
from etl.inbox.kept import Account, Acked, Kept, KeptClaims, Noticed
from etl.inbox.memory import Memory
from etl.inbox.watch import Watch
from etl.store import history as ledger
from etl.store.connection import Engine
from etl.store.history import History, SetBack

# The dialler's pushes must find memory within so short a time.
TRIM_SECONDS = 0.5
# A window without a limit of its own: so much, or this part of what Redis may use.
MOST_BYTES = 256 * 1024 * 1024
MOST_OF_MEMORY = 0.1
# From here on memory is short, and the window gives way until it's back below.
SHORT_OF_MEMORY = 0.85
# How often expired entries are looked for, Postgres is asked for its history, and everything is looked at again.
EXPIRE_SECONDS = 60.0
ASK_SECONDS = 10.0
LOOK_SECONDS = 3_600.0
REFUSED_SECONDS = 60.0
# How often what is lost is counted again since others recalled meanwhile.
COUNT_TIMES = 10


@dataclass(frozen=True, slots=True)
class Window:
    """How much is kept: for `keep_ms`, and at most `bytes` of all lists; None: what Redis' memory suggests."""

    keep_ms: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at one list's acknowledged claims found. `is_new` if some were made before the first that the ledger
    knows of this list: it isn't the one that they were written into, or was emptied."""

    source_key: str
    kept_claims: int
    kept_bytes: int
    forgotten_claims: int
    is_new: bool
    set_back: SetBack | None = None


class Recall:
    """Of one process, for lists of one Redis. `memory` is None where this user may not know it; `written_into` is the
    history that a claim was last written into, None if none was yet."""

    def __init__(
        self,
        lists: Sequence[KeptClaims],
        watch: Watch,
        engine: Engine,
        window: Window,
        server: str,
        memory: Callable[[], list[Memory] | None],
        written_into: Callable[[], History | None],
        log: Any,
    ) -> None:
        self._lists = lists
        self._watch = watch
        self._engine = engine
        self._window = window
        self._server = server
        self._memory = memory
        self._written_into = written_into
        self._log = log
        self.first_look = threading.Event()
        self.recalled: set[str] = set()  # lists of which something was
        self._is_due = True
        self._looked_at: History | None = None
        self._written: History | None = None
        self._look_at = self._ask_at = self._expire_at = time.monotonic()
        self._said: dict[str, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Outages are for the loaders to tell."""
        while not stop.is_set():
            with contextlib.suppress(EtlError):
                self._look_if_due()
            stop.wait(TRIM_SECONDS)

    def make_room(self, stop: threading.Event) -> None:
        """Until `stop` is set. Needs Redis only, so that the dialler's pushes never wait for Postgres."""
        while not stop.is_set():
            with contextlib.suppress(EtlError):
                self.trim(only_if_short=not self.first_look.is_set())
            stop.wait(TRIM_SECONDS)

    def look(self) -> None:
        """Recall what Postgres has forgotten. What is wrong with one list keeps none from being looked at. Raises
        `Outage`."""
        history = ledger.history(self._engine)
        for kept in self._lists:
            try:
                self._tell(self.look_at(kept))
            except ConfigurationError as error:
                if self._is_news(kept.key, error.text):
                    about = {"source_key": kept.key, "error": error.text, "code": error.code}
                    self._log.warning("not_looked_for_forgotten_claims", **about)
        self._looked_at, self._is_due, self._look_at = history, False, time.monotonic() + LOOK_SECONDS
        self.first_look.set()

    def look_at(self, kept: KeptClaims, only_look: bool = False, though_new: bool = False) -> Looked:
        """At one list; recalls unless `only_look`. What was made before the first claim that the ledger knows, only
        with `though_new`: it was another ledger's. Raises `EtlError`."""
        claims, size, forgotten = 0, 0, []
        for chunk in kept.chunks():
            claims, size = claims + len(chunk), size + sum(entry.bytes for entry in chunk)
            unknown = ledger.unknown(self._engine, [entry.batch_id for entry in chunk])
            forgotten += [entry for entry in chunk if entry.batch_id in unknown]
        first = ledger.first_known(self._engine, kept.key) if forgotten else None
        ours = [entry for entry in forgotten if first and entry.batch_id > first]
        is_new = len(ours) < len(forgotten)
        set_back = None
        if (going := forgotten if though_new else ours) and not only_look:
            since = None if though_new or first is None else time_of(first).date()
            set_back = self._recall(kept, going, since, is_new)
        elif not only_look:
            set_back = self._note_recalled(kept)
        return Looked(kept.key, claims, size, len(forgotten), is_new, set_back)

    def trim(self, only_if_short: bool = False) -> None:
        """Make room; with `only_if_short` only if memory is. Raises `EtlError`."""
        if time.monotonic() >= self._expire_at and not only_if_short:
            self._drop_expired()
            self._expire_at = time.monotonic() + EXPIRE_SECONDS
        sizes = [answer if isinstance(answer, int) else 0 for answer in self._watch.kept_bytes()]
        if any(sizes) and (excess := self._excess(sum(sizes), only_if_short)) > 0:
            self._drop(excess)

    def drop_all(self) -> int:
        """Keep nothing of what was acknowledged until now; returns how many bytes that frees, about. What is wrong with
        one list keeps no other's from being dropped, and is raised at the end."""
        freed, wrong = 0, None
        for kept in self._lists:
            try:
                freed += self._drop_of(kept, lambda _: True)
            except ConfigurationError as error:
                wrong = error
        if wrong:
            raise wrong
        return freed

    def _look_if_due(self) -> None:
        now, written = time.monotonic(), self._written_into()
        if written != self._written:
            self._written = written
            self._is_due |= written != self._looked_at
        if now >= self._ask_at:  # nothing may have been written since
            self._ask_at = now + ASK_SECONDS
            self._is_due |= ledger.history(self._engine) != self._looked_at
        if self._is_due or now >= self._look_at:
            try:
                self.look()
            except ConfigurationError:  # of Postgres, which the loaders meet and tell
                self._is_due, self._look_at = False, now + REFUSED_SECONDS
                self.first_look.set()

    # -- what was forgotten

    def _recall(self, kept: KeptClaims, forgotten: Sequence[Kept], since: date | None, is_new: bool) -> SetBack | None:
        """None if there is nothing to recall, and the loss was told before. See `_days` for the rest."""
        times = sorted(time_of(entry.batch_id) for entry in forgotten)
        first, last = times[0], times[-1]

        def say() -> None:
            about = {"source_key": kept.key, "first_claimed_at": str(first), "last_claimed_at": str(last)}
            self._log.warning("postgres_set_back", forgotten=len(forgotten), **about)

        if has_any := any(entry.bytes for entry in forgotten):
            say()
        counts = {entry: kept.recall(entry) for entry in forgotten}
        gone = [time_of(entry.batch_id) for entry, count in counts.items() if not count]
        lost_from = ledger.last_claimed(self._engine, kept.key, min(forgotten).batch_id) or first
        set_back = SetBack(kept.key, self._server, first, last, 0, 0, 0, 0, lost_from, max(gone, default=first))
        told = self._note(
            kept, set_back, lambda account: self._lacking(kept, account, _days(account, since, is_new), first.date())
        )
        # Only now: who finds these entries after our death tells what is lost.
        kept.drop([entry for entry, count in counts.items() if not count and entry.bytes])
        if told and told.lost_claims and not has_any:
            say()
        return told

    def _note_recalled(self, kept: KeptClaims) -> SetBack | None:
        """What somebody recalled who died before it was noted."""
        if not kept.acked().recalled_claims:
            return None
        now = datetime.now(UTC)  # in place of what is known of them
        return self._note(kept, SetBack(kept.key, self._server, now, now, 0, 0, 0, 0), lambda _: {})

    def _note(
        self, kept: KeptClaims, about: SetBack, lacking: Callable[[Account], dict[date, Acked]]
    ) -> SetBack | None:
        """Note what was recalled, and what is neither in the ledger nor kept any more, once, however many look: who
        dies on the way or comes second finds it noticed at the same moment. None if there is nothing, or another has
        noted it."""
        for _ in range(COUNT_TIMES):
            # Recalled claims aren't counted as acknowledged until they are again; and the ledger is asked afterwards.
            account = kept.acked()
            lacks = lacking(account)
            lost = Acked(*(sum(each[part] for each in lacks.values()) for part in (0, 1)))
            if not lost.claims and not account.recalled_claims:
                return None
            if noticed := kept.notice(account):
                set_back = _counted(about, noticed, lost)
                is_first = ledger.note(self._engine, set_back, noticed.at)
                kept.settle(noticed.at, lacks)
                return set_back if is_first else None
        return None  # the next look will

    def _lacking(self, kept: KeptClaims, account: Account, acked: dict[date, Acked], first: date) -> dict[date, Acked]:
        """What was acknowledged and isn't in the ledger, by day: from the latest back to the first on which nothing is
        lacking, and at least to `first`."""
        lacks = {}
        for day in sorted(acked, reverse=True):
            has = ledger.counted(self._engine, kept.key, day, account.last_ms, account.open)
            claims, messages = (max(0, ours - theirs) for ours, theirs in zip(acked[day], has, strict=True))
            if not claims and day < first:
                break
            lacks[day] = Acked(claims, messages)
        return lacks

    def _tell(self, looked: Looked) -> None:
        if looked.is_new:
            text = "this ledger never knew what was acknowledged before: if it's the right one, `etl recall` loads that"
            if self._is_news(looked.source_key, text):
                about = {"source_key": looked.source_key, "forgotten": looked.forgotten_claims}
                self._log.warning("recall_waits", error=text, **about)
        if found := looked.set_back:
            self.recalled.add(found.source_key)
            self._log.warning(
                "recalled",
                source_key=found.source_key,
                claims=found.recalled_claims,
                messages=found.recalled_messages,
                lost_claims=found.lost_claims,
                lost_messages=found.lost_messages,
            )

    def _is_news(self, key: str, text: str) -> bool:
        """Not what was said of this list last."""
        said, self._said[key] = self._said.get(key), text
        return said != text

    # -- making room

    def _excess(self, size: int, only_if_short: bool) -> int:
        """How many bytes must go."""
        memory = self._memory()
        limits = [node.limit_bytes for node in memory or () if node.has_maxmemory and node.limit_bytes]
        most = size if only_if_short else self._window.bytes
        if most is None:
            most = min([MOST_BYTES, *(int(limit * MOST_OF_MEMORY) for limit in limits)])
        short = [
            node.used_bytes - int(node.limit_bytes * SHORT_OF_MEMORY)
            for node in memory or ()
            if node.limit_bytes is not None and node.has_maxmemory
        ]
        return max(size - most, min(size, max(short, default=0)))

    def _drop(self, excess: int) -> None:
        """The oldest of all lists; what is wrong with one keeps no other from giving way."""
        heads: dict[KeptClaims, list[Kept]] = {}

        def drop(kept: KeptClaims, entries: Sequence[Kept]) -> int:
            freed = 0
            heads.pop(kept, None)
            with contextlib.suppress(EtlError):
                freed = kept.drop(entries)
                if not _is_spent(oldest := kept.oldest()):
                    heads[kept] = oldest
            return freed

        for kept in self._lists:
            drop(kept, [])  # which sets the sum right where nothing is kept
        while excess > 0 and heads:
            kept, *others = sorted(heads, key=lambda each: heads[each][0].acked_ms)
            until = heads[others[0]][0].acked_ms if others else math.inf
            excess -= drop(kept, _as_many(heads[kept], excess, until))

    def _drop_expired(self) -> None:
        for kept in self._lists:
            with contextlib.suppress(EtlError):
                before = kept.now_ms() - self._window.keep_ms
                self._drop_of(kept, lambda entry, before=before: entry.acked_ms < before)  # type: ignore[misc]

    def _drop_of(self, kept: KeptClaims, is_to_go: Callable[[Kept], bool]) -> int:
        freed = 0
        while True:
            entries = kept.oldest()
            going = [entry for entry in entries if is_to_go(entry)]
            if not going or _is_spent(entries):
                return freed
            freed += kept.drop(going)


def _counted(about: SetBack, noticed: Noticed, lost: Acked) -> SetBack:
    """With what was noticed, and between which times, if nothing else is known of it."""
    first, last = about.first_claimed_at, about.last_claimed_at
    if noticed.claims:
        of_recalled = [datetime.fromtimestamp(ms / 1_000, UTC) for ms in (noticed.first_ms, noticed.last_ms)]
        is_known = about.lost_from is not None
        first, last = (min(first, of_recalled[0]), max(last, of_recalled[1])) if is_known else of_recalled
    return replace(
        about,
        first_claimed_at=first,
        last_claimed_at=last,
        recalled_claims=noticed.claims,
        recalled_messages=noticed.messages,
        lost_claims=lost.claims,
        lost_messages=lost.messages,
        lost_from=about.lost_from if lost.claims else None,
        lost_until=about.lost_until if lost.claims else None,
    )


def _days(account: Account, since: date | None, is_new: bool) -> dict[date, Acked]:
    """Of these days it's known how much the ledger must have. `since` is the first that it knows, None if it must have
    all; on that day itself another ledger was written into before, if there was one: `is_new`, or there are earlier
    days."""
    days = account.days
    if since is None:
        return days
    if not is_new and since <= min(days, default=since):
        return days
    return {day: acked for day, acked in days.items() if day > since}


def _is_spent(entries: Sequence[Kept]) -> bool:
    """Nothing is kept: the last entry stays, so that it can be asked for."""
    return not entries or (len(entries) == 1 and not entries[0].bytes)


def _as_many(entries: Sequence[Kept], size: int, until_ms: float) -> list[Kept]:
    """From the first on, until their messages take so many bytes; of a later time only the first."""
    taken: list[Kept] = []
    for entry in entries:
        if size <= 0 or (taken and entry.acked_ms > until_ms):
            break
        taken.append(entry)
        size -= entry.bytes
    return taken
