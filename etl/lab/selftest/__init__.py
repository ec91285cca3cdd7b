"""The selftest: nothing is lost or doubled, whatever is done to the processes and the servers.

plan ──▶ faults ──▶ site ◀── producers
                      │          │ truth
                      ▼          ▼
               quiet, then:    proof ──▶ report
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, date, datetime
from pathlib import Path

from etl import logs
from etl.app.database import engine_of
from etl.app.lake import open_lake
from etl.app.sources import claimed_elsewhere, waiting
from etl.errors import EtlError
from etl.inbox import connection as inbox
from etl.inbox.producer import publish, push
from etl.lab.selftest import engine, proof
from etl.lab.selftest.faults import Saboteur
from etl.lab.selftest.memory import EVERY_SECONDS, MemoryWatch
from etl.lab.selftest.plan import (
    EXPORTER,
    LISTENER,
    LOADERS,
    REDIS_CLOCK,
    SERVERS,
    STEADY_LISTENER,
    STEADY_LOADER,
    plan,
)
from etl.lab.selftest.processes import repeating
from etl.lab.selftest.producers import DIALLERS, Dialler, Switchboard, Truth
from etl.lab.selftest.proof import Proof
from etl.lab.selftest.report import SelftestReport
from etl.lab.selftest.servers import Servers, owned, private, remove
from etl.lab.selftest.site import FORWARD, SELFTEST_SOURCES, Site, site
from etl.lab.servers.process import wait_until
from etl.lake.datasets import DATASETS
from etl.settings import Settings
from etl.store.connection import read

PRODUCER_TIMEOUT = 2.0  # seconds: sooner than a frozen Redis thaws, so that they push again what arrives all the same
SESSION_LOADED_SECONDS = 30.0  # until the listener's first report is loaded
QUIET_SECONDS = 120.0  # for leases to run out, pauses to end, and the backlog to be loaded

log = logs.get()


def run(
    minutes: float, seed: int, progress: Callable[[float], None], lent: tuple[str, str] | None = None
) -> SelftestReport:
    """Torment a whole installation for so long, and prove that nothing was lost or doubled. `progress` gets the share
    of the time that is over.

    Without `lent`, the URLs of a Redis and a Postgres that are empty, the servers are private ones, and suffer too.
    Their folder stays if something is wrong; what was lent keeps what was loaded. Raises `ConfigurationError` if a
    server can't be started, or can't be lent; and `Outage`.
    """
    folder = Path(tempfile.mkdtemp(prefix="etl-selftest-"))
    folder.chmod(0o755)  # if we are root, Postgres is somebody else
    try:
        with nullcontext(owned(*lent)) if lent else private(folder) as servers:
            report = _run(minutes, seed, servers, folder, progress)
    except BaseException:
        remove(folder)
        raise
    if report.ok:
        remove(folder)
    return report


def _run(
    minutes: float, seed: int, servers: Servers, folder: Path, progress: Callable[[float], None]
) -> SelftestReport:
    spared = () if servers.redis else (*SERVERS, REDIS_CLOCK)
    with site(servers, folder) as running:
        reader = engine.Engine(running.settings)
        truth, saboteur, memory = Truth(seed, datetime.now(UTC).date()), Saboteur(running), MemoryWatch()
        with (
            repeating(lambda: memory.sample(_pids(running)), EVERY_SECONDS),
            repeating(lambda: _restart_ended(running), 1.0),
            repeating(reader.look, engine.EVERY_SECONDS) if engine.is_there() else nullcontext(),
        ):
            _start(running)
            with saboteur.at_work(plan(seed, minutes * 60, spared)), _producing(running, truth):
                _pass_time(minutes * 60, progress)
            waited = _come_to_rest(running)
        made = saboteur.set_backs.made
        verdicts = [_lively(waited), *_prove(running, truth), *proof.set_backs(made)]
        verdicts += _of_the_processes(running, folder, memory)
        verdicts += [_of_the_engine(reader)] if engine.is_there() else []
    faults, growth = saboteur.suffered, memory.growth()
    return SelftestReport(seed, minutes, spared, truth, faults, made, waited, verdicts, growth, folder)


def _start(running: Site) -> None:
    for program in running.programs.values():
        program.start()
    # A listener's first report says that it's subscribed; soon a loader has taken it from the spool.
    with engine_of(running.settings) as engine:
        if not wait_until(lambda: bool(read(engine, "SELECT FROM listener_sessions")[1]), SESSION_LOADED_SECONDS):
            raise EtlError("ETL-906", "the listener isn't subscribed, or its loader doesn't load")


@contextmanager
def _producing(running: Site, truth: Truth) -> Iterator[None]:
    """Producers at work; at the end they finish what they have begun."""
    stop = threading.Event()
    url = running.settings.redis_url.get_secret_value()
    with ExitStack() as stack:

        def client() -> inbox.Client:
            connected = inbox.connect(url, timeout=PRODUCER_TIMEOUT)
            stack.callback(connected.close)
            return connected

        work = [
            *(_dialler(number, truth, client()).run for number in range(1, DIALLERS + 1)),
            _switchboard(truth, client()).run,
        ]
        pool = stack.enter_context(ThreadPoolExecutor(len(work), "producer"))
        working = [pool.submit(each, stop) for each in work]
        try:
            yield
        finally:
            stop.set()
        for each in working:
            each.result()


def _dialler(number: int, truth: Truth, client: inbox.Client) -> Dialler:
    return Dialler(number, truth, lambda key, messages: push(client, key, messages))


def _switchboard(truth: Truth, client: inbox.Client) -> Switchboard:
    return Switchboard(truth, lambda channel, message: publish(client, [(channel, message)]))


def _restart_ended(running: Site) -> None:
    for program in running.programs.values():
        program.restart_if_ended()


def _pids(running: Site) -> dict[str, int | None]:
    pids = {name: each.pid for name, each in running.programs.items()}
    with suppress(RuntimeError):  # it's down just now
        if redis := running.servers.redis:
            pids[redis.server.name] = redis.server.pid
    return pids


def _pass_time(seconds: float, progress: Callable[[float], None]) -> None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        progress(passed / seconds)
        time.sleep(min(0.5, seconds - passed))


def _come_to_rest(running: Site) -> float:
    """Wait until the backlog is loaded, and stop all processes; returns how many seconds it took."""
    began = time.monotonic()
    running.stop(STEADY_LISTENER, LISTENER, EXPORTER)
    wait_until(lambda: _is_quiet(running), QUIET_SECONDS)
    waited = time.monotonic() - began
    running.stop(STEADY_LOADER, *LOADERS)
    return waited


def _lively(waited: float) -> Proof:
    what = f"after the last fault everything is loaded within {QUIET_SECONDS:.0f} s"
    return Proof(waited <= QUIET_SECONDS, what, f"{waited:.0f} s")


def _is_quiet(running: Site) -> bool:
    """In this order: a message moves from a list into a claim, never back."""
    time.sleep(0.5)
    return all(number == 0 for number in waiting(running.settings).values()) and not claimed_elsewhere(running.settings)


def _prove(running: Site, truth: Truth) -> Iterator[Proof]:
    yield proof.quiet(running.keys(), [FORWARD])
    bring_the_lake_up_to_date(running.settings)
    forwarded = {source.key: running.length(FORWARD) for source in SELFTEST_SOURCES if source.forward_to}
    yield from proof.verdicts(running.settings, truth, forwarded)


def bring_the_lake_up_to_date(settings: Settings) -> None:
    """Export every day, today as well, and restore those that were dropped from Postgres, or that a set-back left as
    later in the lake than in Postgres: those are exported again. What fails here shows in the verdict on the days'
    books."""
    with open_lake(settings) as archive:
        for dataset in DATASETS.values():
            for books in archive.books(dataset, date.min, date.max):
                with suppress(EtlError):  # a day that is later in the lake is refused until it's restored
                    archive.export(dataset, books.day, _nobody)
                for operation in (archive.restore, archive.export):
                    try:
                        operation(dataset, books.day, _nobody)
                    except EtlError as error:
                        day = str(books.day)
                        log.error(
                            "selftest_lake_failed", dataset=dataset.name, day=day, error=error.text, code=error.code
                        )


def _nobody(_rows: int) -> None:
    """Hears of the rows that are done."""


def _of_the_engine(reader: engine.Engine) -> Proof:
    wrong = f", {len(reader.wrong)} wrong: {reader.wrong[0]}" if reader.wrong else ""
    what = "Polars' queries of the Iceberg table, amid all this, had each call once, and none failed"
    return Proof(reader.ok, what, f"{reader.queries:,} queries{wrong}")


def _of_the_processes(running: Site, folder: Path, memory: MemoryWatch) -> Iterator[Proof]:
    complaints = [each for program in running.programs.values() for each in program.complaints]
    complaints += [
        f"a traceback in {log.name}" for log in sorted(folder.glob("*.log")) if b"Traceback" in log.read_bytes()
    ]
    found = "; ".join(complaints) or f"{len(running.programs)} processes, started again and again"
    yield Proof(not complaints, "no process ended by itself, refused to stop, or printed a traceback", found)
    steady = [each for each in memory.growth() if each.name in (STEADY_LOADER, STEADY_LISTENER)]
    grown = [each.name for each in steady if each.is_flat is False]
    tellable = bool(steady) and all(each.is_flat is not None for each in steady)
    found = f"{', '.join(grown)} grew" if grown else "flat" if tellable else "too short a time to tell"
    yield Proof(
        False if grown else True if tellable else None, "the memory of a loader and of a listener is flat", found
    )
