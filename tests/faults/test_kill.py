"""kill -9, at every step and at any moment: nothing is lost, and nothing takes effect twice (promises 1 and 2)."""

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from etl.lab.servers.private import PrivateRedis
from tests.faults import tally
from tests.faults.child import ADOPT, RENEW, STEPS
from tests.faults.dialler import Dialler
from tests.faults.gate import closed_gate
from tests.faults.sample import MESSAGES, SEED, SMALL_CLAIMS, assert_took_effect_once, claims_in_hand
from tests.faults.worker import Worker
from tests.world import CAMPAIGNS, Archive, eventually

KILLED = -signal.SIGKILL
RENEWS_OFTEN = {"etl.app.threads.RENEWALS_PER_LEASE": 600.0}
BACKLOG = 200  # messages that a new life of the loader finds: enough to die over


@pytest.mark.parametrize("step", STEPS)
def test_a_loader_killed_at_this_step_leaves_everything_to_its_next_life(
    archive: Archive, log: Path, step: str
) -> None:
    archive.push(*MESSAGES)

    with Worker(archive, log, mishap=f"kill:{step}") as worker:
        assert worker.wait() == KILLED

    still_listed = step == "before_claim"
    committed = step in ("after_write", "after_ack")
    assert archive.redis.llen(CAMPAIGNS) == (len(MESSAGES) if still_listed else 0)
    assert len(archive.claims()) == (0 if still_listed or step == "after_ack" else 1)
    assert archive.value("SELECT count(*) FROM load_batches") == int(committed)

    archive.load()
    assert_took_effect_once(archive)


@pytest.mark.parametrize("step", ADOPT)
def test_a_loader_killed_while_it_adopts_leaves_the_claim_to_the_next(archive: Archive, log: Path, step: str) -> None:
    archive.push(*MESSAGES)
    for mishap in ("kill:after_claim", f"kill:{step}"):
        with Worker(archive, log, mishap=mishap) as worker:
            assert worker.wait() == KILLED
        assert len(archive.claims()) == 1

    archive.load()
    assert_took_effect_once(archive)


@pytest.mark.parametrize("step", RENEW)
def test_a_loader_killed_while_it_renews_its_lease_finds_its_claim_again(
    archive: Archive, log: Path, step: str
) -> None:
    archive.push(*MESSAGES)
    with closed_gate(archive), Worker(archive, log, mishap=f"kill:{step}", constants=RENEWS_OFTEN) as worker:
        assert worker.wait() == KILLED
        assert len(archive.claims()) == 1

    archive.load()
    assert_took_effect_once(archive)


def test_a_loader_killed_within_its_transaction_finds_its_claim_again(archive: Archive, log: Path) -> None:
    archive.push(*MESSAGES)
    with closed_gate(archive) as gate:
        with Worker(archive, log) as killed:
            gate.wait_for(arrivals=1)
            killed.kill(step="within_transaction")
        # Postgres knows nothing of the death yet, and still holds what the dead one wrote.
        with Worker(archive, log) as heir:
            heir.wait_for("started")
            gate.open()
            heir.wait_for("loaded")
            assert heir.stop() == 0
    assert_took_effect_once(archive)


def test_an_acknowledgement_executed_after_the_loaders_death_is_harmless(
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
    assert_took_effect_once(own_archive)


def test_a_loader_killed_ten_times_at_random_loses_and_repeats_nothing(archive: Archive, log: Path) -> None:
    archive.more = SMALL_CLAIMS
    dialler, dice = Dialler(archive, SEED), random.Random(SEED)
    left_in_hand = 0
    with dialler.speaking():
        for _ in range(10):
            dialler.say(BACKLOG)
            with Worker(archive, log) as worker:
                worker.wait_for("loaded", times=dice.randint(1, BACKLOG // SMALL_CLAIMS["batch_size"]))
                worker.kill()
            left_in_hand += claims_in_hand(archive)
            dialler.assert_nothing_is_missing()
    assert left_in_hand
    archive.load(batch_size=5_000)
    dialler.assert_all_took_effect_once()


def test_no_message_is_ever_nowhere_while_the_loader_works(archive: Archive, log: Path) -> None:
    archive.more = SMALL_CLAIMS
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
    archive.load(batch_size=5_000)
    dialler.assert_all_took_effect_once()


def one_loader(worker: Worker) -> None:
    tally.note("kill", "etl run")
    os.kill(worker.loaders()[0], signal.SIGKILL)


def supervisor(worker: Worker) -> None:
    """Its loaders notice and stop, while the next ones, under the same names, are beginning already."""
    worker.kill()


def whole_group(worker: Worker) -> None:
    worker.kill_group()


def test_two_workers_killed_singly_and_together_lose_and_repeat_nothing(archive: Archive, tmp_path: Path) -> None:
    archive.more = SMALL_CLAIMS
    dialler, dice = Dialler(archive, SEED), random.Random(SEED)
    victims = [one_loader, supervisor, whole_group]
    with dialler.speaking(), contextlib.ExitStack() as orphans:
        for number, kill in enumerate(victims):
            dialler.say(BACKLOG)
            workers = orphans.enter_context(Worker(archive, tmp_path / f"{number}.log", "--workers", "2"))
            workers.wait_for("started", times=2)
            workers.wait_for("loaded", times=dice.randint(1, 2 * BACKLOG // SMALL_CLAIMS["batch_size"]))
            kill(workers)
            dialler.assert_nothing_is_missing()
            if kill is one_loader:
                workers.wait_for("worker_died")
                workers.wait_for("started", times=3)
                workers.kill_group()
    for name in ("test-1", "test-2"):
        archive.load(worker_name=name, batch_size=5_000)
    dialler.assert_all_took_effect_once()
