"""Who can keep a new day from being made, and what comes of two who make days at once."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, LockNotAvailable

from tests.integration.test_least_privilege import as_role
from tests.store import ROLES, at_once
from tests.world import Archive, eventually

MODES = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
DAYS = [date(2015, 2, n) for n in (19, 20)]


@pytest.fixture
def guarded(archive: Archive) -> Archive:
    """With a day of each table, the roles, and a function that says soon that a lock isn't to be had."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        administrator.execute("ALTER FUNCTION make_partition(text, date) SET lock_timeout = '500ms'")
        for dataset in ("cdrs", "audit_events"):
            administrator.execute("SELECT make_partition(%s, %s)", [dataset, DAYS[0]])
    return archive


def make(archive: Archive, dataset: str, *days: date) -> None:
    """As the loader, each day in a transaction of its own."""
    with psycopg.connect(as_role(archive.database_url, "etl_loader"), autocommit=True) as loader:
        for day in days:
            loader.execute("SELECT make_partition(%s, %s)", [dataset, day])


def partitions(archive: Archive, dataset: str = "cdrs") -> int:
    return int(archive.value("SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", dataset))


def advisory_locks() -> Iterator[str]:
    """Those of etl's register, and of any number beside, in both of Postgres' forms."""
    for number in range(0x65746C_00, 0x65746C_10):
        yield f"SELECT pg_advisory_xact_lock({number})"
        yield from (f"SELECT pg_advisory_xact_lock({number}, {second})" for second in range(3))


def table_locks() -> Iterator[str]:
    for table in ("cdrs", "audit_events", "cdrs_20150219", "audit_events_20150219"):
        yield from (f"LOCK TABLE {only}{table} IN {mode} MODE" for mode in MODES for only in ("", "ONLY "))
        yield from (f"ANALYZE {table}", f"SELECT FROM {table} FOR UPDATE", f"COMMENT ON TABLE {table} IS 'mine'")
        yield f"CREATE STATISTICS mine ON batch_id, source FROM {table}"


def hold_all(stack: ExitStack, url: str) -> int:
    """Every lock that this login gets, each in an open transaction of its own; how many those are."""
    held = 0
    for statement in (*advisory_locks(), *table_locks(), "SELECT FROM reporting.calls", "SELECT FROM reporting.events"):
        connection = stack.enter_context(psycopg.connect(url))
        connection.execute("SET TRANSACTION READ WRITE")
        try:
            connection.execute(statement.encode())
        except InsufficientPrivilege:
            connection.close()
        else:
            held += 1
    return held


def test_given_all_locks_that_reporting_gets_then_a_new_day_is_made(guarded: Archive) -> None:
    with ExitStack() as stack:
        held = hold_all(stack, as_role(guarded.database_url, "etl_reporting"))
        assert held >= len([*advisory_locks()]) + 2
        for dataset in ("cdrs", "audit_events"):
            make(guarded, dataset, DAYS[1])
            assert partitions(guarded, dataset) == 2


@pytest.mark.parametrize("dataset", ["cdrs", "audit_events"])
def test_given_a_maker_amid_its_transaction_then_the_next_waits(guarded: Archive, dataset: str) -> None:
    """For the same day or another; and then the day is there. The other table's makers wait for nobody."""
    other = {"cdrs": "audit_events", "audit_events": "cdrs"}[dataset]
    for day in (DAYS[1], date(2015, 3, 1)):
        with psycopg.connect(as_role(guarded.database_url, "etl_loader")) as first:
            first.execute("SELECT make_partition(%s, %s)", [dataset, DAYS[1]])
            if day == DAYS[1]:
                with pytest.raises(LockNotAvailable):
                    make(guarded, dataset, day)
                make(guarded, other, day)
            first.rollback()
            first.execute("SELECT make_partition(%s, %s)", [dataset, DAYS[1]])
            first.commit()
        make(guarded, dataset, day)
    assert partitions(guarded, dataset) == 3


def test_given_a_maker_that_waited_then_it_finds_the_others_day(guarded: Archive) -> None:
    """It had looked before, and must not believe what it remembers."""
    with psycopg.connect(guarded.database_url, autocommit=True) as administrator:
        administrator.execute("ALTER FUNCTION make_partition(text, date) SET lock_timeout = '60s'")
    first: psycopg.Connection[Any]
    with psycopg.connect(as_role(guarded.database_url, "etl_loader")) as first:
        first.execute("SELECT make_partition('cdrs', %s)", [DAYS[1]])

        def commit() -> None:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cdrs'::regclass"
            eventually(lambda: guarded.value(waiting) == 2)
            first.commit()

        at_once(*[partial(make, guarded, "cdrs", DAYS[1])] * 2, commit)
    assert partitions(guarded) == 2


def test_given_makers_of_many_days_in_any_order_then_each_is_there_once(guarded: Archive) -> None:
    with psycopg.connect(guarded.database_url, autocommit=True) as administrator:
        administrator.execute("ALTER FUNCTION make_partition(text, date) SET lock_timeout = '60s'")
    days = [date(2015, 3, n) for n in range(1, 9)]
    at_once(*(partial(make, guarded, "cdrs", *order) for order in (days, days[::-1], days[::2], days[4:] + days[:4])))

    assert partitions(guarded) == 1 + len(days)
