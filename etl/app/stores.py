"""The two stores of a process, from settings."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from etl.inbox import connection as inbox
from etl.settings import Settings
from etl.store import connection as store
from etl.store.pinned import LOADING

# To Postgres: one for each thread that loads, and some to spare. Scheduled jobs have their own.
CONNECTIONS = 6


@dataclass(frozen=True, slots=True)
class Stores:
    """The two clients of a process."""

    redis: inbox.Client
    engine: store.Engine


@contextlib.contextmanager
def stores(settings: Settings) -> Iterator[Stores]:
    """Both stores, closed at the end, for whoever loads. Neither is asked anything yet, but for a cluster's slots."""
    engine = store.connect(settings.sqlalchemy_url, connections=CONNECTIONS, timeouts=LOADING)
    try:
        with redis_of(settings) as redis:
            yield Stores(redis, engine)
    finally:
        engine.dispose()


@contextlib.contextmanager
def redis_of(settings: Settings, timeout: float = inbox.SOCKET_TIMEOUT_SECONDS) -> Iterator[inbox.Client]:
    redis = inbox.connect(settings.inbox_url, settings.redis_cluster, timeout)
    try:
        yield redis
    finally:
        redis.close()
