"""Through a real pgbouncer: what ops/postgres/pgbouncer.md says of its modes."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from etl.store import locks
from tests.pgbouncer import pgbouncer
from tests.store import engine
from tests.world import Archive, cdr


@pytest.fixture
def pooled(archive: Archive, session_folder: Path, request: pytest.FixtureRequest) -> Iterator[Archive]:
    """The archive by way of a pgbouncer in the mode that the test asks for."""
    with pgbouncer(session_folder, archive.database_url, pool_mode=request.param) as url:
        through = replace(archive, database_url=url)
        through._connection = archive._connection
        yield through


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
def test_given_session_mode_then_loading_export_and_restore_work(pooled: Archive, tmp_path: Path) -> None:
    for number in range(20):  # the second of each pair takes the merge way, with its temporary table
        pooled.push(cdr(number), cdr(number, call_time=9))

    books = pooled.load(batch_size=10)
    assert (books.inserted, books.updated) == (20, 20)
    pooled.assert_books_balance()
    for command in ("export --force", "restore --prove --day 2015-02-19"):
        done = pooled.run(*command.split(), ETL_EXPORT_URL=str(tmp_path / "lake"))
        assert done.returncode == 0, done.stderr
    assert pooled.rows("SELECT FROM pg_locks WHERE locktype = 'advisory'") == []


@pytest.mark.parametrize(
    ("pooled", "keeps_out"),
    [("session", True), ("transaction", False)],
    indirect=["pooled"],
    ids=["session", "transaction"],
)
def test_only_session_mode_keeps_a_second_host_from_a_job_that_one_is_at(pooled: Archive, keeps_out: bool) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(engine(pooled.database_url)) for _ in range(2))
        with locks.alone(first, "export") as ours, locks.alone(second, "export") as theirs:
            assert ours
            assert theirs is not keeps_out


@pytest.mark.parametrize(("pooled", "setting"), [("session", "on"), ("transaction", "off")], indirect=["pooled"])
def test_only_session_mode_keeps_commits_as_durable_as_asked(archive: Archive, pooled: Archive, setting: str) -> None:
    database = archive.value("SELECT current_database()")
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(f'ALTER DATABASE "{database}" SET synchronous_commit = off')

    with engine(pooled.database_url) as ours, ours.connect() as connection:
        connection.commit()
        with psycopg.connect(pooled.database_url) as another:
            another.execute("SELECT 1")  # where that is possible, on the connection that was ours a moment ago
            assert connection.scalar(sa.text("SHOW synchronous_commit")) == setting
