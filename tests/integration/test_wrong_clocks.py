"""Real servers and a real loader, and the clocks of some of them wrong: claims wait, or are of today; and nothing is a
dead letter because of a clock. The rule is etl/store/claim_times.py's, and its table is in tests/unit."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from etl.lab.servers.clock import Clock
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.clocks import DAY, settable, step, wait_until_seen
from tests.faults.worker import Worker
from tests.integration.test_claim_times import EVENT, assert_all_of_now
from tests.lake import export, load, with_lake
from tests.world import CAMPAIGNS, CDRS, Archive, cdr, eventually, migrate

pytestmark = settable

AHEAD = 11 * 365 * DAY  # by then a call of today is too old for ETL_OLDEST_DAYS as it is
BEHIND = -4 * DAY
LOADED = "loaded"

# Seconds by which the clocks of Redis, of the loader's host and of Postgres are wrong, and what the loader does until
# they are set. "ETL-420" is what it says if the host's alone is wrong.
OUTCOMES = {
    "redis ahead": (AHEAD, 0, 0, LOADED),
    "host ahead": (0, AHEAD, 0, "ETL-420"),
    "postgres behind": (0, 0, BEHIND, "ETL-926"),
    "redis and host ahead": (AHEAD, AHEAD, 0, "ETL-926"),
    "redis ahead and postgres behind": (AHEAD, 0, BEHIND, "ETL-926"),
    "host ahead and postgres behind": (0, AHEAD, BEHIND, "ETL-926"),
    "all three": (AHEAD, AHEAD, BEHIND, "ETL-926"),
}


class Clocks:
    def __init__(self, folder: Path) -> None:
        self.redis, self.host, self.postgres = (Clock(folder / name) for name in ("redis", "host", "postgres"))

    def set(self, archive: Archive, redis: float, host: float, postgres: float) -> None:
        step(self.redis, redis, lambda: float(archive.redis.time()[0]))
        step(self.postgres, postgres, lambda: archive.value("SELECT extract(epoch FROM clock_timestamp())::float8"))
        self.host.step(host)


@pytest.fixture(scope="module")
def clocks(session_folder: Path) -> Clocks:
    folder = session_folder / "wrong-clocks"
    folder.mkdir()
    return Clocks(folder)


@pytest.fixture(scope="module")
def servers(session_folder: Path, clocks: Clocks) -> Iterator[tuple[PrivateRedis, PrivatePostgres]]:
    with (
        PrivateRedis(session_folder / "redis-wrong", clock=clocks.redis) as store,
        PrivatePostgres(session_folder / "pg-wrong", {"fsync": "off"}, clocks.postgres) as database,
    ):
        yield store, database


@pytest.fixture
def archive(servers: tuple[PrivateRedis, PrivatePostgres], clocks: Clocks) -> Iterator[Archive]:
    """Empty, and all clocks right."""
    store, database = servers
    with redis.Redis.from_url(store.url) as client, Archive(store.url, database.url, client) as archive:
        clocks.set(archive, 0, 0, 0)
        client.flushall()
        with psycopg.connect(database.url, autocommit=True) as administrator:
            administrator.execute("DROP SCHEMA IF EXISTS iceberg, reporting, etl_staging, public CASCADE")
            administrator.execute("CREATE SCHEMA public")
        migrate(database.url)
        yield archive
        clocks.set(archive, 0, 0, 0)


@pytest.mark.parametrize("wrong", OUTCOMES)
def test_given_wrong_clocks_then_all_is_of_today_or_waits(
    archive: Archive, clocks: Clocks, tmp_path: Path, wrong: str
) -> None:
    *seconds, outcome = OUTCOMES[wrong]
    clocks.set(archive, *map(float, seconds))
    archive.push(cdr(1, dialed_at=int(time.time())), EVENT)
    archive.push(EVENT, key=CDRS)
    environment: dict[str, Any] = {**clocks.host.environment, "ETL_OLDEST_DAYS": "3650"}
    with Worker(archive, tmp_path / "log", **environment) as worker:
        if outcome == LOADED:
            worker.wait_for("loaded", times=2)
            assert {line["source_key"] for line in worker.lines("claims_misdated")} >= {CAMPAIGNS, CDRS}
            assert_all_of_now(archive)
        else:
            eventually(lambda: outcome in {line["code"] for line in worker.lines("outage_began")})
            assert archive.value("SELECT count(*) FROM load_batches WHERE claimed > 0") == 0
        clocks.set(archive, 0, 0, 0)
        wait_until_seen()
        archive.push(cdr(2, dialed_at=int(time.time())), EVENT)  # sorts after what was claimed by the wrong clock
        eventually(lambda: archive.value("SELECT count(*) FROM cdrs") == 2)
        eventually(lambda: archive.value("SELECT count(*) FROM audit_events") == 3)
        assert worker.stop() == 0

    assert archive.rows("SELECT reason, detail FROM dead_letters") == []
    assert_all_of_now(archive)
    archive.assert_books_balance()


def test_given_postgres_behind_then_restore_and_replay_say_so(archive: Archive, clocks: Clocks, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1, dialed_at=int(time.time())), b"one")
    assert export(archive, today).what == "exported"
    archive.rows("UPDATE dead_letters SET raw = %s RETURNING 1", cdr(2, dialed_at=int(time.time())))
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(f"DROP TABLE cdrs_{today:%Y%m%d}")
    commands = (("restore", "--dataset", "cdrs", "--day", str(today)), ("dead", "replay"))

    clocks.set(archive, 0, 0, BEHIND)
    wait_until_seen()
    for command in commands:
        done = archive.run(*command)
        assert done.returncode == 1, done.stderr
        assert "ETL-926: " in done.stderr
        assert str(today) in done.stderr

    clocks.set(archive, 0, 0, 0)
    for command in commands:  # each of Postgres' processes sees the new time for itself
        eventually(lambda command=command: archive.run(*command).returncode == 0, what=str(command))  # type: ignore[misc]
    assert archive.value("SELECT count(*) FROM cdrs") == 2
    assert archive.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 0
