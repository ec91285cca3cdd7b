"""SIGTERM while a store hangs: the process ends in time and with 0, and what it had in hand is another's at once."""

from pathlib import Path

from etl.jobs.loader import CLAIMS_AHEAD
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.faults.gate import closed_gate
from tests.faults.sample import MESSAGES, assert_took_effect_once, leases
from tests.faults.worker import Worker
from tests.world import Archive, cdr, eventually

SOON = {"etl.app.threads.SHUTDOWN_SECONDS": 0.5, "etl.app.threads.GIVE_BACK_SECONDS": 0.5}


def assert_adoptable_at_once(archive: Archive) -> None:
    seconds, _ = archive.redis.time()
    assert leases(archive)
    assert all(deadline / 1_000 <= seconds + 1 for deadline in leases(archive).values())


def assert_another_loads_it(archive: Archive) -> None:
    assert archive.load(worker_name="another").claimed == len(MESSAGES)
    assert archive.value("SELECT array_agg(worker) FROM load_batches") == ["another"]
    assert_took_effect_once(archive)


def test_a_claim_whose_transaction_hangs_is_given_back_at_sigterm(archive: Archive, log: Path) -> None:
    archive.push(*MESSAGES)
    with closed_gate(archive) as gate, Worker(archive, log, constants=SOON) as worker:
        gate.wait_for(arrivals=1)
        assert worker.stop() == 0
        assert_adoptable_at_once(archive)
    assert_another_loads_it(archive)


def test_two_workers_with_hanging_transactions_give_back_at_sigterm(archive: Archive, log: Path) -> None:
    archive.push(*(cdr(n) for n in range(6)))
    archive.more = {"batch_size": 1}
    with closed_gate(archive) as gate, Worker(archive, log, "--workers", "2", constants=SOON) as workers:
        gate.wait_for(arrivals=2)
        assert workers.stop() == 0
        assert_adoptable_at_once(archive)
    assert archive.load(worker_name="another").claimed == 6


def test_a_claim_is_given_back_at_sigterm_while_postgres_is_frozen(
    own_archive: Archive, own_postgres: PrivatePostgres, log: Path
) -> None:
    own_archive.push(*MESSAGES)
    with closed_gate(own_archive) as gate, Worker(own_archive, log, constants=SOON) as worker:
        gate.wait_for(arrivals=1)
        own_postgres.freeze()
        try:
            assert worker.stop() == 0
            assert_adoptable_at_once(own_archive)
        finally:
            own_postgres.thaw()
    assert_another_loads_it(own_archive)


def test_a_claim_is_given_back_at_sigterm_while_postgres_is_down(
    own_archive: Archive, own_postgres: PrivatePostgres, log: Path
) -> None:
    own_archive.push(*MESSAGES)
    with Worker(own_archive, log, mishap="freeze:after_claim", constants=SOON) as worker:
        worker.wait_until_frozen()
        own_postgres.stop()
        worker.thaw()
        worker.wait_for("outage_began")
        assert worker.stop() == 0
        assert_adoptable_at_once(own_archive)
    own_postgres.start()
    with Archive(own_archive.redis_url, own_archive.database_url, own_archive.redis) as again:
        assert_another_loads_it(again)


def test_a_redis_that_hangs_does_not_keep_the_process_from_ending(
    own_archive: Archive, own_redis: PrivateRedis, log: Path
) -> None:
    own_archive.push(*MESSAGES)
    in_vain = {**SOON, "etl.inbox.connection.SOCKET_TIMEOUT_SECONDS": 100}
    with closed_gate(own_archive) as gate, Worker(own_archive, log, constants=in_vain) as worker:
        gate.wait_for(arrivals=1)
        own_redis.freeze()
        assert worker.stop() == 0
        own_redis.thaw()
    own_archive.load()  # it comes back under its own name
    assert_took_effect_once(own_archive)


def test_claims_fetched_ahead_are_given_back_at_sigterm_too(archive: Archive, log: Path) -> None:
    archive.push(*(cdr(n) for n in range(4)))
    archive.more = {"batch_size": 1}
    with closed_gate(archive) as gate, Worker(archive, log, constants=SOON) as worker:
        gate.wait_for(arrivals=1)
        eventually(lambda: len(archive.claims()) == 1 + CLAIMS_AHEAD)
        assert worker.stop() == 0
        assert_adoptable_at_once(archive)
    assert archive.load(worker_name="another").claimed == 4
