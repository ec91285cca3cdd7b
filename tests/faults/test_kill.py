"""kill -9, at every step and at any moment: nothing is lost, and nothing takes effect twice (promises 1 and 2)."""

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from etl.devtools.embedded import PrivateRedis
from tests.faults.child import STEPS
from tests.faults.dialler import Dialler
from tests.faults.gate import closed_gate
from tests.faults.worker import Worker
from tests.world import CAMPAIGNS, Archive, api_cdr, cdr, eventually

KILLED = -signal.SIGKILL
BATCH = {"batch_size": 25, "linger_ms": 5, "lease_seconds": 10}
SEED = 20150219
BACKLOG = 300  # messages that a new life of the loader finds: enough to die over

# Two calls, one of them twice, an event and two dead letters: whatever can take effect once too often.
MESSAGES = [cdr(1), api_cdr(1), cdr(2), cdr(2), b'{"type": "status", "payload": {"ref": "2040"}}', b"not json", b"not json"]


def assert_in_postgres_once(archive: Archive) -> None:
    assert archive.value("SELECT array_agg(call_ref ORDER BY call_ref) FROM cdrs") == ["1", "2"]
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    assert archive.value("SELECT count(*) FROM audit_events") == 1
    assert archive.value("SELECT array_agg(raw) FROM dead_letters") == [b"not json"] * 2
    assert archive.value("SELECT array_agg(claimed) FROM load_batches") == [len(MESSAGES)]
    archive.assert_books_balance()


@pytest.mark.parametrize("step", STEPS)
def test_a_loader_killed_at_this_step_leaves_everything_to_its_next_life(
    archive: Archive, log: Path, step: str
) -> None:
    archive.push(*MESSAGES)

    with Worker(archive, log, mishap=f"kill:{step}") as worker:
        assert worker.wait() == KILLED, worker.log()

    still_listed = step == "before_claim"
    committed = step in ("after_write", "after_ack")
    assert archive.redis.llen(CAMPAIGNS) == (len(MESSAGES) if still_listed else 0)
    assert len(archive.claims()) == (0 if still_listed or step == "after_ack" else 1)
    assert archive.value("SELECT count(*) FROM load_batches") == int(committed)

    archive.load()
    assert_in_postgres_once(archive)


def test_a_loader_killed_within_its_transaction_leaves_its_claim_to_its_next_life(archive: Archive, log: Path) -> None:
    archive.push(*MESSAGES)
    with closed_gate(archive) as gate:
        with Worker(archive, log) as killed:
            gate.wait_for(arrivals=1)
            killed.kill()
        # Postgres knows nothing of the death yet, and still holds what the dead one wrote.
        with Worker(archive, log) as heir:
            heir.wait_for("started")
            gate.open()
            heir.wait_for("loaded")
            assert heir.stop() == 0
    assert_in_postgres_once(archive)


def test_an_acknowledgement_that_redis_executes_after_the_loaders_death_does_no_harm(
    own_archive: Archive, own_redis: PrivateRedis, log: Path
) -> None:
    own_archive.push(*MESSAGES)
    with closed_gate(own_archive) as gate, Worker(own_archive, log) as worker:
        gate.wait_for(arrivals=1)
        own_redis.freeze()
        gate.open()
        eventually(lambda: own_archive.value("SELECT count(*) FROM load_batches") == 1)
        worker.kill()
        own_redis.thaw()

    own_archive.load()
    assert_in_postgres_once(own_archive)


def test_a_loader_killed_ten_times_at_random_loses_nothing_and_repeats_nothing(archive: Archive, log: Path) -> None:
    archive.more = BATCH
    dialler, dice = Dialler(archive, SEED), random.Random(SEED)
    left_in_hand = 0
    with dialler.speaking():
        for _ in range(10):
            dialler.say(BACKLOG)
            with Worker(archive, log) as worker:
                worker.wait_for("loaded", times=dice.randint(1, BACKLOG // BATCH["batch_size"]))
                worker.kill()
            left_in_hand += claims_in_hand(archive)
            dialler.assert_nothing_is_missing()
    assert left_in_hand
    archive.load()
    dialler.assert_all_took_effect_once()


def test_no_message_is_ever_nowhere_while_the_loader_works(archive: Archive, log: Path) -> None:
    archive.more = BATCH
    dialler = Dialler(archive, SEED)
    caught_in_hand = 0
    with Worker(archive, log) as worker, dialler.speaking():
        for look in range(1, 21):
            worker.wait_for("loaded", times=5 * look)
            worker.freeze()
            caught_in_hand += claims_in_hand(archive)
            dialler.assert_nothing_is_missing()
            worker.thaw()
    assert caught_in_hand
    archive.load()
    dialler.assert_all_took_effect_once()


def one_loader(worker: Worker) -> None:
    os.kill(worker.loaders()[0], signal.SIGKILL)


def supervisor(worker: Worker) -> None:
    """Its loaders notice and stop, while the next ones, under the same names, are beginning already."""
    worker.kill()


def whole_group(worker: Worker) -> None:
    worker.kill_group()


def test_two_workers_killed_singly_and_together_lose_nothing_and_repeat_nothing(
    archive: Archive, tmp_path: Path
) -> None:
    archive.more = BATCH
    dialler, dice = Dialler(archive, SEED), random.Random(SEED)
    victims = [one_loader, supervisor, whole_group, one_loader, supervisor]
    dice.shuffle(victims)
    with dialler.speaking(), contextlib.ExitStack() as orphans:
        for number, kill in enumerate(victims):
            dialler.say(BACKLOG)
            workers = orphans.enter_context(Worker(archive, tmp_path / f"{number}.log", "--workers", "2"))
            workers.wait_for("loaded", times=dice.randint(1, 2 * BACKLOG // BATCH["batch_size"]))
            kill(workers)
            dialler.assert_nothing_is_missing()
            if kill is one_loader:
                workers.wait_for("worker_died")
                workers.wait_for("started", times=3)
                workers.kill_group()
    for name in ("test-1", "test-2"):
        archive.load(worker_name=name)
    dialler.assert_all_took_effect_once()


def claims_in_hand(archive: Archive) -> int:
    return sum(len(archive.claims(source.key)) for source in archive.sources)
