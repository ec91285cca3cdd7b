"""Of a claim whose time is wrong: what becomes of its rows, and under which days. Servers whose clocks are set are in
test_clocks.py."""

import random
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from etl.app.sources import sources
from etl.app.stores import stores
from etl.errors import StatementRefused
from etl.ids import made_at, uuid7
from etl.keys import SPOOL
from etl.store import tables
from etl.store.partitions import DAYS_AHEAD, ensure
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests.integration.test_recall import counts, forget_since, recall
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


def rows(archive: Archive) -> list[dict[str, object]]:
    return archive.rows(
        "SELECT captured_on AS day, event_id::text AS id, captured_at AS at FROM audit_events"
        " UNION ALL SELECT dialed_on, call_ref, dialed_at FROM cdrs ORDER BY 1, 2"
    )


# -- the days of which Postgres makes a partition


@pytest.mark.parametrize("table", tables.PARTITIONED.values(), ids=tables.PARTITIONED)
def test_a_partition_is_of_a_day_from_2000_to_two_days_ahead(archive: Archive, table: sa.Table) -> None:
    days = [date(2000, 1, 1), *(today() + timedelta(days=n) for n in range(-2, DAYS_AHEAD + 1))]
    with engine(archive.database_url) as connections:
        ensure(connections, table, days)
        far = [today() + timedelta(days=n) for n in (DAYS_AHEAD + 2, 30)] + [m.date() for m in moments(2027, 9_999, 5)]
        for day in far:
            with pytest.raises(StatementRefused, match="more than two days ahead of this server's clock"):
                ensure(connections, table, [day])
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


@pytest.fixture(params=moments(2028, 2_099, 4), ids=lambda moment: f"{moment:%Y}")
def ahead(request: pytest.FixtureRequest, archive: Archive) -> Archive:
    """One moment with a wrong clock, and all claims of the lists sort after it for ever after."""
    for key in (CAMPAIGNS, SPOOL):
        archive.redis.zadd(f"{{{key}}}:last", {"last": unix_ms(request.param)})
    return archive


def test_given_a_list_that_is_ahead_then_nothing_waits(ahead: Archive) -> None:
    """Neither its events, which would have their partition in years; nor its calls, which would be years old."""
    ahead.push(EVENT, cdr(1, dialed_at=int(datetime.now(UTC).timestamp())), EVENT)

    loaded = ahead.load(oldest_days=1)

    assert (loaded.events, loaded.inserted, loaded.dead) == (2, 1, 0)
    assert {row["day"] for row in rows(ahead)} <= {today(), today() - timedelta(days=1)}
    assert ahead.value("SELECT max(claimed_at) < now() + interval '1 minute' FROM load_batches")
    assert ahead.value("SELECT max(claimed_at) < now() + interval '1 minute' FROM list_identities")
    assert ahead.keys() == set()
    ahead.assert_books_balance()


def test_given_a_list_that_is_ahead_then_later_claims_are_the_newer(ahead: Archive) -> None:
    for call_time in (1, 2, 3):
        ahead.push(cdr(1, call_time=call_time))
        ahead.load()

    assert ahead.cdr(1)["call_time"] == 3
    ids = [row["batch_id"] for row in ahead.rows("SELECT batch_id FROM load_batches ORDER BY committed_at")]
    assert ids == sorted(ids)


def test_given_a_claim_that_is_ahead_then_a_recall_gives_the_same_rows(ahead: Archive) -> None:
    """Whatever day it is by then: of an event's key, no part is from the clock of whoever loads it."""
    ahead.push(cdr(0))
    ahead.load()
    ahead.push(EVENT, cdr(1), EVENT)
    ahead.load()
    before = rows(ahead)
    forget_since(ahead, 1)
    ahead.rows("DELETE FROM list_identities RETURNING 1")
    with recall(ahead) as recalling:
        recalling.look()
    ahead.load()

    assert rows(ahead) == before
    assert counts(ahead) == {"cdrs": 2, "audit_events": 2, "dead_letters": 0}
    ahead.assert_books_balance()


def test_given_a_claim_that_is_ahead_then_its_adopter_has_its_time(ahead: Archive) -> None:
    ahead.push(EVENT)
    with stores(ahead.settings()) as clients:
        claim = sources(ahead.settings(), clients)[0].claim()
        assert claim is not None
        claim.give_back()
    ahead.load()

    assert ahead.value("SELECT captured_at FROM audit_events") == made_at(claim.batch_id)
    assert abs(made_at(claim.batch_id) - datetime.now(UTC)) < timedelta(hours=1)


# -- claims of which nothing else is known: of a host that was wrong too, or of 0.1


def abandoned(archive: Archive, key: str, batch_id: UUID, *messages: bytes) -> None:
    archive.redis.rpush(f"{{{key}}}:claim:{batch_id}", *messages)


@pytest.mark.parametrize("claimed_at", moments(1970, 2_099, 9), ids=lambda moment: f"{moment:%Y-%m}")
def test_given_any_time_of_a_claim_then_all_of_it_is_kept_once(archive: Archive, claimed_at: datetime) -> None:
    """Rows of days that may be, or dead letters; the same when it's loaded again, and no list waits."""
    batch_id, of_spool = uuid7(unix_ms(claimed_at)), uuid7(unix_ms(claimed_at))
    call = cdr(1, dialed_at=int(claimed_at.timestamp()))
    heard = pack_heard(batch_id.bytes, max(0, from_datetime(claimed_at)), b"enigma:notifications:agents:1", EVENT)
    may_be = claimed_at.year >= 2000 and claimed_at < datetime.now(UTC)
    for _ in range(2):
        abandoned(archive, CAMPAIGNS, batch_id, EVENT, call)
        abandoned(archive, SPOOL, of_spool, heard)
        archive.load()

        rows_of_it = counts(archive)
        assert rows_of_it["cdrs"] == may_be
        assert rows_of_it["audit_events"] == may_be + (may_be or claimed_at.year < 2000)
        assert sum(rows_of_it.values()) == 3
        assert archive.keys() == set()
        archive.assert_books_balance()
    found = archive.rows("SELECT reason, raw FROM dead_letters")
    assert {each["reason"] for each in found} <= {"out_of_range"}
    assert {bytes(each["raw"]) for each in found} <= {EVENT, call}


def test_given_letters_of_a_wrong_time_then_a_replay_is_of_today(archive: Archive) -> None:
    for moment in (*moments(1970, 1_999, 2), *moments(2030, 2_099, 2)):
        broken = cdr(1, dialed_at=int(moment.timestamp()))
        recent = cdr(moment.year, dialed_at=int(datetime.now(UTC).timestamp()))
        abandoned(archive, CAMPAIGNS, uuid7(unix_ms(moment)), EVENT, recent, broken)
        archive.load(oldest_days=1)
    assert counts(archive) == {"cdrs": 2, "audit_events": 0, "dead_letters": 10}

    done = archive.run("dead", "replay", "--reason", "out_of_range", ETL_OLDEST_DAYS="1")

    assert done.returncode in (0, 1), done.stderr
    assert archive.value("SELECT count(*) FROM cdrs") == 4
    assert archive.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 4, "those that are broken"
    assert {row["day"] for row in rows(archive)} <= {today(), today() - timedelta(days=1)}
    assert archive.value("SELECT count(*) FROM audit_events") == 4
    archive.assert_books_balance()
