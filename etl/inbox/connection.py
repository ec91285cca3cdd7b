"""The Redis client, and the one place where its errors become ours.

The client never repeats a command by itself: a claim sent again after a long pause could add to a batch that is in the
ledger already. Retrying is up to `etl.jobs`.
"""

import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    ClusterError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from etl import urls
from etl.errors import ConfigurationError, EtlError, Forbidden, NotLetIn, Outage
from etl.urls import SENTINEL_SCHEMES

Client = redis.Redis | redis.RedisCluster

_DEFAULT_SENTINEL_PORT = 26379

# Longer than any blocking wait, shorter than a lease. A Redis that doesn't answer for so long counts as an outage.
SOCKET_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 5.0

# So many other nodes of a cluster are asked, at its start, for what any of them knows.
_OTHER_NODES = 3

# The options that a URL may have behind `?`, by scheme, each with the check of its value. redis-py would accept any
# argument of its connections there: `decode_responses` would break the first message that isn't UTF-8.
_TLS_OPTIONS: dict[str, Callable[[str], bool]] = {
    "ssl_ca_certs": os.path.isfile,
    "ssl_certfile": os.path.isfile,
    "ssl_keyfile": os.path.isfile,
    "ssl_cert_reqs": ("none", "optional", "required").__contains__,
    "ssl_check_hostname": ("true", "false").__contains__,
}
_URL_OPTIONS: dict[str, dict[str, Callable[[str], bool]]] = {
    "redis": {},
    "rediss": _TLS_OPTIONS,
    "unix": {"db": str.isdecimal, "password": bool},
    "redis+sentinel": {"sentinel_password": bool},
    "rediss+sentinel": {"sentinel_password": bool, **_TLS_OPTIONS},
}

# Errors that pass: of a server that is full, busy or starting, of a fail-over, of a command that was sent twice.
# Redis 6 wraps the error of a command inside a script: "Error running script …: -OOM …".
_PASSING = re.compile(
    "(^| -)(OOM|MISCONF|BUSY|LOADING|NOREPLICAS|READONLY|UNBLOCKED|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOSCRIPT"
    "|CLAIMED|OVERTAKEN) "
)

_HOPELESS: dict[tuple[type[Exception], ...], Callable[[BaseException], ConfigurationError]] = {
    (NoPermissionError,): lambda error: Forbidden("ETL-204", f"Redis refuses us: {error}"),
    (AuthenticationError, AuthorizationError): lambda error: NotLetIn("ETL-203", f"Redis refuses us: {error}"),
    # MOVED is one of them.
    (AskError,): lambda _: NotLetIn("ETL-207", "this Redis is a node of a cluster: set ETL_REDIS_CLUSTER=true"),
    (ClusterCrossSlotError,): lambda error: ConfigurationError(
        "ETL-209", f"keys of one source lie in different slots of the cluster: {error}"
    ),
    (UnicodeError,): lambda error: NotLetIn("ETL-211", f"a host or a key that can't exist: {error}"),
}


def connect(url: str, cluster: bool = False, timeout: float = SOCKET_TIMEOUT_SECONDS) -> Client:
    """A client for `redis://`, `unix://`, `redis+sentinel://host,host:port/service/db`, or a cluster; with TLS for
    `rediss://` and `rediss+sentinel://`, and then the certificate must be valid for the host.

    What isn't answered within `timeout` seconds is an `Outage`. Connects lazily except to a cluster, whose slots are
    asked for at once: that may raise `Outage`. Raises `ConfigurationError` for a URL with an unknown or wrong option.
    """
    parts = _split(url)
    scheme = parts.scheme
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, CONNECT_TIMEOUT_SECONDS),
        # So a connection begins with AUTH and SELECT only. HELLO and CLIENT SETINFO would need rights that the loader
        # doesn't need otherwise, and Redis 6 doesn't know the latter.
        "protocol": 2,
        "driver_info": None,
    }
    if scheme.startswith("rediss"):
        # CLIENT SETINFO after all: its answer, even a refusal, brings TLS 1.3's session tickets with it. Unread data on
        # a fresh connection makes redis-py give it up ("Connection not ready").
        del options["driver_info"]
    _check_options(parts)
    with translated():
        if cluster:
            if int(parts.path.strip("/") or 0):
                raise ConfigurationError("ETL-208", "a Redis Cluster has no database but 0")
            # It asks one node for its commands at once, and that one may be away.
            client = redis.RedisCluster.from_url(url, retry=Retry(NoBackoff(), _OTHER_NODES), **options)
            client.set_retry(_never())
            return client
        if scheme in SENTINEL_SCHEMES:
            return _through_sentinel(parts, {"retry": _never(), **options})
        return redis.Redis.from_url(url, retry=_never(), **options)


def unix_time(client: Client) -> float:
    """By the server's clock; of a cluster the first node that answers. Raises `Outage`, and `ConfigurationError`."""
    cluster: Any = client
    nodes = (cluster.get_primaries() if isinstance(client, redis.RedisCluster) else None) or [None]
    for node in nodes[:-1]:
        with suppress(Outage):
            return _unix_time_of(client, node)
    return _unix_time_of(client, nodes[-1])


def _unix_time_of(client: Any, node: Any) -> float:
    with translated():
        seconds, micros = client.time(**({"target_nodes": node} if node else {}))
    return float(seconds) + float(micros) / 1e6


@contextmanager
def translated() -> Iterator[None]:
    """Redis errors inside become `Outage` (wait) or `ConfigurationError` (don't)."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError, UnicodeError) as error:
        raise _ours(error) from error


def _ours(error: BaseException) -> EtlError:
    # The cluster's client wraps the cause, and its exceptions are no RedisErrors.
    while isinstance(error, RedisClusterException) and (cause := error.__cause__ or error.__context__):
        error = cause
    for kinds, hopeless in _HOPELESS.items():
        if isinstance(error, kinds):
            return hopeless(error)
    if untrusted := _untrusted(error):
        return Outage(
            "ETL-202",
            f"Redis: its certificate isn't trusted: {untrusted.verify_message.rstrip('.')}; name its CA in"
            " ETL_REDIS_CA_FILE, and the host as the certificate does",
        )
    # What its client raises after a number of redirections, and of answers that the keys are in two places.
    if type(error) is ClusterError or isinstance(error, TryAgainError):
        return Outage("ETL-222", "Redis: the slot of this list is being moved to another node of the cluster")
    said = _as_said(error)
    if isinstance(error, ResponseError) and not _PASSING.search(said):
        return ConfigurationError("ETL-205", f"Redis can't do what it was asked: {said}")
    return Outage("ETL-201", f"Redis: {said}")


def _as_said(error: BaseException) -> str:
    """The server's text with its code, which redis-py cuts off if it knows it; without the arguments of an unknown
    command, which may be a message."""
    code = getattr(error, "status_code", None)
    said = str(error).partition(", with args beginning with")[0]
    return f"{code} {said}" if code and code != "ERR" else said


def _untrusted(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The certificate error that caused this error, if one did."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _split(url: str) -> urls.Url:
    try:
        return urls.split(url)
    except ValueError as error:
        raise ConfigurationError("ETL-212", f"the Redis URL {error}") from None


def _check_options(parts: urls.Url) -> None:
    """Its errors quote neither values nor unknown names: these may be the rest of a password with a `?` in it."""
    checks = _URL_OPTIONS.get(parts.scheme, {})
    for name, values in parts.options.items():
        if name not in checks:
            raise ConfigurationError(
                "ETL-213", f"the Redis URL has an unknown option; known: {', '.join(checks) or 'none'}"
            )
        # Of a key without its certificate the client makes a TypeError.
        is_alone = name == "ssl_keyfile" and "ssl_certfile" not in parts.options
        if is_alone or not all(map(checks[name], values)):
            raise ConfigurationError("ETL-214", f"the Redis URL's option {name} is wrong")


class _Master(redis.Redis):
    """A client of the current master that also closes its connections to the sentinels."""

    def close(self) -> None:
        super().close()
        pool: Any = self.connection_pool
        pool.sentinel_manager.close()


class _Sentinel(Sentinel):
    """Asks as the protocol for clients requires, and distinguishes a wrong name from sentinels that don't answer."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port. Raises `MasterNotFoundError`; `ConfigurationError` if the sentinels don't know the name."""
        silent = []
        for sentinel in self.sentinels:
            try:
                address: Any = sentinel.sentinel_get_master_addr_by_name(service_name)
            except AuthenticationError as error:
                raise NotLetIn("ETL-215", f"the sentinel refuses us: {error}") from error
            except (redis.ConnectionError, redis.TimeoutError) as error:
                silent.append(str(error))
                continue
            if address:
                host, port = address
                return host.decode(), port
        if silent:
            raise MasterNotFoundError(f"no sentinel knows where the master is: {'; '.join(silent)}")
        raise NotLetIn("ETL-216", f"the sentinels know no service named {service_name!r}")


def _through_sentinel(parts: urls.Url, options: dict[str, Any]) -> redis.Redis:
    """The current master of `redis[s]+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db]`."""
    credentials = parts.credentials or ""
    service, _, db = parts.path.strip("/").partition("/")
    if not all(host.name for host in parts.hosts) or not service:
        raise ConfigurationError("ETL-217", "a sentinel URL reads redis+sentinel://host:port,host:port/service/db")
    user, _, password = credentials.partition(":")
    if credentials and not password:
        user, password = "", user
    wanted = parts.options
    sentinel_password = wanted.get("sentinel_password", [None])[0]
    if parts.scheme.startswith("rediss"):
        given: dict[str, Any] = {name: values[0] for name, values in wanted.items() if name in _TLS_OPTIONS}
        options = {**options, **given, "ssl": True, "ssl_check_hostname": given.get("ssl_check_hostname") != "false"}
    sentinel: Any = _Sentinel(  # type: ignore[no-untyped-call]
        [(host.name, host.port or _DEFAULT_SENTINEL_PORT) for host in parts.hosts],
        sentinel_kwargs={**options, "password": sentinel_password},
        username=unquote(user) or None,
        password=unquote(password) or None,
        db=int(db or 0),
        **options,
    )
    master: redis.Redis = sentinel.master_for(unquote(service), redis_class=_Master)
    return master
