"""The metrics: one list of all names, and the tallies that loaders keep.

A tally lives in memory that a supervisor shares with its workers. So the figures of several processes add up, those of
a worker that died stay, and reading them costs a loader no lock and no call.
"""

import ctypes
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.sharedctypes import RawArray


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts since the process began. The name ends in `_total`, its unit before it."""

    name: str
    help: str
    labels: tuple[str, ...] = ("source_key",)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Seconds, by upper bounds."""

    name: str
    help: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...] = ("source_key",)


@dataclass(frozen=True, slots=True)
class Gauge:
    """How things stand in the stores. The same in every process that asks them."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


CLAIMED = Counter("etl_claimed_messages_total", "Messages of claims that were committed.")
INSERTED = Counter("etl_inserted_rows_total", "CDRs that were new.")
UPDATED = Counter("etl_updated_rows_total", "CDRs that completed or contradicted a stored one.")
UNCHANGED = Counter("etl_unchanged_messages_total", "Messages that told nothing new.")
EVENTS = Counter("etl_events_total", "Events, the listener's sessions among them.")
DEAD = Counter("etl_dead_letters_total", "Messages that became dead letters.", ("source_key", "reason"))
SET_ASIDE = Counter(
    "etl_set_aside_values_total",
    "Values that no column can have, kept in a CDR's extra instead.",
    ("source_key", "field"),
)
BATCH_SECONDS = Histogram(
    "etl_batch_seconds",
    "From the first row of a claim that is written to its acknowledgement.",
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
LAG_SECONDS = Histogram(
    "etl_dialed_to_committed_seconds",
    "From dialing to the commit of the CDR, the call itself included.",
    (1, 5, 15, 60, 300, 900, 3_600, 21_600, 86_400, 604_800),
)

BACKLOG = Gauge("etl_backlog_messages", "Messages that wait in a list.", ("source_key",))
OLDEST_WAITING = Gauge(
    "etl_oldest_waiting_seconds", "Age of the oldest waiting message, by the time it bears.", ("source_key",)
)
CLAIMS = Gauge("etl_claims", "Claims that aren't acknowledged.", ("source_key",))
LISTENER_PROVEN = Gauge(
    "etl_listener_proven_timestamp_seconds",
    "Until when the ledger knows that somebody listened to a Redis server; no name: by an etl before 0.2.",
    ("server",),
)
UNEXPORTED_DAYS = Gauge("etl_unexported_days", "Closed days that an export would write now.", ("dataset",))
LAST_EXPORT = Gauge("etl_last_export_timestamp_seconds", "When a day was last exported.", ("dataset",))
RUNWAY = Gauge("etl_runway_seconds", "How long Redis' memory lasts if it grows on like this; +Inf if it doesn't grow.")
LIST_BROKEN = Gauge(
    "etl_list_broken", "1 while a loader can't load a list: a key or a right is wrong.", ("source_key",)
)
SET_BACK = Gauge(
    "etl_postgres_set_back_claims",
    "Acknowledged claims that Postgres had forgotten, as was noticed in the last day: recalled, or lost.",
    ("source_key", "fate"),
)
REDIS_UP = Gauge("etl_redis_up", "1 if Redis answers.")
POSTGRES_UP = Gauge(
    "etl_postgres_up", "1 if Postgres answers, has the schema that is needed, and lets its tables be read."
)
BLOCKED = Gauge(
    "etl_blocked_seconds", "For how long a session has had a lock that keeps others from our tables; 0 if none has."
)
LOOKED = Gauge(
    "etl_last_look_timestamp_seconds",
    "When a store was last looked at, well or in vain: its gauges are of that time. Before that, when etl began.",
    ("store",),
)

COUNTED = (CLAIMED, INSERTED, UPDATED, UNCHANGED, EVENTS, DEAD, SET_ASIDE)
# What loaders tell of themselves; each process of what it met.
TOLD = (LIST_BROKEN,)
TIMED = (BATCH_SECONDS, LAG_SECONDS)
ASKED = (
    BACKLOG,
    OLDEST_WAITING,
    CLAIMS,
    LISTENER_PROVEN,
    UNEXPORTED_DAYS,
    LAST_EXPORT,
    RUNWAY,
    SET_BACK,
    REDIS_UP,
    POSTGRES_UP,
    BLOCKED,
    LOOKED,
)

Labels = tuple[str, ...]
# What the stores were found to be: a gauge's values by its labels' values.
Gauges = Mapping[Gauge, Mapping[Labels, float]]


class Tally:
    """The figures of one worker process, and its pulse. Readers may be in other processes."""

    def __init__(self, source_keys: Sequence[str], reasons: Sequence[str], fields: Sequence[str] = ()) -> None:
        """`reasons` are those that a dead letter can have, `fields` those of a CDR whose values can be set aside."""
        values = {"source_key": source_keys, "reason": reasons, "field": fields}
        self._at: dict[tuple[str, Labels], int] = {}
        size = 0
        for metric in (*COUNTED, *TIMED):
            for labels in product(*(values[label] for label in metric.labels)):
                self._at[metric.name, labels] = size
                # A histogram has a figure for each bound, one for what lies above all, and the sum.
                size += len(metric.bounds) + 2 if isinstance(metric, Histogram) else 1
        self._pulse_at = {key: size + index for index, key in enumerate(source_keys)}
        size += len(source_keys)
        self._broken_at = {key: size + index for index, key in enumerate(source_keys)}
        self._figures = RawArray(ctypes.c_double, size + len(source_keys))
        self.beat()

    def of(self, source_key: str) -> "Counts":
        return Counts(self, source_key)

    def beat(self) -> None:
        """All loaders are well."""
        for key in self._pulse_at:
            self.of(key).beat()

    def silent_seconds(self) -> dict[str, float]:
        """How long each list's loader has given no sign of life."""
        now = time.monotonic()
        return {key: now - self._figures[at] for key, at in self._pulse_at.items()}

    def broken(self) -> dict[str, str]:
        """The lists that can't be loaded now, each with the code of its error."""
        codes = {key: int(self._figures[at]) for key, at in self._broken_at.items()}
        return {key: f"ETL-{number:03}" for key, number in codes.items() if number}

    def labels_of(self, metric: Counter | Histogram) -> list[Labels]:
        return [labels for name, labels in self._at if name == metric.name]

    def figures(self, metric: Counter | Histogram, labels: Labels) -> list[float]:
        """A counter's only one; of a histogram, how many fell under each bound and not the one before, and the sum."""
        at = self._at[metric.name, labels]
        return self._figures[at : at + len(metric.bounds) + 2] if isinstance(metric, Histogram) else [self._figures[at]]


class Counts:
    """The part of a tally that one thread writes, the loader of `source_key`: nothing is locked."""

    def __init__(self, tally: Tally, source_key: str) -> None:
        self._key = source_key
        self._at = tally._at
        self._figures = tally._figures
        self._pulse_at = tally._pulse_at[source_key]
        self._broken_at = tally._broken_at[source_key]

    def add(self, counter: Counter, amount: float, *labels: str) -> None:
        self._figures[self._at[counter.name, (self._key, *labels)]] += amount

    def observe(self, histogram: Histogram, seconds: float) -> None:
        at = self._at[histogram.name, (self._key,)]
        self._figures[at + bisect_left(histogram.bounds, seconds)] += 1
        self._figures[at + len(histogram.bounds) + 1] += seconds

    def observe_ages(self, histogram: Histogram, moments: Iterable[int], now: int) -> None:
        """Of many at once, times in microseconds. One that lies ahead, by a clock that isn't ours, has no age."""
        ordered = sorted(moments)
        at = self._at[histogram.name, (self._key,)]
        rest = len(ordered)
        for index, bound in enumerate(histogram.bounds):
            older = bisect_left(ordered, now - int(bound * 1_000_000), hi=rest)
            self._figures[at + index] += rest - older
            rest = older
        self._figures[at + len(histogram.bounds)] += rest
        past = ordered[: bisect_right(ordered, now)]
        self._figures[at + len(histogram.bounds) + 1] += (now * len(past) - sum(past)) / 1_000_000

    def broken(self, code: str | None) -> None:
        """The list can't be loaded, by an error with this code; None: it can."""
        self._figures[self._broken_at] = float(code.removeprefix("ETL-")) if code else 0.0

    def beat(self) -> None:
        """The loader makes progress, is idle, or waits for a store to come back."""
        self._figures[self._pulse_at] = time.monotonic()  # since the boot: it's the same in every process
