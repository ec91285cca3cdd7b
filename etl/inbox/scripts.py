"""Lua scripts, run on the server that has their keys. Of a cluster, no other node has to be there for it: redis-py by
itself would give a script to all of them.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError

from etl.inbox.connection import Client


def of_node(client: Client, key: str) -> dict[str, Any]:
    """Sends a command that names no key to the server that has this one, as its further argument. May raise what
    redis-py raises."""
    cluster: Any = client
    return {"target_nodes": cluster.get_node_from_key(key)} if isinstance(client, redis.RedisCluster) else {}


@cache
def _read(name: str) -> tuple[str, str]:
    """Its text, and the name that a server gives it."""
    text = (files(__package__) / "lua" / f"{name}.lua").read_text()
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


class Script:
    """`lua/<name>.lua`. May raise what redis-py raises."""

    def __init__(self, client: Client, name: str) -> None:
        self._client: Any = client
        self._text, self._sha = _read(name)

    def load(self, key: str) -> None:
        """Onto the server that has this key."""
        self._client.execute_command("SCRIPT LOAD", self._text, **of_node(self._client, key))

    def __call__(self, keys: Sequence[Any], args: Sequence[Any], connection: Any = None) -> Any:
        """Over this `connection` of the server that has the keys, if one is given."""
        client = connection or self._client
        try:
            return client.evalsha(self._sha, len(keys), *keys, *args)
        except NoScriptError:  # it has restarted, or is another one
            self.load(keys[0])
            return client.evalsha(self._sha, len(keys), *keys, *args)
