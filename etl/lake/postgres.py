"""Rows out of Postgres and into it as Arrow batches, in one snapshot that the store took.

ADBC's low-level interface: its other one, dbapi, brings pandas and Polars along wherever they are installed, and with
them half a second and 64 MB for each process.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import AdbcConnection, AdbcDatabase, AdbcStatement

from etl import urls
from etl.errors import Outage
from etl.store.pinned import PATIENT, pinning
from etl.store.tables import STAGING

# A few thousand rows: what is in flight is little memory, and Postgres is never kept waiting.
BATCH_BYTES = 4 * 1024 * 1024
BATCHES_AHEAD = 4


@contextlib.contextmanager
def stream(uri: str, snapshot: str, query: str) -> Iterator[Iterator[pa.RecordBatch]]:
    """The rows of a query as they were in an exported snapshot, batch by batch. Raises `Outage`."""
    batch_bytes = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
    with _translated(), _connected(uri) as connection:
        for setting in (
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            f"SET TRANSACTION SNAPSHOT '{snapshot}'",
        ):
            with AdbcStatement(connection) as statement:
                statement.set_sql_query(setting)
                statement.execute_update()
        with AdbcStatement(connection) as statement:
            statement.set_options(**{batch_bytes: str(BATCH_BYTES)})
            statement.set_sql_query(query)
            rows, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(rows) as reader, ThreadPoolExecutor(1, "read") as pool:
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
    """Append to a staging table that exists, and commit; returns how many rows. Raises `Outage`."""
    options = {
        adbc_driver_manager.StatementOptions.INGEST_TARGET_DB_SCHEMA.value: STAGING,
        adbc_driver_manager.INGEST_OPTION_TARGET_TABLE: table,
        adbc_driver_manager.INGEST_OPTION_MODE: adbc_driver_manager.INGEST_OPTION_MODE_APPEND,
    }
    with _translated(), _connected(uri) as connection, AdbcStatement(connection) as statement:
        statement.set_options(**options)
        statement.bind_stream(pa.RecordBatchReader.from_batches(schema, batches))
        rows: int = statement.execute_update()
        connection.commit()
    return rows


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[AdbcConnection]:
    """In a transaction, which is rolled back unless it's committed."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(_pinned(uri))
        if not _knows_types(connection):
            connection = stack.enter_context(_pinned(_with_names_as_they_are(uri)))
        connection.set_autocommit(False)
        yield connection


@functools.cache
def _database(uri: str) -> AdbcDatabase:
    """Without a connection. Making one reads the columns of all tables there are, and so of every day of the archive:
    once for a process, and not once for each day that it exports."""
    database: AdbcDatabase = adbc_driver_postgresql.connect(uri)
    return database


@contextlib.contextmanager
def _pinned(uri: str) -> Iterator[AdbcConnection]:
    with AdbcConnection(_database(uri)) as connection:
        for pin in pinning(PATIENT):
            with AdbcStatement(connection) as statement:
                statement.set_sql_query(pin)
                statement.execute_update()
        yield connection


def _knows_types(connection: AdbcConnection) -> bool:
    """The driver learns Postgres' types by their functions' names in a session of its own, which nobody can pin."""
    with AdbcStatement(connection) as statement:
        statement.set_sql_query("SELECT 1::int4, ''::text, date '2000-01-01', timestamptz '2000-01-01 00:00Z'")
        rows, _ = statement.execute_query()
        with pa.RecordBatchReader.from_stream(rows) as reader:
            return bool(reader.schema.types == [pa.int32(), pa.string(), pa.date32(), pa.timestamp("us", "UTC")])


def _with_names_as_they_are(uri: str) -> str:
    """Where a role or database quotes or hides those names, its sessions are told otherwise on the way in. Not always,
    since poolers refuse that."""
    said = urls.split(uri).options.get("options", [""])[-1]
    options = quote(f"{said} -c quote_all_identifiers=off -c search_path=pg_catalog".strip())
    return f"{uri}{'&' if '?' in uri else '?'}options={options}"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except adbc_driver_manager.Error as error:
        raise Outage("ETL-301", f"Postgres: {' '.join(str(error).split())}") from error
