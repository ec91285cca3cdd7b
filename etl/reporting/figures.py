"""What `etl report` shows, asked of the views of the schema `reporting` only: so the role etl_reporting can run it.

One statement gives the views' rows and their totals. Ratios and averages of a total are computed from its sums, never
from other ratios; what sums can't give, such as the number of different contacts over several days, is null in totals
of more than one row. Percentiles of waits are those of all the waits of a row, and a second statement has these. A sum
is null if one of its parts isn't known: figures that an older etl computed lack many.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import accumulate
from typing import Any, NamedTuple

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.reporting.asks import ASKS, FRESH, PERCENTILES, Ask
from etl.reporting.timeline import AGENTS, Timeline, look

_DAY = timedelta(days=1)
_EXAMPLES = 10  # campaigns named to whoever asked for others that have no rows

Row = dict[str, Any]


# Figure → the target in reporting.settings that it has.
TARGETED = {
    "service_level": "service_level",
    "average_speed_of_answer": "speed_of_answer",
    "inbound_abandon_rate": "inbound_abandon_rate",
    "outbound_abandon_rate": "outbound_abandon_rate",
    "occupancy": "occupancy",
}
AT_LEAST = frozenset({"service_level", "occupancy"})  # of the others a target is what they are at most


@dataclass(frozen=True, slots=True)
class Asked:
    """`kind` is campaign, agent, hours or reasons; agents' figures aren't kept by campaign. No campaigns: all."""

    kind: str
    first: date  # business day
    last: date
    campaigns: tuple[str, ...] = ()


class Wait(NamedTuple):
    """How many offered calls an agent answered, and how many were given up, after so many seconds."""

    seconds: int
    answered: int
    abandoned: int


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
    last_week: "LastWeek"
    settings: Row  # of reporting.settings
    waits: list[Wait]  # of all rows together, the shortest first; none if no wait is known
    timeline: Timeline | None = None  # of a day's agents, if that was asked for
    changes_offset: bool = False  # from UTC: whether the rows' hours have several

    def target(self, figure: str) -> Decimal | None:
        """What the figure should be, if a target is set."""
        return self.settings.get(f"target_{TARGETED[figure]}") if figure in TARGETED else None


@dataclass(frozen=True, slots=True)
class LastWeek:
    """The same days of the week before; of more than a week, of so many weeks before that no day is in both."""

    first: date
    last: date
    total: Row | None  # None if there are no rows


def yesterday(engine: sa.Engine) -> date:
    """The last business day that is over. Raises `Outage` or `ConfigurationError`."""
    with engine.connect() as connection:
        return _now(connection)[1].date() - _DAY


class TooMany(Exception):
    """More rows than may be fetched."""


def ask(
    engine: sa.Engine, asked: Asked, most: int | None = None, with_timeline: bool = False, agent: str | None = None
) -> Report:
    """A timeline is that of one agent, or of all. Raises `TooMany` if there are more than `most` rows with their
    totals, before it has fetched more than that; and `Outage` or `ConfigurationError`."""
    how = ASKS[asked.kind]
    period = {"first": asked.first, "last": asked.last}
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        zone, now = _now(connection)
        found, waits = _found(connection, how, asked, most)
        apart = 0 * _DAY if zone == "UTC" else _DAY
        books = connection.execute(_BOOKS, {"first": asked.first - apart, "last": asked.last + apart}).mappings()
        known = None if found else connection.execute(_KNOWN).one()
        examples = {**period, "examples": _EXAMPLES}
        there = connection.scalars(_CAMPAIGNS, examples) if not found and asked.campaigns else ()
        comments = connection.execute(_COMMENTS, {"view": f"reporting.{how.view}"})
        total = next((row for row in found if row["level"] == "all"), None)
        agents = _agents(found, asked, agent) if with_timeline else []
        rows = [_row(row) for row in found if row["level"] == "row"]
        return Report(
            asked=asked,
            zone=zone,
            now=now,
            rows=rows,
            by_subject=[_row(row) for row in found if row["level"] == "subject"],
            total=None if total is None else _row(total),
            refreshed_at=total["refreshed_at"] if total else None,
            books=[dict(row) for row in books],
            known=None if known is None or known.first is None else (known.first, known.last),
            campaigns_there=list(there),
            comments={name: comment for name, comment in comments if comment},
            last_week=_last_week(connection, how, asked),
            settings=dict(connection.execute(_SETTINGS).mappings().one()),
            waits=waits,
            changes_offset=len({row["hour"].utcoffset() for row in rows if "hour" in row}) > 1,
            timeline=look(connection, asked.first, agents) if agents else None,
        )


def _agents(found: Sequence[Row], asked: Asked, agent: str | None) -> list[str]:
    """Whose timeline is shown: those of one day, not of several."""
    if asked.kind != "agent" or asked.first != asked.last:
        return []
    agents = [row["extension"] for row in found if row["level"] == "row" and agent in (None, row["extension"])]
    return agents[:AGENTS]


def _last_week(connection: sa.Connection, how: Ask, asked: Asked) -> LastWeek:
    weeks = (asked.last - asked.first).days // 7 + 1
    first, last = (day - weeks * 7 * _DAY for day in (asked.first, asked.last))
    found, _ = _found(connection, how, Asked(asked.kind, first, last, asked.campaigns), total_only=True)
    return LastWeek(first, last, _row(found[0]) if found else None)


def _found(
    connection: sa.Connection, how: Ask, asked: Asked, most: int | None = None, total_only: bool = False
) -> tuple[list[Row], list[Wait]]:
    """Rows of all levels, or of the total alone, and the waits of the total; none if there are no calls."""
    limit = {"limit": None if most is None else most + 1}
    rows = connection.execute(_statement(how, asked, total_only), _parameters(asked) | limit)
    found = [dict(row) for row in rows.mappings()]
    if most is not None and len(found) > most:
        raise TooMany
    if not any(row["calls_or_rows"] for row in found):
        return [], []
    if "wait_p80" not in how.figures:
        return found, []
    waits: dict[tuple[object, ...], list[Wait]] = {}
    for *key, wait, answered, abandoned in connection.execute(_waits(how, asked, total_only), _parameters(asked)):
        waits.setdefault(tuple(key), []).append(Wait(wait, int(answered), int(abandoned)))
    _add_percentiles(how, found, waits)
    return found, waits.get(("all", *(None for _ in how.key)), [])


def _add_percentiles(how: Ask, found: Sequence[Row], waits: dict[tuple[object, ...], list[Wait]]) -> None:
    """By the nearest rank: the smallest wait that so many in a hundred don't exceed."""
    for row in found:
        of_row = waits.get((row["level"], *(row[name] for name in how.key)), ())
        # As the views have it: of figures of an older etl nothing is known.
        if row["waits_known"] is None:
            row["longest_wait"] = None
        elif of_row:
            upto = [*accumulate(each.answered + each.abandoned for each in of_row)]
            for name, percent in PERCENTILES.items():
                row[name] = of_row[bisect_left(upto, -(-percent * upto[-1] // 100))].seconds


def _now(connection: sa.Connection) -> tuple[str, datetime]:
    if connection.scalar(sa.text("SELECT to_regclass('reporting.names_masked')")) is None:
        raise ConfigurationError("ETL-313", "the database has no views for reports: run `etl db upgrade`")
    zone, now, local = connection.execute(_NOW).one()
    return zone, _in_zone(now, local)


def _in_zone(moment: datetime, local: datetime) -> datetime:
    """The same moment, with the offset that the zone has then: Postgres knows all zones, this machine may not."""
    offset = local - moment.astimezone(UTC).replace(tzinfo=None)
    return moment.astimezone(timezone(offset))


def _statement(how: Ask, asked: Asked, total_only: bool) -> sa.TextClause:
    """Rows, totals by subject, and the total; `level` says which."""
    figures = dict(how.figures) | (FRESH if how.view != "calls" else {"refreshed_at": "NULL::timestamptz"})
    listed = ", ".join(f"{expression} AS {column}" for column, expression in (dict(how.also) | figures).items())
    local = ", hour AT TIME ZONE (SELECT zone FROM reporting.settings) AS local_hour" if "hour" in how.key else ""
    most_first = f"{next(iter(how.figures.values()))} DESC"
    order = [*(part for part in how.key if part in ("day", "hour")), most_first, how.key[-1]]
    query = f"""
SELECT {_level(how)} AS level, count(*) AS calls_or_rows,
    {", ".join(how.key)}{local}, {listed}
FROM reporting.{how.rows or how.view}
WHERE {_where(asked)}
GROUP BY GROUPING SETS ({", ".join(f"({each})" for each in _sets(how, asked))}){_having(how, total_only)}
ORDER BY {", ".join(order)} LIMIT :limit"""  # noqa: S608  # our own words
    return sa.text(query)


def _having(how: Ask, total_only: bool) -> str:
    """A total with no other rows to fetch: of them there may be very many."""
    return f" HAVING {_level(how)} = 'all'" if total_only else ""


def _waits(how: Ask, asked: Asked, total_only: bool) -> sa.TextClause:
    """Of the same rows and totals: how many offered calls waited how long."""
    sets = ", ".join(f"({', '.join(filter(None, (each, 'wait')))})" for each in _sets(how, asked))
    return sa.text(f"""
SELECT {_level(how)}, {", ".join(how.key)}, wait, sum(after.answered) AS answered,
    sum(after.abandoned) AS abandoned
FROM reporting.{how.view}
CROSS JOIN LATERAL unnest(waits, waits_answered, waits_abandoned) AS after (wait, answered, abandoned)
WHERE {_where(asked)} AND after.answered + after.abandoned > 0
GROUP BY GROUPING SETS ({sets}){_having(how, total_only)} ORDER BY wait""")  # noqa: S608  # our own words


def _where(asked: Asked) -> str:
    return "day BETWEEN :first AND :last" + (" AND campaign_ref = ANY(:campaigns)" if asked.campaigns else "")


def _level(how: Ask) -> str:
    subject = f"WHEN grouping({how.subject}) = 0 THEN 'subject'" if how.subject else ""
    return f"CASE WHEN grouping({how.key[0]}) = 0 THEN 'row' {subject} ELSE 'all' END"


def _sets(how: Ask, asked: Asked) -> list[str]:
    return [", ".join(how.key), *([how.subject] if how.subject and _has_subjects(how, asked) else []), ""]


def _has_subjects(how: Ask, asked: Asked) -> bool:
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
_SETTINGS = sa.text("SELECT * FROM reporting.settings")
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
    how = ASKS[asked.kind]
    return [*how.key, *how.also, *how.figures]
