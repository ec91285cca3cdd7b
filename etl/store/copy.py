"""COPY: rows into a table, binary, at the speed of the server; and rows out of it as text.

Rows that go in are tuples of what `etl.wire` makes: days and times are integers since 2000, as Postgres has them
inside, so they are sent as int4 and int8; UUIDs are sent as their 16 bytes, JSON as its text.
"""

from collections.abc import Generator, Iterable, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.postgresql import JSONB

from etl.errors import RowRefused
from etl.store.connection import translated
from etl.wire.times import EPOCH

_FIRST_DAY = EPOCH.toordinal()
# Of a binary COPY, as Postgres documents it: the signature, no flags, no extension; and where a row would begin, -1.
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"

# psycopg hands rows over one by one: as many as this many bytes go on together.
_PIECE_BYTES = 256 * 1024

# Only psycopg uses these, to write the Python values: Postgres reads a COPY by the table's types.
_WRITTEN_AS: list[tuple[type[sa.types.TypeEngine[Any]], str]] = [
    (sa.Date, "int4"),
    (sa.DateTime, "int8"),
    (sa.Uuid, "bytea"),
    (JSONB, "jsonb"),
    (sa.LargeBinary, "bytea"),
    (sa.BigInteger, "int8"),
    (sa.Integer, "int4"),
    (sa.Text, "text"),
]


def copy_rows(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    packed: bytes | memoryview | None = None,
) -> None:
    """Insert `rows`, given in the order of `columns`, in the connection's transaction; and those that are `packed` as
    Postgres reads them, see `etl.wire.packed`.

    Raises as the engine does, and `RowRefused` for a value that can't be written.
    """
    driver = cast(psycopg.Connection[Any], connection.connection.driver_connection)
    statement, types = _copy_into(table, tuple(columns))
    try:
        with translated(), driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(types)
            is_empty = True
            if packed:  # before the rows, after the last of which psycopg writes the trailer
                copy.write(_HEADER)
                copy.write(packed)
            write = copy.write_row
            for row in rows:
                write(row)
                is_empty = False
            if packed and is_empty:
                copy.write(_TRAILER)
    except (ValueError, OverflowError) as error:
        raise RowRefused("ETL-306", f"a value can't be written: {type(error).__name__}") from error


@lru_cache(maxsize=64)  # some tables are made for one claim
def _copy_into(table: sa.Table, columns: tuple[str, ...]) -> tuple[bytes, list[str]]:
    """The statement, and as what psycopg writes the values."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(*filter(None, (table.schema, table.name))), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    return statement.as_bytes(), [_written_as(table.c[name]) for name in columns]


def copy_out(connection: sa.Connection, query: str) -> Generator[bytes]:
    """A query's rows as CSV in UTF-8, every field quoted but null, in pieces that end where rows end.

    In the connection's transaction. Whoever closes this before its end cancels the query: then the transaction can do
    nothing more. Raises `Outage` and whatever else `translated` makes of the driver's errors.
    """
    driver = cast(psycopg.Connection[Any], connection.connection.driver_connection)
    # The encoding is said here: no role, environment or server has a say in it.
    statement = f"COPY ({query}) TO STDOUT (FORMAT csv, FORCE_QUOTE *, ENCODING 'UTF8')"
    with translated(), driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        rows: list[bytes | bytearray | memoryview] = []
        size = 0
        for row in copy:
            rows.append(row)
            size += len(row)
            if size >= _PIECE_BYTES:
                yield b"".join(rows)
                rows, size = [], 0
        yield b"".join(rows)


def as_date(day: int) -> date:
    """A row's day as a date."""
    return date.fromordinal(_FIRST_DAY + day)


def _written_as(column: sa.Column[Any]) -> str:
    return next(name for kind, name in _WRITTEN_AS if isinstance(column.type, kind))
