"""The Redis client, and the one place where its errors become ours.

The client never repeats a command by itself: a claim that is sent twice, with a long pause between, could fill a batch
that is already in the ledger. Who waits, and for how long, is decided by `etl.jobs`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from etl.errors import ConfigurationError, Outage

Client = redis.Redis | redis.RedisCluster

SENTINEL_SCHEME = "redis+sentinel"
_DEFAULT_SENTINEL_PORT = 26379

# Longer than any blocking wait, shorter than a lease: a Redis that answers nothing for this long is away.
SOCKET_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 5.0

# Answers of a server that will soon be able to, or of the wrong server during a fail-over.
_PASSING = ("OOM", "MISCONF", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY")


def connect(url: str, cluster: bool = False) -> Client:
    """A client for `redis://`, `rediss://`, `unix://`, `redis+sentinel://host,host:port/service/db`, or a cluster.

    Connects lazily except to a cluster, whose slots are asked for at once: that may raise `Outage`.
    """
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_keepalive": True,
    }
    with translated():
        if cluster:
            return redis.RedisCluster.from_url(url, retry=_never(), **options)
        if urlsplit(url).scheme == SENTINEL_SCHEME:
            return _through_sentinel(url, options)
        return redis.Redis.from_url(url, retry=_never(), **options)


@contextmanager
def translated() -> Iterator[None]:
    """Redis errors inside become `Outage` (wait) or `ConfigurationError` (don't)."""
    try:
        yield
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise ConfigurationError(f"Redis refuses us: {error}") from error
    except ClusterCrossSlotError as error:
        raise ConfigurationError(f"keys of one source lie in different slots of the cluster: {error}") from error
    except ResponseError as error:
        if str(error).startswith(_PASSING):
            raise Outage(f"Redis: {error}") from error
        raise ConfigurationError(f"Redis can't do what it was asked: {error}") from error
    except (RedisError, OSError) as error:
        raise Outage(f"Redis: {error}") from error


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _through_sentinel(url: str, options: dict[str, Any]) -> redis.Redis:
    """The current master of `redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db]`."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    if not hosts or not service:
        raise ConfigurationError("a sentinel URL reads redis+sentinel://host:port,host:port/service/db")
    user, _, password = credentials.partition(":")
    if credentials and not password:
        user, password = "", user
    sentinel_password = parse_qs(parts.query).get("sentinel_password", [None])[0]
    sentinel = Sentinel(
        [_host_and_port(host) for host in hosts.split(",")],
        sentinel_kwargs={**options, "password": sentinel_password},
        username=unquote(user) or None,
        password=unquote(password) or None,
        db=int(db or 0),
        retry=_never(),
        **options,
    )
    return sentinel.master_for(service)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port or _DEFAULT_SENTINEL_PORT)


__all__ = ["SENTINEL_SCHEME", "Client", "MasterNotFoundError", "connect", "translated"]
