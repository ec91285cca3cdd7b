"""What is asked time and again costs the same however old the archive is: the gaps of a period are the view's, by the
sessions near it alone; and the ledger is counted once a day, and for the rest of the day from where it was left."""

from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import psycopg

from tests.store import engine
from tests.world import Archive

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
PATTERNS = [["agents:*"], ["agents:*", "campaigns:*"], ["campaigns:1*"], ["*"]]
SERVERS = ["10.0.0.5:6379/0", "10.0.0.6:6379/0"]


def tell(archive: Archive, random: Random) -> None:
    """Sessions of two servers in a fortnight, often overlapping, some without a name as of 0.1; and what ends them."""
    archive.rows("DELETE FROM listener_sessions RETURNING 1")
    archive.rows("DELETE FROM retired_servers RETURNING 1")
    archive.rows("DELETE FROM set_backs RETURNING 1")
    for _ in range(random.randrange(14)):
        began = NOW - random.uniform(0, 14 * 24) * HOUR
        until = min(NOW, began + random.choice((0, 1, 5, 40)) * random.random() * HOUR)
        named = random.random() < 0.8
        goes_on = random.random() < 0.1
        archive.rows(
            "INSERT INTO listener_sessions (session_id, listener, subscribed_at, proven_until, received, ignored,"
            " dropped, ended_at, reason, batch_id, server, patterns)"
            " VALUES (%s, 'w', %s, %s, 0, 0, 0, %s, %s, %s, %s, %s) RETURNING 1",
            *(uuid4(), began, NOW if goes_on else until, None if goes_on else until),
            *(random.choice(("stopped", "probe lost")), uuid4()),
            *((random.choice(SERVERS), random.choice(PATTERNS)) if named else (None, None)),
        )
    for _ in range(random.randrange(3)):
        retired_at = NOW - random.uniform(0, 14 * 24) * HOUR
        archive.rows("INSERT INTO retired_servers VALUES (%s, %s) RETURNING 1", random.choice(SERVERS), retired_at)
    for _ in range(random.randrange(2)):
        lost_from = NOW - random.uniform(0, 14 * 24) * HOUR
        archive.rows(
            "INSERT INTO set_backs (source_key, server, first_claimed_at, last_claimed_at, recalled_claims,"
            " recalled_messages, lost_claims, lost_messages, lost_from, lost_until)"
            " VALUES ('etl:events', %s, %s, %s, 0, 0, 1, 1, %s, %s) RETURNING 1",
            *(random.choice(SERVERS), lost_from, lost_from + HOUR, lost_from, lost_from + HOUR),
        )


def test_gaps_of_a_period_are_those_of_the_view(archive: Archive) -> None:
    random = Random(17)
    touching = (
        "SELECT * FROM audit_gaps WHERE coalesce(gap_from, '-infinity') <= %s AND coalesce(gap_until, 'infinity') >= %s"
    )
    between = "SELECT * FROM reporting.gaps_between(%s, %s)"
    found = 0
    for _ in range(60):
        tell(archive, random)
        for _ in range(6):
            since = NOW - random.uniform(-1, 15 * 24) * HOUR
            until = since + random.choice((0, 1, 24, 24 * 7)) * HOUR
            wanted = archive.rows(touching, until, since)
            assert ordered(archive.rows(between, since, until)) == ordered(wanted), (since, until)
            found += len(wanted)
    assert found > 300


def ordered(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(map(str, rows))


def test_gaps_of_a_period_read_few_sessions_of_many(archive: Archive) -> None:
    archive.rows(
        "INSERT INTO listener_sessions SELECT gen_random_uuid(), 'w', now() - n * interval '1 hour',"
        " now() - n * interval '1 hour' + interval '59 minutes', 0, 0, 0, NULL, 'stopped', gen_random_uuid(),"
        " 'a:6379/0', ARRAY['*'] FROM generate_series(1, 20000) AS n RETURNING 1"
    )
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("ANALYZE listener_sessions")
    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'listener_sessions'"
    gaps = "SELECT count(*) FROM reporting.gaps_between(now() - interval '400 days', now() - interval '399 days')"
    with psycopg.connect(archive.database_url) as connection:
        assert connection.execute(gaps).fetchone() == (24,)
        (rows,) = connection.execute(read).fetchone() or (None,)
    assert 24 <= rows < 200


# -- the ledger


def entered(archive: Archive, day: date, entries: int, committed_at: datetime, dataset: str = "cdrs") -> None:
    archive.rows(
        "WITH claims AS (INSERT INTO load_batches SELECT gen_random_uuid(), 'w', 'k', 1, 1, 0, 0, 0, 0, %s, %s"
        " FROM generate_series(1, CAST(%s AS integer)) RETURNING batch_id)"
        " INSERT INTO load_batch_days SELECT batch_id, %s, %s, 1, 0 FROM claims RETURNING 1",
        *(committed_at, committed_at, entries, dataset, day),
    )


def kept(archive: Archive) -> dict[tuple[str, date], int]:
    with engine(archive.database_url) as connections, connections.begin() as connection:
        found = connection.exec_driver_sql("SELECT dataset, day, entries FROM ledger_entries()")
        return {(dataset, day): entries for dataset, day, entries in found}


def counted(archive: Archive) -> dict[tuple[str, date], int]:
    rows = archive.rows("SELECT dataset, day, count(*) AS n FROM load_batch_days GROUP BY dataset, day")
    return {(row["dataset"], row["day"]): row["n"] for row in rows}


def age(archive: Archive, hours: int) -> None:
    """All that there is becomes so much older."""
    by = f"interval '{hours} hours'"
    archive.rows(f"UPDATE load_batches SET committed_at = committed_at - {by} RETURNING 1")
    archive.rows(
        f"UPDATE counted_days SET counted_until = counted_until - {by}, recounted_at = recounted_at - {by} RETURNING 1"
    )


def test_the_ledgers_entries_are_those_that_there_are(archive: Archive) -> None:
    random = Random(5)
    assert kept(archive) == {}
    for _ in range(40):
        for _ in range(random.randrange(4)):
            day = NOW.date() - timedelta(days=random.randrange(5))
            dataset = random.choice(("cdrs", "audit_events"))
            entered(archive, day, random.randrange(1, 5), datetime.now(UTC) - random.random() * HOUR, dataset)
        assert kept(archive) == counted(archive)
        age(archive, random.choice((0, 1, 2, 7)))
    assert archive.value("SELECT sum(entries) FROM counted_days") > 50, "most of it isn't counted again"


def test_what_is_entered_late_is_counted_on_the_next_day(archive: Archive) -> None:
    day = NOW.date()
    entered(archive, day, 3, datetime.now(UTC) - 9 * HOUR)
    assert kept(archive) == {("cdrs", day): 3}
    entered(archive, day, 1, datetime.now(UTC) - 5 * HOUR)  # by a transaction that hung for five hours
    assert kept(archive) == {("cdrs", day): 3}
    age(archive, 25)
    assert kept(archive) == counted(archive) == {("cdrs", day): 4}


def test_the_ledger_is_counted_for_loaders_only(archive: Archive) -> None:
    assert archive.value("SELECT has_function_privilege('public', 'ledger_entries()', 'EXECUTE')") is False
