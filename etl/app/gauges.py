"""How the stores stand, as gauges: looked at time and again by a thread with connections of its own."""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator

from etl.app.status import InPostgres, InRedis, Status, WaitingList, reader
from etl.metrics import (
    BACKLOG,
    CLAIMS,
    LAST_EXPORT,
    LISTENER_PROVEN,
    OLDEST_WAITING,
    POSTGRES_UP,
    REDIS_UP,
    RUNWAY,
    SET_BACK,
    UNEXPORTED_DAYS,
    Gauges,
)
from etl.settings import Settings

LOOK_EVERY_SECONDS = 10.0
# What was seen longer ago than this isn't how it stands: the thread waits for a store that doesn't answer.
STALE_SECONDS = 60.0


class Observer:
    """`gauges` are those of the last look; without those of a store that didn't answer."""

    def __init__(self, settings: Settings) -> None:
        self.gauges: Gauges = {}
        self.broken: dict[str, str] = {}  # lists that can't be loaded, and why
        self._settings = settings
        self._stop = threading.Event()
        self._troubles: list[str] = ["the stores haven't been asked yet"]
        self._looked_at = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Looks as long as the context lasts."""
        threading.Thread(target=self._run, name="observer", daemon=True).start()
        try:
            yield
        finally:
            self._stop.set()

    def troubles(self) -> list[str]:
        """What is wrong with the stores, in a line each; empty if they are fine."""
        stale = time.monotonic() - self._looked_at
        return [*self._troubles, *([f"the last look at the stores was {stale:.0f} s ago"] * (stale > STALE_SECONDS))]

    def _run(self) -> None:
        with reader(self._settings) as reading:
            while not self._stop.is_set():
                found = reading.read()
                self.gauges = gauges(found)
                self.broken = {each.source_key: each.broken for each in found.lists if each.broken}
                self._troubles = [error for error in (found.redis_error, found.postgres_error, _clock(found)) if error]
                self._looked_at = time.monotonic()
                self._stop.wait(LOOK_EVERY_SECONDS)


def _clock(found: Status) -> str | None:
    """What the loaders wait for."""
    ahead = found.clocks_ahead_seconds
    return ahead.told() if ahead and ahead.is_host_wrong else None


def gauges(found: Status) -> Gauges:
    """Without those that aren't known: a store that is away has none but its own."""
    return {
        REDIS_UP: {(): float(found.redis is not None and not any(each.is_away for each in found.lists))},
        POSTGRES_UP: {(): float(found.postgres is not None)},
        **(_of_redis(found.redis) if found.redis else {}),
        **(_of_postgres(found.postgres) if found.postgres else {}),
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
