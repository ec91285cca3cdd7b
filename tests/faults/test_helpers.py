"""Under a backlog a list has two loaders in one process, see `etl.jobs.pool`: whatever happens while both have claims,
each call takes effect once, and nothing stays behind when the helper isn't needed any more."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etl.jobs.loader import CLAIMS_AHEAD
from etl.jobs.pool import LOADERS
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.faults.gate import Gate, closed_gate
from tests.faults.sample import assert_adoptable_at_once, leases
from tests.faults.worker import Worker
from tests.scrape import address, get, samples
from tests.world import CAMPAIGNS, Archive, cdr, eventually

CALLS = 1_000
QUICK = {
    "etl.app.gauges.LOOK_EVERY_SECONDS": 0.2,
    "etl.app.threads.SHUTDOWN_SECONDS": 0.5,
    "etl.app.threads.GIVE_BACK_SECONDS": 0.5,
    "etl.inbox.connection.SOCKET_TIMEOUT_SECONDS": 0.5,
    "etl.jobs.patience.LONGEST_PAUSE_SECONDS": 0.5,
    "etl.jobs.pool.LONGEST_PAUSE_SECONDS": 0.5,
}
IN_HAND = LOADERS * (1 + CLAIMS_AHEAD)
# With none ahead the first loader has nothing more to do, and needs no help, once its claim is loaded.
AHEAD = pytest.mark.parametrize("ahead", [0, CLAIMS_AHEAD])


@contextmanager
def two_at_once(archive: Archive, log: Path, ahead: int = CLAIMS_AHEAD) -> Iterator[tuple[Worker, Gate]]:
    """A worker of which both loaders of a list wait for Postgres to enter their claims into the ledger, each with all
    that it fetches ahead; nothing waits in the list any more."""
    constants = {**QUICK, "etl.jobs.loader.CLAIMS_AHEAD": ahead}
    archive.more = {"batch_size": 1}
    archive.push(*(cdr(n) for n in range(CALLS)))
    with closed_gate(archive) as gate:
        gate.open()
        with Worker(archive, log, constants=constants, ETL_HTTP="127.0.0.1:0") as worker:
            eventually(lambda: archive.value("SELECT count(*) FROM load_batches") > 0)
            gate.close()
            gate.wait_for(arrivals=LOADERS)
            eventually(lambda: len(archive.claims()) == LOADERS * (1 + ahead))
            assert archive.redis.delete(CAMPAIGNS)
            yield worker, gate


def assert_all_took_effect_once(archive: Archive) -> None:
    eventually(lambda: not archive.claims() and not archive.redis.llen(CAMPAIGNS), what="something is left in Redis")
    claimed = archive.value("SELECT sum(claimed) FROM load_batches")
    assert (
        archive.value("SELECT count(*) FROM cdrs") == archive.value("SELECT sum(inserted) FROM load_batches") == claimed
    )
    archive.assert_books_balance()


def test_under_a_backlog_two_claims_of_a_list_are_written_at_once(archive: Archive, log: Path) -> None:
    with two_at_once(archive, log) as (worker, gate):
        gate.open()
        assert_all_took_effect_once(archive)
        assert worker.count("outage_began") == 0
        assert worker.stop() == 0


def test_at_sigterm_the_claims_of_both_are_given_back(archive: Archive, log: Path) -> None:
    with two_at_once(archive, log) as (worker, _):
        assert worker.stop() == 0
        assert len(leases(archive)) == IN_HAND
        assert_adoptable_at_once(archive)
    assert archive.load(worker_name="another").claimed == IN_HAND
    assert_all_took_effect_once(archive)


def test_if_killed_with_two_claims_in_hand_both_are_loaded_once(archive: Archive, log: Path) -> None:
    with two_at_once(archive, log) as (worker, _):
        worker.kill()
    archive.load()  # under the same name
    assert_all_took_effect_once(archive)


@AHEAD
def test_after_an_outage_of_redis_nothing_stays_with_the_helper(
    own_archive: Archive, own_redis: PrivateRedis, log: Path, ahead: int
) -> None:
    with two_at_once(own_archive, log, ahead) as (worker, gate):
        own_redis.freeze()
        gate.open()
        worker.wait_for("outage_began")
        own_redis.thaw()
        assert_all_took_effect_once(own_archive)


@AHEAD
def test_after_an_outage_of_postgres_nothing_stays_with_the_helper(
    own_archive: Archive, own_postgres: PrivatePostgres, log: Path, ahead: int
) -> None:
    with two_at_once(own_archive, log, ahead) as (worker, gate):
        own_postgres.kill()
        worker.wait_for("outage_began")
        own_postgres.start()
        gate.open()
        with Archive(own_archive.redis_url, own_archive.database_url, own_archive.redis) as again:
            assert_all_took_effect_once(again)


@AHEAD
def test_a_list_that_broke_under_both_is_mended_for_both(archive: Archive, log: Path, ahead: int) -> None:
    registry, aside = f"{{{CAMPAIGNS}}}:claims", f"{{{CAMPAIGNS}}}:aside"
    with two_at_once(archive, log, ahead) as (worker, gate):
        at = address(worker)
        archive.redis.rename(registry, aside)
        archive.redis.set(registry, "mine")
        gate.open()
        eventually(lambda: samples(at, "etl_list_broken")[(CAMPAIGNS,)] == 1)
        assert get(at, "/healthz").status == 200
        archive.redis.rename(aside, registry)
        eventually(lambda: samples(at, "etl_list_broken")[(CAMPAIGNS,)] == 0)
        assert_all_took_effect_once(archive)
        assert worker.count("list_broken") == worker.count("list_mended") == 1
