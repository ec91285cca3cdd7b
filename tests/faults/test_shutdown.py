"""SIGTERM while a store hangs: the process ends in time and with 0, and what it had in hand is another's at once."""

import signal
from pathlib import Path

import psycopg
import pytest

from etl.jobs.loader import CLAIMS_AHEAD
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.faults.gate import closed_gate
from tests.faults.sample import MESSAGES, assert_adoptable_at_once, assert_took_effect_once
from tests.faults.worker import Worker
from tests.world import CAMPAIGNS, DIALED_AT, Archive, cdr, eventually

SOON = {"etl.app.threads.SHUTDOWN_SECONDS": 0.5, "etl.app.threads.GIVE_BACK_SECONDS": 0.5}


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


SOON_CANCELLED = {"etl.app.threads.FINISH_SECONDS": 0.2}
SOON_CANCELLED_AND_ENDED = {**SOON_CANCELLED, "etl.app.threads.SHUTDOWN_SECONDS": 3.0}
RUNS = [(), ("--follow",), ("--workers", "2"), ("--follow", "--workers", "2")]


def run_of(archive: Archive, log: Path, options: tuple[str, ...]) -> Worker:
    """That would give up by itself only after minutes."""
    others = [option for option in options if option != "--follow"]
    return Worker(archive, log, *others, constants=SOON_CANCELLED, follow="--follow" in options)


@pytest.mark.parametrize("options", RUNS)
def test_sigterm_ends_a_run_whose_claim_makes_thousands_of_partitions(
    archive: Archive, log: Path, options: tuple[str, ...]
) -> None:
    archive.push(*(cdr(n, dialed_at=DIALED_AT + n * 86_400) for n in range(3_000)))
    others = [option for option in options if option != "--follow"]
    with Worker(archive, log, *others, follow="--follow" in options) as worker:
        made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdrs'::regclass"
        before = archive.value(made)
        eventually(lambda: archive.value(made) > before + 5)
        assert worker.stop() == 0
        assert_adoptable_at_once(archive)
    assert "statements_cancelled" not in log.read_text(), "it waits to be made to"
    assert archive.value(made) < 3_000
    assert archive.value("SELECT count(*) FROM load_batches") == 0
    assert sum(archive.redis.llen(f"{{{CAMPAIGNS}}}:claim:{claim[:36]}") for claim in archive.claims()) == 3_000


@pytest.mark.parametrize("options", RUNS)
def test_sigterm_ends_a_run_whose_statement_takes_for_ever(
    archive: Archive, log: Path, options: tuple[str, ...]
) -> None:
    archive.push(*MESSAGES)
    with closed_gate(archive) as gate, run_of(archive, log, options) as worker:
        gate.wait_for(arrivals=1)
        assert worker.stop() == 0
        assert_adoptable_at_once(archive)
        gate.wait_for(arrivals=0)
    assert_another_loads_it(archive)


@pytest.mark.parametrize("table", ["cdrs", "load_batches", "audit_events", "dead_letters"])
@pytest.mark.parametrize("options", [(), ("--follow",)])
def test_sigterm_ends_a_run_that_waits_for_a_lock(
    archive: Archive, log: Path, options: tuple[str, ...], table: str
) -> None:
    archive.push(*MESSAGES)
    with psycopg.connect(archive.database_url) as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        with run_of(archive, log, options) as worker:
            eventually(lambda: other.execute(_WAITING).fetchone() != (0,))
            assert worker.stop() == 0
            assert_adoptable_at_once(archive)
        other.rollback()
    assert_another_loads_it(archive)


_WAITING = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE NOT granted AND datname = current_database() AND application_name = 'etl'
"""


@pytest.mark.parametrize("options", RUNS)
def test_sigterm_ends_a_run_that_waits_for_the_schema(archive: Archive, log: Path, options: tuple[str, ...]) -> None:
    """As while `etl db upgrade` has it."""
    with psycopg.connect(archive.database_url) as other:
        other.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        with run_of(archive, log, options) as worker:
            eventually(lambda: other.execute(_WAITING).fetchone() != (0,))
            assert worker.stop() in (0, -signal.SIGTERM)


def test_a_commit_under_way_is_never_cancelled(own_archive: Archive, own_postgres: PrivatePostgres, log: Path) -> None:
    """It has happened already, and only waits for a standby: cancelled, it would be acknowledged without one."""
    with psycopg.connect(own_postgres.database_url("postgres"), autocommit=True) as administrator:
        administrator.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        administrator.execute("SELECT pg_reload_conf()")
        try:
            own_archive.push(*MESSAGES)
            with Worker(
                own_archive, log, constants={**SOON_CANCELLED, "etl.app.threads.SHUTDOWN_SECONDS": 3.0}
            ) as worker:
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                eventually(lambda: administrator.execute(waits).fetchone() != (0,))
                assert worker.stop() == 0
                assert worker.count("statements_cancelled") == 1
                assert worker.count("loaded") == 0
                assert_adoptable_at_once(own_archive)
        finally:
            administrator.execute("ALTER SYSTEM RESET synchronous_standby_names")
            administrator.execute("SELECT pg_reload_conf()")
    own_archive.load()
    assert_took_effect_once(own_archive)
