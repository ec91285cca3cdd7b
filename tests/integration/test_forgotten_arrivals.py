"""Who was forgotten and comes once more, out of Redis or from the dialler: erased on arrival, if it's from before."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from etl.app import check as preflight
from etl.app.forget import forget_again, open_forgetting
from etl.app.recall import look
from etl.app.sources import sources
from etl.app.stores import stores
from etl.errors import LakeError
from etl.keys import SPOOL
from etl.store.ledger import Books
from etl.store.writer import Writer
from tests.integration.test_least_privilege import as_role
from tests.integration.test_recall import forget_since
from tests.lake import assert_agrees, export, heard, load, with_lake
from tests.person import CONTACT, KEY, NUMBER, PERSON, everything, forget, where_the_person_is
from tests.store import ROLES, Hooked, batch, engine, write
from tests.world import CAMPAIGNS, CLICK2DIAL, Archive, cdr, eventually

STORED = ("cdrs", "audit_events", "dead_letters", "cdr_revisions", "load_batches", "load_batch_days")
# When and in which order a row came, and nothing else.
TRACES = ("id", "loaded_at", "committed_at", "replaced_at")
# One of each kind, and places in it in which somebody may be.
CALLS = (
    cdr(1, **PERSON),
    cdr(2, number="0741484437", contact_ref="M0042"),
    cdr(3, **PERSON, recording_url=f"ftp://pbx/{NUMBER}-3.wav", x={"clients": [{"number": int(NUMBER), "a": 0.10}]}),
    cdr(4, number=None, contact_ref=None, ref="10", recording_url=f"ftp://pbx/a {NUMBER}.wav"),
    cdr(5, number=None, contact_ref=CONTACT, note=f"tel:{NUMBER}"),
    cdr(6, number=f"1{NUMBER}", contact_ref=f"{CONTACT}7"),
    json.dumps({"type": "call", "payload": {"number": NUMBER, "call_ref": 8, "ref": 1002}}).encode(),
    json.dumps({"type": "status", "payload": {"status": "started", "ref": "2040"}}).encode(),
    f"broken {NUMBER}".encode(),
    cdr("", **PERSON),
    cdr(9, **PERSON, huge=1).replace(b'"huge": 1', b'"huge": 1' + b"0" * 140_000),  # refused by Postgres
    json.dumps({"payload": {**PERSON, "dialed_at": "2015-02-19 23:06:00 +0200"}}).replace("0", "\\u0030").encode(),
)
HEARD = (heard(1), heard(2, ref=NUMBER), heard(3, callees=[PERSON, {"number": "0741484437", "contact_ref": "M0042"}]))


@pytest.fixture
def archive(archive: Archive, tmp_path: Path) -> Archive:
    archive.more = {"forget_key": KEY}
    return with_lake(archive, tmp_path / "lake")


@pytest.fixture
def keyed(archive: Archive) -> Iterator[Writer]:
    with engine(archive.database_url) as connections:
        yield Writer(connections, KEY)


def stored(archive: Archive) -> dict[str, list[str]]:
    def plain(row: dict[str, Any]) -> str:
        return str({name: value for name, value in row.items() if name not in TRACES})

    rows = {table: archive.rows(f"SELECT * FROM {table}") for table in STORED}
    return {table: sorted(plain(row) for row in of if row.get("source_key") != "forget") for table, of in rows.items()}


def recall(archive: Archive) -> None:
    """Whatever Redis keeps and Postgres doesn't have is loaded again."""
    assert [each for each in look(archive.settings(), False, lambda *_: None) if each.set_back]
    archive.load()


def load_all_kinds(archive: Archive) -> None:
    load(archive, *CALLS)
    load(archive, cdr(7, number=None, ref=NUMBER, contact_ref=CONTACT), key=CLICK2DIAL)
    load(archive, *HEARD, f"junk {NUMBER}".encode(), key=SPOOL)


@pytest.mark.parametrize("by", [{}, {"number": None, "contact": CONTACT}])
def test_given_a_person_in_recalled_claims_then_it_is_as_forget_left_it(archive: Archive, by: dict[str, Any]) -> None:
    load_all_kinds(archive)
    forget(archive, **by)
    erased, days = stored(archive), archive.rows("SELECT sum(updated) AS n FROM load_batch_days")
    assert days[0]["n"] > 0

    forget_since(archive, 0)
    recall(archive)

    assert stored(archive)["cdrs"] == erased["cdrs"]
    assert stored(archive)["audit_events"] == erased["audit_events"]
    assert stored(archive)["dead_letters"] == erased["dead_letters"]
    assert stored(archive)["load_batches"] == erased["load_batches"]
    assert forget(archive, **by, dry_run=True).days == []
    archive.assert_books_balance()


def test_given_the_same_messages_again_then_nothing_contradicts(archive: Archive) -> None:
    load_all_kinds(archive)
    forget(archive)
    archive.push(*CALLS[:6])
    assert archive.load() == Books(claimed=6, unchanged=6)
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    assert forget(archive, dry_run=True).days == []


def test_given_a_call_after_the_receipt_then_the_caller_is_new(archive: Archive, keyed: Writer) -> None:
    load(archive, cdr(1, **PERSON))
    forget(archive)
    soon = int(time.time()) + 3_600
    assert write(keyed, cdr(2, **PERSON), cdr(3, **PERSON, dialed_at=soon)) == Books(claimed=2, inserted=2)
    assert archive.cdr(2)["number"] == archive.cdr(1)["number"] != NUMBER
    assert (archive.cdr(3)["number"], archive.cdr(3)["contact_ref"]) == (NUMBER, CONTACT)
    # and when they are forgotten again, that is older as well
    archive.rows("UPDATE cdrs SET dialed_at = dialed_at - interval '1 day' WHERE call_ref = '3' RETURNING 1")
    forget(archive)
    archive.rows("UPDATE forgotten SET began_at = began_at + interval '2 hours' WHERE id = 2 RETURNING 1")
    write(keyed, cdr(4, **PERSON, dialed_at=soon))
    assert archive.cdr(4)["number"] == archive.cdr(1)["number"]


def test_given_a_letter_or_event_after_the_receipt_then_it_stays(archive: Archive) -> None:
    forget(archive)
    archive.rows("UPDATE forgotten SET began_at = began_at - interval '25 hours' RETURNING 1")
    late = f"broken {NUMBER}".encode()
    old = b'{"dialed_at": 1424379960, "number": "' + NUMBER.encode() + b'"'
    event = json.dumps({"type": "call", "payload": {"number": NUMBER}}).encode()
    load(archive, late, old, event)
    raws = {bytes(row["raw"]) for row in archive.rows("SELECT raw FROM dead_letters")}
    assert late in raws
    assert old not in raws
    assert archive.value("SELECT payload->>'number' FROM audit_events") == NUMBER
    # within a day it may be from before: neither says when it was pushed
    archive.rows("UPDATE forgotten SET began_at = began_at + interval '2 hours' RETURNING 1")
    load(archive, late + b" 2", event)
    assert archive.value("SELECT count(*) FROM audit_events WHERE payload->>'number' = %s", NUMBER) == 1
    assert late + b" 2" not in {bytes(row["raw"]) for row in archive.rows("SELECT raw FROM dead_letters")}


def test_given_a_writer_that_runs_if_somebody_is_forgotten_then_it_knows(archive: Archive, keyed: Writer) -> None:
    write(keyed, cdr(1, **PERSON))
    forget(archive)
    write(keyed, cdr(2, **PERSON), cdr(3, number="0741484438", contact_ref="M1"))
    assert where_the_person_is(archive) == set()
    forget(archive, number="0741484438")
    write(keyed, cdr(4, number="0741484438", contact_ref="M1"))
    assert archive.cdr(4)["number"] == archive.cdr(3)["number"] != "0741484438"
    # set back to a moment between the two, and then others are forgotten: the numbers of receipts come once more
    archive.rows("DELETE FROM forgotten WHERE id = 2 RETURNING 1")
    write(keyed, cdr(5, number="0741484438"))
    assert archive.cdr(5)["number"] == "0741484438"
    insert = (
        "INSERT INTO forgotten (id, subject, hash, worker) OVERRIDING SYSTEM VALUE VALUES (2, %s, %s, '') RETURNING 1"
    )
    with open_forgetting(archive.settings(), "0741484439", None) as person:
        archive.rows(insert, "number", person.person.hash)
    write(keyed, cdr(6, number="0741484439"))
    assert archive.cdr(6)["number"] == person.person.hash


def test_given_a_claim_under_way_if_forgotten_then_it_is_waited_for(archive: Archive, keyed: Writer) -> None:
    """It read who was forgotten before there was a receipt, and commits afterwards."""
    load(archive, cdr(1, **PERSON))
    found: list[object] = []
    forgetting = threading.Thread(target=lambda: found.append(forget(archive)), daemon=True)

    def while_it_is_written() -> None:
        if not forgetting.ident:
            forgetting.start()
        looks = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
        eventually(lambda: found or archive.value(looks, "%pg_locks l LEFT JOIN%"), what="nobody looks for the claim")
        assert not found

    assert keyed.write(batch(Hooked([cdr(2, **PERSON), cdr(3)], 1, while_it_is_written))) == Books(2, 2)
    forgetting.join(60)
    assert len(found) == 1
    assert where_the_person_is(archive) == set()
    archive.assert_books_balance()


def test_given_no_key_then_all_is_loaded_and_it_is_told_once(archive: Archive) -> None:
    load(archive, cdr(1, **PERSON))
    forget(archive)
    archive.more = {**archive.more, "forget_key": None}
    with structlog.testing.capture_logs() as logged:
        archive.push(cdr(2, **PERSON))
        archive.load(batch_size=1)
        archive.push(cdr(3, **PERSON), cdr(4))
        archive.load(batch_size=1)
    told = [line for line in logged if line["event"] == "forgotten_not_recognised"]
    assert [line["receipts"] for line in told] == [1, 1]  # by each process
    assert archive.cdr(2)["number"] == NUMBER
    (found,) = (each for each in preflight.check(archive.settings()) if each.about == "people forgotten")
    assert (found.verdict, found.says.split(",")[0]) == ("warning", "1 receipts")
    (found,) = (each for each in preflight.check(archive.settings(forget_key=KEY)) if each.about == "people forgotten")
    assert found.verdict == "fine"


def test_given_rights_of_0_1_then_loading_goes_on(archive: Archive) -> None:
    """Whose roles.sql let no loader read the receipts."""
    load(archive, cdr(1, **PERSON))
    forget(archive)
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        administrator.execute("REVOKE ALL ON forgotten FROM etl_loader")
        with engine(as_role(archive.database_url, "etl_loader")) as connections:
            writer = Writer(connections, KEY)
            assert write(writer, cdr(2, **PERSON)) == Books(claimed=1, inserted=1)
            assert archive.cdr(2)["number"] == NUMBER
            administrator.execute("GRANT SELECT ON forgotten TO etl_loader")
            write(writer, cdr(3, **PERSON))
    assert archive.cdr(3)["number"] == archive.cdr(1)["number"]


def test_given_postgres_set_back_to_before_the_erasure_then_again_does_it(archive: Archive) -> None:
    """It forgot the receipt, and Redis still had the claim: the lake knows, and what comes later is erased."""
    load(archive, cdr(1, **PERSON), cdr(2))
    load(archive, cdr(3, **PERSON))
    export(archive)
    forget(archive)
    forget_since(archive, 0)
    archive.rows("DELETE FROM forgotten RETURNING 1")
    archive.rows("DELETE FROM exports RETURNING 1")
    recall(archive)
    assert archive.cdr(1)["number"] == NUMBER
    with pytest.raises(LakeError, match="receipts of 1 erasures"):
        export(archive)

    assert [each.failed for each in forget_again(archive.settings())] == [[]]

    assert where_the_person_is(archive) == set()
    archive.rows("DELETE FROM cdrs RETURNING 1")
    archive.rows("DELETE FROM load_batch_days RETURNING 1")
    archive.rows("DELETE FROM load_batches RETURNING 1")
    recall(archive)
    assert {row["call_ref"] for row in archive.rows("SELECT call_ref FROM cdrs")} == {"1", "2", "3"}
    assert where_the_person_is(archive) == set()


def test_messages_in_the_list_and_in_a_claim_bring_nobody_back(archive: Archive) -> None:
    """They lay in Redis while somebody was forgotten: nobody looks for them there."""
    load(archive, cdr(1, **PERSON))
    archive.push(cdr(2, **PERSON), cdr(3))
    with stores(archive.settings()) as clients:
        (source, *_) = sources(archive.settings(batch_size=1), clients)
        assert source.key == CAMPAIGNS
        claim = source.claim()
        assert claim
        forget(archive)
        claim.give_back()
    archive.load()
    assert {row["call_ref"] for row in archive.rows("SELECT call_ref FROM cdrs")} == {"1", "2", "3"}
    assert where_the_person_is(archive) == set()
    export(archive)
    assert_agrees(archive)
    assert not [where for where, text in everything(archive) if NUMBER.encode() in text]
