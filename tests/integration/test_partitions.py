"""Partitions: made when a day's first row appears, by whoever comes first, and in nobody's way."""

import threading
from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from etl.errors import ConfigurationError, Contention
from etl.store import tables
from etl.store.ledger import Books
from etl.store.partitions import ensure
from etl.store.writer import Writer
from tests.store import at_once, batch, engine, write
from tests.world import CAMPAIGNS, CDRS, DIALED_AT, Archive, cdr, eventually

pytestmark = pytest.mark.versions

DAY = 86_400  # seconds
EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'


def days_later(call_ref: object, days: int) -> bytes:
    return cdr(call_ref, dialed_at=DIALED_AT + days * DAY)


def partitions(archive: Archive, table: str = "cdrs") -> list[str]:
    query = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1"
    return [row["name"] for row in archive.rows(query, table)]


def test_given_the_first_rows_of_days_then_each_day_gets_its_partition(archive: Archive, writer: Writer) -> None:
    first, last = "2000-01-01T00:00:00Z", "2024-02-29T23:59:59.999999Z"
    messages = [cdr(1, dialed_at=first), cdr(2), cdr(3, dialed_at=last), EVENT]

    assert write(writer, *messages) == Books(claimed=4, inserted=3, events=1)

    assert partitions(archive) == ["cdrs_20000101", "cdrs_20150219", "cdrs_20240229"]
    assert archive.value("SELECT count(*) FROM ONLY cdrs_20240229") == 1
    captured_on = archive.value("SELECT captured_on FROM audit_events")
    assert partitions(archive, "audit_events") == [f"audit_events_{captured_on:%Y%m%d}"]
    archive.assert_books_balance()


def test_given_a_partition_then_it_has_its_tables_key_and_comments(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(1))

    with psycopg.connect(archive.database_url) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("INSERT INTO cdrs_20150219 SELECT * FROM cdrs")
    comments = """
        SELECT attname, col_description(%s::regclass, attnum) AS comment FROM pg_attribute
        WHERE attrelid = %s::regclass AND attnum > 0
    """
    assert archive.rows(comments, "cdrs_20150219", "cdrs_20150219") == archive.rows(comments, "cdrs", "cdrs")


def test_given_workers_that_want_the_same_days_then_each_is_made_once(archive: Archive, database_url: str) -> None:
    def load(worker: int) -> Books | None:
        with engine(database_url) as connections:
            messages = [days_later(f"{worker}-{day}", day) for day in range(6)]
            return Writer(connections).write(batch(messages if worker % 2 else messages[::-1]))

    assert at_once(*(partial(load, worker) for worker in range(4))) == [Books(claimed=6, inserted=6)] * 4

    assert len(partitions(archive)) == 6
    archive.assert_books_balance()


@pytest.fixture(
    params=["COPY cdrs (dialed_on, source, call_ref, leg, dialed_at, batch_id) FROM STDIN", "SELECT FROM cdrs"]
)
def long_transaction(archive: Archive, writer: Writer, request: pytest.FixtureRequest) -> Iterator[None]:
    """Another session that has read or is writing the table, and takes its time."""
    write(writer, cdr("a day that exists"))
    with psycopg.connect(archive.database_url) as connection, connection.cursor() as cursor:
        if request.param.startswith("SELECT"):
            cursor.execute(request.param)
            yield
        else:
            with cursor.copy(request.param) as copy:
                copy.write_row(("2015-02-19", "dialler", "half-way", 0, "2015-02-19T21:06:00Z", str(0) * 32))
                yield
        connection.rollback()


@pytest.mark.usefixtures("long_transaction")
def test_given_a_long_transaction_then_a_partition_is_made_meanwhile(archive: Archive, writer: Writer) -> None:
    written: list[Books | None] = []
    thread = threading.Thread(target=lambda: written.append(write(writer, days_later("new", 1))), daemon=True)
    thread.start()
    thread.join(20)

    assert written == [Books(claimed=1, inserted=1)], "it waits for the other transaction's end"
    assert partitions(archive) == ["cdrs_20150219", "cdrs_20150220"]


def test_given_a_partition_dropped_behind_our_back_then_it_is_made_anew(archive: Archive, writer: Writer) -> None:
    write(writer, cdr("lost"), days_later("kept", 1), EVENT)
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE cdrs_20150219")
        connection.execute(f"DROP TABLE {partitions(archive, 'audit_events')[0]}")

    assert write(writer, cdr("new"), days_later("kept", 1), EVENT) == Books(
        claimed=3, inserted=1, unchanged=1, events=1
    )

    assert [row["call_ref"] for row in archive.rows("SELECT call_ref FROM cdrs ORDER BY 1")] == ["kept", "new"]
    assert archive.value("SELECT count(*) FROM dead_letters") == 0


@pytest.mark.parametrize("how", ["DETACH PARTITION cdrs_20150219", "DETACH PARTITION cdrs_20150219 CONCURRENTLY"])
def test_given_a_detached_partition_in_the_way_then_the_error_names_it(
    archive: Archive, writer: Writer, how: str
) -> None:
    write(writer, cdr("before"))
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE cdrs {how}")

    with pytest.raises(ConfigurationError, match=r"cdrs_20150219 exists, but it's no partition of cdrs"):
        write(writer, cdr("after"))

    assert archive.value("SELECT count(*) FROM load_batches") == 1, "nothing of the claim took effect"


def test_given_many_days_then_each_partition_has_its_own_transaction(archive: Archive, database_url: str) -> None:
    """Every partition takes several locks until the end of its transaction, and a server has a few thousand."""
    days = [date(2015, 1, 1) + timedelta(days=n) for n in range(8)]

    with engine(database_url) as connections:
        ensure(connections, tables.cdrs, days[:4])
        ensure(connections, tables.cdrs, days)

    assert len(partitions(archive)) == 8
    transactions = (
        "SELECT count(DISTINCT xmin::text) FROM pg_class WHERE starts_with(relname, 'cdrs_2') AND relkind = 'r'"
    )
    assert archive.value(transactions) == 8


# -- locks of others


@pytest.fixture
def analyzed(archive: Archive) -> Iterator["psycopg.Connection[Any]"]:
    """Somebody who has analysed both tables, and hasn't committed: nobody may attach a partition meanwhile."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute("ALTER FUNCTION make_partition(text, date) SET lock_timeout = '200ms'")
    with psycopg.connect(archive.database_url) as other:
        other.execute("ANALYZE cdrs")
        yield other


def test_given_an_open_analyze_then_a_new_day_waits_as_in_an_outage(
    archive: Archive, analyzed: "psycopg.Connection[Any]"
) -> None:
    """Real `etl run --follow`: the list of the new day waits, and says so; the others go on."""
    archive.push(cdr("new day"), key=CAMPAIGNS)
    with archive.process("run", "--follow", "--no-listen", "--no-schedule", ETL_LEASE_SECONDS="10") as process:
        assert process.stderr
        seen = []
        for line in process.stderr:
            seen.append(line)
            if '"outage_began"' in line:
                break
        assert "ETL-303" in "".join(seen[-1:]), seen
        archive.push(EVENT, key=CDRS)
        eventually(lambda: archive.value("SELECT count(*) FROM audit_events") == 1)
        assert archive.value("SELECT count(*) FROM cdrs") == 0
        analyzed.commit()
        eventually(lambda: archive.value("SELECT count(*) FROM cdrs") == 1)
        eventually(lambda: not archive.claims())
    assert archive.value("SELECT count(*) FROM dead_letters") == 0
    archive.assert_books_balance()


@pytest.mark.usefixtures("analyzed")
def test_given_an_open_analyze_then_days_that_are_there_need_no_lock(archive: Archive, database_url: str) -> None:
    with engine(database_url) as connections:
        with pytest.raises(Contention):
            ensure(connections, tables.cdrs, [date(2015, 2, 19)])
        ensure(connections, tables.audit_events, [date(2015, 2, 19)])
        ensure(connections, tables.audit_events, [date(2015, 2, 19)])

    assert (partitions(archive), partitions(archive, "audit_events")) == ([], ["audit_events_20150219"])
