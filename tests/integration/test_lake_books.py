"""Ledger, Postgres and lake hold each other to account: what one of them lost, or what somebody did by hand, is told,
and nothing is overwritten or dropped on the word of books that don't balance (promises 3 and 6)."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from etl.errors import LakeError
from etl.lab.servers.private import PrivatePostgres
from tests.lake import (
    CALLS,
    DAY,
    SPOOL,
    assert_agrees,
    assert_comes_right,
    export,
    export_and_prune,
    file,
    heard,
    in_file,
    in_postgres,
    lake,
    load,
    manifest_file,
    prune,
    refs,
    restore,
    revision,
    revision_file,
    with_lake,
    without_traces,
)
from tests.world import Archive, cdr, eventually

PARTITION = f"cdrs_{DAY:%Y%m%d}"


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")


def sha256(archive: Archive) -> str:
    return hashlib.sha256(file(archive).read_bytes()).hexdigest()


def by_hand(archive: Archive, statement: str) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(statement)


def refused(archive: Archive, do: Callable[[Archive], object] = export) -> str:
    """What is said."""
    with pytest.raises(LakeError) as error:
        do(archive)
    nobody_holds_a_day(archive)
    return str(error.value)


def nobody_holds_a_day(archive: Archive) -> None:
    """Whoever fails lets go of a day by closing the connection, which Postgres hears of a moment later."""
    locks = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
    held = f"{locks} WHERE locktype = 'advisory' AND datname = current_database()"
    eventually(lambda: archive.value(held) == 0)


def verified(archive: Archive, deep: bool = False) -> list[str]:
    """What differs."""
    with lake(archive) as opened:
        return [difference.what for difference in opened.verify(CALLS, DAY, deep).wrong]


# -- the same rows are the same bytes


def test_unchanged_rows_are_the_same_bytes_also_after_they_were_away(archive: Archive) -> None:
    load(archive, *(cdr(n, note="x" * (n % 7)) for n in range(50)))
    export(archive)
    first = sha256(archive)
    assert export(archive, force=True).what == "unchanged"
    assert sha256(archive) == first == revision(archive)["sha256"]

    prune(archive)
    assert restore(archive).rows == 50
    assert export(archive, force=True).what == "unchanged"

    assert sha256(archive) == first
    assert revision(archive)["revision"] == 1
    assert_agrees(archive)


def test_a_forced_export_of_a_dropped_day_restores_and_changes_nothing(archive: Archive) -> None:
    load(archive, cdr(1), cdr(2))
    export_and_prune(archive)
    first = sha256(archive)
    assert export(archive, force=True).what == "unchanged"
    assert sha256(archive) == first
    assert refs(in_postgres(archive)) == ["1", "2"]
    assert_agrees(archive)


# -- somebody did something to Postgres

BY_HAND = {
    "deleted": f"DELETE FROM {PARTITION} WHERE call_ref = '1'",
    "truncated": f"TRUNCATE {PARTITION}",
    "dropped": f"DROP TABLE {PARTITION}",
}


@pytest.mark.parametrize("statement", BY_HAND.values(), ids=BY_HAND)
def test_given_removed_rows_then_no_export_until_they_are_restored(archive: Archive, statement: str) -> None:
    load(archive, cdr(1), cdr(2))
    export(archive)
    before = sha256(archive)
    by_hand(archive, statement)
    load(archive, cdr(3))

    assert "the ledger says 3" in refused(archive)
    assert sha256(archive) == before
    assert revision(archive)["revision"] == 1
    assert prune(archive).what == "kept"

    restore(archive)
    assert export(archive).what == "exported"
    assert refs(in_file(archive)) == ["1", "2", "3"]
    assert_agrees(archive)


@pytest.mark.parametrize("statement", BY_HAND.values(), ids=BY_HAND)
def test_given_rows_that_somebody_removed_the_day_is_not_dropped(archive: Archive, statement: str) -> None:
    load(archive, cdr(1), cdr(2))
    export(archive)
    by_hand(archive, statement)
    assert prune(archive).what == "failed"
    assert revision(archive)["dropped_at"] is None
    assert restore(archive).rows == (1 if "DELETE" in statement else 2)
    assert_agrees(archive)
    assert prune(archive).what == "dropped"


def test_given_rows_that_somebody_put_in_then_they_are_told_of(archive: Archive) -> None:
    assert export(archive).what == "unchanged", "of a day without any"
    load(archive, cdr(1), cdr(2))
    by_hand(archive, "DELETE FROM load_batch_days")
    assert "rows of which the ledger knows none" in refused(archive)
    assert not file(archive).exists()


def test_given_rows_lost_for_good_if_forced_then_the_rest_is_exported(
    archive: Archive,
) -> None:
    load(archive, cdr(1), cdr(2))
    by_hand(archive, BY_HAND["deleted"])
    failed = archive.run("export")
    assert failed.returncode == 1
    assert str(DAY) in failed.stderr + failed.stdout
    assert not file(archive).exists()

    assert export(archive, force=True).what == "exported"
    assert refs(in_file(archive)) == ["2"]
    with lake(archive) as opened:
        assert opened.compare(CALLS, DAY).verdict == "unequal"


# -- Postgres was set back, or it is another archive's lake


@contextmanager
def a_backup(archive: Archive, postgres: PrivatePostgres) -> Iterator[Archive]:
    """The archive as it is now, on the same lake."""
    archive.__exit__()
    eventually(lambda: connections(archive, postgres) == 0)
    name = psycopg.conninfo.conninfo_to_dict(archive.database_url)["dbname"]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}_backup" TEMPLATE "{name}"')
        archive.__enter__()
        with replace(archive, database_url=postgres.database_url(f"{name}_backup")) as backup:
            yield backup
        connection.execute(f'DROP DATABASE "{name}_backup" WITH (FORCE)')


def connections(archive: Archive, postgres: PrivatePostgres) -> int:
    name = psycopg.conninfo.conninfo_to_dict(archive.database_url)["dbname"]
    with psycopg.connect(postgres.url) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [name]
        ).fetchone() or (0,)
    return int(count)


def before_any_export(_: Archive) -> None:
    pass


def dropped(archive: Archive) -> None:
    export(archive)
    prune(archive)


def dropped_with_late_ones(archive: Archive) -> None:
    dropped(archive)
    load(archive, cdr(2, call_time=6, hold_time=None, note="y"), cdr(4))


@pytest.mark.parametrize(
    ("state", "then_dropped"),
    [(before_any_export, False), (export, True), (dropped, False), (dropped_with_late_ones, True)],
)
def test_given_postgres_set_back_then_no_export_until_rows_are_taken_over(
    archive: Archive, postgres: PrivatePostgres, state: Callable[[Archive], object], then_dropped: bool
) -> None:
    load(archive, cdr(1), cdr(2, call_time=7, hold_time=3), cdr(3))
    state(archive)
    with a_backup(archive, postgres) as set_back:
        load(archive, cdr(1, call_time=5), cdr(8))
        export(archive)
        load(archive, cdr(9))
        load(archive, cdr(9, note="x"))
        export(archive)
        if then_dropped:
            assert prune(archive).what == "dropped"
        before, number = in_file(archive), revision(archive)["revision"]

        load(set_back, cdr(10))
        assert f"is revision {number}" in refused(set_back)
        assert f"is revision {number}" in refused(set_back, lambda each: export(each, force=True))
        assert prune(set_back).what == "kept"
        assert in_file(archive) == before

        assert restore(set_back).what == "restored"
        assert restore(set_back).why == "nothing was missing"
        assert_comes_right(set_back)
        set_back.assert_books_balance()
        assert revision(set_back)["revision"] == number + 1
        after = {row["call_ref"]: row for row in without_traces(in_file(set_back))}
        assert {ref: row for ref, row in after.items() if ref != "10"} == {
            row["call_ref"]: row for row in without_traces(before)
        }
        assert "10" in after
        # And life goes on.
        load(set_back, cdr(11))
        assert export(set_back).revision == number + 2
        assert prune(set_back).what == "dropped"
        assert_agrees(set_back)


def test_given_many_claims_that_were_lost_then_one_entry_takes_them_over(
    archive: Archive, postgres: PrivatePostgres
) -> None:
    load(archive, cdr("before"))
    with a_backup(archive, postgres) as set_back:
        for number in range(4):
            load(archive, cdr(number))
        export(archive)
        entries = revision(archive)["entries"]

        assert restore(set_back).what == "restored"

        assert set_back.value("SELECT count(*) FROM load_batches WHERE source_key = 'lake'") == 1
        with lake(set_back) as of_ours:
            assert of_ours.verify(CALLS, DAY, deep=False).wrong == [], "the file says what it said"
        # As many entries as it was exported under are still not those.
        while set_back.value("SELECT count(*) FROM load_batch_days") < entries:
            load(set_back, cdr(f"later {set_back.value('SELECT count(*) FROM load_batch_days')}"))
        assert prune(set_back).what == "kept"
        assert export(set_back).revision == revision(archive)["revision"] + 1
        assert len(in_file(set_back)) == len(in_postgres(set_back))
        assert prune(set_back).what == "dropped"
        assert_agrees(set_back)


def test_given_postgres_set_back_events_are_taken_over_too(archive: Archive, postgres: PrivatePostgres) -> None:
    load(archive, heard(1), key=SPOOL)
    export_and_prune(archive, dataset="audit_events")
    with a_backup(archive, postgres) as set_back:
        load(archive, heard(1), heard(2), key=SPOOL)
        export_and_prune(archive, dataset="audit_events")
        load(set_back, heard(2), heard(3), key=SPOOL)
        refused(set_back, lambda each: export(each, dataset="audit_events"))
        restore(set_back, dataset="audit_events")
        assert_comes_right(set_back)
        set_back.assert_books_balance()
        assert len(in_file(set_back, dataset="audit_events")) == 3


def test_two_archives_on_one_folder_do_not_replace_each_others_files(
    archive: Archive, postgres: PrivatePostgres
) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(a_backup(archive, postgres))
        load(archive, cdr(1))
        load(other, cdr(2))
        export(archive)
        before = sha256(archive)
        assert "these books know none" in refused(other)
        with lake(other) as opened:
            assert opened.compare(CALLS, DAY).verdict == "unequal"
        assert sha256(archive) == before
        assert prune(other).what == "kept"


# -- somebody did something to the lake


def edit(archive: Archive, **values: object) -> None:
    manifest = manifest_file(archive)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **values}))


def edit_the_file(archive: Archive) -> None:
    with pq.ParquetFile(revision_file(archive)) as parquet:
        table, metadata = parquet.read(), parquet.metadata.metadata
    pq.write_table(table.slice(1).replace_schema_metadata(metadata), revision_file(archive))


def flip_a_byte(archive: Archive) -> None:
    content = bytearray(revision_file(archive).read_bytes())
    content[50] ^= 1
    revision_file(archive).write_bytes(content)


def delete_both(archive: Archive) -> None:
    for path in (revision_file(archive), file(archive)):
        path.unlink()


DAMAGE: dict[str, Callable[[Archive], object]] = {
    "manifest: fewer rows": lambda archive: edit(archive, rows=1),
    "manifest: later revision, more rows": lambda archive: edit(archive, revision=7, rows=9),
    "manifest: other file": lambda archive: edit(archive, sha256="0" * 64),
    "manifest: no manifest": lambda archive: manifest_file(archive).write_text("{"),
    "manifest deleted": lambda archive: manifest_file(archive).unlink(),
    "file truncated": lambda archive: revision_file(archive).write_bytes(revision_file(archive).read_bytes()[:-9]),
    "file edited": edit_the_file,
    "a bit flipped": flip_a_byte,
    "both files deleted": delete_both,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_given_this_damage_then_no_drop_and_a_forced_export_mends_it(archive: Archive, damage: str) -> None:
    load(archive, cdr(1), cdr(2))
    export(archive)
    books = revision(archive)
    DAMAGE[damage](archive)

    assert_verification_shows_it(archive)
    assert_fails(archive, lambda: prune(archive).what == "failed")
    assert refs(in_postgres(archive)) == ["1", "2"]
    assert revision(archive) == books

    manifest_file(archive).unlink(missing_ok=True)  # it's what an operator is told of, and must decide on
    export(archive, force=True)
    assert verified(archive, deep=True) == []
    assert_agrees(archive)


@pytest.mark.parametrize(
    "damage",
    ["file truncated", "file edited", "a bit flipped", "both files deleted"],
)
def test_given_a_dropped_day_with_this_damage_then_late_cdrs_stay(archive: Archive, damage: str) -> None:
    load(archive, cdr(1), cdr(2))
    export_and_prune(archive)
    file_before, manifest = revision_file(archive).read_bytes(), manifest_file(archive).read_bytes()
    DAMAGE[damage](archive)
    damaged = revision_file(archive).read_bytes() if revision_file(archive).exists() else None
    load(archive, cdr(3))

    for force in (False, True):
        assert str(DAY) in refused(archive, lambda each, force=force: export(each, force=force))  # type: ignore[misc]
    assert_verification_shows_it(archive)
    assert prune(archive).what == "kept"
    assert refs(in_postgres(archive)) == ["3"]
    assert damaged == (revision_file(archive).read_bytes() if revision_file(archive).exists() else None)

    revision_file(archive).write_bytes(file_before)  # from a backup
    manifest_file(archive).write_bytes(manifest)
    assert_comes_right(archive)
    assert refs(in_file(archive)) == ["1", "2", "3"]


def assert_verification_shows_it(archive: Archive) -> None:
    assert_fails(archive, lambda: bool(verified(archive)))


def assert_fails(archive: Archive, do: Callable[[], bool]) -> None:
    """By what it returns, or by what it raises."""
    try:
        failed = do()
    except LakeError as error:
        failed = str(DAY) in str(error)
    assert failed
    nobody_holds_a_day(archive)


def test_given_a_dropped_day_without_manifest_then_late_cdrs_are_exported(archive: Archive) -> None:
    load(archive, cdr(1))
    export_and_prune(archive)
    manifest_file(archive).unlink()
    load(archive, cdr(2))
    assert_comes_right(archive)
    assert refs(in_file(archive)) == ["1", "2"]


def test_given_a_deleted_revision_then_the_plain_copy_is_it_again(archive: Archive) -> None:
    load(archive, cdr(1), cdr(2))
    export_and_prune(archive)
    revision_file(archive).unlink()
    assert verified(archive, deep=True) == []
    assert hashlib.sha256(revision_file(archive).read_bytes()).hexdigest() == revision(archive)["sha256"]
    assert_agrees(archive)


def test_given_a_file_that_no_books_know_it_is_not_replaced(archive: Archive) -> None:
    load(archive, cdr(1))
    export(archive)
    manifest_file(archive).unlink()
    by_hand(archive, "DELETE FROM exports")
    before = sha256(archive)
    assert str(DAY) in refused(archive)
    assert sha256(archive) == before
