"""`etl forget` as the operator meets it: it asks first, counts, does it, and says what is lacking."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import forked
from tests.lake import assert_agrees, export, in_file, load, with_lake
from tests.person import KEY, NUMBER, PERSON, where_the_person_is
from tests.world import Archive, cdr


@pytest.fixture
def archive(archive: Archive, tmp_path: Path) -> Archive:
    archive.more = {"forget_key": KEY}
    load(with_lake(archive, tmp_path / "lake"), cdr(1, **PERSON), cdr(2), b"broken " + NUMBER.encode())
    export(archive)
    return archive


def answered(archive: Archive, answer: str) -> "subprocess.CompletedProcess[str]":
    return forked.run(("forget", "--number", NUMBER), archive.environment(), typed=answer)


def test_given_a_person_if_forgotten_after_asking_only_a_receipt_is_left(archive: Archive) -> None:
    counted = archive.run("forget", "--number", NUMBER, "--dry-run", "--json")
    assert counted.returncode == 0, counted.stderr
    found = json.loads(counted.stdout)
    assert found["days"] == [{"dataset": "cdrs", "day": "2015-02-19", "postgres": 1, "lake": 1}]
    assert (found["dead_letters"], found["cdr_revisions"], found["receipt"]) == (1, 0, None)

    declined = answered(archive, "\n")
    assert declined.returncode == 1
    assert "can't be undone" in declined.stderr
    assert archive.value("SELECT count(*) FROM forgotten") == 0
    assert in_file(archive)[0]["number"] == NUMBER

    ended = answered(archive, "y\n")
    assert ended.returncode == 0, ended.stderr
    assert f"forgotten; receipt 1, {found['hash']}" in ended.stdout
    assert "in the schemas public, reporting, and of" in ended.stdout
    assert "files of the lake, 1 days from 2015-02-19 to 2015-02-19" in ended.stdout
    assert "nothing of it is there" in ended.stdout
    assert NUMBER not in ended.stdout + ended.stderr
    assert where_the_person_is(archive) == set()
    assert_agrees(archive)

    again = archive.run("forget", "--number", NUMBER, "--yes", "--json")
    assert again.returncode == 0, again.stderr
    searched = json.loads(again.stdout)["searched"]
    assert json.loads(again.stdout) == {
        **found,
        "dry_run": False,
        "receipt": 2,
        "days": [],
        "dead_letters": 0,
        "searched": searched,
    }
    assert (searched["remains"], searched["spellings"], searched["unread"]) == ([], [], [])


@pytest.mark.parametrize(
    ("arguments", "key", "complaint"),
    [
        ((), KEY, "either --number or --contact"),
        (("--contact", ""), KEY, "must not be empty"),
        (("--number", NUMBER, "--yes"), "short", "ETL_FORGET_KEY must be a secret of 32 characters or more"),
    ],
)
def test_given_a_mistake_then_it_is_told_and_nothing_is_done(
    archive: Archive, arguments: tuple[str, ...], key: str, complaint: str
) -> None:
    ended = archive.run("forget", *arguments, ETL_FORGET_KEY=key)
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr
