"""Several loader processes on one host: started, restarted with back-off when they die, stopped together. What a worker
does is in `etl.app`.

If the supervisor itself is killed, its workers notice and stop as on SIGTERM.
"""

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from etl import logs
from etl.app import load, monitor
from etl.app.schedule import FAILED
from etl.app.sources import tallies_of
from etl.app.threads import SHUTDOWN_SECONDS, set_from_handler
from etl.errors import ConfigurationError, EtlError
from etl.jobs.schedule import POLL_SECONDS
from etl.metrics import Tally
from etl.settings import Settings
from etl.store.ledger import Books

FIRST_RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
# After the death of a worker that lived this long, the pauses begin with the shortest again.
HEALTHY_SECONDS = 60.0
# A little more than a worker takes to finish or give back its claims.
KILL_AFTER_SECONDS = SHUTDOWN_SECONDS + 3.0

MISCONFIGURED = 2  # the exit code of a worker that must not be restarted

_spawn = multiprocessing.get_context("spawn")
log = logs.get()


def follow(settings: Settings, workers: int, stop: threading.Event, listen: bool = True, schedule: bool = True) -> None:
    """Keep `workers` loaders running until `stop` is set; one of them listens, one runs the scheduled jobs, the others
    stand by. A single one runs in this process. Their metrics are served as one.

    Raises what ended a single one, and `ConfigurationError` if one of several ended with it."""
    tallies = [tallies_of(settings) for _ in range(workers)]
    with monitor.serving(settings, [each for of_worker in tallies for each in of_worker]):
        if workers == 1:
            load.follow(settings, stop, tallies[0], listen, schedule)
        else:
            _keep_running(settings, stop, tallies, listen, schedule)


def _keep_running(
    settings: Settings, stop: threading.Event, tallies: Sequence[Sequence[Tally]], listen: bool, schedule: bool
) -> None:
    starts = [
        partial(_start, _follow, named, of_worker, listen, schedule)
        for named, of_worker in zip(_settings_of(settings, len(tallies)), tallies, strict=True)
    ]
    slots = [_Slot(start) for start in starts]
    with _stopping(slots):
        while not stop.is_set():
            for slot in slots:
                slot.keep_running()
            stop.wait(POLL_SECONDS)


def drain(
    settings: Settings,
    workers: int,
    stop: threading.Event,
    loaded: Callable[[str, Books], None],
    broken: Callable[[str, EtlError], None],
) -> None:
    """Drain every source list with `workers` loaders at once; `loaded` and `broken` as `etl.app.load.drain` calls them.
    Raises `EtlError` if a loader failed."""
    processes: dict[Connection, SpawnProcess] = {}
    for named in _settings_of(settings, workers):
        receiver, sender = _spawn.Pipe(duplex=False)
        processes[receiver] = _start(_drain, named, sender)
        sender.close()  # ours; the worker's own ends with it
    open_receivers = list(processes)
    kill_at = float("inf")
    while open_receivers:
        if stop.is_set():
            kill_at = min(kill_at, time.monotonic() + KILL_AFTER_SECONDS)
            for process in processes.values():
                process.terminate() if time.monotonic() < kill_at else process.kill()
        ready = wait(open_receivers, timeout=POLL_SECONDS)
        for receiver in [receiver for receiver in open_receivers if receiver in ready]:
            try:
                key, told = receiver.recv()
            except EOFError:
                open_receivers.remove(receiver)
                continue
            if isinstance(told, EtlError):
                broken(key, told)
            else:
                loaded(key, told)
    for process in processes.values():
        process.join()
        if not (stop.is_set() and process.exitcode == -signal.SIGTERM):  # our own, before it could handle it
            _raise_for(process)


class _Slot:
    """One worker: its current process, and when the next one may be started."""

    def __init__(self, start: Callable[[], SpawnProcess]) -> None:
        self._start = start
        self._pause = FIRST_RESTART_SECONDS
        self._started_at = time.monotonic()
        self._restart_at: float | None = None
        self._has_begun = False  # the first process did, or so would say its exit code
        self.process = start()

    def keep_running(self) -> None:
        if self.process.is_alive():
            return
        now = time.monotonic()
        if self._restart_at is None:
            if self.process.exitcode == MISCONFIGURED and not self._has_begun:
                _raise_for(self.process)
            self._has_begun = True
            if now - self._started_at > HEALTHY_SECONDS:
                self._pause = FIRST_RESTART_SECONDS
            how = {"exit_code": self.process.exitcode, **_cause(self.process)}
            log.error("worker_died", worker=self.process.name, restart_in=self._pause, **how)
            self._restart_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_RESTART_SECONDS)
        elif now >= self._restart_at:
            self._restart_at = None
            self._started_at = now
            self.process = self._start()


@contextmanager
def _stopping(slots: list[_Slot]) -> Iterator[None]:
    try:
        yield
    finally:
        for slot in slots:
            slot.process.terminate()
        deadline = time.monotonic() + KILL_AFTER_SECONDS
        for slot in slots:
            slot.process.join(max(0.0, deadline - time.monotonic()))
            if slot.process.is_alive():
                log.error("worker_killed", worker=slot.process.name)
                slot.process.kill()
                slot.process.join()


def _settings_of(settings: Settings, workers: int) -> list[Settings]:
    """The settings of each worker. Names stay the same after a restart, so that each adopts its own claims."""
    names = [f"{settings.worker_name}-{number}" for number in range(1, workers + 1)]
    return [settings.model_copy(update={"worker_name": name}) for name in names]


def _start(target: Callable[..., None], settings: Settings, *more: object) -> SpawnProcess:
    process = _spawn.Process(target=_worker, args=(target, settings, *more), name=settings.worker_name)
    # Ctrl-C reaches the whole process group. Workers ignore it from their start, since the interpreter would print a
    # traceback; they get SIGTERM from us.
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, ours)
    return process


def _cause(process: SpawnProcess) -> dict[str, str]:
    """What the exit code tells of a worker that had no last words: it was killed."""
    if (code := process.exitcode or 0) >= 0:
        return {}
    memory = ", probably for want of memory" if -code == signal.SIGKILL else ""
    return {"cause": f"killed by signal {-code}{memory}"}


def _raise_for(process: SpawnProcess) -> None:
    if process.exitcode == MISCONFIGURED:
        raise ConfigurationError("ETL-404", f"worker {process.name} can't work: see its line above")
    if process.exitcode:
        cause = _cause(process).get("cause", "see its line above")
        raise EtlError("ETL-405", f"worker {process.name} failed with exit code {process.exitcode}: {cause}")


def _worker(target: Callable[..., None], settings: Settings, *more: object) -> None:
    """A worker process, from its first line to its last."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: set_from_handler(stop))
    threading.Thread(target=_stop_with_the_parent, args=(stop,), daemon=True).start()
    try:
        target(settings, stop, *more)
    except EtlError as error:
        log.error("worker_failed", worker=settings.worker_name, error=error.text, code=error.code)
        sys.exit(MISCONFIGURED if isinstance(error, ConfigurationError) else FAILED)


def _stop_with_the_parent(stop: threading.Event) -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        stop.set()


def _follow(settings: Settings, stop: threading.Event, tallies: Sequence[Tally], listen: bool, schedule: bool) -> None:
    logs.configure()
    load.follow(settings, stop, tallies, listen, schedule)


def _drain(settings: Settings, stop: threading.Event, sender: Connection) -> None:
    logs.configure(level="warning")  # the parent reports what is loaded
    load.drain(settings, stop, *[lambda key, told: sender.send((key, told))] * 2)
