"""kill -9 at every step between Postgres and the lake: each row is always in one of them, a reader always sees one
whole revision, and the next run comes right without help (promises 3, 6 and 7)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.lake_child import BRING_BACK, EXPORT, PRUNE, SWEEP
from tests.faults.nursery import Nursery
from tests.lake import (
    DAY,
    assert_comes_right,
    assert_nothing_half_written_is_read,
    export,
    export_and_prune,
    heard,
    in_file,
    in_postgres,
    load,
    manifest_file,
    refs,
    restore,
    revision,
    revisions,
    seen_by_a_reader,
    with_lake,
)
from tests.person import KEY, NUMBER, PERSON, forget, where_the_person_is
from tests.world import Archive, cdr

EVERYONE = ["1", "2", "3", "4"]


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")


def never_exported(archive: Archive) -> None:
    load(archive, *(cdr(n) for n in EVERYONE))


def exported_and_changed(archive: Archive) -> None:
    load(archive, cdr(1), cdr(2, call_time=7), cdr(3))
    export(archive)
    load(archive, cdr(4), cdr(2))


def dropped_and_changed(archive: Archive) -> None:
    """A new call, a contradiction, a completion and one that says nothing new arrive after Postgres forgot the day."""
    load(archive, cdr(1), cdr(2, call_time=7), cdr(3))
    export_and_prune(archive)
    load(archive, cdr(4), cdr(2), cdr(3, hold_time=5), cdr(1))


def assert_no_row_is_nowhere(archive: Archive) -> None:
    assert sorted({*refs(in_postgres(archive)), *refs(in_file(archive))}) == EVERYONE


def assert_all_are_there(archive: Archive) -> None:
    assert_comes_right(archive)
    assert refs(in_file(archive)) == EVERYONE
    assert {row["call_time"] for row in in_file(archive)} == {41}  # what was said last


def has_copied(step: str) -> bool:
    """For plain readers; until then they find what they found before."""
    return step in EXPORT[EXPORT.index("after_copy_for_readers") :]


# The steps in between are those of the next test, too.
@pytest.mark.parametrize(
    "step", ["draft_entered", "draft_half_written", "before_publish", "after_publish", *EXPORT[-3:]]
)
@pytest.mark.parametrize("given", [never_exported, exported_and_changed])
def test_an_exporter_killed_at_this_step_leaves_one_whole_revision(
    archive: Archive, nursery: Nursery, given: Callable[[Archive], None], step: str
) -> None:
    given(archive)
    before = refs(in_file(archive))

    nursery.kill_at(archive, step, "export")

    assert refs(in_postgres(archive)) == EVERYONE
    assert refs(seen_by_a_reader(archive)) == (EVERYONE if has_copied(step) else before)
    assert_nothing_half_written_is_read(archive)
    assert_all_are_there(archive)


@pytest.mark.parametrize("step", [*BRING_BACK, *EXPORT])
def test_an_exporter_of_a_dropped_day_killed_at_this_step_loses_no_row(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    dropped_and_changed(archive)

    nursery.kill_at(archive, step, "export")

    assert refs(seen_by_a_reader(archive)) == (EVERYONE if has_copied(step) else ["1", "2", "3"])
    assert_no_row_is_nowhere(archive)
    assert_nothing_half_written_is_read(archive)
    assert_all_are_there(archive)
    assert archive.value("SELECT array_agg(call_ref || ' ' || call_time) FROM cdr_revisions") == ["2 7"]
    assert refs(in_postgres(archive)) == EVERYONE


@pytest.mark.parametrize("step", ["staging_half_filled", "before_load_back_commits", "after_load_back"])
def test_a_restorer_killed_at_this_step_loses_nothing_and_can_be_rerun(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    load(archive, *(cdr(n) for n in EVERYONE))
    export_and_prune(archive)

    nursery.kill_at(archive, step, "restore", "--day", str(DAY))

    assert refs(seen_by_a_reader(archive)) == EVERYONE
    assert refs(in_postgres(archive)) == (EVERYONE if step == "after_load_back" else [])
    assert_all_are_there(archive)
    restore(archive)
    assert refs(in_postgres(archive)) == EVERYONE
    assert_all_are_there(archive)


@pytest.mark.parametrize("step", PRUNE)
def test_a_pruner_killed_at_this_step_leaves_the_day_or_has_dropped_it(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    load(archive, *(cdr(n) for n in EVERYONE))
    export(archive)

    nursery.kill_at(archive, step, "prune", "--keep-days", "1")

    dropped = step == "after_drop"
    assert (revision(archive)["dropped_at"] is not None) == dropped
    assert refs(in_postgres(archive)) == ([] if dropped else EVERYONE)
    assert refs(seen_by_a_reader(archive)) == EVERYONE
    assert_all_are_there(archive)


@pytest.mark.parametrize(
    "step",
    ["staging_half_filled", "before_load_back_commits", "before_publish", "before_confirm", "after_copy_for_readers"],
)
def test_events_of_a_dropped_day_survive_an_exporter_killed_at_this_step(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    load(archive, heard(1), heard(2), key="etl:events")
    export_and_prune(archive, dataset="audit_events")
    load(archive, heard(2), heard(3), key="etl:events")

    nursery.kill_at(archive, step, "export")

    assert len(seen_by_a_reader(archive, "audit_events")) == (3 if has_copied(step) else 2)
    assert_comes_right(archive)
    assert len(in_file(archive, dataset="audit_events")) == 3


@pytest.mark.parametrize(
    "step",
    [
        "after_load_back",
        "before_erase_commits",
        "after_erase",
        "before_publish",
        "after_publish",
        "before_copy_for_readers",
        "before_history_erased",
        "after_history_erased",
        *SWEEP,
        "before_drop_commits",
        "before_complete_commits",
    ],
)
def test_given_a_forgetting_killed_at_this_step_then_a_rerun_completes_it(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    archive.more = {**archive.more, "forget_key": KEY}
    load(archive, cdr(1), cdr(2, **PERSON, call_time=7), cdr(3, call_time=7))
    export_and_prune(archive)
    load(archive, cdr(4), cdr(2, **PERSON), cdr(3), b"broken " + NUMBER.encode())

    nursery.kill_at(archive, step, "forget", "--number", NUMBER, "--yes")

    assert archive.rows("SELECT completed_at FROM forgotten") == [{"completed_at": None}]
    assert_no_row_is_nowhere(archive)
    assert_nothing_half_written_is_read(archive)
    assert forget(archive).failed == []
    assert where_the_person_is(archive) == set()
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 1
    assert archive.value("SELECT count(*) FROM forgotten") == 1
    assert_all_are_there(archive)


@pytest.mark.parametrize("step", SWEEP)
def test_a_sweeper_killed_at_this_step_takes_nothing_that_is_needed(
    archive: Archive, nursery: Nursery, step: str
) -> None:
    load(archive, cdr(1))
    export(archive)
    load(archive, *(cdr(n) for n in EVERYONE))
    export_and_prune(archive)
    archive.more = {**archive.more, "lake_history_days": 0}
    superseded, current = revisions(archive)

    nursery.kill_at(archive, step, "export")

    assert superseded.exists() == (step != "after_revision_removed")
    assert refs(seen_by_a_reader(archive)) == EVERYONE
    assert_all_are_there(archive)
    assert {*current.parent.iterdir()} == {current, manifest_file(archive)}


def test_after_an_exporter_killed_before_publishing_the_program_recovers(archive: Archive, nursery: Nursery) -> None:
    dropped_and_changed(archive)
    nursery.kill_at(archive, "before_publish", "export")
    # In this order each finds what the one before it left.
    for command in (["reconcile"], ["export"], ["verify", "--deep"]):
        ended = archive.run(*command)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
    assert refs(in_file(archive)) == EVERYONE
