"""The statements by which `today` looks at today. They ask the views of the schema `reporting` only."""

import sqlalchemy as sa

from etl.reporting.kept import WHICH

NOW = sa.text(
    "SELECT *, now() AS now, now() AT TIME ZONE zone AS local,"
    " date_trunc('day', now() AT TIME ZONE zone) AT TIME ZONE zone AS midnight"
    " FROM reporting.settings"
)
# By Postgres, which knows all zones: on the day that the clocks are set, an hour is no difference from now.
CLOCKS = sa.text("SELECT at, at AT TIME ZONE :zone AS clock FROM unnest(CAST(:moments AS timestamptz[])) AS at")
_COUNTED = (
    "outbound_attempts",
    "outbound_reached",
    "outbound_dropped",
    "outbound_unclear",
    "inbound_calls",
    "inbound_offered",
    "inbound_reached",
)
_WHICH = {
    **{name: WHICH[name] for name in _COUNTED},
    "waits_known": f"{WHICH['inbound_offered']} AND wait_seconds IS NOT NULL",
    "in_time": f"{WHICH['inbound_reached']} AND wait_seconds <= service_level_seconds",
}
CALLS = sa.text(
    "SELECT campaign_ref, count(*) AS calls, max(loaded_at) AS loaded_at, max(dialed_at) AS dialed_at, {counts}"
    " FROM reporting.calls_on(:day), reporting.settings GROUP BY campaign_ref".replace(
        "{counts}", ", ".join(f"count(*) FILTER (WHERE {which}) AS {name}" for name, which in _WHICH.items())
    )
)
RATES = {
    "outbound_abandon_rate": ("outbound_dropped", "outbound_live"),
    "inbound_abandon_rate": ("inbound_abandoned", "inbound_offered"),
    "service_level": ("answered_in_time", "waits_known"),
}
LAST_WEEK = sa.text(
    "SELECT {sums} FROM reporting.campaign_hours, reporting.settings"
    " WHERE day = :day AND hour AT TIME ZONE zone < :until".replace(
        "{sums}",
        ", ".join(
            f"CASE WHEN count({name}) = count(*) THEN sum({name}) END" for pair in RATES.values() for name in pair
        ),
    )
)
AGENTS = sa.text("""
SELECT DISTINCT ON (extension) extension, status, campaign_ref, captured_at
FROM reporting.events_between(:first, :last)
WHERE kind = 'agents' AND event_type = 'status' AND extension IS NOT NULL
    AND captured_at > coalesce(CAST(:since AS timestamptz), '-infinity')
ORDER BY extension, captured_at DESC, event_id DESC""")
GAPS = sa.text("SELECT gap_from, gap_until, server FROM reporting.gaps_between(:since, now())")
# It has days only of which something was loaded.
BOOKS = sa.text("SELECT day, dead_letters, twins FROM reporting.load_days WHERE day BETWEEN :first AND :last")
NAMES = sa.text(
    "SELECT kind, reference, name FROM reporting.names_masked"
    " WHERE kind = 'agent' AND reference = ANY(:agents) OR kind = 'campaign' AND reference = ANY(:campaigns)"
)
