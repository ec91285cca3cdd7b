"""When: the table of what is done by the clock, beside the loading. The times are UTC.

    export       nightly, every closed day that changed
    prune        nightly, if the settings say how many days Postgres keeps
    partitions   for the days ahead, so that midnight's first claim needn't make one
    unite        hourly, calls that 0.1 stored as leg 1 become the first leg's rows; nothing to do once they have
    rollup       every ten minutes, the figures of what was loaded lately
    figures      nightly, whatever that missed; and the days that are over get an index of contacts
    prove        weekly, a day of the lake is restored aside and thrown away: would it work?

Abandoned claims are not here: the loaders themselves look for them, every few seconds.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from etl.errors import EtlError

# How soon a stop is heard, in seconds.
POLL_SECONDS = 0.5


Act = Callable[[threading.Event], object]


@dataclass(frozen=True, slots=True)
class Job:
    """`cron` in five fields. `act` may raise `EtlError`, and is done again at its next time, whatever came of it; it
    ends early when the event is set."""

    name: str
    cron: str
    act: Act


def table(
    *, export: Act, prune: Act | None, partitions: Act, unite: Act, prove: Act, rollup: Act, figures: Act
) -> list[Job]:
    """The jobs; no `prune` where Postgres keeps everything."""
    return [
        Job("partitions", "5 * * * *", partitions),
        Job("unite", "35 * * * *", unite),
        Job("rollup", "*/10 * * * *", rollup),
        Job("figures", "55 1 * * *", figures),
        Job("export", "15 2 * * *", export),
        *([Job("prune", "45 2 * * *", prune)] if prune else []),
        Job("prove", "30 3 * * sun", prove),
    ]


class Schedule:
    """Acts by the clock, one job after the other, in the thread that calls `run`."""

    def __init__(self, jobs: Sequence[Job], alone: Callable[[str], AbstractContextManager[bool]], log: Any) -> None:
        """`alone` says whether a job of that name is ours: several hosts may have the same table."""
        self.jobs = jobs
        self._alone = alone
        self._log = log

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        due: queue.SimpleQueue[Job] = queue.SimpleQueue()
        clock = BackgroundScheduler(timezone="UTC")
        for job in self.jobs:
            # However late, and once for all times that were missed: the host may have slept.
            trigger = CronTrigger.from_crontab(job.cron, timezone="UTC")
            clock.add_job(due.put, trigger, [job], id=job.name, coalesce=True, misfire_grace_time=None)
        clock.start()
        try:
            while not stop.is_set():
                try:
                    self.act(due.get(timeout=POLL_SECONDS), stop)
                except queue.Empty:
                    continue
        finally:
            clock.shutdown(wait=False)

    def act(self, job: Job, stop: threading.Event) -> None:
        """Do it now, unless somebody else is at it. Its trouble is told, and is nobody else's."""
        try:
            with self._alone(job.name) as ours:
                if ours:
                    job.act(stop)
        except EtlError as error:
            self._log.error("job_failed", job=job.name, error=error.text, code=error.code)
        except Exception:
            self._log.exception("job_failed", job=job.name)
