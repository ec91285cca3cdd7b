"""A table is locked, Postgres hangs, or Redis is full: `/metrics` and `/readyz` go on saying how it stands."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from etl.app import check as preflight
from etl.app import status
from etl.app.gauges import of_redis
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.metrics import RUNWAY
from tests.faults.worker import Worker
from tests.scrape import address, get, samples
from tests.world import CAMPAIGNS, Archive, cdr, eventually

QUICK = {
    "etl.app.gauges.LOOK_EVERY_SECONDS": 0.1,
    "etl.app.gauges.STALE_SECONDS": 2.0,
    "etl.store.blockers.LASTING_SECONDS": 0.05,
    "etl.store.blockers.LOCK_TIMEOUT_MS": 100.0,
}
TABLES = (
    "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname IN ('public', 'reporting') AND c.relkind IN ('r', 'p') ORDER BY 1"
)
MEMORY = 8 * 1024**2  # bytes


@contextmanager
def locked(archive: Archive, table: str) -> Iterator[int]:
    with psycopg.connect(archive.database_url) as connection:
        connection.execute(f"LOCK TABLE {table}")
        yield connection.info.backend_pid


def test_given_a_lock_on_any_table_then_readyz_and_metrics_tell(archive: Archive, tmp_path: Path) -> None:
    tables = [row["name"] for row in archive.rows(TABLES)]
    assert len(tables) > 15
    with Worker(archive, tmp_path / "log", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        for table in tables:
            eventually(lambda: get(at, "/readyz").status == 200, what=f"after {table}")
            with locked(archive, table) as pid:
                eventually(lambda: get(at, "/readyz").status == 503, what=table)
                assert f"pid {pid} (postgres, idle in transaction) has a lock on " in get(at, "/readyz").body, table
                eventually(lambda: samples(at, "etl_blocked_seconds")[()] > 0, what=table)
                assert get(at, "/healthz").status == 200, table
                assert samples(at, "etl_redis_up") == {(): 1}, table


def test_given_a_lock_on_cdrs_then_the_backlog_is_still_told(archive: Archive, tmp_path: Path) -> None:
    archive.push(cdr("the last"))
    archive.load()
    archive.more = {"batch_size": 50}
    with Worker(archive, tmp_path / "log", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        eventually(lambda: get(at, "/readyz").status == 200)
        with locked(archive, "cdrs") as pid:
            archive.push(*[cdr(n) for n in range(1_000)])
            eventually(lambda: samples(at, "etl_claims").get((CAMPAIGNS,)))
            eventually(lambda: samples(at, "etl_backlog_messages")[CAMPAIGNS,] > 500)
            archive.push(*[cdr(n) for n in range(1_000, 2_000)])
            eventually(lambda: samples(at, "etl_backlog_messages")[CAMPAIGNS,] > 1_500)
            eventually(lambda: samples(at, "etl_postgres_up") == {(): 0})
            told = archive.run("status")
            assert told.returncode == 1
            assert CAMPAIGNS in told.stdout
            assert "Postgres couldn't be asked: ETL-303: canceling statement due to lock timeout" in told.stdout
            assert f"blocked: pid {pid} (postgres, idle in transaction) has a lock on cdrs" in told.stdout
        eventually(lambda: samples(at, "etl_postgres_up") == {(): 1})
        eventually(lambda: archive.value("SELECT count(*) FROM cdrs") == 2_001)


def test_given_postgres_hangs_then_its_gauges_age_and_redis_is_told(
    own_archive: Archive, own_postgres: PrivatePostgres, tmp_path: Path
) -> None:
    with Worker(own_archive, tmp_path / "log", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        eventually(lambda: get(at, "/readyz").status == 200)
        own_postgres.freeze()
        eventually(lambda: "the last look at Postgres was " in get(at, "/readyz").body)
        seen = samples(at, "etl_last_look_timestamp_seconds")
        own_archive.redis.lpush(CAMPAIGNS, *[cdr(n) for n in range(20_000)])
        eventually(lambda: samples(at, "etl_backlog_messages")[CAMPAIGNS,] > 0)
        assert samples(at, "etl_postgres_up") == {(): 0}
        assert samples(at, "etl_unexported_days") == {}, "nobody knows"
        now = samples(at, "etl_last_look_timestamp_seconds")
        assert (now["Postgres",], now["Redis",] > seen["Redis",]) == (seen["Postgres",], True)
        own_postgres.thaw()
        eventually(lambda: get(at, "/readyz").status == 200)
        assert samples(at, "etl_last_look_timestamp_seconds")["Postgres",] > seen["Postgres",]


@pytest.fixture
def full(own_archive: Archive, own_redis: PrivateRedis) -> Iterator[Archive]:
    """An archive whose dialler has pushed until it was refused."""
    client: Any = own_archive.redis
    client.config_set("maxmemory", client.info("memory")["used_memory"] + MEMORY)

    def push_for_ever() -> None:
        for number in itertools.count():
            own_archive.push(*[cdr(number, note="x" * 10_000)] * 10)

    with pytest.raises(redis.exceptions.OutOfMemoryError):
        push_for_ever()
    yield own_archive
    own_archive.redis.config_set("maxmemory", 0)


def test_given_a_redis_that_is_full_then_check_status_and_metrics_say_it(full: Archive) -> None:
    checked = {finding.about: finding for finding in preflight.check(full.settings())}
    told = full.run("status")
    with status.reader(full.settings()) as reading:
        gauges = of_redis(reading.redis()[0])

    assert checked["Redis memory"].verdict == "wrong"
    assert "it's full and refuses what the dialler pushes" in checked["Redis memory"].says
    assert "it's full: the dialler's messages are refused" in told.stdout
    assert gauges[RUNWAY] == {(): 0.0}


def test_given_a_redis_that_is_nearly_full_then_check_warns(full: Archive) -> None:
    client: Any = full.redis
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.95))

    checked = {finding.about: finding for finding in preflight.check(full.settings())}

    assert checked["Redis memory"].verdict == "warning"
