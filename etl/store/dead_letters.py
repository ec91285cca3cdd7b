"""Dead letters after they were buried: found, looked at, resolved by somebody who says why. None is ever deleted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: those that all of it is true of. `ids` none: any. Of the period, `until` is the first moment
    after it. Resolved ones only if they are asked for."""

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
    columns: list[sa.Column[Any]] = [dead_letters.c[name] for name in Letter._fields]
    query = sa.select(*columns).where(*wanted.conditions()).order_by(dead_letters.c.id.desc()).limit(limit)
    with engine.connect() as connection:
        return [Letter(*row) for row in connection.execute(query)]


class Group(NamedTuple):
    """Open letters of one claim, in their order, which was of the list `list_key`; a letter's own `source_key` is
    another if it came from PubSub by way of the spool."""

    list_key: str
    letters: list[Letter]


def groups(engine: sa.Engine, wanted: Wanted, size: int) -> Iterator[Group]:
    """All that are wanted, at most `size` at once; each is looked for when it's asked for. Raises `Outage`."""
    columns: list[sa.Column[Any]] = [dead_letters.c[name] for name in Letter._fields]
    claim = (dead_letters.c.batch_id, dead_letters.c.position)
    query = (
        sa.select(load_batches.c.source_key.label("list_key"), *columns)
        .join(load_batches, load_batches.c.batch_id == dead_letters.c.batch_id)
        .where(*wanted.conditions())
        .order_by(*claim)
        .limit(size)
    )
    after: tuple[UUID, int] | None = None
    while True:
        following = query if after is None else query.where(sa.tuple_(*claim) > sa.tuple_(*map(sa.literal, after)))
        with engine.connect() as connection:
            rows = connection.execute(following).all()
        if not rows:
            return
        for (list_key, _), of_one in groupby(rows, key=attrgetter("list_key", "batch_id")):
            yield Group(list_key, [Letter(*row[1:]) for row in of_one])
        after = (rows[-1].batch_id, rows[-1].position)


def count(engine: sa.Engine, wanted: Wanted) -> dict[str, int]:
    """How many, by reason. Raises `Outage`."""
    reason = dead_letters.c.reason
    query = sa.select(reason, sa.func.count()).where(*wanted.conditions()).group_by(reason).order_by(reason)
    with engine.connect() as connection:
        return dict(connection.execute(query).all())


def discard(engine: sa.Engine, wanted: Wanted, because: str) -> int:
    """Resolve open letters without doing anything about them; returns how many. They stay, and so does the reason.
    Raises `Outage`."""
    resolve = sa.update(dead_letters).where(*wanted.conditions(), dead_letters.c.resolved_at.is_(None))
    with engine.begin() as connection:
        return connection.execute(
            resolve.values(resolved_at=sa.func.now(), resolution=f"discarded: {because}")
        ).rowcount
