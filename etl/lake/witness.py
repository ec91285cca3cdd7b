"""The second pair of eyes: does a file of the lake hold what Postgres holds, as readers see it who have nothing to do
with its writer? ADBC and pyarrow wrote it; DuckDB reads it, psycopg reads Postgres, and what they read is compared.

Both write the same rows in the lake's order as the same CSV: one field a column, quoted unless it's null; times as
microseconds and dates as days since 1970, bytes as hexadecimal digits. No setting of a session has a say in any of it.
The streams are compared while they come. Only where they part, rows are looked at.

DuckDB doesn't check the checksums of pages. The one of the whole file, which the books have, is a matter of `verify`.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import date
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from etl.errors import LakeError
from etl.lake import rowwise
from etl.lake.datasets import Dataset
from etl.lake.difference import MOST_DIFFERENCES, Difference

if TYPE_CHECKING:
    import duckdb

# Nothing comes from the net, nothing goes to a disk, and nobody's home is looked at.
_CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "enable_external_file_cache": "false",
    "temp_directory": "",
    # One thread writes the rows as they lie in the file and holds few of them; a second one would run ahead of it, into
    # the limit.
    "threads": "1",
    "async_threads": "1",
    "memory_limit": "192MB",
}
_PIPE_BYTES = 1024 * 1024  # what an unprivileged process may ask Linux for; a pipe's own 64 kB make both sides wait
# Longer than any of DuckDB's reasons that are of use; its text may quote a whole value.
_REASON = 300


class _Form(NamedTuple):
    """How a type of column is told. `{}` is the column's quoted name."""

    duckdb: str  # DuckDB's name of the type that the file must have
    in_postgres: str
    in_file: str


_PLAIN = "{}"
# Null stays null. What isn't finite is a word in Postgres' numbers; DuckDB has no number for it, only the word.
_TIME = _Form(
    "TIMESTAMP WITH TIME ZONE",
    "trunc(extract(epoch FROM {}) * 1000000)",
    "coalesce(epoch_us({0})::VARCHAR, replace({0}::VARCHAR, 'inf', 'Inf'))",
)
_DATE = _Form(
    "DATE",
    "trunc(extract(epoch FROM {}) / 86400)",
    "CASE WHEN isfinite({0}) THEN ({0} - DATE '1970-01-01')::VARCHAR ELSE replace({0}::VARCHAR, 'inf', 'Inf') END",
)
_FORMS: list[tuple[type[sa.types.TypeEngine[Any]], _Form]] = [
    (sa.DateTime, _TIME),
    (sa.Date, _DATE),
    (sa.BigInteger, _Form("BIGINT", _PLAIN, _PLAIN)),
    (sa.Integer, _Form("INTEGER", _PLAIN, _PLAIN)),
    (sa.LargeBinary, _Form("BLOB", "encode({}, 'hex')", "lower(hex({}))")),
    (JSONB, _Form("VARCHAR", "{}::text", _PLAIN)),
    (sa.Uuid, _Form("VARCHAR", "{}::text", _PLAIN)),
    (sa.Text, _Form("VARCHAR", _PLAIN, _PLAIN)),
]


def query(dataset: Dataset, day: date) -> str:
    """The day's rows in Postgres, for `etl.store.copy.copy_out`."""
    columns = ", ".join(_form(column).in_postgres.format(f'"{column.name}"') for column in _columns(dataset))
    order = ", ".join(_ordered_by(dataset.table.c[name]) for name in dataset.order)
    return f"SELECT {columns} FROM {dataset.name} WHERE {dataset.day} = '{day.isoformat()}' ORDER BY {order}"  # noqa: S608


def validate(place: str | Path) -> int:
    """Decode every value of every column, texts as strict UTF-8; returns how many rows there are.

    `place` may be /dev/fd/N, of a file that has no name any more. Raises `LakeError` with the place and the reason.
    """
    with _opened(place) as (db, file):
        # A hash needs every byte. (DuckDB counts rows, nulls, and the bytes of most texts without looking at them.)
        hashes = "".join(f", bit_xor(hash({_quoted(name)}))" for name in _described(db, file))
        row = db.execute(f"SELECT count(*){hashes} FROM {file}").fetchone()  # noqa: S608
        return int(row[0]) if row else 0


def compare(place: str | Path, dataset: Dataset, day: date, copied: Generator[bytes]) -> list[Difference]:
    """The first differences between the file and what Postgres copied for `query`, in pieces that end where rows end;
    none if they are equal, row by row in the lake's order. A column that the file lacks, since an older release wrote
    it, is null in every row.

    `copied` is closed, before its end if there are differences. Raises `LakeError` for the file and whatever `copied`
    raises.
    """
    with contextlib.closing(copied), _piped() as (readable, sink), _opened(place, sink) as (db, file):
        there = _described(db, file)
        differences = list(_schema(dataset, there))
        if not differences:
            statement = f"COPY ({_select(dataset, there, file)}) TO '{sink.path}' ({_CSV})"
            with _written(db, statement, readable, sink) as theirs:
                differences = list(islice(_differing(dataset, copied, theirs), MOST_DIFFERENCES))
        return [Difference(dataset.name, day, *each) for each in differences]


@contextlib.contextmanager
def every_text(place: str | Path) -> Iterator[tuple[list[str], Iterator[bytes]]]:
    """The file's columns but times, whoever wrote it; and its rows as CSV, each with its number before them, in pieces
    that end anywhere. `place` as for `validate`. Raises `LakeError`, while it's read too."""
    with _piped() as (readable, sink), _opened(place, sink) as (db, file):
        columns = [name for name, kind in _described(db, file).items() if not kind.startswith(_TIMES)]
        texts = "".join(f", {_quoted(name)}::VARCHAR" for name in columns)
        numbered = f"SELECT row_number() OVER (){texts} FROM {file}"  # noqa: S608
        with _written(db, f"COPY ({numbered}) TO '{sink.path}' ({_CSV})", readable, sink) as stream:
            yield columns, iter(lambda: stream.read(_PIPE_BYTES), b"")


_TIMES = ("BOOLEAN", "DATE", "INTERVAL", "TIME", "TIMESTAMP")
_CSV = "FORMAT csv, HEADER false, FORCE_QUOTE *, USE_TMP_FILE false"


def _columns(dataset: Dataset) -> list[sa.Column[Any]]:
    return [column for column in dataset.table.c if column.name != dataset.day]


def _form(column: sa.Column[Any]) -> _Form:
    for kind, form in _FORMS:
        if isinstance(column.type, kind):
            return form
    raise TypeError(f"{column.table.name}.{column.name}: there is no form to compare a {column.type!r} in")


def _ordered_by(column: sa.Column[Any]) -> str:
    name = f'{column.table.name}."{column.name}"'
    return f'{name} COLLATE "C"' if isinstance(column.type, sa.Text) else name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _described(db: "duckdb.DuckDBPyConnection", file: str) -> dict[str, str]:
    """The file's columns and their types, by DuckDB's names."""
    return {str(row[0]): str(row[1]) for row in db.execute(f"DESCRIBE SELECT * FROM {file}").fetchall()}  # noqa: S608


def _schema(dataset: Dataset, there: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    wanted = {column.name: _form(column).duckdb for column in _columns(dataset)}
    for name, kind in there.items():
        if name not in wanted:
            yield f"column {name}", "none", kind
        elif kind != wanted[name]:
            yield f"column {name}", wanted[name], kind


def _select(dataset: Dataset, there: dict[str, str], file: str) -> str:
    columns = [
        _form(column).in_file.format(_quoted(column.name)) if column.name in there else "NULL"
        for column in _columns(dataset)
    ]
    return f"SELECT {', '.join(columns)} FROM {file}"  # noqa: S608


def _differing(dataset: Dataset, copied: Iterable[bytes], theirs: "_Stream") -> Iterator[tuple[str, str, str]]:
    """Both are equal up to a piece, which begins and ends with a row. From there on rows are looked at."""
    ours = iter(copied)
    for piece in ours:
        other = theirs.read(len(piece))
        if other != piece:
            break
    else:
        piece, other = b"", theirs.read(1)
    if piece != other:
        yield from rowwise.differences(
            dataset,
            rowwise.rows(chain([piece], ours)),
            rowwise.rows(chain([other], iter(lambda: theirs.read(_PIPE_BYTES), b""))),
        )


class _Sink:
    """The end of a pipe that DuckDB writes to: it opens it by its path, and then there are two of it to be closed."""

    def __init__(self, number: int) -> None:
        self.path = f"/dev/fd/{number}"
        self._number: int | None = number

    def close(self) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None


class _Stream:
    """What a thread writes into the pipe. Its failure is raised to who reads to the end."""

    def __init__(self, pipe: BinaryIO, write: Callable[[], object], sink: _Sink) -> None:
        self._pipe = pipe
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(write, sink), name="witness", daemon=True)
        self._thread.start()

    def read(self, size: int) -> bytes:
        data = self._pipe.read(size)
        if len(data) < size:
            self._thread.join()
            if self._failure:
                raise self._failure
        return data

    def close(self) -> None:
        """The next thing that is written fails, if anything is."""
        self._pipe.close()
        self._thread.join()

    def _run(self, write: Callable[[], object], sink: _Sink) -> None:
        try:
            write()
        except BaseException as error:
            self._failure = error
        finally:
            sink.close()


@contextlib.contextmanager
def _piped() -> Iterator[tuple[BinaryIO, _Sink]]:
    reading, writing = os.pipe()
    sink = _Sink(writing)
    with open(reading, "rb", buffering=_PIPE_BYTES) as readable, contextlib.closing(sink):
        with contextlib.suppress(OSError, AttributeError):  # there is no such thing beside Linux
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        yield readable, sink


@contextlib.contextmanager
def _written(db: "duckdb.DuckDBPyConnection", statement: str, readable: BinaryIO, sink: _Sink) -> Iterator[_Stream]:
    """What DuckDB writes for the statement, while it does."""
    with contextlib.closing(_Stream(readable, lambda: db.execute(statement), sink)) as stream:
        yield stream


@contextlib.contextmanager
def _opened(place: str | Path, *sinks: _Sink) -> Iterator[tuple["duckdb.DuckDBPyConnection", str]]:
    """DuckDB, which may touch this file and these sinks and nothing else; and the file as SQL names it.

    It gets an open file, since in a name it sees wildcards and protocols.
    """
    import duckdb  # noqa: PLC0415  (it takes its tenth of a second, and who loads CDRs never needs it)

    path = str(place)
    try:
        with open(place, "rb") as file, duckdb.connect(config=_CONFIG) as db:
            path = f"/dev/fd/{file.fileno()}"
            paths = ", ".join(f"'{each}'" for each in (path, *(sink.path for sink in sinks)))
            db.execute(f"SET allowed_paths = [{paths}]")
            db.execute("SET disable_parquet_prefetching = true")  # of a whole row group, however long its texts are
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
            yield db, f"read_parquet('{path}', hive_partitioning = false, utf8_validation = 'strict')"
    except (OSError, ValueError, duckdb.Error) as error:
        reason = str(error).strip().partition("\n")[0].replace(path, str(place))
        reason = " ".join(reason.split())
        raise LakeError(
            "ETL-520", f"{place}: {reason if len(reason) <= _REASON else reason[:_REASON] + '…'}"
        ) from error
