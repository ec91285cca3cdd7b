"""Postgres comes near the wraparound of its transaction ids, and takes no more writes: SQLSTATE 54000, which a row that
is too large for an index has too. The loader waits, and refuses no row."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from etl.lab.servers.private import PrivatePostgres
from tests.faults.worker import Worker
from tests.machine import user_command
from tests.world import Archive, cdr, eventually, migrate

FIRST = 3  # the oldest transaction id there can be
# Postgres stops 3,000,000 short of half of all ids.
STOP = FIRST + (2**31 - 1) - 3_000_000
LEFT = 400
PER_STATUS_FILE = 2**20  # transactions
HELD = "CREATE TABLE held AS SELECT 1"
# All that autovacuum can free it has freed: no id comes back later, in the middle of the test.
IS_FROZEN = """SELECT bool_and(age(datfrozenxid) <= (SELECT age(relfrozenxid) FROM pg_class WHERE relname = 'held'))
FROM pg_database"""
PAGE = 8_192  # bytes


@pytest.fixture
def nearly_exhausted(session_folder: Path) -> Iterator[PrivatePostgres]:
    """A server with so few transaction ids left. A table that can't be read keeps autovacuum from freeing any."""
    settings = {"fsync": "off", "autovacuum_naptime": "1s"}
    server = PrivatePostgres(session_folder / "wraparound", settings)
    try:
        server.start()
        migrate(server.url)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(HELD)
            (path,) = connection.execute("SELECT pg_relation_filepath('held')").fetchone() or ("",)
        server.stop()
        (server.data / path).write_bytes(b"\xff" * PAGE)
        status = server.data / "pg_xact" / f"{STOP // PER_STATUS_FILE:04X}"
        status.write_bytes(bytes(PER_STATUS_FILE // 4))
        status.chmod(0o666)
        reset = [server.bin / "pg_resetwal", "-f", "-x", str(STOP - LEFT), "-u", str(FIRST), "-D", server.data]
        subprocess.run([*user_command(), *map(str, reset)], check=True, capture_output=True)
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            eventually(lambda: connection.execute(IS_FROZEN).fetchone() == (True,), seconds=200)
        yield server
    finally:
        server.remove()


@pytest.mark.timeout(600)  # initdb, two starts and a worker
def test_given_no_transaction_id_left_then_it_is_waited_for_none_refused(
    nearly_exhausted: PrivatePostgres, own_archive: Archive, log: Path
) -> None:
    with replace(own_archive, database_url=nearly_exhausted.url) as archive:
        archive.push(cdr("first"))
        with Worker(archive, log, "--no-schedule") as worker:
            worker.wait_for("loaded")
            use_up(archive)
            archive.push(*(cdr(n) for n in range(600)))
            worker.wait_for("outage_began")
            (began,) = worker.lines("outage_began")
            assert "54000" in began["error"]
            assert worker.process.poll() is None
            assert archive.value("SELECT count(*) FROM cdrs") == 1
            archive._connection.execute("SET zero_damaged_pages = on")
            archive._connection.execute("VACUUM (FREEZE)")
            worker.wait_for("outage_ended")
            eventually(lambda: archive.value("SELECT count(*) FROM cdrs") == 601)
            assert worker.stop() == 0
        assert archive.value("SELECT count(*) FROM dead_letters") == 0
        archive.assert_books_balance()


def use_up(archive: Archive) -> None:
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):  # noqa: PT012
        for _ in range(20 * LEFT):  # the oldest id that is really there is some hundred later than the first
            archive._connection.execute("SELECT pg_current_xact_id()")
