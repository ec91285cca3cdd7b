"""A claim that two workers hold takes effect once, and neither of them minds: the frozen one who wakes up late, and two
who write at the same time (promise 2)."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from etl.store.ledger import Books
from tests.faults.gate import closed_gate
from tests.faults.sample import BROKEN, EVENT, let_leases_run_out
from tests.faults.worker import Worker
from tests.world import Archive, cdr, eventually

KINDS = {"calls": [cdr(1), cdr(2)], "events": [EVENT, EVENT], "dead letters": [BROKEN, BROKEN]}
KINDS["all of them"] = [message for messages in KINDS.values() for message in messages]


@pytest.mark.parametrize("step", ["after_claim", "after_decode", "after_write"])
def test_a_worker_that_wakes_up_after_an_adoption_lets_go_and_works_on(archive: Archive, log: Path, step: str) -> None:
    archive.push(*KINDS["all of them"])
    with Worker(archive, log, mishap=f"freeze:{step}") as sleeper:
        sleeper.wait_until_frozen()
        let_leases_run_out(archive)

        books = archive.load(worker_name="rescuer")

        assert books == (Books() if step == "after_write" else Books(6, inserted=2, events=2, dead=2))
        assert archive.claims() == []
        sleeper.thaw()
        archive.push(cdr(3))
        sleeper.wait_for("loaded", times=2 if step == "after_write" else 1)
        assert len(sleeper.lines("lease_lost")) == 1
    assert archive.value("SELECT array_agg(call_ref ORDER BY call_ref) FROM cdrs") == ["1", "2", "3"]
    assert archive.value("SELECT count(*) FROM audit_events") == 2
    assert archive.value("SELECT count(*) FROM dead_letters") == 2
    archive.assert_books_balance()


@pytest.mark.parametrize("fate", ["wakes up", "dies"])
def test_a_rescuer_waits_for_a_worker_that_froze_before_its_commit(archive: Archive, log: Path, fate: str) -> None:
    archive.push(*KINDS["all of them"])
    with Worker(archive, log, mishap="freeze:before_commit") as sleeper, ThreadPoolExecutor() as pool:
        sleeper.wait_until_frozen()
        let_leases_run_out(archive)
        rescuer = pool.submit(archive.load, worker_name="rescuer")
        eventually(lambda: others_wait(archive))
        sleeper.thaw() if fate == "wakes up" else sleeper.kill()
        assert rescuer.result() == (Books() if fate == "wakes up" else Books(6, inserted=2, events=2, dead=2))
    assert archive.value("SELECT array_agg(claimed) FROM load_batches") == [6]
    archive.assert_books_balance()


def test_a_worker_frozen_before_its_commit_is_passed_by_and_lets_go(
    archive: Archive, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.push(*KINDS["all of them"])
    with Worker(archive, log, mishap="freeze:before_commit") as sleeper:
        sleeper.wait_until_frozen()
        let_leases_run_out(archive)
        monkeypatch.setattr("etl.store.merge.WAIT_MS", 200)
        monkeypatch.setattr("etl.store.frozen.SECONDS", 0.2)

        assert archive.load(worker_name="rescuer") == Books(6, inserted=2, events=2, dead=2)

        sleeper.thaw()
        archive.push(cdr(3))
        sleeper.wait_for("loaded")
        assert len(sleeper.lines("already_loaded")) == 1
    assert archive.value("SELECT array_agg(worker ORDER BY committed_at) FROM load_batches") == ["rescuer", "test"]
    archive.assert_books_balance()


def test_a_worker_that_wakes_up_amid_a_rescue_wins_or_loses_as_a_whole(archive: Archive, log: Path) -> None:
    archive.push(*KINDS["all of them"])
    with Worker(archive, log, mishap="freeze:after_decode") as sleeper, ThreadPoolExecutor() as pool:
        sleeper.wait_until_frozen()
        let_leases_run_out(archive)
        with closed_gate(archive) as gate:
            rescuer = pool.submit(archive.load, worker_name="rescuer")
            gate.wait_for(arrivals=1)
            sleeper.thaw()
            archive.push(cdr(3))
            eventually(lambda: others_wait(archive))
            gate.open()
        rescuer.result()
        eventually(lambda: archive.value("SELECT count(*) FROM cdrs") == 3)
        eventually(lambda: not archive.claims())
    assert archive.value("SELECT count(*) FROM audit_events") == 2
    assert archive.value("SELECT count(*) FROM dead_letters") == 2
    archive.assert_books_balance()


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_that_write_one_claim_both_go_on_and_it_counts_once(archive: Archive, kind: str) -> None:
    messages = KINDS[kind]
    archive.push(*messages)
    with ThreadPoolExecutor() as pool, closed_gate(archive) as gate:
        first = pool.submit(archive.load, worker_name="first")
        gate.wait_for(arrivals=1)
        let_leases_run_out(archive)
        second = pool.submit(archive.load, worker_name="second")
        eventually(lambda: others_wait(archive))
        gate.open()
        assert (first.result() + second.result()).claimed == len(messages)
    assert archive.value("SELECT count(*) FROM cdrs") == messages.count(cdr(1)) + messages.count(cdr(2))
    assert archive.value("SELECT count(*) FROM audit_events") == messages.count(EVENT)
    assert archive.value("SELECT count(*) FROM dead_letters") == messages.count(BROKEN)
    archive.assert_books_balance()


def others_wait(archive: Archive) -> bool:
    """For what the one at the gate holds."""
    return bool(
        archive.value(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND application_name = 'etl' AND datname = current_database()"
        )
    )
