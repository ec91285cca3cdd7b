"""Whether a backup finds room in Postgres' lock table, for `etl check`. What etl itself does locks the days near those
that it's about, however many there are; pg_dump locks every table at once, and so every day of both datasets.
"""

from math import ceil

import sqlalchemy as sa

from etl.findings import Finding
from etl.store.connection import Engine

# Others need some of it, and each day takes two more.
NEARLY_FULL = 0.8
# In steps in which one sets it.
STEP = 64

_LOCKS = sa.text("""
SELECT (
    SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
) AS tables, current_setting('max_locks_per_transaction')::bigint AS each,
    current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint AS times""")


def finding(engine: Engine) -> Finding:
    """Raises `Outage`."""
    about = "Postgres lock table"
    with engine.connect() as connection:
        tables, each, times = connection.execute(_LOCKS).one()
    room = each * times
    says = f"pg_dump locks all {tables:,} tables at once, and there is room for {room:,} locks"
    if tables <= NEARLY_FULL * room:
        return Finding(about, "fine", says)
    enough = STEP * ceil(tables / NEARLY_FULL / times / STEP)
    advice = f"set max_locks_per_transaction = {enough} and restart Postgres, or let `etl prune` forget days"
    return Finding(about, "warning", says, advice)
