"""What `etl report` shows, asked of the views of the schema `reporting` only: so the role etl_reporting can run it.

One statement gives the views' rows and their totals. Ratios and averages of a total are computed from its sums, never
from other ratios; what sums can't give, such as the number of different contacts over several days, is null in totals
of more than one row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from etl.errors import ConfigurationError

_DAY = timedelta(days=1)
_EXAMPLES = 10  # campaigns named to whoever asked for others that have no rows

Row = dict[str, Any]


class _Ask(NamedTuple):
    """How a report is asked of its view."""

    view: str
    key: tuple[str, ...]  # columns that identify a row, in their order
    subject: str | None  # the column of the key by which there are totals over several days
    figures: Mapping[str, str]  # column → its aggregate
    also: Mapping[str, str] = MappingProxyType({})  # further columns → their expressions; null in totals
    rows: str = ""  # where they are looked for, if not in the view


def _ratio(part: str, whole: str, digits: int = 4) -> str:
    return f"round(({part})::numeric / nullif({whole}, 0), {digits})"


def _sums(*columns: str) -> dict[str, str]:
    return {column: f"sum({column})" for column in columns}


def _of_one(column: str) -> str:
    return f"CASE WHEN count(*) = 1 THEN min({column}) END"


_OUTCOMES = _sums("attempts", "answered", "reached_agent", "abandoned", "voicemail") | _sums(
    "busy", "no_answer", "rejected", "failed"
)
_OF_OUTCOMES = {
    "answer_seizure_ratio": _ratio("sum(answered)", "sum(attempts)"),
    "abandon_rate": _ratio("sum(abandoned)", "sum(answered)"),
    "average_talk_seconds": _ratio("sum(talk_seconds)", "sum(talked)", 1),
    "average_hold_seconds": _ratio("sum(hold_seconds)", "sum(held)", 1),
    **_sums("talk_seconds", "hold_seconds", "held"),
}
_CALLS = _OUTCOMES | _OF_OUTCOMES
_CONTACTS = {name: _of_one(name) for name in ("unique_contacts", "contacts_reached", "contact_rate")}
_TIMES = _sums("logged_in_seconds", "available_seconds", "busy_seconds", "wrapup_seconds", "unclosed")
# Last, as in the views.
_ABSURD = _sums("absurd_durations", "talked")
_FRESH = {"refreshed_at": "min(refreshed_at)"}

_ASKS = {
    "campaign": _Ask("campaign_days", ("day", "campaign_ref"), "campaign_ref", _CALLS | _CONTACTS | _ABSURD),
    "hours": _Ask("campaign_hours", ("day", "hour"), None, _CALLS | _ABSURD),
    "agent": _Ask(
        "agent_days",
        ("day", "extension"),
        "extension",
        {
            **_sums("calls", "talk_seconds", "hold_seconds"),
            "average_handle_seconds": "round(sum(talk_seconds)::numeric / nullif(sum(talked), 0)"
            " + coalesce(sum(hold_seconds)::numeric / nullif(sum(held), 0), 0), 1)",
            **_TIMES,
            "occupancy": _ratio(
                "sum(busy_seconds) + sum(wrapup_seconds)",
                "sum(available_seconds) + sum(busy_seconds) + sum(wrapup_seconds)",
            ),
            **_ABSURD,
            **_sums("held"),
        },
    ),
    "reasons": _Ask(
        "calls",
        ("end_reason",),
        None,
        {
            "calls": "count(*)",
            "answered": "count(*) FILTER (WHERE answered)",
            "reached_agent": "count(*) FILTER (WHERE reached_agent)",
            "absurd_durations": "count(*) FILTER (WHERE absurd_durations > 0)",
        },
        also={"disposition": "min(disposition)", "ended_by": "min(ended_by)"},
        rows="calls_between(:first, :last)",  # the view would lock every partition there is
    ),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """`kind` is campaign, agent, hours or reasons; agents' figures aren't kept by campaign. No campaigns: all."""

    kind: str
    first: date  # business day
    last: date
    campaigns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Columns are named as in the view. Hours are in the zone, with its offset from UTC at that time."""

    asked: Asked
    zone: str
    now: datetime  # Postgres's, in the zone
    rows: list[Row]
    by_subject: list[Row]  # totals by campaign or agent; only over several days
    total: Row | None  # None if there are no rows
    refreshed_at: datetime | None  # when the oldest of the kept figures was computed; None if none are kept
    books: list[Row]  # of reporting.load_days: the UTC days that the business days lie on
    known: tuple[date, date] | None  # first and last day with figures, if there are no rows
    campaigns_there: list[str]  # some of the period's, if those that were asked for have no rows
    comments: dict[str, str]  # column → its comment in the view


def yesterday(engine: sa.Engine) -> date:
    """The last business day that is over. Raises `Outage` or `ConfigurationError`."""
    with engine.connect() as connection:
        return _now(connection)[1].date() - _DAY


def ask(engine: sa.Engine, asked: Asked) -> Report:
    """Raises `Outage` or `ConfigurationError`."""
    how = _ASKS[asked.kind]
    period = {"first": asked.first, "last": asked.last}
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        zone, now = _now(connection)
        found = [dict(row) for row in connection.execute(_statement(how, asked), _parameters(asked)).mappings()]
        apart = 0 * _DAY if zone == "UTC" else _DAY
        books = connection.execute(_BOOKS, {"first": asked.first - apart, "last": asked.last + apart}).mappings()
        empty = not any(row["calls_or_rows"] for row in found)
        known = connection.execute(_KNOWN).one() if empty else None
        there = connection.scalars(_CAMPAIGNS, {**period, "examples": _EXAMPLES}) if empty and asked.campaigns else ()
        comments = connection.execute(_COMMENTS, {"view": f"reporting.{how.view}"})
        total = next((row for row in found if row["level"] == "all"), None)
        return Report(
            asked=asked,
            zone=zone,
            now=now,
            rows=[] if empty else [_row(row) for row in found if row["level"] == "row"],
            by_subject=[] if empty else [_row(row) for row in found if row["level"] == "subject"],
            total=None if empty or total is None else _row(total),
            refreshed_at=total["refreshed_at"] if total else None,
            books=[dict(row) for row in books],
            known=None if known is None or known.first is None else (known.first, known.last),
            campaigns_there=list(there),
            comments={name: comment for name, comment in comments if comment},
        )


def _now(connection: sa.Connection) -> tuple[str, datetime]:
    if connection.scalar(sa.text("SELECT to_regclass('reporting.load_days')")) is None:
        raise ConfigurationError("ETL-313", "the database has no views for reports: run `etl db upgrade`")
    zone, now, local = connection.execute(_NOW).one()
    return zone, _in_zone(now, local)


def _in_zone(moment: datetime, local: datetime) -> datetime:
    """The same moment, with the offset that the zone has then: Postgres knows all zones, this machine may not."""
    offset = local - moment.astimezone(UTC).replace(tzinfo=None)
    return moment.astimezone(timezone(offset))


def _statement(how: _Ask, asked: Asked) -> sa.TextClause:
    """Rows, totals by subject, and the total; `level` says which."""
    figures = dict(how.figures) | (_FRESH if how.view != "calls" else {"refreshed_at": "NULL::timestamptz"})
    listed = ", ".join(f"{expression} AS {column}" for column, expression in (dict(how.also) | figures).items())
    sets = [f"({', '.join(how.key)})", *([f"({how.subject})"] if _has_subjects(how, asked) else []), "()"]
    subject = f"WHEN grouping({how.subject}) = 0 THEN 'subject'" if how.subject else ""
    local = ", hour AT TIME ZONE (SELECT zone FROM reporting.settings) AS local_hour" if "hour" in how.key else ""
    most_first = f"{next(iter(how.figures.values()))} DESC"
    order = [*(part for part in how.key if part in ("day", "hour")), most_first, how.key[-1]]
    query = f"""
SELECT CASE WHEN grouping({how.key[0]}) = 0 THEN 'row' {subject} ELSE 'all' END AS level, count(*) AS calls_or_rows,
    {", ".join(how.key)}{local}, {listed}
FROM reporting.{how.rows or how.view}
WHERE day BETWEEN :first AND :last {"AND campaign_ref = ANY(:campaigns)" if asked.campaigns else ""}
GROUP BY GROUPING SETS ({", ".join(sets)})
ORDER BY {", ".join(order)}"""  # noqa: S608  # our own words
    return sa.text(query)


def _has_subjects(how: _Ask, asked: Asked) -> bool:
    return how.subject is not None and asked.last > asked.first


def _parameters(asked: Asked) -> dict[str, object]:
    campaigns = {"campaigns": list(asked.campaigns)} if asked.campaigns else {}
    return {"first": asked.first, "last": asked.last, **campaigns}


def _row(found: Row) -> Row:
    local = found.pop("local_hour", None)
    if local is not None:
        found["hour"] = _in_zone(found["hour"], local)
    return {name: value for name, value in found.items() if name not in ("level", "calls_or_rows", "refreshed_at")}


_NOW = sa.text("SELECT zone, now(), now() AT TIME ZONE zone FROM reporting.settings")
_BOOKS = sa.text("SELECT * FROM reporting.load_days WHERE day BETWEEN :first AND :last ORDER BY day")
_KNOWN = sa.text(
    "SELECT least(c.first, a.first) AS first, greatest(c.last, a.last) AS last"
    " FROM (SELECT min(day) AS first, max(day) AS last FROM reporting.campaign_days) c,"
    " (SELECT min(day) AS first, max(day) AS last FROM reporting.statuses) a"  # agents', without adding them up
)
_CAMPAIGNS = sa.text(
    "SELECT campaign_ref FROM reporting.campaign_days WHERE day BETWEEN :first AND :last AND campaign_ref IS NOT NULL"
    " GROUP BY campaign_ref ORDER BY sum(attempts) DESC LIMIT :examples"
)
_COMMENTS = sa.text(
    "SELECT attname, col_description(attrelid, attnum) FROM pg_catalog.pg_attribute"
    " WHERE attrelid = to_regclass(:view) AND attnum > 0"
)


def column_names(asked: Asked) -> Sequence[str]:
    """A row's columns, in order."""
    how = _ASKS[asked.kind]
    return [*how.key, *how.also, *how.figures]
