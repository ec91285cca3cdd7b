"""Loading, put together from settings: clients, loaders, and their threads.

    drain     every source list, one after the other, until nothing is left
    follow    every source list, in a few threads for all, until SIGTERM or SIGINT

Scheduled jobs are in `etl.app.schedule`, the lake in `etl.app.lake`, several processes in `etl.supervisor`.
"""

import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from etl import logs
from etl.app.database import engine_of
from etl.app.descriptors import affordable
from etl.app.recall import recall_of
from etl.app.sources import decoders_of, each_for_itself, forget_key, let_in, sources, tally_of
from etl.app.stores import Stores, redis_of, stores
from etl.app.threads import SIGNAL_POLL_SECONDS, beside, cancelling, heartbeat, run_in_thread, run_in_threads
from etl.errors import EtlError, Outage, WrongClock
from etl.inbox import connection as inbox
from etl.inbox.claims import Source
from etl.inbox.listener import Listener, Listening
from etl.inbox.spool import Spooler
from etl.inbox.watch import Watch
from etl.jobs.clocks import Clocks
from etl.jobs.commits import CommitWatch
from etl.jobs.loader import Decode, Loader, Options
from etl.jobs.patience import Patience, Stopped
from etl.jobs.pool import THREADS, Pool
from etl.jobs.recall import Recall
from etl.keys import SPOOL
from etl.metrics import Tally
from etl.settings import Settings
from etl.store import connection as store
from etl.store import schema
from etl.store.connection import cancel_running
from etl.store.ledger import Books
from etl.store.writer import Writer
from etl.urls import redacted

# `drain` waits so long for a store that is away; `follow` waits for ever.
DRAIN_PATIENCE_SECONDS = 30.0
# The listener repeats its small commands: the sooner it gives one up, the shorter the gap.
LISTENER_TIMEOUT_SECONDS = 1.0
# Seconds after which the decoding thread yields to the one that feeds Postgres, which would idle otherwise.
SWITCH_INTERVAL = 0.001
# Objects made between two runs of the garbage collector, beside the heartbeat's. A claim makes a hundred thousand, none
# of them in a cycle.
GARBAGE_THRESHOLD = 200_000

log = logs.get()


def drain(
    settings: Settings,
    stop: threading.Event,
    loaded: Callable[[str, Books], None],
    broken: Callable[[str, EtlError], None],
) -> None:
    """Load until every source list is empty; calls `loaded` after each claim, with its list's key, and `broken` for
    each list that can't be loaded, while the others are: since it's broken, or since its node of a cluster is away.

    Raises `Outage` if a store is away at the start, or for long; and `ConfigurationError`, before anything is loaded.
    """
    patient: list[Patience] = []

    def patience(alive: Callable[[], None]) -> Patience:
        patient.append(Patience(log, stop, DRAIN_PATIENCE_SECONDS, alive))
        return patient[-1]

    with stores(settings) as clients, cancelling(stop, partial(cancel_running, clients.engine)):
        schema.check(clients.engine)
        work = _loaders(settings, clients, [tally_of(settings)], _clocks(clients), patience)
        lists = [source for source, _ in work.loaders]
        watch = Watch(clients.redis, lists)
        let_in(watch.waiting())
        losses = _Losses(clients.engine, watch, lists, patient)
        recall = _recall(settings, clients, work)

        def drain_all() -> None:
            _drain_each(work.loaders, losses, stop, loaded, broken)
            until = time.monotonic() + DRAIN_PATIENCE_SECONDS
            while not (recall.first_look.wait(SIGNAL_POLL_SECONDS) or stop.is_set() or time.monotonic() > until):
                pass
            recalled = [(source, loader) for source, loader in work.loaders if source.key in recall.recalled]
            for _, loader in recalled:
                loader.adopt_now()
            _drain_each(recalled, losses, stop, loaded, broken)
            for key, why in losses.away.items():
                _tell(broken, key, why)

        with heartbeat(settings, lists), beside("recall", recall.run), beside("window", recall.make_room):
            run_in_thread(drain_all, "drain", lists, stop)


class _Losses:
    """The lists that are away. An outage may be one list's alone, whose node of a cluster is; but Postgres' and that of
    the clocks are everybody's."""

    def __init__(self, engine: store.Engine, watch: Watch, lists: list[Source], patient: list[Patience]) -> None:
        self.away: dict[str, EtlError] = {}
        self._engine = engine
        self._watch = watch
        self._keys = [source.key for source in lists]
        self._patient = patient

    def met(self, key: str, outage: Outage) -> None:
        """After a list's patience. Raises `Outage` if nothing else can be loaded either; no other waits as long."""
        if isinstance(outage, WrongClock):
            raise outage
        store.unix_time(self._engine)
        answers = zip(self._keys, self._watch.waiting(), strict=True)
        self.away |= {lost: answer for lost, answer in answers if isinstance(answer, Outage)}
        if len(self.away) == len(self._keys):
            raise outage
        self.away[key] = outage
        for each in self._patient:
            each.hurry()


def _drain_each(
    work: list[tuple[Source, Loader]],
    losses: _Losses,
    stop: threading.Event,
    loaded: Callable[[str, Books], None],
    broken: Callable[[str, EtlError], None],
) -> None:
    for source, loader in work:
        if source.key in losses.away:
            continue
        try:
            loader.drain(stop, partial(loaded, source.key))
        except Outage as outage:
            losses.met(source.key, outage)
        except EtlError as error:
            _tell(broken, source.key, error)


def _tell(broken: Callable[[str, EtlError], None], key: str, error: EtlError) -> None:
    log.warning("list_broken", source_key=key, error=error.text, code=error.code)
    broken(key, error)


def follow(
    settings: Settings, stop: threading.Event, tallies: Sequence[Tally], listen: bool = True, schedule: bool = True
) -> None:
    """Load, listen to PubSub and run the scheduled jobs until `stop` is set. Then claims in hand are finished, or given
    back when time is short. Counts in `tallies`, which come from `tallies_of(settings)`.

    Raises `ConfigurationError` before anything has begun. Later on what is refused, by a list or to the listener, is
    told and tried again.
    """

    def beat() -> None:
        for tally in tallies:
            tally.beat()

    patience = Patience(log, stop, None, beat)
    with contextlib.suppress(Stopped), contextlib.ExitStack() as stack:
        clients = patience.retry(lambda: stack.enter_context(stores(settings)))
        engines = [clients.engine]

        def cancel_all() -> None:
            for engine in engines:
                cancel_running(engine)

        stack.enter_context(cancelling(stop, cancel_all))
        patience.retry(lambda: schema.check(clients.engine))
        clocks = _clocks(clients)
        work = _loaders(settings, clients, tallies, clocks, partial(Patience, log, stop, None, gives_way=True))
        lists = [source for source, _ in work.loaders]
        watch = Watch(clients.redis, lists)
        patience.retry(lambda: let_in(watch.waiting()))
        recall = _recall(settings, clients, work)
        with heartbeat(settings, lists):
            log.info("started", worker=settings.worker_name, redis=redacted(settings.redis_url.get_secret_value()))
            runs = {
                **_loading(settings, watch, work),
                "recall": recall.run,
                "window": recall.make_room,
                "commits": CommitWatch(partial(store.waiting_for_standby, clients.engine), log).run,
            }
            if listen:
                prompt = patience.retry(lambda: stack.enter_context(redis_of(settings, LISTENER_TIMEOUT_SECONDS)))
                runs["listen"] = _listener(settings, clients.redis, prompt).run
            if schedule:
                from etl.app.schedule import schedule_of  # noqa: PLC0415 (its library is nothing for a run from cron)

                patient = stack.enter_context(engine_of(settings))
                engines.append(patient)
                check_clock = partial(clocks.check_without_redis, partial(inbox.unix_time, clients.redis))
                runs["schedule"] = schedule_of(settings, patient, check_clock).run
            run_in_threads(runs, lists, stop)
            log.info("stopped", worker=settings.worker_name)


def listen(settings: Settings, stop: threading.Event) -> None:
    """Listen to PubSub until `stop` is set; what is heard waits on the spool for a loader.

    Raises `NotLetIn` before anything has begun.
    """
    _collect_garbage_less()
    patience = Patience(log, stop)
    with contextlib.suppress(Stopped), contextlib.ExitStack() as stack:
        redis = patience.retry(lambda: stack.enter_context(redis_of(settings)))
        prompt = patience.retry(lambda: stack.enter_context(redis_of(settings, LISTENER_TIMEOUT_SECONDS)))
        listener = _listener(settings, redis, prompt)
        with each_for_itself():
            patience.retry(listener.reach)
        run_in_threads({"listen": listener.run}, [], stop)


class _Work(NamedTuple):
    """The loaders, each with its list, those that help them, and what they write by."""

    loaders: list[tuple[Source, Loader]]
    helpers: list[Loader]
    writer: Writer


def _clocks(clients: Stores) -> Clocks:
    return Clocks(partial(store.unix_time, clients.engine), log)


def _loaders(
    settings: Settings,
    clients: Stores,
    tallies: Sequence[Tally],
    clocks: Clocks,
    patience: Callable[[Callable[[], None]], Patience],
) -> _Work:
    """Each list has a loader for each of `tallies`. `patience` takes what is called before every attempt."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    _collect_garbage_less()
    writer, decoders = Writer(clients.engine, forget_key(settings), _unrecognised), decoders_of(settings)
    lists = sources(settings, clients)

    def loader(source: Source, tally: Tally, *, helps: bool) -> Loader:
        counts = tally.of(source.key)
        options = _options(settings, decoders[source.key], partial(clocks.check, source.unix_time))
        return Loader(source, writer, options, patience(counts.beat), counts, log, helps=helps)

    first, *helping = tallies
    loaders = [(source, loader(source, first, helps=False)) for source in lists]
    return _Work(loaders, [loader(source, tally, helps=True) for tally in helping for source in lists], writer)


def _unrecognised(receipts: int) -> None:
    log.warning("forgotten_not_recognised", receipts=receipts)


def _recall(settings: Settings, clients: Stores, work: _Work) -> Recall:
    return recall_of(settings, clients, [source for source, _ in work.loaders], lambda: work.writer.history)


def _loading(settings: Settings, watch: Watch, work: _Work) -> dict[str, Callable[[threading.Event], None]]:
    """What runs in threads of these names."""
    threads = affordable(THREADS)
    pool = Pool(
        [loader for _, loader in work.loaders],
        work.helpers,
        watch,
        threads=threads,
        batch_size=settings.batch_size,
        linger_seconds=settings.linger_ms / 1_000,
        log=log,
    )
    return {"watch": pool.watch, **{f"load {number}": pool.load for number in range(1, threads + 1)}}


def _options(settings: Settings, decode: Decode, check_clocks: Callable[[], None]) -> Options:
    return Options(
        decode=decode,
        worker=settings.worker_name,
        batch_size=settings.batch_size,
        server=settings.server,
        check_clocks=check_clocks,
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


def _collect_garbage_less() -> None:
    """Collecting over all imported objects again and again would take a tenth of a claim's time."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
