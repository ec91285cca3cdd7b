"""Dead letters after they were buried: found, looked at, resolved by somebody who says why. None is ever deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from etl.store.connection import translated
from etl.store.tables import dead_letters


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
    with translated(), engine.connect() as connection:
        return [Letter(*row) for row in connection.execute(query)]


def count(engine: sa.Engine, wanted: Wanted) -> dict[str, int]:
    """How many, by reason. Raises `Outage`."""
    reason = dead_letters.c.reason
    query = sa.select(reason, sa.func.count()).where(*wanted.conditions()).group_by(reason).order_by(reason)
    with translated(), engine.connect() as connection:
        return dict(row._tuple() for row in connection.execute(query))


def discard(engine: sa.Engine, wanted: Wanted, because: str) -> int:
    """Resolve open letters without doing anything about them; returns how many. They stay, and so does the reason.
    Raises `Outage`."""
    resolve = sa.update(dead_letters).where(*wanted.conditions(), dead_letters.c.resolved_at.is_(None))
    with translated(), engine.begin() as connection:
        return connection.execute(
            resolve.values(resolved_at=sa.func.now(), resolution=f"discarded: {because}")
        ).rowcount
