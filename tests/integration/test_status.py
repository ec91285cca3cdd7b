"""What `etl.app.status` finds in each store, each with the state planted that it must tell."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from etl.app import status
from etl.app.days import first_open_day
from etl.app.sources import sources
from etl.app.stores import Stores
from etl.ids import new_id
from etl.inbox.claims import Source
from etl.inbox.connection import connect
from etl.inbox.memory import memory
from etl.keys import SPOOL
from etl.lab.servers.private import PrivateCluster
from etl.lake.datasets import DATASETS
from etl.settings import SourceSettings
from etl.store import status as store
from etl.store.status import Rate
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests.lake import EVENTS, export, export_and_prune, heard, lake, load, with_lake
from tests.store import engine
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive, cdr, eventually

pytestmark = pytest.mark.versions

NOWHERE = "127.0.0.1:1"
EVENT = b'{"type": "status", "payload": {"status": "busy", "ref": "1002"}}'
LONG_AGO = timedelta(days=4_000)


def now() -> datetime:
    return datetime.now(UTC)


def days_ago(days: int) -> date:
    return now().date() - timedelta(days=days)


def at_noon(days: int, call_ref: object = 1) -> bytes:
    """A call of so many days ago."""
    day = days_ago(days)
    return cdr(call_ref, dialed_at=int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()), call_time=0)


def ended(seconds_ago: int, call_ref: object = 1) -> bytes:
    return cdr(call_ref, dialed_at=int(now().timestamp()) - seconds_ago - 41)


def looked_at(archive: Archive) -> status.Status:
    with status.reader(archive.settings()) as reading:
        return reading.read()


def redis_of(found: status.Status) -> status.InRedis:
    assert found.redis, found.redis_error
    return found.redis


@pytest.fixture
def database(archive: Archive) -> Iterator[sa.Engine]:
    with engine(archive.database_url) as connections:
        yield connections


# -- Redis


@pytest.mark.parametrize("end", ["right", "left"])
def test_the_age_is_that_of_the_oldest_waiting_message_that_tells(archive: Archive, end: str) -> None:
    sources = [SourceSettings.model_validate({"key": key, "take_from": end}) for key in (CAMPAIGNS, CDRS, CLICK2DIAL)]
    archive.sources = sources
    push: Any = archive.redis.lpush if end == "right" else archive.redis.rpush
    push(CAMPAIGNS, b"junk", EVENT, ended(600), ended(10))
    push(CDRS, b"junk")
    archive.redis.lpush(SPOOL, pack_heard(bytes(16), from_datetime(now() - timedelta(seconds=60)), b"c", b"junk"))
    archive.redis.lpush(SPOOL, pack_heard(bytes(16), from_datetime(now() - timedelta(seconds=50)), b"c", EVENT))

    found = redis_of(looked_at(archive))

    assert {each.source_key: each.waiting_messages for each in found.lists} == {
        CAMPAIGNS: 4,
        CDRS: 1,
        CLICK2DIAL: 0,
        SPOOL: 2,
    }
    ages = {each.source_key: each.oldest_waiting_seconds for each in found.lists}
    assert (ages[CDRS], ages[CLICK2DIAL]) == (None, None)
    assert ages[CAMPAIGNS] == pytest.approx(600, abs=30)
    assert ages[SPOOL] == pytest.approx(50, abs=30)


def test_given_a_dialler_whose_clock_is_ahead_then_no_age_is_below_zero(archive: Archive) -> None:
    archive.push(ended(-600))

    found = redis_of(looked_at(archive))

    assert found.lists[0].oldest_waiting_seconds == 0


def test_claims_tell_who_holds_them_and_for_how_long(archive: Archive) -> None:
    archive.push(b"1", b"2", b"3")
    archive.push(b"4", key=CDRS)
    frozen = Source(archive.redis, CAMPAIGNS, worker="frozen", batch_size=2, lease_ms=1).claim()
    busy = Source(archive.redis, CDRS, worker="busy").claim()
    archive.redis.zadd(f"{{{CAMPAIGNS}}}:claims", {"not ours": 0})
    assert frozen
    assert busy
    with connect(archive.redis_url) as client:
        lists = sources(archive.settings(), Stores(client, None))  # type: ignore[arg-type]

        def ran_out() -> bool:
            return status.claims(lists)[0].lease_seconds < 0

        eventually(ran_out)
        found = status.claims(lists)

    assert [(each.source_key, each.worker, each.messages, each.batch_id) for each in found] == [
        (CAMPAIGNS, "frozen", 2, frozen.batch_id),
        (CDRS, "busy", 1, busy.batch_id),
    ]
    assert 0 < found[1].lease_seconds <= 60
    assert all(0 <= each.claimed_seconds_ago < 60 for each in found)


def test_the_limit_of_memory_is_what_is_set_or_else_the_machines(archive: Archive) -> None:
    (machine,) = memory(archive.redis) or []
    archive.redis.config_set("maxmemory", 64 * 1024**2)
    try:
        (limited,) = memory(archive.redis) or []
    finally:
        archive.redis.config_set("maxmemory", 0)

    assert (limited.limit_bytes, limited.has_maxmemory) == (64 * 1024**2, True)
    assert machine.limit_bytes == archive.redis.info("memory")["total_system_memory"]
    assert not machine.has_maxmemory
    assert 0 < limited.used_bytes < 64 * 1024**2


def test_given_a_cluster_then_the_memory_of_each_node_is_told(cluster: PrivateCluster) -> None:
    with connect(cluster.url, cluster=True) as client:
        found = memory(client)

    assert found
    assert sorted(each.server.rpartition(":")[2] for each in found) == sorted(str(node.port) for node in cluster.nodes)


def test_given_a_user_without_info_then_only_the_memory_is_unknown(archive: Archive) -> None:
    administrator: Any = archive.redis
    administrator.execute_command("ACL", "SETUSER", "blind", "reset", "on", ">x", "~*", "&*", "+@all", "-info")
    try:
        found = redis_of(looked_at(replace(archive, redis_url=archive.redis_url.replace("://", "://blind:x@"))))
    finally:
        administrator.execute_command("ACL", "DELUSER", "blind")

    assert (found.memory, found.backlog_grows, found.runway_seconds) == (None, None, None)
    assert len(found.lists) == len(archive.sources) + 1


def test_given_a_backlog_that_grows_then_there_is_a_runway(archive: Archive) -> None:
    with status.reader(archive.settings()) as reading:
        first = redis_of(reading.read())
        archive.push(*[b"x" * 10_000] * 1_000)
        growing = redis_of(reading.read())
        archive.redis.delete(CAMPAIGNS)
        shrunk = redis_of(reading.read())

    assert (first.backlog_grows, first.runway_seconds) == (None, None)
    assert growing.backlog_grows
    assert growing.runway_seconds
    assert growing.runway_seconds > 0
    assert (shrunk.backlog_grows, shrunk.runway_seconds) == (False, None)


# -- Postgres


def enter(archive: Archive, ago: timedelta, *, cdrs: int = 0, events: int = 0, key: str = CAMPAIGNS) -> None:
    """A claim of that time in the ledger."""
    archive.rows(
        "INSERT INTO load_batches (batch_id, worker, source_key, claimed, inserted, updated, unchanged, events, dead,"
        " claimed_at, committed_at) VALUES (%s, 'w', %s, %s, %s, 0, 0, %s, 0, now(), now() - %s) RETURNING batch_id",
        new_id(),
        key,
        cdrs + events,
        cdrs,
        events,
        ago,
    )


def test_rates_are_the_ledgers_of_the_last_minute_and_hour(archive: Archive, database: sa.Engine) -> None:
    assert store.rates(database, (60, 3_600)) == [Rate(60, 0, 0), Rate(3_600, 0, 0)]
    enter(archive, timedelta(seconds=1), cdrs=600, events=60)
    enter(archive, timedelta(minutes=30), cdrs=3_000)
    enter(archive, timedelta(hours=2), cdrs=1_000_000)
    enter(archive, timedelta(seconds=1), cdrs=1_000_000, key="lake")

    assert store.rates(database, (60, 3_600)) == [Rate(60, 11, 10), Rate(3_600, 3_660 / 3_600, 1)]


def test_the_last_cdr_is_found_though_events_came_after_it(archive: Archive, database: sa.Engine) -> None:
    assert store.last_cdr(database) == store.LastCdr(None, None)
    load(archive, at_noon(3, 1), at_noon(9, 2))
    committed = archive.value("SELECT committed_at FROM load_batches")
    load(archive, EVENT)
    enter(archive, timedelta(0), cdrs=1, key="lake")

    assert store.last_cdr(database) == store.LastCdr(committed, archive.cdr(1)["dialed_at"])


def test_given_its_day_is_in_the_lake_only_then_the_last_call_is_known(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    load(with_lake(archive, tmp_path), at_noon(3, 1), at_noon(9, 2))
    dialed_at = archive.cdr(1)["dialed_at"]
    export_and_prune(archive, days_ago(3))

    assert store.last_cdr(database).dialed_at == dialed_at


def read_so_far(archive: Archive, *tables: str) -> int:
    """Rows, from the tables or from their indexes."""
    from_tables = "SELECT sum(seq_tup_read) AS n FROM pg_stat_user_tables WHERE relname = ANY(%s)"
    from_indexes = "SELECT sum(idx_tup_read) AS n FROM pg_stat_user_indexes WHERE relname = ANY(%s)"
    return int(archive.value(from_tables, list(tables)) + archive.value(from_indexes, list(tables)))


def test_given_a_long_ledger_then_only_its_last_day_is_read(archive: Archive) -> None:
    load(archive, *[at_noon(days, days) for days in range(1, 5)])
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("UPDATE load_batches SET committed_at = now() - interval '1 day'")
        connection.execute(
            "INSERT INTO load_batches SELECT gen_random_uuid(), 'w', 'k', 1, 0, 0, 0, 1, 0, now(),"
            " now() - n * '1 s'::interval FROM generate_series(0, 20000) n"
        )
        connection.execute(
            "INSERT INTO load_batch_days SELECT batch_id, 'audit_events', current_date, 1, 0 FROM load_batches"
        )
        connection.execute("VACUUM ANALYZE")
        connection.execute("SELECT pg_stat_force_next_flush()")
    # Our own reading of all days is counted before, not when the server gets round to it.
    dialed_at = archive.cdr(1)["dialed_at"]
    archive.rows("SELECT pg_stat_force_next_flush()::text AS flushed")
    ledger = ("load_batches", "load_batch_days")
    other_days = [f"cdrs_{days_ago(days):%Y%m%d}" for days in range(2, 5)]
    before, of_other_days = read_so_far(archive, *ledger), read_so_far(archive, *other_days)

    with engine(archive.database_url) as connections:
        store.rates(connections, (60, 3_600))
        assert store.last_cdr(connections).dialed_at == dialed_at

    eventually(lambda: read_so_far(archive, *ledger) > before)  # it's counted when a session ends
    assert read_so_far(archive, *ledger) - before < 4_000, "an hour, and not five"
    assert read_so_far(archive, *other_days) == of_other_days


def session(archive: Archive, name: str, began: int, proven: int, reason: str | None = None) -> None:
    """By seconds before now; with a reason, it has ended."""
    archive.rows(
        "INSERT INTO listener_sessions VALUES (%s, %s, now() - %s, now() - %s, 0, 0, 0,"
        " CASE WHEN %s::text IS NOT NULL THEN now() END, %s, %s) RETURNING 1",
        new_id(),
        name,
        timedelta(seconds=began),
        timedelta(seconds=proven),
        reason,
        reason,
        new_id(),
    )


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ([("a", 500, 400, "stopped"), ("b", 300, 2, None)], ("b", True)),
        ([("a", 500, 400, "stopped"), ("b", 300, 2, "stopped")], ("b", False)),
        ([("killed", 900, 60, None)], ("killed", False)),
        # the stand-by's clock is behind that of the one who has just stopped
        ([("a", 500, 2, "stopped"), ("b", 5, 5, None)], ("b", True)),
        ([("killed", 900, 60, None), ("b", 300, 40, "probe lost")], ("b", False)),
    ],
)
def test_the_listener_is_the_one_who_listens_or_else_the_last(
    archive: Archive, database: sa.Engine, sessions: list[tuple[str, int, int, str | None]], expected: tuple[str, bool]
) -> None:
    assert store.listeners(database) == []
    for each in sessions:
        session(archive, *each)

    (found,) = store.listeners(database)

    assert (found.name, found.is_listening) == expected
    assert found.subscribed_at <= found.proven_until


def test_gaps_are_those_of_the_last_day(archive: Archive, database: sa.Engine) -> None:
    nobody = status.gaps(database)
    session(archive, "a", 200_000, 100_000, "stopped")
    session(archive, "b", 80_000, 7_200, "stopped")
    session(archive, "c", 3_600, 1, None)

    found = status.gaps(database)

    assert (nobody.gaps, nobody.seconds) == (1, 86_400)
    assert (found.gaps, found.period_seconds) == (2, 86_400)
    assert found.seconds == pytest.approx(6_400 + 3_600, abs=30)


def test_open_letters_are_told_by_reason(archive: Archive, database: sa.Engine) -> None:
    assert store.open_letters(database) == []
    load(archive, b"junk", cdr(1, dialed_at=None))
    load(archive, b"more junk", b"resolved")
    archive.rows("UPDATE dead_letters SET resolved_at = now() WHERE raw = 'resolved' RETURNING 1")

    found = store.open_letters(database)

    assert [(each.reason, each.letters) for each in found] == [("not_json", 2), ("missing_field", 1)]
    times = [row["received_at"] for row in archive.rows("SELECT received_at FROM dead_letters ORDER BY id")]
    assert (found[0].first_received_at, found[0].last_received_at) == (min(times), max(times))
    assert found[0].first_received_at < found[0].last_received_at


def test_what_was_set_aside_in_the_last_day_is_told_by_field(archive: Archive, database: sa.Engine) -> None:
    assert store.set_aside(database, status.SET_ASIDE_SECONDS) == {}
    load(archive, cdr(1, end_code="x"), cdr(2, end_code="y", hold_time="z"), cdr(3))
    load(archive, cdr(4, end_code="x", ring_time="x"), cdr(5, ring_time="x"))
    load(archive, cdr(6, call_time="long ago"))
    archive.rows(
        "UPDATE load_batches SET committed_at = now() - interval '25 hours' WHERE set_aside ? 'call_time' RETURNING 1"
    )

    found = looked_at(archive).postgres

    assert found
    assert found.set_aside.period_seconds == 86_400
    assert [*found.set_aside.values.items()] == [("end_code", 3), ("ring_time", 2), ("hold_time", 1)]


def test_each_day_tells_what_the_lake_has_of_it(archive: Archive, database: sa.Engine, tmp_path: Path) -> None:
    archive = with_lake(archive, tmp_path)
    load(
        archive,
        *[at_noon(days, days) for days in (2, 3, 4, 5, 6, 20, 21)],
        cdr("today", dialed_at=int(now().timestamp())),
    )
    load(archive, heard(1, days_ago(6)), key=SPOOL)
    assert store.last_exports(database) == {}
    for days in (2, 4, 6, 20):
        export(archive, days_ago(days))
    export_and_prune(archive, days_ago(5))
    load(archive, at_noon(4, "late"), at_noon(20, "late"))
    archive.rows("UPDATE exports SET published_at = NULL WHERE day = %s RETURNING 1", days_ago(6))

    first_open = first_open_day(archive.settings(export_grace_minutes=0))
    found = status.exports(database, first_open)

    day = {each.day: each for each in found.days if each.dataset == "cdrs"}
    assert {each.state for each in day.values() if each.day > days_ago(2)} == {"open"}
    assert {(now().date() - each.day).days: each.state for each in day.values() if each.day <= days_ago(2)} == {
        2: "up_to_date",
        3: "not_exported",
        4: "changed",
        5: "in_the_lake_only",
        6: "half_way",
    }
    assert (day[days_ago(4)].rows, day[days_ago(4)].revision, day[days_ago(4)].exported_rows) == (2, 1, 1)
    assert (day[days_ago(3)].revision, day[days_ago(3)].exported_rows) == (None, None)
    assert [(each.day, each.state) for each in found.days if each.dataset == EVENTS.name] == [
        (days_ago(6), "not_exported")
    ]
    with lake(archive) as opened:
        due = {dataset.name: len(opened.due(dataset, first_open)) for dataset in DATASETS.values()}
    assert found.unexported_days == due == {"cdrs": 5, "audit_events": 1}
    published = archive.value("SELECT max(published_at) FROM exports")
    assert found.last_exported_at == {"cdrs": published}


# -- both


@pytest.mark.parametrize("which", ["redis_url", "database_url"])
def test_given_a_store_that_is_away_then_the_other_half_is_told(archive: Archive, which: str) -> None:
    scheme = "redis" if which == "redis_url" else "postgresql"
    found = looked_at(replace(archive, **{which: f"{scheme}://u:hunter2@{NOWHERE}/0"}))  # type: ignore[arg-type]

    away, error = (found.redis, found.redis_error) if which == "redis_url" else (found.postgres, found.postgres_error)
    assert away is None
    assert "refused" in str(error)
    assert "hunter2" not in str(found)
    assert (found.redis or found.postgres) is not None
    assert not found.is_whole


def test_given_no_schema_then_it_says_what_to_run_and_what_redis_knows(
    archive: Archive, empty_database_url: str
) -> None:
    found = looked_at(replace(archive, database_url=empty_database_url))

    assert found.redis
    assert "run `etl db upgrade`" in str(found.postgres_error)


def test_given_a_store_that_comes_back_then_the_same_reader_tells_it(archive: Archive) -> None:
    end_the_others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with status.reader(archive.settings()) as reading:
        assert reading.read().is_whole
        archive.rows(end_the_others)
        archive.redis.client_kill_filter(_type="normal", skipme=True)

        reading.read()

        assert reading.read().is_whole
