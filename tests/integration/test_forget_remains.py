"""`etl forget` proposes other spellings, erases copies and figures too, and proves by a search of its own that nothing
is left: it says where it looked, and what it found there, never by its value.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from etl.cli.forget import Beat
from etl.jobs import forget as job
from etl.jobs import remains
from etl.jobs.remains import Searched
from etl.lake import remains as in_lake
from etl.reporting import rollup
from etl.store import remains as in_postgres
from etl.wire import spellings
from etl.wire.erasure import Person
from tests.integration.test_least_privilege import as_role
from tests.lake import (
    CALLS,
    DAY,
    SPOOL,
    export,
    export_all,
    export_and_prune,
    file,
    folder,
    heard,
    lake,
    load,
    on,
    place,
    prune,
    told,
    with_lake,
)
from tests.person import KEY, forget, where_they_are
from tests.spelled import ABROAD, ANOTHER, DIGITS, NUMBER, SPELLED, read
from tests.store import ROLES, engine
from tests.world import Archive, cdr

NEXT = DAY + timedelta(days=1)
CONTACT = "K-77-B"
THEIRS: dict[str, Any] = {"number": NUMBER, "contact_ref": CONTACT}


@pytest.fixture
def archive(archive: Archive, tmp_path: Path) -> Archive:
    archive.more = {"forget_key": KEY}
    return with_lake(archive, tmp_path / "lake")


def search(archive: Archive, *also: str) -> Searched:
    with lake(archive) as opened, engine(archive.database_url) as connections:
        wanted = remains.sought([Person(KEY, NUMBER, also=also)])
        return remains.search(connections, opened, wanted, lambda *_: None)


def run(archive: Archive, *arguments: str) -> tuple[int, dict[str, Any], str]:
    ended = archive.run("forget", *arguments, "--json")
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout), ended.stderr


def change(url: str, statement: LiteralString) -> None:
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute(statement)


def restore_into(archive: Archive, schema: str) -> None:
    with lake(archive) as opened:
        opened.restore(CALLS, DAY, told, schema)


# -- other spellings


def test_given_other_spellings_then_the_proposed_command_forgets_them_all(archive: Archive) -> None:
    load(
        archive,
        cdr(1, **THEIRS, recording_url=f"ftp://rec/20261123{NUMBER}.wav"),
        cdr(2, number=ABROAD, contact_ref="a"),
        cdr(3, number="0044 700 912-3456", contact_ref="b"),
        cdr(4, number="0700 912 3456", contact_ref="c"),
        cdr(5, number=ANOTHER, contact_ref=ABROAD[1:]),
        cdr(6, number=ANOTHER, nested={"caller": [7009123456]}),
        cdr(7, number=ANOTHER, recording_url="ftp://rec/x_00447009123456.wav"),
        cdr(8, number=ANOTHER, contact_ref="d"),
    )
    load(archive, heard(1, caller={"number": "(0700) 9123456", "contact_ref": "e"}), key=SPOOL)
    export_all(archive)
    before = where_they_are(archive)

    code, foreseen, _ = run(archive, "--number", NUMBER, "--dry-run")

    assert (code, where_they_are(archive)) == (0, before)
    proposed = {each["value"]: each["rows"] for each in foreseen["searched"]["spellings"]}
    # of each a row in Postgres and one in the lake
    assert proposed == dict.fromkeys(
        (
            ABROAD,
            "0044 700 912-3456",
            "0700 912 3456",
            ABROAD[1:],
            "7009123456",
            "00447009123456",
            "(0700) 9123456",
        ),
        2,
    )
    printed = archive.run("forget", "--number", NUMBER, "--dry-run").stdout
    command = printed.splitlines()[-1]
    assert command == foreseen["command"]
    arguments = shlex.split(command)
    arguments = arguments[arguments.index("forget") + 1 :]
    assert [*proposed] == arguments[3::2]

    code, done, stderr = run(archive, *arguments, "--yes")
    assert (code, stderr) == (0, "")
    assert (done["searched"]["remains"], done["command"]) == ([], None)
    assert where_they_are(archive) == []
    assert archive.cdr(8)["number"] == ANOTHER
    assert run(archive, *arguments, "--dry-run")[1]["command"] is None


def test_given_another_spelling_that_stays_then_it_is_told_and_not_shown(archive: Archive) -> None:
    load(archive, cdr(1, **THEIRS), cdr(2, number=ABROAD, contact_ref="x"))
    code, done, stderr = run(archive, "--number", NUMBER, "--yes")
    assert code == 1
    assert "ETL-922" in stderr
    assert DIGITS not in read(stderr)
    (left,) = done["searched"]["remains"]
    assert left == {
        "of": "public.cdrs",
        "where": f"public.cdrs {DAY}",
        "column": "number",
        "day": str(DAY),
        "kind": "alike",
        "rows": 1,
        "keys": [f"{DAY} dialler 2 0"],
    }
    # the value that was asked for is gone all the same
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 1


# -- what else holds it


def test_given_copies_figures_and_dead_letters_then_they_are_told_and_go(archive: Archive) -> None:
    campaign = f"x{NUMBER}99"
    load(archive, cdr(1, **THEIRS, ref=campaign), cdr(2), on(1, 3, **THEIRS), f"broken {NUMBER}".encode())
    with engine(archive.database_url) as connections:
        rollup.rollup(connections)
    export(archive)
    restore_into(archive, "Before 100%")
    assert prune(archive).what == "dropped"
    assert archive.value("SELECT count(*) FROM reporting.campaign_figures WHERE campaign_ref = %s", campaign) > 0
    figures = archive.value("SELECT sum(attempts) FROM reporting.campaign_figures")

    code, foreseen, _ = run(archive, "--number", NUMBER, "--dry-run")
    assert code == 0
    assert foreseen["copies"] == {"Before 100%.cdrs": 1}
    assert (foreseen["dead_letters"], foreseen["figures"]) == (1, 2)  # of the hour and of the day
    assert "Before 100%" in foreseen["searched"]["schemas"]
    places = {(each["of"], each["column"]) for each in foreseen["searched"]["remains"]}
    assert {
        ("Before 100%.cdrs", "number"),
        ("Before 100%.cdrs", "campaign_ref"),
        ("reporting.campaign_figures", "campaign_ref"),
        ("public.dead_letters", "raw"),
        ("public.cdrs", "number"),
        ("lake cdrs", "number"),
    } <= places

    code, done, stderr = run(archive, "--number", NUMBER, "--yes")
    assert (code, stderr, done["searched"]["remains"]) == (0, "", [])
    assert (done["copies"], done["figures"]) == ({"Before 100%.cdrs": 1}, 2)
    assert where_they_are(archive) == []
    (copied,) = archive.rows("SELECT * FROM \"Before 100%%\".cdrs WHERE call_ref = '1'")
    assert copied["number"] == done["hash"]
    # a day that only the lake has keeps its figures, under another name
    assert archive.value("SELECT sum(attempts) FROM reporting.campaign_figures") == figures


def test_given_a_copy_with_the_erased_call_beside_then_it_is_one_call(archive: Archive) -> None:
    name = f"20261123{NUMBER}"
    load(archive, cdr(name, number=NUMBER), cdr(2))
    export(archive)
    restore_into(archive, "before")
    old = archive.rows("SELECT * FROM before.cdrs WHERE call_ref = %s", name)
    assert forget(archive, number=NUMBER).failed == []
    columns = sql.SQL(", ").join(map(sql.Identifier, old[0]))
    values = [json.dumps(each) if isinstance(each, dict) else each for each in old[0].values()]
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(values))
        connection.execute(sql.SQL("INSERT INTO before.cdrs ({}) VALUES ({})").format(columns, marks), values)
    assert archive.value("SELECT count(*) FROM before.cdrs") == 3

    found = forget(archive, number=NUMBER)

    assert (found.failed, found.copies) == ([], {"before.cdrs": 1})
    assert archive.value("SELECT count(*) FROM before.cdrs") == 2
    assert where_they_are(archive) == []


def test_given_a_copy_that_is_not_the_owners_then_it_is_said(archive: Archive) -> None:
    load(archive, cdr(1, **THEIRS), cdr(2))
    export(archive)
    restore_into(archive, "november")
    administrators = archive.database_url
    with psycopg.connect(administrators, autocommit=True) as administrator:
        administrator.execute(ROLES)
    archive.database_url = as_role(administrators, "etl_owner")

    code, done, stderr = run(archive, "--number", NUMBER, "--yes")

    assert code == 1
    assert "november.cdrs" in stderr
    assert "permission denied" in stderr
    assert len(done["failed"]) == 1
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 0
    code, _, stderr = run(archive, "--number", NUMBER, "--dry-run")
    assert (code, "ETL-923" in stderr) == (1, True)
    archive.database_url = administrators
    change(administrators, "DROP SCHEMA november CASCADE")
    archive.database_url = as_role(administrators, "etl_owner")
    assert run(archive, "--number", NUMBER, "--yes")[0] == 0
    archive.database_url = administrators
    assert where_they_are(archive) == []


def test_given_an_agents_channel_named_after_them_then_figures_lose_it(archive: Archive) -> None:
    archive.rows(
        "INSERT INTO reporting.status_changes (day, extension, at, event_id, origin, status, channels)"
        " VALUES (%s, '1002', now(), gen_random_uuid(), 'pubsub', 'busy', %s) RETURNING 1",
        DAY,
        f"enigma:{NUMBER}:agents",
    )
    found = forget(archive, NUMBER)
    assert (found.failed, found.figures, where_they_are(archive)) == ([], 1, [])


# -- what Postgres' planner remembers

_REMEMBERED = (
    "SELECT count(*) FROM pg_stats WHERE schemaname IN ('public', 'reporting', 'november') AND concat_ws(' ',"
    f" most_common_vals::text, histogram_bounds::text, most_common_elems::text) ~ '{DIGITS}|{DIGITS.encode().hex()}'"
)


@pytest.mark.parametrize("analyze", ["cdrs", "audit_events", "dead_letters", "cdr_revisions"])
def test_given_samples_of_values_then_they_go_as_well(archive: Archive, analyze: str) -> None:
    """Of tables, of their days, and of indexes' expressions: until then ETL-921 names them."""
    load(archive, *(cdr(n, **THEIRS, call_time=n) for n in range(9)), *(cdr(n, **THEIRS) for n in range(9)))
    load(archive, *(cdr(n, **THEIRS, dialed_at=True) for n in range(9)))
    load(archive, *(heard(n, caller=THEIRS) for n in range(1, 9)), key=SPOOL)
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        with engine(archive.database_url) as connections:
            rollup.rollup(connections)
        administrator.execute(f"ANALYZE {analyze}".encode())
    assert archive.value(_REMEMBERED) > 0
    remembered = {each for each in search(archive).remains if each.of == "pg_catalog.pg_stats"}
    assert {each.kind for each in remembered} == {"itself"}

    found = forget(archive, NUMBER)

    assert archive.value(_REMEMBERED) == 0
    assert (found.failed, found.searched and found.searched.remains) == ([], [])


# -- the search


_COLUMNS = """
SELECT n.nspname, c.relname, a.attname, t.typname
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0
AND n.nspname IN ('public', 'reporting', 'etl_staging', 'november')
AND t.typname IN ('text', 'jsonb', 'json', 'bytea', 'int8', 'numeric', '_text', '_int8')
"""
_OTHER_ARRAYS = """
SELECT n.nspname, c.relname, a.attname, e.typname
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type e ON e.oid = t.typelem AND t.typname = '_' || e.typname
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND e.typname <> 'text'
AND n.nspname IN ('public', 'reporting', 'etl_staging', 'november')
"""


@contextmanager
def filled(archive: Archive) -> Iterator[list[tuple[str, str, str, str]]]:
    """Every column that may hold a text, by the catalog; and next month's in every table."""
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("CREATE TABLE etl_staging.returning_x (raw text)")
        connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY, at text)")
        for schema, table in {(schema, table) for schema, table, _, _ in connection.execute(_COLUMNS).fetchall()}:
            name = sql.Identifier(schema, table)
            for name_of, kind in (
                ("text", "text"),
                ("json", "json"),
                ("bytes", "bytea"),
                ("list", "text[]"),
                ("ids", "int8[]"),
            ):
                column = sql.Identifier(f"next_{name_of}")
                connection.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(name, column, sql.SQL(kind)))
        yield connection.execute(_COLUMNS).fetchall()


def put(connection: "psycopg.Connection[Any]", column: tuple[str, str, str, str], spelling: str) -> bool:
    """Into that column of one row or of all; False if there is no row, or if it can't stand there."""
    schema, table, name, kind = column
    written = {
        "jsonb": json.dumps([{"x": spelling}]),
        "json": json.dumps([{"x": spelling}]),
        "int8": NUMBER,
        "numeric": NUMBER,
        "_text": [spelling],
        "_int8": [7, int(NUMBER), 7],
        "bytea": spelling.encode(),
    }.get(kind, spelling)
    statement = sql.SQL("UPDATE {} SET {} = %s").format(sql.Identifier(schema, table), sql.Identifier(name))
    try:
        return connection.execute(statement, [written]).rowcount > 0
    except psycopg.Error:
        return False


def test_given_any_column_that_the_catalog_lists_then_it_is_searched(archive: Archive) -> None:
    load(archive, cdr(1), cdr(1, call_time=9), on(1, 2), b"junk")
    load(archive, heard(1), key=SPOOL)
    with engine(archive.database_url) as connections:
        rollup.rollup(connections)
    export(archive)
    restore_into(archive, "november")
    archive.rows("INSERT INTO forgotten (subject, hash, worker) VALUES ('number', 'x', 'x') RETURNING id")
    assert search(archive).remains == []
    with filled(archive) as columns, psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("INSERT INTO etl_staging.returning_x VALUES ('x')")
        connection.execute("INSERT INTO public.notes VALUES (7, 'x')")
        spelled = (SPELLED[at % len(SPELLED)] for at in range(10_000))
        done = {column[:3] for column in columns if put(connection, column, next(spelled))}
        assert len(done) > 150
        assert {table for _, table, _ in done} >= {"cdrs", "notes", "returning_x", "campaign_figures", "load_batches"}

        found = search(archive)

    of_postgres = [each for each in found.remains if not each.of.startswith("lake")]
    assert {(each.of, each.column) for each in of_postgres} == {(f"{s}.{table}", column) for s, table, column in done}
    told = [each for each in of_postgres if (each.of, each.column) == ("public.notes", "next_text")]
    assert [(each.rows, each.keys, each.day) for each in told] == [(1, ("7",), None)]
    days = {each.day for each in of_postgres if each.of == "public.cdrs" and each.column == "next_text"}
    assert days == {DAY, NEXT}
    assert DIGITS not in read(json.dumps([each.keys for each in found.remains]))


def test_given_any_array_of_no_texts_then_its_values_are_no_digits(archive: Archive) -> None:
    """Waits in seconds that follow each other; days and ids that end and begin so."""
    load(archive, cdr(1))
    with engine(archive.database_url) as connections:
        rollup.rollup(connections)
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY)")
        connection.execute("INSERT INTO public.notes VALUES (7)")
        for number, kind in enumerate(("int2", "int4", "int8", "numeric", "float8", "float4", "date", "uuid", "bool")):
            connection.execute(f"ALTER TABLE public.notes ADD COLUMN next_{number} {kind}[]".encode())
        arrays = connection.execute(_OTHER_ARRAYS).fetchall()
        assert {("campaign_figures", "waits"), ("notes", "next_0")} <= {(table, name) for _, table, name, _ in arrays}
        uuid = f"00000000-0000-0000-0000-{NUMBER[1:]:0>12}"
        values = {"date": ["2015-02-19"], "uuid": [uuid], "bool": [True]}
        for schema, table, name, kind in arrays:
            values.setdefault(kind, [*DIGITS])
            update = sql.SQL("UPDATE {} SET {} = %s").format(sql.Identifier(schema, table), sql.Identifier(name))
            connection.execute(update, [values[kind]])
        connection.execute("ANALYZE")

    assert search(archive).remains == []


def test_given_next_months_column_then_the_command_names_it_and_fails(archive: Archive) -> None:
    load(archive, cdr(1, **THEIRS), cdr(2), on(1, 3))
    export_and_prune(archive)
    change(archive.database_url, "ALTER TABLE cdrs ADD COLUMN next_month text")
    archive.rows("UPDATE cdrs SET next_month = %s RETURNING 1", f"tel:{NUMBER}")

    ended = archive.run("forget", "--number", NUMBER, "--yes")

    assert ended.returncode == 1
    assert "ETL-921: it is still there, in 1 fields of public.cdrs.next_month" in ended.stderr
    assert "not completed" in ended.stdout
    assert re.search(rf"public\.cdrs .*next_month .*public\.cdrs {NEXT}: {NEXT} dialler 3 0", ended.stdout)
    assert DIGITS not in read(ended.stdout + ended.stderr)
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 0
    archive.rows("UPDATE cdrs SET next_month = NULL RETURNING 1")
    assert archive.run("forget", "--number", NUMBER, "--yes").returncode == 0
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 1


def test_given_receipts_that_wait_if_forgotten_again_then_it_is_proved_too(archive: Archive) -> None:
    load(archive, cdr(1, **THEIRS), cdr(2))
    export(archive)
    with lake(archive) as opened, engine(archive.database_url) as connections:
        job.begin(connections, opened, "number", Person(KEY, number=NUMBER).hash, KEY, "dies")
    change(archive.database_url, "ALTER TABLE load_batches ADD COLUMN next_month text")
    archive.rows("UPDATE load_batches SET next_month = %s RETURNING 1", NUMBER)

    ended = archive.run("forget", "--again", "--json")

    assert ended.returncode == 1
    assert "in 1 fields of public.load_batches.next_month" in ended.stderr
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 0
    archive.rows("UPDATE load_batches SET next_month = NULL RETURNING 1")
    # by now nobody can tell whose the receipts are: there is nobody left
    ended = archive.run("forget", "--again", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["failed"]) == (0, [])
    assert archive.value("SELECT count(*) FROM forgotten WHERE completed_at IS NULL") <= 1
    assert where_they_are(archive) == []


def test_given_an_eraser_that_knows_no_pattern_then_the_search_finds_all(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't the eraser that says what it has erased."""
    texts = ("recording_url", "ref", "note")
    calls = [cdr(at, number=NUMBER, **{texts[at % 3]: each}) for at, each in enumerate(SPELLED)]
    load(archive, *calls)
    export(archive)
    monkeypatch.setattr(spellings, "_spans", lambda *_: [])

    found = forget(archive, number=NUMBER)

    assert found.failed == []
    assert found.searched is not None
    assert not found.searched.is_proof
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 0
    left = [row for row in archive.rows("SELECT * FROM cdrs") if DIGITS in read(json.dumps(row, default=str))]
    assert len(left) > 50
    for of in ("public.cdrs", "lake cdrs"):
        of_these = [each for each in found.searched.remains if each.of == of]
        assert {each.column for each in of_these} == {"recording_url", "campaign_ref", "extra"}
        assert sum(each.rows for each in of_these) == len(left)


def test_given_files_that_are_nobodys_then_they_are_searched_too(archive: Archive) -> None:
    load(archive, cdr(1, **THEIRS), cdr(2), on(1, 3))
    export_all(archive)
    assert forget(archive, number=NUMBER).failed == []
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 1
    other = pa.table({"next_month": ["x", f"a{NUMBER}99"], "day": [DAY, DAY]})
    pq.write_table(other, place(archive, NEXT) / "part-7.parquet")
    (folder(archive) / "cdrs" / "NOTES.txt").write_text(f"ask %30%37{NUMBER[2:]}")

    found = search(archive)

    assert {(each.where, each.column, each.day, each.keys) for each in found.remains} == {
        (f"cdrs/dialed_on={NEXT}/part-7.parquet", "next_month", NEXT, ("row 2",)),
        ("cdrs/NOTES.txt", "content", None, ("the file itself",)),
    }
    assert (found.first, found.last, found.days) == (DAY, NEXT, 2)


def test_given_a_file_that_nobody_can_read_then_it_is_no_proof(archive: Archive) -> None:
    load(archive, cdr(1, **THEIRS), cdr(2), on(1, 3))
    export_all(archive)
    place(archive, NEXT).joinpath("part-7.parquet").write_bytes(b"PAR1 and no more")
    found = search(archive)
    assert [each.partition(": ")[0] for each in found.unread] == [f"cdrs/dialed_on={NEXT}/part-7.parquet"]
    assert not found.is_proof
    assert file(archive).exists()
    ended = archive.run("forget", "--number", ANOTHER, "--dry-run")
    assert ended.returncode == 1
    assert "part-7.parquet" in ended.stderr


def test_given_days_and_files_that_go_meanwhile_then_the_rest_is_proof(archive: Archive) -> None:
    load(archive, cdr(1), on(1, 2))
    export_all(archive)
    with lake(archive) as opened, engine(archive.database_url) as connections:
        tables, files = in_postgres.places(connections), in_lake.files(opened.target)
        assert prune(archive).what == "dropped"
        shutil.rmtree(folder(archive) / "cdrs")
        shutil.rmtree(folder(archive) / "_revisions")
        wanted = remains.sought([Person(KEY, ANOTHER)])
        read: list[int] = []
        found = [hits for each in tables for hits in in_postgres.search(connections, each, wanted, read.append)]
        found += [hits for each in files for hits in in_lake.search(opened.target, each, wanted, read.append)]
    assert found == []
    assert {each.day for each in tables} >= {DAY, NEXT}
    assert {each.day for each in files} >= {DAY, NEXT}


def test_a_long_search_says_now_and_then_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 31.0, 31.0, 32.0, 62.0, 62.0])
    beat = Beat(lambda: next(times))
    for number in range(4):
        beat(number, 1_000, f"public.cdrs {DAY}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"etl: searched {n} of 1,000 tables and files; next: public.cdrs {DAY}" for n in (1, 3)]
