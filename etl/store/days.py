"""The books of one day of one dataset, and the lock under which they change: what the ledger says, which revision the
lake has, and whether Postgres may forget the day.

A revision is entered before its file is published and confirmed afterwards. So whoever comes after a death in between
knows both files that may lie there.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from etl import __version__
from etl.store import load_back, partitions
from etl.store.connection import translated
from etl.store.copy import copy_out
from etl.store.load_back import Met
from etl.store.locks import DAYS, locked
from etl.store.partitions import name_of
from etl.store.tables import exports, load_batch_days
from etl.wire.times import EPOCH

# Who drops a partition keeps everybody from the table for a moment, and waits no longer than this for that moment.
_DROP_WAIT_MS = 2_000


@dataclass(frozen=True, slots=True)
class Revision:
    """One row of `exports`, without the times at which it came about."""

    dataset: str
    day: date
    revision: int
    rows: int
    bytes: int
    sha256: str
    schema_fingerprint: str
    first_time: datetime | None
    last_time: datetime | None
    entries: int
    url: str
    published: bool = False
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class DayBooks:
    """What ledger and lake say of a day. `rows` are those that the ledger says there are."""

    dataset: str
    day: date
    entries: int
    rows: int
    revision: Revision | None


def changed(books: DayBooks) -> bool:
    """The ledger knows more of the day than the lake."""
    return books.entries > 0 and (books.revision is None or books.entries != books.revision.entries)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of the database that other connections can look at too, by its id."""

    id: str
    books: DayBooks


class Day:
    """One day under its lock: nobody else exports, restores or drops it. If the lock is lost, so is the connection, and
    every method raises `Outage`."""

    def __init__(self, connection: sa.Connection, table: sa.Table, day: date) -> None:
        self._connection = connection
        self._table = table
        self.day = day

    def books(self) -> DayBooks:
        with self._transaction() as connection:
            return next(_books(connection, self._table.name, self.day, self.day))

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A moment to read the day in; it lasts as long as the context."""
        with self._transaction() as connection:
            connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            books = next(_books(connection, self._table.name, self.day, self.day))
            yield Snapshot(str(connection.scalar(sa.select(sa.func.pg_export_snapshot()))), books)

    def copy(self, query: str) -> Generator[bytes]:
        """A query's rows as `copy_out` has them, as they were in the snapshot, while its context lasts.

        Whoever closes this before its end makes it the last thing that the snapshot was good for.
        """
        return copy_out(self._connection, query)

    def enter(self, revision: Revision) -> None:
        """The next thing that happens is the publication of this revision. It may be entered again."""
        with self._transaction() as connection:
            _enter(connection, revision)

    def confirm(self, revision: Revision) -> None:
        """The revision is in its place."""
        with self._transaction() as connection:
            connection.execute(self._update(revision).values(published_at=sa.func.now()))

    def withdraw(self, revision: Revision) -> None:
        """The revision never came to its place, and won't."""
        with self._transaction() as connection:
            connection.execute(sa.delete(exports).where(*self._is(revision), exports.c.published_at.is_(None)))

    def drop(self, revision: Revision) -> bool:
        """Let Postgres forget the day, unless anything has arrived since the revision: then False, and it stays.

        Raises `Contention` if loaders keep the table to themselves just now.
        """
        with self._transaction() as connection:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = {_DROP_WAIT_MS}"))
            return partitions.drop(connection, self._table, self.day, revision.revision, revision.sha256)

    @contextmanager
    def staging(self) -> Iterator[str]:
        """An empty table for a file's rows, which is gone afterwards."""
        name = f"returning_{name_of(self._table, self.day)}"
        with self._transaction() as connection:
            load_back.make_staging(connection, self._table, name)
        yield name
        with self._transaction() as connection:
            load_back.drop_staging(connection, name)

    def load_back(self, staging: str, revision: Revision, worker: str) -> Met:
        """The staged rows of the lake's revision join those that are in Postgres. Nothing happens if Postgres has all
        that the ledger knows of.

        If these books don't know the revision, they do from now on. Then the ledger is led beyond what the revision
        contains: the next export makes the next one.
        """
        with self._transaction() as connection:
            rows = load_back.keep_loaders_out(connection, self._table, self.day)
            books = next(_books(connection, self._table.name, self.day, self.day))
            known = books.revision
            unknown = known is None or (known.revision, known.sha256) != (revision.revision, revision.sha256)
            if not unknown and not revision.dropped and rows == books.rows:
                return Met(0, 0, 0)
            met = load_back.load_back(connection, self._table, self.day, staging)
            if unknown:
                _enter(connection, revision)
                connection.execute(self._update(revision).values(published_at=sa.func.now()))
                counted = known.rows if known and known.dropped else 0
                entries = max(1, revision.entries + 1 - books.entries)
                load_back.correct_the_ledger(
                    connection, self._table.name, self.day, met, worker, met.returned - counted, entries
                )
            elif revision.dropped:
                if met.met or met.renamed:  # while the day was away, those it met were counted as new
                    load_back.correct_the_ledger(connection, self._table.name, self.day, met, worker, -met.met)
                connection.execute(self._update(revision).values(dropped_at=None))
            return met

    def try_out(self, staging: str, compare: bool) -> tuple[int, int]:
        """How many of the staged rows the archive's own table would take and, with `compare`, how many of them or of
        the day's own have no equal among the others; nothing stays of it."""
        with self._transaction() as connection:
            return load_back.try_out(connection, self._table, self.day, staging, compare)

    def copy_into(self, schema: str, staging: str) -> int:
        """The staged rows become those of the table of the same name in another schema; how many weren't there yet."""
        with self._transaction() as connection:
            return load_back.copy_into(connection, self._table, schema, staging)

    def _update(self, revision: Revision) -> sa.Update:
        return sa.update(exports).where(*self._is(revision))

    def _is(self, revision: Revision) -> list[sa.ColumnElement[bool]]:
        return [
            exports.c.dataset == revision.dataset,
            exports.c.day == revision.day,
            exports.c.revision == revision.revision,
            exports.c.sha256 == revision.sha256,
        ]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with translated(), self._connection.begin():
            yield self._connection


@contextmanager
def hold(engine: sa.Engine, table: sa.Table, day: date) -> Iterator[Day | None]:
    """The day under its lock; None if somebody else holds it. Raises `Outage`."""
    with locked(engine, DAYS[table.name], (day - EPOCH.date()).days) as connection:
        yield Day(connection, table, day) if connection else None


def books(engine: sa.Engine, table: sa.Table, first: date, last: date) -> list[DayBooks]:
    """Every day of the period that the ledger or the lake knows, in order. Raises `Outage`."""
    with translated(), engine.connect() as connection:
        return [each for each in _books(connection, table.name, first, last) if each.entries or each.revision]


def look(engine: sa.Engine, table: sa.Table, day: date) -> tuple[DayBooks, int | None]:
    """The books of a day and, at the same moment, the rows of its partition; None if there is none. Raises `Outage`."""
    with translated(), engine.connect() as connection, connection.begin():
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        connection.execute(sa.text(f"LOCK TABLE ONLY {table.name} IN ACCESS SHARE MODE"))  # no partition goes meanwhile
        books = next(_books(connection, table.name, day, day))
        if connection.scalar(sa.select(sa.func.to_regclass(name_of(table, day)))) is None:
            return books, None
        return books, partitions.count(connection, table, day)


def _enter(connection: sa.Connection, revision: Revision) -> None:
    row: dict[str, Any] = asdict(revision) | {"release": __version__}
    del row["published"], row["dropped"]
    entered = insert(exports).values(row)
    again = {name: entered.excluded[name] for name in row} | {"exported_at": sa.func.now()}
    connection.execute(entered.on_conflict_do_update(index_elements=exports.primary_key, set_=again))


def _books(connection: sa.Connection, dataset: str, first: date, last: date) -> Iterator[DayBooks]:
    """In order of days; of a single day always one."""
    ledger = (
        sa.select(load_batch_days.c.day, sa.func.count(), sa.func.sum(load_batch_days.c.inserted))
        .where(load_batch_days.c.dataset == dataset, load_batch_days.c.day.between(first, last))
        .group_by(load_batch_days.c.day)
    )
    latest = (
        sa.select(exports)
        .ext(distinct_on(exports.c.day))
        .where(exports.c.dataset == dataset, exports.c.day.between(first, last))
        .order_by(exports.c.day, exports.c.revision.desc())
    )
    entries = {day: (count, int(rows)) for day, count, rows in connection.execute(ledger)}
    revisions = {row.day: _revision(row) for row in connection.execute(latest)}
    single = [first] if first == last else []
    for day in sorted({*entries, *revisions, *single}):
        count, rows = entries.get(day, (0, 0))
        yield DayBooks(dataset, day, count, rows, revisions.get(day))


def _revision(row: Any) -> Revision:
    fields: Iterable[str] = (name for name in Revision.__dataclass_fields__ if name not in ("published", "dropped"))
    known = {name: getattr(row, name) for name in fields}
    return Revision(**known, published=row.published_at is not None, dropped=row.dropped_at is not None)
