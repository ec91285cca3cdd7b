"""The Postgres engine, and the one place where the driver's errors become ours: whoever uses the engine gets `Outage`,
`Contention`, `StatementRefused`, `RowRefused`, `MissingPartition` or `ConfigurationError`."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.string import BytesBinaryDumper

from etl import __version__
from etl.errors import ConfigurationError, Contention, EtlError, MissingPartition, Outage, RowRefused, StatementRefused
from etl.store.pinned import PATIENT, forget_environment, pinning

Engine = sa.Engine
Connection = sa.Connection

# Options for libpq, where the URL sets no others.
_DEFAULTS: dict[str, str | int] = {
    "application_name": "etl",
    "connect_timeout": 5,  # seconds
    "client_encoding": "utf8",  # whatever PGCLIENTENCODING or the database's own is
    # A host that vanished is noticed after a minute, not after the two hours of a system's defaults.
    "keepalives_idle": 30,  # seconds
    "keepalives_interval": 10,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}

_CANCEL_SECONDS = 2.0
_WAIT_FOR_COMMITS = (
    "SELECT set_config(name, 'on', false) FROM pg_settings"
    " WHERE name = 'synchronous_commit' AND setting IN ('off', 'local') AND source <> 'client'"
)
# Every session has this advisory lock, shared: so others know that it's an etl's, whatever its role and its name. It's
# in the register of `etl.store.locks`. Whoever may log in can keep others from one, for whom a number by chance does.
_SESSION = 0x65746C_08
_MARK = (
    "SELECT CASE WHEN NOT pg_try_advisory_lock_shared(%(kind)s, 0)"
    " THEN pg_try_advisory_lock_shared(%(kind)s, (random() * 2147483646)::integer + 1) END"
)

# SQLSTATE classes: data exception, integrity constraint violation. Not 54, program limit exceeded: a server that comes
# near the wraparound of its transaction ids says that of every statement.
_DATA = ("22", "23")
# Feature not supported, schema, syntax or access rule: no waiting will change them.
_CONFIGURATION = ("0A", "3F", "42")
# Serialization failure, deadlock, lock timeout.
IN_THE_WAY = ("40001", "40P01", "55P03")
_CANCELED = "57014"
_CHECK_VIOLATION = "23514"


def connect(url: str, connections: int = 5, timeouts: Mapping[str, str] = PATIENT) -> sa.Engine:
    """A lazy engine for a `postgresql+psycopg://` URL; at most `connections` are open at a time. `timeouts` are those
    of `etl.store.pinned`."""
    forget_environment(os.environ)
    engine = sa.create_engine(
        url,
        poolclass=_Pool,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=False,  # a dead connection is an outage like any other: the step is done again on a new one
        hide_parameters=True,  # a traceback is no place for a message's contents
        isolation_level="READ COMMITTED",  # merging needs each statement to see what others have committed
        connect_args={name: value for name, value in _DEFAULTS.items() if name not in sa.make_url(url).query},
    )
    opened: WeakSet[_Connection] = WeakSet()
    _opened[engine] = opened
    pins = pinning(timeouts)

    def open_one(_dialect: object, _record: object, arguments: Sequence[Any], options: dict[str, Any]) -> _Connection:
        connection = _Connection.connect(*arguments, **options)
        try:
            _prepare(connection, pins)
        except BaseException:
            connection.close()
            raise
        opened.add(connection)
        return connection

    sa.event.listen(engine, "do_connect", open_one)
    sa.event.listen(engine, "handle_error", _translate)
    # Of a connection that breaks, psycopg logs the second error, after it has raised the first.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    # SQLAlchemy names a pool's logger after its class: below "etl" it would speak from info upwards, as we do.
    logging.getLogger(f"{_Pool.__module__}.{_Pool.__name__}").setLevel(logging.WARNING)
    return engine


def rows(engine: sa.Engine, query: sa.Executable, parameters: dict[str, Any] | None = None) -> Sequence[Any]:
    """Of a query, in a transaction of its own."""
    with engine.connect() as connection:
        return connection.execute(query, parameters).all()


def unix_time(engine: sa.Engine) -> float:
    """By the server's clock. Raises `Outage`."""
    ((seconds,),) = rows(engine, sa.text("SELECT extract(epoch FROM clock_timestamp())::float8"))
    return float(seconds)


def read(engine: sa.Engine, query: str) -> tuple[list[str], list[Sequence[object]]]:
    """The column names and the rows of a query."""
    with engine.connect() as connection:
        result = connection.execute(sa.text(query))
        return list(result.keys()), list(result.all())


def cancel_running(engine: sa.Engine) -> None:
    """Have Postgres cancel whatever this engine's connections are running now, from any thread: that is an `Outage` to
    whoever waits for it. What is between two statements, or commits, goes on. Takes a few seconds if Postgres hangs."""
    for connection in list(_opened[engine]):
        connection.cancel_unless_committing()


def waiting_for_standby(engine: sa.Engine, least: float) -> float:
    """For how many seconds the longest commit of this engine has waited for a synchronous standby; 0 if none has for
    `least`. Asks only if one takes so long. Raises `Outage`."""
    now = time.monotonic()
    commits = {
        connection.info.backend_pid: now - since
        for connection in list(_opened[engine])
        if (since := connection.committing_since) is not None and now - since >= least
    }
    if not commits:
        return 0.0
    waiting = sa.text("SELECT pid FROM pg_stat_activity WHERE pid = ANY(:pids) AND wait_event = 'SyncRep'")
    return max((commits[pid] for (pid,) in rows(engine, waiting, {"pids": [*commits]})), default=0.0)


@contextmanager
def translated() -> Iterator[None]:
    """Only for what uses psycopg itself, as COPY does: the engine translates the errors of everything else."""
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error) from error


def _translate(context: sa.engine.ExceptionContext) -> EtlError | None:
    """What SQLAlchemy raises instead of the driver's error."""
    return _ours(context.original_exception) if isinstance(context.original_exception, psycopg.Error) else None


class _Connection(psycopg.Connection[Any]):
    """Can be told by another thread to give up, but never a commit: one that waits for a standby has happened already,
    and would look as if the standby had it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._committing = threading.Lock()
        self.committing_since: float | None = None

    def commit(self) -> None:
        with self._committing:
            self.committing_since = time.monotonic()
            try:
                super().commit()
            finally:
                self.committing_since = None

    def cancel_unless_committing(self) -> None:
        if self.closed or not self._committing.acquire(blocking=False):
            return
        try:
            # Returns when Postgres has sent the signal on, so that none can hit the commit that may follow.
            with contextlib.suppress(psycopg.Error):
                self.cancel_safe(timeout=_CANCEL_SECONDS)
        finally:
            self._committing.release()


_opened: WeakKeyDictionary[sa.Engine, WeakSet[_Connection]] = WeakKeyDictionary()


class _Pool(sa.QueuePool):
    __module__ = sa.QueuePool.__module__  # its log lines are a library's, of which we want warnings only

    def connect(self) -> sa.pool.PoolProxiedConnection:
        try:
            return super().connect()
        except sa.exc.TimeoutError as error:  # no free connection in the pool: all of them hang
            raise Outage("ETL-301", f"Postgres: {error}") from error


def _ours(error: psycopg.Error) -> EtlError:
    state = error.sqlstate or ""
    text = _one_line(error)
    if state in IN_THE_WAY:
        return Contention("ETL-303", f"Postgres: {text}")
    # A trigger may raise the same, and names no table.
    if state == _CHECK_VIOLATION and error.diag.constraint_name is None and error.diag.table_name is not None:
        return MissingPartition("ETL-304", text)
    if state.startswith(_DATA) or isinstance(error, psycopg.DataError):
        return RowRefused("ETL-305", text)
    return _no_rows_fault(error, state, text)


def _no_rows_fault(error: psycopg.Error, state: str, text: str) -> EtlError:
    """Or perhaps a row's: that can't be told from the error."""
    misspelt = not state and isinstance(error, psycopg.ProgrammingError)  # an option in the URL that libpq doesn't know
    if state.startswith(_CONFIGURATION) or misspelt:
        return ConfigurationError("ETL-307", f"Postgres can't do what it was asked: {text}")
    if error.diag.severity_nonlocalized == "ERROR" and state != _CANCELED:  # and not FATAL: the session goes on
        return StatementRefused(text, state)
    if "certificate" in text and not state:
        advice = "name its CA in ETL_DATABASE_CA_FILE, and the host as the certificate does"
        return Outage("ETL-302", f"Postgres: {text}; {advice}")
    return Outage("ETL-301", f"Postgres: {text}")


def _one_line(error: psycopg.Error) -> str:
    return error.diag.message_primary or "; ".join(
        " ".join(line.split()) for line in str(error).splitlines() if line.strip()
    )


class _JsonText(Dumper):
    """JSON that is text already, for a binary COPY into a jsonb column: its format is a version byte and the text."""

    oid = psycopg.adapters.types["jsonb"].oid
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return b"\x01" + bytes(obj)


def _prepare(connection: psycopg.Connection[Any], pins: Sequence[str]) -> None:
    """Before anything else asks or stores: SQLAlchemy asks each new server for its version and schema."""
    connection.adapters.register_dumper(_Json, _JsonText)
    # Or COPY would write each by psycopg's slower one, for `psycopg.Binary`.
    connection.adapters.register_dumper(bytes, BytesBinaryDumper)
    connection.autocommit = True  # or a timeout of the role's could end the transaction before the pins end it
    connection.execute(";".join(pins).encode())
    # The database knows 0.1 by the lack of this setting: that release may still load, and nothing else.
    connection.execute("SELECT set_config('etl.release', %s, false)", [__version__])
    connection.execute(_MARK, {"kind": _SESSION})
    # A claim is acknowledged after the commit: one that a crash of Postgres can undo, or a fail-over to a standby that
    # was to be waited for, would lose it. Who sets it in the URL has said otherwise.
    connection.execute(_WAIT_FOR_COMMITS)
    connection.autocommit = False


class _Json(bytes):
    """Stands in for the Python type of `_JsonText`, which COPY looks up by the column's type."""
