"""Postgres forgets what it confirmed, by a fail-over to a standby that lags or by a backup that is restored: within the
recall window nothing is lost and nothing is doubled (promise 9)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from etl.lab.servers.private import PrivatePostgres, PrivateRedis, PrivateStandby
from tests.faults import set_back
from tests.faults.set_back import SETTINGS, SYNCHRONOUS, House
from tests.faults.worker import Worker
from tests.machine import postgres_bin
from tests.store import at_once
from tests.world import eventually, migrate


def migrated_backup(folder: Path, installation: Path | None = None) -> Path:
    """A base backup of a migrated, empty archive."""
    with PrivatePostgres(folder, SETTINGS, installation=installation) as server:
        migrate(server.url)
        server.back_up(folder / "backup")
    return folder / "backup"


@pytest.fixture(scope="session")
def migrated(session_folder: Path) -> Path:
    return migrated_backup(session_folder / "migrated")


@pytest.fixture
def house(session_folder: Path, migrated: Path, own_redis: PrivateRedis) -> Iterator[House]:
    with set_back.house(session_folder, migrated, own_redis, SETTINGS) as house:
        yield house


@pytest.fixture
def standby(house: House) -> Iterator[PrivateStandby]:
    with set_back.standby(house) as standby:
        yield standby


@contextmanager
def loader(house: House, log: Path) -> Iterator[Worker]:
    """That also listens: what is published before its session begins isn't promised."""
    with Worker(house.archive, log, "--no-schedule", listen=True) as worker:
        worker.wait_for("listening")
        yield worker


def let_it_lag(house: House, standby: PrivateStandby, worker: Worker) -> None:
    """The standby has a part of what is confirmed."""
    house.load(worker)
    standby.catch_up()
    standby.wire.blackhole()
    house.load(worker)
    house.remember()


def fail_over(house: House, standby: PrivateStandby) -> None:
    house.service.fail_over(standby)
    house.moved("promote a standby that lags")


def test_a_lagging_standby_promoted_under_load_costs_and_doubles_nothing(
    house: House, standby: PrivateStandby, log: Path
) -> None:
    with loader(house, log) as worker:
        let_it_lag(house, standby, worker)
        with house.dialler.speaking():
            worker.wait_for_more("loaded", 5)
            house.remember()
            fail_over(house, standby)
            worker.wait_for("outage_ended")
            worker.wait_for_more("loaded", 5)
        assert worker.stop() == 0
    house.assert_nothing_is_lost_or_doubled()


def test_debians_postgres_promoted_while_it_lags_costs_and_doubles_nothing(
    session_folder: Path, own_redis: PrivateRedis, log: Path
) -> None:
    installation = postgres_bin().parent
    backup = migrated_backup(session_folder / "migrated-debian", installation)
    with (
        set_back.house(session_folder, backup, own_redis, SETTINGS, installation) as house,
        set_back.standby(house) as standby,
    ):
        with loader(house, log) as worker:
            let_it_lag(house, standby, worker)
            fail_over(house, standby)
            house.dialler.say(20)
            worker.wait_for("outage_ended")
            assert worker.stop() == 0
        house.assert_nothing_is_lost_or_doubled()


def test_a_set_back_is_noticed_and_mended_by_the_worker_that_goes_on(
    house: House, standby: PrivateStandby, log: Path
) -> None:
    with loader(house, log) as worker:
        let_it_lag(house, standby, worker)
        fail_over(house, standby)
        house.dialler.say(20)
        worker.wait_for("outage_ended")
        eventually(house.is_whole, what="it recalls nothing by itself")
        assert worker.stop() == 0
    house.assert_nothing_is_lost_or_doubled()


@pytest.mark.parametrize("forks", [True, False], ids=["in a new timeline", "in the same timeline"])
def test_an_earlier_backup_restored_under_a_worker_costs_nothing(house: House, log: Path, forks: bool) -> None:
    with loader(house, log) as worker:
        take_back(house, worker, forks)
        house.dialler.say(20)
        worker.wait_for("outage_ended")
        assert worker.stop() == 0
    house.assert_nothing_is_lost_or_doubled()


def test_an_earlier_backup_restored_while_nobody_loads_costs_nothing(house: House, log: Path) -> None:
    with loader(house, log) as worker:
        take_back(house, worker, forks=True, stop=worker.stop)
    house.assert_nothing_is_lost_or_doubled()


def take_back(house: House, worker: Worker, forks: bool, stop: Callable[[], object] = lambda: None) -> None:
    """Postgres becomes what it was in the middle of this."""
    house.load(worker)
    backup = house.service.back_up()
    house.load(worker)
    house.remember()
    stop()
    house.service.restore(backup, forks)
    house.moved("restore an earlier backup")


@pytest.mark.parametrize("breaks", [True, False], ids=["all connections break", "no connection breaks"])
def test_a_server_changed_behind_the_same_address_costs_nothing(
    house: House, standby: PrivateStandby, log: Path, breaks: bool
) -> None:
    with loader(house, log) as worker:
        let_it_lag(house, standby, worker)
        standby.promote()
        former = house.server
        house.service.move_to(standby)
        house.moved("lead to a standby that lags")
        if breaks:
            house.service.door.end_connections()
        # Who was connected before may go on for a while, and confirm what the new primary never hears of.
        with worker.told_more("loaded", 3):
            house.dialler.say(100)
        former.kill()
        with worker.told_more("loaded", 3):
            house.dialler.say(100)
        assert worker.stop() == 0
    house.assert_nothing_is_lost_or_doubled()


# -- a synchronous standby

# Others commit, too: a heartbeat that waits shows nothing. What a transaction has locked stays so until it ends.
CLAIM_WAITS = """SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE wait_event = 'SyncRep' AND relation = 'load_batches'::regclass AND mode = 'RowExclusiveLock'"""


@pytest.fixture
def synchronous(session_folder: Path, migrated: Path, own_redis: PrivateRedis) -> Iterator[House]:
    with set_back.house(session_folder, migrated, own_redis, SYNCHRONOUS) as house:
        yield house


def test_a_primary_restarted_while_a_commit_waits_costs_nothing(synchronous: House, log: Path) -> None:
    house = synchronous
    with set_back.standby(house) as standby:
        with loader(house, log) as worker:
            house.load(worker)
            standby.wire.blackhole()
            house.dialler.say(20)
            eventually(lambda: house.server.ask(CLAIM_WAITS) != ["0"])
            house.server.kill()
            house.server.start()
            # Without the standby the claim is visible now, and is found in the ledger.
            eventually(lambda: house.service.waiting() or worker.count("already_loaded"))
            house.remember()
            fail_over(house, standby)
            with worker.told_more("loaded"):
                house.dialler.say(20)
            assert worker.stop() == 0
        house.assert_nothing_is_lost_or_doubled()


def test_a_message_in_the_log_waits_for_the_standby_as_a_commit_does(synchronous: House) -> None:
    house, returned = synchronous, []

    def commit(statement: str, **settings: str) -> Callable[[], None]:
        def job() -> None:
            with psycopg.connect(house.server.url) as connection:
                for name, value in settings.items():
                    connection.execute(f"SET {name} = {value}")
                connection.execute(statement)
            returned.append(statement)

        return job

    says = "SELECT pg_logical_emit_message(true, 'etl', '')"

    def look() -> None:
        try:
            eventually(lambda: house.service.waiting() == 1)
            commit("SELECT 1")()  # writes nothing, and so has nothing to wait for
            commit(says.replace("true", "false"))()  # is no part of a transaction
            commit(says.replace("etl", "local"), synchronous_commit="local")()
            assert house.service.waiting() == 1
            assert says not in returned
        finally:
            follower.wire.heal()

    with set_back.standby(house) as follower:
        follower.wire.blackhole()
        at_once(commit(says), look)
    assert returned[-1] == says
