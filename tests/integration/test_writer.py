"""One claim, one transaction: what takes effect, how often, and what the books say of it; several workers at once, and
rows that only Postgres refuses. How one CDR is merged into another is in test_merge."""

import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from etl.errors import Outage
from etl.ids import new_id
from etl.store import frozen as frozen_ones
from etl.store import ledger, merge
from etl.store import rows as loading
from etl.store.copy import copy_rows
from etl.store.ledger import Books
from etl.store.merge import Merged
from etl.store.writer import Writer
from tests.store import Hooked, at_once, batch, engine, write
from tests.world import DIALED_AT, Archive, api_cdr, cdr, eventually

pytestmark = pytest.mark.versions

DAY = 86_400  # seconds
DIALED_ON = date(2015, 2, 19)
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'etl'"

EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'


# JSON has numbers without end; those of jsonb end at 131,072 digits before the point.
TOO_LARGE = b"9" * 131_073
TOO_LARGE_A_NUMBER = cdr("large", score=0).replace(b'"score": 0', b'"score": %b' % TOO_LARGE)
REFUSED_EVENT = b'{"type": "stats", "payload": {"ref": "2040", "gauges": {"callees_queued": %b}}}' % TOO_LARGE
REFUSED = [TOO_LARGE_A_NUMBER.replace(b'"large"', name) for name in (b'"first"', b'"large"', b'"last"')]


@pytest.fixture
def other(database_url: str) -> Iterator[Writer]:
    """A second worker."""
    with engine(database_url) as connections:
        yield Writer(connections)


def took_the_merge_way(writer: Writer, database_url: str) -> bool:
    """The merge way leaves an empty temporary table in its session."""
    with psycopg.connect(database_url) as connection:
        query = "SELECT count(*) FROM pg_class WHERE relname LIKE 'incoming%' AND relpersistence = 't'"
        return connection.execute(query).fetchone() != (0,)


# -- once


@pytest.mark.parametrize("times", [2, 5])
def test_given_a_message_repeated_in_one_claim_then_it_takes_effect_once(
    archive: Archive, writer: Writer, times: int
) -> None:
    assert write(writer, *[cdr(88)] * times) == Books(claimed=times, inserted=1, unchanged=times - 1)

    assert archive.value("SELECT count(*) FROM cdrs") == 1
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    archive.assert_books_balance()


@pytest.mark.parametrize("times", [2, 5])
def test_given_a_message_in_several_claims_then_it_takes_effect_once(
    archive: Archive, writer: Writer, times: int
) -> None:
    assert write(writer, cdr(88)) == Books(claimed=1, inserted=1)
    row = archive.cdr(88)
    for _ in range(times - 1):
        assert write(writer, cdr(88)) == Books(claimed=1, unchanged=1)

    assert archive.cdr(88) == row, "a repetition wrote something"
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    archive.assert_books_balance()


def test_given_a_claim_that_the_ledger_has_then_nothing_happens_again(archive: Archive, writer: Writer) -> None:
    batch_id = new_id()
    messages = [cdr(1), EVENT, b"junk"]
    assert write(writer, *messages, batch_id=batch_id) == Books(claimed=3, inserted=1, events=1, dead=1)
    with psycopg.connect(archive.database_url) as connection:
        connection.execute("DELETE FROM cdrs")  # so that one would see it, if it were loaded again

    assert write(writer, *messages, batch_id=batch_id) is None

    assert archive.value("SELECT count(*) FROM cdrs") == 0
    assert archive.value("SELECT count(*) FROM audit_events") == 1
    assert archive.value("SELECT count(*) FROM dead_letters") == 1
    assert archive.value("SELECT count(*) FROM load_batches") == 1


def test_given_a_claim_that_is_entered_then_it_is_not_entered_again(archive: Archive) -> None:
    """Also where nobody takes turns: the ledger's key alone would do."""
    claim = {"batch_id": new_id(), "worker": "w", "source_key": "k", "claimed_at": datetime.now(UTC), "server": "s"}
    first, second = {DIALED_ON: 1, DIALED_ON + timedelta(days=1): 2}, {DIALED_ON + timedelta(days=2): 3}
    with engine(archive.database_url) as connections:
        entered = []
        for inserted in (first, second):
            with connections.begin() as connection:
                of_days = {"cdrs": Merged(Counter(inserted), Counter({DIALED_ON: 7})), "audit_events": Merged()}
                entered.append(ledger.enter(connection, claim, Books(claimed=3, inserted=3), of_days))

    assert entered == [True, False]
    days = archive.rows("SELECT dataset, day, inserted, updated FROM load_batch_days ORDER BY day")
    assert [tuple(each.values()) for each in days] == [
        ("cdrs", day, n, 7 if day == DIALED_ON else 0) for day, n in first.items()
    ]


def test_given_a_claim_of_new_calls_then_few_statements_are_sent(archive: Archive) -> None:
    """Each is a round trip. Beside these: BEGIN, the savepoint, COPY, its release, COMMIT."""
    with engine(archive.database_url) as connections:
        write(writer := Writer(connections), cdr(1))  # makes the partition
        sent: list[str] = []
        sa.event.listen(connections, "before_cursor_execute", lambda *about: sent.append(about[2]))
        write(writer, *(cdr(n) for n in range(2, 50)))

    (turn, look, entry) = [statement for statement in sent if "SAVEPOINT" not in statement]
    assert "pg_advisory_xact_lock" in turn
    assert "forgotten" in look
    assert "load_batches" in entry
    assert "load_batch_days" in entry


@pytest.mark.parametrize("attempt", range(5))
def test_given_workers_that_hold_the_same_claim_then_one_takes_effect(
    archive: Archive, writer: Writer, other: Writer, attempt: int
) -> None:
    batch_id = new_id()
    messages = [*(cdr(n) for n in range(200)), *[EVENT] * 50, *[b"junk"] * 50, *(api_cdr(n) for n in range(100))]
    random.Random(attempt).shuffle(messages)

    results = at_once(*(partial(one.write, batch(messages, batch_id)) for one in (writer, other, writer, other)))

    (books,) = [result for result in results if result]
    assert books == Books(claimed=400, inserted=200, updated=100, events=50, dead=50)
    assert archive.value("SELECT count(*) FROM load_batches") == 1
    archive.assert_books_balance()


@pytest.mark.parametrize("same_claim", [True, False], ids=["the same claim", "another claim with the same calls"])
def test_given_a_worker_frozen_in_its_transaction_then_others_get_past_it(
    archive: Archive, writer: Writer, other: Writer, monkeypatch: pytest.MonkeyPatch, same_claim: bool
) -> None:
    batch_id = new_id()
    messages = [cdr(n) for n in range(3_000)]
    write(writer, cdr("the day's partition"))
    frozen, thawed = threading.Event(), threading.Event()
    monkeypatch.setattr(merge, "WAIT_MS", 300)
    monkeypatch.setattr(frozen_ones, "SECONDS", 0.2)

    def freeze() -> None:
        frozen.set()
        assert thawed.wait(30)

    def freezing() -> Any:
        try:
            return writer.write(batch(Hooked(messages, 2_000, freeze), batch_id))
        except Outage as outage:
            return outage

    def going_on() -> Any:
        assert frozen.wait(30)
        try:
            return other.write(batch(messages, batch_id if same_claim else None))
        finally:
            thawed.set()

    first, second = at_once(freezing, going_on)

    assert isinstance(first, Outage), "the frozen worker is told that its transaction is gone"
    assert second == Books(claimed=3_000, inserted=3_000)
    again = write(writer, *messages, batch_id=batch_id)
    assert again == (None if same_claim else Books(claimed=3_000, unchanged=3_000)), "and the ledger tells it the rest"
    archive.assert_books_balance()


# -- the books


def test_given_one_of_each_then_the_books_say_what_became_of_them(archive: Archive, writer: Writer) -> None:
    write(writer, cdr("stored"), cdr("shorter", hold_time=None), cdr("contradicted", call_time=1))
    batch_id = new_id()

    books = write(
        writer,
        cdr("new"),
        cdr("new"),
        api_cdr("new"),
        cdr("stored"),
        cdr("shorter", hold_time=7),
        cdr("contradicted", call_time=2),
        EVENT,
        b"junk",
        TOO_LARGE_A_NUMBER,
        batch_id=batch_id,
    )

    assert books == Books(claimed=9, inserted=1, updated=3, unchanged=2, events=1, dead=2)
    (entry,) = archive.rows("SELECT * FROM load_batches WHERE batch_id = %s", batch_id)
    assert entry | vars_of(books) == entry
    archive.assert_books_balance()


def vars_of(books: Books) -> dict[str, int]:
    return {name: getattr(books, name) for name in ("claimed", "inserted", "updated", "unchanged", "events", "dead")}


def test_given_calls_of_several_days_then_each_day_has_its_own_books(archive: Archive, writer: Writer) -> None:
    write(writer, cdr("a"), cdr("b", dialed_at=DIALED_AT + DAY), cdr("c", dialed_at=DIALED_AT + DAY))
    batch_id = new_id()

    write(
        writer,
        cdr("a", call_time=1),
        cdr("b", dialed_at=DIALED_AT + DAY),
        cdr("c", dialed_at=DIALED_AT + DAY, hold_time=3),
        cdr("d", dialed_at=DIALED_AT + DAY),
        cdr("e", dialed_at=DIALED_AT + 2 * DAY),
        EVENT,
        batch_id=batch_id,
    )

    query = (
        "SELECT dataset, day::text, inserted, updated FROM load_batch_days WHERE batch_id = %s ORDER BY dataset, day"
    )
    event, *calls = [tuple(row.values()) for row in archive.rows(query, batch_id)]
    assert calls == [("cdrs", "2015-02-19", 0, 1), ("cdrs", "2015-02-20", 1, 1), ("cdrs", "2015-02-21", 1, 0)]
    captured_on = archive.value("SELECT captured_on::text FROM audit_events")
    assert event == ("audit_events", captured_on, 1, 0)
    archive.assert_books_balance()


@pytest.mark.parametrize("figure", ["claimed", "inserted", "updated", "unchanged", "events", "dead"])
def test_given_books_that_do_not_balance_then_postgres_refuses_them(
    archive: Archive, writer: Writer, figure: str
) -> None:
    write(writer, cdr(1), EVENT, b"junk")

    with psycopg.connect(archive.database_url) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE load_batches SET {figure} = {figure} + 1")


def test_given_only_events_or_junk_or_nothing_then_the_claim_is_booked(archive: Archive, writer: Writer) -> None:
    assert write(writer, EVENT, EVENT) == Books(claimed=2, events=2)
    assert write(writer, b"junk") == Books(claimed=1, dead=1)
    assert write(writer) == Books()

    assert archive.value("SELECT count(*) FROM load_batches") == 3
    archive.assert_books_balance()


def test_given_only_new_calls_then_they_take_the_fast_way(archive: Archive, writer: Writer) -> None:
    messages = [*(cdr(n) for n in range(100)), EVENT, b"junk"]
    write(writer, *messages)
    assert not took_the_merge_way(writer, archive.database_url)

    write(writer, *messages)
    assert took_the_merge_way(writer, archive.database_url)


# -- several workers


def test_given_a_list_that_repeats_itself_then_the_fast_way_waits_for_news(
    archive: Archive, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def copy(connection: sa.Connection, table: sa.Table, *more: Any) -> None:
        tried.append(table.name == "cdrs")
        copy_rows(connection, table, *more)

    monkeypatch.setattr(loading, "copy_rows", copy)

    def write_and_tell(*messages: bytes) -> tuple[Books | None, bool]:
        tried.clear()
        return write(writer, *messages), any(tried)

    assert write_and_tell(cdr(1), cdr(2)) == (Books(claimed=2, inserted=2), True)
    assert write_and_tell(cdr(1), cdr(3), cdr(4)) == (Books(claimed=3, inserted=2, unchanged=1), True)
    assert write_and_tell(cdr(1), cdr(2, call_time=9)) == (Books(claimed=2, updated=1, unchanged=1), True)
    assert write_and_tell(cdr(5), cdr(6)) == (Books(claimed=2, inserted=2), False)
    assert write_and_tell(cdr(7)) == (Books(claimed=1, inserted=1), True)
    archive.assert_books_balance()


def test_given_workers_with_calls_in_opposite_orders_then_none_gives_way(archive: Archive, database_url: str) -> None:
    calls = range(2_000)
    with engine(database_url) as connections, engine(database_url) as other_connections:
        writer, other = Writer(connections), Writer(other_connections)
        write(writer, cdr("the day's partition"))
        for time in ("first", "second"):  # new calls, the fast way; then stored ones, the merge way
            forth = [cdr(n, **{f"{time} forth": 1}) for n in calls]
            back = [api_cdr(n, **{f"{time} back": 1}) for n in reversed(calls)]
            at_once(partial(writer.write, batch(forth)), partial(other.write, batch(back)))
    eventually(lambda: archive.value(SESSIONS) == 0)  # when a session ends, its statistics are told

    assert archive.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    assert archive.value("SELECT count(*) FROM cdrs WHERE (SELECT count(*) FROM jsonb_object_keys(extra)) = 4") == 2_000
    archive.assert_books_balance()


def test_given_a_row_that_another_is_writing_then_the_merge_waits_for_it(archive: Archive, writer: Writer) -> None:
    write(writer, cdr("the day's partition"))
    merging = f"{SESSIONS} AND wait_event_type = 'Lock' AND query LIKE '%%INSERT INTO cdrs %%'"

    with psycopg.connect(archive.database_url) as other:
        row = "'2015-02-19', 'dialler', '88', 0, '2015-02-19T21:06:00Z', gen_random_uuid()"
        other.execute(f"INSERT INTO cdrs (dialed_on, source, call_ref, leg, dialed_at, batch_id) VALUES ({row})")

        def commit_when_it_waits() -> None:
            eventually(lambda: archive.value(merging) == 1)
            other.commit()

        books, _ = at_once(partial(write, writer, *(cdr(n) for n in range(100))), commit_when_it_waits)

    assert books == Books(claimed=100, inserted=99, updated=1)


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_given_workers_in_contradiction_then_the_order_of_claims_decides(
    archive: Archive, database_url: str, isolation: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE \"{connection.info.dbname}\" SET default_transaction_isolation = '{isolation}'"
        )
    calls, claims = 30, 12
    dice = random.Random(1)

    def versions(claim: int) -> list[bytes]:
        # Two versions of every call, from other claims' and from each other different, in any order.
        messages = [cdr(n, call_time=2 * claim + version) for n in range(calls) for version in (0, 1)]
        return dice.sample(messages, len(messages))

    def load(worker: int) -> Books:
        with engine(database_url) as connections:
            one = Writer(connections)
            results = [one.write(each) for each in work[worker]]
        return sum(filter(None, results), Books())

    work = [[batch(versions(claim)) for claim in range(worker, claims, 4)] for worker in range(4)]
    books = sum(at_once(*(partial(load, worker) for worker in range(4))), Books())

    assert (books.claimed, books.inserted) == (2 * calls * claims, calls)
    kept = "SELECT call_ref, call_time FROM cdrs UNION ALL SELECT call_ref, call_time FROM cdr_revisions"
    versions_kept = sorted((int(row["call_ref"]), row["call_time"]) for row in archive.rows(kept))
    assert versions_kept == [(call, version) for call in range(calls) for version in range(2 * claims)]
    # Whoever committed last: the last version of the last claim.
    last = max((each for of_one in work for each in of_one), key=attrgetter("batch_id"))
    [records] = last.records.pieces()
    in_the_end = {cdr.call_ref: cdr.call_time for cdr in records.finish().cdrs}
    assert {row["call_ref"]: row["call_time"] for row in archive.rows("SELECT * FROM cdrs")} == in_the_end
    assert archive.value("SELECT bool_and(batch_id <= replaced_by) FROM cdr_revisions")
    archive.assert_books_balance()


# -- rows that only Postgres refuses


@pytest.mark.parametrize("stored", [0, 1, 100], ids=["none stored", "one stored", "all stored"])
def test_given_rows_that_postgres_refuses_then_they_alone_are_dead_letters(
    archive: Archive, writer: Writer, stored: int
) -> None:
    neighbours = [cdr(n) for n in range(100)]
    write(writer, *neighbours[:stored])
    messages = list(neighbours)
    for message, position in zip(REFUSED, (0, 51, 102), strict=True):
        messages.insert(position, message)

    assert write(writer, *messages) == Books(claimed=103, inserted=100 - stored, unchanged=stored, dead=3)

    letters = archive.rows("SELECT position, reason, detail, raw FROM dead_letters ORDER BY position")
    assert [(letter["position"], bytes(letter["raw"])) for letter in letters] == [
        (position, messages[position]) for position in (0, 51, 102)
    ]
    assert {letter["reason"] for letter in letters} == {"refused_by_database"}
    assert all("overflow" in letter["detail"] for letter in letters)
    archive.assert_books_balance()


def test_given_values_that_no_column_can_have_then_the_ledger_counts_them(archive: Archive, writer: Writer) -> None:
    aside = {"end_code": "NORMAL_CLEARING", "hold_time": "long"}
    messages = [cdr(1, **aside), cdr(2, **aside), cdr(3, end_code="x"), cdr(4, end_code="16"), cdr(5, dialed_at="x")]
    for times in (1, 2):  # the fast way, and the merge way
        assert write(writer, *messages, TOO_LARGE_A_NUMBER.replace(b'"large"', b'"large", "end_code": "x"'))
        assert (
            archive.rows("SELECT set_aside FROM load_batches")
            == [{"set_aside": {"end_code": 3, "hold_time": 2}}] * times
        )
    write(writer, cdr(4, end_code=16))
    assert archive.rows("SELECT end_code, extra FROM cdrs ORDER BY call_ref") == [
        {"end_code": None, "extra": aside},
        {"end_code": None, "extra": aside},
        {"end_code": None, "extra": {"end_code": "x"}},
        {"end_code": 16, "extra": None},
    ]
    assert archive.value("SELECT count(*) FROM load_batches WHERE set_aside IS NULL") == 1
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    archive.assert_books_balance()


def test_given_nothing_but_refused_rows_then_all_are_dead_letters(archive: Archive, writer: Writer) -> None:
    assert write(writer, *REFUSED, REFUSED_EVENT) == Books(claimed=4, dead=4)
    archive.assert_books_balance()


def test_given_an_event_that_postgres_refuses_then_it_is_a_dead_letter(archive: Archive, writer: Writer) -> None:
    assert write(writer, EVENT, cdr(1), REFUSED_EVENT, EVENT) == Books(claimed=4, inserted=1, events=2, dead=1)

    (letter,) = archive.rows("SELECT position, raw FROM dead_letters")
    assert (letter["position"], bytes(letter["raw"])) == (2, REFUSED_EVENT)
    archive.assert_books_balance()


def test_given_a_refused_message_then_its_calls_other_versions_load(archive: Archive, writer: Writer) -> None:
    too_large = cdr(88, score=0).replace(b'"score": 0', b'"score": %b' % TOO_LARGE)

    assert write(writer, cdr(88), too_large, api_cdr(88)) == Books(claimed=3, inserted=1, updated=1, dead=1)

    row = archive.cdr(88)
    assert (row["extra"], row["call_time"], row["ended_at"] is None) == (None, 41, False)


# -- Postgres as it happens to be


def test_given_a_server_with_asynchronous_commits_then_our_sessions_wait(archive: Archive) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{connection.info.dbname}" SET synchronous_commit = off')

    with engine(archive.database_url) as connections, connections.begin() as session:
        assert session.scalar(sa.text("SHOW synchronous_commit")) == "on"


def test_given_other_settings_for_clients_then_text_arrives_as_it_was(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    name = "Zoë Жан 蔡 🎧"

    with engine(archive.database_url) as connections:
        assert write(Writer(connections), cdr(88, contact_ref=name, note=name)) == Books(claimed=1, inserted=1)

    assert (archive.cdr(88)["contact_ref"], archive.cdr(88)["extra"]) == (name, {"note": name})


def test_given_a_connection_that_breaks_amid_a_claim_then_no_effect(
    archive: Archive, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    messages = [cdr(n) for n in range(3_000)]
    write(writer, cdr("the day's partition"))

    def break_it() -> None:
        ours = "datname = current_database() AND application_name = 'etl'"
        archive.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")

    with caplog.at_level(logging.WARNING), pytest.raises(Outage):
        writer.write(batch(Hooked(messages, 2_000, break_it)))

    assert caplog.records == [], "the loader says that there is an outage, and nobody else says anything"
    assert archive.value("SELECT count(*) FROM cdrs") == 1
    assert write(writer, *messages) == Books(claimed=3_000, inserted=3_000), "and the next attempt finds a way"
    archive.assert_books_balance()


def test_given_messages_with_json_of_every_kind_then_it_is_stored_as_is(archive: Archive, writer: Writer) -> None:
    extra = {"a": None, "b": [1, 2.5, "x", {"c": False}], "d": {"e": 10**30}, "ключ": "\t\"\\'"}

    write(writer, cdr(88, **extra))
    assert archive.cdr(88)["extra"] == extra

    write(writer, cdr(88, **extra), cdr(88, f=1))
    assert archive.cdr(88)["extra"] == {**extra, "f": 1}
    assert json.loads(archive.value("SELECT extra::text FROM cdrs"))["d"]["e"] == 10**30
