"""What a day of each dataset looks like in the lake: its columns in Arrow's types, its rows in their order.

The day itself is not a column of the file: it stands in the folder's name, as Hive-partitioned datasets have it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from etl.store.tables import CDR_KEY, EVENT_KEY, PARTITIONED

_REPEATED = pa.dictionary(pa.int32(), pa.string())
# The day's number among the columns of an Iceberg table; and where pyarrow has a column's.
DAY_ID = 1
_FIELD_ID = "PARQUET:field_id"


@dataclass(frozen=True)
class Dataset:
    """A partitioned table as the lake has it."""

    table: sa.Table
    time: str  # the column that the rows are ordered by, before their identity
    key: tuple[str, ...]  # identity within a day
    repeated: frozenset[str]  # text columns with few different values

    @property
    def name(self) -> str:
        return str(self.table.name)

    @property
    def day(self) -> str:
        """The day's column."""
        return str(next(iter(self.table.c)).name)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns that the rows of a file are ordered by."""
        return (self.time, *self.key)

    @cached_property
    def schema(self) -> pa.Schema:
        """The file's columns, each with its comment in Postgres as metadata."""
        return pa.schema([self._field(column) for column in self._columns()])

    @cached_property
    def plain(self) -> pa.Schema:
        """The same without dictionaries, and without comments: as rows travel from and to Postgres."""
        return pa.schema(
            [pa.field(field.name, pa.string() if field.type == _REPEATED else field.type) for field in self.schema]
        )

    def fingerprint(self, schema: pa.Schema | None = None) -> str:
        """Of the columns, or of those that a file has: another one for each name, type or order."""
        columns = [[field.name, str(field.type), field.nullable] for field in schema or self.schema]
        return hashlib.sha256(json.dumps([self.name, columns]).encode()).hexdigest()

    def query(self, day: date) -> str:
        """The day's rows in the order of the lake, which no collation changes; the columns as in `plain`."""
        columns = ", ".join(self._expression(column) for column in self._columns())
        order = ", ".join(self._ordering(name) for name in self.order)
        return f"SELECT {columns} FROM {self.name} WHERE {self.day} = '{day.isoformat()}' ORDER BY {order}"  # noqa: S608

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Of the columns: the table's order, to whose end new ones come."""
        return {column.name: number for number, column in enumerate(self.table.c, DAY_ID)}

    def _columns(self) -> Iterator[sa.Column[object]]:
        return (column for column in self.table.c if column.name != self.day)

    def _field(self, column: sa.Column[object]) -> pa.Field:
        kind = _REPEATED if column.name in self.repeated else _arrow_type(column)
        about = {"comment": column.comment or "", _FIELD_ID: str(self._numbers[column.name])}
        return pa.field(column.name, kind, bool(column.nullable), about)

    def _expression(self, column: sa.Column[object]) -> str:
        return f"{column.name}::text AS {column.name}" if isinstance(column.type, JSONB | sa.Uuid) else column.name

    def _ordering(self, name: str) -> str:
        column = f"{self.name}.{name}"  # the table's own, not the text that is selected under its name
        return f'{column} COLLATE "C"' if isinstance(self.table.c[name].type, sa.Text) else column


def field_id(field: pa.Field) -> int:
    """The number by which engines know a column of the file, whatever its name."""
    return int(field.metadata[_FIELD_ID.encode()])


def _arrow_type(column: sa.Column[object]) -> pa.DataType:
    match column.type:
        case sa.Date():
            return pa.date32()
        case sa.DateTime():
            return pa.timestamp("us", "UTC")
        case sa.BigInteger():
            return pa.int64()
        case sa.Integer():
            return pa.int32()
        case _:  # text; and UUIDs and JSON, which every reader understands as text
            return pa.string()


DATASETS = {
    "cdrs": Dataset(
        PARTITIONED["cdrs"],
        "dialed_at",
        CDR_KEY[1:],
        frozenset({"source", "call_dir", "extension", "dial_number", "campaign_ref", "end_reason", "batch_id"}),
    ),
    "audit_events": Dataset(
        PARTITIONED["audit_events"],
        "captured_at",
        EVENT_KEY[1:],
        frozenset(
            {
                "origin",
                "channel",
                "kind",
                "reference",
                "event_type",
                "status",
                "campaign_ref",
                "extension",
                "batch_id",
            }
        ),
    ),
}
