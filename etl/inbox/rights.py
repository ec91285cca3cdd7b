"""Which rights the program needs in Redis, and which of them its user lacks.

The commands are those of `claims`, `spool`, `lock`, `subscription`, `preflight` and the scripts in `lua/`: a new
command there must be added here.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import redis

from etl.errors import ConfigurationError, EtlError, Forbidden
from etl.ids import new_id
from etl.inbox.claims import End
from etl.inbox.connection import Client, translated
from etl.inbox.subscription import PROBES
from etl.keys import prefix_of

# For each command the arguments behind its key that make it valid. It is tried, but never executed.
_ARGUMENTS: dict[str, list[str]] = {
    "blmove": ["{key}", "RIGHT", "RIGHT", "1"],
    "exists": [],
    "get": [],
    "del": [],
    "llen": [],
    "lpush": ["x"],
    "lrange": ["0", "0"],
    "ltrim": ["0", "-1"],
    "memory|usage": ["SAMPLES", "0"],
    "pexpire": ["1"],
    "pttl": [],
    "rename": ["{key}"],
    "rpush": ["x"],
    "set": ["x"],
    "sort": ["BY", "nosort", "LIMIT", "0", "0", "STORE", "{key}"],
    "unlink": [],
    "zadd": ["0", "x"],
    "zcard": [],
    "zrange": ["0", "0"],
    "zrangebyscore": ["0", "0"],
    "zrem": ["x"],
    "zscore": ["x"],
}
_OF_A_SOURCE = ("blmove", "llen", "lrange", "ltrim", "sort")
_OF_A_CLAIM = ("exists", "llen", "lrange", "ltrim", "memory|usage", "rename", "sort", "unlink")
_OF_A_REGISTRY = ("zadd", "zcard", "zrange", "zrangebyscore", "zrem", "zscore")
_OF_THE_LAST_TIME = ("zadd", "zscore")
_OF_A_LOCK = ("del", "get", "pexpire", "pttl", "set")
_WITHOUT_KEY = {"info": ["memory"], "scan": ["0"], "time": []}
_ALWAYS = ("evalsha", "script|load")
_OF_A_SUBSCRIPTION = ("psubscribe", "publish", "subscribe")
# To see who else pops the lists. Nothing else needs it, so only that finding reports its lack.
_OF_THE_PREFLIGHT = ("client|list",)
# A cluster's client asks for the slots and for the key positions of commands.
_OF_A_CLUSTER = ("cluster|slots", "command")


class SourceList(NamedTuple):
    """A list to load from."""

    key: str
    take_from: End
    forward_to: str | None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a loader does with its lists and the spool, and what a listener does besides."""

    lists: Sequence[SourceList]
    spool: str
    patterns: Sequence[str]


class _Use(NamedTuple):
    key: str
    pattern: str
    commands: Sequence[str]


@dataclass(frozen=True, slots=True)
class Lacking:
    """Missing rights, as ACL SETUSER spells them: for loading, for listening only, and for `etl status` only."""

    loading: Sequence[str]
    listening: Sequence[str]
    status: Sequence[str] = ()


def lacking(client: Client, needs: Needs) -> Lacking | None:
    """None if it can't be found out: before Redis 7 there are no read-only scripts. Raises `Outage`."""
    script = (files(__package__) / "lua" / "permitted.lua").read_text()
    connection: Any = client
    try:
        with translated():
            sha = connection.script_load(script)
    except Forbidden:
        return Lacking(["+script|load"], [])
    except ConfigurationError:
        return None

    def refused(uses: Iterable[_Use]) -> list[str]:
        return [right for use in uses for right in _refused(connection, sha, use)]

    loading = refused([*_uses_of_loading(needs), _Use("", "", ("scan", "time"))])
    listening = [*refused(_uses_of_listening(needs)), *_refused_to_subscribe(client, needs, sha)]
    status = refused([_Use("", "", ("info",))])
    each_once = dict.fromkeys((*loading, *listening, *status))
    return Lacking(
        [right for right in each_once if right in loading],
        [right for right in each_once if right in listening and right not in loading],
        [right for right in each_once if right not in loading and right not in listening],
    )


def minimal(client: Client, needs: Needs) -> str:
    """The rights that loading, listening, status and preflight need, as arguments of ACL SETUSER."""
    uses = [*_uses_of_loading(needs), *_uses_of_listening(needs)]
    commands = {command for use in uses for command in use.commands} | {
        *_WITHOUT_KEY,
        *_ALWAYS,
        *_OF_A_SUBSCRIPTION,
        *_OF_THE_PREFLIGHT,
    }
    if isinstance(client, redis.RedisCluster):
        commands.update(_OF_A_CLUSTER)
    elif client.connection_pool.connection_kwargs.get("db"):
        commands.add("select")
    return " ".join(
        [
            *dict.fromkeys(f"~{use.pattern}" for use in uses),
            *(f"&{pattern}" for pattern in [*dict.fromkeys(needs.patterns), f"{PROBES}*"]),
            *(f"+{command}" for command in sorted(commands)),
        ]
    )


def _uses_of_loading(needs: Needs) -> list[_Use]:
    uses = []
    for key, take_from, forward_to in [*needs.lists, SourceList(needs.spool, "right", None)]:
        uses += [
            _Use(key, _escaped(key), _OF_A_SOURCE),
            _Use(f"{prefix_of(key)}:claim:{new_id()}", f"{_escaped(prefix_of(key))}:*", _OF_A_CLAIM),
            _Use(f"{prefix_of(key)}:claims", f"{_escaped(prefix_of(key))}:*", _OF_A_REGISTRY),
            _Use(f"{prefix_of(key)}:last", f"{_escaped(prefix_of(key))}:*", _OF_THE_LAST_TIME),
        ]
        if forward_to:
            push = "rpush" if take_from == "left" else "lpush"
            uses.append(_Use(forward_to, _escaped(forward_to), ("llen", push)))
    return uses


def _uses_of_listening(needs: Needs) -> list[_Use]:
    prefix = f"{{{needs.spool}}}"
    return [
        _Use(needs.spool, _escaped(needs.spool), ("lpush",)),
        _Use(f"{prefix}:listener", f"{_escaped(prefix)}:*", _OF_A_LOCK),
    ]


def _refused(connection: Any, sha: str, use: _Use) -> list[str]:
    if use.key:
        behind = {name: [use.key, *(a.format(key=use.key) for a in _ARGUMENTS[name])] for name in use.commands}
    else:
        behind = {name: _WITHOUT_KEY[name] for name in use.commands}
    return _refused_commands(connection, sha, [use.key] if use.key else [], behind, f"~{use.pattern}")


def _refused_commands(
    connection: Any, sha: str, keys: list[str], behind: dict[str, list[str]], pattern: str
) -> list[str]:
    """The commands that are refused; `behind` has the arguments by command."""
    commands = [[*name.split("|"), *words] for name, words in behind.items()]
    try:
        with translated():
            refused = connection.evalsha(sha, len(keys), *keys, json.dumps(commands))
    except Forbidden as error:
        return ["+evalsha" if "'eval" in str(error) else pattern]
    return [f"+{list(behind)[place - 1]}" for place in refused]


def _refused_to_subscribe(client: Client, needs: Needs, sha: str) -> list[str]:
    """SUBSCRIBE can't be tried in a script; but it may be executed, since it changes nothing."""
    channel = f"{PROBES}{new_id()}"
    subscriptions = [*(("psubscribe", each, each) for each in needs.patterns), ("subscribe", channel, f"{PROBES}*")]
    return [
        *_refused_commands(client, sha, [], {"publish": [channel, "x"]}, ""),
        *(right for each in subscriptions for right in _refused_subscription(client, *each)),
    ]


def _refused_subscription(client: Any, command: str, channel: str, pattern: str) -> list[str]:
    pubsub = client.pubsub()
    try:
        with translated():
            getattr(pubsub, command)(channel)
            pubsub.parse_response()
    except Forbidden as error:
        return [f"+{command}" if f"'{command}'" in str(error) else f"&{pattern}"]
    finally:
        with contextlib.suppress(EtlError), translated():
            pubsub.close()
    return []


def _escaped(key: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", key)
