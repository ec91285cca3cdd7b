"""A lake that knows more than its books, or less: after Postgres was set back, after a 0.1 woke up late, or where files
are gone. Nothing is swept that may be the only copy, every command says so, and nobody who was forgotten comes back."""

import os
from pathlib import Path

import pytest

from etl.app.database import engine_of
from etl.app.forget import forget_again
from etl.app.lake import sweep_lake
from etl.errors import ConfigurationError, EtlError
from etl.jobs import forget as job
from etl.lab.servers.private import PrivatePostgres
from etl.wire.erasure import Person
from tests.integration.test_lake_books import a_backup, by_hand
from tests.lake import (
    CALLS,
    DAY,
    assert_agrees,
    assert_comes_right,
    export,
    export_and_prune,
    file,
    in_file,
    in_postgres,
    lake,
    load,
    prune,
    refs,
    restore,
    revision_file,
    revisions,
    with_lake,
)
from tests.person import CONTACT, KEY, NUMBER, PERSON, forget, where_the_person_is
from tests.world import Archive, cdr


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    archive.more = {"forget_key": KEY}
    with_lake(archive, tmp_path / "lake")


def sweep(archive: Archive) -> None:
    with lake(archive) as opened:
        assert sweep_lake(archive.settings(), opened).failed == []


def a_withdrawn_revision(archive: Archive) -> bytes:
    """Revision 2, as an exporter of 0.1 had it in its draft when it froze, and was given up for dead."""
    load(archive, cdr(1))
    export(archive)
    first = file(archive).read_bytes()
    load(archive, cdr(2))
    export(archive)
    late = file(archive).read_bytes()
    revision_file(archive).with_suffix(".json").unlink()
    revision_file(archive).unlink()
    file(archive).unlink()
    file(archive).write_bytes(first)
    by_hand(archive, "UPDATE exports SET published_at = NULL WHERE revision = 2")
    with lake(archive) as opened, opened.hold(CALLS, DAY):
        pass
    assert archive.value("SELECT revision FROM lake_drafts") == 2
    assert archive.value("SELECT count(*) FROM exports") == 1
    return late


def put_in_its_place(archive: Archive, content: bytes) -> None:
    """By rename, as 0.1 published."""
    draft = file(archive).with_name(".part-0.parquet.tmp")
    draft.write_bytes(content)
    os.replace(draft, file(archive))


@pytest.mark.parametrize("by", ["export", "verify", "sweep"])
def test_given_a_withdrawn_revision_for_plain_readers_then_renewed(archive: Archive, by: str) -> None:
    late = a_withdrawn_revision(archive)
    assert export(archive).revision == 3
    put_in_its_place(archive, late)
    load(archive, cdr(3))
    if by == "export":
        assert export(archive).what == "exported"
    elif by == "verify":
        with lake(archive) as opened:
            found = opened.verify(CALLS, DAY, deep=False)
            assert found.wrong == []
            assert [each.found for each in found.notes] == ["an older revision: renewed"]
    else:
        sweep(archive)
    assert file(archive).read_bytes() == revision_file(archive).read_bytes()
    assert_comes_right(archive)


def test_given_a_withdrawn_revision_before_the_next_then_it_is_exported(archive: Archive) -> None:
    put_in_its_place(archive, a_withdrawn_revision(archive))
    assert export(archive).revision == 3
    assert_comes_right(archive)
    assert refs(in_file(archive)) == ["1", "2"]


def test_a_revision_of_the_books_is_no_draft_that_goes(archive: Archive) -> None:
    load(archive, cdr(1))
    export_and_prune(archive)
    name = str(revision_file(archive).relative_to(Path(archive.more["export_url"])))
    by_hand(
        archive,
        f"INSERT INTO lake_drafts (name, dataset, day, revision, worker) VALUES ('{name}', 'cdrs', '{DAY}', 1, 'x')",
    )
    sweep(archive)
    with lake(archive) as opened:
        assert opened.verify(CALLS, DAY, deep=True).wrong == []
    assert revision_file(archive).exists()
    restore(archive)
    assert refs(in_postgres(archive)) == ["1"]


def test_given_what_a_0_1_left_late_then_the_sweep_takes_it(archive: Archive) -> None:
    """Other readers refuse a folder with its manifest."""
    load(archive, cdr(1))
    export(archive)
    for name in (".part-0.parquet.tmp", "_manifest.json"):
        file(archive).with_name(name).write_bytes(b"{}")
    sweep(archive)
    assert [path.name for path in file(archive).parent.iterdir()] == ["part-0.parquet"]
    assert_agrees(archive)


COMMANDS = (("verify",), ("reconcile",), ("export",))


def code(archive: Archive, *arguments: str) -> int:
    ended = archive.run(*arguments)
    assert "Traceback" not in ended.stderr
    return ended.returncode


def test_given_books_without_files_then_every_command_fails(archive: Archive) -> None:
    load(archive, cdr(1))
    export(archive)
    revision_file(archive).unlink()
    file(archive).unlink()
    assert {each: code(archive, *each) for each in COMMANDS} == dict.fromkeys(COMMANDS, 1)
    assert code(archive, "export", "--day", str(DAY)) == 1
    assert export(archive, force=True).what == "exported"
    assert_agrees(archive)


def test_given_postgres_set_back_then_every_command_fails(archive: Archive, postgres: PrivatePostgres) -> None:
    load(archive, cdr(1))
    export(archive)
    with a_backup(archive, postgres) as set_back:
        load(archive, cdr(2))
        export_and_prune(archive)
        by_hand(archive, "UPDATE exports SET published_at = published_at - interval '30 days'")
        sweep(archive)
        files = {path: path.read_bytes() for path in revisions(archive)}
        assert {each: code(set_back, *each) for each in COMMANDS} == dict.fromkeys(COMMANDS, 1)
        assert code(set_back, "export", "--day", str(DAY)) == 1
        assert code(set_back, "prune", "--keep-days", "1") == 1
        assert {path: path.read_bytes() for path in revisions(set_back)} == files
        assert code(set_back, "restore", "--all-missing") == 0
        assert_comes_right(set_back)
        assert {each: code(set_back, *each) for each in COMMANDS} == dict.fromkeys(COMMANDS, 0)
        assert refs(in_file(set_back)) == ["1", "2"]
        assert_agrees(set_back)


# -- nobody comes back


def again(archive: Archive) -> list[str]:
    return [failure for each in forget_again(archive.settings()) for failure in each.failed]


def test_given_an_erasure_half_way_and_a_set_back_then_the_lake_too(
    archive: Archive, postgres: PrivatePostgres
) -> None:
    """The person is in the lake only, and the receipt as well."""
    load(archive, cdr(1, **PERSON), cdr(2))
    export_and_prune(archive)
    with a_backup(archive, postgres) as set_back:
        with lake(archive) as opened, engine_of(archive.settings()) as engine:
            job.begin(engine, opened, "number", Person(KEY, number=NUMBER).hash, KEY, "dies")
        load(set_back, cdr(3))
        with pytest.raises(EtlError, match="receipts"):
            export(set_back)
        assert again(set_back) == []
        assert where_the_person_is(set_back) == set()
        assert_comes_right(set_back)


def test_given_another_key_then_no_receipt_is_thought_to_be_done(archive: Archive, postgres: PrivatePostgres) -> None:
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    with a_backup(archive, postgres) as set_back:
        forget(archive)
        assert code(set_back, "restore", "--all-missing") == 0
        set_back.more = {**set_back.more, "forget_key": "another secret of thirty-two characters"}
        with pytest.raises(ConfigurationError):
            again(set_back)
        set_back.more = {**set_back.more, "forget_key": KEY}
        with pytest.raises(EtlError, match="receipts"):
            export(set_back, force=True)
        assert again(set_back) == []
        assert where_the_person_is(set_back) == set()


def test_given_a_person_that_came_again_and_a_set_back_then_again(archive: Archive, postgres: PrivatePostgres) -> None:
    """The books know an erasure of the same person, and not the later one."""
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    assert forget(archive).failed == []
    load(archive, cdr(3, **PERSON))
    with a_backup(archive, postgres) as set_back:
        assert forget(archive).failed == []
        code(set_back, "restore", "--all-missing")
        with pytest.raises(EtlError, match="receipts"):
            export(set_back)
        assert again(set_back) == []
        assert where_the_person_is(set_back) == set()
        assert_comes_right(set_back)
        assert again(set_back) == []


def test_given_an_erasure_again_that_failed_then_the_next_one_ends_it(
    archive: Archive, postgres: PrivatePostgres
) -> None:
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    with a_backup(archive, postgres) as set_back:
        assert forget(archive).failed == []
        code(set_back, "restore", "--all-missing")
        with lake(set_back) as opened, opened.hold(CALLS, DAY):
            assert any("another etl holds this day" in each for each in again(set_back))
        assert again(set_back) == []
        assert where_the_person_is(set_back) == set()


@pytest.mark.parametrize("by_contact", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_given_a_set_back_before_an_erasure_then_nobody_is_left(
    archive: Archive, postgres: PrivatePostgres, dropped: bool, by_contact: bool
) -> None:
    who = {"number": None, "contact": CONTACT} if by_contact else {"number": NUMBER}
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    load(archive, cdr(3, **PERSON))
    export(archive)
    if dropped:
        assert prune(archive).what == "dropped"
    load(archive, cdr(4, **PERSON), f"broken {NUMBER}".encode())
    with a_backup(archive, postgres) as set_back:
        assert forget(archive, **who).failed == []
        for _ in range(2):
            for force in (False, True):
                with pytest.raises(EtlError):
                    export(set_back, force=force)
            assert code(set_back, "export") == 1
            code(set_back, "restore", "--all-missing")
        assert again(set_back) == []
        if by_contact:
            assert not any(b'"P7"' in path.read_bytes() for path in revisions(set_back))
        else:
            assert where_the_person_is(set_back) == set()
        assert_comes_right(set_back)
        assert again(set_back) == []


def test_given_a_draft_of_a_release_before_then_forgetting_takes_it(archive: Archive) -> None:
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    file(archive).with_name(".part-0.parquet.tmp").write_bytes(file(archive).read_bytes())
    assert forget(archive).failed == []
    assert where_the_person_is(archive) == set()
    assert_agrees(archive)


def test_given_an_unknown_file_with_the_person_then_it_is_told(archive: Archive) -> None:
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    other = file(archive).with_name("part-1.parquet")
    other.write_bytes(file(archive).read_bytes())
    assert any("part-1" in each for each in forget(archive).failed)
    other.unlink()
    assert forget(archive).failed == []
    assert where_the_person_is(archive) == set()
