"""`etl forget`: afterwards nothing anywhere tells of the person, everybody else is as before, and the books balance."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl.app.forget import open_forgetting
from etl.errors import ConfigurationError
from etl.reporting import rollup
from tests.integration.test_least_privilege import as_role
from tests.lake import (
    DAY,
    SPOOL,
    assert_agrees,
    export,
    export_all,
    export_and_prune,
    file,
    heard,
    in_file,
    load,
    on,
    restore,
    revision,
    revisions,
    with_lake,
)
from tests.person import CONTACT, KEY, NUMBER, PERSON, forget, where_the_person_is
from tests.store import ROLES, engine
from tests.world import CLICK2DIAL, Archive, cdr

LATER = DAY + timedelta(days=1)


@pytest.fixture
def archive(archive: Archive, tmp_path: Path) -> Archive:
    archive.more = {"forget_key": KEY}
    return with_lake(archive, tmp_path / "lake")


def the_person_is_everywhere(archive: Archive) -> None:
    """In every table and, of the days, one that is in the lake only, one that is there and in Postgres, one that was
    forgotten and came again, and one that was never exported."""
    url = f"ftp://pbx/{NUMBER}.wav"
    load(archive, cdr(1), cdr(2, **PERSON, recording_url=url, x={"clients": [{"number": NUMBER}]}), cdr(3, number=""))
    export_and_prune(archive)
    load(archive, on(1, 4, **PERSON), on(1, 5), on(1, 6, contact_ref=CONTACT, number="+44 799"))
    export(archive, LATER)
    load(archive, on(2, 7), on(2, 8, **PERSON))
    export_and_prune(archive, DAY + timedelta(days=2))
    load(archive, on(2, 8, call_time=5), on(2, 9, **PERSON))  # a contradiction
    load(archive, on(3, 10, **PERSON), on(3, 11), on(3, 13, **PERSON, ref=NUMBER))  # as if they were a campaign
    load(archive, on(3, 10, **PERSON, call_time=7))  # a revision
    old = {"number": None, "ref": NUMBER, "contact_ref": CONTACT}
    load(archive, on(3, 12, **old), key=CLICK2DIAL)
    callees = [PERSON, {"number": "0741484437", "contact_ref": "M0042"}]
    load(archive, heard(1), heard(2, ref=NUMBER), heard(3, callees=callees, exact=0.1), key=SPOOL)
    export_and_prune(archive, dataset="audit_events")
    load(archive, heard(4, LATER, caller={"number": int(NUMBER), "contact_ref": CONTACT}), heard(5, LATER), key=SPOOL)
    load(archive, f"broken {NUMBER}".encode(), json.dumps({"payload": PERSON}).encode(), b"junk")
    archive.rows("UPDATE dead_letters SET resolution = %s WHERE raw = 'junk' RETURNING id", f"the client {NUMBER}")
    with engine(archive.database_url) as connections:
        rollup.rollup(connections)


def others(archive: Archive) -> list[Any]:
    """What Postgres and the lake have of everybody else, to the last column, in whichever of the two it is."""
    stored = archive.rows("SELECT * FROM cdrs") + archive.rows("SELECT * FROM audit_events")
    return sorted(str(row) for row in stored if mark(row) in {"1", "3", "5", "7", "11", 1, 5})


def mark(row: dict[str, Any]) -> object:
    return row["event_id"].int if "event_id" in row else row["call_ref"]


def in_files(archive: Archive) -> list[str]:
    return sorted(
        str(row)
        for dataset in ("cdrs", "audit_events")
        for day in (DAY, LATER, DAY + timedelta(days=2))
        for row in in_file(archive, day, dataset)
        if row.get("call_ref") in {"1", "3", "5", "7"} or str(row.get("event_id", ""))[-1:] == "1"
    )


def files_of(archive: Archive, *days: date, dataset: str = "cdrs") -> list[str]:
    """For plain readers, and all revisions."""
    return [str(path) for day in days for path in (file(archive, day, dataset), *revisions(archive, day, dataset))]


def test_given_a_person_everywhere_if_forgotten_then_only_they_are_gone(
    archive: Archive,
) -> None:
    the_person_is_everywhere(archive)
    places = where_the_person_is(archive)
    assert places == {
        *(
            "cdrs_20150220",
            "cdrs_20150221",
            "cdrs_20150222",
            "audit_events_20150220",
            "cdr_revisions",
            "dead_letters",
            "campaign_figures",
        ),
        *files_of(archive, DAY, DAY + timedelta(days=1), DAY + timedelta(days=2)),
        *files_of(archive, DAY, dataset="audit_events"),
    }
    before, before_in_files = others(archive), in_files(archive)
    books = archive.rows("SELECT dataset, day, sum(inserted) FROM load_batch_days GROUP BY 1, 2 ORDER BY 1, 2")

    foreseen = forget(archive, dry_run=True)
    assert where_the_person_is(archive) == places
    assert archive.value("SELECT count(*) FROM forgotten") == 0

    found = forget(archive)
    assert found.failed == []
    # `799123456` is another number, and `P7` beside another one is nobody that was asked for
    assert forget(archive, number="799123456").failed == []
    assert forget(archive, number=None, contact=CONTACT).failed == []

    assert where_the_person_is(archive) == set()
    assert others(archive) == before
    assert in_files(archive) == before_in_files
    assert archive.rows("SELECT dataset, day, sum(inserted) FROM load_batch_days GROUP BY 1, 2 ORDER BY 1, 2") == [
        {**row, "sum": row["sum"] - (row["dataset"] == "cdrs" and row["day"] == DAY + timedelta(days=2))}
        for row in books
    ]
    # Only in the lake, in both, late for a day that was only there, never exported; and events
    assert [each[2:] for each in foreseen.days] == [(0, 1), (1, 1), (1, 1), (3, 0), (0, 2)]
    assert [each[2:] for each in found.days] == [(1, 1), (1, 1), (1, 1), (3, 0), (2, 2)]
    assert foreseen.undated == {"cdr_revisions": 1, "dead_letters": 3, "names": 0}
    # the contradiction left one when its day came back
    assert found.undated == {"cdr_revisions": 2, "dead_letters": 3, "names": 0}
    # a day that was in the lake only is there only, and one that was never exported still isn't
    assert archive.value("SELECT count(*) FROM cdrs WHERE dialed_on = %s", DAY) == 0
    assert revision(archive)["revision"] == 2
    export_all(archive)
    assert_agrees(archive)
    # the same person is the same hash, whatever tells of them
    with open_forgetting(archive.settings(), NUMBER, None) as person:
        hashed = person.person.hash
    assert archive.value("SELECT count(*) FROM cdrs WHERE number = %s", hashed) == 3
    assert [row["number"] for row in in_file(archive) if row["call_ref"] == "2"] == [hashed]
    assert archive.value("SELECT campaign_ref FROM cdrs WHERE call_ref = '12'") == hashed
    receipt = archive.rows("SELECT * FROM forgotten ORDER BY id")[0]
    assert (receipt["subject"], receipt["hash"]) == ("number", hashed)
    assert receipt["completed_at"] >= receipt["began_at"]
    counted = ("cdrs", "audit_events", "cdr_revisions", "dead_letters", "files")
    assert [receipt[name] for name in counted] == [6, 2, 2, 3, 4]
    # and what is kept for reports knows them no more, either
    with engine(archive.database_url) as connections:
        rollup.rollup(connections)
    assert where_the_person_is(archive) == set()
    campaigns = "SELECT array_agg(campaign_ref ORDER BY campaign_ref) FROM reporting.campaign_days WHERE day = %s"
    assert archive.value(campaigns, DAY + timedelta(days=3)) == ["2040", "click-dial", hashed]


def test_given_a_person_that_comes_again_then_their_hash_is_the_same(
    archive: Archive,
) -> None:
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    forget(archive)
    archive.more = {**archive.more, "forget_key": None}
    load(archive, cdr(1, **PERSON))  # redelivered to who has no key: it contradicts what is there now
    archive.more = {**archive.more, "forget_key": KEY}
    assert where_the_person_is(archive) > set()

    forget(archive)

    assert where_the_person_is(archive) == set()
    archive.assert_books_balance()
    assert_agrees(archive)
    assert archive.value("SELECT count(DISTINCT hash) FROM forgotten WHERE completed_at IS NOT NULL") == 1
    assert archive.value("SELECT c.number = r.number FROM cdrs c JOIN cdr_revisions r USING (call_ref) LIMIT 1")


def test_given_a_copy_for_readers_that_has_the_person_then_it_goes_too(archive: Archive) -> None:
    """As an exporter leaves it that died, or that woke up late."""
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    before = file(archive).read_bytes()
    forget(archive)
    file(archive).unlink()
    file(archive).write_bytes(before)
    assert where_the_person_is(archive) == {str(file(archive))}
    assert [each[2:] for each in forget(archive, dry_run=True).days] == [(0, 1)]

    assert forget(archive).failed == []

    assert where_the_person_is(archive) == set()
    assert_agrees(archive)


def test_given_a_file_that_no_books_know_with_the_person_then_it_is_told(archive: Archive) -> None:
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)
    archive.rows("DELETE FROM exports RETURNING day")

    found = forget(archive)

    assert len(found.failed) == 1
    assert str(DAY) in found.failed[0]
    assert "a file still has the person" in found.failed[0]
    assert archive.value("SELECT count(completed_at) FROM forgotten") == 0
    restore(archive)
    assert forget(archive).failed == []
    assert where_the_person_is(archive) == set()


def test_given_the_roles_then_the_owner_forgets_and_the_loader_is_told_so(archive: Archive) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    load(archive, cdr(1, **PERSON), b"broken " + NUMBER.encode())
    export_and_prune(archive)
    administrators = archive.database_url

    archive.database_url = as_role(administrators, "etl_loader")
    with pytest.raises(ConfigurationError, match=r"lacks UPDATE on cdrs, UPDATE on cdr_revisions.*etl_owner"):
        forget(archive)
    assert archive.value("SELECT count(*) FROM forgotten") == 0
    archive.database_url = as_role(administrators, "etl_owner")
    assert forget(archive).failed == []

    archive.database_url = administrators
    assert where_the_person_is(archive) == set()
    assert_agrees(archive)


def test_given_no_key_then_the_error_says_which_and_nothing_is_done(archive: Archive) -> None:
    load(archive, cdr(1, **PERSON))
    archive.more = {**archive.more, "forget_key": None}
    with pytest.raises(ConfigurationError, match="ETL_FORGET_KEY isn't set"):
        forget(archive)
    assert archive.cdr(1)["number"] == NUMBER
