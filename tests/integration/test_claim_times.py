"""Of a claim whose time is wrong: what becomes of its rows, and under which days. Servers whose clocks are set are in
test_wrong_clocks.py; which of them decides is in tests/unit/test_claim_times.py."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import cast
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from etl.errors import Outage
from etl.ids import time_of, uuid7
from etl.keys import SPOOL
from etl.store import tables
from etl.store.partitions import DAYS_AHEAD, ensure
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests.integration.test_recall import counts, forget_since, recall
from tests.integration.test_running_numbers import fall_back, state
from tests.store import engine
from tests.world import CAMPAIGNS, Archive, cdr

EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'
_drawn = random.Random(19)


def today() -> date:
    return datetime.now(UTC).date()


def moments(first: int, last: int, many: int) -> list[datetime]:
    """Of these years; none within days of now, since what is a day ahead today isn't tomorrow."""
    begin = datetime(first, 1, 1, tzinfo=UTC)
    seconds = (datetime(last, 1, 1, tzinfo=UTC) - begin).total_seconds()
    drawn = [begin + timedelta(seconds=int(seconds * (n + _drawn.random()) / many)) for n in range(many)]
    return [each for each in drawn if abs(each - datetime.now(UTC)) > timedelta(days=7)]


def unix_ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000


def heard(at: datetime, serial: int = 0) -> bytes:
    event_id = UUID(int=serial).bytes
    return pack_heard(event_id, max(0, from_datetime(at)), b"enigma:notifications:agents:1", EVENT)


def rows(archive: Archive) -> list[dict[str, object]]:
    return archive.rows(
        "SELECT captured_on AS day, event_id::text AS id FROM audit_events"
        " UNION ALL SELECT dialed_on, call_ref FROM cdrs ORDER BY 1, 2"
    )


def assert_all_of_now(archive: Archive) -> None:
    """Every time that came of a claim's."""
    for table, column in (
        ("audit_events", "captured_at"),
        ("load_batches", "claimed_at"),
        ("list_identities", "claimed_at"),
        ("dead_letters", "received_at"),
    ):
        far = f"SELECT {column} FROM {table} WHERE abs(extract(epoch FROM {column} - now())) > 600"
        assert archive.rows(far) == [], table
    assert (
        archive.value("SELECT count(*) FROM audit_events WHERE captured_on <> (captured_at AT TIME ZONE 'UTC')::date")
        == 0
    )


# -- the days of which Postgres makes a partition


@pytest.mark.parametrize("table", tables.PARTITIONED.values(), ids=tables.PARTITIONED)
def test_a_partition_is_of_a_day_from_2000_to_two_days_ahead(archive: Archive, table: sa.Table) -> None:
    days = [date(2000, 1, 1), *(today() + timedelta(days=n) for n in range(-2, DAYS_AHEAD + 1))]
    with engine(archive.database_url) as connections:
        ensure(connections, table, days)
        far = [today() + timedelta(days=n) for n in (DAYS_AHEAD + 2, 30)] + [m.date() for m in moments(2027, 9_999, 5)]
        for day in far:
            with pytest.raises(Outage, match=f"no partition of {table.name} for {day} yet: here it's") as raised:
                ensure(connections, table, [day])
            assert raised.value.code == "ETL-926"
    made = archive.value("SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", table.name)
    assert made == len(days)


def test_a_far_day_that_has_its_partition_costs_nobody_anything(archive: Archive) -> None:
    far = today() + timedelta(days=400)
    with psycopg.connect(archive.database_url, autocommit=True) as owner:
        owner.execute(
            f"CREATE TABLE cdrs_{far:%Y%m%d} PARTITION OF cdrs FOR VALUES FROM ('{far}') TO ('{far}'::date + 1)"
        )
        owner.execute("SELECT make_partition('cdrs', %s)", [far])


# -- a list whose last claim was made by a clock that was ahead


@pytest.fixture(params=moments(2028, 2_099, 3), ids=lambda moment: f"{moment:%Y}")
def ahead(request: pytest.FixtureRequest, archive: Archive) -> Iterator[Archive]:
    """One moment with a wrong clock, and all claims of the lists sort after it for ever after."""
    for key in (CAMPAIGNS, SPOOL):
        archive.redis.zadd(f"{{{key}}}:last", {"last": unix_ms(request.param)})
    yield archive
    ids = archive.rows("SELECT batch_id FROM load_batches")
    assert min(time_of(row["batch_id"]) for row in ids) >= request.param - timedelta(seconds=1)


def test_given_a_list_that_is_ahead_then_nothing_waits(ahead: Archive) -> None:
    """Neither its events, which would have their partition in years; nor its calls, which would be years old."""
    ahead.push(EVENT, cdr(1, dialed_at=int(datetime.now(UTC).timestamp())), EVENT, b"junk")

    loaded = ahead.load(oldest_days=1)

    assert (loaded.events, loaded.inserted, loaded.dead) == (2, 1, 1)
    assert_all_of_now(ahead)
    assert ahead.keys() == set()
    ahead.assert_books_balance()


def test_given_events_heard_by_a_clock_ahead_then_none_is_dead(ahead: Archive) -> None:
    """By Redis' clock, which a listener goes by: the same event twice is one, on whichever day it's claimed again."""
    last = datetime.fromtimestamp(cast("float", ahead.redis.zscore(f"{{{SPOOL}}}:last", "last")) / 1_000, UTC)
    messages = [heard(last, 1), heard(last + timedelta(days=9), 2), heard(datetime.now(UTC), 3)]
    ahead.redis.lpush(SPOOL, *messages)
    assert ahead.load().events == 3

    assert_all_of_now(ahead)
    ahead.redis.lpush(SPOOL, *messages)
    ahead.load()
    assert ahead.value("SELECT count(*) FROM audit_events") == 3
    assert ahead.value("SELECT count(*) FROM dead_letters") == 0
    ahead.assert_books_balance()


def test_given_a_call_of_years_ahead_then_it_is_dead_and_nothing_waits(ahead: Archive) -> None:
    """The claim's time would have let it in, and no partition is made for it."""
    soon, far = datetime.now(UTC) + timedelta(hours=36), datetime(2_027, 12, 24, tzinfo=UTC)
    ahead.push(*(cdr(n, dialed_at=int(at.timestamp())) for n, at in enumerate((soon, far))), cdr(7), EVENT)

    loaded = ahead.load()

    assert (loaded.inserted, loaded.events, loaded.dead) == (1, 1, 2)
    assert {row["reason"] for row in ahead.rows("SELECT reason FROM dead_letters")} == {"out_of_range"}
    assert_all_of_now(ahead)


def test_given_a_list_that_is_ahead_then_later_claims_are_the_newer(ahead: Archive) -> None:
    for call_time in (1, 2, 3):
        ahead.push(cdr(1, call_time=call_time))
        ahead.load()

    assert ahead.cdr(1)["call_time"] == 3
    ids = [row["batch_id"] for row in ahead.rows("SELECT batch_id FROM load_batches ORDER BY committed_at")]
    assert ids == sorted(ids)


def test_given_a_list_that_is_ahead_then_it_is_told_once(ahead: Archive) -> None:
    ahead.push(*(cdr(n) for n in range(5)), *[EVENT] * 5)
    done = ahead.run("run", "--no-listen", ETL_BATCH_SIZE="2")

    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines() if "claims_misdated" in line]
    assert [line["source_key"] for line in told] == [CAMPAIGNS]
    assert ahead.value("SELECT count(*) FROM load_batches") == 5


def test_given_a_large_claim_that_is_adopted_then_it_is_of_now_too(ahead: Archive) -> None:
    """Read in pieces, and never in memory as a whole."""
    batch_id = uuid7(unix_ms(moments(2_100, 2_101, 1)[0]) - 10**10)
    messages = [EVENT if n % 2 else cdr(n, dialed_at=int(datetime.now(UTC).timestamp())) for n in range(3_000)]
    abandoned(ahead, CAMPAIGNS, batch_id, *messages)
    loaded = ahead.load(oldest_days=1)

    assert (loaded.inserted, loaded.events, loaded.dead) == (1_500, 1_500, 0)
    assert_all_of_now(ahead)


# -- claimed again: what of a row's key came of a claim's time


def test_given_a_claim_that_is_ahead_then_a_recall_brings_it_once(ahead: Archive) -> None:
    ahead.push(cdr(0))
    ahead.load()
    ahead.push(EVENT, cdr(1), EVENT, b"junk")
    ahead.load()
    before = {str(row["id"]) for row in rows(ahead)}
    forget_since(ahead, 1)
    ahead.rows("DELETE FROM list_identities RETURNING 1")
    with recall(ahead) as recalling:
        recalling.look()
    ahead.load()

    assert {str(row["id"]) for row in rows(ahead)} == before
    assert counts(ahead) == {"cdrs": 2, "audit_events": 2, "dead_letters": 1}
    assert_all_of_now(ahead)
    ahead.assert_books_balance()


def test_given_the_same_claimed_on_another_day_then_it_is_known(ahead: Archive) -> None:
    """As after a fail-over of Redis: in a new claim, dated anew. The day is part of an event's key, and not of that by
    which a message of a list is known."""
    far = datetime.now(UTC) + timedelta(days=5_000)
    ahead.push(cdr(0))
    ahead.redis.lpush(SPOOL, heard(far, 0))
    ahead.load()  # from here on the lists have numbers
    ahead.push(EVENT, b"junk", EVENT)
    ahead.redis.lpush(SPOOL, heard(far, 1))
    before = state(ahead.redis)
    ahead.load()
    ahead.rows("SELECT make_partition('audit_events', (now() AT TIME ZONE 'UTC')::date - 1)")
    a_day = "captured_on = captured_on - 1, captured_at = captured_at - interval '1 day'"
    ahead.rows(f"UPDATE audit_events SET {a_day} RETURNING 1")
    fall_back(ahead.redis, before)
    ahead.load()

    assert counts(ahead) == {"cdrs": 1, "audit_events": 4, "dead_letters": 1}
    assert ahead.value("SELECT sum(unchanged) FROM load_batches") == 4


# -- claims of which nothing else is known


def abandoned(archive: Archive, key: str, batch_id: UUID, *messages: bytes) -> None:
    archive.redis.rpush(f"{{{key}}}:claim:{batch_id}", *messages)


@pytest.mark.parametrize("claimed_at", moments(1970, 2_099, 9), ids=lambda moment: f"{moment:%Y-%m}")
def test_given_any_time_of_a_claim_then_all_of_it_is_kept_once(archive: Archive, claimed_at: datetime) -> None:
    """Rows of days that may be, or dead letters, whenever it's loaded again; and no list waits."""
    batch_id, of_spool = uuid7(unix_ms(claimed_at)), uuid7(unix_ms(claimed_at))
    call = cdr(1, dialed_at=int(claimed_at.timestamp()))
    may_be = claimed_at.year >= 2000 and claimed_at < datetime.now(UTC)
    for _ in range(2):
        abandoned(archive, CAMPAIGNS, batch_id, EVENT, call)
        abandoned(archive, SPOOL, of_spool, heard(claimed_at, 1))
        archive.load()

        assert counts(archive) == {"cdrs": may_be, "audit_events": 2, "dead_letters": not may_be}
        assert archive.keys() == set()
        archive.assert_books_balance()
    assert archive.rows("SELECT reason FROM dead_letters") == [{"reason": "out_of_range"}] * (not may_be)
    if not may_be:
        assert archive.value("SELECT captured_on FROM audit_events WHERE origin = 'list'") in (
            today(),
            today() - timedelta(days=1),
        )


# -- dead letters of such claims


@pytest.mark.parametrize("received_at", [*moments(1970, 1_999, 1), *moments(2030, 2_099, 2)], ids=str)
def test_given_letters_of_a_wrong_time_then_a_replay_is_of_now(archive: Archive, received_at: datetime) -> None:
    """As 0.1 left them: received when it was not, and too old, or not yet heard."""
    recent, broken = cdr(1, dialed_at=int(datetime.now(UTC).timestamp())), b"junk"
    batch_id, of_spool = uuid7(unix_ms(received_at)), uuid7(unix_ms(received_at))
    abandoned(archive, CAMPAIGNS, batch_id, b"one", b"two", broken)
    abandoned(archive, SPOOL, of_spool, heard(received_at, 1).replace(EVENT, b"three"))
    archive.load()
    for was, is_ in ((b"one", EVENT), (b"two", recent), (b"three", EVENT)):
        archive.rows(
            "UPDATE dead_letters SET raw = %s, received_at = %s WHERE raw = %s RETURNING 1", is_, received_at, was
        )

    done = archive.run("dead", "replay", ETL_OLDEST_DAYS="1")

    assert done.returncode in (0, 1), done.stderr
    assert archive.value("SELECT count(*) FROM cdrs") == 1
    assert archive.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 1, "the one that is broken"
    assert archive.value("SELECT count(*) FROM audit_events") == 2
    assert {row["day"] for row in rows(archive)} <= {today(), today() - timedelta(days=1)}
    archive.assert_books_balance()


def test_given_a_letter_of_a_list_ahead_then_a_replay_keeps_its_turn(ahead: Archive) -> None:
    """It's received now, and its claim sorts in years: it comes after what was claimed before, and before the rest."""
    ahead.push(cdr(1, call_time=1), cdr(2, call_time=1))
    ahead.load()
    ahead.push(b"one", b"two")
    ahead.load()
    ahead.push(cdr(2, call_time=3))
    ahead.load()
    for was, is_ in ((b"one", cdr(1, call_time=2)), (b"two", cdr(2, call_time=2))):
        ahead.rows("UPDATE dead_letters SET raw = %s WHERE raw = %s RETURNING 1", is_, was)
    assert ahead.run("dead", "replay").returncode == 0

    assert (ahead.cdr(1)["call_time"], ahead.cdr(2)["call_time"]) == (2, 3)
