"""Clocks that are set while the archive works: Redis', Postgres', and the host's. Every step of the
schedule's is in tests/unit/test_schedule_clock.py."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
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


# -- the schedule

MINUTES_JOB = """
import contextlib, threading, time
from datetime import UTC, datetime
from etl.jobs.schedule import Job, Schedule
print(datetime.now(UTC).isoformat(), flush=True)
job = Job("job", "* * * * *", lambda _: print(datetime.now(UTC).isoformat(), flush=True))
Schedule([job], lambda _: contextlib.nullcontext(True), None).run(threading.Event())
"""


@pytest.mark.parametrize("by", [-HOUR, HOUR])
def test_given_the_host_set_then_a_minutes_job_has_its_next_minute(tmp_path: Path, by: float) -> None:
    """Three seconds before a minute at first; set back, half a minute is over before the next one."""
    clock = Clock(tmp_path / "clock")
    clock.step(57 - time.time() % 60)
    with subprocess.Popen(
        [sys.executable, "-c", MINUTES_JOB], env={**os.environ, **clock.environment}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        began = datetime.fromisoformat(process.stdout.readline().strip())
        first = datetime.fromisoformat(process.stdout.readline().strip())
        clock.step((57 if by > 0 else 27) - time.time() % 60 + by)
        second = datetime.fromisoformat(process.stdout.readline().strip())
        if by > 0:  # first once for what was passed
            second = datetime.fromisoformat(process.stdout.readline().strip())
        process.kill()

    assert first - began < timedelta(seconds=10)
    assert abs(second - first - timedelta(seconds=by)) < timedelta(seconds=90)
    assert (first.second, second.second) == (0, 0)


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
