"""Clocks that are set while the archive works: Redis', Postgres', and the host's. The schedule's are in
tests/integration/test_schedule.py, the listener's in tests/faults/test_listener_clocks.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from etl.app import status
from etl.inbox.claims import Source
from etl.inbox.connection import Client, connect
from etl.inbox.lock import Lock
from etl.lab.servers.clock import Clock
from etl.lab.servers.private import PrivateRedis
from tests.clocks import DAY, HOUR, settable, step
from tests.world import CAMPAIGNS, Archive, cdr

pytestmark = settable
STEPS_BACK = [2 * HOUR, DAY, 400 * DAY]


@pytest.fixture(scope="module")
def redis_clock(session_folder: Path) -> Clock:
    return Clock(session_folder / "redis-clock")


@pytest.fixture(scope="module")
def own_redis(session_folder: Path, redis_clock: Clock) -> Iterator[PrivateRedis]:
    with PrivateRedis(session_folder / "redis-with-clock", clock=redis_clock) as server:
        yield server


@pytest.fixture
def archive(own_redis: PrivateRedis, redis_clock: Clock, database_url: str) -> Iterator[Archive]:
    """Both stores; Redis with a clock of its own, which is right at first."""
    with redis.Redis.from_url(own_redis.url) as client, Archive(own_redis.url, database_url, client) as archive:
        set_redis(archive, redis_clock, 0)
        client.flushall()
        yield archive


def set_redis(archive: Archive, clock: Clock, seconds: float) -> None:
    step(clock, seconds, lambda: float(archive.redis.time()[0]))


def source(client: Client, worker: str, lease_ms: int = 60_000) -> Source:
    return Source(client, CAMPAIGNS, worker=worker, lease_ms=lease_ms)


# -- Redis' clock set back


@pytest.mark.parametrize("back", STEPS_BACK)
def test_given_redis_set_back_then_a_dead_workers_claim_is_loaded(
    archive: Archive, redis_clock: Clock, back: float
) -> None:
    archive.push(cdr(1))
    with connect(archive.redis_url) as client:
        assert source(client, "dead").claim()
    set_redis(archive, redis_clock, -back)

    assert archive.load().inserted == 1

    assert archive.keys() == set()
    archive.assert_books_balance()


def test_given_redis_right_then_a_claim_in_hand_stays_with_its_worker(archive: Archive, redis_clock: Clock) -> None:
    archive.push(cdr(1))
    with connect(archive.redis_url) as client:
        assert source(client, "holder", lease_ms=HOUR * 1_000).claim()

    assert archive.load().claimed == 0


@pytest.mark.parametrize("back", STEPS_BACK)
def test_given_redis_set_back_then_no_lease_shows_the_step(archive: Archive, redis_clock: Clock, back: float) -> None:
    archive.push(cdr(1))
    with connect(archive.redis_url) as client:
        lists = [source(client, "dead")]
        assert lists[0].claim()
        set_redis(archive, redis_clock, -back)

        assert [lease.seconds for lease in lists[0].claims()] == [0.0]
        assert [claim.lease_seconds for claim in status.claims(lists)] == [0.0]


@pytest.mark.parametrize("back", STEPS_BACK)
def test_given_redis_set_back_then_the_listeners_lock_can_be_had(
    archive: Archive, redis_clock: Clock, back: float
) -> None:
    with connect(archive.redis_url) as client:
        dead, heir = Lock(client, "lock", "dead", 8), Lock(client, "lock", "heir", 8)
        assert dead.acquire()
        assert not heir.acquire()
        set_redis(archive, redis_clock, -back)

        assert heir.acquire()
        assert not dead.acquire()
        assert 0 < archive.redis.pttl("lock") <= 8_000


def test_given_a_user_without_pttl_then_the_lock_is_respected(archive: Archive, own_redis: PrivateRedis) -> None:
    administrator: Any = archive.redis
    administrator.execute_command("ACL", "SETUSER", "old", "reset", "on", ">secret", "~*", "+@all", "-pttl")
    with (
        connect(archive.redis_url) as client,
        connect(f"redis://old:secret@127.0.0.1:{own_redis.port}/0") as old,
    ):
        assert Lock(client, "lock", "one", 8).acquire()
        assert not Lock(old, "lock", "other", 8).acquire()
        client.delete("lock")
        assert Lock(old, "lock", "other", 8).acquire()
