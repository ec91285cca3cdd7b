"""Whoever may log in can take any advisory lock, and queue for it: what etl does goes on all the same."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from zlib import crc32

import psycopg
import pytest
import sqlalchemy as sa
import structlog

import etl
from etl.app.database import rollup
from etl.app.replay import replay_dead_letters
from etl.errors import Contention
from etl.ids import new_id
from etl.jobs.schedule import _TIMES
from etl.store import history, locks, receipts, schema, unite
from etl.store.dead_letters import Wanted
from etl.store.ledger import Books
from etl.store.writer import Writer
from tests.integration.test_attacks import guarded
from tests.integration.test_midnight import a, b
from tests.lake import CALLS, DAY, assert_agrees, export, export_and_prune, lake, load, restore, told
from tests.person import KEY, PERSON, forget
from tests.store import at_once, batch, engine
from tests.world import CAMPAIGNS, Archive, cdr, eventually

__all__ = ["guarded"]  # a fixture

REGISTER = range(0x65746C_00, 0x65746C_40)
DAYS = [(DAY - DAY.replace(2000, 1, 1)).days + n for n in range(-2, 4)]
JOBS = [crc32(job.encode()) >> 1 for job in _TIMES]
HOW = ("pg_advisory_lock", "pg_advisory_lock_shared", "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared")


def keys(*more: int) -> Iterator[str]:
    """Every number that the code takes, and those beside: alone, and with whatever goes with it."""
    for kind in REGISTER:
        yield str(kind)
        yield from (f"{kind}, {number}" for number in (0, 1, *DAYS, *JOBS, *more))


def stranger_of(archive: Archive) -> str:
    return re.sub("//[^@]*@", "//etl_reporting@", archive.database_url)


@contextmanager
def held(archive: Archive, how: str, *more: int) -> Iterator[None]:
    """All of them, by a login that may ask the views and no more."""
    with psycopg.connect(stranger_of(archive)) as stranger:
        for key in keys(*more):
            stranger.execute(f"SELECT {how}({key})".encode())
        yield


def as_owner(archive: Archive) -> Archive:
    more = {**archive.more, "forget_key": KEY}
    owner = replace(archive, database_url=archive.database_url.replace("etl_loader@", "etl_owner@"), more=more)
    owner._connection = archive._connection
    return owner


def all_that_takes_a_lock(archive: Archive) -> None:
    """Loading, near midnight and not, and every command and job that may be only one at a time."""
    load(archive, cdr(1, **PERSON), cdr(2), a(88, -1), b"junk")
    load(archive, b(88, 0))
    assert archive.value("SELECT count(*) FROM cdrs") == 3
    assert replay_dead_letters(archive.settings(), Wanted(), told).still_dead == 1
    assert DAY in rollup(archive.settings(), False, print)
    with engine(archive.database_url) as loader:
        for job in _TIMES:
            with locks.alone(loader, job) as ours:
                assert ours
        now = datetime.now(UTC)
        lost = history.SetBack(CAMPAIGNS, "redis", now, now, 0, 0, 1, 1, now, now)
        assert [history.note(loader, lost, 1), history.note(loader, lost, 1)] == [True, False]
        assert unite.unite(loader, DAY, "test").united == 0
        with loader.begin() as connection:
            connection.execute(sa.text("SELECT FROM ledger_entries()"))
    assert archive.value("SELECT count(*) FROM counted_days") > 0  # by whoever is alone
    export_and_prune(archive)
    assert restore(archive).rows == 3
    with lake(archive) as opened:
        assert opened.prove(CALLS, DAY, told).what == "proved"
    found = forget(as_owner(archive))
    assert (found.failed, found.searched and found.searched.is_proof) == ([], True)
    assert_agrees(archive)
    with engine(as_owner(archive).database_url) as owner:
        assert schema.upgrade(owner) == (schema.needed(), schema.needed())


@pytest.mark.parametrize("how", HOW)
def test_given_strangers_with_every_lock_then_all_goes_on(guarded: Archive, how: str) -> None:
    with structlog.testing.capture_logs() as logged, held(guarded, how):
        all_that_takes_a_lock(guarded)
    said = {line["role"] for line in logged if line["event"] == "stranger_holds_lock"}
    assert said == {"etl_reporting"}
    guarded.assert_books_balance()


def test_given_nobody_else_then_all_goes_on_and_nothing_is_said(guarded: Archive) -> None:
    with structlog.testing.capture_logs() as logged:
        all_that_takes_a_lock(guarded)
    assert "stranger_holds_lock" not in {line["event"] for line in logged}


def test_given_a_stranger_in_the_queue_then_new_sessions_get_in(guarded: Archive) -> None:
    """Behind who waits for an exclusive lock, those for a shared one wait, too."""
    with engine(guarded.database_url) as loader, loader.connect(), psycopg.connect(stranger_of(guarded)) as stranger:

        def queue() -> None:
            with suppress(psycopg.errors.QueryCanceled):
                stranger.execute(f"SELECT pg_advisory_lock({0x65746C_08}, 0)")

        queueing = threading.Thread(target=queue, daemon=True)
        queueing.start()
        eventually(lambda: guarded.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        with engine(guarded.database_url) as another, another.connect() as connection:
            marks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
            assert connection.scalar(sa.text(f"{marks} AND classid::bigint = {0x65746C_08}")) == 1
        stranger.cancel()
        queueing.join()


@pytest.mark.parametrize("how", HOW)
def test_given_a_stranger_with_a_claims_turn_then_it_is_loaded(
    guarded: Archive, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He has seen its number while it was tried before. Two who hold it load it once."""
    monkeypatch.setattr("etl.store.merge.WAIT_MS", 1_000)
    own = int.from_bytes((batch_id := new_id()).bytes[-4:], signed=True)
    with held(guarded, how, own), engine(guarded.database_url) as one, engine(guarded.database_url) as other:
        books = at_once(*(partial(Writer(each).write, batch([cdr(1), cdr(2)], batch_id)) for each in (one, other)))
        receipts.wait_for_claims(one)
    assert sorted(books, key=str) == [Books(2, 2), None]
    guarded.assert_books_balance()


def test_given_a_claim_under_way_beside_a_stranger_then_it_is_waited_for(
    guarded: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(guarded, HOW[0], 7), engine(guarded.database_url) as loader, loader.connect() as claim:
        with claim.begin():
            key = locks.beside_strangers(claim, locks.Key(locks.TURN, 7))
            assert key.kind != locks.TURN
            claim.execute(sa.text("SELECT pg_advisory_xact_lock(:kind, :number)"), key._asdict())
            monkeypatch.setattr(receipts, "_WAIT_SECONDS", 0.0)
            with pytest.raises(Contention, match=r"ETL-960: .*still being written, by pid \d+ \(etl_loader\)"):
                receipts.wait_for_claims(loader)
        receipts.wait_for_claims(loader)


@pytest.mark.parametrize("how", HOW[:2])
def test_given_many_of_us_beside_a_stranger_then_one_at_a_time(guarded: Archive, how: str) -> None:
    """Also while the stranger comes and goes."""
    inside, most, had = 0, 0, 0
    counting = threading.Lock()

    def work(connections: sa.Engine) -> None:
        nonlocal inside, most, had
        for _ in range(15):
            with locks.locked(connections, locks.DAY_LOCKS["cdrs"], DAYS[2]) as connection:
                if connection is None:
                    continue
                with counting:
                    inside, had = inside + 1, had + 1
                    most = max(most, inside)
                connection.execute(sa.text("SELECT 1"))
                connection.rollback()
                with counting:
                    inside -= 1

    def come_and_go() -> None:
        key = f"{locks.DAY_LOCKS['cdrs']}, {DAYS[2]}"
        with psycopg.connect(stranger_of(guarded), autocommit=True) as stranger:
            for _ in range(40):
                stranger.execute(f"SELECT {how.replace('pg_', 'pg_try_')}({key})".encode())
                stranger.execute("SELECT pg_advisory_unlock_all()")

    jobs: list[Callable[[], None]] = [come_and_go]
    with engine(guarded.database_url) as one, engine(guarded.database_url) as two:
        at_once(*jobs, *(partial(work, each) for each in (one, two, one)))
    assert most == 1
    assert had > 0


def test_given_another_of_us_then_there_is_no_way_beside_it(guarded: Archive) -> None:
    """As a 0.1 has it, by the plain number; or by one aside."""
    day = (locks.DAY_LOCKS["cdrs"], DAYS[2])
    aside = (day[0] + locks.ASIDE, day[1] << 15 | 7)
    for key in (day, aside):
        with psycopg.connect(guarded.database_url) as other, engine(guarded.database_url) as ours:
            other.execute("SELECT pg_advisory_lock(%s, %s)", key)
            with locks.locked(ours, *day) as connection:
                assert connection is None
            assert export(load_one(guarded)).what == "busy"


def load_one(archive: Archive) -> Archive:
    load(archive, cdr(1))
    return archive


def test_given_all_of_the_code_then_a_claims_turn_alone_is_waited_for(guarded: Archive) -> None:
    """Whoever asks for an advisory lock asks for it if it's free; and who waits for a turn does so once."""
    waiting = re.compile(r"pg_advisory_(xact_)?lock")
    sources = Path(etl.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if waiting.search(path.read_text())] == ["writer.py"]
    functions = guarded.rows(
        "SELECT prosrc FROM pg_proc WHERE pronamespace IN ('public'::regnamespace, 'reporting'::regnamespace)"
    )
    assert [each["prosrc"] for each in functions if "advisory_xact_lock" in each["prosrc"]] == []


@pytest.mark.parametrize("table", ["campaign_figures", "status_changes", "agent_state_figures"])
def test_given_a_rollup_of_0_1_then_figures_are_made_one_by_one(guarded: Archive, table: str) -> None:
    """It takes another lock, and begins each transaction by deleting from one of these."""
    load(guarded, cdr(1))
    with psycopg.connect(guarded.database_url) as old:
        old.execute(f"DELETE FROM reporting.{table}".encode())
        found: list[object] = []
        rolling = threading.Thread(target=lambda: found.append(rollup(guarded.settings(), True, print)), daemon=True)
        rolling.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'"
        eventually(lambda: guarded.value(waits) == 1)
        assert not found
        old.commit()
        rolling.join(60)
        assert len(found) == 1


def test_given_who_waits_for_the_schema_then_it_is_its_turn_at_last(guarded: Archive) -> None:
    owner = as_owner(guarded)
    with psycopg.connect(owner.database_url) as other, engine(owner.database_url) as connections:
        other.execute(f"SELECT pg_advisory_xact_lock({locks.SCHEMA})".encode())
        upgrading = threading.Thread(target=schema.upgrade, args=[connections], daemon=True)
        upgrading.start()
        asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
        eventually(lambda: guarded.value(asked, "%pg_locks l LEFT JOIN%"))
        assert upgrading.is_alive()
        other.commit()
        upgrading.join(60)
        assert not upgrading.is_alive()
