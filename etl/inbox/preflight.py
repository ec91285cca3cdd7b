"""Is Redis as the loader needs it, for `etl check`: what is asked, and what follows from the answers. Which rights it
takes is in `etl.inbox.rights`; what waits is looked at in `etl.inbox.preflight_lists`, how the server is set in
`etl.inbox.preflight_settings`, memory in `etl.inbox.memory`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import redis

from etl.errors import ConfigurationError, Forbidden
from etl.findings import Finding, Verdict, asked, clock, encryption, reachable
from etl.inbox import rights
from etl.inbox.connection import Client, translated
from etl.inbox.each import of_each
from etl.inbox.memory import memory, room
from etl.inbox.preflight_line import line, weaknesses
from etl.inbox.preflight_lists import Dead, of_a_list, of_the_spool
from etl.inbox.preflight_settings import settings
from etl.inbox.rights import Lacking, Needs
from etl.keys import prefix_of

# Claims that follow each other within a millisecond are dated a little ahead; a minute of that is a clock's fault.
AHEAD_SECONDS = 60.0
# What takes messages away, as CLIENT LIST names a last command. Our own loaders use EVALSHA instead (0.1: and BLMOVE).
_POPS = frozenset({"blpop", "brpop", "brpoplpush", "lpop", "rpop", "rpoplpush", "lmove", "lmpop", "blmpop"})
# Who popped longer ago doesn't do it all the time.
_RECENTLY_SECONDS = 300
_RENAMED = "see rename-command in redis.conf; what managed services turn off is in docs/operating.md"


def findings(
    client: Client, needs: Needs, user: str, url: str, through_sentinel: bool, dead: Mapping[str, Dead]
) -> Iterator[Finding]:
    """`user` is the one that the URL names; `dead` finds the dead letters, by list."""
    reached = reachable("Redis", lambda: _reach(client), "ETL_REDIS_URL")
    yield reached
    if reached.verdict == "wrong":
        return
    yield encryption("Redis", line(url), "ETL_REDIS_CA_FILE", weaknesses(url, os.environ))
    yield from asked("Redis", lambda: settings(client, through_sentinel))
    yield from asked("Redis memory", lambda: [room(memory(client))])
    yield from asked("Redis rights", lambda: [_rights(client, needs, user)])
    for each in needs.lists:
        yield from asked(f"list {each.key}", partial(of_a_list, client, each, dead[each.key]))
    yield from asked(f"messages of {needs.spool}", lambda: [of_the_spool(client, needs.spool, dead[needs.spool])])
    keys = [*(each.key for each in needs.lists), needs.spool]
    yield from asked("time of claims", lambda: [_last_claims(client, keys)])
    yield from asked("other consumers", lambda: [_consumers(client, needs)])
    yield from asked("clock of Redis", lambda: [clock("Redis", lambda: _clock(client))])


def _reach(client: Client) -> None:
    """Raises `Outage` if Redis doesn't answer, `ConfigurationError` if it doesn't let us in."""
    with suppress(Forbidden):  # which is an answer
        _clock(client)


def _clock(client: Client) -> float:
    """Unix time by the server's clock. A cluster's first node answers for all."""
    seconds, micros = of_each(client, "time")[0][1]
    return float(seconds) + float(micros) / 1e6


# -- rights and other clients


def _rights(client: Client, needs: Needs, user: str) -> Finding:
    about = "Redis rights"
    lacks = rights.lacking(client, needs)
    # Not the default user: the dialler may be that one, too, and would be locked out.
    name = "etl on >PASSWORD" if user == "default" else user
    advice = f"for a user of its own: ACL SETUSER {name} resetkeys resetchannels -@all {rights.minimal(client, needs)}"
    verdict, says, advice = _of_rights(lacks, user, advice)
    return Finding(about, verdict, says, advice)


def _of_rights(lacks: Lacking, user: str, advice: str) -> tuple[Verdict, str, str]:
    """The worst that is to be said. A right of which nothing is known comes after what is known to be missing."""
    every = " ".join([*lacks.loading, *lacks.extras, *lacks.listening, *lacks.status, *lacks.of_0_1])
    untried = " ".join(lacks.untried)
    multi = f"{user} lacks +multi" if lacks.multi == "denied" else "this server takes no MULTI"
    facts: list[tuple[object, Verdict, str, str]] = [
        (lacks.loading, "wrong", f"{user} lacks {every}", advice),
        (lacks.absent, "wrong", f"this server takes {_named(lacks.absent)} from nobody", _RENAMED),
        (lacks.multi != "granted", "warning", f"{multi}, so it couldn't be tried whether it has {untried}", advice),
        (every, "warning", f"{user} may load, but not {_what_is_off(lacks)}: it lacks {every}", advice),
        (
            untried,
            "warning",
            f"it couldn't be tried whether {user} has {untried}",
            "look again when the server is well",
        ),
        (
            lacks.absent_extras,
            "warning",
            f"this server takes {_named(lacks.absent_extras)} from nobody: loading does without",
            _RENAMED,
        ),
    ]
    for is_so, verdict, says, advised in facts:
        if is_so:
            return verdict, says, advised
    return "fine", f"{user} may do all that loading and listening take", ""


def _named(commands: Sequence[str]) -> str:
    return ", ".join(command.replace("|", " ").upper() for command in commands)


def _what_is_off(lacks: Lacking) -> str:
    off = {
        "as fast and as safely as others": lacks.extras,
        "listen (etl run --no-listen)": lacks.listening,
        "see how much memory is left": lacks.status,
        "work beside a loader of 0.1 with the same user, which needs it": lacks.of_0_1,
    }
    return ", nor ".join(what for what, missing in off.items() if missing)


def _last_claims(client: Client, keys: Sequence[str]) -> Finding:
    """A claim is never dated before the one before it: so a clock that was ahead once is ahead for ever."""
    about = "time of claims"
    connection: Any = client
    for key in keys:
        with translated():
            last = float(connection.zscore(f"{prefix_of(key)}:last", "last") or 0) / 1_000  # 0 if there was no claim
        if last > _clock(client) + AHEAD_SECONDS:
            until = datetime.fromtimestamp(last, UTC)
            says = f"claims of {key} are dated {until:%Y-%m-%d %H:%M:%S} UTC and later: Redis' clock was ahead once"
            advice = f"see that it's right, stop the loaders, and delete the key {prefix_of(key)}:last"
            return Finding(about, "warning", says, advice)
    return Finding(about, "fine", "no list's claims are dated ahead of Redis' clock")


def _consumers(client: Client, needs: Needs) -> Finding:
    about = "other consumers"
    try:
        others = _poppers(client)
    except ConfigurationError:
        says = "CLIENT LIST is forbidden: whether somebody else pops the lists can't be seen"
        return Finding(about, "unknown", says, "grant +client|list to this user, or look yourself")
    if not others:
        return Finding(about, "fine", "nobody else pops lists here")
    named = ", ".join(
        f"{each['addr']} ({each.get('name') or each.get('user', '')}, {each['cmd'].upper()})" for each in others
    )
    forwards = [each.forward_to for each in needs.lists if each.forward_to]
    if forwards:
        says = f"{named}: right if it takes from {', '.join(forwards)}; CLIENT LIST doesn't tell the list"
        return Finding(about, "unknown", says, "make sure that none of them takes from a source list")
    says = f"{named}: what it pops from a source list never gets here; CLIENT LIST doesn't tell the list"
    return Finding(about, "warning", says, "let it pop a list of its own, named as forward_to in ETL_SOURCES")


def _poppers(client: Client) -> list[dict[str, str]]:
    """Who else takes messages in our database, as CLIENT LIST has it. From which list isn't known."""
    database = 0 if isinstance(client, redis.RedisCluster) else client.connection_pool.connection_kwargs.get("db") or 0
    return [
        each
        for _, clients in of_each(client, "client_list")
        for each in clients
        if each.get("cmd") in _POPS and each.get("db") == str(database) and _pops_on(each)
    ]


def _pops_on(client: dict[str, str]) -> bool:
    return "b" in client.get("flags", "") or int(client.get("idle", 0)) < _RECENTLY_SECONDS
