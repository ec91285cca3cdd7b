"""The recall window, put together from settings; and what the operator asks of it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from etl import logs
from etl.app.sources import sources
from etl.app.stores import Stores, stores
from etl.errors import ConfigurationError, NotLetIn
from etl.inbox.claims import Source
from etl.inbox.kept import KeptClaims
from etl.inbox.memory import memory
from etl.inbox.watch import Watch
from etl.jobs.recall import Looked, Recall, Window
from etl.settings import Settings
from etl.store import schema
from etl.store.history import History

log = logs.get()


def recall_of(
    settings: Settings,
    clients: Stores,
    lists: Sequence[Source],
    written_into: Callable[[], History | None] = lambda: None,
) -> Recall:
    """Asks nothing yet."""
    return Recall(
        [*map(KeptClaims, lists)],
        Watch(clients.redis, lists),
        clients.engine,
        Window(lists[0].keep_ms, settings.recall_bytes),
        settings.server,
        memory=partial(memory, clients.redis),
        written_into=written_into,
        log=log,
    )


def look(settings: Settings, dry_run: bool, broken: Callable[[str, ConfigurationError], None]) -> Iterator[Looked]:
    """At each list: recalls what Postgres has forgotten, also if the ledger never knew the list; with `dry_run` only
    tells. Calls `broken` for a list that can't be looked at. Raises `Outage` and `ConfigurationError`."""
    with stores(settings) as clients:
        schema.check(clients.engine)
        lists = sources(settings, clients)
        recall = recall_of(settings, clients, lists)
        for source in lists:
            try:
                yield recall.look_at(KeptClaims(source), only_look=dry_run, though_new=True)
            except NotLetIn:
                raise
            except ConfigurationError as error:
                broken(source.key, error)


def drop(settings: Settings) -> int:
    """Delete what is kept of all lists; returns how many bytes that frees, about. Raises `Outage` and
    `ConfigurationError`."""
    with stores(settings) as clients:
        return recall_of(settings, clients, sources(settings, clients)).drop_all()
