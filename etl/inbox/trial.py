"""Trying commands without any effect: each is queued behind MULTI, and then all are discarded.

A server of any version looks at the rights when it queues, for every user who may MULTI, and for the very keys that a
command names. What it says decides nothing; the code word does with which its error begins.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import redis
from redis.exceptions import NoPermissionError

from etl.inbox.connection import Client, translated

# "denied": this user lacks a right to it. "absent": the server doesn't take the command from anybody: it has another
# name there, or a managed service has turned it off. "untried": it answers otherwise, or takes no MULTI.
Verdict = Literal["granted", "denied", "absent", "untried"]

# WRONGTYPE says that a command was run.
_BY_CODE: dict[str, Verdict] = {"ERR": "absent", "WRONGTYPE": "granted"}
_WORST_FIRST: tuple[Verdict, ...] = ("denied", "absent", "untried", "granted")

# Where nothing can be queued, these are run: they change nothing, and answer with next to nothing.
_HARMLESS = frozenset({"exists", "get", "llen", "lrange", "scan", "time", "zcard", "zrangebyscore", "zscore"})

Name = TypeVar("Name")
Commands = Mapping[Name, Sequence[str]]  # by any name


def multi(client: Client) -> Verdict:
    """Whether anything can be tried here at all. Raises `Outage`."""
    return _worst([_queued(node, {})[0] for node in _nodes_of(client, None)])


def tried(client: Client, key: str | None, commands: Commands[Name]) -> dict[Name, Verdict]:
    """What becomes of each command, by its name in `commands`. They are tried on the server that has `key`; without a
    key on every one that takes writes, and the worst counts. Raises `Outage`."""
    found = [_queued(node, commands)[1] for node in _nodes_of(client, key)]
    return {name: _worst([each[name] for each in found]) for name in commands}


def _nodes_of(client: Client, key: str | None) -> list[Any]:
    connection: Any = client
    if not isinstance(client, redis.RedisCluster):
        return [client]
    with translated():
        nodes = connection.get_primaries() if key is None else [connection.get_node_from_key(key)]
        return [connection.get_redis_connection(node) for node in nodes]


def _queued(node: Any, commands: Commands[Name]) -> tuple[Verdict, dict[Name, Verdict]]:
    """The verdicts about MULTI itself and about each command."""
    with translated():
        connection = node.connection_pool.get_connection()
        try:
            begun = _answers(connection, [["MULTI"]])[0]
            if begun != "granted":
                run = {name: words for name, words in commands.items() if words[0] in _HARMLESS}
                known = dict(zip(run, _answers(connection, [*run.values()]), strict=True))
                return begun, {name: known.get(name, "untried") for name in commands}
            *verdicts, _ = _answers(connection, [*commands.values(), ["DISCARD"]])
            return begun, dict(zip(commands, verdicts, strict=True))
        finally:
            connection.disconnect()  # which drops what is queued where DISCARD is refused
            node.connection_pool.release(connection)


def _answers(connection: Any, commands: Sequence[Sequence[str]]) -> list[Verdict]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [_verdict(connection) for _ in commands]


def _verdict(connection: Any) -> Verdict:
    try:
        connection.read_response()
    except NoPermissionError:
        return "denied"
    except redis.ResponseError as error:
        code = error.status_code or str(error).partition(" ")[0]
        return _BY_CODE.get(code, "untried")
    return "granted"


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return min(verdicts, key=_WORST_FIRST.index)
