"""Each view that reads cdrs or audit_events has two functions, of a day and of days: they say what the view says, to
whom the view says it, and lock the partitions near these days only. Which views there are is what the database says."""

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from tests.integration.test_reporting_views import as_role, asked, guarded, in_zone, questions
from tests.world import Archive

__all__ = ["asked", "guarded"]

READING = """
    WITH RECURSIVE rules AS (
        SELECT ev_class, refobjid FROM pg_rewrite JOIN pg_depend
        ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid AND refclassid = 'pg_class'::regclass
    ), reading AS (
        SELECT ev_class FROM rules WHERE refobjid IN ('cdrs'::regclass, 'audit_events'::regclass)
        UNION
        SELECT rules.ev_class FROM reading JOIN rules ON refobjid = reading.ev_class
    )
    SELECT relname FROM reading JOIN pg_class ON pg_class.oid = ev_class
    WHERE relkind = 'v' AND relname <> 'contact_calls' -- which the functions of contact_history are made of
    ORDER BY relname
"""
# Reads no partition, but is asked by day like the others.
BESIDE = "agent_states"
ZONES = ("UTC", "Asia/Kolkata", "America/Los_Angeles")
# Locks of relations that a day may take: partitions, their indexes, views and tables.
MOST_LOCKS = 50
TODAY = datetime.now(UTC).date()


def views(archive: Archive) -> list[str]:
    return [*(row["relname"] for row in archive.rows(READING)), BESIDE]


def rows(archive: Archive, source: str) -> list[str]:
    return sorted(row["row"] for row in archive.rows(f"SELECT whole::text AS row FROM {source} AS whole"))


# -- what they say


@pytest.fixture
def odd(asked: Archive) -> Archive:
    """With calls in two rows, calls that no event tells of, and connections of which there is no call."""
    columns = [row["name"] for row in asked.rows("SELECT attname AS name FROM pg_attribute"
        " WHERE attrelid = 'cdrs'::regclass AND attnum > 0")]  # fmt: skip
    earlier = "dialed_at - mod(n, 2) * interval '13 hours'"
    twin = {"leg": "1", "dialed_on": f"(({earlier}) AT TIME ZONE 'UTC')::date", "dialed_at": earlier}
    copied = ", ".join(twin.get(name, name) for name in columns)
    some = "(SELECT *, right(call_ref, 1)::integer AS n FROM cdrs WHERE call_ref ~ '3[0-9]$'"
    some += " AND dialed_on > (SELECT min(dialed_on) FROM cdrs)) c"
    asked.rows(f"INSERT INTO cdrs SELECT {copied} FROM {some} ON CONFLICT DO NOTHING RETURNING 1")
    asked.rows("DELETE FROM cdrs WHERE call_ref LIKE '%%51' RETURNING 1")
    asked.rows("DELETE FROM audit_events WHERE call_ref LIKE '%%61' RETURNING 1")
    return asked


def test_functions_say_what_their_view_says_of_these_days(odd: Archive) -> None:
    found = dict.fromkeys(views(odd), 0)
    assert found.keys() >= {"calls", "calls_unmasked", "events", "contact_history", "call_audit", "unmatched_calls"}
    yesterday = TODAY - timedelta(days=1)
    before = yesterday - timedelta(days=1)
    days = [(yesterday, yesterday), (before, yesterday), (yesterday, before), (TODAY + timedelta(days=1),) * 2]
    for zone in ZONES:
        in_zone(odd, zone)
        for first, last in days:
            for view in found:
                wanted = expected(odd, view, first, last)
                assert rows(odd, f"reporting.{view}_between('{first}', '{last}')") == wanted, (zone, view, first, last)
                if first == last:
                    assert rows(odd, f"reporting.{view}_on('{first}')") == wanted, (zone, view, first)
                found[view] += len(wanted)
    assert all(found.values()), found


def expected(archive: Archive, view: str, first: date, last: date) -> list[str]:
    """Attempts are counted within the days: so of the view, if there were no others."""
    if view != "contact_history":
        return rows(archive, f"(SELECT * FROM reporting.{view} WHERE day BETWEEN '{first}' AND '{last}')")
    zone = archive.value("SELECT zone FROM reporting.settings")
    with psycopg.connect(archive.database_url) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            "DELETE FROM cdrs WHERE (dialed_at AT TIME ZONE %s)::date NOT BETWEEN %s AND %s", [zone, first, last]
        )
        found = connection.execute("SELECT whole::text FROM reporting.contact_history AS whole").fetchall()
        connection.rollback()
    return sorted(row for (row,) in found)


def test_functions_are_for_those_who_may_ask_the_view(asked: Archive) -> None:
    yesterday = TODAY - timedelta(days=1)
    for role in ("etl_reporting", "analyst", "etl_loader"):
        with as_role(asked, role) as connection:
            for view in views(asked):
                may = connection.execute("SELECT has_table_privilege(%s, 'SELECT') AS may", [f"reporting.{view}"])
                if (may.fetchone() or {})["may"]:
                    of_view = _said(connection, f"(SELECT * FROM reporting.{view} WHERE day = '{yesterday}')")
                    of_function = _said(connection, f"reporting.{view}_on('{yesterday}')")
                    if view == "contact_history":  # whose attempts are numbered otherwise
                        assert len(of_view) == len(of_function), (role, view)
                    else:
                        assert of_view == of_function, (role, view)
                else:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        _said(connection, f"reporting.{view}_on('{yesterday}')")


def _said(connection: "psycopg.Connection[dict[str, object]]", source: str) -> list[str]:
    found = connection.execute(f"SELECT whole::text AS said FROM {source} AS whole".encode()).fetchall()
    return sorted(str(row["said"]) for row in found)


def test_a_key_of_numbers_is_a_contacts_own_and_tells_nothing(asked: Archive) -> None:
    (numbers,) = asked.rows(
        "SELECT count(DISTINCT (contact_ref, number)) AS pairs, count(DISTINCT number_key) AS keys,"
        " count(*) FILTER (WHERE strpos(number_key, right(number, 6)) > 0) AS told"
        " FROM reporting.calls WHERE contact_ref <> '' AND number <> ''"
    )
    assert numbers["pairs"] == numbers["keys"] > 100
    assert numbers["told"] == 0
    assert asked.value("SELECT count(number_key) FROM reporting.calls WHERE contact_ref = ''") == 0
    with as_role(asked, "analyst") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM reporting.secret")


# -- what they lock


FIRST = date(2025, 12, 1)


@pytest.fixture
def empty_days(archive: Archive) -> Archive:
    _make_days(archive, 0, 40)
    return archive


def _make_days(archive: Archive, begin: int, end: int) -> None:
    days = [FIRST + timedelta(days=n) for n in range(begin, end)]
    for dataset in ("cdrs", "audit_events"):
        archive.rows("SELECT make_partition(%s, day) FROM unnest(CAST(%s AS date[])) AS day", dataset, days)


def locked(archive: Archive, question: str) -> list[str]:
    """The relations that are locked for planning and answering a question."""
    with psycopg.connect(archive.database_url) as connection:
        connection.execute(question.encode())
        held = connection.execute(
            "SELECT DISTINCT relation::regclass::text FROM pg_locks"
            " WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation > 16384"
        ).fetchall()
        return sorted(name for (name,) in held)


def test_functions_lock_no_more_with_more_days(empty_days: Archive) -> None:
    day, until = FIRST + timedelta(days=20), FIRST + timedelta(days=26)
    names = views(empty_days)
    of_a_day = [f"SELECT * FROM reporting.{name}_on('{day}')" for name in names]
    of_a_week = [f"SELECT * FROM reporting.{name}_between('{day}', '{until}')" for name in names]
    asked = [*of_a_day, *of_a_week, *questions().values()]
    before = [locked(empty_days, question) for question in asked]
    for question, held in zip(of_a_day, before, strict=False):
        assert len(held) <= MOST_LOCKS, question
    assert any("cdrs_20251221" in held for held in before)

    _make_days(empty_days, 40, 120)
    assert [locked(empty_days, question) for question in asked] == before
    assert len(locked(empty_days, f"SELECT * FROM reporting.calls WHERE day = '{day}'")) > 120, "as its comment says"


def test_views_that_lock_every_partition_say_so(archive: Archive) -> None:
    for view in archive.rows(READING):
        name = view["relname"]
        comment = archive.value("SELECT obj_description(to_regclass(%s), 'pg_class')", f"reporting.{name}")
        assert "locks all partitions" in comment
        assert f"reporting.{name}_on" in comment
        for function in ("on(date)", "between(date, date)"):
            signature = f"reporting.{name}_{function}"
            about = archive.value("SELECT obj_description(to_regprocedure(%s), 'pg_proc')", signature)
            assert "literal dates" in about, signature
