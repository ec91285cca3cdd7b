"""The net under everybody: a session of etl whose program is frozen (stopped, swapped out, on a host that is gone)
while it holds locks that loaders want is ended, whatever it was doing.

What it had begun is rolled back. Its claims are adopted when their leases run out; one that thaws is told of an outage
and finds its claim in the ledger, or its day in other hands. Where our role may not end it, or may not even see what it
does, that is said.
"""

import threading
import time

import sqlalchemy as sa

from etl import logs
from etl.store.connection import rows

# If Postgres has waited this long for a program's next statement, in the middle of a transaction, the program is frozen
# or its host is gone. A healthy one takes a second. Sessions that lend a snapshot only read, and are in nobody's way.
SECONDS = 60

log = logs.get()


class Net:
    """For whoever loads. Safe to use from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._seen: dict[int, float] = {}  # sessions that we may not look at, and since when they are in the way
        self._told: set[int] = set()

    def end_frozen(self) -> bool:
        """Call it when a lock wasn't to be had. Whether anybody was ended. Raises `Outage`."""
        found: dict[int, sa.Row[tuple[int, str, float | None, bool]]] = {}
        for function in ("end_frozen", "end_frozen_of_the_owner"):
            for row in self._call(function):
                known = found.get(row.pid)
                if known is None or (known.idle is None and row.idle is not None) or row.ended:
                    found[row.pid] = row
        for row in found.values():
            if row.ended:
                log.warning("frozen_session_ended", pid=row.pid, role=row.role, seconds=round(row.idle or 0.0))
        with self._lock:
            self._tell(found)
        return any(row.ended for row in found.values())

    def _call(self, function: str) -> list[sa.Row[tuple[int, str, float | None, bool]]]:
        allowed = f"SELECT has_function_privilege('{function}(double precision)', 'EXECUTE')"
        if not rows(self._engine, sa.text(allowed))[0][0]:
            return []
        query = sa.text(f"SELECT pid, role, idle, ended FROM {function}(:seconds)")  # noqa: S608  (as above)
        with self._engine.begin() as connection:
            return [*connection.execute(query, {"seconds": SECONDS})]

    def _tell(self, found: dict[int, sa.Row[tuple[int, str, float | None, bool]]]) -> None:
        now = time.monotonic()
        self._seen = {pid: self._seen.get(pid, now) for pid, row in found.items() if not row.ended}
        self._told &= self._seen.keys()
        for pid, since in self._seen.items():
            row = found[pid]
            seconds = now - since if row.idle is None else row.idle
            if pid in self._told or seconds < SECONDS:
                continue
            self._told.add(pid)
            sees = row.idle is not None
            why = "is frozen, and this role may not end it" if sees else "may be frozen, which this role can't see"
            advice = (
                f"end its process, or SELECT pg_terminate_backend({pid}); GRANT pg_signal_backend, pg_read_all_stats"
            )
            error = f"an etl of {row.role} holds locks that loading waits for, and {why}: {advice} lets etl do it"
            log.error("session_in_the_way", pid=pid, role=row.role, seconds=round(seconds), error=error)
