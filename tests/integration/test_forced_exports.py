"""A day whose rows somebody changed past the ledger isn't exported again without a reason, which stays with the
revision: in the books, in the file, and in what `etl verify` shows."""

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from etl.errors import LakeError
from etl.lake.datasets import Dataset
from tests.lake import (
    CALLS,
    DAY,
    export,
    heard,
    in_file,
    lake,
    load,
    prune,
    restore,
    revision,
    revision_file,
    said_in_the_footer,
    with_lake,
)
from tests.world import Archive, cdr

BECAUSE = "a test call that the customer asked to be taken out"
ADJUSTED = "UPDATE load_batch_days SET inserted = inserted - 1 WHERE dataset = 'cdrs'"
BY_HAND = {
    "updated": ("UPDATE cdrs SET number = '0000' WHERE call_ref = '1'",),
    "only its claim": ("UPDATE cdrs SET batch_id = gen_random_uuid() WHERE call_ref = '1'",),
    "deleted": ("DELETE FROM cdrs WHERE call_ref = '1'",),
    "deleted, counts adjusted": (
        "DELETE FROM cdrs WHERE call_ref = '1'",
        ADJUSTED,
        "UPDATE load_batches SET inserted = inserted - 1, claimed = claimed - 1",
    ),
    "added": ("INSERT INTO cdrs SELECT dialed_on, source, 'x', leg, dialed_at FROM cdrs WHERE call_ref = '1'",),
    "key": ("UPDATE cdrs SET call_ref = 'x' WHERE call_ref = '1'",),
}
BY_HAND["added"] = (
    "CREATE TEMPORARY TABLE t AS SELECT * FROM cdrs WHERE call_ref = '1'",
    "UPDATE t SET call_ref = 'x'",
    "INSERT INTO cdrs SELECT * FROM t",
)


@pytest.fixture
def exported(archive: Archive, tmp_path: Path) -> Archive:
    load(with_lake(archive, tmp_path / "lake"), cdr(1), cdr(2))
    assert export(archive).what == "exported"
    return archive


def by_hand(archive: Archive, *statements: str) -> None:
    with psycopg.connect(archive.database_url) as connection:
        for statement in statements:
            connection.execute(statement)


def notes(archive: Archive) -> list[str]:
    with lake(archive) as opened:
        return [note.found for note in opened.verify(CALLS, DAY, deep=False).notes]


@pytest.mark.parametrize("change", BY_HAND)
def test_given_rows_changed_by_hand_then_force_says_why_or_nothing(exported: Archive, change: str) -> None:
    by_hand(exported, *BY_HAND[change])
    before, file = revision(exported), in_file(exported)

    assert export(exported).what == "unchanged"
    with pytest.raises(LakeError, match="knows of no change") as refused:
        export(exported, force=True)

    assert refused.value.code == "ETL-380"
    assert (revision(exported), in_file(exported)) == (before, file)
    assert export(exported, force=True, because=BECAUSE).what == "exported"
    entered = revision(exported)
    assert (entered["revision"], entered["because"]) == (2, BECAUSE)
    assert said_in_the_footer(revision_file(exported))["because"] == BECAUSE
    assert json.loads(revision_file(exported).with_suffix(".json").read_text())["because"] == BECAUSE
    assert notes(exported) == [f"exported by force, because: {BECAUSE}"]
    assert before["because"] is None
    assert "because" not in said_in_the_footer(next(revision_file(exported).parent.glob("r00001-*.parquet")))


def test_given_a_reason_then_it_is_shown_with_all_later_revisions(exported: Archive) -> None:
    by_hand(exported, *BY_HAND["updated"])
    export(exported, force=True, because=BECAUSE)
    load(exported, cdr(3))
    assert export(exported).what == "exported"

    assert revision(exported)["because"] is None
    assert notes(exported) == [f"exported by force, because: {BECAUSE}"]
    assert prune(exported).what == "dropped"
    assert restore(exported).rows == 3


def test_given_nothing_changed_then_no_reason_is_asked_or_kept(exported: Archive) -> None:
    assert export(exported, force=True, because=BECAUSE).what == "unchanged"
    revision_file(exported).chmod(0o600)
    revision_file(exported).write_bytes(b"damaged")
    assert export(exported, force=True, because=BECAUSE).what == "exported"
    assert [row["because"] for row in exported.rows("SELECT because FROM exports")] == [None, None]
    assert notes(exported) == []


LATER = {
    "a new call": (cdr(3),),
    "the same call": (cdr(1, call_time=9),),
    "another call": (cdr(2, call_time=9),),
}


@pytest.mark.parametrize("change", ["updated", "key"])
@pytest.mark.parametrize("later", LATER)
def test_given_a_change_by_hand_and_claims_then_it_must_be_said_why(exported: Archive, later: str, change: str) -> None:
    """Also if the row is what it was again, or a claim's by now."""
    by_hand(exported, *BY_HAND[change])
    load(exported, *LATER[later])
    before = revision(exported)
    for force in (False, True):
        with pytest.raises(LakeError, match="beside what the ledger knows") as refused:
            export(exported, force=force)
        assert refused.value.code == "ETL-961"
    assert revision(exported) == before

    assert export(exported, force=True, because=BECAUSE).what == "exported"
    assert notes(exported) == [f"exported by force, because: {BECAUSE}"]
    assert said_in_the_footer(revision_file(exported))["because"] == BECAUSE
    load(exported, cdr(4))
    assert export(exported).what == "exported"
    assert revision(exported)["because"] is None


def test_given_changes_by_hand_that_nobody_counted_then_they_are_let_be(exported: Archive) -> None:
    """Of a revision that an earlier release wrote, or that was taken over."""
    by_hand(exported, *BY_HAND["updated"], "UPDATE exports SET by_hand = NULL")
    load(exported, cdr(3))
    assert export(exported).what == "exported"
    assert revision(exported)["by_hand"] == 1


def test_given_a_forged_row_if_its_day_comes_back_then_no_reason_is_asked(exported: Archive) -> None:
    """The lake's row takes its place, and what it was is kept."""
    by_hand(
        exported, "CREATE TABLE public.t AS SELECT * FROM cdrs WHERE call_ref = '1'", "UPDATE public.t SET number = '0'"
    )
    assert prune(exported).what == "dropped"
    load(exported, cdr(3))
    by_hand(exported, "INSERT INTO cdrs SELECT * FROM public.t", "DROP TABLE public.t")
    before = in_file(exported)
    assert export(exported).what == "exported"
    assert revision(exported)["by_hand"] == 1
    assert [row for row in in_file(exported) if row["call_ref"] != "3"] == before


def test_given_a_change_that_the_ledger_knows_then_no_reason_is_asked(exported: Archive) -> None:
    load(exported, cdr(1, call_time=9))
    assert export(exported, force=True).what == "exported"
    assert revision(exported)["because"] is None


def test_given_another_writer_of_the_same_rows_then_no_reason_is_asked(exported: Archive) -> None:
    """As an earlier pyarrow would have made them: the same rows, and other bytes."""
    rewritten(exported, CALLS, lambda path, table, metadata: write(path, table.replace_schema_metadata(metadata)))

    assert export(exported, force=True).what == "exported"
    assert revision(exported)["because"] is None


def write(path: Path, table: "pq.pa.Table") -> None:
    pq.write_table(table, path, compression="gzip", store_schema=True)


def rewritten(archive: Archive, dataset: Dataset, how: Callable[..., None]) -> None:
    """The current revision's file, and what the books say of its bytes."""
    import hashlib  # noqa: PLC0415

    old = revision_file(archive, dataset=dataset.name)
    table, metadata = pq.read_table(old, partitioning=None), pq.read_metadata(old).metadata
    aside = old.parent.parent / "aside.parquet"
    how(aside, table, {b"etl.manifest": metadata[b"etl.manifest"], **(table.schema.metadata or {})})
    digest = hashlib.sha256(aside.read_bytes()).hexdigest()
    by_hand(archive, f"UPDATE exports SET sha256 = '{digest}', bytes = {aside.stat().st_size}")
    old.chmod(0o600)
    old.unlink()
    aside.rename(revision_file(archive, dataset=dataset.name))


def test_given_damage_and_changed_rows_then_it_must_be_said_why(exported: Archive) -> None:
    by_hand(exported, *BY_HAND["updated"])
    revision_file(exported).chmod(0o600)
    revision_file(exported).write_bytes(b"damaged")

    with pytest.raises(LakeError, match="knows of no change"):
        export(exported, force=True)


def test_given_events_changed_by_hand_then_force_says_why(archive: Archive, tmp_path: Path) -> None:
    load(with_lake(archive, tmp_path / "lake"), heard(1), key="etl:events")
    assert export(archive, dataset="audit_events").what == "exported"
    by_hand(archive, "UPDATE audit_events SET payload = '{}'")

    with pytest.raises(LakeError, match="knows of no change"):
        export(archive, dataset="audit_events", force=True)
    assert export(archive, dataset="audit_events", force=True, because=BECAUSE).what == "exported"


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "\x1b[31m", "x" * 501])
def test_given_no_reason_worth_the_name_then_it_is_refused(exported: Archive, reason: str) -> None:
    done = exported.run("export", "--day", str(DAY), "--force", "--because", reason)
    assert done.returncode == 2
    assert "--because" in done.stderr


def test_given_the_command_then_it_takes_the_reason_and_verify_shows_it(exported: Archive) -> None:
    by_hand(exported, *BY_HAND["updated"])
    command = ["export", "--day", str(DAY), "--because", BECAUSE]
    assert exported.run(*command).returncode == 2
    refused = exported.run("export", "--day", str(DAY), "--force")
    assert (refused.returncode, "ETL-380" in refused.stdout + refused.stderr) == (1, True)
    assert exported.run(*command, "--force").returncode == 0
    verified = exported.run("verify", "--json")
    assert verified.returncode == 0
    assert [note["found"] for note in json.loads(verified.stdout)["notes"]] == [
        f"exported by force, because: {BECAUSE}"
    ]
