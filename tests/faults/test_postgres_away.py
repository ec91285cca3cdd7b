"""Postgres stops, dies, refuses or fills up: the loader waits, keeps its claim, says so once, and loads everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from etl.jobs.pool import LOADERS
from etl.lab.servers.private import PrivatePostgres
from tests.faults.dialler import Dialler
from tests.faults.sample import SEED, SMALL_CLAIMS, leases
from tests.faults.worker import Worker
from tests.store import ROLES
from tests.world import Archive, cdr, eventually


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_postgres_going_away_under_load_is_waited_for_and_costs_nothing(
    own_archive: Archive, own_postgres: PrivatePostgres, log: Path, ending: str
) -> None:
    archive = own_archive
    archive.more = SMALL_CLAIMS
    archive.sources = archive.sources[:1]  # one list, and a line about an outage for each claim of it that meets it
    dialler = Dialler(archive, SEED)
    with Worker(archive, log) as worker, dialler.speaking():
        worker.wait_for("loaded", times=20)
        getattr(own_postgres, ending)()
        worker.wait_for("outage_began")
        wait_until_the_leases_are_extended(archive, worker)
        own_postgres.start()
        worker.wait_for_more("loaded", 20)
        eventually(lambda: worker.count("outage_ended") == worker.count("outage_began"))  # the other loader's, too
        began, ended = worker.lines("outage_began"), worker.lines("outage_ended")
        assert len({line["batch_id"] for line in began}) == len(began) == len(ended) <= LOADERS
        assert all("Postgres" in line["error"] for line in began)
        assert all(line["seconds"] > 0 for line in ended)
    with replace(archive) as again:  # its connection has gone with the server
        again.load()
        dialler.meet(again)
        dialler.assert_all_took_effect_once()


def wait_until_the_leases_are_extended(archive: Archive, worker: Worker) -> None:
    """Of the claims in hand. Those that met the outage stay this worker's; of each other loader one may have been
    committed before, and be acknowledged meanwhile."""
    before = leases(archive)
    met = {line["batch_id"] for line in worker.lines("outage_began")}
    assert met <= {batch_id(claim) for claim in before}

    def extended() -> bool:
        after = leases(archive)
        gone = before.keys() - after.keys()
        assert not met & {batch_id(claim) for claim in gone}
        assert len(gone) < LOADERS
        return all(after[claim] > before[claim] for claim in before.keys() - gone)

    eventually(extended)


def batch_id(claim: str) -> str:
    return claim.partition("@")[0]


class Refusal:
    """A way in which a Postgres that is there refuses its work, and how that ends."""

    def __init__(self, begin: str, end: str, says: str) -> None:
        self.begin, self.end, self.says = begin, end, says


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON load_batches FOR EACH ROW EXECUTE FUNCTION full_disk()
"""
REFUSALS = {
    "its disk is full": Refusal(FULL, "DROP FUNCTION IF EXISTS full_disk() CASCADE", "No space left"),
    "it has no connection left": Refusal(
        "ALTER ROLE etl_loader CONNECTION LIMIT 0", "ALTER ROLE etl_loader CONNECTION LIMIT -1", "too many connections"
    ),
    "it is a standby now": Refusal(
        "ALTER ROLE etl_loader SET default_transaction_read_only = on",
        "ALTER ROLE etl_loader RESET default_transaction_read_only",
        "read-only transaction",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_postgres_refusing_all_work_is_waited_for_and_costs_nothing(
    own_archive: Archive, own_postgres: PrivatePostgres, log: Path, refusal: Refusal
) -> None:
    with as_plain_user(own_archive) as archive, administrator(own_archive) as admin:
        with Worker(archive, log) as worker, ended(admin, refusal):
            archive.push(cdr(1))
            worker.wait_for("loaded")  # so the clocks were compared: from now on it claims without asking Postgres
            admin.execute(refusal.begin)
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'etl_loader'")
            archive.push(cdr(2), cdr(3), b"broken")
            worker.wait_for("outage_began")
            eventually(lambda: refusal.says in own_postgres.log.read_text())
            eventually(lambda: len(archive.claims()) == 1)
            assert own_archive.value("SELECT count(*) FROM load_batches") == 1
            admin.execute(refusal.end)
            worker.wait_for("loaded", times=2)
        assert own_archive.value("SELECT count(*) FROM cdrs") == 3
        own_archive.assert_books_balance()


@contextmanager
def ended(admin: "psycopg.Connection[tuple[object, ...]]", refusal: Refusal) -> Iterator[None]:
    """Roles belong to the whole server: a test that failed leaves none that is refused."""
    try:
        yield
    finally:
        admin.execute(refusal.end)


@contextmanager
def administrator(archive: Archive) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        yield connection


@contextmanager
def as_plain_user(archive: Archive) -> Iterator[Archive]:
    """The same database, loaded by an account that no limit spares, as in production."""
    with administrator(archive) as admin:
        admin.execute(ROLES)
    yield replace(archive, database_url=archive.database_url.replace("//postgres@", "//etl_loader@"))
