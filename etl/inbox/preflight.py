"""What Redis says of itself, for `etl check`: facts, and no verdicts. A fact that this user may not ask for, or that
the server doesn't tell, is None. Every function may raise `Outage`; rights are in `etl.inbox.rights`.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal

import redis

from etl import urls
from etl.errors import ConfigurationError, Forbidden
from etl.inbox.connection import Client, translated
from etl.keys import prefix_of

# What takes messages away, as CLIENT LIST names a last command. Our own loaders use BLMOVE and EVALSHA instead.
_POPS = frozenset({"blpop", "brpop", "brpoplpush", "lpop", "rpop", "rpoplpush", "lmove", "lmpop", "blmpop"})
# Messages that are read at once: any of them may be as large as Redis takes it.
_MOST_AT_ONCE = 8
# Who popped longer ago doesn't do it all the time.
_RECENTLY_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Node:
    """One server that takes writes, or should."""

    name: str
    version: str | None
    is_replica: bool | None
    appendonly: bool | None
    appended: str | None  # how the last write to the append-only file went: "ok" or "err"
    policy: str | None
    replicas: int | None


@dataclass(frozen=True, slots=True)
class Ends:
    """The outermost messages of a list, from its left to its right, and how many wait in all."""

    waiting: int
    left: list[bytes]
    right: list[bytes]


@dataclass(frozen=True, slots=True)
class Popper:
    """A client that takes messages off some list: which one, Redis doesn't tell."""

    address: str
    name: str
    user: str
    command: str


def line(url: str) -> Literal["verified", "unverified", "plain", "local"]:
    """How what is said to Redis gets there, by its URL: with TLS, verified or not; without; or within this machine."""
    parts = urls.split(url)
    if parts.scheme.startswith("rediss"):
        options = parts.options
        lax = options.get("ssl_cert_reqs", ["required"]) != ["required"] or "false" in options.get(
            "ssl_check_hostname", []
        )
        return "unverified" if lax else "verified"
    return "local" if parts.scheme == "unix" or all(_is_here(host.name) for host in parts.hosts) else "plain"


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def reach(client: Client) -> None:
    """Raises `Outage` if Redis doesn't answer, `ConfigurationError` if it doesn't let us in."""
    with suppress(Forbidden):  # which is an answer
        clock(client)


def clock(client: Client) -> float:
    """Unix time by the server's clock. A cluster's first node answers for all."""
    seconds, micros = of_each(client, "time")[0][1]
    return float(seconds) + float(micros) / 1e6


def nodes(client: Client) -> list[Node] | None:
    """Each primary by its own account; None if INFO is forbidden."""
    try:
        return [_node(name, about) for name, about in of_each(client, "info", "all")]
    except ConfigurationError:
        return None


def poppers(client: Client) -> list[Popper] | None:
    """Who else takes messages in our database; None if CLIENT LIST is forbidden."""
    database = "0" if isinstance(client, redis.RedisCluster) else str(_database(client))
    try:
        clients = [each for _, listed in of_each(client, "client_list") for each in listed]
    except ConfigurationError:
        return None
    return [
        Popper(each["addr"], each.get("name", ""), each.get("user", ""), each["cmd"])
        for each in clients
        if each.get("cmd") in _POPS and each.get("db") == database and _is_at_it(each)
    ]


def last_claim(client: Client, key: str) -> tuple[float, float]:
    """When the last claim of a list was made, by what is noted beside it, and what time it is by the same server: Unix
    times. 0 if none was noted."""
    connection: Any = client
    with translated():
        noted = connection.zscore(f"{prefix_of(key)}:last", "last")
    return float(noted or 0) / 1_000, clock(client)


def ends(client: Client, key: str, most: int, most_bytes: int) -> Ends:
    """The messages at either end of a list: at most so many and about as many bytes at each, none of them at both.

    Raises `ConfigurationError` if it's no list, or may not be read.
    """
    connection: Any = client
    with translated():
        waiting = int(connection.llen(key))
        left = _in_steps(
            min(most, waiting - waiting // 2),
            most_bytes,
            lambda first, last: connection.lrange(key, first, last),
        )
        right = _in_steps(
            min(most, waiting // 2),
            most_bytes,
            lambda first, last: connection.lrange(key, -last - 1, -first - 1)[::-1],
        )
    return Ends(waiting, left, right[::-1])


def _in_steps(most: int, most_bytes: int, read: Callable[[int, int], list[bytes]]) -> list[bytes]:
    """Messages from the outermost inwards. Redis doesn't tell how large one is before it's read: so few are read at
    once that even the largest don't fill the memory, one of them first."""
    found: list[bytes] = []
    size, step = 0, 1
    while len(found) < most and size < most_bytes:
        last = min(len(found) + step, most) - 1
        some = read(len(found), last)
        if not some:  # a loader took the rest meanwhile
            break
        found += some
        size += sum(map(len, some))
        step = min(2 * step, _MOST_AT_ONCE, max(1, (most_bytes - size) * len(found) // max(size, 1)))
    return found


def of_each(client: Client, method: str, *arguments: Any) -> list[tuple[str, Any]]:
    """The server's name and answer; of a cluster, those of each primary."""
    connection: Any = client
    with translated():
        if not isinstance(client, redis.RedisCluster):
            return [("Redis", getattr(connection, method)(*arguments))]
        return [
            (node.name, getattr(connection, method)(*arguments, target_nodes=node))
            for node in connection.get_primaries()
        ]


def _node(name: str, about: dict[str, Any]) -> Node:
    def said(field: str) -> str | None:
        return str(about[field]) if field in about else None

    def flag(field: str, value: str) -> bool | None:
        return str(about[field]) == value if field in about else None

    return Node(
        name=name,
        version=said("redis_version"),
        is_replica=flag("role", "slave"),
        appendonly=flag("aof_enabled", "1"),
        appended=said("aof_last_write_status"),
        policy=said("maxmemory_policy"),
        replicas=int(about["connected_slaves"]) if "connected_slaves" in about else None,
    )


def _database(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def _is_at_it(client: dict[str, str]) -> bool:
    return "b" in client.get("flags", "") or int(client.get("idle", 0)) < _RECENTLY_SECONDS


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one server. The limit is None if the server doesn't tell; if it has no maxmemory, it's the machine's memory,
    which others use too."""

    server: str
    used_bytes: int
    limit_bytes: int | None
    has_maxmemory: bool


def memory(client: Client) -> list[Memory] | None:
    """Of each server that takes writes; None if INFO is forbidden. Raises `Outage`."""
    try:
        return [_memory(name, about) for name, about in of_each(client, "info", "memory")]
    except ConfigurationError:
        return None


def _memory(name: str, about: dict[str, Any]) -> Memory:
    most, machine = int(about.get("maxmemory", 0)), int(about.get("total_system_memory", 0))
    return Memory(name, int(about["used_memory"]), most or machine or None, bool(most))
