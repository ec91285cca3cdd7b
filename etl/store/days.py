"""The books of one day of one dataset, and the lock under which they change: what the ledger says, which revision the
lake has, and whether Postgres may forget the day.

A revision is entered before its file is published and confirmed afterwards, and a draft before its first byte is
written. So whoever comes after a death in between knows the names of all files that may lie there.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from etl import __version__
from etl.errors import LakeError
from etl.store import load_back, partitions
from etl.store.copy import copy_out
from etl.store.lake_table import again
from etl.store.load_back import Reunited
from etl.store.locks import DAY_LOCKS, locked
from etl.store.partitions import name_of
from etl.store.tables import cdr_revisions, cdrs, exports, lake_drafts, load_batch_days
from etl.wire.manifest import Manifest
from etl.wire.times import EPOCH

# Who drops a partition keeps everybody from the table for a moment, and waits no longer than this for that moment.
_DROP_WAIT_MS = 2_000


@dataclass(frozen=True, slots=True)
class Revision:
    """One row of `exports`: what is said about its file, and where the lake was. `entries` are those of this ledger
    that the file contains; the manifest has those of the ledger that it was exported under. `by_hand` is as in
    `Snapshot`; None if that wasn't counted then."""

    about: Manifest
    url: str
    entries: int
    published_at: datetime | None = None
    dropped: bool = False
    erased: bool = False  # its file must not stay
    by_hand: int | None = None

    def is_same(self, about: Manifest) -> bool:
        """Whether the manifest is of this revision's bytes."""
        return (self.about.revision, self.about.sha256) == (about.revision, about.sha256)


@dataclass(frozen=True, slots=True)
class DayBooks:
    """What ledger and lake say of a day. `rows` are those that the ledger says there are; `revision` is the latest that
    was published, `pending` a later one that was entered and never confirmed."""

    dataset: str
    day: date
    entries: int
    rows: int
    revision: Revision | None = None
    pending: Revision | None = None


def changed(books: DayBooks) -> bool:
    """The ledger knows more of the day than the lake."""
    return books.entries > 0 and (books.revision is None or books.entries != books.revision.entries)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of the database that other connections can look at too, by its id. `by_hand` counts the versions of the
    day's CDRs that no claim replaced, but somebody's UPDATE: the trigger `keep_version` keeps them."""

    id: str
    books: DayBooks
    next_number: int  # of a revision: none is used again, also if what it was for was given up
    by_hand: int


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
            taken = [
                connection.scalar(sa.select(sa.func.max(table.c.revision)).where(*self._of_the_day(table))) or 0
                for table in (exports, lake_drafts)
            ]
            snapshot = str(connection.scalar(sa.select(sa.func.pg_export_snapshot())))
            yield Snapshot(snapshot, books, max(taken) + 1, self._by_hand(connection))

    def by_hand(self) -> int:
        """As in `Snapshot`, now."""
        with self._transaction() as connection:
            return self._by_hand(connection)

    def copy(self, query: str) -> Generator[bytes]:
        """A query's rows as `copy_out` has them, as they were in the snapshot, while its context lasts.

        Whoever closes this before its end makes it the last thing that the snapshot was good for.
        """
        return copy_out(self._connection, query)

    def draft(self, name: str, worker: str) -> None:
        """The next thing that happens is that a file of this name is begun."""
        with self._transaction() as connection:
            connection.execute(insert(lake_drafts).values(self._draft(name, worker)))

    def drafts(self) -> list[str]:
        """The names of files of the day that are no revisions."""
        with self._transaction() as connection:
            return [*connection.scalars(sa.select(lake_drafts.c.name).where(*self._of_the_day(lake_drafts)))]

    def swept(self, names: Sequence[str]) -> None:
        """Drafts of these names are no more; those that were to be revisions are remembered nevertheless."""
        gone = sa.delete(lake_drafts).where(lake_drafts.c.name.in_(names), lake_drafts.c.revision.is_(None))
        with self._transaction() as connection:
            connection.execute(gone.where(*self._of_the_day(lake_drafts)))

    def revisions(self) -> list[Revision]:
        """All of the day that the books know, the latest last."""
        with self._transaction() as connection:
            query = sa.select(exports).where(*self._of_the_day(exports)).order_by(exports.c.revision)
            return [_revision(row) for row in connection.execute(query)]

    def enter(self, about: Manifest, url: str, by_hand: int) -> None:
        """The next thing that happens is the publication of this revision; `by_hand` is its snapshot's."""
        with self._transaction() as connection:
            connection.execute(insert(exports).values(_row(about, url) | {"by_hand": by_hand}))

    def confirm(self, about: Manifest, also: Callable[[sa.Connection], object] = lambda _: None) -> None:
        """The revision is in its place, and the day's latest from now on; and what `also` does, in one transaction,
        again if that raises `Contention`. Raises `LakeError` if the revision was given up."""
        confirmed = self._update(about).values(published_at=sa.func.now())

        def confirm() -> None:
            with self._transaction() as connection:
                if connection.execute(confirmed).rowcount != 1:
                    whose = f"{about.dataset} {about.day}: somebody gave revision {about.revision} up meanwhile"
                    raise LakeError("ETL-509", whose)
                also(connection)

        again(confirm)

    def withdraw(self, about: Manifest, name: str, worker: str) -> None:
        """The revision never came to its place. If somebody who was believed dead puts it there, it is a draft."""
        with self._transaction() as connection:
            connection.execute(sa.delete(exports).where(*_is(about), exports.c.published_at.is_(None)))
            connection.execute(insert(lake_drafts).values(self._draft(name, worker, about.revision)))

    def adopt(self, older: Sequence[Manifest], url: str) -> None:
        """Revisions that were superseded under other books are known from now on, unless their numbers are taken."""
        with self._transaction() as connection:
            for about in older:
                row = _row(about, url) | {"published_at": sa.func.now()}
                connection.execute(insert(exports).values(row).on_conflict_do_nothing())

    def erase(self, current: Manifest) -> None:
        """No file of the day may stay but this one: others may hold a person that was forgotten."""
        others = sa.update(exports).where(*self._of_the_day(exports), exports.c.revision != current.revision)
        with self._transaction() as connection:
            connection.execute(others.values(erased_at=sa.func.coalesce(exports.c.erased_at, sa.func.now())))

    def drop(self, about: Manifest) -> bool:
        """Let Postgres forget the day, unless anything has arrived since the revision: then False, and it stays.

        Raises `Contention` if loaders keep the table to themselves just now.
        """
        with self._transaction() as connection:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = {_DROP_WAIT_MS}"))
            return partitions.drop(connection, self._table, self.day, about.revision, about.sha256)

    @contextmanager
    def staging(self) -> Iterator[str]:
        """An empty table for a file's rows, which is gone afterwards."""
        name = f"returning_{name_of(self._table, self.day)}"
        with self._transaction() as connection:
            load_back.make_staging(connection, self._table, name)
        yield name
        with self._transaction() as connection:
            load_back.drop_staging(connection, name)

    def load_back(self, staging: str, about: Manifest, url: str, worker: str) -> Reunited:
        """The staged rows of the lake's revision join those that are in Postgres. Nothing happens if Postgres has all
        that the ledger knows of.

        If these books don't know the revision, they do from now on, as one that contains what the ledger had before:
        the entry for what came back is beyond that, so that the next export makes the next one.
        """
        with self._transaction() as connection:
            rows = load_back.keep_loaders_out(connection, self._table, self.day)
            books = next(_books(connection, self._table.name, self.day, self.day))
            known = books.revision
            unknown = known is None or not known.is_same(about)
            dropped = known is not None and known.dropped
            if not unknown and not dropped and rows == books.rows:
                return Reunited(0, 0, 0)
            met = load_back.load_back(connection, self._table, self.day, staging, was_dropped=dropped)
            if unknown:
                of_these_books = {"entries": books.entries, "entries_then": about.entries}
                row = _row(about, url) | of_these_books | {"published_at": sa.func.now()}
                connection.execute(insert(exports).values(row))
                counted = known.about.rows if known and dropped else 0
                inserted = met.returned - counted
                load_back.correct_the_ledger(connection, self._table.name, self.day, met, worker, inserted)
            elif dropped:
                if met.met or met.renamed:  # while the day was away, those it met were counted as new
                    load_back.correct_the_ledger(connection, self._table.name, self.day, met, worker, -met.met)
                connection.execute(self._update(about).values(dropped_at=None))
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

    def _update(self, about: Manifest) -> sa.Update:
        return sa.update(exports).where(*_is(about))

    def _by_hand(self, connection: sa.Connection) -> int:
        c = cdr_revisions.c
        kept = sa.select(sa.func.count()).where(c.dialed_on == self.day, c.replaced_by.is_(None))
        return connection.scalar(kept) or 0 if self._table is cdrs else 0

    def _of_the_day(self, table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
        return (table.c.dataset == self._table.name, table.c.day == self.day)

    def _draft(self, name: str, worker: str, revision: int | None = None) -> dict[str, Any]:
        return {"name": name, "dataset": self._table.name, "day": self.day, "revision": revision, "worker": worker}

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._connection.begin():
            yield self._connection


@contextmanager
def hold(engine: sa.Engine, table: sa.Table, day: date) -> Iterator[Day | None]:
    """The day under its lock; None if somebody else holds it. Raises `Outage`."""
    with locked(engine, DAY_LOCKS[table.name], (day - EPOCH.date()).days) as connection:
        yield Day(connection, table, day) if connection else None


def books(engine: sa.Engine, table: sa.Table, first: date, last: date) -> list[DayBooks]:
    """Every day of the period that the ledger or the lake knows, in order. Raises `Outage`."""
    with engine.connect() as connection:
        known = _books(connection, table.name, first, last)
        return [each for each in known if each.entries or each.revision or each.pending]


def all_revisions(engine: sa.Engine, table: sa.Table) -> dict[date, list[Revision]]:
    """All that the books know, by day; of each day the latest last. Raises `Outage`."""
    known: dict[date, list[Revision]] = {}
    query = sa.select(exports).where(exports.c.dataset == table.name).order_by(exports.c.day, exports.c.revision)
    with engine.connect() as connection:
        for row in connection.execute(query):
            known.setdefault(row.day, []).append(_revision(row))
    return known


def current(connection: sa.Connection, table: sa.Table, days: Collection[date] | None = None) -> dict[date, Manifest]:
    """The revision of each of these days, or of all, that the books call the current one."""
    of_these = [exports.c.dataset == table.name, exports.c.published_at.is_not(None)]
    if days is not None:
        of_these.append(exports.c.day.in_(days))
    latest = sa.select(exports).ext(distinct_on(exports.c.day)).where(*of_these)
    rows = connection.execute(latest.order_by(exports.c.day, exports.c.revision.desc()))
    return {row.day: _revision(row).about for row in rows}


def all_drafts(engine: sa.Engine, table: sa.Table) -> dict[str, date]:
    """The names of files that are no revisions, with their days. Raises `Outage`."""
    query = sa.select(lake_drafts.c.name, lake_drafts.c.day).where(lake_drafts.c.dataset == table.name)
    with engine.connect() as connection:
        return {row.name: row.day for row in connection.execute(query)}


def look(engine: sa.Engine, table: sa.Table, day: date) -> tuple[DayBooks, int | None]:
    """The books of a day and, at the same moment, the rows of its partition; None if there is none. Raises `Outage`."""
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        connection.execute(sa.text(f"LOCK TABLE ONLY {table.name} IN ACCESS SHARE MODE"))  # no partition goes meanwhile
        books = next(_books(connection, table.name, day, day))
        if connection.scalar(sa.select(sa.func.to_regclass(name_of(table, day)))) is None:
            return books, None
        return books, partitions.count(connection, table, day)


def _is(about: Manifest) -> list[sa.ColumnElement[bool]]:
    return [getattr(exports.c, name) == getattr(about, name) for name in ("dataset", "day", "revision", "sha256")]


def _row(about: Manifest, url: str) -> dict[str, Any]:
    more = {"url": url, "release": __version__, "because": about.because or None}
    return msgspec.structs.asdict(about) | more


def _books(connection: sa.Connection, dataset: str, first: date, last: date) -> Iterator[DayBooks]:
    """In order of days; of a single day always one."""
    ledger = (
        sa.select(load_batch_days.c.day, sa.func.count(), sa.func.sum(load_batch_days.c.inserted))
        .where(load_batch_days.c.dataset == dataset, load_batch_days.c.day.between(first, last))
        .group_by(load_batch_days.c.day)
    )
    of_the_period = (exports.c.dataset == dataset, exports.c.day.between(first, last))

    def latest(published: bool) -> dict[date, Revision]:
        which = exports.c.published_at.is_not(None) if published else exports.c.published_at.is_(None)
        query = sa.select(exports).ext(distinct_on(exports.c.day)).where(*of_the_period, which)
        rows = connection.execute(query.order_by(exports.c.day, exports.c.revision.desc()))
        return {row.day: _revision(row) for row in rows}

    entries = {day: (count, int(rows)) for day, count, rows in connection.execute(ledger)}
    revisions, pending = latest(published=True), latest(published=False)
    single = [first] if first == last else []
    for day in sorted({*entries, *revisions, *pending, *single}):
        count, rows = entries.get(day, (0, 0))
        yield DayBooks(dataset, day, count, rows, revisions.get(day), pending.get(day))


def _revision(row: Any) -> Revision:
    about = Manifest(**{name: getattr(row, name) for name in Manifest.__struct_fields__ if name != "because"})
    about = msgspec.structs.replace(about, because=row.because or "")
    if row.entries_then is not None:
        about = msgspec.structs.replace(about, entries=row.entries_then)
    return Revision(
        about,
        row.url,
        row.entries,
        row.published_at,
        row.dropped_at is not None,
        row.erased_at is not None,
        row.by_hand,
    )
