"""One partition a day, made when its first row appears."""

import threading
from collections.abc import Iterable
from datetime import date

import sqlalchemy as sa
from psycopg import sql

from etl.store.connection import translated

# Serialises the making of partitions across workers; any number that nobody else in this database uses will do.
_ADVISORY_LOCK = 0x65746C_01


class Partitions:
    """Remembers which partitions exist, and makes those that don't. Safe to use from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._known: set[tuple[str, date]] = set()
        self._lock = threading.Lock()

    def ensure(self, table: sa.Table, days: Iterable[date]) -> None:
        """Make sure that `table` has a partition for each of these days. Commits at once, in a transaction of its own:
        a partition without rows does no harm, and a lock on the parent table held through a load would."""
        with self._lock:
            missing = sorted({day for day in days if (table.name, day) not in self._known})
            if not missing:
                return
            with translated(), self._engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                for day in missing:
                    _make(connection, table, day)
            self._known.update((table.name, day) for day in missing)

    def forget(self) -> None:
        """Look again: a partition that was known has gone."""
        with self._lock:
            self._known.clear()


def name_of(table: sa.Table, day: date) -> str:
    return f"{table.name}_{day:%Y%m%d}"


def _make(connection: sa.Connection, table: sa.Table, day: date) -> None:
    name = name_of(table, day)
    if connection.scalar(sa.select(sa.func.to_regclass(name))) is not None:
        return
    parent, partition = sql.Identifier(table.name), sql.Identifier(name)
    bounds = (sql.Literal(date.fromordinal(day.toordinal() + n).isoformat()) for n in (0, 1))
    # CREATE TABLE … PARTITION OF would lock the parent against everybody; attaching lets the loaders go on.
    for statement in (
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)").format(
            partition, parent
        ),
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(parent, partition, *bounds),
    ):
        connection.exec_driver_sql(statement.as_string())
