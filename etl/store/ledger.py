"""The ledger, `load_batches` and `load_batch_days`: the only way into the books. An entry never changes.

An entry is a claim's, or corrects what days hold without one: a day that came back from the lake, a person who was
forgotten. (What `unite_legs` enters is in its migration.)
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from etl.ids import new_id
from etl.store.merge import Merged
from etl.store.tables import load_batches

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


def enter(
    connection: sa.Connection, claim: Mapping[str, Any], books: Books, of_datasets: Mapping[str, Merged] | None = None
) -> bool:
    """Enter a claim, and how many rows of each day it inserted and updated, by dataset; False if the ledger has it
    already, and then nothing is entered. Waits for another transaction that is entering the same claim, and gives way
    to it if it commits."""
    days = [
        (dataset, day, merged.inserted[day], merged.updated[day])
        for dataset, merged in (of_datasets or {}).items()
        for day in {*merged.inserted, *merged.updated}
    ]
    datasets, dates, inserted, updated = map(list, zip(*days, strict=True)) if days else ([], [], [], [])
    of_days = {"of_datasets": datasets, "of_days": dates, "of_inserted": inserted, "of_updated": updated}
    return bool(connection.scalar(_ENTER, {**_OPTIONAL, **claim, **asdict(books), **of_days}))


# Both tables in one statement: each is a round trip, which a small claim feels.
_OPTIONAL = {"set_aside": None, "may_repeat": False}
_OF_A_CLAIM = [column.name for column in load_batches.c if column.name != "committed_at"]
_ENTER = sa.text(f"""WITH entry AS (
    INSERT INTO load_batches ({", ".join(_OF_A_CLAIM)}) VALUES (:{", :".join(_OF_A_CLAIM)})
    ON CONFLICT DO NOTHING RETURNING batch_id
), days AS (
    INSERT INTO load_batch_days (batch_id, dataset, day, inserted, updated)
    SELECT entry.batch_id, of_a_day.* FROM entry, unnest(
        CAST(:of_datasets AS text[]), CAST(:of_days AS date[]),
        CAST(:of_inserted AS integer[]), CAST(:of_updated AS integer[])
    ) AS of_a_day
)
SELECT count(*) FROM entry
""").bindparams(sa.bindparam("set_aside", type_=load_batches.c.set_aside.type))  # noqa: S608  (words of our own)


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
    enter(connection, claim, books, {dataset: Merged(Counter({day: inserted}), Counter({day: updated}))})
