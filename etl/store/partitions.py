"""One partition a day, made when its first row appears, dropped when the lake has it.

Only the tables' owner can do either. So the migrations have functions that run with the owner's rights, which loaders
may call.
"""

from collections.abc import Callable, Collection, Iterable
from datetime import date

import sqlalchemy as sa

from etl.errors import ClocksDisagree, StatementRefused
from etl.store.connection import rows
from etl.store.tables import day_column

# So many days after today, by Postgres' clock, may have a partition: make_partition has the same number, and the
# schedule makes them.
DAYS_AHEAD = 2
# The SQLSTATE with which it refuses a later one.
_TOO_FAR_AHEAD = "P0926"


def missing(engine: sa.Engine, table: sa.Table, days: Iterable[date]) -> list[date]:
    """Of these days, those without a partition, in order. Raises `Outage`."""
    return [day for (day,) in rows(engine, _MISSING, {"table": table.name, "days": [*days]})]


# By the catalogs, and not by to_regclass: that a table is missing would stay in the session's cache, where
# make_partition finds it although somebody else has made the table while it waited.
_MISSING = sa.text(
    "SELECT day FROM unnest(CAST(:days AS date[])) AS day WHERE NOT EXISTS ("
    " SELECT FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid"
    " WHERE relname = :table || to_char(day, '_YYYYMMDD') AND inhparent = to_regclass(:table)"
    " AND NOT inhdetachpending) ORDER BY day"
)


def ensure(
    engine: sa.Engine, table: sa.Table, days: Iterable[date], before_each: Callable[[], None] = lambda: None
) -> None:
    """Make sure that `table` has a partition for each of these days. Raises `Outage` or `ConfigurationError`. A day too
    far ahead is an `Outage` too: no row with that day is at fault as long as a clock may be.

    Years of days take minutes: what `before_each` raises ends it, and those that were made stay.

    Each has a transaction of its own: an empty partition does no harm, but a lock on the parent table for the length
    of a load would, and so would the hundreds of locks that years of partitions take.
    """
    for day in missing(engine, table, days):
        before_each()
        try:
            with engine.begin() as connection:
                connection.execute(sa.select(sa.func.make_partition(table.name, day)))
        except StatementRefused as refusal:
            if refusal.sqlstate != _TOO_FAR_AHEAD:
                raise
            raise clocks_disagree(refusal.text) from refusal


def clocks_disagree(found: str) -> ClocksDisagree:
    """Of what can't be stored until they agree."""
    return ClocksDisagree(
        "ETL-926", f"{found}: set Postgres' clock if it's behind, or Redis' and this host's if they are ahead"
    )


def drop(connection: sa.Connection, table: sa.Table, day: date, revision: int, sha256: str) -> bool:
    """Drop the day's partition; False if by the books this revision of the lake lacks anything: then it stays."""
    return bool(connection.scalar(sa.select(sa.func.drop_day(table.name, day, revision, sha256))))


def count(connection: sa.Connection, table: sa.Table, day: date) -> int:
    """The day's rows."""
    of_the_day = day_column(table) == day
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(of_the_day)) or 0


def with_rows(engine: sa.Engine, table: sa.Table, but: Collection[date]) -> list[date]:
    """The days whose partitions have any rows, but those of `but`, which aren't looked at. Raises `Outage`."""
    children = sa.text(
        "SELECT to_date(right(relname, 8), 'YYYYMMDD') FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = to_regclass(:table) AND relname ~ '_[0-9]{8}$' AND pg_relation_size(inhrelid) > 0"
    )
    with engine.connect() as connection:
        days = [day for day in connection.scalars(children, {"table": table.name}) if day not in but]
        return [day for day in days if _has_rows(connection, table, day)]


def _has_rows(connection: sa.Connection, table: sa.Table, day: date) -> bool:
    connection.rollback()  # a transaction for each, so that the locks of all of them aren't held at once
    return bool(connection.scalar(sa.select(sa.exists().where(day_column(table) == day))))


def name_of(table: sa.Table, day: date) -> str:
    return f"{table.name}_{day:%Y%m%d}"
