"""What Postgres still has of somebody: every table of the archive's schemas, of `reporting`, and of the schemas that
`etl restore --into` made, by the catalog and not by `etl.store.tables`, so that a column that is added next month is
looked through, too.

A table at a time, and of partitioned ones a partition, each in a transaction of its own: however many days there are,
one is locked at once. All of its rows are read.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import sqlalchemy as sa
from psycopg import sql

from etl.errors import EtlError
from etl.store.connection import rows
from etl.store.copy import copy_out
from etl.store.tables import PARTITIONED, STAGING
from etl.wire.remains import Hit, Sought, rows_of

# What holds no text and no number of a telephone; nor do arrays of it.
_NEVER = r"^_?(bool|date|interval|oid|time|timestamp|timetz|timestamptz|uuid|xid)$"
# Arrays of numbers: one of them may be somebody's, and several that follow each other are no number.
_NUMBERS = r"^_(int2|int4|int8|float4|float8|numeric)$"
_DAY = re.compile(r"(?P<table>.+)_(?P<day>[0-9]{8})")

_COPIES = sa.text(
    "SELECT n.nspname, c.relname,"
    "  ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)::text[]"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relname = ANY(:names) AND c.relkind = 'r' AND NOT c.relispartition AND c.relpersistence <> 't'"
    " AND n.nspname <> current_schema() ORDER BY n.nspname, c.relname"
)
_PLACES = sa.text(
    "SELECT n.nspname, c.relname, p.relname AS parent, ARRAY("
    "  SELECT ARRAY[a.attname, t.typname, (a.attnum = ANY(i.indkey))::text]::text[] FROM pg_attribute a"
    "  JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary"
    "  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
    " ) AS columns"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_inherits h ON h.inhrelid = c.oid AND c.relispartition LEFT JOIN pg_class p ON p.oid = h.inhparent"
    " WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'"
    " AND (n.nspname = current_schema() OR n.nspname = ANY(:schemas)) ORDER BY n.nspname, c.relname"
)
# Samples of values, of the tables and of their indexes' expressions: each column's as one text, a letter between two.
_SAMPLES = (
    "SELECT coalesce(t.oid, c.oid)::regclass::text, s.schemaname, s.tablename, s.attname, said.text"
    " FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname"
    " JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename"
    " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname JOIN pg_type y ON y.oid = a.atttypid"
    " LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.oid = i.indrelid"
    " CROSS JOIN LATERAL (SELECT string_agg("
    "  CASE WHEN y.typname = 'bytea' THEN encode(each::bytea, 'escape')"
    "  WHEN y.typname ~ {numbers} THEN replace(each, ',', ' x ') ELSE each END, ' x ') AS text"
    "  FROM unnest(s.most_common_vals::text::text[] || s.histogram_bounds::text::text[]"
    "  || s.most_common_elems::text::text[]) AS each) AS said"
    " WHERE (s.schemaname = current_schema() OR s.schemaname IN ({schemas})) AND c.relpersistence <> 't'"
    " AND y.typname !~ {never}"
)
# However a role would have queries planned: those of many catalogs take minutes if it forbids what joins them fast.
_PLAN_AS_EVER = sa.text(
    "SELECT set_config(name, boot_val, true) FROM pg_settings"
    " WHERE category LIKE 'Query Tuning%' AND context = 'user' AND setting <> boot_val"
)
_IS_THERE = sa.text(
    "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = :schema AND c.relname = :name"
)


class Column(NamedTuple):
    """A column, its type by Postgres' name, and whether it's part of the primary key."""

    name: str
    kind: str
    is_key: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A table, or a day's partition of one: `name` is Postgres', `table` the one that it's part of."""

    schema: str
    name: str
    columns: tuple[Column, ...]
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
    try:
        # One statement is one transaction: a begin and an end of their own for each day of ten years take longer.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield from _search(connection, place, sought, read)
    except EtlError:
        if rows(engine, _IS_THERE, {"schema": place.schema, "name": place.name}):
            raise


def samples(
    engine: sa.Engine, sought: Sought, read: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[str, str, list[Hit]]]:
    """What Postgres' planner remembers of columns until the next ANALYZE, in pg_stats: each column that has any hits,
    by its table's name, its own and these. Only of tables that this user may read. Raises `EtlError`."""
    schemas = ["reporting", STAGING, *(str(copy.schema) for copy in copies(engine))]
    query = sql.SQL(_SAMPLES).format(
        schemas=sql.SQL(", ").join(map(sql.Literal, schemas)),
        never=sql.Literal(_NEVER),
        numbers=sql.Literal(_NUMBERS),
    )
    with engine.begin() as connection:
        connection.execute(_PLAN_AS_EVER)
        for piece in copy_out(connection, query.as_string()):
            read(len(piece))
            for table, schema, name, column, text in rows_of(piece) if sought.may_be_in(piece) else ():
                if hits := sought.hits([("sample", text)]):
                    yield table, f"{schema}.{name}.{column}", hits


def samples_by_column(
    engine: sa.Engine, sought: Sought, read: Callable[[int], None]
) -> Iterator[tuple[str, list[Hit]]]:
    """As `search` has it."""
    yield from ((column, hits) for _, column, hits in samples(engine, sought, read))


def sample_anew(engine: sa.Engine, sought: Sought) -> None:
    """ANALYZE each table of which Postgres' samples tell of somebody, whose rows don't any more. Raises `EtlError`."""
    for table in sorted({table for table, _, _ in samples(engine, sought)}):
        with engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL vacuum_cost_delay = 0"))  # a role may have it rest after each page
            connection.execute(sa.text(f"ANALYZE {table}".replace(":", r"\:")))  # quoted by Postgres


def _place(schema: str, name: str, parent: str | None, columns: Sequence[Sequence[str | None]]) -> Place:
    found = _DAY.fullmatch(name) if parent else None
    day = date.fromisoformat(found["day"]) if found else None
    known = tuple(Column(str(each), str(kind), is_key == "true") for each, kind, is_key in columns)
    return Place(schema, name, known, parent or name, day)


def _search(
    connection: sa.Connection, place: Place, sought: Sought, read: Callable[[int], None]
) -> Iterator[tuple[str, list[Hit]]]:
    names = [column.name for column in place.columns]
    keys = {column.name for column in place.columns if column.is_key}
    searched = {column.name for column in place.columns if not re.match(_NEVER, column.kind)}
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join([sql.SQL("ctid::text"), *map(_as_text, place.columns)]),
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


def _as_text(column: Column) -> sql.Composable:
    name = sql.Identifier(column.name)
    if column.kind == "bytea":
        return sql.SQL("pg_catalog.encode({}, 'escape')").format(name)
    if re.match(_NUMBERS, column.kind):
        return sql.SQL("pg_catalog.replace({}::text, ',', ' x ')").format(name)
    return sql.SQL("{}::text").format(name)
