"""Rows out of Postgres and into it as Arrow batches, in one snapshot that the store took."""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import adbc_driver_manager
import pyarrow as pa
from adbc_driver_postgresql import StatementOptions, dbapi

from etl.errors import Outage

# A few thousand rows: what is in flight is little memory, and Postgres is never kept waiting.
BATCH_BYTES = 4 * 1024 * 1024
BATCHES_AHEAD = 4


@contextlib.contextmanager
def stream(uri: str, snapshot: str, query: str) -> Iterator[Iterator[pa.RecordBatch]]:
    """The rows of a query as they were in an exported snapshot, batch by batch. Raises `Outage`."""
    with _translated(), dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(BATCH_BYTES)})
        cursor.execute(query)
        with cursor.fetch_record_batch() as reader, ThreadPoolExecutor(1, "read") as pool:
            yield _ahead(reader, pool)


def _ahead(reader: pa.RecordBatchReader, pool: ThreadPoolExecutor) -> Iterator[pa.RecordBatch]:
    """The same batches; the next ones are received while one is worked on."""
    coming = deque(pool.submit(_next, reader) for _ in range(BATCHES_AHEAD))
    while (batch := coming.popleft().result()) is not None:
        coming.append(pool.submit(_next, reader))
        yield batch


def _next(reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    with _translated():
        return next(reader, None)


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
