"""What is true of the views whatever they show: business days in any zone, only the partitions of the days asked for,
masked numbers, a comment on everything; and the cookbook's questions, asked."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import dict_row

from etl.ids import uuid7
from etl.lab import simulator
from etl.lab.agents import Notice
from etl.lab.simulator import Profile
from etl.wire.spool import pack_heard, pack_session
from etl.wire.times import from_datetime
from tests.integration.test_reporting_truth import LISTS, at, rollup, session
from tests.lake import DAY, SPOOL, heard, load, on
from tests.reporting import day_of, hour_of
from tests.store import ROLES
from tests.world import CDRS, CLICK2DIAL, DIALED_AT, Archive, api_cdr, cdr

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parents[2]
COOKBOOK = (ROOT / "docs/reports.md").read_text()


def in_zone(archive: Archive, zone: str) -> None:
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", zone)


# -- business days

QUARTER = 900
# Hours around the changes of Europe's clocks in spring and autumn, and of Lord Howe's, which is one of half an hour.
CHANGES = [(datetime(2024, 3, 30, 10, tzinfo=UTC), 44), (datetime(2024, 10, 26, 10, tzinfo=UTC), 44)]
CHANGES += [(datetime(2024, 4, 6, 6, tzinfo=UTC), 24)]
ZONES = ["UTC", "Europe/London", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Kiritimati"]


def test_days_and_hours_are_those_of_the_zone(archive: Archive) -> None:
    moments = [
        start + timedelta(seconds=QUARTER * n) for start, hours in CHANGES for n in range(hours * 3_600 // QUARTER)
    ]
    load(archive, *(cdr(n, dialed_at=int(moment.timestamp())) for n, moment in enumerate(moments)))
    for zone in map(ZoneInfo, ZONES):
        in_zone(archive, zone.key)
        for row in archive.rows("SELECT day, hour, dialed_at FROM reporting.calls"):
            wanted = (day_of(row["dialed_at"], zone), hour_of(row["dialed_at"], zone))
            assert (row["day"], row["hour"]) == wanted, zone.key
        rollup(archive)
        days = {row["day"]: row["attempts"] for row in archive.rows("SELECT * FROM reporting.campaign_days")}
        assert days == Counter(day_of(moment, zone) for moment in moments)
        if zone.key == "Europe/London":
            assert days[date(2024, 3, 31)] == 23 * 4
            assert days[date(2024, 10, 27)] == 25 * 4
            twice = "SELECT hour FROM reporting.campaign_hours WHERE day = '2024-10-27' ORDER BY hour"
            assert [row["hour"].astimezone(zone).hour for row in archive.rows(twice)] == [0, 1, *range(1, 24)]


def test_a_connection_after_midnight_belongs_to_the_call_before_it(archive: Archive) -> None:
    midnight = datetime(2015, 2, 20, tzinfo=UTC)
    begin = int(midnight.timestamp())
    load(archive, pack_session(session(begin - 90_000, begin + 90_000)), key=SPOOL)
    load(archive, cdr(1, dialed_at=begin - 10))
    (unheard,) = archive.rows("SELECT * FROM reporting.unmatched_calls")
    assert (unheard["lacks"], unheard["day"]) == ("event", DAY)

    told = json.dumps({"type": "call", "payload": {"call_ref": 1, "agent": "1002"}}).encode()
    for number, seconds in enumerate((10, 90_000)):  # the second one, a day later, is another call's
        captured = from_datetime(midnight + timedelta(seconds=seconds))
        event = pack_heard(UUID(int=number).bytes, captured, b"enigma:notifications:agents:1002", told)
        load(archive, event, key=SPOOL)
    (row,) = archive.rows("SELECT * FROM reporting.unmatched_calls")
    assert (row["lacks"], row["day"]) == ("CDR", DAY + timedelta(days=2))
    (row,) = archive.rows("SELECT * FROM reporting.call_audit")
    assert [event["captured_at"] for event in row["events"]] == ["2015-02-20T00:00:10+00:00"]


# -- partitions

ANY_PARTITION = re.compile(r"(?:cdrs|audit_events)_(\d{8})\b")
# And how many days beside are looked at.
PRUNING = {"calls": 0, "events": 0, "call_audit": 1, "unmatched_calls": 1, "twins": 1}
KEPT = ("campaign_days", "campaign_hours", "agent_days", "agent_hours", "agent_states", "load_days")


@pytest.fixture
def fortnight(archive: Archive) -> Archive:
    """Days with a call and an event each, four of them before `DAY`."""
    days = [DAY + timedelta(days=n) for n in range(-4, 10)]
    load(archive, *(on(n, n) for n in range(-4, 10)))
    load(archive, *(heard(n, day, call_ref=str(n)) for n, day in enumerate(days)), key=SPOOL)
    rollup(archive)
    return archive


def partitions(archive: Archive, question: str, executed: bool = False) -> set[int]:
    """Those in the plan, by their distance from `DAY` in days; or only those that were looked at."""
    found = archive.rows(f"EXPLAIN {'(ANALYZE)' if executed else ''} {question}")
    lines = [line for row in found for line in row.values() if not (executed and "(never executed)" in line)]
    days = [datetime.strptime(name, "%Y%m%d").date() for line in lines for name in ANY_PARTITION.findall(line)]
    return {(day - DAY).days for day in days}


@pytest.mark.parametrize("view", PRUNING)
def test_what_is_asked_of_a_day_excludes_the_partitions_of_others(fortnight: Archive, view: str) -> None:
    question = f"SELECT * FROM reporting.{view} WHERE day "
    beside = PRUNING[view]
    for zone in ("UTC", "Asia/Kolkata", "America/Los_Angeles"):
        in_zone(fortnight, zone)
        planned = partitions(fortnight, f"{question} = '{DAY}'")
        assert planned
        assert planned <= {*range(-1 - beside, 2 + beside)}, zone
        span = partitions(fortnight, f"{question} BETWEEN '{DAY}' AND '{DAY + timedelta(days=2)}'")
        assert span <= {*range(-1 - beside, 4 + beside)}, zone
    in_zone(fortnight, "UTC")
    looked_at = partitions(fortnight, f"{question} = '{DAY}'", executed=True)
    assert 0 in looked_at
    assert looked_at <= {*range(-beside, 1 + beside)}


@pytest.mark.parametrize("view", KEPT)
def test_what_is_kept_looks_at_no_partition_at_all(fortnight: Archive, view: str) -> None:
    assert partitions(fortnight, f"SELECT * FROM reporting.{view}") == set()


# -- numbers

NUMBER, OLD_NUMBER = "07700900123", "07700900456"


def as_role(archive: Archive, role: str) -> "psycopg.Connection[dict[str, Any]]":
    url = archive.database_url.replace("postgres@", f"{role}@")
    return psycopg.connect(url, autocommit=True, row_factory=dict_row)


@pytest.fixture
def guarded(archive: Archive) -> Iterator[Archive]:
    """With the roles that we ship, and an analyst who may see numbers."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        administrator.execute("CREATE ROLE analyst LOGIN IN ROLE etl_reporting, etl_reporting_numbers")
        yield archive
        administrator.execute("DROP ROLE analyst")


def test_numbers_are_masked_unless_one_may_see_them(guarded: Archive) -> None:
    load(guarded, cdr(1, number=NUMBER), cdr(2, number=""), cdr(3, number="0123"), cdr(5, number=None))
    old = {"call_ref": 4, "contact_ref": "M4", "dialed_at": DIALED_AT, "ref": OLD_NUMBER}
    load(guarded, json.dumps({"type": "cdr", "payload": old}).encode(), key=CLICK2DIAL)
    load(guarded, api_cdr(6, ref="204000"), key=CDRS)  # which is no number, though it looks like one
    rollup(guarded)
    views = guarded.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'"
    )
    names = [row["relname"] for row in views if row["relname"] != "calls_unmasked"]
    masked = {"1": "*******0123", "2": "", "3": "0123", "4": "*******0456", "5": None, "6": None}
    whole = masked | {"1": NUMBER, "4": OLD_NUMBER}
    for role, numbers in (("etl_reporting", masked), ("analyst", whole), ("etl_loader", whole)):
        with as_role(guarded, role) as connection:
            for view in ("calls", "contact_history", "call_audit"):
                rows = connection.execute(f"SELECT call_ref, number FROM reporting.{view}").fetchall()
                found = {row["call_ref"]: row["number"] for row in rows}
                assert found.items() <= numbers.items(), (role, view)
                assert len(found) == len(numbers) - (view == "contact_history"), "dialect B knows no contact"
            said = str([connection.execute(f"SELECT * FROM reporting.{name}").fetchall() for name in names])
            assert (NUMBER in said, OLD_NUMBER in said) == ((role != "etl_reporting"),) * 2
            history = connection.execute("SELECT * FROM reporting.contact_history WHERE contact_ref = 'M4'").fetchall()
            assert [(row["campaign_ref"], row["numbers_tried"]) for row in history] == [("click-dial", 1)]
            asking = connection.execute("SELECT FROM reporting.calls WHERE number = %s", [NUMBER]).fetchall()
            assert len(asking) == (role != "etl_reporting"), "nobody finds out by asking for one"


# -- words


def test_all_of_the_schema_says_what_it_is(archive: Archive) -> None:
    silent = """
        SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = 'reporting'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND attnum > 0
            AND NOT attisdropped AND coalesce(col_description(attrelid, attnum), '') = ''
        UNION ALL
        SELECT relname, NULL FROM pg_class WHERE relnamespace = 'reporting'::regnamespace
            AND relkind IN ('r', 'p', 'v', 'm') AND coalesce(obj_description(oid, 'pg_class'), '') = ''
        UNION ALL
        SELECT proname, NULL FROM pg_proc WHERE pronamespace = 'reporting'::regnamespace
            AND coalesce(obj_description(oid, 'pg_proc'), '') = ''
    """
    assert archive.rows(silent) == []
    views = "SELECT count(*) FROM pg_class WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'"
    assert archive.value(views) >= 10
    zoned = "SELECT count(*) FROM pg_attribute WHERE attname = 'day' AND col_description(attrelid, attnum) LIKE %s"
    assert archive.value(zoned, "%in the zone of reporting.settings%") >= 8


def test_dispositions_and_causes_are_the_protocols(archive: Archive) -> None:
    answered = archive.rows("SELECT end_reason FROM reporting.end_reasons WHERE answered ORDER BY 1")
    assert [row["end_reason"] for row in answered] == ["agent_hungup", "callee_hungup", "hungup", "voicemail"]
    # ITU-T Q.850 (10/2018), table 1
    causes = {*range(1, 10), 14, *range(16, 32), 34, *range(38, 45), 46, 47, 49, 50, 53, 55, 57, 58, 62, 63, 65, 66, 69}
    causes |= {70, 79, *range(81, 89), 90, 91, *range(95, 104), 110, 111, 127}
    assert {row["code"] for row in archive.rows("SELECT code FROM reporting.isdn_causes")} == causes


# -- the cookbook's questions


def questions() -> dict[str, str]:
    """By the sentence before each, asked of the week until yesterday."""
    (section,) = re.findall(r"^## The cookbook\n(.*)", COOKBOOK, re.MULTILINE | re.DOTALL)
    later = datetime.now(UTC).date() - timedelta(days=1) - date(2026, 11, 23)
    section = re.sub(r"2026-11-\d\d", lambda day: str(date.fromisoformat(day[0]) + later), section)
    return dict(re.findall(r"^\*\*(.+?)\*\*\n\n```sql\n(.+?)^```$", section, re.MULTILINE | re.DOTALL))


@pytest.fixture
def asked(guarded: Archive) -> Archive:
    """Three days until now, with their audit trail."""
    now = datetime.now(UTC).replace(microsecond=0)
    profile = Profile(cdrs=1_500, until=now, days=3, dialect="both", pubsub=True)
    begin = int((now - timedelta(days=4)).timestamp())
    load(guarded, pack_session(session(begin, int(now.timestamp()) + 3_600)), key=SPOOL)
    notices = (each for each in simulator.truth(profile) if isinstance(each, Notice))
    for message in simulator.messages(profile):
        body, key = message.body, LISTS.get(message.kind, SPOOL)
        if message.kind == "pubsub":
            notice = next(notices)
            event_id = uuid7(notice.at * 1_000).bytes
            body = pack_heard(event_id, from_datetime(at(notice.at)), message.channel.encode(), body)
        guarded.push(body, key=key)
    noon = now.replace(hour=12) - timedelta(days=1)
    for hour in (1, 2, 3, 30):
        dialed_at = int((noon - timedelta(hours=hour)).timestamp())
        # One that the page asks for; and one that is never reached, as simulated contacts end at 65,535.
        for number, contact in ((hour, "M00042"), (100 + hour, "M99999")):
            guarded.push(cdr(number, dialed_at=dialed_at, contact_ref=contact, extension=None, end_reason="timeout"))
    guarded.load()
    rollup(guarded)
    return guarded


def test_the_cookbooks_questions_have_answers(asked: Archive) -> None:
    assert len(questions()) == 11
    answers = {}
    with as_role(asked, "etl_reporting") as connection:
        for question, sql in questions().items():
            answers[question] = rows = connection.execute(sql.encode()).fetchall()
            assert rows, question
            assert all(any(value is not None for value in row.values()) for row in rows), question
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    placed = asked.value("SELECT count(*) FROM cdrs WHERE dialed_on = %s", yesterday)
    first, last = answers[next(iter(answers))], answers["Can these reports be trusted?"]
    assert sum(row["attempts"] for row in first) == placed
    assert [row["cdrs"] for row in last if row["day"] == yesterday] == [placed]
    assert len({tuple(rows[0]) for rows in answers.values()}) == 11, "no two questions are the same"
