"""The lake's Iceberg tables, brought to what the books say: nightly, and for whoever asks.

A table follows a day's books in one transaction with them. What is done here is for all else: a table that is new,
releases that knew of none, a lake that moved, and what is of no use any more.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from etl.errors import Busy, LakeError
from etl.jobs.lake import Lake
from etl.lake import layout
from etl.lake.datasets import DATASETS, Dataset

if TYPE_CHECKING:  # pyiceberg is an extra
    from etl.jobs.tables import Tables


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
    and their history ends. Nothing to do where there are none. What can't be had keeps nothing else out."""
    if (tables := lake.tables) is None:
        return []
    done = []
    for dataset in DATASETS.values():
        try:
            _take_over(lake, tables, dataset, day)
            only = [day] if day and tables.state(dataset) else None  # a table that lacks days would look whole
            caught = tables.catch_up(dataset, only, rebase)
            failed = [f"{dataset.name} {on}: {why}" for on, why in caught.failed.items()]
            published = Published(dataset.name, caught.days, failed)
        except LakeError as error:
            published = Published(dataset.name, 0, [f"{dataset.name}: {error}"])
        if published.days or published.failed:
            tell = log.error if published.failed else log.info
            tell("table_published", dataset=dataset.name, days=published.days, failed=[*published.failed])
        done.append(published)
    return done


def _take_over(lake: Lake, tables: "Tables", dataset: Dataset, day: date | None) -> None:
    """What a 0.1 has where plain readers look comes to its place among the revisions. What fails, fails again where
    the file is wanted."""
    with suppress(LakeError):
        behind = tables.behind(dataset, None if day is None else [day])
        for on, about in behind.items():
            with suppress(LakeError, Busy):
                if about and not lake.target.exists(layout.revision_of(dataset, about)):
                    lake.clear(dataset, on)


def expire(lake: Lake, history: timedelta, log: Any, at_once: Collection[str] = ()) -> list[Expired]:
    """Snapshots that were superseded longer ago than `history` go, of the datasets `at_once` all but the current one;
    and the metadata files that none needs. Raises `EtlError`."""
    if (tables := lake.tables) is None:
        return []
    done = []
    for dataset in DATASETS.values():
        until = None if dataset.name in at_once else datetime.now(UTC) - history
        expired = tables.expire(dataset, until)
        removed = tables.sweep(dataset, until)
        if expired or removed:
            log.info("table_expired", dataset=dataset.name, snapshots=expired, files=len(removed))
        done.append(Expired(dataset.name, expired, len(removed)))
    return done


def check_books(lake: Lake) -> None:
    """Raises `LakeError` if the lake has what the books don't know: if Postgres was set back, what the pointer left
    behind may be what it led to."""
    if any(lake.missing(dataset) for dataset in DATASETS.values()):
        raise LakeError("ETL-537", "the lake is ahead of the books: no snapshot ends until `etl restore --all-missing`")


def status(lake: Lake) -> list[TableStatus]:
    """Of each dataset that has a table. Raises `EtlError`."""
    if (tables := lake.tables) is None:
        return []
    found = []
    for dataset in DATASETS.values():
        state = tables.state(dataset)
        if state is None:
            continue
        behind = sorted(tables.behind(dataset))
        unknown = tables.unknown(dataset)
        about = (state.location, state.snapshots, state.since, len(state.days), behind, state.bytes, unknown)
        found.append(TableStatus(dataset.name, *about))
    return found
