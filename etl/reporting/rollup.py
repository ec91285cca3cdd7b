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

from etl.reporting import kept, twins
from etl.reporting.left_out import LeftOut
from etl.store.tables import FIGURES_LOCK

_DAY = timedelta(days=1)
_STRETCH_DAYS = 31  # of states, which are computed at once


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
            twins.keep(connection, FIGURES_LOCK, left_out)
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
                connection.execute(FIGURES_LOCK)
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
        for statement in kept.STATES:
            connection.execute(statement, {"first": first, "last": last})


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """A transaction under the lock, with room for a day's calls."""
    with connection.begin():
        connection.execute(FIGURES_LOCK)
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
_OF_DATASET = {"cdrs": kept.CALLS, "audit_events": kept.CHANGES}
