"""What agents did all day: their states and calls from hour to hour, and when nobody listened.

Looked up for a day's report of agents only, as its page is all that shows it.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

AGENTS = 30  # at most, those with the most calls first
STATES = {"busy": "busy", "wrapup": "wrap-up", "available": "available"}
OTHER, GAP, CALL = "other states", "nobody listened", "calls"
MOST = 20_000  # states or calls in one chart: a page with more is too large to open


class Span(NamedTuple):
    """Hours are from the business day's beginning on, and within it; times are the zone's."""

    extension: str
    part: str
    begin: float
    end: float
    text: str


class Timeline(NamedTuple):
    hours: float  # as many as the day has
    states: list[Span]
    calls: list[Span]
    gaps: list[Span]  # of no extension


def look(connection: sa.Connection, day: date, extensions: Sequence[str]) -> Timeline | None:
    """None if there's more than can be shown. Raises `Outage` or `ConfigurationError`."""
    begin, end, now = connection.execute(_DAY, {"day": day}).one()
    asked = {"day": day, "extensions": list(extensions), "most": MOST + 1}
    states, calls, gaps = (
        list(connection.execute(query, asked if ":day" in str(query) else {"begin": begin, "end": end}))
        for query in (_STATES, _CALLS, _GAPS)
    )
    if max(len(states), len(calls)) > MOST:
        return None

    def span(extension: str, part: str, since: datetime | None, until: datetime | None, clocks: Any) -> Span | None:
        since, until = max(since or begin, begin), min(until or now, end, now)
        if until < since:
            return None
        first, last = ((moment - begin).total_seconds() / 3600 for moment in (since, until))
        said = " to ".join(f"{clock:%H:%M:%S}" if clock else "?" for clock in clocks)
        return Span(extension, part, first, last, f"{part} from {said}")

    found = (
        [span(row.extension, STATES.get(row.status, OTHER), row.since, row.until, row[-2:]) for row in states],
        [span(row.extension, CALL, row.since, row.until, row[-2:]) for row in calls],
        [span("", GAP, row.since, row.until, row[-2:]) for row in gaps],
    )
    return Timeline((end - begin).total_seconds() / 3600, *([each for each in some if each] for some in found))


_ZONE = "(SELECT zone FROM reporting.settings)"
_DAY = sa.text(
    f"SELECT CAST(:day AS date)::timestamp AT TIME ZONE {_ZONE},"  # our own words
    f" (CAST(:day AS date) + 1)::timestamp AT TIME ZONE {_ZONE}, now()"
)
# A state lasts into the next day at most; one that a login ended had an end before that nobody knows.
_STATES = sa.text(f"""
SELECT extension, status, state_from AS since, state_until AS until,
    state_from AT TIME ZONE {_ZONE}, state_until AT TIME ZONE {_ZONE}
FROM reporting.agent_states_between(CAST(:day AS date) - 1, :day)
WHERE extension = ANY(:extensions) AND closed_by <> 'login'
    AND coalesce(state_until, now()) > CAST(:day AS date)::timestamp AT TIME ZONE {_ZONE}
ORDER BY extension, state_from LIMIT :most
""")  # noqa: S608  # our own words
_CALLS = sa.text(f"""
SELECT extension, since, since + make_interval(secs => coalesce(talk_seconds, 0)) AS until,
    since AT TIME ZONE {_ZONE},
    CASE WHEN talk_seconds IS NOT NULL THEN (since + make_interval(secs => talk_seconds)) AT TIME ZONE {_ZONE} END
FROM (
    SELECT extension, talk_seconds,
        dialed_at + make_interval(secs => coalesce(ring_seconds, 0) + coalesce(hold_seconds, 0)) AS since
    FROM reporting.calls_on(:day) WHERE reached_agent AND extension = ANY(:extensions)
) AS calls
ORDER BY extension, since LIMIT :most
""")  # noqa: S608  # our own words
_GAPS = sa.text(f"""
SELECT gap_from AS since, gap_until AS until, gap_from AT TIME ZONE {_ZONE}, gap_until AT TIME ZONE {_ZONE}
FROM reporting.gaps_between(:begin, :end)
""")  # noqa: S608  # our own words
