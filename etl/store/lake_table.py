"""The books of the Iceberg tables: the pointer of each, which is a row of Iceberg's catalog, and the names of the files
that etl wrote for it.

    begin ──file──▶ … ──file──▶ commit, in the transaction in which the pointer moves
                                  └ or give up, and take away

A name is entered before its first byte is written. Who takes away what was never committed says so first, and from then
on the pointer can't move with it: whoever slept meanwhile wakes up to an error.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa

from etl.errors import ConfigurationError, Contention
from etl.store.connection import Engine
from etl.store.tables import iceberg_tables, lake_table_files

# As migration 0026 has them: the catalog's name, and the namespace of its tables. And the schema of its own tables.
CATALOG, NAMESPACE, SCHEMA = "etl", "lake", "iceberg"
# Nobody takes so long from a file's first byte to the commit, but who was frozen.
_FROZEN = timedelta(hours=1)
_ASLEEP = timedelta(days=7)
_ATTEMPTS = 20
# Of an object store that is slow, each of three files may take a minute and a half.
_WAIT_MS, _IDLE_MS = 5_000, 300_000

Moved = TypeVar("Moved")


def again(move: Callable[[], Moved]) -> Moved:
    """What `move` gives, which moves a pointer: again if somebody else moved it first, which is progress too. Raises
    `Contention` if that happened too often."""
    for _ in range(_ATTEMPTS):
        with suppress(Contention):
            return move()
    return move()


def begin(engine: Engine, dataset: str, name: str) -> None:
    """The next thing that happens is that a file of this name is begun. Raises `Outage`."""
    with engine.begin() as connection:
        connection.execute(sa.insert(lake_table_files).values(name=name, dataset=dataset))


def commit(connection: sa.Connection, names: Collection[str]) -> None:
    """The pointer moves with these files, in this transaction. Raises `Contention` if somebody gave them up."""
    if not names:
        return
    ours = lake_table_files.c.name.in_(names)
    still = lake_table_files.c.given_up_at.is_(None)
    moved = connection.execute(sa.update(lake_table_files).where(ours, still).values(committed_at=sa.func.now()))
    if moved.rowcount != len(names):
        raise Contention("ETL-525", "what was written for the Iceberg table was given up meanwhile; try again")


def give_up(engine: Engine, dataset: str) -> None:
    """What was begun long ago and never committed never will be. Raises `Outage`."""
    files = lake_table_files.c
    abandoned = (files.dataset == dataset, files.committed_at.is_(None), files.given_up_at.is_(None))
    frozen = files.began_at < sa.func.now() - _FROZEN
    # What somebody is about to commit is locked, and no longer abandoned, however long it took.
    free = sa.select(files.name).where(*abandoned, frozen).with_for_update(skip_locked=True)
    with engine.begin() as connection:
        connection.execute(sa.update(lake_table_files).where(files.name.in_(free)).values(given_up_at=sa.func.now()))


def names(engine: Engine, dataset: str) -> set[str]:
    """Of all that are known. Raises `Outage`."""
    with engine.connect() as connection:
        return {*connection.scalars(sa.select(lake_table_files.c.name).where(lake_table_files.c.dataset == dataset))}


def removable(engine: Engine, dataset: str, until: datetime | None) -> set[str]:
    """Names of what was given up, and of those with which the pointer moved before `until`, or at any time: unless a
    snapshot needs them, they may go. Raises `Outage`."""
    files = lake_table_files.c
    committed = files.committed_at.is_not(None) if until is None else files.committed_at < until
    with engine.connect() as connection:
        either = sa.or_(committed, files.given_up_at.is_not(None))
        return {*connection.scalars(sa.select(files.name).where(files.dataset == dataset, either))}


def removed(engine: Engine, names: Sequence[str]) -> None:
    """These files are no more. Who was frozen may still write one that was given up: its name stays a while. Raises
    `Outage`."""
    files = lake_table_files.c
    over = sa.or_(files.given_up_at.is_(None), files.given_up_at < sa.func.now() - _ASLEEP)
    with engine.begin() as connection:
        connection.execute(sa.delete(lake_table_files).where(files.name.in_(names), over))


def pointer(connection: sa.Connection, dataset: str) -> str | None:
    """Where the table's metadata is; None if there is no table."""
    return connection.scalar(sa.select(iceberg_tables.c.metadata_location).where(*_is(dataset)))


def moved(dataset: str) -> Contention:
    return Contention("ETL-528", f"the Iceberg table {dataset} moved meanwhile; try again")


def wanted() -> ConfigurationError:
    """Of who would move the books without the tables that others keep."""
    return ConfigurationError(
        "ETL-532",
        "these books have Iceberg tables, which move with them: set ETL_LAKE_TABLE=iceberg here, too; or let the tables"
        " go: DELETE FROM iceberg.iceberg_tables WHERE catalog_name = 'etl'",
    )


def wait_a_moment(connection: sa.Connection) -> None:
    """For locks, until the end of the transaction: who moves a pointer holds it for no longer, unless it froze; and
    Postgres ends whoever did, after a while."""
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {_WAIT_MS}"))
    connection.execute(sa.text(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_MS}"))


def is_kept(connection: sa.Connection, dataset: str) -> bool:
    """Whether the books have such a table, as far as this login may ask."""
    may_ask = sa.text("SELECT has_schema_privilege(to_regnamespace(:schema), 'USAGE')")
    return bool(connection.scalar(may_ask, {"schema": SCHEMA})) and pointer(connection, dataset) is not None


def hold(connection: sa.Connection, dataset: str) -> str | None:
    """The pointer, which nobody else moves until the end of the transaction; None if there is none, and then nobody
    else makes one, nor moves the books past it."""
    wait_a_moment(connection)
    held = sa.select(iceberg_tables.c.metadata_location).where(*_is(dataset)).with_for_update()
    if (location := connection.scalar(held)) is None:
        connection.execute(sa.text(f"LOCK TABLE {iceberg_tables} IN SHARE ROW EXCLUSIVE MODE"))
        location = connection.scalar(held)
    return location


def look(connection: sa.Connection, dataset: str) -> str | None:
    """The pointer; None if there is none, and then none is made until the end of the transaction."""
    if (location := pointer(connection, dataset)) is None:
        wait_a_moment(connection)
        connection.execute(sa.text(f"LOCK TABLE {iceberg_tables} IN ROW EXCLUSIVE MODE"))
        location = pointer(connection, dataset)
    return location


def forget(connection: sa.Connection, dataset: str) -> None:
    """There is no such table any more."""
    connection.execute(sa.delete(iceberg_tables).where(*_is(dataset)))


@contextmanager
def in_the_catalog(connection: sa.Connection) -> Iterator[sa.Connection]:
    """The same connection, on which tables without a schema are the catalog's while the context lasts."""
    connection.execution_options(schema_translate_map={None: SCHEMA})
    try:
        yield connection
    finally:
        connection.execution_options(schema_translate_map=None)


def _is(dataset: str) -> list[sa.ColumnElement[bool]]:
    wanted = {"catalog_name": CATALOG, "table_namespace": NAMESPACE, "table_name": dataset}
    return [iceberg_tables.c[column] == value for column, value in wanted.items()]
