"""What 0.1 stored as two rows, legs 0 and 1 of a call, becomes one: as if both versions had met in the first place."""

import itertools
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.ids import new_id
from etl.store import unite
from etl.store.unite import United
from etl.store.writer import Writer
from tests.budget import examples
from tests.integration.test_merge import COLUMNS, versions
from tests.integration.test_midnight import MIDNIGHT
from tests.lake import export, export_and_prune, in_file, restore, with_lake
from tests.store import engine, write
from tests.world import DIALED_AT, Archive, api_cdr, cdr

DAY = "2015-02-19"
NEXT_DAY = DIALED_AT + 86_400

numbers = itertools.count(1)


def as_0_1_stored(archive: Archive, *call_refs: object) -> None:
    """These calls' rows as leg 1."""
    with psycopg.connect(archive.database_url) as connection:
        connection.execute("UPDATE cdrs SET leg = 1 WHERE call_ref = ANY (%s)", [[str(each) for each in call_refs]])


def execute(archive: Archive, statement: str, *parameters: object) -> None:
    with psycopg.connect(archive.database_url) as connection:
        connection.execute(statement, parameters)


def unite_all(archive: Archive) -> list[United]:
    with engine(archive.database_url) as connections:
        done = [unite.unite(connections, day, "test") for day in unite.due(connections)]
    return [each for each in done if each.renamed or each.united]


def test_given_legs_1_then_they_are_the_first_leg_with_or_without_twin(archive: Archive, writer: Writer) -> None:
    write(writer, *(cdr(n) for n in range(5)), cdr("next day", dialed_at=NEXT_DAY))
    as_0_1_stored(archive, *range(4))
    write(writer, *(api_cdr(n) for n in range(2)), cdr(3, call_trail_number=2))

    (united,) = unite_all(archive)

    assert (str(united.day), united.renamed, united.united) == (DAY, 2, 2)
    rows = archive.rows("SELECT call_ref, leg, number IS NOT NULL AS a, uuid IS NOT NULL AS b FROM cdrs ORDER BY 1, 2")
    assert [tuple(row.values()) for row in rows] == [
        ("0", 0, True, True),
        ("1", 0, True, True),
        ("2", 0, True, False),
        ("3", 0, True, False),
        ("3", 2, True, False),
        ("4", 0, True, False),
        ("next day", 0, True, False),
    ]
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    (entry,) = archive.rows("SELECT * FROM load_batches WHERE source_key = 'unite'")
    assert (entry["claimed"], entry["inserted"], entry["updated"]) == (0, -2, 2)
    archive.assert_books_balance()
    assert unite_all(archive) == []


def test_given_more_rows_than_go_at_once_then_all_are_united(
    archive: Archive, writer: Writer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(unite, "MOST_ROWS", 7)
    write(writer, *(cdr(n) for n in range(50)))
    as_0_1_stored(archive, *range(50))
    write(writer, *(api_cdr(n) for n in range(0, 50, 2)))

    (united,) = unite_all(archive)

    assert (united.renamed, united.united) == (25, 25)
    assert archive.value("SELECT array_agg(DISTINCT leg) FROM cdrs") == [0]
    archive.assert_books_balance()


def test_given_a_0_1_that_goes_on_loading_then_the_day_is_due_again(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(1))
    assert unite_all(archive) == []
    archive.rows("UPDATE load_batches SET committed_at = now() - interval '1 hour' RETURNING 1")
    with engine(archive.database_url) as connections:
        assert unite.due(connections) == []

    write(writer, cdr(2))  # without a server, as a 0.1 does
    as_0_1_stored(archive, 2)

    assert [each.renamed for each in unite_all(archive)] == [1]


def test_given_revisions_of_leg_1_then_they_belong_to_the_first_leg_too(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(1))
    write(writer, cdr(1, call_time=2))
    as_0_1_stored(archive, 1)
    archive.rows("UPDATE cdr_revisions SET leg = 1 RETURNING 1")

    unite_all(archive)

    assert archive.rows("SELECT leg, call_time FROM cdr_revisions") == [{"leg": 0, "call_time": 41}]


@settings(max_examples=examples(0.5), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=versions, other=versions, leg_1_is_newer=st.booleans())
def test_given_any_twins_then_they_become_what_merging_makes(
    archive: Archive, writer: Writer, one: dict[str, Any], other: dict[str, Any], leg_1_is_newer: bool
) -> None:
    n = next(numbers)
    merged, united = f"merged {n}", f"united {n}"
    ids = sorted(new_id() for _ in range(4))
    older, newer = ids[:2], ids[2:]
    of_one, of_other = (newer, older) if leg_1_is_newer else (older, newer)

    def message(call_ref: str, version: dict[str, Any]) -> bytes:
        return json.dumps({"type": "cdr", "payload": {"call_ref": call_ref, **version}}).encode()

    write(writer, message(merged, one), batch_id=of_one[0])
    write(writer, message(merged, other), batch_id=of_other[0])
    write(writer, message(united, one), batch_id=of_one[1])
    as_0_1_stored(archive, united)
    write(writer, message(united, other), batch_id=of_other[1])
    with engine(archive.database_url) as connections:
        unite.unite(connections, archive.value("SELECT max(dialed_on) FROM cdrs"), "test")

    def about(call_ref: str, table: str) -> list[dict[str, Any]]:
        columns = ", ".join([*COLUMNS, "leg", "extra"])
        return archive.rows(f"SELECT {columns} FROM {table} WHERE call_ref = %s", call_ref)

    assert len(about(united, "cdrs")) == 1
    assert about(united, "cdrs") == about(merged, "cdrs")
    assert about(united, "cdr_revisions") == about(merged, "cdr_revisions")


@pytest.fixture
def lake(archive: Archive, tmp_path: Path) -> Archive:
    return with_lake(archive, tmp_path / "lake")


def in_the_lake(archive: Archive) -> list[tuple[str, int]]:
    return sorted((row["call_ref"], row["leg"]) for row in in_file(archive))


@pytest.mark.parametrize("together", [True, False], ids=["in one claim", "one claim each"])
def test_given_a_file_of_0_1_if_it_is_restored_then_its_twins_are_united(
    lake: Archive, writer: Writer, together: bool
) -> None:
    a, b = [cdr(n) for n in (1, 2)], [api_cdr(n, call_trail_number=2) for n in (2, 3)]
    for claim in [[*a, *b]] if together else [a, b]:
        write(writer, *claim)
    with psycopg.connect(lake.database_url) as connection:
        connection.execute("UPDATE cdrs SET leg = CASE WHEN number IS NULL THEN 0 ELSE 1 END")
    export_and_prune(lake)
    assert in_the_lake(lake) == [("1", 1), ("2", 0), ("2", 1), ("3", 0)]

    restore(lake)

    rows = lake.rows("SELECT call_ref, leg, number IS NOT NULL AS a, uuid IS NOT NULL AS b FROM cdrs ORDER BY 1")
    assert [tuple(row.values()) for row in rows] == [
        ("1", 0, True, False),
        ("2", 0, True, True),
        ("3", 0, False, True),
    ]
    assert lake.value("SELECT sum(inserted) FROM load_batch_days") == 3
    lake.assert_books_balance()
    export(lake)
    assert in_the_lake(lake) == [("1", 0), ("2", 0), ("3", 0)]


def test_given_legs_1_and_0_of_one_claim_if_restored_then_both_count(lake: Archive, writer: Writer) -> None:
    """Files are ordered by dialed_at: leg 1, which is a second earlier, comes back first, as leg 0; the real leg
    0 finds the key taken, has the same batch_id and loaded_at, and is dropped in silence."""
    write(writer, cdr(1), api_cdr(2, dialed_at="2015-02-19 23:06:01 +0200"))
    execute(lake, "UPDATE cdrs SET leg = 1 WHERE call_ref = '1'")  # as 0.1 stored both dialects of a claim
    execute(lake, "UPDATE cdrs SET call_ref = '1' WHERE call_ref = '2'")
    export_and_prune(lake)

    restore(lake)

    (row,) = lake.rows("SELECT * FROM cdrs")
    assert row["number"] is not None
    assert row["uuid"] is not None, "what leg 0 alone said is gone"


def test_given_a_0_1_that_loads_while_no_schedule_runs_then_it_is_due(archive: Archive, writer: Writer) -> None:
    """25 hours without a schedule (all hosts with --no-schedule, or down), and leg 1 stays for ever."""
    write(writer, cdr(1))
    with engine(archive.database_url) as connections:
        for day in unite.due(connections):
            unite.unite(connections, day, "test")
        write(writer, cdr(2))  # without a server, as a 0.1 does
        execute(archive, "UPDATE cdrs SET leg = 1 WHERE call_ref = '2'")
        execute(archive, "UPDATE load_batches SET committed_at = committed_at - interval '26 hours'")
        execute(archive, "UPDATE united_days SET united_at = united_at - interval '26 hours'")
        assert unite.due(connections) != []


def test_given_a_day_that_is_dropped_meanwhile_then_uniting_goes_on(archive: Archive, writer: Writer) -> None:
    """A prune between `due` and `unite_legs`: "Postgres can't do what it was asked", and the other days wait."""
    write(writer, cdr(1))
    with engine(archive.database_url) as connections:
        (day,) = unite.due(connections)
        execute(archive, "DROP TABLE cdrs_20150219")
        unite.unite(connections, day, "test")


def test_given_a_leg_1_of_0_1_before_midnight_then_b_after_it_joins_it(archive: Archive, writer: Writer) -> None:
    """Looking across midnight finds leg 0 only: a call of 0.1 that isn't united yet becomes two rows."""
    write(writer, cdr(1, dialed_at=int(MIDNIGHT.timestamp()) - 1))
    execute(archive, "UPDATE cdrs SET leg = 1")
    write(writer, api_cdr(1, dialed_at="2015-02-20 00:00:00 +0000"))
    with engine(archive.database_url) as connections:
        for day in unite.due(connections):
            unite.unite(connections, day, "test")
    assert archive.value("SELECT count(*) FROM cdrs") == 1
