"""What a Redis' own settings mean for what waits in it, for `etl check`: does it write to disk, does it throw away, who
takes over if it fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from etl.errors import ConfigurationError
from etl.findings import Finding
from etl.inbox.connection import Client
from etl.inbox.each import of_each

OLDEST_VERSION = (6, 2)  # that the tests run on


@dataclass(frozen=True, slots=True)
class Node:
    """One server that takes writes, or should, by its own account. What INFO lacks is None."""

    name: str
    version: str | None
    is_replica: bool | None
    appendonly: bool | None
    appended: str | None  # how the last write to the append-only file went: "ok" or "err"
    policy: str | None
    replicas: int | None
    waits: bool  # for a replica, before it takes a write
    fsync: str | None  # when a write is forced to disk; None if this user may not ask


def _node(name: str, about: dict[str, Any], fsync: str | None) -> Node:
    def text(field: str) -> str | None:
        return str(about[field]) if field in about else None

    def flag(field: str, value: str) -> bool | None:
        return str(about[field]) == value if field in about else None

    return Node(
        name=name,
        version=text("redis_version"),
        is_replica=flag("role", "slave"),
        appendonly=flag("aof_enabled", "1"),
        appended=text("aof_last_write_status"),
        policy=text("maxmemory_policy"),
        replicas=int(about["connected_slaves"]) if "connected_slaves" in about else None,
        waits="min_slaves_good_slaves" in about,  # told with a min-replicas-to-write only
        fsync=fsync,
    )


def settings(client: Client, through_sentinel: bool) -> list[Finding]:
    try:
        fsyncs = _fsyncs(client)
        nodes = [_node(name, about, fsyncs.get(name)) for name, about in of_each(client, "info", "all")]
    except ConfigurationError:
        says = "INFO is forbidden: version, appendonly, maxmemory-policy and replicas can't be seen"
        return [Finding("Redis settings", "unknown", says, "grant +info to this user, or look yourself")]
    versions = ", ".join(sorted({node.version or "" for node in nodes}))
    return [
        _worst(Finding("Redis version", "fine", versions), nodes, _version),
        _worst(Finding("Redis appendonly", "fine", _appended(nodes)), nodes, _appendonly),
        _worst(Finding("Redis maxmemory-policy", "fine", "noeviction"), nodes, _policy),
        _replicas(nodes, through_sentinel),
    ]


def _fsyncs(client: Client) -> dict[str, str]:
    """By server. The minimal rights are without CONFIG."""
    try:
        return {name: said["appendfsync"] for name, said in of_each(client, "config_get", "appendfsync") if said}
    except ConfigurationError:
        return {}


def _worst(fine: Finding, nodes: Sequence[Node], look: Callable[[Node], Finding | None]) -> Finding:
    """The first fault of a node, or else the first thing that isn't known, or else that all is fine."""
    found = [finding for node in nodes if (finding := look(node))]
    for verdict in ("wrong", "warning", "unknown"):
        for finding in found:
            if finding.verdict == verdict:
                return finding
    return fine


def _version(node: Node) -> Finding | None:
    if node.version is None:
        return _unknown("Redis version", node)
    numbers = tuple(int(part) for part in node.version.split(".")[:2] if part.isdecimal())
    if numbers >= OLDEST_VERSION:
        return None
    says = f"{node.name} is {node.version}, which has no BLMOVE"
    return Finding("Redis version", "wrong", says, "upgrade it to 6.2 or newer")


def _appendonly(node: Node) -> Finding | None:
    if node.appendonly is None:
        return _unknown("Redis appendonly", node)
    if not node.appendonly:
        says = f"{node.name} doesn't log to disk: a restart loses what waits"
        advice = _now_and_in_the_file("appendonly yes")
        return Finding("Redis appendonly", "wrong", says, advice)
    if node.appended not in ("ok", None):
        says = f"{node.name} couldn't write to its append-only file"
        return Finding("Redis appendonly", "wrong", says, "look for a full disk, and at Redis's own log")
    if node.fsync == "no":
        says = f"{node.name} has appendfsync no: a machine that loses power forgets what was pushed for half a minute"
        return Finding("Redis appendonly", "warning", says, _now_and_in_the_file("appendfsync everysec"))
    return None


def _appended(nodes: Sequence[Node]) -> str:
    """What power that fails costs, where nothing is wrong. What the dialler pushed then, nobody has twice."""
    fsyncs = {node.fsync for node in nodes}
    if fsyncs == {"always"}:
        return "yes, and each write is on disk before it's confirmed"
    if None in fsyncs:
        return "yes; this user may not ask for appendfsync: everysec, the default, forgets a second if power fails"
    return "yes, every second: a machine that loses power forgets what was pushed in the last one"


def _now_and_in_the_file(line: str) -> str:
    # Not CONFIG REWRITE: Redis 7.0 writes the users into redis.conf, too, and with an aclfile beside them never starts.
    return f"CONFIG SET {line}, and the line `{line}` in redis.conf"


def _policy(node: Node) -> Finding | None:
    if node.policy is None:
        return _unknown("Redis maxmemory-policy", node)
    if node.policy == "noeviction":
        return None
    advice = _now_and_in_the_file("maxmemory-policy noeviction")
    if node.policy.startswith("volatile-"):
        # Of our keys only the listener's lock has a time to live.
        says = f"{node.name} has {node.policy}: it throws away keys with a time to live; the lists have none"
        return Finding("Redis maxmemory-policy", "warning", says, advice)
    says = f"{node.name} has {node.policy}: when memory runs out it throws away whole lists"
    return Finding("Redis maxmemory-policy", "wrong", says, advice)


def _replicas(nodes: Sequence[Node], through_sentinel: bool) -> Finding:
    about = "Redis replicas"
    if any(node.is_replica for node in nodes):
        return Finding(about, "wrong", "this Redis is a replica itself: it takes no writes", "name its master")
    alone = [node.name for node in nodes if node.replicas == 0]
    if any(node.replicas is None for node in nodes):
        return Finding(about, "unknown", "not told by INFO")
    if alone and (through_sentinel or len(nodes) > 1):
        says = f"{', '.join(alone)} has none: nobody takes over when it fails"
        return Finding(about, "warning", says, "give each master a replica")
    count = sum(node.replicas or 0 for node in nodes)
    if count and not all(node.waits for node in nodes):
        says = f"{count}, and no push waits for them: a fail-over may lose the last ones"
        advice = f"to bound that to ten seconds: {_now_and_in_the_file('min-replicas-to-write 1')}"
        return Finding(about, "warning", says, advice)
    return Finding(about, "fine", f"{count}" if count else "none: what waits is on one machine's disk")


def _unknown(about: str, node: Node) -> Finding:
    return Finding(about, "unknown", f"{node.name} doesn't tell it in INFO", "ask who runs it")
