"""What 0.1 stored as leg 1 of a call becomes its first leg, which is 0, merged with the row that is there already.

Loaders may neither change a row's key nor delete a row: the function `unite_legs`, with its owner's rights, does both,
and enters it into the ledger.
"""

from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa

from etl.ids import new_id
from etl.store.connection import rows
from etl.store.merge import WAIT_MS

# Rows in one transaction, in which loaders stay out of the day: half a second.
MOST_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class United:
    """Rows of a day that became leg 0, and rows that were merged into an existing one."""

    day: date
    renamed: int = 0
    united: int = 0


def days(engine: sa.Engine) -> list[date]:
    """The days of CDRs that Postgres has. Raises `Outage`."""
    return [day for (day,) in rows(engine, _DAYS)]


def due(engine: sa.Engine) -> list[date]:
    """Of these, the days that may still have rows of leg 1: never looked at, or loaded by a 0.1 since. Raises
    `Outage`."""
    return [day for (day,) in rows(engine, _DUE)]


def unite(engine: sa.Engine, day: date, worker: str) -> United:
    """Unite until the day has no row of leg 1. Raises `Outage`; what was committed until then stays."""
    total = United(day)
    while True:
        batch_id = new_id()
        with engine.begin() as connection:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = {WAIT_MS}"))
            some = connection.execute(_UNITE, {"day": day, "most": MOST_ROWS, "id": batch_id, "worker": worker}).one()
        total = United(day, total.renamed + some.renamed, total.united + some.united)
        if some.renamed + some.united < MOST_ROWS:
            return total


_PARTITIONS = """
SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'cdrs'::regclass AND relname ~ '_[0-9]{8}$'
"""
_DAYS = sa.text(f"{_PARTITIONS} ORDER BY 1")
# Entries of 0.1 have no server. A claim's transaction takes less than the ten minutes that are allowed for here.
_DUE = sa.text(f"""
SELECT p.day FROM ({_PARTITIONS}) p LEFT JOIN united_days u USING (day)
WHERE u.day IS NULL
UNION
SELECT d.day FROM load_batches b JOIN load_batch_days d USING (batch_id) JOIN united_days u USING (day)
WHERE b.server IS NULL AND b.committed_at > (SELECT min(united_at) FROM united_days) - interval '10 minutes'
    AND b.committed_at > u.united_at - interval '10 minutes' AND d.dataset = 'cdrs'
    AND d.day IN ({_PARTITIONS})
ORDER BY 1
""")  # noqa: S608  (our own words)
_UNITE = sa.text("SELECT renamed, united FROM unite_legs(:day, :most, :id, :worker)")
