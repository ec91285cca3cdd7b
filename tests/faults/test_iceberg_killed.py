"""kill -9 and long sleep between a revision, the metadata of the Iceberg table and its pointer: engines see one whole
revision of each day at any moment, that of the books, and nothing stays behind (promises 6 and 7)."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import iceberg
from tests.faults.lake_child import TABLE, TABLE_SWEEP
from tests.faults.nursery import Nursery
from tests.lake import DAY, export, export_all, folder, load, on, with_lake
from tests.world import Archive

LATER = "UPDATE lake_table_files SET began_at = began_at - interval '2 hours' RETURNING 1"


@pytest.fixture(autouse=True)
def lake_with_tables(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    archive.more = {**archive.more, "lake_table": "iceberg", "lake_history_days": 0}


def refs(archive: Archive) -> list[str]:
    """As Polars finds them, by the pointer."""
    return sorted(iceberg.rows(archive)["call_ref"])


def assert_as_the_books(archive: Archive) -> None:
    current = archive.value(
        "SELECT format('r%%s-%%s', lpad(revision::text, 5, '0'), left(sha256, 16)) FROM exports"
        " WHERE published_at IS NOT NULL ORDER BY revision DESC LIMIT 1"
    )
    assert [Path(name).stem for name in iceberg.files(iceberg.planned(iceberg.pointer(archive)))] == [current]


def assert_nothing_is_left(archive: Archive) -> None:
    """Once it's known that whoever died won't come back, there is nothing but what the pointer leads to."""
    archive.rows(LATER)
    export_all(archive)
    there = {path.relative_to(folder(archive)).as_posix() for path in folder(archive).glob("_iceberg/cdrs/**/*.*")}
    known = {row["name"] for row in archive.rows("SELECT name FROM lake_table_files WHERE given_up_at IS NULL")}
    assert there == known
    assert len(iceberg.metadata(archive)["snapshots"]) == 1


@pytest.mark.parametrize("step", TABLE)
def test_an_exporter_killed_at_this_step_moves_the_table_or_does_not(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    load(archive, on(0, 1), on(0, 2))
    export(archive)
    load(archive, on(0, 3))
    running = iceberg.pointer(archive)

    nursery.kill_at(archive, step, "export")

    moved = step == "after_confirm"
    assert refs(archive) == (["1", "2", "3"] if moved else ["1", "2"])
    assert_as_the_books(archive)
    export(archive)
    assert refs(archive) == ["1", "2", "3"]
    assert sorted(iceberg.read(running)["call_ref"]) == ["1", "2"]
    assert_as_the_books(archive)
    assert_nothing_is_left(archive)


@pytest.mark.parametrize("step", [step for step in TABLE if step.endswith(("metadata", "commits"))])
def test_an_exporter_killed_amid_its_first_table_leaves_a_sound_one(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    load(archive, on(0, 1), on(0, 2))
    nursery.kill_at(archive, step, "export")
    export(archive)
    assert refs(archive) == ["1", "2"]
    assert_nothing_is_left(archive)


@pytest.mark.parametrize("step", TABLE_SWEEP)
def test_who_is_killed_while_history_ends_takes_nothing_that_is_needed(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    load(archive, on(0, 1))
    export(archive)
    load(archive, on(0, 2))
    export(archive)
    nursery.kill_at(archive, step, "lake", "expire")
    assert refs(archive) == ["1", "2"]
    assert_nothing_is_left(archive)
    assert refs(archive) == ["1", "2"]


def test_given_exporters_of_several_days_at_once_then_none_is_missing(archive: Archive) -> None:
    days = range(6)
    load(archive, *(on(day, f"{day}-{number}") for day in days for number in range(3)))
    with ThreadPoolExecutor(len(days)) as pool:
        names = [str(DAY.fromordinal(DAY.toordinal() + day)) for day in days for _ in range(2)]
        ended = [*pool.map(lambda name: archive.run("export", "--day", name), names)]
    assert all(each.returncode == 0 or "busy" in each.stdout for each in ended), [each.stderr for each in ended]
    assert refs(archive) == sorted(f"{day}-{number}" for day in days for number in range(3))
    assert archive.run("lake", "status").returncode == 0
