"""The lake's Iceberg tables, brought to what the books say: nightly, and for whoever asks.

A table follows a day's books in one transaction with them. What is done here is for all else: a table that is new,
releases that knew of none, a lake that moved, and what is of no use any more.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from etl.errors import EtlError
from etl.jobs.lake import Lake
from etl.lake import layout
from etl.lake.datasets import DATASETS, Dataset
from etl.store import days, lake_table
from etl.store.connection import Engine
from etl.wire.manifest import Manifest

if TYPE_CHECKING:  # pyiceberg is an extra
    from etl.jobs.tables import Tables

# Days of one snapshot: each needs its file's footer, and an attempt that fails begins with them again.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Published:
    """Days of a dataset that its table has now and hadn't; those whose file can't be read, with the reasons."""

    dataset: str
    days: int
    failed: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Expired:
    """Snapshots of a dataset's table that are no more, and metadata files that went."""

    dataset: str
    snapshots: int
    files: int


@dataclass(frozen=True, slots=True)
class TableStatus:
    """A dataset's table: `days` that it has and that aren't as the books say (`behind`); `since` is its oldest
    snapshot's time; `bytes` are those of its metadata file; `unknown` are metadata files that no books know."""

    dataset: str
    location: str
    snapshots: int
    since: datetime | None
    days: int
    behind: Sequence[date]
    bytes: int
    unknown: Sequence[str]


def publish(lake: Lake, log: Any, day: date | None = None, rebase: bool = False) -> list[Published]:
    """Have each table hold what the books call current: of this day, or of all. With `rebase` the tables begin anew,
    and their history ends. Nothing to do where there are none. Raises `EtlError`."""
    if lake.tables is None:
        return []
    done = []
    for dataset in DATASETS.values():
        if rebase:
            _begin_anew(lake.engine, dataset)
        published = _publish(lake, lake.tables, dataset, day)
        if published.days or published.failed:
            tell = log.error if published.failed else log.info
            tell("table_published", dataset=dataset.name, days=published.days, failed=[*published.failed])
        done.append(published)
    return done


def _publish(lake: Lake, tables: "Tables", dataset: Dataset, day: date | None) -> Published:
    state = tables.state(dataset)
    with lake.engine.connect() as connection:
        current = days.current(connection, dataset.table, None if day is None else [day])
    held = state.days if state else {}
    behind = [about for about in current.values() if held.get(about.day) != layout.revision_of(dataset, about)]
    missing = {about.day: why for about in behind if (why := _why_not(lake, dataset, about))}
    there = [about.day for about in behind if about.day not in missing]
    new = 0
    for first in range(0, len(there), _AT_ONCE):
        new += lake_table.again(partial(_follow, lake.engine, tables, dataset, there[first : first + _AT_ONCE]))
    return Published(dataset.name, new, [f"{dataset.name} {day}: {why}" for day, why in missing.items()])


def _why_not(lake: Lake, dataset: Dataset, about: Manifest) -> str:
    """Why the revision's file can't be had, which keeps no other day out; empty if it can. A 0.1's is taken over."""
    name = layout.revision_of(dataset, about)
    try:
        if not lake.target.exists(name):
            with lake.hold(dataset, about.day):
                pass
        size = lake.target.size(name)
    except EtlError as error:
        return str(error)
    if size is None:
        return f"{lake.target.path(name)} is missing"
    return "" if size == about.bytes else f"{lake.target.path(name)} isn't whole"


def _follow(engine: Engine, tables: "Tables", dataset: Dataset, behind: Collection[date]) -> int:
    with engine.begin() as connection:
        # The books are read when nobody else can move the pointer: what it leads to is never newer than they.
        lake_table.hold(connection, dataset.name)
        return tables.follow(connection, dataset, days.current(connection, dataset.table, behind))


def _begin_anew(engine: Engine, dataset: Dataset) -> None:
    with engine.begin() as connection:
        lake_table.forget(connection, dataset.name)


def expire(lake: Lake, history: timedelta, log: Any, at_once: Collection[str] = ()) -> list[Expired]:
    """Snapshots that were superseded longer ago than `history` go, of the datasets `at_once` all but the current one;
    and the metadata files that none needs. Raises `EtlError`."""
    if (tables := lake.tables) is None:
        return []
    done = []
    for dataset in DATASETS.values():
        until = None if dataset.name in at_once else datetime.now(UTC) - history
        expired = lake_table.again(partial(tables.expire, dataset, until))
        removed = tables.sweep(dataset, until)
        if expired or removed:
            log.info("table_expired", dataset=dataset.name, snapshots=expired, files=len(removed))
        done.append(Expired(dataset.name, expired, len(removed)))
    return done


def status(lake: Lake) -> list[TableStatus]:
    """Of each dataset that has a table. Raises `EtlError`."""
    if (tables := lake.tables) is None:
        return []
    found = []
    for dataset in DATASETS.values():
        state = tables.state(dataset)
        if state is None:
            continue
        with lake.engine.connect() as connection:
            current = days.current(connection, dataset.table)
        wanted = {on: layout.revision_of(dataset, about) for on, about in current.items()}
        behind = sorted(on for on in wanted.keys() | state.days.keys() if wanted.get(on) != state.days.get(on))
        unknown = tables.unknown(dataset)
        about = (state.location, state.snapshots, state.since, len(state.days), behind, state.bytes, unknown)
        found.append(TableStatus(dataset.name, *about))
    return found
