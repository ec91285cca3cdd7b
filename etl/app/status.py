"""How things stand, for `etl status` and for the gauges of a process that loads: what each store knows, side by side.

A store that is away costs its own half and not the other's. Nothing here opens the lake: the books know what it has.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeVar
from uuid import UUID

from etl.app.database import looking
from etl.app.days import first_open_day
from etl.app.sources import CLOCK_TOLERANCE, decoders_of, each_for_itself, let_in, source_lists, sources
from etl.app.stores import Stores
from etl.errors import ConfigurationError, EtlError, NotLetIn, Outage
from etl.ids import time_of
from etl.inbox import connection as inbox
from etl.inbox import rights
from etl.inbox.claims import Lease, Source
from etl.inbox.memory import Memory, memory
from etl.inbox.watch import Watch
from etl.jobs.clocks import Ahead, compared
from etl.jobs.loader import Decode
from etl.jobs.runway import Runway, Sample
from etl.settings import Settings
from etl.store import connection as store
from etl.store import days, history, schema, sessions, status
from etl.store.blockers import Blocker, Watchman
from etl.store.connection import Engine
from etl.store.days import DayBooks, changed
from etl.store.history import Noticed
from etl.store.status import LastCdr, LastListener, OpenLetters, Rate
from etl.store.tables import PARTITIONED
from etl.wire.age import sent
from etl.wire.times import to_datetime

T = TypeVar("T")

RATES_SECONDS = (60, 3_600)
GAPS_PERIOD = timedelta(days=1)
SET_ASIDE_SECONDS = 86_400
SET_BACKS_PERIOD = timedelta(days=1)
MAY_REPEAT_SECONDS = 86_400
SHOWN_DAYS = 7
# Of one look at the backlog, two of which make its growth.
SAMPLE_SECONDS = 1.0
# Counting the ledger may take a second, and a day is exported once a night.
EXPORTS_EVERY_SECONDS = 30.0
# Not every message has a time; its neighbours were sent at the same moment, or nearly.
OLDEST_MESSAGES = 10
_NO_CLAIM = UUID(int=0)

ExportState = Literal["open", "not_exported", "changed", "half_way", "up_to_date", "in_the_lake_only"]


@dataclass(frozen=True, slots=True)
class WaitingList:
    """A source list. The age of the oldest message is None if none waits, or if none of the oldest has a time. `broken`
    is the error that keeps it from being loaded, as far as looking tells; what can't be known then is None. That may be
    an outage: its node of a cluster `is_away`."""

    source_key: str
    waiting_messages: int | None
    oldest_waiting_seconds: float | None
    broken: str | None = None
    is_away: bool = False


@dataclass(frozen=True, slots=True)
class RunningClaim:
    """`lease_seconds` is how long its lease still runs; below zero, it ran out."""

    source_key: str
    batch_id: UUID
    worker: str
    messages: int
    claimed_seconds_ago: float
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class InRedis:
    """`memory` is None if this user may not know it, or a node is away; `backlog_grows` if that isn't known, or not
    yet; only while it grows there is a runway. Where memory is full nothing gets in: the runway is 0, and growth isn't
    known."""

    lists: list[WaitingList]
    claims: list[RunningClaim]
    memory: list[Memory] | None
    backlog_grows: bool | None
    runway_seconds: float | None


@dataclass(frozen=True, slots=True)
class Gaps:
    """In the last `period_seconds` nobody was proven to listen for `seconds`, those of all Redis servers added up."""

    period_seconds: float
    gaps: int
    seconds: float
    seconds_of_servers: dict[str, float]  # by their names; without those of an etl before 0.2


@dataclass(frozen=True, slots=True)
class SetAside:
    """In the last `period_seconds`, how many values of CDRs no column could have, by field; `extra` has them."""

    period_seconds: int
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class ExportDay:
    """`rows` by the ledger; `revision` and `exported_rows` are those of the lake."""

    dataset: str
    day: date
    rows: int
    revision: int | None
    exported_rows: int | None
    state: ExportState


@dataclass(frozen=True, slots=True)
class Exports:
    """The last days one by one; of all closed days, how many are due for an export; when there was one last."""

    days: list[ExportDay]
    unexported_days: dict[str, int]
    last_exported_at: dict[str, datetime]


@dataclass(frozen=True, slots=True)
class SetBacks:
    """In the last `period_seconds`, claims that Postgres had forgotten after they were acknowledged, by list."""

    period_seconds: float
    found: list[Noticed]

    def claims(self) -> dict[tuple[str, str], int]:
        """By list, and by what became of them: recalled or lost."""
        claims = Counter[tuple[str, str]]()
        for _, each in self.found:
            claims[each.source_key, "recalled"] += each.recalled_claims
            claims[each.source_key, "lost"] += each.lost_claims
        return claims


@dataclass(frozen=True, slots=True)
class MayRepeat:
    """In the last `period_seconds`, how many claims were loaded that not all of Redis' replicas had: after a fail-over
    they may come again."""

    period_seconds: int
    claims: int


@dataclass(frozen=True, slots=True)
class InPostgres:
    rates: list[Rate]
    last_cdr: LastCdr
    listeners: list[LastListener]  # one for each Redis server, the latest first
    listener: LastListener | None  # the first of them
    listener_gaps: Gaps
    open_dead_letters: list[OpenLetters]
    set_aside: SetAside
    set_backs: SetBacks
    may_repeat: MayRepeat
    exports: Exports


@dataclass(frozen=True, slots=True)
class Status:
    """A half is None if its store couldn't be asked; its error is then set, and `blocked_by` may be the cause."""

    at: datetime
    redis: InRedis | None
    redis_error: str | None
    postgres: InPostgres | None
    postgres_error: str | None
    clocks_ahead_seconds: Ahead | None = None  # None if a store couldn't be asked
    blocked_by: Sequence[Blocker] = ()  # also those who only block others

    @property
    def lists(self) -> list[WaitingList]:
        return self.redis.lists if self.redis else []

    @property
    def is_whole(self) -> bool:
        return self.redis is not None and self.postgres is not None and not any(each.broken for each in self.lists)


def _waiting(source: Source, decode: Decode, trouble: EtlError | None) -> WaitingList:
    """`trouble` is what is known of this list before it's looked at."""
    if isinstance(trouble, Outage):
        return WaitingList(source.key, None, None, str(trouble), is_away=True)
    waiting, oldest = None, None
    try:
        waiting, oldest = source.waiting(), oldest_seconds(source, decode)
        source.check()
    except NotLetIn:
        raise
    except ConfigurationError as error:
        trouble = error
    return WaitingList(source.key, waiting, oldest, str(trouble) if trouble else None)


def oldest_seconds(source: Source, decode: Decode) -> float | None:
    """The age of the oldest waiting message, by the first of the oldest that has a time."""
    for message in source.oldest(OLDEST_MESSAGES):
        moment = sent(decode([message], _NO_CLAIM, 0).finish())
        if moment is not None:
            return _seconds_since(to_datetime(moment))
    return None


def claims(sources: Sequence[Source]) -> list[RunningClaim]:
    """Without those of a list whose registry can't be read."""
    found = []
    for source in sources:
        with each_for_itself():
            found += [_running(source.key, lease) for lease in source.claims()]
    return found


def _running(source_key: str, lease: Lease) -> RunningClaim:
    return RunningClaim(
        source_key=source_key,
        batch_id=lease.batch_id,
        worker=lease.worker,
        messages=lease.messages,
        claimed_seconds_ago=_seconds_since(time_of(lease.batch_id)),
        lease_seconds=lease.seconds,
    )


def in_redis(
    client: inbox.Client,
    sources: Sequence[Source],
    decoders: Mapping[str, Decode],
    runway: Runway,
    refused: Callable[[Sequence[Source]], Mapping[str, EtlError]] = lambda _: {},
) -> InRedis:
    """Adds a sample to `runway`. `refused` tells of lists what else keeps them from being loaded."""
    answers = Watch(client, sources).waiting()
    let_in(answers)
    found = zip(sources, answers, strict=True)
    away = {source.key: answer for source, answer in found if isinstance(answer, Outage)}
    there = [source for source in sources if source.key not in away]
    troubles = {**refused(there), **away}
    waiting = [_waiting(source, decoders[source.key], troubles.get(source.key)) for source in sources]
    claimed, used = claims(there), None if away else memory(client)
    runway.add(Sample(time.monotonic(), sum(each.waiting_messages or 0 for each in waiting), used))
    lasts = runway.seconds()
    grows = None if not lasts else math.isfinite(lasts)
    return InRedis(waiting, claimed, used, grows, None if lasts == math.inf else lasts)


def gaps(engine: Engine) -> Gaps:
    now = datetime.now(UTC)
    found = sessions.gaps(engine, now - GAPS_PERIOD, now)
    seconds = sessions.deaf_seconds(found)
    of_servers = {server: length for server, length in seconds.items() if server is not None}
    return Gaps(GAPS_PERIOD.total_seconds(), len(found), sum(seconds.values()), of_servers)


def exports(engine: Engine, first_open_day: date) -> Exports:
    """Of each dataset the latest day first, without those that neither the ledger nor the lake knows."""
    today = datetime.now(UTC).date()
    last_days = [
        _export_day(books, first_open_day)
        for table in PARTITIONED.values()
        for books in reversed(days.books(engine, table, today - timedelta(days=SHOWN_DAYS), today + CLOCK_TOLERANCE))
    ]
    return Exports(last_days, status.unexported(engine, first_open_day), status.last_exports(engine))


class Reader:
    """Reads the status, as often as it's wanted, over connections that it keeps. Not for several threads."""

    def __init__(self, settings: Settings, engine: Engine, kept: contextlib.ExitStack, tries_rights: bool) -> None:
        self._settings = settings
        self._tries_rights = tries_rights
        self._engine = engine
        self._kept = kept
        self._opened: inbox.Client | None = None
        self._runway = Runway()
        self._watchman = Watchman(engine)
        self._exports: Exports | None = None
        self._exports_until = 0.0

    def read(self) -> Status:
        at = datetime.now(UTC)
        redis, (postgres, error, blockers) = self.redis(), self.postgres()
        ahead = self.clocks() if redis[0] and postgres else None
        return Status(at, *redis, postgres, error, ahead, blockers)

    def with_runway(self, status: Status) -> Status:
        """A moment later, Redis' half also has how long its memory lasts."""
        if status.redis is None:
            return status
        time.sleep(SAMPLE_SECONDS)
        redis, error = self.redis()
        return replace(status, redis=redis, redis_error=error)

    def redis(self) -> tuple[InRedis | None, str | None]:
        """What it has, or why it couldn't be asked."""
        return _tried(self._redis)

    def postgres(self) -> tuple[InPostgres | None, str | None, Sequence[Blocker]]:
        """What it has, or why it couldn't be asked; and who keeps others from our tables. It takes some seconds at
        most, whatever is locked."""
        blockers, error = _tried(self._watchman.blockers)
        return (None, error, ()) if blockers is None else (*_tried(self._postgres), blockers)

    def clocks(self) -> Ahead | None:
        """None if a store can't be asked."""
        return _tried(self._clocks)[0]

    def _client(self) -> inbox.Client:
        if self._opened is None:
            self._opened = inbox.connect(self._settings.inbox_url, self._settings.redis_cluster)
            self._kept.callback(self._opened.close)
        return self._opened

    def _redis(self) -> InRedis:
        client = self._client()
        lists = sources(self._settings, Stores(client, self._engine))
        return in_redis(client, lists, decoders_of(self._settings), self._runway, self._refused)

    def _refused(self, lists: Sequence[Source]) -> Mapping[str, EtlError]:
        if not self._tries_rights:
            return {}
        there = {source.key for source in lists}
        return rights.refused(self._client(), [each for each in source_lists(self._settings) if each.key in there])

    def _clocks(self) -> Ahead:
        client = self._client()
        return compared(lambda: inbox.unix_time(client), lambda: store.unix_time(self._engine))

    def _postgres(self) -> InPostgres:
        schema.check(self._engine)
        listeners = status.listeners(self._engine)
        return InPostgres(
            rates=status.rates(self._engine, RATES_SECONDS),
            last_cdr=status.last_cdr(self._engine),
            listeners=listeners,
            listener=listeners[0] if listeners else None,
            listener_gaps=gaps(self._engine),
            open_dead_letters=status.open_letters(self._engine),
            set_aside=SetAside(SET_ASIDE_SECONDS, status.set_aside(self._engine, SET_ASIDE_SECONDS)),
            set_backs=SetBacks(SET_BACKS_PERIOD.total_seconds(), history.lately(self._engine, SET_BACKS_PERIOD)),
            may_repeat=MayRepeat(MAY_REPEAT_SECONDS, status.may_repeat(self._engine, MAY_REPEAT_SECONDS)),
            exports=self._exports_lately(),
        )

    def _exports_lately(self) -> Exports:
        if self._exports is None or time.monotonic() > self._exports_until:
            self._exports = exports(self._engine, first_open_day(self._settings))
            self._exports_until = time.monotonic() + EXPORTS_EVERY_SECONDS
        return self._exports


@contextlib.contextmanager
def reader(settings: Settings, tries_rights: bool = False) -> Iterator[Reader]:
    """Asks nothing yet. If it `tries_rights`, it also finds lists broken that this user may look at, and not load."""
    with contextlib.ExitStack() as kept:
        yield Reader(settings, kept.enter_context(looking(settings)), kept, tries_rights)


def _tried(read: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return read(), None
    except EtlError as error:
        return None, str(error)


def _export_day(books: DayBooks, first_open_day: date) -> ExportDay:
    about = books.revision.about if books.revision else None
    return ExportDay(
        dataset=books.dataset,
        day=books.day,
        rows=books.rows,
        revision=about.revision if about else None,
        exported_rows=about.rows if about else None,
        state=_state(books, first_open_day),
    )


def _state(books: DayBooks, first_open_day: date) -> ExportState:
    if books.day >= first_open_day:
        return "open"
    if books.pending:
        return "half_way"
    if books.revision is None:
        return "not_exported"
    if changed(books):
        return "changed"
    return "in_the_lake_only" if books.revision.dropped else "up_to_date"


def _seconds_since(moment: datetime) -> float:
    """Not below zero, though clocks differ."""
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())
