"""Ten years of days at a server's default settings: whatever etl does locks a bounded number of partitions. Making so
many takes minutes, and so `make nightly` has them; `make test` has a server with room for fewer locks, and fewer days.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import redis
import typer.main

import etl.cli
from etl.app import status
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.reporting.today import Wall
from etl.store.writer import Writer
from tests.lake import DAY, SPOOL, heard, on, with_lake
from tests.store import engine, write
from tests.world import NAMES_FILE, Archive, cdr, migrate


@dataclass(frozen=True)
class Size:
    """Days of both datasets, and the server's settings. There is less room for locks than the datasets have tables
    and indexes, as there is with ten years at the default settings."""

    days: int
    settings: dict[str, str] = field(default_factory=dict)


# As few as a server lets one set, which isn't few enough for fewer days.
FEW_LOCKS = {"max_locks_per_transaction": "10", "max_connections": "20"}
FEW_PROCESSES = {"autovacuum_max_workers": "1", "max_worker_processes": "1"}
SIZES = [
    pytest.param(Size(600, FEW_LOCKS | FEW_PROCESSES), id="600 days"),
    pytest.param(Size(3_650), id="3650 days", marks=pytest.mark.nightly),
]
# In steps that leave room for the locks of each.
AT_ONCE = 20


@pytest.fixture(scope="module", params=SIZES)
def decade(request: pytest.FixtureRequest, session_folder: Path) -> Iterator[PrivatePostgres]:
    size: Size = request.param
    lean = {"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    with PrivatePostgres(session_folder / f"pg{size.days}", {**lean, **size.settings}) as server:
        migrate(server.url)
        first = DAY - timedelta(days=size.days // 2)
        days = [first + timedelta(days=n) for n in range(size.days)]
        with psycopg.connect(server.url, autocommit=True) as connection:
            for begin in range(0, size.days, AT_ONCE):
                for dataset in ("cdrs", "audit_events"):
                    some = days[begin : begin + AT_ONCE]
                    connection.execute("SELECT make_partition(%s, day) FROM unnest(%s::date[]) AS day", [dataset, some])
        yield server


@pytest.fixture
def old(
    decade: PrivatePostgres, redis_server: PrivateRedis, redis_client: "redis.Redis", tmp_path: Path
) -> Iterator[Archive]:
    """An archive of so many days, three of which have something in them."""
    with Archive(redis_server.url, decade.url, redis_client) as archive:
        yield with_lake(archive, tmp_path / "lake")


def commands() -> set[str]:
    """All that there are, as they are typed."""
    names = set()
    for name, command in typer.main.get_command(etl.cli.registered()).commands.items():  # type: ignore[attr-defined]
        names |= {f"{name} {below}" for below in getattr(command, "commands", [])} or {name}
    return names


# With servers of their own, or none, or for as long as one lets them.
ASIDE = {"demo", "selftest", "simulate", "files", "listen", "serve"}
NEXT_DAY = str(DAY + timedelta(days=1))
RUNS = (
    "db upgrade",
    "db current",
    "db check",
    "run",
    "status",
    "status --json",
    "gaps",
    "recall",
    "dead list",
    "dead show 1",
    "dead replay",
    "dead discard 1 --because tested",
    "rollup",
    "rollup --all",
    f"names import {NAMES_FILE}",
    *(f"report {kind} --from {DAY} --to {NEXT_DAY}" for kind in ("campaign", "agent", "hours", "reasons")),
    f"report agent --day {DAY} --format html",
    "export",
    "verify --deep",
    "reconcile",
    "lake publish",
    "lake expire",
    "lake status",
    "prune --keep-days 30",
    f"restore --day {DAY}",
    "export",
    "check",
    "forget --contact M0042 --yes",
)


def test_whatever_etl_does_a_decade_is_as_good_as_a_week(old: Archive, decade: PrivatePostgres) -> None:
    with pytest.raises(psycopg.errors.OutOfMemory, match="max_locks_per_transaction"):
        old.rows("SELECT count(*) FROM cdrs UNION SELECT count(*) FROM audit_events")
    told = (heard(n, DAY + timedelta(days=n), call_ref=str(n)) for n in range(2))
    old.push(*told, key=SPOOL)
    old.push(cdr(1), cdr(2), on(1, 3), cdr(1, call_time=99), b"junk")

    assert {command for command in commands() if any(run.startswith(command) for run in RUNS)} == commands() - ASIDE
    for run in RUNS:
        done = old.run(*run.split(), ETL_FORGET_KEY="0" * 32, ETL_LAKE_TABLE="iceberg")
        assert "max_locks_per_transaction" not in done.stderr, run
        assert "shared memory" not in done.stdout + done.stderr, run
        assert done.returncode == 0 or run in ("check", "dead replay"), (run, done.stdout, done.stderr)

    with engine(old.database_url) as connections:
        writer = Writer(connections)
        for number in range(20):  # often enough for a plan that would be kept
            write(writer, cdr(100), cdr(100, call_time=number), on(1, 200 + number), cdr(300, contact_ref=str(number)))
        wall = Wall(connections)
        for _ in range(20):
            assert wall.look().day
    with status.reader(old.settings()) as reader:
        for _ in range(20):
            reader._exports = None
            found = reader.read()
            assert (found.redis_error, found.postgres_error) == (None, None)
    check_knows_of_pg_dump(old, decade)


def check_knows_of_pg_dump(old: Archive, decade: PrivatePostgres) -> None:
    findings = {each["about"]: each for each in json.loads(old.run("check", "--json").stdout)["findings"]}
    assert findings["Postgres lock table"]["verdict"] == "warning"
    dumped = subprocess.run(
        [decade.bin / "pg_dump", "--schema-only", "--dbname", old.database_url],
        capture_output=True,
        text=True,
        check=False,
    )
    # Postgres has more room than it promises: a lone dump of ten years may fit at its default settings.
    few = old.rows("SHOW max_locks_per_transaction")[0]["max_locks_per_transaction"] != "64"
    assert "out of shared memory" in dumped.stderr or not few


def test_as_long_as_a_backup_is_possible_check_says_so(archive: Archive) -> None:
    findings = {each["about"]: each for each in json.loads(archive.run("check", "--json").stdout)["findings"]}
    assert findings["Postgres lock table"]["verdict"] == "fine"
