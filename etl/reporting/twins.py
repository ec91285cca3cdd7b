"""Calls that look like one call in two rows, as the view `reporting.twins` lists them: how many a day has.

The view sorts two days to answer; so the rollup keeps the numbers, in `reporting.rolled_up`.
"""

from datetime import date

import sqlalchemy as sa

from etl.reporting.left_out import LeftOut

# In memory, not in files: a sort of two days' calls, a hash of a day's contacts, a sort of a month's states.
ROOM = sa.text("SET LOCAL work_mem = '64MB'")


def count(engine: sa.Engine, day: date) -> int:
    """Pairs whose first row is on that UTC day, counted in Postgres now. Raises `Outage` or `ConfigurationError`."""
    with engine.connect() as connection:
        found: int = connection.execute(_COUNT, {"day": day}).scalar_one()
        return found


def keep(connection: sa.Connection, lock: sa.Executable, left_out: LeftOut) -> None:
    """Count the twins of each day whose figures, or the next day's, are newer than its count. One transaction a day,
    under `lock`, which serialises rollups. A day that was dropped from Postgres keeps its number."""
    days = [*connection.scalars(_STALE)]
    connection.rollback()
    for day in days:
        with left_out.of("twins", day), connection.begin():
            connection.execute(lock)
            connection.execute(ROOM)
            connection.execute(sa.text("LOCK TABLE ONLY cdrs IN ACCESS SHARE MODE"))  # no day is dropped meanwhile
            connection.execute(_KEEP, {"day": day})


_DROPPED = (
    "coalesce((SELECT dropped_at IS NOT NULL FROM exports e WHERE e.dataset = 'cdrs' AND e.day = r.day"
    " ORDER BY revision DESC LIMIT 1), false)"
)
# A rollup of 0.1 computes figures and counts no twins.
_STALE = sa.text(f"""
SELECT r.day FROM reporting.rolled_up r
LEFT JOIN reporting.rolled_up n ON n.dataset = r.dataset AND n.day = r.day + 1
WHERE r.dataset = 'cdrs' AND coalesce(r.twins_at < greatest(r.refreshed_at, n.refreshed_at), true) AND NOT {_DROPPED}
ORDER BY r.day""")  # noqa: S608  # our own words
_COUNT = sa.text("SELECT count(*) FROM reporting.twins_on(:day)")
# Whoever keeps figures may read the references as they are, and needs no keys.
_KEEP = sa.text(f"""
UPDATE reporting.rolled_up r SET twins = reporting.twins_counted(:day), twins_at = now()
WHERE dataset = 'cdrs' AND day = :day AND NOT {_DROPPED}""")  # noqa: S608  # our own words
