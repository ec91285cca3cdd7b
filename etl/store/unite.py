"""What 0.1 stored as leg 1 of a call becomes its first leg, which is 0, and one row with what lies there already.

Who loads may neither change a row's key nor take a row away: the function `unite_legs`, which is the owner's, does
both, and enters it into the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa

from etl.store import ledger
from etl.store.merge import WAIT_MS

# Rows in one transaction, in which loaders stay out of the day: half a second.
AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class United:
    """Rows of a day that became leg 0, and rows that went, each into the one that lay there."""

    day: date
    renamed: int = 0
    united: int = 0


def days(engine: sa.Engine) -> list[date]:
    """The days of CDRs that Postgres has. Raises `Outage`."""
    return _dates(engine, _DAYS)


def due(engine: sa.Engine) -> list[date]:
    """Of these, the days that may still have rows of leg 1: never looked at, or loaded by a 0.1 since. Raises
    `Outage`."""
    return _dates(engine, _DUE)


def unite(engine: sa.Engine, day: date, worker: str) -> United:
    """Until the day has no row of leg 1. Raises `Outage`; what was done until then is done."""
    total = United(day)
    while True:
        batch_id = ledger.new_id()
        with engine.begin() as connection:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = {WAIT_MS}"))
            some = connection.execute(_UNITE, {"day": day, "most": AT_ONCE, "id": batch_id, "worker": worker}).one()
        total = United(day, total.renamed + some.renamed, total.united + some.united)
        if some.renamed + some.united < AT_ONCE:
            return total


def _dates(engine: sa.Engine, query: sa.TextClause) -> list[date]:
    with engine.connect() as connection:
        found: Sequence[date] = connection.scalars(query).all()
    return [*found]


_PARTITIONS = """
SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'cdrs'::regclass AND relname ~ '_[0-9]{8}$'
"""
_DAYS = sa.text(f"{_PARTITIONS} ORDER BY 1")
# What a 0.1 entered into the ledger has no server. A transaction that wrote into the day began less than that before.
_DUE = sa.text(f"""
SELECT p.day FROM ({_PARTITIONS}) p LEFT JOIN united_days u USING (day)
WHERE u.day IS NULL
UNION
SELECT d.day FROM load_batches b JOIN load_batch_days d USING (batch_id) JOIN united_days u USING (day)
WHERE b.server IS NULL AND b.committed_at > (SELECT min(united_at) FROM united_days) - interval '10 minutes'
    AND b.committed_at > u.united_at - interval '10 minutes' AND d.dataset = 'cdrs'
    AND d.day IN ({_PARTITIONS})
ORDER BY 1
""")  # noqa: S608  (words of our own)
_UNITE = sa.text("SELECT renamed, united FROM unite_legs(:day, :most, :id, :worker)")
