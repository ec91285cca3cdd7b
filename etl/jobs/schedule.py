"""The schedule: which jobs run when, beside the loading. Times are UTC.

    export       nightly, every closed day that changed
    sweep        hourly, revisions of the lake that nobody needs go, and plain readers find the current ones
    prune        nightly, if the settings limit the days that Postgres keeps
    partitions   hourly, for the days ahead, so that midnight's first claim needn't make one
    unite        hourly, calls that 0.1 stored as leg 1 become the first leg's rows; nothing to do after that
    rollup       every ten minutes, the figures of what was loaded lately
    figures      nightly, whatever `rollup` missed; and days that are over get an index of contacts
    prove        weekly, a day of the lake is restored aside and thrown away, to prove that it could be

Abandoned claims aren't here: the loaders look for them every few seconds.
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

# How often the stop signal is checked.
POLL_SECONDS = 0.5


Act = Callable[[threading.Event], object]


@dataclass(frozen=True, slots=True)
class Job:
    """`cron` has five fields. `act` may raise `EtlError`, runs again at its next time whatever happened, and ends early
    when the event is set."""

    name: str
    cron: str
    act: Act


def table(
    *, export: Act, sweep: Act, prune: Act | None, partitions: Act, unite: Act, prove: Act, rollup: Act, figures: Act
) -> list[Job]:
    """The jobs; `prune` is None where Postgres keeps everything."""
    return [
        Job("partitions", "5 * * * *", partitions),
        Job("unite", "35 * * * *", unite),
        Job("rollup", "*/10 * * * *", rollup),
        Job("figures", "55 1 * * *", figures),
        Job("export", "15 2 * * *", export),
        Job("sweep", "50 * * * *", sweep),
        *([Job("prune", "45 2 * * *", prune)] if prune else []),
        Job("prove", "30 3 * * sun", prove),
    ]


class Schedule:
    """Runs jobs at their times, one after the other, in the thread that calls `run`."""

    def __init__(self, jobs: Sequence[Job], alone: Callable[[str], AbstractContextManager[bool]], log: Any) -> None:
        """`alone` gives True if no other process runs the job of that name: hosts may share a schedule."""
        self.jobs = jobs
        self._alone = alone
        self._log = log

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        due: queue.SimpleQueue[Job] = queue.SimpleQueue()
        scheduler = BackgroundScheduler(timezone="UTC")
        for job in self.jobs:
            # The host may have slept: a missed job runs however late, and once for all the times it missed.
            trigger = CronTrigger.from_crontab(job.cron, timezone="UTC")
            scheduler.add_job(due.put, trigger, [job], id=job.name, coalesce=True, misfire_grace_time=None)
        scheduler.start()
        try:
            while not stop.is_set():
                try:
                    self.act(due.get(timeout=POLL_SECONDS), stop)
                except queue.Empty:
                    continue
        finally:
            scheduler.shutdown(wait=False)

    def act(self, job: Job, stop: threading.Event) -> None:
        """Run a job now, unless another process is running it. Its failure is logged, and other jobs go on."""
        try:
            with self._alone(job.name) as ours:
                if ours:
                    job.act(stop)
        except EtlError as error:
            self._log.error("job_failed", job=job.name, error=error.text, code=error.code)
        except Exception:
            self._log.exception("job_failed", job=job.name)
