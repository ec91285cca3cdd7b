"""The figures of an archive of 0.1, when it is upgraded and rollups of 0.1 go on."""

import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from psycopg.rows import dict_row

from etl.store import schema
from etl.store.writer import Writer
from tests.store import ROLES, engine, write
from tests.world import cdr

# As 0.1 keeps them.
FIGURES = (
    "INSERT INTO reporting.campaign_figures (day, hour, campaign_ref, attempts, answered, reached_agent, abandoned,"
    " voicemail, busy, no_answer, rejected, failed, talk_seconds, hold_seconds, held, contacts, contacts_reached)"
    " VALUES (%s, NULL, '2040', 9, 5, 4, 1, 0, 1, 1, 1, 1, 400, 30, 3, 8, 4)",
    "INSERT INTO reporting.agent_call_figures (day, hour, extension, calls, talk_seconds, hold_seconds)"
    " VALUES (%s, NULL, '1002', 4, 400, 30)",
    "INSERT INTO reporting.agent_state_figures (day, hour, extension, logged_in_seconds, available_seconds,"
    " busy_seconds, wrapup_seconds, unclosed) VALUES (%s, NULL, '1002', 900, 300, 500, 100, 0)",
    "INSERT INTO reporting.rolled_up (dataset, day, entries, zone) VALUES ('cdrs', %s, 3, 'UTC')",
)
NEW = {"absurd_durations": 0}
# What 0.1 didn't keep isn't known, and no zero.
UNKNOWN = (
    *("outbound_attempts", "outbound_answered", "outbound_machines", "outbound_reached", "outbound_dropped"),
    *("outbound_unclear", "outbound_short_dropped", "outbound_live", "outbound_asr", "outbound_abandon_rate"),
    *("outbound_contacts", "outbound_contacts_reached", "outbound_contact_attempts", "outbound_contact_rate"),
    *("attempts_per_contact", "inbound_calls", "inbound_offered", "inbound_reached", "inbound_abandoned"),
    *("inbound_short_abandoned", "inbound_abandon_rate", "waits_known", "answered_in_time", "service_level"),
    *("service_level_without_short", "answer_waits_known", "answer_wait_seconds", "average_speed_of_answer"),
    *("longest_wait", "wait_p80", "wait_p95", "unknown_dispositions", "contacts_previewed", "list_penetration"),
    *("waits", "waits_answered", "waits_abandoned", "waits_dropped", "campaign_name", "campaign_group"),
)
OF_AGENTS = {
    **dict.fromkeys(("outbound_calls", "inbound_calls", "agent_name", "agent_group")),
    "states_known": True,
    "wrapped_calls": 4,
    "average_wrapup_seconds": Decimal(25),
    "aht_seconds": Decimal("132.5"),
    "aht_of": "talk + hold + wrap-up",
}
NEW_OF_VIEW: dict[str, dict[str, object]] = {
    "campaign_days": NEW | {"talked": 4} | dict.fromkeys(UNKNOWN),
    "agent_days": NEW | {"talked": 4, "held": 4} | OF_AGENTS,
}


def upgrade(connections: sa.Engine, revision: str) -> None:
    with connections.begin() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@pytest.fixture
def old(empty_database_url: str) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """With figures of a day."""
    with engine(empty_database_url) as connections:
        upgrade(connections, "0008")
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        keep(connection, "2015-02-19")
        yield connection


def keep(connection: "psycopg.Connection[dict[str, Any]]", day: str) -> None:
    for statement in FIGURES:
        connection.execute(statement.encode(), [day])


def test_figures_of_0_1_stay_what_they_are(old: "psycopg.Connection[dict[str, Any]]", empty_database_url: str) -> None:
    asked = {view: old.execute(f"SELECT * FROM reporting.{view}".encode()).fetchall() for view in NEW_OF_VIEW}
    with engine(empty_database_url) as connections:
        schema.upgrade(connections)
    keep(old, "2015-02-20")  # by one that still runs

    for view, new in NEW_OF_VIEW.items():
        (before,) = asked[view]
        first, second = old.execute(f"SELECT * FROM reporting.{view} ORDER BY day".encode()).fetchall()
        assert first == before | new
        same = ("day", "refreshed_at")
        assert {**second, **{name: first[name] for name in same}} == first
    assert old.execute("SELECT DISTINCT twins FROM reporting.rolled_up").fetchall() == [{"twins": None}]


@pytest.fixture
def reader(old: "psycopg.Connection[dict[str, Any]]") -> Iterator[str]:
    """Whom somebody has let ask a view."""
    name = f"reader_{os.getpid()}"
    old.execute(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA reporting TO {name}".encode())
    old.execute(f"GRANT SELECT ON reporting.load_days TO {name}".encode())
    yield name
    old.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def test_who_may_ask_load_days_may_ask_for_twins_at_once(
    old: "psycopg.Connection[dict[str, Any]]", empty_database_url: str, reader: str
) -> None:
    """Without running roles.sql again, which wants an administrator."""
    with engine(empty_database_url) as connections:
        schema.upgrade(connections)

    privilege = "SELECT has_table_privilege(%s, 'reporting.twins', %s) AS may"
    assert [old.execute(privilege, [reader, right]).fetchall() for right in ("SELECT", "INSERT")] == [
        [{"may": True}],
        [{"may": False}],
    ]
    with psycopg.connect(empty_database_url.replace("postgres@", f"{reader}@")) as connection:
        assert connection.execute("SELECT * FROM reporting.twins").fetchall() == []


SITE = """CREATE SCHEMA site AUTHORIZATION {reader}; GRANT USAGE ON SCHEMA site TO PUBLIC;
GRANT SELECT ON reporting.calls, reporting.contact_history TO {reader};
CREATE VIEW site.calls AS SELECT day, number, contact_ref FROM reporting.calls;
CREATE VIEW site.few AS SELECT * FROM site.calls LIMIT 5;
ALTER VIEW site.calls OWNER TO {reader}; ALTER VIEW site.few OWNER TO {reader};
CREATE ROLE {guest} LOGIN; GRANT SELECT ON site.few TO {guest};
GRANT USAGE ON SCHEMA reporting TO {guest};
GRANT SELECT (campaign_ref, attempt) ON reporting.contact_history TO {guest}"""
ASKED = ("SELECT * FROM site.few", "SELECT campaign_ref, attempt FROM reporting.contact_history")


@pytest.mark.parametrize("by", ["upgrade", "roles.sql"])
def test_given_a_view_of_their_own_then_whoever_asked_it_still_may(
    old: "psycopg.Connection[dict[str, Any]]", empty_database_url: str, reader: str, by: str
) -> None:
    """Of views of views, and of single columns: what masks needs the right to call it."""
    guest = f"guest_{os.getpid()}"
    old.execute(SITE.format(reader=reader, guest=guest).encode())
    try:
        with engine(empty_database_url) as connections:
            schema.upgrade(connections)
        if by == "roles.sql":
            old.execute(ROLES.encode())

        for role, asked in ((reader, ASKED[:1]), (guest, ASKED)):
            with psycopg.connect(empty_database_url.replace("postgres@", f"{role}@")) as connection:
                for query in asked:
                    assert connection.execute(query.encode()).fetchall() == []
        may = "SELECT has_function_privilege(%s, 'reporting.index_contacts(date)', 'EXECUTE') AS may"
        assert old.execute(may, [guest]).fetchall() == [{"may": False}]
    finally:
        old.execute(f"DROP SCHEMA site CASCADE; DROP OWNED BY {guest}; DROP ROLE {guest}".encode())


# A site's own: whatever columns there were, by name and by star, of views and of functions.
SITES = {
    "days": "SELECT * FROM reporting.campaign_days",
    "hours": "SELECT * FROM reporting.agent_hours",
    "calls": "SELECT * FROM reporting.calls_on('2015-02-19')",
    "whole": "SELECT c.call_ref, c.answered, c.abandoned FROM reporting.calls c",
    "events": "SELECT * FROM reporting.call_audit_between('2015-02-18', '2015-02-19')",
}


def test_views_of_a_site_go_on_after_the_upgrade(empty_database_url: str) -> None:
    with engine(empty_database_url) as connections:
        upgrade(connections, "0021")
        with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
            connection.execute("CREATE SCHEMA site")
            for name, question in SITES.items():
                connection.execute(f"CREATE VIEW site.{name} AS {question}".encode())
            write(Writer(connections), cdr(1), cdr(2, extension=None))
            keep(connection, "2015-02-19")

            def found(name: str) -> list[str]:
                """In no promised order."""
                return sorted(map(str, connection.execute(f"SELECT * FROM site.{name}".encode())))

            before = {name: found(name) for name in SITES}

            schema.upgrade(connections)

            for name, rows in before.items():
                assert found(name) == rows, name
            assert len(before["calls"]) == 2


def test_a_sites_own_dispositions_are_what_their_names_say(empty_database_url: str) -> None:
    names = ("answering_machine", "machine_left_message", "interested")
    with engine(empty_database_url) as connections:
        upgrade(connections, "0021")
        with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
            for name in names:
                connection.execute(
                    "INSERT INTO reporting.end_reasons (end_reason, answered, meaning, ended_by)"
                    " VALUES (%s, true, 'A site''s own', 'unknown')",
                    [name],
                )
            schema.upgrade(connections)
            write(Writer(connections), *(cdr(n, end_reason=name, extension=None) for n, name in enumerate(names)))
            found = connection.execute("SELECT end_reason, machine FROM reporting.calls").fetchall()
    assert {row["end_reason"]: row["machine"] for row in found} == dict(zip(names, (True, True, False), strict=True))
