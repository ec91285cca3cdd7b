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
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from etl import logs
from etl.app.database import engine_of
from etl.app.descriptors import affordable
from etl.app.recall import recall_of
from etl.app.sources import decoders_of, each_for_itself, let_in, sources, tally_of
from etl.app.stores import Stores, redis_of, stores
from etl.app.threads import SIGNAL_POLL_SECONDS, beside, cancelling, heartbeat, run_in_thread, run_in_threads
from etl.errors import EtlError, Outage
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
    each list that can't be loaded, while the others are.

    Raises `Outage` if a store is away at the start, or for long; and `ConfigurationError`, before anything is loaded.
    """
    with stores(settings) as clients, cancelling(stop, partial(cancel_running, clients.engine)):
        schema.check(clients.engine)
        work = _loaders(settings, clients, tally_of(settings), partial(Patience, log, stop, DRAIN_PATIENCE_SECONDS))
        lists = [source for source, _ in work.loaders]
        let_in(lists)
        recall = _recall(settings, clients, work)

        def drain_all() -> None:
            drain_each(work.loaders)
            until = time.monotonic() + DRAIN_PATIENCE_SECONDS
            while not (recall.first_look.wait(SIGNAL_POLL_SECONDS) or stop.is_set() or time.monotonic() > until):
                pass
            recalled = [(source, loader) for source, loader in work.loaders if source.key in recall.recalled]
            for _, loader in recalled:
                loader.adopt_now()
            drain_each(recalled)

        def drain_each(loaders: list[tuple[Source, Loader]]) -> None:
            for source, loader in loaders:
                try:
                    loader.drain(stop, partial(loaded, source.key))
                except Outage:
                    raise
                except EtlError as error:
                    log.warning("list_broken", source_key=source.key, error=error.text, code=error.code)
                    broken(source.key, error)

        with heartbeat(settings, lists), beside("recall", recall.run):
            run_in_thread(drain_all, "drain", lists, stop)


def follow(settings: Settings, stop: threading.Event, tally: Tally, listen: bool = True, schedule: bool = True) -> None:
    """Load, listen to PubSub and run the scheduled jobs until `stop` is set. Then claims in hand are finished, or given
    back when time is short. Counts in `tally`, which comes from `tally_of(settings)`.

    Raises `ConfigurationError` before anything has begun. Later on what is refused, by a list or to the listener, is
    told and tried again.
    """
    patience = Patience(log, stop, None, tally.beat)
    with contextlib.suppress(Stopped), contextlib.ExitStack() as stack:
        clients = patience.retry(lambda: stack.enter_context(stores(settings)))
        stack.enter_context(cancelling(stop, partial(cancel_running, clients.engine)))
        patience.retry(lambda: schema.check(clients.engine))
        work = _loaders(settings, clients, tally, partial(Patience, log, stop, None, gives_way=True))
        lists = [source for source, _ in work.loaders]
        patience.retry(lambda: let_in(lists))
        with heartbeat(settings, lists):
            log.info("started", worker=settings.worker_name, redis=redacted(settings.redis_url.get_secret_value()))
            runs = {
                **_loading(settings, clients, work),
                "recall": _recall(settings, clients, work).run,
                "commits": CommitWatch(partial(store.waiting_for_standby, clients.engine), log).run,
            }
            if listen:
                prompt = patience.retry(lambda: stack.enter_context(redis_of(settings, LISTENER_TIMEOUT_SECONDS)))
                runs["listen"] = _listener(settings, clients.redis, prompt).run
            if schedule:
                from etl.app.schedule import schedule_of  # noqa: PLC0415 (its library is nothing for a run from cron)

                patient = stack.enter_context(engine_of(settings))
                stack.enter_context(cancelling(stop, partial(cancel_running, patient)))
                runs["schedule"] = schedule_of(settings, patient).run
            run_in_threads(runs, lists, stop)
            log.info("stopped", worker=settings.worker_name)


def listen(settings: Settings, stop: threading.Event) -> None:
    """Listen to PubSub until `stop` is set; what is heard waits on the spool for a loader.

    Raises `NotLetIn` before anything has begun.
    """
    patience = Patience(log, stop)
    with contextlib.suppress(Stopped), contextlib.ExitStack() as stack:
        redis = patience.retry(lambda: stack.enter_context(redis_of(settings)))
        prompt = patience.retry(lambda: stack.enter_context(redis_of(settings, LISTENER_TIMEOUT_SECONDS)))
        listener = _listener(settings, redis, prompt)
        with each_for_itself():
            patience.retry(listener.reach)
        run_in_threads({"listen": listener.run}, [], stop)


class _Work(NamedTuple):
    """The loaders, each with its list, and what they write by."""

    loaders: list[tuple[Source, Loader]]
    writer: Writer


def _loaders(
    settings: Settings, clients: Stores, tally: Tally, patience: Callable[[Callable[[], None]], Patience]
) -> _Work:
    """`patience` takes a callable that is called before every attempt."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    _collect_garbage_less()
    writer, decoders = Writer(clients.engine), decoders_of(settings)
    clocks = Clocks(partial(inbox.unix_time, clients.redis), partial(store.unix_time, clients.engine), log)
    loaders = []
    for source in sources(settings, clients):
        counts = tally.of(source.key)
        options = _options(settings, decoders[source.key], clocks)
        loaders.append((source, Loader(source, writer, options, patience(counts.beat), counts, log)))
    return _Work(loaders, writer)


def _recall(settings: Settings, clients: Stores, work: _Work) -> Recall:
    return recall_of(settings, clients, [source for source, _ in work.loaders], lambda: work.writer.history)


def _loading(settings: Settings, clients: Stores, work: _Work) -> dict[str, Callable[[threading.Event], None]]:
    """What runs in threads of these names."""
    threads = affordable(min(THREADS, len(work.loaders)))
    pool = Pool(
        [loader for _, loader in work.loaders],
        Watch(clients.redis, [source for source, _ in work.loaders]),
        threads=threads,
        batch_size=settings.batch_size,
        linger_seconds=settings.linger_ms / 1_000,
        log=log,
    )
    return {"watch": pool.watch, **{f"load {number}": pool.load for number in range(1, threads + 1)}}


def _options(settings: Settings, decode: Decode, clocks: Clocks) -> Options:
    return Options(
        decode=decode,
        worker=settings.worker_name,
        batch_size=settings.batch_size,
        server=settings.server,
        check_clocks=clocks.check,
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
