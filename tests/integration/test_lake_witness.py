"""The second reader of a lake's file: what differs from Postgres in any value, or can't be read, is told; what is equal
is equal, however strange it is. Files are the exporter's, or made by hand where no exporter would make them."""

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.errors import ConfigurationError, LakeError, Outage
from etl.lake import witness
from etl.lake.datasets import DATASETS, Dataset
from etl.lake.difference import MOST_DIFFERENCES, Difference
from etl.store import days
from etl.store.copy import copy_out
from tests.lake import CALLS, DAY, SPOOL, export, file, heard, load, on, with_lake
from tests.store import engine
from tests.world import Archive, cdr

Rows = list[dict[str, Any]]
# What a CSV, an encoding or a terminal may stumble over.
HOSTILE = (
    *(
        "",
        "\\N",
        "NULL",
        "null",
        '"',
        '""',
        '","',
        ",",
        "\n",
        "\r",
        "\r\n",
        "\\.",
        "\\n",
        "\t",
        "'",
        "\\x00",
        " a ",
        ";",
    ),
    *(
        "\u200f\u202etxt",
        "\ufeff",
        "😀",
        "é",
        "e\u0301",
        "\U0010ffff",
        "\x7f",
        "\x01",
        "Infinity",
        "0",
        "{}",
        "x" * 300_000,
    ),
)
HOSTILE_TEXTS = st.sampled_from(HOSTILE[:-1]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=8
)


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake *?[1] 'quoted'")


@contextmanager
def copied(archive: Archive, dataset: Dataset = CALLS, day: date = DAY) -> Iterator[Generator[bytes]]:
    """What Postgres holds of the day, in a snapshot."""
    with engine(archive.database_url) as connections, days.hold(connections, dataset.table, day) as held:
        assert held
        with held.snapshot():
            yield held.copy(witness.query(dataset, day))


def compared(
    archive: Archive, place: str | Path | None = None, dataset: Dataset = CALLS, day: date = DAY
) -> list[Difference]:
    with copied(archive, dataset, day) as rows:
        return witness.compare(place or file(archive, day, dataset.name), dataset, day, rows)


def told(archive: Archive, place: Path) -> list[tuple[str, str, str]]:
    return [each[2:] for each in compared(archive, place)]


def made_anew(archive: Archive, change: Callable[[Rows], Iterable[dict[str, Any]]]) -> Path:
    """The day's file with other rows."""
    original = pq.read_table(file(archive), partitioning=None)
    rows = list(change(original.to_pylist()))
    place = file(archive).with_name("other.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=CALLS.schema), place, write_page_checksum=True)
    return place


def by_hand(archive: Archive, statement: str, *parameters: object) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(statement, parameters)


def latin_1() -> pa.Array:
    """Bytes that claim to be text."""
    return pa.StringArray.from_buffers(2, pa.py_buffer(struct.pack("<3i", 0, 3, 6)), pa.py_buffer(b"ab\xe9abc"))


def again(pieces: list[bytes]) -> Generator[bytes]:
    yield from pieces


# -- equal


def test_every_type_of_column_has_a_form_to_compare() -> None:
    for dataset in DATASETS.values():
        query = witness.query(dataset, DAY)
        assert all(f'"{field.name}"' in query for field in dataset.plain)
    unknown = replace(CALLS, table=sa.Table("t", sa.MetaData(), sa.Column("d", sa.Date), sa.Column("x", sa.Float)))
    with pytest.raises(TypeError, match=r"t\.x"):
        witness.query(unknown, DAY)


def test_given_hostile_values_an_export_is_equal_to_its_day(archive: Archive) -> None:
    def contact(text: str) -> str | None:
        return text if len(text.encode()) <= 512 else None  # a longer one never comes so far

    load(
        archive,
        *(cdr(n, number=text, contact_ref=contact(text), **{text[:20] or "f": text}) for n, text in enumerate(HOSTILE)),
    )
    load(archive, *(heard(n, note=text) for n, text in enumerate(HOSTILE)), key=SPOOL)
    for dataset in DATASETS.values():
        assert export(archive, DAY, dataset.name).what == "exported"
        assert compared(archive, dataset=dataset) == []
        assert witness.validate(file(archive, DAY, dataset.name)) == len(HOSTILE)


def test_given_extreme_times_an_export_is_equal_to_its_day(archive: Archive) -> None:
    times = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)]
    times += [datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
    load(archive, *(cdr(n) for n in range(len(times))))
    for n, time in enumerate(times):
        by_hand(archive, "UPDATE cdrs SET answered_at = %s, call_time = -2147483648 WHERE call_ref = %s", time, str(n))
    export(archive)
    assert compared(archive) == []


def test_a_day_of_no_rows_is_equal_to_a_file_of_none(archive: Archive) -> None:
    load(archive, cdr(1))
    export(archive)
    empty = made_anew(archive, lambda rows: [])
    assert witness.validate(empty) == 0
    assert told(archive, empty) == [("row dialler 1 0", "in Postgres", "not in the file")]
    by_hand(archive, "DELETE FROM cdrs")
    assert told(archive, empty) == []
    assert told(archive, file(archive)) == [("row dialler 1 0", "not in Postgres", "in the file")]


def test_a_column_that_an_older_file_lacks_is_null(archive: Archive) -> None:
    load(archive, cdr(1), cdr(2))
    export(archive)
    table = pq.read_table(file(archive), partitioning=None)
    older = file(archive).with_name("older.parquet")
    pq.write_table(table.drop_columns(["ring_time", "uuid"]), older)
    assert told(archive, older) == []
    pq.write_table(table.drop_columns(["number"]), older)
    assert told(archive, older) == [
        ("row dialler 1 0: number", "0741484437", "null"),
        ("row dialler 2 0: number", "0741484437", "null"),
    ]


messages = st.builds(
    lambda fields: fields,
    st.fixed_dictionaries(
        {},
        optional={
            "number": HOSTILE_TEXTS,
            "contact_ref": HOSTILE_TEXTS | st.none(),
            "extension": HOSTILE_TEXTS | st.none(),
            "recording_url": HOSTILE_TEXTS,
            "call_time": st.integers(-(2**31), 2**31 - 1),
            "end_code": st.integers(0, 127) | st.none(),
            "note": st.recursive(HOSTILE_TEXTS | st.integers() | st.booleans() | st.none(), st.lists, max_leaves=4),
        },
    ),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(messages, min_size=1, max_size=6), data=st.data())
def test_whatever_was_stored_and_exported_is_equal_until_a_value_changes(
    archive: Archive, calls: list[dict[str, Any]], data: st.DataObject
) -> None:
    """In the file or in Postgres; of the generated days, each is one example's own."""
    days_used = archive.value("SELECT count(DISTINCT dialed_on) FROM cdrs")
    load(archive, *(on(days_used, f"{days_used}-{n}", **call) for n, call in enumerate(calls)))
    day = DAY + timedelta(days=days_used)
    rows = archive.value("SELECT count(*) FROM cdrs WHERE dialed_on = %s", day)
    if not rows:  # all of them are dead letters
        return
    export(archive, day)
    assert compared(archive, day=day) == []
    assert witness.validate(file(archive, day)) == rows

    table = pq.read_table(file(archive, day), partitioning=None)
    content = table.to_pylist()
    number, column = data.draw(st.integers(0, rows - 1)), data.draw(st.sampled_from(table.column_names))
    content[number][column] = _another(content[number][column], table.schema.field(column).type)
    other = file(archive, day).with_name("other.parquet")
    nullable = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(pa.Table.from_pylist(content, schema=nullable), other)
    assert compared(archive, other, day=day) != []

    called = table.column("call_ref")[number].as_py()
    by_hand(archive, "UPDATE cdrs SET hold_time = coalesce(hold_time, 0) + 1 WHERE call_ref = %s", called)
    (found,) = compared(archive, day=day)
    assert found.what == f"row dialler {called} 0: hold_time"


def _another(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return {"int32": 0, "timestamp[us, tz=UTC]": datetime(1970, 1, 1, tzinfo=UTC)}.get(str(kind), "")
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    return value ^ 1 if isinstance(value, int) else value + " " if value else None


# -- different

CHANGES: dict[str, tuple[Callable[[Rows], Iterable[dict[str, Any]]], list[tuple[str, str, str]]]] = {
    "missing": (lambda rows: rows[:1] + rows[2:], [("row dialler 2 0", "in Postgres", "not in the file")]),
    "last missing": (lambda rows: rows[:2], [("row dialler 3 0", "in Postgres", "not in the file")]),
    "added": (
        lambda rows: [*rows, rows[2] | {"call_ref": "4"}],
        [("row dialler 4 0", "not in Postgres", "in the file")],
    ),
    "doubled": (lambda rows: [rows[0], *rows], [("row dialler 1 0", "not in Postgres", "in the file")]),
    "swapped": (
        lambda rows: [rows[1], rows[0], rows[2]],
        [
            ("row dialler 1 0", "in Postgres", "not in the file"),
            ("row dialler 1 0", "in the lake's order", "after a later row"),
        ],
    ),
    "null": (
        lambda rows: [rows[0] | {"number": None}, *rows[1:]],
        [("row dialler 1 0: number", "''", "null")],
    ),
    "text": (
        lambda rows: [*rows[:2], rows[2] | {"number": "\\N"}],
        [("row dialler 3 0: number", "null", "\\N")],
    ),
    "time": (
        lambda rows: [*rows[:2], rows[2] | {"dialed_at": rows[2]["dialed_at"] + timedelta(microseconds=1)}],
        [
            ("row dialler 3 0", "in Postgres", "not in the file"),
            ("row dialler 3 0", "not in Postgres", "in the file"),
        ],
    ),
    "number": (
        lambda rows: [*rows[:2], rows[2] | {"call_time": 42}],
        [("row dialler 3 0: call_time", "41", "42")],
    ),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_given_a_file_with_other_rows_they_are_named(
    archive: Archive, change: Callable[[Rows], Iterable[dict[str, Any]]], expected: list[tuple[str, str, str]]
) -> None:
    load(archive, cdr(1, number=""), cdr(2), cdr(3, number=None))
    export(archive)
    other = made_anew(archive, change)
    assert sorted(told(archive, other)) == sorted(expected)


def test_given_long_texts_what_differs_of_them_is_shown(archive: Archive) -> None:
    load(archive, cdr(1, number="7" * 500_000 + "a" + "8" * 500_000))
    export(archive)
    other = made_anew(archive, lambda rows: [rows[0] | {"number": rows[0]["number"].replace("a", "\u200fb")}])
    ((what, expected, found),) = told(archive, other)
    assert what == "row dialler 1 0: number"
    assert expected == f"…'{'7' * 20}a{'8' * 99}'… (1,000,001 characters)"
    assert found == f"…'{'7' * 20}\\u200fb{'8' * 98}'… (1,000,002 characters)"


def test_given_many_differences_the_first_ones_are_named(archive: Archive) -> None:
    load(archive, *(cdr(f"{n:04}") for n in range(2_000)))
    export(archive)
    other = made_anew(archive, lambda rows: (row | {"end_code": n} for n, row in enumerate(rows)))
    found = compared(archive, other)
    assert len(found) == MOST_DIFFERENCES
    assert found[0] == Difference("cdrs", DAY, "row dialler 0000 0: end_code", "16", "0")
    # Only 16 of the 2,000 is what it was; and the day is as free as before.
    assert "row dialler 0016 0: end_code" not in [each.what for each in found]
    assert compared(archive) == []


def test_given_infinite_times_null_is_another_value(archive: Archive) -> None:
    load(archive, cdr(1), cdr(2))
    export(archive)
    by_hand(archive, "UPDATE cdrs SET answered_at = 'infinity' WHERE call_ref = '1'")
    by_hand(archive, "UPDATE cdrs SET answered_at = '-infinity' WHERE call_ref = '2'")
    assert told(archive, file(archive)) == [
        ("row dialler 1 0: answered_at", "inf", "null"),
        ("row dialler 2 0: answered_at", "-inf", "null"),
    ]
    # DuckDB's infinities, which no time of pyarrow's is; its smallest number is none either.
    column, schema = CALLS.schema.get_field_index("answered_at"), CALLS.schema
    times = pa.array([2**63 - 1, -(2**63) + 1], pa.int64()).cast(pa.timestamp("us", "UTC"))
    table = pq.read_table(file(archive), partitioning=None).set_column(column, schema.field(column), times)
    pq.write_table(table, other := file(archive).with_name("other.parquet"))
    assert told(archive, other) == []


def test_bytes_dates_and_large_numbers_are_compared_too(archive: Archive, tmp_path: Path) -> None:
    """Columns of types that no dataset has yet."""
    table = sa.Table(
        "odd",
        sa.MetaData(),
        sa.Column("day", sa.Date),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("id", sa.BigInteger),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("born", sa.Date),
    )
    odd = Dataset(table, "at", ("id",), frozenset())
    by_hand(archive, "CREATE TABLE odd (day date, at timestamptz, id bigint, raw bytea, born date)")
    raws: list[bytes | None] = [b"", None, b'\0\xff"\n,', b"\\x"]
    born = [date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31), None]
    at = datetime(1969, 7, 20, 20, 17, 40, tzinfo=UTC)
    for n, (raw, day) in enumerate(zip(raws, born, strict=True)):
        by_hand(archive, "INSERT INTO odd VALUES (%s, %s, %s, %s, %s)", DAY, at, 2**62 + n, raw, day)
    columns: dict[str, Any] = {
        "at": pa.array([at] * 4, pa.timestamp("us", "UTC")),
        "id": [2**62 + n for n in range(4)],
        "raw": pa.array(raws, pa.binary()),
        "born": pa.array(born, pa.date32()),
    }
    place = tmp_path / "odd.parquet"

    def differing(**other: Any) -> list[tuple[str, str, str]]:
        pq.write_table(pa.table({**columns, **other}), place)
        with engine(archive.database_url) as connections, connections.begin() as connection:
            rows = copy_out(connection, witness.query(odd, DAY))
            return [each[2:] for each in witness.compare(place, odd, DAY, rows)]

    assert differing() == []
    assert differing(raw=pa.array([None, *raws[1:]], pa.binary())) == [(f"row {2**62}: raw", "''", "null")]
    assert differing(born=pa.array([*born[:2], date(1970, 1, 1), None], pa.date32())) == [
        (f"row {2**62 + 2}: born", "1969-12-31", "1970-01-01")
    ]


# -- a file that is no file of this dataset

SCHEMAS: dict[str, tuple[Callable[[pa.Table], pa.Table], tuple[str, str, str]]] = {
    "more": (lambda t: t.append_column("mood", t["number"]), ("column mood", "none", "VARCHAR")),
    "the day": (
        lambda t: t.append_column("dialed_on", pa.array([DAY], pa.date32())),
        ("column dialed_on", "none", "DATE"),
    ),
    "wider": (
        lambda t: t.set_column(t.schema.get_field_index("leg"), "leg", t["leg"].cast(pa.int64())),
        ("column leg", "INTEGER", "BIGINT"),
    ),
    "bytes": (
        lambda t: t.set_column(t.schema.get_field_index("number"), "number", t["number"].cast(pa.binary())),
        ("column number", "VARCHAR", "BLOB"),
    ),
    "no zone": (
        lambda t: t.set_column(
            t.schema.get_field_index("ended_at"), "ended_at", t["ended_at"].cast(pa.timestamp("us"))
        ),
        ("column ended_at", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP"),
    ),
}


@pytest.mark.parametrize(("change", "expected"), SCHEMAS.values(), ids=SCHEMAS)
def test_given_a_column_that_does_not_belong_there_it_is_named(
    archive: Archive, change: Callable[[pa.Table], pa.Table], expected: tuple[str, str, str]
) -> None:
    load(archive, cdr(1))
    export(archive)
    other = file(archive).with_name("other.parquet")
    pq.write_table(change(pq.read_table(file(archive), partitioning=None)), other)
    assert expected in told(archive, other)


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "dictionary"])
def test_given_text_that_is_no_utf_8_the_file_is_refused(tmp_path: Path, encoding: str) -> None:
    place = tmp_path / "latin.parquet"
    dictionary = encoding == "dictionary"
    written_as = None if dictionary else {"a": encoding}
    pq.write_table(pa.table({"a": latin_1()}), place, use_dictionary=dictionary, column_encoding=written_as)
    with pytest.raises(LakeError, match="not valid UTF8") as error:
        witness.validate(place)
    assert str(place) in str(error.value)
    assert "/dev/fd" not in str(error.value)


def test_given_text_that_is_no_utf_8_a_comparison_is_refused(archive: Archive) -> None:
    load(archive, cdr(1), cdr(2))
    export(archive)
    table = pq.read_table(file(archive), partitioning=None)
    table = table.set_column(table.schema.get_field_index("recording_url"), "recording_url", latin_1())
    pq.write_table(table, file(archive))
    with pytest.raises(LakeError, match="not valid UTF8"):
        compared(archive)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"text\n" * 1000])
def test_given_a_file_that_is_no_parquet_it_is_refused(archive: Archive, tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "no.parquet"
    place.write_bytes(content)
    with pytest.raises(LakeError, match=r"no\.parquet: "):
        witness.validate(place)
    with pytest.raises(LakeError, match=r"no\.parquet: "):
        compared(archive, place)
    with pytest.raises(LakeError, match="absent"):
        witness.validate(tmp_path / "absent")


def test_given_a_flipped_byte_it_is_told_or_no_value_is_another(archive: Archive) -> None:
    """Also in the footer and in what DuckDB doesn't look at: indexes, Bloom filters, checksums of pages."""
    load(archive, *(cdr(n, number=f"07{n:08}", contact_ref=f"M{n * 31}") for n in range(200)))
    export(archive)
    whole = file(archive).read_bytes()
    with copied(archive) as rows:
        pieces = list(rows)
    before = _plainly(file(archive))
    dice = random.Random(15)
    found = 0
    for at in dice.sample(range(len(whole)), 40):
        spoilt = bytearray(whole)
        spoilt[at] ^= dice.randrange(1, 256)
        file(archive).write_bytes(spoilt)
        try:
            differs = witness.validate(file(archive)) != 200 or witness.compare(
                file(archive), CALLS, DAY, again(pieces)
            )
        except LakeError as error:
            assert str(file(archive)) in str(error)  # noqa: PT017
            differs = True
        found += bool(differs)
        assert differs or _plainly(file(archive)) == before, f"byte {at}"
    assert found > 10


def _plainly(place: Path) -> list[Any]:
    with open(place, "rb") as opened, duckdb.connect() as db:
        path = f"/dev/fd/{opened.fileno()}"
        return db.execute(
            f"SELECT COLUMNS(*)::VARCHAR FROM read_parquet('{path}', hive_partitioning = false)"
        ).fetchall()


# -- how it reads


def test_a_file_without_a_name_is_read_as_often_as_one_likes(archive: Archive, tmp_path: Path) -> None:
    load(archive, cdr(1), cdr(2))
    export(archive)
    spooled = tmp_path / "spooled"
    spooled.write_bytes(file(archive).read_bytes())
    with spooled.open("rb") as opened:
        spooled.unlink()
        opened.seek(100)
        for place in (f"/dev/fd/{opened.fileno()}", f"/proc/self/fd/{opened.fileno()}"):
            assert witness.validate(place) == 2
            assert compared(archive, place) == []
            assert witness.validate(Path(place)) == 2
        assert opened.tell() == 100


def test_no_setting_of_session_role_or_machine_has_a_say(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    load(archive, cdr(1, number="é😀", call_time=-1), on(0, 2, number=None))
    by_hand(archive, "UPDATE cdrs SET answered_at = '1969-12-31 23:59:59.5+00'")
    export(archive)
    name = archive.value("SELECT current_database()")
    hostile = {
        "DateStyle": "German, DMY",
        "TimeZone": "Asia/Kathmandu",
        "IntervalStyle": "sql_standard",
        "bytea_output": "escape",
        "extra_float_digits": "-15",
        "standard_conforming_strings": "off",
    }
    for setting, value in hostile.items():
        by_hand(archive, f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGTZ", "Pacific/Apia")
    monkeypatch.setenv("TZ", "No/Where")
    with engine(archive.database_url) as connections, connections.begin() as connection:
        rows = copy_out(connection, witness.query(CALLS, DAY))
        assert witness.compare(file(archive), CALLS, DAY, rows) == []


def test_duckdb_touches_one_file_and_nothing_else(archive: Archive, tmp_path: Path) -> None:
    """No extension, no home, no temporary folder: in a process of its own, whose home can't be written to."""
    load(archive, cdr(1))
    export(archive)
    home = tmp_path / "home"
    home.mkdir(0o500)
    program = f"""
import os
from etl.errors import LakeError
from etl.lake import witness
from etl.lake.datasets import DATASETS
place = {str(file(archive))!r}
assert witness.validate(place) == 1
with witness._opened(place) as (db, file):
    for harm in (
        "INSTALL httpfs", "LOAD httpfs", "SET threads = 4", "SET enable_external_access = true",
        "SELECT * FROM read_text('/etc/hostname')", "SELECT * FROM 'https://lake.invalid/a.parquet'",
        "COPY (SELECT 1) TO 'written'", "ATTACH 'written.db'",
    ):
        try:
            db.execute(harm)
        except Exception as error:
            assert "Configuration" in str(error) or "configuration" in str(error), (harm, error)
        else:
            raise AssertionError(harm)
assert os.listdir() == []
"""
    (tmp_path / "empty").mkdir()
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "empty",
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(Path(witness.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert list(home.iterdir()) == []


def test_the_loader_does_not_load_duckdb(archive: Archive) -> None:
    program = "import sys, etl.lake.witness, etl.jobs.lake, etl.app.load; assert 'duckdb' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_if_postgres_fails_in_the_middle_nothing_is_left_behind(archive: Archive) -> None:
    load(archive, *(cdr(n, note="x" * 2_000) for n in range(3_000)))  # more than a pipe holds
    export(archive)
    with copied(archive) as rows:
        pieces = list(rows)
    before = len(os.listdir("/dev/fd"))

    def interrupted() -> Generator[bytes]:
        yield pieces[0]
        raise Outage("ETL-301", "Postgres: gone")

    with pytest.raises(Outage, match="gone"):
        witness.compare(file(archive), CALLS, DAY, interrupted())
    for shorter in (pieces[:1], []):
        assert len(witness.compare(file(archive), CALLS, DAY, again(shorter))) == MOST_DIFFERENCES
    assert len(os.listdir("/dev/fd")) == before


def test_errors_of_a_copy_are_ours(archive: Archive) -> None:
    with engine(archive.database_url) as connections, days.hold(connections, CALLS.table, DAY) as held:
        assert held
        with held.snapshot(), pytest.raises(ConfigurationError):
            next(held.copy("SELECT nonsense"))
        with held.snapshot():  # not begun is nothing to end
            held.copy("SELECT 1").close()
            assert list(held.copy("SELECT 1, null, ''")) == [b'"1",,""\n']
