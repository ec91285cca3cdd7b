"""How the stores stand, as gauges: looked at time and again by threads with connections of their own."""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from etl.app.status import InPostgres, InRedis, Reader, WaitingList, reader
from etl.jobs.clocks import Ahead
from etl.metrics import (
    BACKLOG,
    BLOCKED,
    CLAIMS,
    LAST_EXPORT,
    LISTENER_PROVEN,
    LOOKED,
    OLDEST_WAITING,
    POSTGRES_UP,
    REDIS_UP,
    RUNWAY,
    SET_BACK,
    UNEXPORTED_DAYS,
    Gauge,
    Gauges,
)
from etl.settings import Settings
from etl.store.blockers import Blocker

LOOK_EVERY_SECONDS = 10.0
# What was seen longer ago than this isn't how it stands: the thread waits for a store that doesn't answer.
STALE_SECONDS = 60.0


class _Half:
    """What the last look at one store found. Written by one thread, whole each time."""

    def __init__(self, store: str, up: Gauge) -> None:
        self._store = store
        self._up = up
        self._gauges: Gauges = {}
        self._troubles = [f"{store} hasn't been asked yet"]
        self._looked_at = time.monotonic()
        self._looked = time.time()  # the beginning, until there was a first look

    def saw(self, gauges: Gauges, troubles: Sequence[str | None]) -> None:
        self._gauges = gauges
        self._troubles = [trouble for trouble in troubles if trouble]
        self._looked, self._looked_at = time.time(), time.monotonic()

    @property
    def gauges(self) -> Gauges:
        """Of a look that was too long ago only that it's no answer any more."""
        found: Gauges = {self._up: {(): 0.0}} if self._age() > STALE_SECONDS else self._gauges
        return {**found, LOOKED: {(self._store,): self._looked}}

    def troubles(self) -> list[str]:
        stale = f"the last look at {self._store} was {self._age():.0f} s ago"
        return [*self._troubles, *([stale] * (self._age() > STALE_SECONDS))]

    def _age(self) -> float:
        return time.monotonic() - self._looked_at


class Observer:
    """Looks at each store in a thread of its own: what one of them doesn't answer costs the other nothing."""

    def __init__(self, settings: Settings) -> None:
        self.broken: dict[str, str] = {}  # lists that can't be loaded, and why
        self._settings = settings
        self._stop = threading.Event()
        self._redis = _Half("Redis", REDIS_UP)
        self._postgres = _Half("Postgres", POSTGRES_UP)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Looks as long as the context lasts."""
        for name, look in {"Redis": self._look_at_redis, "Postgres": self._look_at_postgres}.items():
            threading.Thread(target=self._run, args=(look,), name=f"look at {name}", daemon=True).start()
        try:
            yield
        finally:
            self._stop.set()

    @property
    def gauges(self) -> Gauges:
        """Those of the last looks; without those of a store that didn't answer."""
        redis, postgres = self._redis.gauges, self._postgres.gauges
        return {**redis, **postgres, LOOKED: {**redis[LOOKED], **postgres[LOOKED]}}

    def troubles(self) -> list[str]:
        """What is wrong with the stores, in a line each; empty if they are fine."""
        return [*self._redis.troubles(), *self._postgres.troubles()]

    def _run(self, look: Callable[[Reader], None]) -> None:
        with reader(self._settings) as reading:
            while not self._stop.is_set():
                look(reading)
                self._stop.wait(LOOK_EVERY_SECONDS)

    def _look_at_redis(self, reading: Reader) -> None:
        found, error = reading.redis()
        self._redis.saw(of_redis(found), [error])
        self.broken = {each.source_key: each.broken for each in found.lists if each.broken} if found else {}

    def _look_at_postgres(self, reading: Reader) -> None:
        found, error, blockers = reading.postgres()
        clocks = _wrong_clock(reading.clocks()) if found else None
        self._postgres.saw(of_postgres(found, blockers), [error, *(each.told() for each in blockers), clocks])


def _wrong_clock(ahead: Ahead | None) -> str | None:
    """What the loaders wait for."""
    return ahead.told() if ahead and ahead.is_host_wrong else None


def of_redis(found: InRedis | None) -> Gauges:
    """Without those that aren't known: a store that is away has none but its own."""
    is_up = found is not None and not any(each.is_away for each in found.lists)
    return {REDIS_UP: {(): float(is_up)}, **(_of_redis(found) if found else {})}


def of_postgres(found: InPostgres | None, blockers: Sequence[Blocker]) -> Gauges:
    """As `of_redis`. Who blocks is known only while Postgres answers, though it may not answer all."""
    answers = bool(found or blockers)
    lasts = max((each.seconds or 0.0 for each in blockers), default=0.0)
    return {
        POSTGRES_UP: {(): float(found is not None)},
        BLOCKED: {(): lasts} if answers else {},
        **(_of_postgres(found) if found else {}),
    }


def _of_redis(found: InRedis) -> Gauges:
    claims = Counter(claim.source_key for claim in found.claims)
    ages = {(each.source_key,): _age(each) for each in found.lists}
    # Growth takes two looks to see.
    lasts = math.inf if found.backlog_grows is False else found.runway_seconds
    return {
        BACKLOG: {
            (each.source_key,): each.waiting_messages for each in found.lists if each.waiting_messages is not None
        },
        OLDEST_WAITING: {key: age for key, age in ages.items() if age is not None},
        CLAIMS: {(each.source_key,): claims[each.source_key] for each in found.lists if each.broken is None},
        RUNWAY: {} if lasts is None else {(): lasts},
    }


def _age(each: WaitingList) -> float | None:
    return 0.0 if each.waiting_messages == 0 else each.oldest_waiting_seconds


def _of_postgres(found: InPostgres) -> Gauges:
    exports = found.exports
    return {
        LISTENER_PROVEN: {(each.server or "",): each.proven_until.timestamp() for each in found.listeners},
        UNEXPORTED_DAYS: {(dataset,): days for dataset, days in exports.unexported_days.items()},
        SET_BACK: {labels: float(claims) for labels, claims in found.set_backs.claims().items()},
        LAST_EXPORT: {(dataset,): moment.timestamp() for dataset, moment in exports.last_exported_at.items()},
    }
