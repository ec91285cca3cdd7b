"""The scheduled jobs, put together from settings. Those that need the lake run in a process of their own, so that
loading goes on whatever they take and however they end.
"""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

from etl import logs
from etl.errors import EtlError
from etl.jobs.schedule import POLL_SECONDS, Schedule, table
from etl.reporting import rollup as figures
from etl.settings import Settings
from etl.store import identities, locks, partitions
from etl.store import unite as legs
from etl.store.connection import Engine, unix_time
from etl.store.tables import PARTITIONED

# How far back the frequent rollup looks for commits: many times its interval, and longer than a claim takes.
LATELY = timedelta(hours=2)
FAILED = 1

_spawn = multiprocessing.get_context("spawn")
log = logs.get()


def schedule_of(settings: Settings, engine: Engine, check_clock: Callable[[], None] = lambda: None) -> Schedule:
    """This process's schedule. Other hosts may have the same: each job runs on the first to begin it. `check_clock` is
    `Schedule`'s."""

    def make_partitions(_stop: threading.Event) -> None:
        today = datetime.fromtimestamp(unix_time(engine), UTC).date()  # as the server has it, and not this host
        failures: list[EtlError] = []
        for each in PARTITIONED.values():
            try:
                # So the first claims after midnight find their partition, also those of a clock that runs ahead.
                partitions.ensure(engine, each, [today + timedelta(days=n) for n in range(partitions.DAYS_AHEAD + 1)])
            except EtlError as error:  # of one table: the other's days are made all the same
                failures.append(error)
        if failures:
            raise failures[0]

    def unite(stop: threading.Event) -> None:
        for day in legs.due(engine):
            if stop.is_set():
                return
            try:
                united = legs.unite(engine, day, settings.worker_name)
            except EtlError as error:  # the next day may go; and this one in an hour
                log.warning("legs_not_united", day=str(day), error=error.text, code=error.code)
                continue
            if united.renamed or united.united:
                log.info("legs_united", day=str(day), renamed=united.renamed, united=united.united)

    def rollup(_stop: threading.Event) -> None:
        figures.rollup(engine, since=datetime.now(UTC) - LATELY)

    def forget_identities(_stop: threading.Event) -> None:
        identities.forget(engine)

    def complete(_stop: threading.Event) -> None:
        figures.refresh(engine, datetime.now(UTC).date())

    jobs = table(
        {
            "export": partial(_aside, "export", settings),
            "sweep": partial(_aside, "sweep", settings),
            "prune": partial(_aside, "prune", settings) if settings.keep_days else None,
            "partitions": make_partitions,
            "unite": unite,
            "prove": partial(_aside, "prove", settings),
            "rollup": rollup,
            "identities": forget_identities,
            "figures": complete,
        }
    )
    return Schedule(jobs, partial(locks.alone, engine), log, check_clock=check_clock)


def _aside(job: Literal["export", "sweep", "prune", "prove"], settings: Settings, stop: threading.Event) -> None:
    """Run a job in a process of its own, which alone logs in as the lake's keeper, if there is one. When `stop` is set
    it's terminated, which is safe at any moment."""
    process = _spawn.Process(target=_perform, args=(job, settings), name=f"{settings.worker_name} {job}")
    process.start()
    while process.is_alive() and not stop.is_set():
        process.join(POLL_SECONDS)
    process.terminate()
    process.join()
    if process.exitcode and not stop.is_set():
        raise EtlError("ETL-406", f"it ended with exit code {process.exitcode}")


def _perform(job: str, settings: Settings) -> None:
    from etl.app import lake  # noqa: PLC0415  (it costs memory that only this process is to pay)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent terminates us
    logs.configure()
    try:
        {"export": lake.export, "sweep": lake.sweep, "prune": lake.prune, "prove": lake.prove}[job](settings)
    except EtlError as error:
        log.error("job_failed", job=job, error=error.text, code=error.code)
        sys.exit(FAILED)
