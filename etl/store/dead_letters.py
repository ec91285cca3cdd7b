"""Dead letters: found, grouped for a replay, counted, discarded with a reason. None is ever deleted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from etl.store.connection import rows
from etl.store.tables import dead_letters, load_batches


class Letter(NamedTuple):
    """One row of `dead_letters`."""

    id: int
    received_at: datetime
    source_key: str
    reason: str
    detail: str
    raw: bytes
    batch_id: UUID
    position: int
    resolved_at: datetime | None
    resolution: str | None
    server: str | None  # the Redis server's name; None of what an etl of 0.1 loaded


_LETTER: list[sa.Column[Any]] = [dead_letters.c[name] for name in Letter._fields]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: those that meet all conditions. No `ids`: any. `until` is the first moment after the period.
    Resolved ones only with `resolved_too`."""

    ids: Sequence[int] = ()
    reason: str | None = None
    source_key: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    resolved_too: bool = False

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        c = dead_letters.c
        conditions: list[sa.ColumnElement[bool]] = [] if self.resolved_too else [c.resolved_at.is_(None)]
        if self.ids:
            conditions.append(c.id.in_(self.ids))
        if self.reason is not None:
            conditions.append(c.reason == self.reason)
        if self.source_key is not None:
            conditions.append(c.source_key == self.source_key)
        if self.since is not None:
            conditions.append(c.received_at >= self.since)
        if self.until is not None:
            conditions.append(c.received_at < self.until)
        return conditions


def find(engine: sa.Engine, wanted: Wanted, limit: int | None = None) -> list[Letter]:
    """The latest first. Raises `Outage`."""
    query = sa.select(*_LETTER).where(*wanted.conditions()).order_by(dead_letters.c.id.desc()).limit(limit)
    return [Letter(*row) for row in rows(engine, query)]


class Group(NamedTuple):
    """Letters of one claim of the list `list_key`, in their order. The `source_key` of a letter that came from PubSub
    is its channel, and `list_key` the spool."""

    list_key: str
    letters: list[Letter]


def groups(engine: sa.Engine, wanted: Wanted, size: int) -> Iterator[Group]:
    """All that are wanted, read in pages of `size` letters. Raises `Outage`."""
    claim = (dead_letters.c.batch_id, dead_letters.c.position)
    query = (
        sa.select(load_batches.c.source_key.label("list_key"), *_LETTER)
        .join(load_batches, load_batches.c.batch_id == dead_letters.c.batch_id)
        .where(*wanted.conditions())
        .order_by(*claim)
        .limit(size)
    )
    after: tuple[UUID, int] | None = None
    while True:
        following = query if after is None else query.where(sa.tuple_(*claim) > sa.tuple_(*map(sa.literal, after)))
        page = rows(engine, following)
        if not page:
            return
        for (list_key, _), of_one in groupby(page, key=attrgetter("list_key", "batch_id")):
            yield Group(list_key, [Letter(*row[1:]) for row in of_one])
        after = (page[-1].batch_id, page[-1].position)


def count(engine: sa.Engine, wanted: Wanted) -> dict[str, int]:
    """How many, by reason. Raises `Outage`."""
    reason = dead_letters.c.reason
    query = sa.select(reason, sa.func.count()).where(*wanted.conditions()).group_by(reason).order_by(reason)
    return dict(rows(engine, query))


def discard(engine: sa.Engine, wanted: Wanted, because: str) -> int:
    """Resolve open letters without a replay; returns how many. They stay, and so does the reason. Raises `Outage`."""
    resolve = sa.update(dead_letters).where(*wanted.conditions(), dead_letters.c.resolved_at.is_(None))
    with engine.begin() as connection:
        return connection.execute(
            resolve.values(resolved_at=sa.func.now(), resolution=f"discarded: {because}")
        ).rowcount
