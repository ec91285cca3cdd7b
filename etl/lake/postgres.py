"""Rows out of Postgres and into it as Arrow batches, in one snapshot that the store took."""

import contextlib
from collections.abc import Iterable, Iterator

import adbc_driver_manager
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from etl.errors import Outage


@contextlib.contextmanager
def stream(uri: str, snapshot: str, query: str) -> Iterator[pa.RecordBatchReader]:
    """The rows of a query as they were in an exported snapshot, batch by batch. Raises `Outage`."""
    with _translated(), dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        cursor.execute(query)
        with cursor.fetch_record_batch() as reader:
            yield reader


def ingest(uri: str, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Append to a table that exists, and commit; returns how many rows. Raises `Outage`."""
    with _translated(), dbapi.connect(uri) as connection, connection.cursor() as cursor:
        rows: int = cursor.adbc_ingest(table, pa.RecordBatchReader.from_batches(schema, batches), mode="append")
        connection.commit()
    return rows


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except adbc_driver_manager.Error as error:
        raise Outage(f"Postgres: {' '.join(str(error).split())}") from error
