"""Which rights the program needs in Redis, and which of them its user lacks.

The commands are those of `claims`, `spool`, `lock`, `subscription`, `preflight` and the scripts in `lua/`: a new
command there must be added here.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import redis

from etl.errors import ConfigurationError, Forbidden
from etl.inbox.claims import End
from etl.inbox.connection import Client
from etl.inbox.subscription import PROBES
from etl.inbox.trial import Verdict, multi, tried
from etl.keys import prefix_of

# For each command the arguments behind its key that make it valid. It is tried, but never executed.
ARGUMENTS: dict[str, list[str]] = {
    "blmove": ["{key}", "RIGHT", "RIGHT", "1"],
    "exists": [],
    "get": [],
    "del": [],
    "llen": [],
    "lpush": ["x"],
    "lrange": ["1", "0"],
    "ltrim": ["0", "-1"],
    "persist": [],
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
    "zrangebyscore": ["1", "0"],
    "zrem": ["x"],
    "zscore": ["x"],
}
_OF_A_SOURCE = ("llen", "lrange", "ltrim")
# What a loader of 0.1 waits by. Goes with the release after this one.
_OF_A_SOURCE_IN_0_1 = ("blmove",)
_OF_A_CLAIM = ("exists", "llen", "lrange", "unlink")
_OF_A_REGISTRY = ("zadd", "zcard", "zrange", "zrangebyscore", "zrem", "zscore")
_OF_A_LOCK = ("del", "get", "pexpire", "set")
# By which a lock whose time Redis' clock has left behind is known.
_EXTRA_OF_A_LOCK = ("pttl",)
# By which a listener is known whose lock Redis' clock has left behind, before the next was there to see it.
_EXTRA_OF_A_SESSION = ("get", "set")
_OF_THE_LAST_TIME = ("zadd", "zscore")
# What loading does without where it's refused: fast copies, the rescue of claims that no entry names, what was
# acknowledged, in case Postgres forgets it, and what replicas have.
_EXTRA_OF_A_SOURCE = ("sort",)
_EXTRA_OF_A_CLAIM = ("lpush", "rename", "sort")
_KEPT_LIST = "kept:00000000-0000-7000-8000-000000000000"
_EXTRA_OF_A_KEPT_LIST = ("exists", "llen", "persist", "pexpire", "rename", "unlink")
_EXTRA_OF_WHAT_IS_KEPT = ("zadd", "zcard", "zrange", "zrangebyscore", "zrem", "zscore")
_EXTRA_OF_WHAT_WAS_ACKED = ("zadd", "zrange", "zscore")
_COPY_WITHOUT_SORT = "lpush"
WITHOUT_KEY = {
    "evalsha": ["0" * 40, "0"],
    "info": ["memory"],
    "scan": ["0"],
    "script|load": ["return 1"],
    "time": [],
    "wait": ["0", "0"],
}
_ALWAYS = ("evalsha", "script|load", "time")
_EXTRA_OF_THE_LAST_TIME = ("zrange", "zrem")
_EXTRA = ("scan", "wait")
_OF_THE_STATUS = ("info",)
_OF_A_SUBSCRIPTION = ("psubscribe", "publish", "subscribe")
# To see who else pops the lists. Nothing else needs it, so only that finding reports its lack.
_OF_THE_PREFLIGHT = ("client|list",)
# To try rights; see `trial`.
_OF_THE_TRIAL = ("discard", "multi")
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


class _Target(NamedTuple):
    """A key or a channel, and what grants it; both empty for commands that name none."""

    name: str
    right: str


_NOTHING = _Target("", "")


class _Use(NamedTuple):
    target: _Target
    commands: Sequence[str]


@dataclass(frozen=True, slots=True)
class Lacking:
    """Missing rights, as ACL SETUSER spells them, each where it does the most harm: for loading, for what loading does
    without, for listening only, for `etl status` only, and for a loader of release 0.1 beside this one only.

    `absent` are commands that loading or listening need and the server takes from nobody, `absent_extras` those that
    loading does without. `untried` are the rights of which nothing is known: all of them, unless `multi` is granted.
    """

    loading: Sequence[str] = ()
    extras: Sequence[str] = ()
    listening: Sequence[str] = ()
    status: Sequence[str] = ()
    of_0_1: Sequence[str] = ()
    absent: Sequence[str] = ()
    absent_extras: Sequence[str] = ()
    untried: Sequence[str] = ()
    multi: Verdict = "granted"


def lacking(client: Client, needs: Needs) -> Lacking:
    """By trying every command on the real keys; nothing is changed. Raises `Outage`."""
    begun = multi(client)
    uses = {
        "loading": [*_uses_of_loading(needs), _Use(_NOTHING, _ALWAYS)],
        "extras": [*_uses_of_extras(needs), _Use(_NOTHING, _EXTRA)],
        "listening": [*_uses_of_listening(needs), *_subscriptions(needs)],
        "status": [_Use(_NOTHING, _OF_THE_STATUS)],
        "of_0_1": _uses_of_0_1(needs),
    }
    verdicts = _Verdicts(client, [use.target for each in uses.values() for use in each])
    if begun == "granted" and verdicts.are_copies_slow(needs):
        uses["loading"] += [_Use(_claim_of(key), (_COPY_WITHOUT_SORT,)) for key in _keys(needs)]
    found: dict[str, list[str]] = {}
    for name, each in uses.items():
        known = {right for others in found.values() for right in others}
        found[name] = [right for right in verdicts.rights_denied(each) if right not in known]
    return Lacking(
        loading=tuple(found["loading"]),
        extras=tuple(found["extras"]),
        listening=tuple(found["listening"]),
        status=tuple(found["status"]),
        of_0_1=tuple(found["of_0_1"]),
        absent_extras=verdicts.commands([*uses["extras"], *uses["status"]], "absent"),
        absent=verdicts.commands([*uses["loading"], *uses["listening"]], "absent"),
        untried=tuple(f"+{command}" for command in verdicts.commands(itertools.chain(*uses.values()), "untried")),
        multi=begun,
    )


def refused(client: Client, lists: Sequence[SourceList]) -> dict[str, ConfigurationError]:
    """The lists that can't be loaded, by key, each with the first command that loading needs and is denied to this user
    or to everybody. Raises `Outage`."""
    found: dict[str, ConfigurationError] = {}
    # A cluster's node tells of its own keys only.
    for group in [[each] for each in lists] if isinstance(client, redis.RedisCluster) else [lists]:
        commands = {
            (each.key, target.name, command): _all_commands(target)[command]
            for each in group
            for target, command in _pairs([*_uses_of_a_list(each), _Use(_NOTHING, _ALWAYS)])
        }
        for (key, name, command), verdict in tried(client, group[0].key if group else None, commands).items():
            step = f"{command.replace('|', ' ').upper()}{f' of {name}' if name else ''}"
            if verdict == "denied":
                why = f"the ACL denies this user {step}"
                found.setdefault(key, Forbidden("ETL-204", f"Redis refuses us: {why}"))
            elif verdict == "absent":
                found.setdefault(key, ConfigurationError("ETL-205", f"Redis can't do what it was asked: {step}"))
    return found


def minimal(client: Client, needs: Needs) -> str:
    """The rights that loading, listening, status and preflight need, as arguments of ACL SETUSER."""
    uses = [*_uses_of_loading(needs), *_uses_of_extras(needs), *_uses_of_listening(needs), *_uses_of_0_1(needs)]
    commands = {command for use in uses for command in use.commands} | {
        *WITHOUT_KEY,
        *_OF_A_SUBSCRIPTION,
        *_OF_THE_PREFLIGHT,
        *_OF_THE_TRIAL,
    }
    if isinstance(client, redis.RedisCluster):
        commands.update(_OF_A_CLUSTER)
    elif client.connection_pool.connection_kwargs.get("db"):
        commands.add("select")
    return " ".join(
        [
            *dict.fromkeys(use.target.right for use in uses),
            *(f"&{pattern}" for pattern in [*dict.fromkeys(needs.patterns), f"{PROBES}*"]),
            *(f"+{command}" for command in sorted(commands)),
        ]
    )


class _Verdicts:
    """Of every command on every target: also where it isn't needed, to tell which of the two a right is lacking to."""

    def __init__(self, client: Client, targets: Iterable[_Target]) -> None:
        self._of: dict[tuple[_Target, str], Verdict] = {}
        for target in dict.fromkeys(targets):
            key = target.name if target.right.startswith("~") else None
            for command, verdict in tried(client, key, _all_commands(target)).items():
                self._of[target, command] = verdict
        granted = [pair for pair, verdict in self._of.items() if verdict == "granted"]
        self._targets = {target for target, _ in granted}
        self._commands = {command for _, command in granted}

    def are_copies_slow(self, needs: Needs) -> bool:
        """Some list's claims can't be copied by SORT."""
        pairs = [(target, "sort") for key in _keys(needs) for target in (_key(key), _claim_of(key))]
        return any(self._of[pair] != "granted" for pair in pairs)

    def commands(self, uses: Iterable[_Use], verdict: Verdict) -> tuple[str, ...]:
        """Those of the commands on which this is the verdict, each once."""
        named = (command for target, command in _pairs(uses) if self._of[target, command] == verdict)
        return tuple(dict.fromkeys(named))

    def rights_denied(self, uses: Iterable[_Use]) -> list[str]:
        """Each once. A command granted for no target is lacking itself; so is a target for which none is granted."""
        rights = []
        for target, command in _pairs(uses):
            if self._of[target, command] != "denied":
                continue
            if command not in self._commands:
                rights.append(f"+{command}")
            if target.right and (target not in self._targets or command in self._commands):
                rights.append(target.right)
        return list(dict.fromkeys(rights))


def _pairs(uses: Iterable[_Use]) -> Iterator[tuple[_Target, str]]:
    return ((use.target, command) for use in uses for command in use.commands)


def _all_commands(target: _Target) -> Mapping[str, Sequence[str]]:
    if not target.name:
        return {name: [*name.split("|"), *words] for name, words in WITHOUT_KEY.items()}
    if target.right.startswith("&"):
        channel = _channel_of(target.name)
        return {
            "psubscribe": ["psubscribe", target.name],
            "publish": ["publish", channel, "x"],
            "subscribe": ["subscribe", channel],
        }
    return {name: [name, target.name, *(w.format(key=target.name) for w in words)] for name, words in ARGUMENTS.items()}


def _keys(needs: Needs) -> list[str]:
    return [*(each.key for each in needs.lists), needs.spool]


def _key(key: str) -> _Target:
    return _Target(key, f"~{_escaped(key)}")


def _ours(key: str, suffix: str) -> _Target:
    """A key of our own beside a list."""
    return _Target(f"{prefix_of(key)}:{suffix}", f"~{_escaped(prefix_of(key))}:*")


def _claim_of(key: str) -> _Target:
    return _ours(key, "claim:00000000-0000-7000-8000-000000000000")


def _uses_of_loading(needs: Needs) -> list[_Use]:
    lists = [*needs.lists, SourceList(needs.spool, "right", None)]
    return [use for each in lists for use in _uses_of_a_list(each)]


def _uses_of_a_list(source: SourceList) -> list[_Use]:
    uses = [
        _Use(_key(source.key), _OF_A_SOURCE),
        _Use(_claim_of(source.key), _OF_A_CLAIM),
        _Use(_ours(source.key, "claims"), _OF_A_REGISTRY),
        # A script with a forbidden key is refused as a whole, also for what it could do without.
        _Use(_ours(source.key, "last"), _OF_THE_LAST_TIME),
    ]
    if source.forward_to:
        push = "rpush" if source.take_from == "left" else "lpush"
        uses.append(_Use(_key(source.forward_to), ("llen", push)))
    return uses


def _uses_of_extras(needs: Needs) -> list[_Use]:
    uses = [
        use
        for key in _keys(needs)
        for use in (
            _Use(_key(key), _EXTRA_OF_A_SOURCE),
            _Use(_claim_of(key), _EXTRA_OF_A_CLAIM),
            _Use(_ours(key, "last"), _EXTRA_OF_THE_LAST_TIME),
            _Use(_ours(key, _KEPT_LIST), _EXTRA_OF_A_KEPT_LIST),
            _Use(_ours(key, "kept"), _EXTRA_OF_WHAT_IS_KEPT),
            _Use(_ours(key, "acked"), _EXTRA_OF_WHAT_WAS_ACKED),
        )
    ]
    return [
        *uses,
        _Use(_ours(needs.spool, "listener"), _EXTRA_OF_A_LOCK),
        _Use(_ours(needs.spool, "listener:session"), _EXTRA_OF_A_SESSION),
    ]


def _uses_of_0_1(needs: Needs) -> list[_Use]:
    return [_Use(_key(key), _OF_A_SOURCE_IN_0_1) for key in _keys(needs)]


def _uses_of_listening(needs: Needs) -> list[_Use]:
    return [_Use(_key(needs.spool), ("lpush",)), _Use(_ours(needs.spool, "listener"), _OF_A_LOCK)]


def _subscriptions(needs: Needs) -> list[_Use]:
    """A pattern is granted to PSUBSCRIBE by its very text. That of the probes is no pattern to us, only a right."""
    uses = [_Use(_Target(each, f"&{each}"), ("psubscribe",)) for each in needs.patterns]
    return [*uses, _Use(_Target(f"{PROBES}*", f"&{PROBES}*"), ("publish", "subscribe"))]


def _channel_of(pattern: str) -> str:
    """One that the pattern fits; its stars and question marks fit themselves."""
    return re.sub(r"\\(.)|\[([^]^\\])[^]]*\]", r"\1\2", pattern)


def _escaped(key: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", key)
