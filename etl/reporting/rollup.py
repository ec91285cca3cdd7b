"""Kept figures: `reporting.campaign_figures` and its siblings, computed anew for the days that changed by the ledger.

    ledger ──changed UTC days──▶ business days ──each in a transaction──▶ figures ──▶ reporting.rolled_up

The ledger is read first and its state noted last: a day is computed once more, never left out, if the process dies in
between or a claim commits meanwhile.
"""

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from etl.reporting import twins
from etl.reporting.left_out import LeftOut
from etl.store.tables import FIGURES_LOCK

_DAY = timedelta(days=1)
_LOCK = sa.select(sa.func.pg_advisory_xact_lock(FIGURES_LOCK))


class _Changed(NamedTuple):
    """A UTC day, the number of its ledger entries, the zone, and the first and last business day that the UTC day is
    part of, in this zone or in the one of the last rollup."""

    dataset: str
    day: date
    entries: int
    zone: str
    first: date
    last: date

    def business_days(self) -> set[date]:
        return {self.first + n * _DAY for n in range((self.last - self.first).days + 1)}


def refresh(
    engine: sa.Engine, today: date, everything: bool = False, progress: Callable[[date], None] = lambda _: None
) -> list[date]:
    """All that reports need: `rollup` of the whole ledger, and the indexes of contacts. Returns and raises as it."""
    left_out = LeftOut(engine)
    days = _rollup(engine, None, everything, progress, left_out)
    _index_contacts(engine, today, left_out)
    left_out.tell()
    return days


def rollup(
    engine: sa.Engine,
    since: datetime | None = None,
    everything: bool = False,
    progress: Callable[[date], None] = lambda _: None,
) -> list[date]:
    """Compute the business days that changed, or all of them if the time zone did; returns them, and calls `progress`
    with each one when it is done.

    With `since`, only what was committed from then on is looked at: quick, however long the ledger is. Without it,
    twins are counted too, for days that changed since the last count. `everything`: as if every day had changed. A
    business day that is part of a UTC day dropped from Postgres keeps its figures. Raises `Outage` or
    `ConfigurationError`; and, when all others are done, `EtlError` with the days that Postgres refuses to compute.
    """
    left_out = LeftOut(engine)
    days = _rollup(engine, since, everything, progress, left_out)
    left_out.tell()
    return days


def _rollup(
    engine: sa.Engine, since: datetime | None, everything: bool, progress: Callable[[date], None], left_out: LeftOut
) -> list[date]:
    with engine.connect() as connection:
        ledger = _LEDGER_SINCE if since else _LEDGER
        changed = [_Changed(*row) for row in connection.execute(ledger, {"since": since, "everything": everything})]
        connection.rollback()
        done: dict[str, set[date]] = {"cdrs": set(), "audit_events": set()}
        for day, dataset in sorted({(day, each.dataset) for each in changed for day in each.business_days()}):
            with left_out.of("figures", day):
                if _compute(connection, day, dataset, _OF_DATASET[dataset]):
                    done[dataset].add(day)
                    progress(day)
        states, of_states = _with_states(connection, done["audit_events"]), LeftOut(engine)
        for day in states:
            with of_states.of("figures of states", day):
                _compute(connection, day, None, _STATES)
                progress(day)
        if of_states:  # they follow from the events of other days, too
            done["audit_events"].clear()
            left_out += of_states
        with connection.begin():
            for each in changed:
                if each.business_days() <= done[each.dataset]:
                    connection.execute(_NOTE, each._asdict())
        if since is None:
            twins.keep(connection, _LOCK, left_out)
    return sorted({*done["cdrs"], *done["audit_events"], *states})


def index_contacts(engine: sa.Engine, today: date) -> None:
    """For `reporting.contact_history`: an index of contacts for each day that is over. On an open day every row that is
    loaded would pay for it. Raises as `rollup`."""
    left_out = LeftOut(engine)
    _index_contacts(engine, today, left_out)
    left_out.tell()


def _index_contacts(engine: sa.Engine, today: date, left_out: LeftOut) -> None:
    with engine.connect() as connection:
        days = [*connection.scalars(_WITHOUT_INDEX, {"last": today - 2 * _DAY})]
        connection.rollback()
        for day in days:
            with left_out.of("index of contacts", day), connection.begin():
                connection.execute(_LOCK)
                connection.execute(sa.text("SELECT reporting.index_contacts(:day)"), {"day": day})


def _compute(connection: sa.Connection, day: date, dataset: str | None, statements: Iterable[sa.TextClause]) -> bool:
    """Computes a business day; False if part of it was dropped from Postgres. The lock keeps others from dropping
    more meanwhile."""
    with connection.begin():
        connection.execute(_LOCK)
        if dataset:
            connection.execute(sa.text(f"LOCK TABLE ONLY {dataset} IN ACCESS SHARE MODE"))
            if connection.scalar(_DROPPED, {"dataset": dataset, "day": day}):
                return False
        for statement in statements:
            connection.execute(statement, {"day": day})
    return True


def _with_states(connection: sa.Connection, changed: set[date]) -> list[date]:
    """The business days whose figures of states depend on the status events of the `changed` ones."""
    with connection.begin():
        began = {*connection.scalars(_CLOSED_ON, {"days": [*changed]}), *changed}
        # When these were computed, some states still lasted.
        unsettled = {*connection.scalars(_UNSETTLED)}
    return sorted({*began, *(day + _DAY for day in began), *unsettled})


# A UTC day ends in the business day of its last moment.
_LEDGER_OF = """
    SELECT dataset, day, l.entries, s.zone, first, last
    FROM (SELECT dataset, day, count(*) AS entries FROM load_batch_days {where} GROUP BY dataset, day) l
    CROSS JOIN reporting.settings s
    LEFT JOIN reporting.rolled_up r USING (dataset, day)
    CROSS JOIN LATERAL (
        SELECT min((day::timestamp AT TIME ZONE 'UTC' AT TIME ZONE zone)::date) AS first,
            max(((day + interval '1 day - 1 microsecond') AT TIME ZONE 'UTC' AT TIME ZONE zone)::date) AS last
        FROM unnest(ARRAY[s.zone, coalesce(r.zone, s.zone)]) AS zone
    ) business_days
    WHERE :everything OR (l.entries, s.zone) IS DISTINCT FROM (r.entries, r.zone)
"""
_LEDGER = sa.text(_LEDGER_OF.format(where=""))
_LEDGER_SINCE = sa.text(
    _LEDGER_OF.format(
        where="WHERE (dataset, day) IN (SELECT dataset, day FROM load_batches JOIN load_batch_days USING (batch_id)"
        " WHERE committed_at >= :since)"
    )
)
# Whether one of the business day's UTC days was dropped from Postgres: only the lake has it.
_DROPPED = sa.text(
    "SELECT EXISTS (SELECT FROM (SELECT DISTINCT ON (day) day, dropped_at FROM exports, reporting.settings"
    " WHERE dataset = :dataset AND day BETWEEN (CAST(:day AS timestamp) AT TIME ZONE zone AT TIME ZONE 'UTC')::date"
    " AND ((CAST(:day AS timestamp) + interval '1 day') AT TIME ZONE zone AT TIME ZONE 'UTC'"
    " - interval '1 microsecond')::date"
    " ORDER BY day, revision DESC) latest WHERE dropped_at IS NOT NULL)"
)
_NOTE = sa.text(
    "INSERT INTO reporting.rolled_up (dataset, day, entries, zone) VALUES (:dataset, :day, :entries, :zone)"
    " ON CONFLICT (dataset, day) DO UPDATE SET entries = excluded.entries, zone = excluded.zone, refreshed_at = now()"
)
_CLOSED_ON = sa.text(
    "SELECT DISTINCT before.day FROM reporting.status_changes s CROSS JOIN LATERAL (SELECT day"
    " FROM reporting.status_changes b WHERE b.extension = s.extension AND (b.at, b.event_id) < (s.at, s.event_id)"
    " ORDER BY b.at DESC, b.event_id DESC LIMIT 1) before WHERE s.day = ANY(CAST(:days AS date[]))"
)
_UNSETTLED = sa.text(
    "SELECT DISTINCT day FROM reporting.agent_state_figures, reporting.settings"
    " WHERE refreshed_at < (day + interval '2 days') AT TIME ZONE zone"
)
_WITHOUT_INDEX = sa.text(
    "SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    " WHERE inhparent = 'cdrs'::regclass AND right(relname, 8) <= to_char(CAST(:last AS date), 'YYYYMMDD')"
    " AND NOT EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
    " WHERE indrelid = inhrelid AND attname = 'contact_ref')"
    # Nor of what came late for a day that only the lake has: its rows come back, with references of any length.
    " AND NOT EXISTS (SELECT FROM (SELECT dropped_at FROM exports WHERE dataset = 'cdrs'"
    " AND day = to_date(right(relname, 8), 'YYYYMMDD') ORDER BY revision DESC LIMIT 1) latest"
    " WHERE dropped_at IS NOT NULL) ORDER BY day"
)

_CALLS = (
    sa.text("DELETE FROM reporting.campaign_figures WHERE day = :day"),
    sa.text("""
INSERT INTO reporting.campaign_figures (
    day, hour, campaign_ref, attempts, answered, reached_agent, abandoned, voicemail, busy, no_answer, rejected, failed,
    talk_seconds, hold_seconds, held, contacts, contacts_reached, absurd_durations, talk_unknown
)
SELECT :day, hour, campaign_ref, count(*), count(*) FILTER (WHERE answered), count(*) FILTER (WHERE reached_agent),
    count(*) FILTER (WHERE abandoned), count(*) FILTER (WHERE voicemail), count(*) FILTER (WHERE end_reason = 'busy'),
    count(*) FILTER (WHERE end_reason = 'timeout'), count(*) FILTER (WHERE end_reason = 'reject'),
    count(*) FILTER (WHERE end_reason IN ('error', 'failed')),
    coalesce(sum(talk_seconds) FILTER (WHERE reached_agent), 0),
    coalesce(sum(hold_seconds) FILTER (WHERE answered), 0), count(hold_seconds) FILTER (WHERE answered),
    count(DISTINCT contact), count(DISTINCT contact) FILTER (WHERE reached_agent),
    count(*) FILTER (WHERE absurd_durations > 0), count(*) FILTER (WHERE reached_agent AND talk_seconds IS NULL)
FROM (
    SELECT *, coalesce(nullif(contact_ref, ''), nullif(number, '')) AS contact
    FROM reporting.calls_unmasked WHERE day = :day
) calls
GROUP BY GROUPING SETS ((hour, campaign_ref), (campaign_ref))"""),
    sa.text("DELETE FROM reporting.agent_call_figures WHERE day = :day"),
    sa.text("""
INSERT INTO reporting.agent_call_figures (
    day, hour, extension, calls, talk_seconds, hold_seconds, absurd_durations, talk_unknown, hold_unknown
)
SELECT :day, hour, extension, count(*), coalesce(sum(talk_seconds), 0), coalesce(sum(hold_seconds), 0),
    count(*) FILTER (WHERE absurd_durations > 0), count(*) - count(talk_seconds), count(*) - count(hold_seconds)
FROM reporting.calls_unmasked WHERE day = :day AND reached_agent
GROUP BY GROUPING SETS ((hour, extension), (extension))"""),
)
_CHANGES = (
    # By time, not by day: rows computed for another time zone have other days.
    sa.text(
        "DELETE FROM reporting.status_changes s USING reporting.settings WHERE (s.at AT TIME ZONE zone)::date = :day"
        " AND s.day BETWEEN CAST(:day AS date) - 2 AND CAST(:day AS date) + 2"
    ),
    sa.text("""
INSERT INTO reporting.status_changes (
    day, extension, at, event_id, origin, status, campaign_ref, server, channels
)
SELECT :day, extension, captured_at, event_id, origin, status, campaign_ref, server,
    CASE WHEN reference IS NULL THEN channel ELSE regexp_replace(channel, ':[^:]*$', '') END
FROM reporting.settings
CROSS JOIN LATERAL (
    SELECT (CAST(:day AS timestamp) AT TIME ZONE zone) AS start,
        ((CAST(:day AS timestamp) + interval '1 day') AT TIME ZONE zone) AS stop
) business_day
JOIN audit_events ON captured_on BETWEEN (start AT TIME ZONE 'UTC')::date AND (stop AT TIME ZONE 'UTC')::date
    AND (captured_at AT TIME ZONE zone)::date = CAST(:day AS date)
LEFT JOIN load_batches USING (batch_id)
WHERE kind = 'agents' AND event_type = 'status' AND extension IS NOT NULL AND status IS NOT NULL"""),
)
_OF_DATASET = {"cdrs": _CALLS, "audit_events": _CHANGES}
# States are cut into quarters of an hour: in every time zone an hour begins with one.
_STATES = (
    sa.text("DELETE FROM reporting.agent_state_figures WHERE day = :day"),
    sa.text("""
WITH today AS (
    SELECT zone, CAST(:day AS date)::timestamp AT TIME ZONE zone AS start,
        (CAST(:day AS date) + 1)::timestamp AT TIME ZONE zone AS stop
    FROM reporting.settings
), states AS (
    SELECT s.*, greatest(s.state_from, start) AS since, least(coalesce(s.state_until, now()), stop) AS until
    FROM reporting.agent_states s, today
    WHERE s.day BETWEEN CAST(:day AS date) - 1 AND CAST(:day AS date) AND s.state_from < stop
), pieces AS (
    SELECT extension, status, 0 AS unclosed, quarter,
        extract(epoch FROM least(until, quarter + interval '15 minutes') - greatest(since, quarter)) AS seconds
    FROM states
    CROSS JOIN LATERAL generate_series(
        date_bin('15 minutes', since, '2000-01-01 00:00Z'), until - interval '1 microsecond', '15 minutes'
    ) AS quarter
    WHERE closed_by <> 'login' AND until > since
    UNION ALL
    SELECT extension, status, 1, state_from, 0 FROM states, today WHERE closed_by = 'login' AND state_from >= start
)
INSERT INTO reporting.agent_state_figures (
    day, hour, extension, logged_in_seconds, available_seconds, busy_seconds, wrapup_seconds, unclosed
)
SELECT :day, hour, extension, sum(seconds), coalesce(sum(seconds) FILTER (WHERE status = 'available'), 0),
    coalesce(sum(seconds) FILTER (WHERE status = 'busy'), 0),
    coalesce(sum(seconds) FILTER (WHERE status = 'wrapup'), 0),
    sum(unclosed)
FROM (SELECT *, date_trunc('hour', quarter, zone) AS hour FROM pieces, today) hours
GROUP BY GROUPING SETS ((hour, extension), (extension))"""),
)
