"""Clocks that are set while the archive works: Redis', Postgres', and the host's. Every step of the
schedule's is in tests/unit/test_schedule_clock.py."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from etl import logs
from etl.app import check as preflight
from etl.app import status
from etl.errors import Outage, WrongClock
from etl.inbox.claims import Source
from etl.inbox.connection import Client, connect
from etl.inbox.lock import Lock
from etl.jobs.clocks import Clocks
from etl.lab.servers.clock import Clock
from etl.lab.servers.ports import free_port
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.store.connection import unix_time
from tests.clocks import DAY, HOUR, settable, step, wait_until_seen
from tests.faults.worker import Worker
from tests.store import engine
from tests.world import CAMPAIGNS, Archive, cdr, eventually, migrate

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
from etl import logs
from etl.jobs.schedule import Job, Schedule
print(datetime.now(UTC).isoformat(), flush=True)
job = Job("job", "* * * * *", lambda _: print(datetime.now(UTC).isoformat(), flush=True))
Schedule([job], lambda _: contextlib.nullcontext(True), logs.get()).run(threading.Event())
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

        assert not heir.acquire(), "the holder may be alive"
        assert 0 < archive.redis.pttl("lock") <= 8_000
        eventually(heir.acquire)
        assert not heir.is_doubtful
        assert not dead.acquire()


def test_given_redis_set_forward_then_whoever_gets_the_lock_doubts_it(archive: Archive, redis_clock: Clock) -> None:
    with connect(archive.redis_url) as client:
        holder, heir = Lock(client, "lock", "holder", 60), Lock(client, "lock", "heir", 60)
        assert holder.acquire()
        assert not heir.acquire()
        redis_clock.step(DAY)
        eventually(heir.acquire)
        doubts = [heir.is_doubtful, heir.acquire() and heir.is_doubtful]
        assert doubts == [True, False]
        assert not holder.acquire()


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


# -- the host's clock


def worker_by(clock: Clock, archive: Archive, folder: Path, **more: str) -> Worker:
    environment: dict[str, Any] = {**clock.environment, **more}
    return Worker(archive, folder / "log", **environment)


WRONG = [-2 * DAY, 2 * DAY, HOUR - time.time()]  # the last one is 1970


@pytest.mark.parametrize("by", WRONG, ids=["slow", "fast", "1970"])
def test_given_a_wrong_host_then_run_waits_and_says_why(archive: Archive, tmp_path: Path, by: float) -> None:
    archive.push(cdr(1, dialed_at=int(time.time())))
    clock = Clock(tmp_path / "clock")
    clock.step(by)

    with worker_by(clock, archive, tmp_path) as worker:
        worker.wait_for("outage_began")
        assert {line["code"] for line in worker.lines("outage_began")} == {"ETL-420"}
        told = worker.lines("outage_began")[0]["error"]
        assert told.startswith("this host's clock is")
        assert told.endswith("Redis' and Postgres', which agree: set it")
        assert archive.redis.llen(CAMPAIGNS) == 1
        clock.step(0)
        worker.wait_for("loaded")
        assert worker.stop() == 0

    assert archive.rows("SELECT reason FROM dead_letters") == []
    assert archive.cdr(1)
    archive.assert_books_balance()


def test_given_a_wrong_host_then_a_run_gives_up_with_that_reason(archive: Archive, tmp_path: Path) -> None:
    archive.push(cdr(1, dialed_at=int(time.time())))
    clock = Clock(tmp_path / "clock")
    clock.step(-2 * DAY)
    environment: dict[str, Any] = {**clock.environment}
    constants = {"etl.app.load.DRAIN_PATIENCE_SECONDS": 0.5}
    with Worker(archive, tmp_path / "log", follow=False, constants=constants, **environment) as run:
        assert run.wait() == 1
        assert "etl: ETL-420: this host's clock is" in run.log()
        assert run.count("outage_began") == 1

    assert archive.redis.llen(CAMPAIGNS) == 1


def test_given_the_host_set_in_mid_run_then_no_call_is_refused(archive: Archive, tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    with worker_by(clock, archive, tmp_path) as worker:
        archive.push(cdr(1, dialed_at=int(time.time())))
        worker.wait_for("loaded")
        clock.step(-2 * DAY)
        wait_until_seen()
        archive.push(cdr(2, dialed_at=int(time.time())))
        worker.wait_for("outage_began")
        clock.step(0)
        worker.wait_for("loaded", times=2)
        assert worker.stop() == 0

    assert archive.value("SELECT count(*) FROM cdrs") == 2
    assert archive.rows("SELECT reason FROM dead_letters") == []


def test_given_a_wrong_host_then_no_job_has_its_day(archive: Archive, tmp_path: Path) -> None:
    """An hour goes by, and so the minute at which partitions are made for the days ahead."""
    clock = Clock(tmp_path / "clock")
    clock.step(2 * DAY)
    with worker_by(clock, archive, tmp_path) as worker:
        worker.wait_for("outage_began", times=len(archive.sources))
        clock.step(2 * DAY + HOUR)
        worker.wait_for("schedule_outage_began")
        (told,) = worker.lines("schedule_outage_began")
        clock.step(0)
        worker.wait_for("schedule_outage_ended")
        assert worker.stop() == 0

    assert (told["code"], told["error"].partition(" is ")[0]) == ("ETL-420", "this host's clock")
    assert archive.value("SELECT to_regclass(%s)", f"cdrs_{datetime.now(UTC) + timedelta(days=3):%Y%m%d}") is None


def test_given_redis_away_then_postgres_alone_keeps_jobs_waiting(postgres_set: Archive) -> None:
    def away() -> float:
        raise Outage("ETL-201", "Redis is away")

    with engine(postgres_set.database_url) as opened:
        clocks = Clocks(partial(unix_time, opened), logs.get())
        with pytest.raises(Outage, match="Redis is away"):
            clocks.check(away)
        with pytest.raises(WrongClock, match="Redis can't be asked"):
            clocks.check_without_redis(away)
        clocks.check_without_redis(time.time)  # it stands alone


def test_given_a_wrong_host_then_readyz_status_and_check_say_so(archive: Archive, tmp_path: Path) -> None:
    clock, port = Clock(tmp_path / "clock"), free_port()
    clock.step(-2 * DAY)

    checked = archive.run("check", "--json", ETL_EXPORT_URL=str(tmp_path / "lake"), PYTHONUTF8="1", **clock.environment)
    found = {each["about"]: each["verdict"] for each in json.loads(checked.stdout)["findings"]}
    assert checked.returncode == 1
    assert {about: found[about] for about in found if "clock" in about} == {
        "clock of Redis": "wrong",
        "clock of Postgres": "wrong",
        "clock of this host": "wrong",
    }
    with archive.process("status", "--watch", **clock.environment) as watching:  # libfaketime breaks time.sleep
        assert watching.stdout
        assert any("this host's clock is 172," in line for line in watching.stdout)
    with worker_by(clock, archive, tmp_path, ETL_HTTP=f"127.0.0.1:{port}") as worker:
        worker.wait_for("serving_metrics")
        eventually(lambda: "this host's clock is 172," in ready(port))
        clock.step(0)
        eventually(lambda: ready(port) == "fine\n")


def ready(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as refused:
        return str(refused.read().decode())


@pytest.fixture
def postgres_set(session_folder: Path, redis_client: "redis.Redis", redis_server: PrivateRedis) -> Iterator[Archive]:
    """Its Postgres is two days behind everybody else."""
    clock = Clock(session_folder / "postgres-clock")
    clock.step(-2 * DAY)
    with PrivatePostgres(session_folder / "pg-with-clock", {"fsync": "off"}, clock) as server:
        migrate(server.url)
        with Archive(redis_server.url, server.url, redis_client) as archive:
            yield archive


def test_given_only_postgres_wrong_then_it_is_loaded_and_told(postgres_set: Archive, tmp_path: Path) -> None:
    postgres_set.push(cdr(1, dialed_at=int(time.time())))

    with Worker(postgres_set, tmp_path / "log") as worker:
        worker.wait_for("loaded")
        (line,) = worker.lines("clocks_differ")
        assert worker.stop() == 0

    assert line["error"].startswith("the clock of Postgres is 172,")
    assert line["error"].endswith(" s behind this host's")
    assert postgres_set.cdr(1)
    shown = postgres_set.run("status")
    assert "the clock of Postgres is 172," in shown.stdout
    found = {each.about: each.verdict for each in preflight.check(postgres_set.settings(export_url=str(tmp_path)))}
    assert (found["clock of Postgres"], found["clock of Redis"]) == ("wrong", "fine")
    assert "clock of this host" not in found
