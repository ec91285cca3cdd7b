"""Threads of a process that follows: started, ended by a signal, and kept alive in Redis meanwhile."""

import _thread
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from etl import logs
from etl.errors import EtlError
from etl.inbox.claims import Source
from etl.settings import Settings

# From the signal to the exit 30 s are promised; what isn't finished by now is given back.
SHUTDOWN_SECONDS = 25.0
# What a thread does in Postgres may be finished within this time; after that, Postgres is told to cancel it, again and
# again: a claim that makes thousands of partitions runs a statement for each.
FINISH_SECONDS = 10.0
CANCEL_AGAIN_SECONDS = 0.5
# What works beside the loading is in the middle of a call to a store when it ends.
BESIDE_SECONDS = 3.0
# For giving back: Redis may not answer.
GIVE_BACK_SECONDS = 2.0
# How late, at worst, the main thread handles a signal.
SIGNAL_POLL_SECONDS = 1.0
# Leases are renewed this often within their length, so that two may fail.
RENEWALS_PER_LEASE = 4

log = logs.get()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. A second Ctrl-C ends the process at once; that loses nothing either."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            os._exit(128 + number)
        set_from_handler(stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def set_from_handler(stop: threading.Event) -> None:
    """Set it in another thread: a handler may interrupt the main thread within the event's own lock."""
    if not stop.is_set():
        _thread.start_new_thread(stop.set, ())


@contextlib.contextmanager
def heartbeat(settings: Settings, sources: list[Source]) -> Iterator[None]:
    """Renews the leases of the claims in hand, in a thread of its own, and collects garbage."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(settings.lease_seconds / RENEWALS_PER_LEASE):
            # SQLAlchemy's errors are in cycles with the frames that they passed: each keeps a claim in memory.
            gc.collect()
            for source in sources:
                # The loader logs outages; and the ledger keeps a claim whose lease was lost from being loaded twice.
                with contextlib.suppress(EtlError):
                    source.renew_all()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


@contextlib.contextmanager
def cancelling(stop: threading.Event, cancel: Callable[[], None]) -> Iterator[None]:
    """From a while after `stop` on, calls `cancel` until the context ends: whatever waits in it is to give up."""
    done = threading.Event()

    def run() -> None:
        while not stop.wait(SIGNAL_POLL_SECONDS):
            if done.is_set():
                return
        if done.wait(FINISH_SECONDS):
            return
        log.warning("statements_cancelled")
        while not done.wait(CANCEL_AGAIN_SECONDS):
            cancel()

    threading.Thread(target=run, name="cancel", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextlib.contextmanager
def beside(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Calls `work` in a thread of its own, with an event that is set when the context ends; then it's waited for, as
    long as a store may take to answer."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(BESIDE_SECONDS)


def run_in_thread(work: Callable[[], None], name: str, sources: list[Source], stop: threading.Event) -> None:
    """Do `work` in a thread, so that a signal is heard meanwhile. After `stop` it may take as long as `run_in_threads`
    gives it. Raises what it raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    while thread.is_alive() and not stop.is_set():
        thread.join(SIGNAL_POLL_SECONDS)
    _end([thread], sources)
    if failures:
        raise failures[0]


def run_in_threads(
    runs: Mapping[str, Callable[[threading.Event], None]], sources: list[Source], stop: threading.Event
) -> None:
    """Run each of `runs` in a thread of its name until `stop` is set or one fails; raises that failure."""
    failures: list[BaseException] = []

    def run(work: Callable[[threading.Event], None]) -> None:
        try:
            work(stop)
        except BaseException as failure:
            failures.append(failure)
            stop.set()

    threads = [threading.Thread(target=run, args=(work,), name=name, daemon=True) for name, work in runs.items()]
    for thread in threads:
        thread.start()
    # With a timeout: a signal that comes just before the wait doesn't end it, and its handler runs only afterwards.
    while not stop.wait(SIGNAL_POLL_SECONDS):
        pass
    _end(threads, sources)
    if failures:
        raise failures[0]


def _end(threads: list[threading.Thread], sources: list[Source]) -> None:
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    giving_back = threading.Thread(target=_give_back, args=(sources,), daemon=True)
    giving_back.start()
    giving_back.join(GIVE_BACK_SECONDS)


def _give_back(sources: list[Source]) -> None:
    """A claim that is still in hand is stuck in a call to a store. Should that commit before the process ends, the next
    holder finds the claim in the ledger."""
    for source in sources:
        try:
            source.give_back_all()
        except EtlError as error:
            log.warning("claims_left_to_their_leases", source_key=source.key, error=error.text, code=error.code)
