"""What Postgres still has of somebody: every table of the archive's schemas, of `reporting`, and of the schemas that
`etl restore --into` made, by the catalog and not by `etl.store.tables`, so that a column that is added next month is
looked through, too.

A table at a time, and of partitioned ones a partition, each in a transaction of its own: however many days there are,
one is locked at once. All of its rows are read.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from psycopg import sql

from etl.errors import EtlError
from etl.store.connection import rows
from etl.store.copy import copy_out
from etl.store.tables import PARTITIONED, STAGING
from etl.wire.remains import Hit, Sought, rows_of

# What holds no text and no number of a telephone.
_NEVER = r"^(bool|date|interval|oid|time|timestamp|timetz|timestamptz|uuid|xid)$"
_DAY = re.compile(r"(?P<table>.+)_(?P<day>[0-9]{8})")

_COPIES = sa.text(
    "SELECT n.nspname, c.relname,"
    "  ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)::text[]"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relname = ANY(:names) AND c.relkind = 'r' AND NOT c.relispartition AND c.relpersistence <> 't'"
    " AND n.nspname <> current_schema() ORDER BY n.nspname, c.relname"
)
_PLACES = sa.text(
    "SELECT n.nspname, c.relname, (SELECT p.relname FROM pg_inherits JOIN pg_class p ON p.oid = inhparent"
    "  WHERE inhrelid = c.oid AND c.relispartition)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'"
    " AND (n.nspname = current_schema() OR n.nspname = ANY(:schemas)) ORDER BY n.nspname, c.relname"
)
_COLUMNS = sa.text(
    "SELECT a.attname, t.typname, a.attnum = ANY(i.indkey) FROM pg_attribute a"
    " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary"
    " WHERE n.nspname = :schema AND c.relname = :name AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)


@dataclass(frozen=True, slots=True)
class Place:
    """A table, or a day's partition of one: `name` is Postgres', `table` the one that it's part of."""

    schema: str
    name: str
    table: str
    day: date | None = None

    @property
    def of(self) -> str:
        """The whole table."""
        return f"{self.schema}.{self.table}"

    def __str__(self) -> str:
        return f"{self.of} {self.day}" if self.day else self.of


def copies(engine: sa.Engine) -> list[sa.Table]:
    """Tables of other schemas that `etl restore --into` made of ours, with those columns of ours that they have. Raises
    `Outage`."""
    found = []
    for schema, name, columns in rows(engine, _COPIES, {"names": [*PARTITIONED]}):
        ours = PARTITIONED[name]
        if {*ours.primary_key.columns.keys()} <= {*columns}:
            there = [sa.Column(c.name, c.type, primary_key=c.primary_key) for c in ours.c if c.name in columns]
            found.append(sa.Table(name, sa.MetaData(), *there, schema=schema))
    return found


def places(engine: sa.Engine) -> list[Place]:
    """All that is to be looked through. Raises `Outage`."""
    schemas = ["reporting", STAGING, *(str(copy.schema) for copy in copies(engine))]
    return [_place(*row) for row in rows(engine, _PLACES, {"schemas": schemas})]


def search(
    engine: sa.Engine, place: Place, sought: Sought, read: Callable[[int], None]
) -> Iterator[tuple[str, list[Hit]]]:
    """Each row that has any hits: its key, and these. `read` hears of bytes. A table that is no more has none. Raises
    `EtlError` if it can't be read to its end."""
    columns = rows(engine, _COLUMNS, {"schema": place.schema, "name": place.name})
    try:
        with engine.connect() as connection:
            if columns:
                yield from _search(connection, place, [tuple(each) for each in columns], sought, read)
    except EtlError:
        if rows(engine, _COLUMNS, {"schema": place.schema, "name": place.name}):
            raise


def _place(schema: str, name: str, parent: str | None) -> Place:
    found = _DAY.fullmatch(name) if parent else None
    day = date.fromisoformat(found["day"]) if found else None
    return Place(schema, name, parent or name, day)


def _search(
    connection: sa.Connection,
    place: Place,
    columns: list[tuple[str, str, bool | None]],
    sought: Sought,
    read: Callable[[int], None],
) -> Iterator[tuple[str, list[Hit]]]:
    names = [name for name, _, _ in columns]
    keys = {name for name, _, is_key in columns if is_key}
    searched = {name for name, kind, _ in columns if not re.match(_NEVER, kind)}
    query = sql.SQL("SELECT ctid::text, {} FROM {}").format(
        sql.SQL(", ").join(_as_text(name, kind) for name, kind, _ in columns),
        sql.Identifier(place.schema, place.name),
    )
    for piece in copy_out(connection, query.as_string()):
        read(len(piece))
        if not sought.may_be_in(piece):
            continue
        for ctid, *fields in rows_of(piece):
            row = [*zip(names, fields, strict=True)]
            if hits := sought.hits([each for each in row if each[0] in searched]):
                tell = {hit.column for hit in hits}
                # Where the key itself tells of them, the row goes by its place.
                key = "" if tell & keys else " ".join(value for name, value in row if name in keys)
                yield key or f"ctid {ctid}", hits


def _as_text(name: str, kind: str) -> sql.Composable:
    column = sql.Identifier(name)
    if kind == "bytea":
        return sql.SQL("pg_catalog.encode({}, 'escape')").format(column)
    return sql.SQL("{}::text").format(column)
