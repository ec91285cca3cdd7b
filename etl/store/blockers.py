"""Those who look on, and what would keep them waiting: connections that give up early, and the sessions whose locks
keep others out of our tables.

A lock of somebody else's (a VACUUM FULL, an ALTER TABLE, a forgotten psql) stops loaders for as long as it's held. Who
wants to know why must not be stopped with them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from etl.store.connection import Engine, connect, rows
from etl.store.pinned import PATIENT
from etl.store.tables import STAGING
from etl.text import duration, printable

# What is read here takes milliseconds; the count of a long ledger takes some seconds.
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 10_000
# Who has a lock for less than this is at work, as prune is when it drops a day.
LASTING_SECONDS = 1.0
SHOWN_TABLES = 3

# Who waits for a lock on one of our relations, or for anything but a turn among ourselves; and, though nobody may wait
# just now, who has a lock that keeps out readers. Of those who wait for one another, the one at the front is to blame.
_BLOCKERS = sa.text("""
WITH ours AS (
    SELECT oid FROM pg_class WHERE relnamespace IN (
        (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('alembic_version')),
        to_regnamespace('reporting'), to_regnamespace(:staging)
    )
), waiting AS (
    SELECT lock.pid, lock.waitstart, lock.relation
    FROM pg_locks AS lock JOIN pg_stat_activity AS session ON session.pid = lock.pid
    WHERE NOT lock.granted AND lock.locktype <> 'advisory' AND session.datname = current_database()
    AND (lock.relation IN (SELECT oid FROM ours) OR session.application_name = 'etl')
), found AS (
    SELECT blocker AS pid, waiting.pid AS held_up, waitstart, relation
    FROM waiting, unnest(pg_blocking_pids(waiting.pid)) AS blocker
    WHERE blocker NOT IN (SELECT pid FROM waiting)
    UNION ALL
    SELECT coalesce(pid, 0), NULL, NULL, relation FROM pg_locks
    WHERE granted AND mode = 'AccessExclusiveLock' AND relation IN (SELECT oid FROM ours)
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid IS DISTINCT FROM pg_backend_pid()
), counted AS (
    SELECT pid, count(DISTINCT held_up) AS held_up, min(waitstart) AS waitstart,
        coalesce(array_agg(DISTINCT relation::regclass::text) FILTER (WHERE relation IS NOT NULL), '{}') AS tables
    FROM found GROUP BY pid
), known AS (
    SELECT counted.*, session.usename::text AS "user", nullif(session.application_name, '') AS application,
        host(session.client_addr) AS address, session.state,
        coalesce(
            session.xact_start, waitstart,
            (SELECT min(prepared) FROM pg_prepared_xacts WHERE counted.pid = 0 AND database = current_database())
        ) AS since
    FROM counted LEFT JOIN pg_stat_activity AS session ON session.pid = counted.pid
)
SELECT pid, "user", application, address, state, since,
    extract(epoch FROM clock_timestamp() - since)::float8 AS seconds, held_up, tables
FROM known ORDER BY since, pid
""")


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session with a lock that keeps others out of our tables; `pid` is 0 of a prepared transaction. `since` is the
    beginning of its transaction. What this role may not know of another's session is None.
    """

    pid: int
    user: str | None
    application: str | None
    address: str | None
    state: str | None
    since: datetime | None
    seconds: float | None
    held_up: int  # sessions that wait for it
    tables: list[str]

    def told(self) -> str:
        """In one line, for people."""
        who = f"pid {self.pid} ({', '.join(self._about())})" if self.pid else "a prepared transaction"
        what = ", ".join(map(printable, self.tables[:SHOWN_TABLES])) or "what we wait for"
        more = f" and {len(self.tables) - SHOWN_TABLES} more" if len(self.tables) > SHOWN_TABLES else ""
        since = f" since {self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        lasts = f" ({duration(self.seconds)})" if self.seconds is not None else ""
        waits = f"; {self.held_up} wait{'s' if self.held_up == 1 else ''} for it" if self.held_up else ""
        return f"{who} has a lock on {what}{more}{since}{lasts}{waits}"

    @property
    def way_out(self) -> str:
        if not self.pid:
            return "COMMIT PREPARED or ROLLBACK PREPARED what pg_prepared_xacts shows"
        return f"see what it does; SELECT pg_terminate_backend({self.pid}) ends it"

    def _about(self) -> Sequence[str]:
        said = (self.user, self.application, f"from {self.address}" if self.address else None, self.state)
        return [printable(part) for part in said if part]


class Watchman:
    """Knows who blocks, and remembers since when where this role may not be told."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._first_seen: dict[int, datetime] = {}

    def blockers(self) -> list[Blocker]:
        """Those who were there a moment ago, too: it takes that moment. Raises `Outage`."""
        before = {(each.pid, each.since) for each in self._look()}
        if before:
            time.sleep(LASTING_SECONDS)
        found = [each for each in self._look() if (each.pid, each.since) in before] if before else []
        now = datetime.now(UTC)
        self._first_seen = {each.pid: self._first_seen.get(each.pid, now) for each in found}
        return [self._dated(each, now) for each in found]

    def _look(self) -> list[Blocker]:
        return [Blocker(*row) for row in rows(self._engine, _BLOCKERS, {"staging": STAGING})]

    def _dated(self, found: Blocker, now: datetime) -> Blocker:
        if found.since is not None:
            return found
        since = self._first_seen[found.pid]
        return replace(found, since=since, seconds=(now - since).total_seconds())


def connect_to_look(url: str) -> Engine:
    """As `etl.store.connection.connect`; but what waits for a lock, or takes long, is an `Outage` soon."""
    brief = {"lock_timeout": f"{LOCK_TIMEOUT_MS}ms", "statement_timeout": f"{STATEMENT_TIMEOUT_MS}ms"}
    return connect(url, timeouts={**PATIENT, **brief})
