"""The call centre's dashboard: each of its queries, as the file has them, asked as Grafana would, is what `etl report`
says of the same days. Whatever is added to the file is asked too, and must be a figure of a report by its name."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import dict_row

from etl.lab.simulator import Profile
from etl.reporting.asks import ASKS
from tests.compose import CHECKOUT
from tests.integration.test_reporting_truth import World, tell
from tests.store import ROLES
from tests.world import Archive, cdr

pytestmark = pytest.mark.versions

DASHBOARD = json.loads((CHECKOUT / "ops/grafana/dashboards/call-centre.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
UNTIL = datetime(2024, 5, 17, 20, tzinfo=UTC)
LAST = date(2024, 5, 17)
ZONES = ["Asia/Kolkata", "America/Los_Angeles"]
# As an etl before 0.2 left its figures: what it didn't count, it didn't know.
FORGET = (
    "UPDATE reporting.campaign_figures SET outbound_attempts = NULL, inbound_calls = NULL, waits = NULL"
    " WHERE day = %s RETURNING day"
)
Rows = list[dict[str, Any]]
Key = tuple[object, ...]


@pytest.fixture
def archive_of_days(request: pytest.FixtureRequest, archive: Archive) -> Archive:
    """Three days of both directions with their events, in a zone whose days aren't UTC's; its figures are rolled up."""
    zone = getattr(request, "param", ZONES[0])
    archive.rows("UPDATE reporting.settings SET zone = %s, target_service_level = 0.8 RETURNING zone", zone)
    profile = Profile(cdrs=900, until=UNTIL, days=3, dialect="both", seed=20, late=0.08, broken=0.01, pubsub=True)
    # A campaign without a name, and a week before.
    archive.push(*(cdr(n, ref=None, dialed_at=int(UNTIL.timestamp()) - n * 86_400) for n in (1, 2, 7, 8, 40)))
    tell(World(archive, profile, ZoneInfo(zone)))
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    return archive


@pytest.fixture
def reporting(archive_of_days: Archive) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    url = archive_of_days.database_url.replace("postgres@", "etl_reporting@")
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")  # whatever the role's may be
        yield connection


def queries(panel: Mapping[str, Any]) -> list[str]:
    return [target["rawSql"] for target in panel["targets"]]


def expanded(query: str, begin: datetime, end: datetime) -> str:
    """As Grafana documents the macros of its Postgres data source; nothing that it would replace is left."""
    since, until = (f"'{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'" for moment in (begin, end))
    query = query.replace("$__timeFrom()", since).replace("$__timeTo()", until)
    query = re.sub(r"\$__timeFilter\(([^)]+)\)", rf"\1 BETWEEN {since} AND {until}", query)
    assert "$" not in query, "a macro or a variable that this test doesn't know"
    return query


def bounds(archive: Archive, first: date, last: date) -> tuple[datetime, datetime]:
    """From the first second of the first business day to the last of the last."""
    zone = ZoneInfo(archive.value("SELECT zone FROM reporting.settings"))
    begin, after = (datetime(day.year, day.month, day.day, tzinfo=zone) for day in (first, last + timedelta(days=1)))
    return begin, after - timedelta(seconds=1)


def ask(
    reporting: "psycopg.Connection[dict[str, Any]]", archive: Archive, title: str, first: date, last: date
) -> Iterator[Rows]:
    for query in queries(PANELS[title]):
        yield reporting.execute(expanded(query, *bounds(archive, first, last)).encode()).fetchall()
        reporting.rollback()


# -- what `etl report` says


class Reports:
    """Of the same days, as JSON; each is asked for once."""

    def __init__(self, archive: Archive, first: date, last: date) -> None:
        self._archive, self._days = archive, ("--from", str(first), "--to", str(last))
        self._found: dict[str, dict[str, Any]] = {}

    def __getitem__(self, kind: str) -> dict[str, Any]:
        if kind not in self._found:
            done = self._archive.run("report", kind, *self._days, "--format", "json")
            assert done.returncode == 0, done.stderr
            self._found[kind] = json.loads(done.stdout, parse_float=Decimal)
        return self._found[kind]

    def by(self, names: set[str]) -> dict[Key, dict[str, Any]]:
        """The rows that have such a key: by the columns that say whose figures they are."""
        total = self["campaign"]["total"] or {}
        if "period" in names:
            return {("these days",): total, ("last week",): self["campaign"]["last_week"]["total"] or {}}
        for name, kind, rows, called in (
            ("time", "hours", "rows", "hour"),
            ("trusted", "campaign", "load_days", "day"),
            ("end_reason", "reasons", "rows", "end_reason"),
        ):
            if name in names:
                return {(key_of(each[called], name),): each for each in self[kind][rows]}
        for name, kind in (("campaign_ref", "campaign"), ("extension", "agent")):
            if {"day", name} <= names:
                return {(each["day"], each[name]): each for each in self[kind]["rows"]}
            if name in names:
                return {(each[name],): each for each in self[kind]["by_subject"] or self[kind]["rows"]}
        return {(): total}


def key_of(value: str | None, name: str) -> object:
    return datetime.fromisoformat(value) if value and name == "time" else value


KEYS = ("period", "time", "day", "campaign_ref", "extension", "end_reason")


def assert_as_reported(rows: Rows, reports: Reports, title: str) -> set[str]:
    """Row by row and column by column; returns the columns that had a value somewhere."""
    names = set(rows[0])
    key = [name for name in KEYS if name in names]
    told = reports.by(names)
    targets = reports["campaign"]["targets"]
    wanted = {f"target_{name.removeprefix('average_')}": aim for name, aim in targets.items()}
    for row in rows:
        of_report = told[tuple(row[name] for name in key)]
        for name in names - set(key):
            # A period without calls has no total in the report, and here nulls.
            expected = wanted[name] if name in wanted else of_report[name] if of_report else None
            assert row[name] == expected, (title, name, row)
    return {name for name in names if any(row[name] is not None for row in rows)}


PERIODS = [(LAST, LAST), (LAST - timedelta(days=2), LAST - timedelta(days=1)), (LAST - timedelta(days=9), LAST)]


@pytest.mark.parametrize("archive_of_days", ZONES, indirect=True)
def test_each_query_is_what_the_report_says(
    archive_of_days: Archive, reporting: "psycopg.Connection[dict[str, Any]]"
) -> None:
    for first, last in PERIODS:
        reports = Reports(archive_of_days, first, last)
        for title in PANELS:
            for rows in ask(reporting, archive_of_days, title, first, last):
                assert rows, title
                valued = assert_as_reported(rows, reports, title)
                unset = {name for name in rows[0] if name.startswith("target_")} - {"target_service_level"}
                assert valued | unset == set(rows[0]), f"{title}: never anything but null"
                complete = {name for name in ("campaign_ref", "extension", "end_reason", "time") if name in rows[0]}
                if complete and "day" not in rows[0]:
                    assert len(rows) == len(reports.by(set(rows[0]))), title


def test_what_is_not_known_is_null_and_never_zero(
    archive_of_days: Archive, reporting: "psycopg.Connection[dict[str, Any]]"
) -> None:
    days = LAST - timedelta(days=1), LAST
    archive_of_days.rows(FORGET, days[0])
    reports = Reports(archive_of_days, *days)
    for title in PANELS:
        for rows in ask(reporting, archive_of_days, title, *days):
            assert_as_reported(rows, reports, title)
    for title in ("Outbound", "Inbound"):
        ((row,),) = ask(reporting, archive_of_days, title, *days)
        unknown = {name for name in ("outbound_attempts", "inbound_calls", "service_level") if name in row}
        assert unknown
        assert {row[name] for name in unknown} == {None}


def test_given_days_without_figures_then_nothing_is_zero(
    archive_of_days: Archive, reporting: "psycopg.Connection[dict[str, Any]]"
) -> None:
    never = date(2001, 1, 1)
    for title in PANELS:
        for rows in ask(reporting, archive_of_days, title, never, never):
            figures = {
                value
                for row in rows
                for name, value in row.items()
                if name not in KEYS and not name.startswith("target_")
            }
            assert figures <= {None}, title


def test_no_query_locks_more_than_the_partitions_near_its_days(
    archive_of_days: Archive, reporting: "psycopg.Connection[dict[str, Any]]"
) -> None:
    partitions = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = %s::regclass"
    there = {row["name"] for table in ("cdrs", "audit_events") for row in archive_of_days.rows(partitions, table)}
    assert len(there) > 6
    locked = (
        b"SELECT relation::regclass::text AS name FROM pg_locks WHERE pid = pg_backend_pid() AND relation IS NOT NULL"
    )
    near = {f"{LAST + timedelta(days=n):%Y%m%d}" for n in range(-4, 5)}
    for title, panel in PANELS.items():
        for query in queries(panel):
            reporting.execute(expanded(query, *bounds(archive_of_days, LAST, LAST)).encode())
            held = {row["name"] for row in reporting.execute(locked).fetchall()} & there
            reporting.rollback()
            assert {name.rpartition("_")[2] for name in held} <= near, title


# -- what the panels make of it


def columns(panel: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The panel's fields, with what is set for each."""
    overrides = panel["fieldConfig"]["overrides"]
    assert all(each["matcher"]["id"] == "byName" for each in overrides)
    return {each["matcher"]["options"]: {p["id"]: p["value"] for p in each["properties"]} for each in overrides}


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_says_what_it_shows_and_what_it_does_not_know(title: str) -> None:
    panel = PANELS[title]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["noValue"] == "not known"
    counts = {name for ask in ASKS.values() for name, how in ask.figures.items() if how.startswith(("sum(", "count("))}
    for name, settings in columns(panel).items():
        assert settings["displayName"], name
        if name in counts:  # a rate of nothing is nothing; a sum of nothing isn't known
            assert "noValue" not in settings, name
    if panel["type"] == "timeseries":  # nothing is drawn where nothing is known
        assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False
    else:  # the value itself, and not the last that there was
        assert panel["options"].get("reduceOptions", {"calcs": ["last"]})["calcs"] == ["last"]


def test_inbound_and_outbound_are_apart_in_every_panel(
    archive_of_days: Archive, reporting: "psycopg.Connection[dict[str, Any]]"
) -> None:
    assert len(PANELS) == len(DASHBOARD["panels"]), "two have the same title, and only one of them is asked"
    together = {"attempts", "answered", "reached_agent", "abandoned", "answer_seizure_ratio", "abandon_rate"}
    for title, panel in PANELS.items():
        for row, *_ in ask(reporting, archive_of_days, title, LAST, LAST):
            assert not together & set(row), title
            assert set(row) - {"time"} == set(columns(panel)), f"{title}: a column without a heading, or one too many"
