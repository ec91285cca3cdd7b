"""Is Redis as the loader needs it: what is asked, in which order, and what is to be thought of the answers. The
questions themselves are in `etl.inbox.preflight` and `etl.inbox.rights`; what waits is looked at in
`etl.jobs.preflight_lists`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from etl.inbox import preflight as inbox
from etl.inbox import rights
from etl.inbox.connection import Client
from etl.inbox.preflight import Node
from etl.inbox.rights import Lacking, Needs
from etl.jobs.findings import Finding, Line, Verdict, asked, clock, line, reachable
from etl.jobs.loader import Decode
from etl.jobs.preflight_lists import of_a_list, of_the_spool
from etl.keys import prefix_of

NEEDED = (6, 2)  # LMOVE and BLMOVE
# Claims that follow each other within a millisecond are dated a little ahead; a minute of that is a clock's fault.
AHEAD_SECONDS = 60.0
_RENAMED = "see rename-command in redis.conf; what managed services turn off is in docs/operating.md"


def of_redis(
    client: Client,
    needs: Needs,
    user: str,
    line_is: Line,
    through_sentinel: bool,
    decoders: Mapping[str, Decode],
) -> Iterator[Finding]:
    """`user` is the one that the URL names, and `line_is` what it says of the way; `decoders` has the loaders' own."""
    reached = reachable("Redis", lambda: inbox.reach(client), "ETL_REDIS_URL")
    yield reached
    if reached.verdict == "wrong":
        return
    yield line("Redis", line_is, "ETL_REDIS_CA_FILE")
    yield from asked("Redis", lambda: _nodes(inbox.nodes(client), through_sentinel))
    yield from asked("Redis rights", lambda: [_rights(client, needs, user)])
    for each in needs.lists:
        look = partial(of_a_list, client, each, decoders[each.key])
        yield from asked(f"list {each.key}", look)
    yield from asked(f"messages of {needs.spool}", lambda: [of_the_spool(client, needs.spool, decoders[needs.spool])])
    keys = [*(each.key for each in needs.lists), needs.spool]
    yield from asked("time of claims", lambda: [_last_claims(client, keys)])
    yield from asked("other consumers", lambda: [_consumers(client, needs)])
    yield from asked("clock of Redis", lambda: [clock("Redis", lambda: inbox.clock(client))])


def _last_claims(client: Client, keys: Sequence[str]) -> Finding:
    """A claim is never dated before the one before it: so a clock that was ahead once is ahead for ever."""
    about = "time of claims"
    for key in keys:
        last, now = inbox.last_claim(client, key)
        if last > now + AHEAD_SECONDS:
            until = datetime.fromtimestamp(last, UTC)
            says = f"claims of {key} are dated {until:%Y-%m-%d %H:%M:%S} UTC and later: Redis' clock was ahead once"
            advice = f"see that it's right, stop the loaders, and delete the key {prefix_of(key)}:last"
            return Finding(about, "warning", says, advice)
    return Finding(about, "fine", "no list's claims are dated ahead of Redis' clock")


def _nodes(nodes: list[Node] | None, through_sentinel: bool) -> list[Finding]:
    if nodes is None:
        says = "INFO is forbidden: version, appendonly, maxmemory-policy and replicas can't be seen"
        return [Finding("Redis settings", "unknown", says, "grant +info to this user, or look yourself")]
    versions = ", ".join(sorted({node.version or "" for node in nodes}))
    return [
        _worst(Finding("Redis version", "fine", versions), nodes, _version),
        _worst(Finding("Redis appendonly", "fine", "yes"), nodes, _appendonly),
        _worst(Finding("Redis maxmemory-policy", "fine", "noeviction"), nodes, _policy),
        _replicas(nodes, through_sentinel),
    ]


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
        return _untold("Redis version", node)
    numbers = tuple(int(part) for part in node.version.split(".")[:2] if part.isdecimal())
    if numbers >= NEEDED:
        return None
    says = f"{node.name} is {node.version}, which has no BLMOVE"
    return Finding("Redis version", "wrong", says, "upgrade it to 6.2 or newer")


def _appendonly(node: Node) -> Finding | None:
    if node.appendonly is None:
        return _untold("Redis appendonly", node)
    if not node.appendonly:
        says = f"{node.name} doesn't log to disk: a restart loses what waits"
        advice = _now_and_in_the_file("appendonly yes")
        return Finding("Redis appendonly", "wrong", says, advice)
    if node.appended not in ("ok", None):
        says = f"{node.name} couldn't write to its append-only file"
        return Finding("Redis appendonly", "wrong", says, "look for a full disk, and at Redis's own log")
    return None


def _now_and_in_the_file(line: str) -> str:
    # Not CONFIG REWRITE: Redis 7.0 writes the users into redis.conf, too, and with an aclfile beside them never starts.
    return f"CONFIG SET {line}, and the line `{line}` in redis.conf"


def _policy(node: Node) -> Finding | None:
    if node.policy is None:
        return _untold("Redis maxmemory-policy", node)
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
    return Finding(about, "fine", f"{count}" if count else "none: what waits is on one machine's disk")


def _untold(about: str, node: Node) -> Finding:
    return Finding(about, "unknown", f"{node.name} doesn't tell it in INFO", "ask who runs it")


def _rights(client: Client, needs: Needs, user: str) -> Finding:
    lacks = rights.lacking(client, needs)
    # Not the default user: the dialler may be that one, too, and would be locked out.
    name = "etl on >PASSWORD" if user == "default" else user
    advice = f"for a user of its own: ACL SETUSER {name} resetkeys resetchannels -@all {rights.minimal(client, needs)}"
    verdict, says, advice = _of_rights(lacks, user, advice)
    return Finding("Redis rights", verdict, says, advice)


def _of_rights(lacks: Lacking, user: str, advice: str) -> tuple[Verdict, str, str]:
    """The worst that is to be said. A right of which nothing is known comes after what is known to be missing."""
    every = " ".join([*lacks.loading, *lacks.extras, *lacks.listening, *lacks.status])
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
    }
    return ", nor ".join(what for what, missing in off.items() if missing)


def _consumers(client: Client, needs: Needs) -> Finding:
    about = "other consumers"
    others = inbox.poppers(client)
    if others is None:
        says = "CLIENT LIST is forbidden: whether somebody else pops the lists can't be seen"
        return Finding(about, "unknown", says, "grant +client|list to this user, or look yourself")
    if not others:
        return Finding(about, "fine", "nobody else pops lists here")
    named = ", ".join(f"{each.address} ({each.name or each.user}, {each.command.upper()})" for each in others)
    forwards = [each.forward_to for each in needs.lists if each.forward_to]
    if forwards:
        says = f"{named}: right if it takes from {', '.join(forwards)}; CLIENT LIST doesn't tell the list"
        return Finding(about, "unknown", says, "make sure that none of them takes from a source list")
    says = f"{named}: what it pops from a source list never gets here; CLIENT LIST doesn't tell the list"
    return Finding(about, "warning", says, "let it pop a list of its own, named as forward_to in ETL_SOURCES")
