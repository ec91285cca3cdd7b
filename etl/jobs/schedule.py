"""The schedule: which jobs run when, beside the loading. Times are UTC.

    export       nightly, every closed day that changed
    sweep        hourly, revisions of the lake that nobody needs go, and plain readers find the current ones
    prune        nightly, if the settings limit the days that Postgres keeps
    partitions   hourly, for the days ahead, so that midnight's first claim needn't make one
    unite        hourly, calls that 0.1 stored as leg 1 become the first leg's rows; nothing to do after that
    rollup       every ten minutes, the figures of what was loaded lately
    identities   nightly, what was loaded so long ago that it won't be claimed again is forgotten
    figures      nightly, whatever `rollup` missed; and days that are over get an index of contacts
    prove        weekly, a day of the lake is restored aside and thrown away, to prove that it could be

Abandoned claims aren't here: the loaders look for them every few seconds.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from apscheduler.triggers.cron import CronTrigger

from etl.errors import EtlError
from etl.logs import OutageLog

# How often the clock and the stop signal are looked at.
POLL_SECONDS = 0.5
# How often it's asked whether the clock is still wrong.
ASK_AGAIN_SECONDS = 5.0


Act = Callable[[threading.Event], object]


@dataclass(frozen=True, slots=True)
class Job:
    """`cron` has five fields. `act` may raise `EtlError`, runs again at its next time whatever happened, and ends early
    when the event is set."""

    name: str
    cron: str
    act: Act


_TIMES = {
    "partitions": "5 * * * *",
    "unite": "35 * * * *",
    "rollup": "*/10 * * * *",
    "identities": "20 1 * * *",
    "figures": "55 1 * * *",
    "export": "15 2 * * *",
    "sweep": "50 * * * *",
    "prune": "45 2 * * *",
    "prove": "30 3 * * sun",
}


def table(acts: Mapping[str, Act | None]) -> list[Job]:
    """The jobs, by name; that of `prune` is None where Postgres keeps everything."""
    return [Job(name, cron, act) for name, cron in _TIMES.items() if (act := acts[name])]


class Schedule:
    """Runs jobs at their times, one after the other, in the thread that calls `run`.

    By the host's clock, looked at time and again, so it may be set: a job runs at each of its times that the clock
    passes, once for all that it passes between two looks (the host slept, the clock was set forward, another job took
    long). Set back, it passes times anew; a job that has just run at one of them doesn't run at it again. While the
    clock is known to be wrong jobs wait: they'd close, export and prune the wrong days.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        alone: Callable[[str], AbstractContextManager[bool]],
        log: Any,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        check_clock: Callable[[], None] = lambda: None,
    ) -> None:
        """`alone` gives True if no other process runs the job of that name: hosts may share a schedule. `check_clock`
        raises `EtlError` while nothing may be done by the clock."""
        self.jobs = jobs
        self._alone = alone
        self._log = log
        self._now = now
        self._monotonic = monotonic
        self._ran: dict[str, _Run] = {}
        self._check_clock = check_clock
        self._waits = False
        self._ask_again_at = float("-inf")
        self._outage = OutageLog(log, "schedule_outage_began", "schedule_outage_ended")

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        triggers = {job.name: CronTrigger.from_crontab(job.cron, timezone="UTC") for job in self.jobs}
        looked = self._now()
        due = {name: _next_time(trigger, looked) for name, trigger in triggers.items()}
        while not stop.wait(POLL_SECONDS):
            now = self._now()
            if now < looked:
                due = {name: _next_time(trigger, now) for name, trigger in triggers.items()}
            if self._waits:
                self._is_clock_right()
            for job in self.jobs:
                at = due[job.name]
                if at <= now and not stop.is_set() and self._is_clock_right():
                    due[job.name] = _next_time(triggers[job.name], now)
                    if not self._has_just_run(job.name, at, _next_time(triggers[job.name], at) - at):
                        self._ran[job.name] = _Run(now, self._monotonic())
                        self.act(job, stop)
            looked = now

    def _is_clock_right(self) -> bool:
        if self._waits and self._monotonic() < self._ask_again_at:
            return False
        try:
            self._check_clock()
        except EtlError as error:
            self._outage.failed(error)
            self._waits = True
            self._ask_again_at = self._monotonic() + ASK_AGAIN_SECONDS
            return False
        self._outage.succeeded()
        self._waits = False
        return True

    def _has_just_run(self, name: str, at: datetime, interval: timedelta) -> bool:
        """At that time, before the clock was set back, and not about an interval ago."""
        ran = self._ran.get(name)
        return ran is not None and at <= ran.until and self._monotonic() - ran.at < interval.total_seconds() / 2

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


class _Run(NamedTuple):
    """The last run of a job was for its times until then, and at this moment of the monotonic clock."""

    until: datetime
    at: float


def _next_time(trigger: CronTrigger, after: datetime) -> datetime:
    found: datetime = trigger.get_next_fire_time(None, after + timedelta.resolution)
    return found
