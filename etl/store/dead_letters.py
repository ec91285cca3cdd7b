"""Dead letters: found, grouped for a replay, counted, discarded with a reason. None is ever deleted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from etl.store.connection import Engine, rows
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
    bytes: int  # of the whole message, also where `raw` is only its beginning


# A group's letters are decoded together, which takes several times the memory.
GROUP_BYTES = 8 * 1024 * 1024


def _letter(raw: sa.ColumnElement[bytes] = dead_letters.c.raw) -> list[sa.ColumnElement[Any]]:
    c = dead_letters.c
    others = {"raw": raw, "bytes": sa.func.octet_length(c.raw)}
    return [others[name] if name in others else c[name] for name in Letter._fields]


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


def find(engine: Engine, wanted: Wanted, limit: int | None = None, most_bytes: int | None = None) -> list[Letter]:
    """The latest first; of each message at most its first `most_bytes`. Raises `Outage`."""
    c = dead_letters.c
    raw = c.raw if most_bytes is None else sa.func.substring(c.raw, 1, most_bytes, type_=c.raw.type)
    query = sa.select(*_letter(raw)).where(*wanted.conditions()).order_by(c.id.desc()).limit(limit)
    return [Letter(*row) for row in rows(engine, query)]


class Group(NamedTuple):
    """Letters of one claim of the list `list_key`, in their order. The `source_key` of a letter that came from PubSub
    is its channel, and `list_key` the spool."""

    list_key: str
    letters: list[Letter]


def groups(engine: Engine, wanted: Wanted, size: int) -> Iterator[Group]:
    """All that are wanted: of each claim so many at a time as are at most `size` letters and `GROUP_BYTES`, or one that
    is larger. Raises `Outage`."""
    for page in _pages(engine, wanted, size):
        for (list_key, _), of_one in groupby(page, key=attrgetter("list_key", "batch_id")):
            for numbers in _within(GROUP_BYTES, of_one):
                # Once more as they are wanted: somebody may have resolved them since.
                found = sa.select(*_letter()).where(*wanted.conditions(), dead_letters.c.id.in_(numbers))
                if letters := [Letter(*row) for row in rows(engine, found.order_by(dead_letters.c.position))]:
                    yield Group(list_key, letters)


def _pages(engine: Engine, wanted: Wanted, size: int) -> Iterator[Sequence[Any]]:
    """Which letters there are, and how large they are, without them."""
    c = dead_letters.c
    claim = (c.batch_id, c.position)
    query = (
        sa.select(load_batches.c.source_key.label("list_key"), c.id, *claim, sa.func.octet_length(c.raw).label("bytes"))
        .join(load_batches, load_batches.c.batch_id == c.batch_id)
        .where(*wanted.conditions())
        .order_by(*claim)
        .limit(size)
    )
    after: tuple[UUID, int] | None = None
    while page := rows(engine, query if after is None else query.where(sa.tuple_(*claim) > _literals(after))):
        yield page
        after = (page[-1].batch_id, page[-1].position)


def _literals(values: Iterable[Any]) -> sa.ColumnElement[Any]:
    return sa.tuple_(*map(sa.literal, values))


def _within(most_bytes: int, letters: Iterable[Any]) -> Iterator[list[int]]:
    """Their ids, in groups of at most so many bytes, but at least one letter."""
    ids: list[int] = []
    total = 0
    for letter in letters:
        if ids and total + letter.bytes > most_bytes:
            yield ids
            ids, total = [], 0
        ids.append(letter.id)
        total += letter.bytes
    if ids:
        yield ids


def count(engine: Engine, wanted: Wanted) -> dict[str, int]:
    """How many, by reason. Raises `Outage`."""
    reason = dead_letters.c.reason
    query = sa.select(reason, sa.func.count()).where(*wanted.conditions()).group_by(reason).order_by(reason)
    return dict(rows(engine, query))


def discard(engine: Engine, wanted: Wanted, because: str) -> int:
    """Resolve open letters without a replay; returns how many. They stay, and so does the reason. Raises `Outage`."""
    resolve = sa.update(dead_letters).where(*wanted.conditions(), dead_letters.c.resolved_at.is_(None))
    with engine.begin() as connection:
        return connection.execute(
            resolve.values(resolved_at=sa.func.now(), resolution=f"discarded: {because}")
        ).rowcount
