"""One partition a day, made when its first row appears."""

from collections.abc import Iterable
from datetime import date

import sqlalchemy as sa
from psycopg import sql

from etl.errors import ConfigurationError
from etl.store.connection import translated

# Serialises the making of partitions across workers; any number that nobody else in this database uses will do.
_ADVISORY_LOCK = 0x65746C_01

_IS_ATTACHED = sa.text(
    "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = to_regclass(:parent) AND inhrelid = to_regclass(:name)"
    " AND NOT inhdetachpending)"
)


def ensure(engine: sa.Engine, table: sa.Table, days: Iterable[date]) -> None:
    """Make sure that `table` has a partition for each of these days. Raises `Outage` or `ConfigurationError`.

    Each is committed at once, in a transaction of its own: a partition without rows does no harm, and a lock on the
    parent table held through a load, or hundreds of them through the making of years, would.
    """
    with translated():
        for day in sorted(days):
            with engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                _make(connection, table, day)


def name_of(table: sa.Table, day: date) -> str:
    return f"{table.name}_{day:%Y%m%d}"


def _make(connection: sa.Connection, table: sa.Table, day: date) -> None:
    name = name_of(table, day)
    if connection.scalar(sa.select(sa.func.to_regclass(name))) is not None:
        if not connection.scalar(_IS_ATTACHED, {"parent": table.name, "name": name}):
            raise ConfigurationError(f"table {name} exists, but it's no partition of {table.name}: attach or rename it")
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
