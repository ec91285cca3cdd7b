"""Redis fails over, as three sentinels decide it: of what was pushed before, nothing is lost and nothing takes effect
twice (promises 1 and 2). What Redis itself confirmed to the dialler and lost is nobody's to bring back, so that nothing
is pushed between the fault and the fail-over.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from etl.lab.servers.private import PrivatePostgres, PrivateSentinels
from tests.faults import tally
from tests.faults.sample import SMALL_CLAIMS
from tests.faults.trial import Trial
from tests.faults.worker import Worker
from tests.world import CAMPAIGNS, Archive

BACKLOG = 500  # messages, of which each fault leaves many to be claimed
# What a killed process wrote is in the kernel.
CONFIG = {"appendfsync": "no"}


class FailOver(Trial):
    """`sentinels` know both servers of the archive's Redis; who is told by hand is told at the first one."""

    def __init__(self, archive: Archive, server: PrivatePostgres, database: str, sentinels: PrivateSentinels) -> None:
        super().__init__(archive, server, database)
        self.sentinels = sentinels
        self.dialler.meet(replace(archive, redis_url=sentinels.first.url))

    def note(self, what: str) -> None:
        tally.note(what, "redis", "under a backlog")

    def assert_nothing_is_lost_or_doubled(self) -> None:
        """The books are asked of the new primary."""
        with redis.Redis.from_url(self.sentinels.second.url) as client:
            self.archive.redis = client
            super().assert_nothing_is_lost_or_doubled()


@pytest.fixture
def trial(session_folder: Path, own_postgres: PrivatePostgres, own_database: str, tmp_path: Path) -> Iterator[FailOver]:
    with PrivateSentinels(tmp_path, CONFIG) as sentinels, redis.Redis.from_url(sentinels.first.url) as client:
        sentinels.watch()
        archive = Archive(sentinels.url, own_postgres.database_url(own_database), client, more=SMALL_CLAIMS)
        yield FailOver(archive, own_postgres, own_database, sentinels)


def half_way(trial: FailOver, worker: Worker) -> None:
    """A worker in the middle of a backlog, with claims in hand; it stands still, and the replica has all of it."""
    trial.dialler.say(BACKLOG)
    worker.wait_for("loaded", times=5)
    worker.freeze()
    trial.dialler.say(BACKLOG)  # it may have been quicker than the signal
    trial.sentinels.catch_up()
    trial.remember()


def test_given_a_primary_killed_then_each_message_takes_effect_once(trial: FailOver, log: Path) -> None:
    with Worker(trial.archive, log) as worker:
        half_way(trial, worker)
        trial.sentinels.first.kill()
        trial.sentinels.promoted()
        trial.note("promote the replica of a killed primary")
        with worker.told_more("loaded", 5):
            worker.thaw()
        trial.sentinels.first.start()
        trial.sentinels.gave_in()
        assert worker.stop() == 0
    trial.assert_nothing_is_lost_or_doubled()


def test_given_a_primary_frozen_and_left_then_each_takes_effect_once(trial: FailOver, log: Path) -> None:
    with Worker(trial.archive, log) as worker:
        half_way(trial, worker)
        trial.sentinels.first.freeze()
        trial.sentinels.promoted()
        trial.note("promote the replica of a frozen primary")
        with worker.told_more("loaded", 5):
            worker.thaw()  # who opens a connection is told the new primary: nobody may ask the frozen one
        trial.sentinels.first.thaw()
        trial.sentinels.gave_in()
        assert worker.stop() == 0
    trial.assert_nothing_is_lost_or_doubled()


def test_given_a_primary_thawed_in_use_then_each_takes_effect_once(trial: FailOver, log: Path) -> None:
    with Worker(trial.archive, log) as worker:
        half_way(trial, worker)
        trial.sentinels.first.freeze()
        trial.sentinels.promoted()
        trial.note("promote the replica of a frozen primary")
        trial.sentinels.look_away()
        trial.sentinels.first.thaw()
        go_on_at_the_former_primary(trial, worker)
    trial.assert_nothing_is_lost_or_doubled()


def test_given_a_clean_fail_over_then_each_message_takes_effect_once(trial: FailOver, log: Path) -> None:
    with Worker(trial.archive, log) as worker:
        half_way(trial, worker)
        trial.sentinels.fail_over()
        trial.note("promote the replica cleanly")
        trial.sentinels.look_away()
        go_on_at_the_former_primary(trial, worker)
    trial.assert_nothing_is_lost_or_doubled()


def go_on_at_the_former_primary(trial: FailOver, worker: Worker) -> None:
    """As workers do for some ten seconds, until a sentinel tells that one that it's none any more."""
    with worker.told_more("loaded", 5):
        worker.thaw()
    trial.sentinels.gave_in()
    assert worker.stop() == 0


def test_given_a_replica_that_lags_then_each_takes_effect_once(trial: FailOver, log: Path) -> None:
    with Worker(trial.archive, log, listen=True) as worker:
        worker.wait_for("listening")
        trial.load(worker)
        worker.freeze()
        trial.tell(BACKLOG)
        trial.sentinels.catch_up()
        trial.sentinels.wire.blackhole()
        worker.thaw()
        trial.wait_until_loaded(worker)
        with redis.Redis.from_url(trial.sentinels.second.url) as replica:
            assert replica.llen(CAMPAIGNS), "the replica doesn't know that it was claimed"
        trial.remember()
        with worker.told_more("loaded", 5):
            trial.sentinels.first.kill()
            trial.sentinels.promoted()
            trial.note("promote a replica that lags")
        assert worker.stop() == 0
    trial.assert_nothing_is_lost_or_doubled()
