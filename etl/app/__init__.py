"""The composition root: settings become clients, clients become loaders, loaders get threads, signals end them.

    drain     every source list, one after the other, until nothing is left
    follow    every source list, each in its thread, until SIGTERM or SIGINT

What is done by the clock is in `etl.app.schedule`, the lake in `etl.app.lake`; several processes are the business of
`etl.supervisor`.
"""

import _thread
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from types import FrameType
from uuid import UUID

from etl import logs
from etl.app import schedule as clock
from etl.errors import EtlError, Outage
from etl.inbox import connection as inbox
from etl.inbox.claims import Source
from etl.inbox.listener import Listener, Listening
from etl.inbox.spool import Spooler
from etl.jobs.loader import Decode, Loader, Options
from etl.jobs.patience import Patience, Stopped
from etl.keys import SPOOL as SPOOL
from etl.metrics import Tally
from etl.reporting import rollup as figures
from etl.settings import Settings
from etl.settings import Source as ListSettings
from etl.store import connection as store
from etl.store import schema, sessions
from etl.store.sessions import Gap
from etl.store.writer import Books, Writer
from etl.urls import redacted
from etl.wire.cdr import NUMBERS
from etl.wire.decode import Decoding, SpoolDecoding
from etl.wire.faults import Reason
from etl.wire.ids import uuid7
from etl.wire.times import from_datetime

# A run that ends by itself doesn't wait longer than this for a store; one that follows waits for ever.
DRAIN_PATIENCE_SECONDS = 30.0
# From the signal to the exit 30 s are promised; what isn't finished by now is given back.
SHUTDOWN_SECONDS = 25.0
# For giving back, which a Redis that doesn't answer would draw out.
GIVE_BACK_SECONDS = 2.0
# How late, at worst, the main thread hears of a signal.
SIGNAL_POLL_SECONDS = 1.0
# Leases are renewed this often within their length, so that two may fail.
RENEWALS_PER_LEASE = 4

# The listener repeats its small commands: the sooner it gives one up, the sooner it hears again.
LISTENER_TIMEOUT_SECONDS = 1.0
# A dialler whose clock runs ahead, by time zone or by mistake; further off is a broken message.
AHEAD = timedelta(days=1)

# Seconds after which a thread that decodes gives way to the one that feeds Postgres, which would soon run dry.
SWITCH_INTERVAL = 0.001
# Objects made between two runs of the garbage collector, beside the heartbeat's. A claim makes a hundred thousand, none
# of them in a cycle.
GARBAGE_THRESHOLD = 200_000

log = logs.get()


@dataclass(frozen=True, slots=True)
class Stores:
    """The two clients of a process."""

    redis: inbox.Client
    engine: store.Engine


@contextlib.contextmanager
def stores(settings: Settings) -> Iterator[Stores]:
    """Both stores, closed at the end. Neither is asked anything yet, but for a cluster's slots."""
    engine = store.connect(settings.sqlalchemy_url, connections=len(settings.sources) + 5)
    try:
        with _redis(settings) as redis:
            yield Stores(redis, engine)
    finally:
        engine.dispose()


@contextlib.contextmanager
def _redis(settings: Settings, timeout: float = inbox.SOCKET_TIMEOUT_SECONDS) -> Iterator[inbox.Client]:
    redis = inbox.connect(settings.inbox_url, settings.redis_cluster, timeout)
    try:
        yield redis
    finally:
        redis.close()


@contextlib.contextmanager
def engine_of(settings: Settings) -> Iterator[store.Engine]:
    """Postgres alone, for commands that don't need Redis."""
    engine = store.connect(settings.sqlalchemy_url)
    try:
        yield engine
    finally:
        engine.dispose()


def drain(settings: Settings, stop: threading.Event, loaded: Callable[[str, Books], None]) -> None:
    """Load until every source list is empty, telling of each claim under its list's key.

    Raises `Outage` if a store is away at the start, or for long, and `ConfigurationError`.
    """
    with stores(settings) as clients:
        schema.check(clients.engine)
        work = _loaders(settings, clients, tally_of(settings), partial(Patience, log, stop, DRAIN_PATIENCE_SECONDS))
        with _heartbeat(settings, [source for source, _ in work]):
            for source, loader in work:
                loader.drain(stop, lambda books, key=source.key: loaded(key, books))  # type: ignore[misc]


def follow(settings: Settings, stop: threading.Event, tally: Tally, listen: bool = True, schedule: bool = True) -> None:
    """Load, listen to PubSub, and do by the clock what is to be done, until `stop` is set. Then claims in hand are
    finished, or given back when time is short. What was done is counted in `tally`, which is `tally_of(settings)`.

    Raises what ended a loader or the listener, if anything but `stop` did.
    """
    patience = Patience(log, stop, None, tally.beat)
    with contextlib.suppress(Stopped), contextlib.ExitStack() as stack:
        clients = patience.ride_out(lambda: stack.enter_context(stores(settings)))
        patience.ride_out(lambda: schema.check(clients.engine))
        work = _loaders(settings, clients, tally, partial(Patience, log, stop, None))
        with _heartbeat(settings, [source for source, _ in work]):
            log.info("started", worker=settings.worker_name, redis=redacted(settings.redis_url.get_secret_value()))
            runs: dict[str, Callable[[threading.Event], None]] = {
                f"load {source.key}": loader.run for source, loader in work
            }
            if listen:
                prompt = patience.ride_out(lambda: stack.enter_context(_redis(settings, LISTENER_TIMEOUT_SECONDS)))
                runs["listen"] = _listener(settings, clients.redis, prompt).run
            if schedule:
                runs["schedule"] = clock.schedule(settings, clients.engine).run
            _run_in_threads(runs, [source for source, _ in work], stop)
            log.info("stopped", worker=settings.worker_name)


def listen(settings: Settings, stop: threading.Event) -> None:
    """Listen to PubSub until `stop` is set; what is heard waits on the spool for a loader.

    Raises `ConfigurationError`.
    """
    patience = Patience(log, stop)
    with contextlib.suppress(Stopped), contextlib.ExitStack() as stack:
        redis = patience.ride_out(lambda: stack.enter_context(_redis(settings)))
        prompt = patience.ride_out(lambda: stack.enter_context(_redis(settings, LISTENER_TIMEOUT_SECONDS)))
        _run_in_threads({"listen": _listener(settings, redis, prompt).run}, [], stop)


def gaps(settings: Settings, since: datetime, until: datetime) -> list[Gap]:
    """When nobody listened, within a period. Raises `Outage` and `ConfigurationError`."""
    with engine_of(settings) as engine:
        schema.check(engine)
        return sessions.gaps(engine, since, until)


def retire(settings: Settings, server: str) -> datetime:
    """Expect nothing more of what was listened to on a Redis server; returns from when on. Raises `EtlError` if nobody
    ever listened to it, `Outage` and `ConfigurationError`."""
    with engine_of(settings) as engine:
        schema.check(engine)
        return sessions.retire(engine, server)


def check(settings: Settings) -> None:
    """Raises `ConfigurationError` with the way out unless the schema is the one we need, `Outage` if we can't know."""
    with engine_of(settings) as engine:
        schema.check(engine)


def upgrade(settings: Settings) -> tuple[str | None, str]:
    """Bring the schema to the needed revision; returns the revisions before and after."""
    with engine_of(settings) as engine:
        return schema.upgrade(engine)


def revisions(settings: Settings) -> tuple[str | None, str]:
    """The schema's revision, and the needed one."""
    with engine_of(settings) as engine:
        return schema.current(engine), schema.needed()


def rollup(settings: Settings, everything: bool, told: Callable[[date], None]) -> list[date]:
    """Bring the kept figures of reports up to date, and make what contacts' histories need; the business days that were
    computed, each told when it is. Raises `Outage` and `ConfigurationError`."""
    with engine_of(settings) as engine:
        schema.check(engine)
        days = figures.rollup(engine, everything=everything, told=told)
        figures.index_contacts(engine, datetime.now(UTC).date())
        return days


def waiting(settings: Settings) -> dict[str, int]:
    """How many messages wait, by source list. Raises `Outage`."""
    with stores(settings) as clients:
        return {source.key: source.waiting() for source in sources(settings, clients)}


def claimed_elsewhere(settings: Settings) -> int:
    """How many claims other workers hold, or left behind with a lease that still runs. Raises `Outage`."""
    with stores(settings) as clients:
        return sum(source.claimed_elsewhere() for source in sources(settings, clients))


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
    """Not at once, for a handler interrupts the main thread anywhere, within the event's own lock too."""
    if not stop.is_set():
        _thread.start_new_thread(stop.set, ())


def sources(settings: Settings, clients: Stores) -> list[Source]:
    """The dialler's lists, and last the spool, which is loaded like any other."""
    lists = [(source.key, source.take_from, source.forward_to) for source in settings.sources]
    return [
        Source(
            clients.redis,
            key,
            worker=settings.worker_name,
            take_from=take_from,
            forward_to=forward_to,
            batch_size=settings.batch_size,
            lease_ms=settings.lease_seconds * 1_000,
        )
        for key, take_from, forward_to in [*lists, (SPOOL, "right", None)]
    ]


def tally_of(settings: Settings) -> Tally:
    """A tally for one process of loaders, all at zero."""
    return Tally([*(source.key for source in settings.sources), SPOOL], [str(reason) for reason in Reason], NUMBERS)


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000)


def _loaders(
    settings: Settings, clients: Stores, tally: Tally, patience: Callable[[Callable[[], None]], Patience]
) -> list[tuple[Source, Loader]]:
    """`patience` makes one, given what to call while it waits."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    _spare_the_garbage_collector()
    writer, decoders = Writer(clients.engine), decoders_of(settings)
    work = []
    for source in sources(settings, clients):
        counts = tally.of(source.key)
        options = _options(settings, decoders[source.key])
        work.append((source, Loader(source, writer, options, patience(counts.beat), counts, log)))
    return work


def decoders_of(settings: Settings) -> dict[str, Decode]:
    """What the messages of each list are, by its key."""
    lists = {source.key: _of_a_list(settings, source) for source in settings.sources}
    return {**lists, SPOOL: _of_the_spool(settings)}


def _options(settings: Settings, decode: Decode) -> Options:
    return Options(
        decode=decode,
        worker=settings.worker_name,
        batch_size=settings.batch_size,
        linger_seconds=settings.linger_ms / 1_000,
        server=settings.server,
    )


def _of_a_list(settings: Settings, source: ListSettings) -> Decode:
    return lambda messages, batch_id, captured_at: Decoding(
        messages,
        source=source.source,
        key=source.key,
        batch_id=batch_id,
        captured_at=captured_at,
        latest=from_datetime(datetime.now(UTC) + AHEAD),
        max_message_bytes=settings.max_message_bytes,
        zone=source.time_zone,
    )


def _of_the_spool(settings: Settings) -> Decode:
    return lambda messages, batch_id, _: SpoolDecoding(
        messages, batch_id=batch_id, max_message_bytes=settings.max_message_bytes
    )


def _listener(settings: Settings, redis: inbox.Client, prompt: inbox.Client) -> Listener:
    listening = Listening(
        name=settings.worker_name,
        spool=SPOOL,
        patterns=settings.listen_patterns,
        ignore=frozenset(settings.listen_ignore),
        server=settings.server,
    )
    return Listener(prompt, listening, log, Spooler(redis, SPOOL, log))


def _spare_the_garbage_collector() -> None:
    """Going through all that was imported, time and again within a claim, would take a tenth of its time."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


@contextlib.contextmanager
def _heartbeat(settings: Settings, sources: list[Source]) -> Iterator[None]:
    """Renews the leases of the claims in hand, from a thread of its own, and sees to the garbage."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(settings.lease_seconds / RENEWALS_PER_LEASE):
            # SQLAlchemy's errors are in cycles with the frames that they passed: each holds on to the claim it struck.
            gc.collect()
            for source in sources:
                # The loader says when Redis is away; and a claim that is lost is protected by the ledger.
                with contextlib.suppress(EtlError):
                    source.renew_all()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _run_in_threads(
    runs: Mapping[str, Callable[[threading.Event], None]], sources: list[Source], stop: threading.Event
) -> None:
    """Each of `runs` in a thread of its name, until `stop` is set or one of them fails; that failure is raised."""
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
    # Not for ever: a signal that comes just before the wait begins doesn't end it, and its handler runs after it.
    while not stop.wait(SIGNAL_POLL_SECONDS):
        pass
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    giving_back = threading.Thread(target=_give_back, args=(sources,), daemon=True)
    giving_back.start()
    giving_back.join(GIVE_BACK_SECONDS)
    if failures:
        raise failures[0]


def _give_back(sources: list[Source]) -> None:
    """What is still in hand is stuck in a call to a store. Its thread ends with the process; should it commit before
    that, the ledger tells the next holder."""
    for source in sources:
        try:
            source.give_back_all()
        except Outage as outage:
            log.warning("claims_left_to_their_leases", source_key=source.key, error=str(outage))
