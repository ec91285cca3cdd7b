"""Kept figures: `reporting.campaign_figures` and its siblings, computed anew for the days that changed by the ledger.

    ledger ──changed UTC days──▶ business days ──each in a transaction──▶ figures ──▶ reporting.rolled_up

The ledger is read first and its state noted last: a day is computed once more, never left out, if the process dies in
between or a claim commits meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from etl.reporting import twins
from etl.reporting.left_out import LeftOut
from etl.store.tables import FIGURES_LOCK

_DAY = timedelta(days=1)
_STRETCH_DAYS = 31  # of states, which are computed at once
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
                if _compute(connection, day, dataset):
                    done[dataset].add(day)
                    progress(day)
        states, of_states = _with_states(connection, done["audit_events"]), LeftOut(engine)
        for stretch in _stretches(states):
            at_once = LeftOut(engine)
            with at_once.of("figures of states", stretch[0]):
                _compute_states(connection, stretch[0], stretch[-1])
            for day in stretch:
                if at_once:  # one of the days can't be: the others can
                    with of_states.of("figures of states", day):
                        _compute_states(connection, day, day)
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


def _compute(connection: sa.Connection, day: date, dataset: str) -> bool:
    """Computes a business day; False if part of it was dropped from Postgres. The lock keeps others from dropping
    more meanwhile."""
    with _alone(connection):
        connection.execute(sa.text(f"LOCK TABLE ONLY {dataset} IN ACCESS SHARE MODE"))
        if connection.scalar(_DROPPED, {"dataset": dataset, "day": day}):
            return False
        for statement in _OF_DATASET[dataset]:
            connection.execute(statement, {"day": day})
    return True


def _compute_states(connection: sa.Connection, first: date, last: date) -> None:
    """All business days from the first to the last."""
    with _alone(connection):
        for statement in _STATES:
            connection.execute(statement, {"first": first, "last": last})


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """A transaction under the lock, with room for a day's calls."""
    with connection.begin():
        connection.execute(_LOCK)
        connection.execute(twins.ROOM)
        yield


def _stretches(days: Sequence[date]) -> list[list[date]]:
    """Days in order, those that follow each other together, though not more than a month of them."""
    stretches: list[list[date]] = []
    for day in days:
        if not stretches or day - stretches[-1][-1] > _DAY or len(stretches[-1]) == _STRETCH_DAYS:
            stretches.append([])
        stretches[-1].append(day)
    return stretches


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
# Before each agent's first status of a changed day: those before the others are of that day itself.
_CLOSED_ON = sa.text("""
SELECT DISTINCT before.day
FROM (
    SELECT DISTINCT ON (day, extension) extension, at, event_id FROM reporting.status_changes
    WHERE day = ANY(CAST(:days AS date[])) ORDER BY day, extension, at, event_id
) s
CROSS JOIN LATERAL (
    SELECT day FROM reporting.status_changes b
    WHERE b.extension = s.extension AND (b.at, b.event_id) < (s.at, s.event_id)
    ORDER BY b.at DESC, b.event_id DESC LIMIT 1
) before""")
# One row of each day, since all of them were computed at once.
_UNSETTLED = sa.text("""
WITH RECURSIVE days AS (
    (SELECT day, refreshed_at FROM reporting.agent_state_figures ORDER BY day LIMIT 1)
    UNION ALL
    SELECT next.day, next.refreshed_at FROM days CROSS JOIN LATERAL (
        SELECT day, refreshed_at FROM reporting.agent_state_figures f WHERE f.day > days.day ORDER BY f.day LIMIT 1
    ) next
)
SELECT day FROM days, reporting.settings WHERE refreshed_at < (day + interval '2 days') AT TIME ZONE zone""")
# The planner may look at other tables' names first.
_DAY_OF_NAME = "CASE WHEN relname ~ '_[0-9]{8}$' THEN to_date(right(relname, 8), 'YYYYMMDD') END"
_WITHOUT_INDEX = sa.text(
    f"SELECT {_DAY_OF_NAME} AS day FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"  # noqa: S608 (our own words)
    " WHERE inhparent = 'cdrs'::regclass AND right(relname, 8) <= to_char(CAST(:last AS date), 'YYYYMMDD')"
    " AND NOT EXISTS (SELECT FROM pg_index"
    " WHERE indrelid = inhrelid AND strpos(pg_get_expr(indexprs, indrelid), 'open_reference') > 0)"
    # Nor of what came late for a day that only the lake has: its rows come back, with references of any length.
    " AND NOT EXISTS (SELECT FROM (SELECT dropped_at FROM exports WHERE dataset = 'cdrs'"
    f" AND day = {_DAY_OF_NAME} ORDER BY revision DESC LIMIT 1) latest"
    " WHERE dropped_at IS NOT NULL) ORDER BY day"
)

# Campaigns and agents in one pass. Contacts are made different before they are counted: count(DISTINCT …) sorts them
# for every row of figures.
_CALLS = (
    sa.text("DELETE FROM reporting.campaign_figures WHERE day = :day"),
    sa.text("DELETE FROM reporting.agent_call_figures WHERE day = :day"),
    sa.text("""
WITH calls AS MATERIALIZED (
    SELECT hour, campaign_ref, extension, answered, reached_agent, abandoned, voicemail, end_reason, talk_seconds,
        hold_seconds, absurd_durations > 0 AS is_absurd,
        coalesce(nullif(contact_ref, ''), nullif(number, '')) AS contact,
        reporting.has_number(campaign_ref, number) AS tells_number
    FROM reporting.calls_unmasked_on(:day)
), agents AS (
    INSERT INTO reporting.agent_call_figures (
        day, hour, extension, calls, talk_seconds, hold_seconds, absurd_durations, talk_unknown, hold_unknown
    )
    SELECT :day, hour, extension, count(*), coalesce(sum(talk_seconds), 0), coalesce(sum(hold_seconds), 0),
        count(*) FILTER (WHERE is_absurd), count(*) - count(talk_seconds), count(*) - count(hold_seconds)
    FROM calls WHERE reached_agent
    GROUP BY GROUPING SETS ((hour, extension), (extension))
), contacts AS MATERIALIZED (
    SELECT hour, campaign_ref, contact, bool_or(reached_agent) AS is_reached
    FROM calls WHERE contact IS NOT NULL
    GROUP BY hour, campaign_ref, contact
), contacted AS (
    SELECT hour, campaign_ref, count(*) AS contacts, count(*) FILTER (WHERE is_reached) AS contacts_reached
    FROM contacts GROUP BY hour, campaign_ref
    UNION ALL
    SELECT NULL, campaign_ref, count(*), count(*) FILTER (WHERE is_reached)
    FROM (SELECT campaign_ref, bool_or(is_reached) AS is_reached FROM contacts GROUP BY campaign_ref, contact) of_day
    GROUP BY campaign_ref
), campaigns AS (
    SELECT hour, campaign_ref, count(*) AS attempts, count(*) FILTER (WHERE answered) AS answered,
        count(*) FILTER (WHERE reached_agent) AS reached_agent, count(*) FILTER (WHERE abandoned) AS abandoned,
        count(*) FILTER (WHERE voicemail) AS voicemail, count(*) FILTER (WHERE end_reason = 'busy') AS busy,
        count(*) FILTER (WHERE end_reason = 'timeout') AS no_answer,
        count(*) FILTER (WHERE end_reason = 'reject') AS rejected,
        count(*) FILTER (WHERE end_reason IN ('error', 'failed')) AS failed,
        coalesce(sum(talk_seconds) FILTER (WHERE reached_agent), 0) AS talk_seconds,
        coalesce(sum(hold_seconds) FILTER (WHERE answered), 0) AS hold_seconds,
        count(hold_seconds) FILTER (WHERE answered) AS held, count(*) FILTER (WHERE is_absurd) AS absurd_durations,
        count(*) FILTER (WHERE reached_agent AND talk_seconds IS NULL) AS talk_unknown,
        bool_or(tells_number) AS tells_number
    FROM calls
    GROUP BY GROUPING SETS ((hour, campaign_ref), (campaign_ref))
)
INSERT INTO reporting.campaign_figures (
    day, hour, campaign_ref, attempts, answered, reached_agent, abandoned, voicemail, busy, no_answer, rejected, failed,
    talk_seconds, hold_seconds, held, contacts, contacts_reached, absurd_durations, talk_unknown,
    tells_number
)
SELECT :day, c.hour, c.campaign_ref, attempts, answered, reached_agent, abandoned, voicemail, busy, no_answer, rejected,
    failed, talk_seconds, hold_seconds, held, coalesce(contacts, 0), coalesce(contacts_reached, 0), absurd_durations,
    talk_unknown, tells_number
FROM campaigns c
LEFT JOIN contacted t ON (t.hour, t.campaign_ref) IS NOT DISTINCT FROM (c.hour, c.campaign_ref)"""),
)
_CHANGES = (
    # By time, not by day: rows computed for another time zone have other days.
    sa.text(
        "DELETE FROM reporting.status_changes s USING reporting.settings WHERE (s.at AT TIME ZONE zone)::date = :day"
        " AND s.day BETWEEN CAST(:day AS date) - 2 AND CAST(:day AS date) + 2"
    ),
    sa.text("""
WITH told AS MATERIALIZED (
    SELECT e.extension, e.captured_at, e.event_id, e.origin, e.status, e.campaign_ref, e.channel, e.reference,
        e.batch_id
    FROM reporting.settings
    CROSS JOIN LATERAL (
        SELECT (CAST(:day AS timestamp) AT TIME ZONE zone) AS start,
            ((CAST(:day AS timestamp) + interval '1 day') AT TIME ZONE zone) AS stop
    ) business_day
    JOIN audit_events e ON captured_on BETWEEN (start AT TIME ZONE 'UTC')::date AND (stop AT TIME ZONE 'UTC')::date
        AND captured_on BETWEEN CAST(:day AS date) - 1 AND CAST(:day AS date) + 1 -- which the planner knows
        AND (captured_at AT TIME ZONE zone)::date = CAST(:day AS date)
    WHERE kind = 'agents' AND event_type = 'status' AND extension IS NOT NULL AND status IS NOT NULL
), claims AS MATERIALIZED ( -- by the ledger's key, never all of the ledger
    SELECT batch_id, server FROM load_batches WHERE batch_id = ANY (ARRAY(SELECT DISTINCT batch_id FROM told))
)
INSERT INTO reporting.status_changes (
    day, extension, at, event_id, origin, status, campaign_ref, server, channels
)
SELECT :day, extension, captured_at, event_id, origin, status, campaign_ref, server,
    CASE WHEN reference IS NULL THEN channel ELSE regexp_replace(channel, ':[^:]*$', '') END
FROM told LEFT JOIN claims USING (batch_id)"""),
)
_OF_DATASET = {"cdrs": _CALLS, "audit_events": _CHANGES}
# Of consecutive days, so that each state is worked out once. A state counts on the day it began and on the next. It's
# cut into quarters of an hour: in every time zone an hour begins with one. Most states don't last that long.
_STATES = (
    sa.text("DELETE FROM reporting.agent_state_figures WHERE day BETWEEN :first AND :last"),
    sa.text("""
WITH days AS (
    SELECT zone, day::date AS day, day AT TIME ZONE zone AS start, (day + interval '1 day') AT TIME ZONE zone AS stop
    FROM reporting.settings
    CROSS JOIN generate_series(CAST(:first AS timestamp), CAST(:last AS timestamp), interval '1 day') AS day
), parts AS MATERIALIZED (
    SELECT d.day, d.zone, d.start, s.extension, s.status, s.closed_by, s.state_from,
        greatest(s.state_from, d.start) AS since, least(coalesce(s.state_until, now()), d.stop) AS until,
        date_bin('15 minutes', greatest(s.state_from, d.start), '2000-01-01 00:00Z') AS quarter
    FROM reporting.agent_states_between(CAST(:first AS date) - 1, CAST(:last AS date)) s
    JOIN days d ON d.day IN (s.day, s.day + 1) AND s.state_from < d.stop
), pieces AS (
    SELECT day, zone, extension, status, 0 AS unclosed, quarter, extract(epoch FROM until - since) AS seconds
    FROM parts WHERE closed_by <> 'login' AND until > since AND until <= quarter + interval '15 minutes'
    UNION ALL
    SELECT day, zone, extension, status, 0, piece,
        extract(epoch FROM least(until, piece + interval '15 minutes') - greatest(since, piece))
    FROM parts CROSS JOIN LATERAL generate_series(quarter, until - interval '1 microsecond', '15 minutes') AS piece
    WHERE closed_by <> 'login' AND until > quarter + interval '15 minutes'
    UNION ALL
    SELECT day, zone, extension, status, 1, state_from, 0 FROM parts WHERE closed_by = 'login' AND state_from >= start
)
INSERT INTO reporting.agent_state_figures (
    day, hour, extension, logged_in_seconds, available_seconds, busy_seconds, wrapup_seconds, unclosed
)
SELECT day, hour, extension, sum(seconds), coalesce(sum(seconds) FILTER (WHERE status = 'available'), 0),
    coalesce(sum(seconds) FILTER (WHERE status = 'busy'), 0),
    coalesce(sum(seconds) FILTER (WHERE status = 'wrapup'), 0),
    sum(unclosed)
FROM (SELECT *, date_trunc('hour', quarter, zone) AS hour FROM pieces) hours
GROUP BY GROUPING SETS ((day, hour, extension), (day, extension))"""),
)
