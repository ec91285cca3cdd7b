"""Promise 2 at midnight: the dialects may date one call on two days, and it's one row all the same, under the day that
came first."""

import random
from datetime import UTC, date, datetime, timedelta
from functools import partial

import psycopg
import pytest

from etl.ids import new_id
from etl.store.ledger import Books
from etl.store.writer import Writer
from tests.store import at_once, batch, engine, write
from tests.world import Archive, api_cdr, cdr

MIDNIGHT = datetime(2015, 2, 20, tzinfo=UTC)
EVE, MORNING = date(2015, 2, 19), date(2015, 2, 20)


def a(call_ref: object, seconds: float, **fields: object) -> bytes:
    """Dialect A, dialled so many seconds after midnight."""
    return cdr(call_ref, dialed_at=int(MIDNIGHT.timestamp()) + seconds, **fields)


def b(call_ref: object, seconds: float, **fields: object) -> bytes:
    """Dialect B; it bears the times of its end by the same clock."""
    moment = (MIDNIGHT + timedelta(seconds=seconds)).isoformat()
    times = dict.fromkeys(("callee_answered_at", "agent_answered_at", "ended_at"))
    return api_cdr(call_ref, dialed_at=moment, **{**times, **fields})


def places(archive: Archive) -> list[tuple[date, float]]:
    """The days of all rows, and their dialed_at in seconds after midnight."""
    rows = archive.rows("SELECT dialed_on, dialed_at FROM cdrs ORDER BY 1, 2")
    return [(row["dialed_on"], (row["dialed_at"] - MIDNIGHT).total_seconds()) for row in rows]


@pytest.mark.parametrize("together", [True, False], ids=["in one claim", "one claim each"])
@pytest.mark.parametrize(
    ("first", "second", "day", "dialed_at"),
    [
        (a(88, -1), b(88, 0), EVE, -1),
        (b(88, 0), a(88, -1), MORNING, -1),
        (a(88, 0), b(88, -0.5), MORNING, -0.5),
        (b(88, -10), a(88, 0), EVE, -10),
        (a(88, 10), b(88, 0.25), MORNING, 0.25),
        (a(88, -1), b(88, -0.25), EVE, -0.25),
        (a(88, 9, call_trail_number=2), a(88, -1, call_trail_number=2), MORNING, -1),
    ],
)
def test_given_a_call_on_both_sides_of_midnight_then_it_is_one_row(
    archive: Archive, writer: Writer, first: bytes, second: bytes, day: date, dialed_at: float, together: bool
) -> None:
    claims = [[first, second]] if together else [[first], [second]]

    books = sum(filter(None, [write(writer, *claim) for claim in claims]), Books())

    assert places(archive) == [(day, dialed_at)]
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    assert (books.claimed, books.inserted) == (2, 1)
    assert archive.rows("SELECT day, sum(inserted) AS n FROM load_batch_days GROUP BY 1") == [{"day": day, "n": 1}]
    archive.assert_books_balance()


@pytest.mark.parametrize("messages", [(a(88, -5), b(88, 5.000001)), (b(88, 5.000001), a(88, -5))])
def test_given_more_than_ten_seconds_between_them_then_they_are_two_rows(
    archive: Archive, writer: Writer, messages: tuple[bytes, bytes]
) -> None:
    for message in messages:
        write(writer, message)

    assert places(archive) == [(EVE, -5), (MORNING, 5.000001)]


@pytest.mark.parametrize("other", [b(89, 0), b(88, 0, call_trail_number=2)], ids=["call", "leg"])
def test_given_another_call_across_midnight_then_each_has_its_row(
    archive: Archive, writer: Writer, other: bytes
) -> None:
    write(writer, a(88, -1))
    write(writer, other)

    assert places(archive) == [(EVE, -1), (MORNING, 0)]


def test_given_another_system_across_midnight_then_each_has_its_row(archive: Archive, writer: Writer) -> None:
    write(writer, a(88, -1))
    writer.write(batch([b(88, 0)], source="click2dial"))

    assert places(archive) == [(EVE, -1), (MORNING, 0)]


def test_given_two_rows_already_then_each_version_goes_to_its_own_day(archive: Archive, writer: Writer) -> None:
    write(writer, a(88, -1))
    write(writer, cdr("the partition", dialed_at=int(MIDNIGHT.timestamp()) + 3_600))
    with psycopg.connect(archive.database_url) as old:  # release 0.1 would have stored it so
        row = "'2015-02-20', 'dialler', '88', 0, '2015-02-20T00:00:00Z', gen_random_uuid()"
        old.execute(f"INSERT INTO cdrs (dialed_on, source, call_ref, leg, dialed_at, batch_id) VALUES ({row})")

    write(writer, a(88, -1, note="eve"), b(88, 0, note="morning"))

    rows = archive.rows("SELECT dialed_on, extra->>'note' AS note FROM cdrs WHERE call_ref = '88'")
    assert {row["dialed_on"]: row["note"] for row in rows} == {EVE: "eve", MORNING: "morning"}


def test_given_the_other_day_has_left_postgres_then_the_call_is_stored(archive: Archive, writer: Writer) -> None:
    write(writer, a(88, -1))
    with psycopg.connect(archive.database_url) as connection:
        connection.execute("DROP TABLE cdrs_20150219")

    assert write(writer, b(88, 0)) == Books(claimed=1, inserted=1)
    assert places(archive) == [(MORNING, 0)]


def test_given_two_workers_at_midnight_then_no_call_becomes_two_rows(archive: Archive, database_url: str) -> None:
    dice = random.Random(13)
    calls = range(600)
    with engine(database_url) as connections, engine(database_url) as other_connections:
        writer, other = Writer(connections), Writer(other_connections)
        write(writer, a("eve", -1), a("morning", 1))  # the partitions
        for chunk in range(0, len(calls), 100):
            of_both = [*calls[chunk : chunk + 100]]
            forth = [a(n, dice.uniform(-5, 0)) for n in dice.sample(of_both, len(of_both))]
            back = [b(n, dice.uniform(0, 5)) for n in dice.sample(of_both, len(of_both))]
            at_once(
                partial(writer.write, batch(forth, new_id())),
                partial(other.write, batch(back, new_id())),
            )

    assert archive.value("SELECT count(*) FROM cdrs") == len(calls) + 2
    assert archive.value("SELECT count(*) FROM cdrs WHERE uuid IS NOT NULL AND number IS NOT NULL") == len(calls)
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    archive.assert_books_balance()
