"""One partition a day, made when its first row appears, dropped when the lake has it.

Only the tables' owner can do either. So functions do it that are the owner's, and whoever loads may call: they are in
the migrations.
"""

from collections.abc import Iterable
from datetime import date

import sqlalchemy as sa


def ensure(engine: sa.Engine, table: sa.Table, days: Iterable[date]) -> None:
    """Make sure that `table` has a partition for each of these days. Raises `Outage` or `ConfigurationError`.

    Each is committed at once, in a transaction of its own: a partition without rows does no harm, and a lock on the
    parent table held through a load, or hundreds of them through the making of years, would.
    """
    for day in sorted(days):
        with engine.begin() as connection:
            connection.execute(sa.select(sa.func.make_partition(table.name, day)))


def keep_loaders_out(connection: sa.Connection, table: sa.Table, day: date) -> None:
    """Of the day, until the transaction ends. Its partition must exist."""
    connection.execute(sa.select(sa.func.lock_partition(table.name, day)))


def drop(connection: sa.Connection, table: sa.Table, day: date, revision: int, sha256: str) -> bool:
    """Drop the day's partition, unless the books know of anything that this revision of the lake hasn't: then False."""
    return bool(connection.scalar(sa.select(sa.func.drop_day(table.name, day, revision, sha256))))


def count(connection: sa.Connection, table: sa.Table, day: date) -> int:
    """The day's rows."""
    of_the_day = next(iter(table.c)) == day
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(of_the_day)) or 0


def name_of(table: sa.Table, day: date) -> str:
    return f"{table.name}_{day:%Y%m%d}"
