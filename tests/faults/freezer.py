"""Where processes come from that freeze at their n-th step: real `etl` processes, each forked from one that has
imported everything. A step is the beginning or the end of any method by which a file of the lake or its books change,
as the classes themselves list them, and each group of rows that is written; or, of `statements`, the end of each after
which the session holds a lock on the archive's tables that is more than a reader's.

It reads lines of JSON: {"at": n, "steps": …, "arguments": …, "environment": …, "log": …} answers with a process id, and
{"end": pid} with that process's exit code, and the number of steps that it took.
"""

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import psycopg
import pyarrow.parquet as pq
import sqlalchemy as sa

import etl.app  # noqa: F401  (what every process imports)
from etl.cli import dead, forget, lake, rollup  # noqa: F401
from etl.jobs.held_day import HeldDay
from etl.lake.target import Target
from etl.store.days import Day
from tests.faults.program import become_etl

STEPS = (Target, Day, HeldDay, pq.ParquetWriter)


class Freezer:
    def __init__(self, at: int, counted: Path) -> None:
        self._at, self._counted = at, counted
        self._numbers = itertools.count(1)

    def step(self) -> None:
        # One thread freezes: a second that took itself to be at this step would, once thawed, freeze all for ever.
        number = next(self._numbers)
        self._counted.write_text(str(number))
        if number == self._at:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def wrap(self, owner: type) -> None:
        for name, method in [*vars(owner).items()]:
            if callable(method) and not name.startswith("__") and not isinstance(method, type):
                setattr(owner, name, self._wrapped(method))

    def _wrapped(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            self.step()
            result = method(*arguments, **more)
            self.step()
            return result

        return wrapped


IN_THE_WAY = b"""
SELECT FROM pg_locks JOIN pg_class c ON c.oid = relation
WHERE pid = pg_backend_pid() AND relnamespace = 'public'::regnamespace AND mode <> 'AccessShareLock'
"""


def _step_if_in_the_way(freezer: Freezer, connection: sa.Connection, *_: object) -> None:
    session = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    if session.execute(IN_THE_WAY).fetchall():
        freezer.step()


def run(at: int, steps: str, arguments: list[str], environment: dict[str, str], log: str) -> NoReturn:
    """As a program of its own."""

    def prepare() -> None:
        freezer = Freezer(at, Path(f"{log}.{os.getpid()}"))
        if steps == "statements":
            sa.event.listen(sa.Engine, "after_cursor_execute", partial(_step_if_in_the_way, freezer))
        for owner in STEPS if steps == "lake" else ():
            freezer.wrap(owner)

    become_etl(arguments, environment, log, prepare)


if __name__ == "__main__":
    logs: dict[int, str] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if (pid := asked.get("end")) is None:
            if (pid := os.fork()) == 0:
                run(**asked)
            logs[pid] = asked["log"]
            print(pid, flush=True)
        else:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(json.dumps([code, int(Path(f"{logs[pid]}.{pid}").read_text())]), flush=True)
