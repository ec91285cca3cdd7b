"""Kept figures: `reporting.campaign_figures` and its siblings, computed anew for the days that the ledger says changed.

    ledger ──changed UTC days──▶ business days ──each in a transaction──▶ figures ──▶ reporting.rolled_up

The ledger is read first and noted last. So a death in between, or a claim that commits meanwhile, means that a day is
done once more, and never that it's forgotten.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from etl.store.connection import translated

_DAY = timedelta(days=1)
# Serialises those who compute figures; any number that nobody else in this database uses will do.
_ADVISORY_LOCK = 0x65746C_06


class _Changed(NamedTuple):
    """A UTC day, and the number of its ledger entries."""

    dataset: str
    day: date
    entries: int


def rollup(
    engine: sa.Engine,
    since: datetime | None = None,
    everything: bool = False,
    told: Callable[[date], None] = lambda _: None,
) -> list[date]:
    """Compute what changed; the business days that were done, each told when it is.

    With `since`, looks only at what was committed from then on: quick, however long the ledger is. `everything` takes
    every day for changed, as after a change of the time zone. A day that Postgres forgot keeps the figures it has, and
    so does one that lies partly on such a day. Raises `Outage` or `ConfigurationError`.
    """
    with translated(), engine.connect() as connection:
        apart = 0 if connection.scalar(_ZONE) == "UTC" else 1  # how far a business day's UTC days lie from it
        changed = _changed(connection, since, everything, 2 * apart)
        connection.rollback()
        calls = _around((each.day for each in changed if each.dataset == "cdrs"), apart)
        events = _around((each.day for each in changed if each.dataset == "audit_events"), apart)
        for day in sorted(calls | events):
            _compute(connection, day, [*(_CALLS if day in calls else ()), *(_CHANGES if day in events else ())])
            told(day)
        for day in sorted(_around(events, 1)):  # a state may have begun the day before, or end the day after
            _compute(connection, day, _STATES)
        with connection.begin():
            for each in changed:
                connection.execute(_NOTE, each._asdict())
    return sorted(calls | events)


def index_contacts(engine: sa.Engine, today: date) -> None:
    """For `reporting.contact_history`: the days that are over get an index of contacts. Open ones don't, since every
    row that is loaded would pay for it. Raises `Outage`."""
    with translated(), engine.connect() as connection:
        days = [*connection.scalars(_WITHOUT_INDEX, {"last": today - 2 * _DAY})]
        connection.rollback()
        for day in days:
            with connection.begin():
                connection.execute(sa.text("SELECT reporting.index_contacts(:day)"), {"day": day})


def _changed(connection: sa.Connection, since: datetime | None, everything: bool, reach: int) -> list[_Changed]:
    """Without those whose business days would need a UTC day that Postgres forgot."""
    found = connection.execute(_LEDGER_SINCE if since else _LEDGER, {"since": since, "everything": everything})
    changed = [_Changed(*row) for row in found]
    forgotten = {
        name: _around(connection.scalars(_FORGOTTEN, {"dataset": name}), reach)
        for name in {each.dataset for each in changed}
    }
    return [each for each in changed if each.day not in forgotten[each.dataset]]


def _around(days: Iterable[date], reach: int) -> set[date]:
    return {day + n * _DAY for day in days for n in range(-reach, reach + 1)}


def _compute(connection: sa.Connection, day: date, statements: Sequence[sa.TextClause]) -> None:
    with connection.begin():
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        for statement in statements:
            connection.execute(statement, {"day": day})


_ZONE = sa.text("SELECT zone FROM reporting.settings")
_LEDGER_OF = """
    SELECT l.dataset, l.day, l.entries FROM (
        SELECT dataset, day, count(*) AS entries FROM load_batch_days {where} GROUP BY dataset, day
    ) l
    LEFT JOIN reporting.rolled_up r ON r.dataset = l.dataset AND r.day = l.day
    WHERE :everything OR l.entries IS DISTINCT FROM r.entries
"""
_LEDGER = sa.text(_LEDGER_OF.format(where=""))
_LEDGER_SINCE = sa.text(
    _LEDGER_OF.format(
        where="WHERE (dataset, day) IN (SELECT dataset, day FROM load_batches JOIN load_batch_days USING (batch_id)"
        " WHERE committed_at >= :since)"
    )
)
_FORGOTTEN = sa.text(
    "SELECT day FROM (SELECT DISTINCT ON (day) day, dropped_at FROM exports WHERE dataset = :dataset"
    " ORDER BY day, revision DESC) latest WHERE dropped_at IS NOT NULL"
)
_NOTE = sa.text(
    "INSERT INTO reporting.rolled_up (dataset, day, entries) VALUES (:dataset, :day, :entries)"
    " ON CONFLICT (dataset, day) DO UPDATE SET entries = excluded.entries, refreshed_at = now()"
)
_WITHOUT_INDEX = sa.text(
    "SELECT day FROM (SELECT inhrelid, to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_inherits"
    " JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'cdrs'::regclass) days"
    " WHERE day <= :last AND NOT EXISTS (SELECT FROM pg_index JOIN pg_attribute"
    " ON attrelid = indrelid AND attnum = indkey[0] WHERE indrelid = inhrelid AND attname = 'contact_ref') ORDER BY day"
)

_CALLS = (
    sa.text("DELETE FROM reporting.campaign_figures WHERE day = :day"),
    sa.text("""
INSERT INTO reporting.campaign_figures (
    day, hour, campaign_ref, attempts, answered, reached_agent, abandoned, voicemail, busy, no_answer, rejected, failed,
    talk_seconds, hold_seconds, held, contacts, contacts_reached
)
SELECT :day, hour, campaign_ref, count(*), count(*) FILTER (WHERE answered), count(*) FILTER (WHERE reached_agent),
    count(*) FILTER (WHERE abandoned), count(*) FILTER (WHERE voicemail), count(*) FILTER (WHERE end_reason = 'busy'),
    count(*) FILTER (WHERE end_reason = 'timeout'), count(*) FILTER (WHERE end_reason = 'reject'),
    count(*) FILTER (WHERE end_reason IN ('error', 'failed')),
    coalesce(sum(talk_seconds) FILTER (WHERE reached_agent), 0),
    coalesce(sum(hold_seconds) FILTER (WHERE answered), 0), count(hold_seconds) FILTER (WHERE answered),
    count(DISTINCT contact), count(DISTINCT contact) FILTER (WHERE reached_agent)
FROM (
    SELECT *, coalesce(nullif(contact_ref, ''), nullif(number, '')) AS contact
    FROM reporting.calls_unmasked WHERE day = :day
) calls
GROUP BY GROUPING SETS ((hour, campaign_ref), (campaign_ref))"""),
    sa.text("DELETE FROM reporting.agent_call_figures WHERE day = :day"),
    sa.text("""
INSERT INTO reporting.agent_call_figures (day, hour, extension, calls, talk_seconds, hold_seconds)
SELECT :day, hour, extension, count(*), coalesce(sum(talk_seconds), 0), coalesce(sum(hold_seconds), 0)
FROM reporting.calls_unmasked WHERE day = :day AND reached_agent
GROUP BY GROUPING SETS ((hour, extension), (extension))"""),
)
_CHANGES = (
    sa.text("DELETE FROM reporting.status_changes WHERE day = :day"),
    sa.text("""
INSERT INTO reporting.status_changes (day, extension, at, event_id, origin, status, campaign_ref)
SELECT day, extension, captured_at, event_id, origin, status, campaign_ref
FROM reporting.events
WHERE day = :day AND kind = 'agents' AND event_type = 'status' AND extension IS NOT NULL AND status IS NOT NULL"""),
)
# States are cut into quarters of an hour, since every time zone's hours begin with one.
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
