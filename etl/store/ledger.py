"""The ledger, `load_batches` and `load_batch_days`: the only way into the books. An entry never changes.

An entry is a claim's, or corrects what days hold without one: a day that came back from the lake, a person who was
forgotten. (What `unite_legs` enters is in its migration.)
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from etl.ids import new_id
from etl.store.merge import Merged
from etl.store.tables import load_batch_days, load_batches

# The source_key of corrections, in the place of a list's.
LAKE_KEY = "lake"
FORGET_KEY = "forget"


@dataclass(frozen=True, slots=True)
class Books:
    """What became of messages. The last five add up to the first; Postgres checks it for every entry."""

    claimed: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    events: int = 0
    dead: int = 0

    def __add__(self, other: "Books") -> "Books":
        return Books(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def may_repeat(engine: sa.Engine, first: date, last: date) -> int:
    """How many claims of these UTC days not all of Redis' replicas had when they were loaded. Raises `Outage`."""
    day = sa.cast(sa.func.timezone("UTC", load_batches.c.committed_at), sa.Date)
    query = sa.select(sa.func.count()).where(load_batches.c.may_repeat, day.between(first, last))
    with engine.connect() as connection:
        return int(connection.scalar(query) or 0)


def enter(connection: sa.Connection, claim: Mapping[str, Any], books: Books) -> bool:
    """Enter a claim; False if the ledger has it already. Waits for another transaction that is entering the same claim,
    and gives way to it if it commits."""
    entering = insert(load_batches).values({**claim, **asdict(books)}).on_conflict_do_nothing()
    return connection.execute(entering.execution_options(preserve_rowcount=True)).rowcount > 0


def enter_days(connection: sa.Connection, batch_id: UUID, datasets: Mapping[str, Merged]) -> None:
    """Enter how many rows of each day were inserted and updated, by dataset."""
    days = [
        {
            "batch_id": batch_id,
            "dataset": dataset,
            "day": day,
            "inserted": merged.inserted[day],
            "updated": merged.updated[day],
        }
        for dataset, merged in datasets.items()
        for day in {*merged.inserted, *merged.updated}
    ]
    if days:
        connection.execute(insert(load_batch_days), days)


def correct(
    connection: sa.Connection,
    dataset: str,
    day: date,
    *,
    source_key: str,
    worker: str,
    books: Books,
    inserted: int = 0,
    updated: int = 0,
) -> None:
    """An entry without a claim: the day has so many rows more, or less, than were counted, and so many changed."""
    batch_id = new_id()
    now = datetime.now(UTC)
    claim = {"batch_id": batch_id, "worker": worker, "source_key": source_key, "server": "", "claimed_at": now}
    enter(connection, claim, books)
    enter_days(connection, batch_id, {dataset: Merged(Counter({day: inserted}), Counter({day: updated}))})
