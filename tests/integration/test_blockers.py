"""Somebody else's lock on a table of ours, each in turn: who looks on is told whose it is, soon, and sees all else."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from etl.app import check as preflight
from etl.app import gauges, status
from etl.lab.servers.private import PrivatePostgres
from etl.metrics import BACKLOG, BLOCKED, POSTGRES_UP, REDIS_UP
from etl.store import blockers
from etl.store.blockers import Blocker, Watchman, connect_to_look
from tests.lake import with_lake
from tests.store import ROLES
from tests.world import CAMPAIGNS, Archive, cdr, eventually

pytestmark = pytest.mark.versions

OURS = (
    "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname IN ('public', 'reporting') AND c.relkind IN ('r', 'p') ORDER BY 1"
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockers, "LASTING_SECONDS", 0.05)
    monkeypatch.setattr(blockers, "LOCK_TIMEOUT_MS", 100)


@contextmanager
def locked(archive: Archive, table: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[int]:
    """By another session, whose pid it yields."""
    with psycopg.connect(archive.database_url, application_name="psql") as connection:
        connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
        yield connection.info.backend_pid


@contextmanager
def waiting_for(archive: Archive, table: str, statement: str) -> Iterator[int]:
    """A session in whose way somebody is; it gives up at the end."""
    with closing(psycopg.connect(archive.database_url)) as connection:
        pid = connection.info.backend_pid
        connection.pgconn.send_query(f"BEGIN; {statement.format(table)}".encode())
        eventually(lambda: archive.value("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", pid))
        try:
            yield pid
        finally:
            archive.value("SELECT pg_terminate_backend(%s)", pid)


def by_check(archive: Archive) -> dict[str, Any]:
    return {finding.about: finding for finding in preflight.check(archive.settings())}


def test_given_a_lock_on_any_table_then_all_who_look_name_it(archive: Archive, tmp_path: Path) -> None:
    archive = with_lake(archive, tmp_path / "lake")
    archive.push(cdr(1))
    archive.load()
    archive.push(*[cdr(n) for n in range(300)])
    tables = [row["name"] for row in archive.rows(OURS)]
    assert {"cdrs", "cdrs_20150219", "alembic_version", "load_batches", "reporting.rolled_up"} <= {*tables}

    for table in tables:
        with locked(archive, table) as pid, status.reader(archive.settings()) as reading:
            found = reading.read()
            checked = by_check(archive)

        [blocker] = found.blocked_by
        assert (blocker.pid, blocker.application, blocker.state) == (pid, "psql", "idle in transaction"), table
        assert table in blocker.tables
        assert blocker.since
        assert blocker.seconds is not None
        assert found.redis, table
        assert gauges.of_redis(found.redis)[BACKLOG][CAMPAIGNS,] == 300
        assert gauges.of_redis(found.redis)[REDIS_UP] == {(): 1.0}
        told = gauges.of_postgres(found.postgres, found.blocked_by)
        assert told[BLOCKED][()] > 0, table
        assert told[POSTGRES_UP] == {(): float(found.postgres_error is None)}
        assert (checked["Postgres locks"].verdict, checked["Postgres"].verdict) == ("wrong", "fine"), table
        assert f"pid {pid} (postgres, psql, idle in transaction) has a lock on " in checked["Postgres locks"].says
        assert f"pg_terminate_backend({pid})" in checked["Postgres locks"].advice
        assert {"Postgres rights", "export target", "Redis"} <= checked.keys(), table


def test_given_what_status_reads_is_locked_then_its_half_says_so(archive: Archive) -> None:
    archive.push(cdr(1))
    archive.load()
    for table in ("load_batches", "cdrs", "exports", "dead_letters", "listener_sessions", "alembic_version"):
        with status.reader(archive.settings()) as reading:
            with locked(archive, table):
                found = reading.read()
            assert found.postgres is None, table
            assert "lock timeout" in str(found.postgres_error), table
            after = reading.read()
            assert (after.is_whole, after.blocked_by) == (True, []), table


def test_given_a_statement_that_takes_long_then_it_is_given_up(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockers, "STATEMENT_TIMEOUT_MS", 50)
    engine = connect_to_look(archive.settings().sqlalchemy_url)
    with pytest.raises(Exception, match=r"ETL-301.*statement timeout"), engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_sleep(60)"))
    engine.dispose()


def look(archive: Archive) -> list[Blocker]:
    engine = connect_to_look(archive.settings().sqlalchemy_url)
    try:
        return Watchman(engine).blockers()
    finally:
        engine.dispose()


def test_given_a_queue_then_its_head_is_named_and_who_waits_is_counted(archive: Archive) -> None:
    assert look(archive) == []
    with (
        locked(archive, "load_batches", "ACCESS SHARE") as head,
        waiting_for(archive, "load_batches", "ALTER TABLE {} ADD COLUMN x int"),
        waiting_for(archive, "load_batches", "SELECT FROM {}"),
    ):
        [blocker] = look(archive)

    assert (blocker.pid, blocker.tables, blocker.held_up) == (head, ["load_batches"], 1)
    assert blocker.told().endswith("; 1 waits for it")


def test_given_locks_on_tables_of_others_then_nobody_is_named(archive: Archive) -> None:
    with psycopg.connect(archive.database_url) as connection:
        connection.execute("CREATE SCHEMA others CREATE TABLE cdrs (id int)")
        connection.commit()
        with locked(archive, "others.cdrs"), waiting_for(archive, "others.cdrs", "SELECT FROM {}"):
            assert look(archive) == []


def test_given_a_lock_for_a_moment_then_nobody_is_named(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(archive.database_url) as connection:
        connection.execute("LOCK TABLE cdrs")
        monkeypatch.setattr(time, "sleep", lambda _: connection.rollback())
        assert look(archive) == []


def test_given_a_role_that_may_not_know_then_it_counts_from_its_first_look(archive: Archive) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(ROLES)
    url = archive.settings().sqlalchemy_url.replace("postgres@", "etl_loader@")
    engine = connect_to_look(url)
    watchman = Watchman(engine)
    with locked(archive, "cdrs") as pid:
        [first], [second] = watchman.blockers(), watchman.blockers()
    engine.dispose()

    assert (first.pid, first.user, first.state) == (pid, "postgres", None)
    assert first.since == second.since
    assert first.seconds == 0
    assert second.seconds
    assert second.seconds > 0


def test_given_a_prepared_transaction_then_it_is_named_as_one(archive: Archive, tmp_path: Path) -> None:
    with PrivatePostgres(tmp_path / "pg", {"max_prepared_transactions": "1"}) as server:
        engine = connect_to_look("postgresql+psycopg" + server.url.removeprefix("postgresql"))
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num text)")
            connection.execute("BEGIN; LOCK TABLE alembic_version; PREPARE TRANSACTION 'left over'")
            [blocker] = Watchman(engine).blockers()
        engine.dispose()

    assert (blocker.pid, blocker.tables) == (0, ["alembic_version"])
    assert blocker.since
    assert blocker.told().startswith("a prepared transaction has a lock on alembic_version since ")
    assert "ROLLBACK PREPARED" in blocker.way_out
