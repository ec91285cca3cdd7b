"""Calls that look like one call in two rows, as the view `reporting.twins` has them: how many there are of a day.

The view sorts the day and the next one for an answer. So the rollup keeps the numbers, in `reporting.rolled_up`.
"""

from datetime import date

import sqlalchemy as sa


def count(engine: sa.Engine, day: date) -> int:
    """Pairs whose first row is on that UTC day, as it stands in Postgres. Raises `Outage` or `ConfigurationError`."""
    with engine.connect() as connection:
        found: int = connection.execute(_COUNT, {"day": day}).scalar_one()
        return found


def keep(connection: sa.Connection, lock: sa.Executable) -> None:
    """Count those of each day whose figures, or whose next day's, were noted after its twins were. Each day is a
    transaction, with `lock` against others who do the same. A day that Postgres forgot keeps its number."""
    days = [*connection.scalars(_STALE)]
    connection.rollback()
    for day in days:
        with connection.begin():
            connection.execute(lock)
            connection.execute(sa.text("LOCK TABLE ONLY cdrs IN ACCESS SHARE MODE"))  # no day is forgotten meanwhile
            connection.execute(_KEEP, {"day": day})


_FORGOTTEN = (
    "coalesce((SELECT dropped_at IS NOT NULL FROM exports e WHERE e.dataset = 'cdrs' AND e.day = r.day"
    " ORDER BY revision DESC LIMIT 1), false)"
)
# A rollup of 0.1 notes figures, and no twins.
_STALE = sa.text(f"""
SELECT r.day FROM reporting.rolled_up r
LEFT JOIN reporting.rolled_up n ON n.dataset = r.dataset AND n.day = r.day + 1
WHERE r.dataset = 'cdrs' AND coalesce(r.twins_at < greatest(r.refreshed_at, n.refreshed_at), true) AND NOT {_FORGOTTEN}
ORDER BY r.day""")  # noqa: S608  # of our own words
_COUNT_OF = "SELECT count(*) FROM reporting.twins WHERE day = :day"
_COUNT = sa.text(_COUNT_OF)
_KEEP = sa.text(f"""
UPDATE reporting.rolled_up r SET twins = ({_COUNT_OF}), twins_at = now()
WHERE dataset = 'cdrs' AND day = :day AND NOT {_FORGOTTEN}""")  # noqa: S608  # of our own words
