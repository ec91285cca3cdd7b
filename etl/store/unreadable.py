"""Rows that Postgres holds and can't show: the text of their JSON would be larger than the 1 GiB that it gives. The
wire takes none any more, but an archive of 0.1 may have some, and one is enough that a day can't be read.
"""

from datetime import date

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from etl.errors import EtlError
from etl.store.connection import rows
from etl.store.tables import day_column

Table = sa.Table

# Of a day's rows, so many are tried, those that take most room first; and so many are named.
TRIED, NAMED = 500, 3


def names(engine: sa.Engine, table: Table, day: date | None) -> list[str]:
    """The first few such rows of the day, or of a table that has no days, by their keys. Raises `Outage`."""
    found: list[str] = []
    for column in (column for column in table.c if isinstance(column.type, JSONB)):
        size = sa.func.pg_column_size(column)
        largest = sa.select(*table.primary_key.columns).where(column.is_not(None)).order_by(size.desc()).limit(TRIED)
        for key in rows(engine, largest if day is None else largest.where(day_column(table) == day)):
            if len(found) == NAMED:
                break
            same = [which == value for which, value in zip(table.primary_key.columns, key, strict=True)]
            try:
                rows(engine, sa.select(sa.func.octet_length(sa.cast(column, sa.Text))).where(*same))
            except EtlError:
                found.append(" ".join(map(str, key)))
    return found


def reason(engine: sa.Engine, table: Table, day: date | None, error: EtlError) -> str:
    """What the error says, and which rows it is about, as far as can be found out."""
    try:
        found = names(engine, table, day)
    except EtlError:
        found = []
    return f"{error.text}; Postgres can't show the text of row {', nor of row '.join(found)}" if found else error.text
