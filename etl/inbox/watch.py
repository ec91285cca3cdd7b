"""How many messages wait in each of many lists, and how many claims each has: one round trip to each server for all.

Nothing here takes a message or waits for one: a command that pops would have it in a process that may die.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import redis
from redis.exceptions import AskError, RedisClusterException, RedisError

from etl.errors import EtlError
from etl.inbox.claims import Source
from etl.inbox.connection import Client, translated
from etl.inbox.kept import KEPT_BYTES

# Of what was asked about each list: the number, or why there is none.
Answer = int | EtlError


class Watch:
    """Looks at `sources`, all of one Redis or one cluster. Answers come in their order; nothing is raised.

    An answer that is an `Outage` is that of the whole server; any other error is about this key alone.
    """

    def __init__(self, client: Client, sources: Sequence[Source]) -> None:
        self._client: Any = client
        self._lists = [source.key for source in sources]
        self._registries = [source.registry for source in sources]
        self._acked = [source.acked for source in sources]

    def waiting(self) -> list[Answer]:
        """How many messages wait in each list."""
        return self._ask("LLEN", self._lists)

    def claims(self) -> list[Answer]:
        """How many claims of each list aren't acknowledged, whoever holds them."""
        return self._ask("ZCARD", self._registries)

    def kept_bytes(self) -> list[Answer]:
        """How many bytes each list's acknowledged claims take, about."""
        return self._ask("ZSCORE", self._acked, KEPT_BYTES)

    def _ask(self, command: str, keys: Sequence[str], *arguments: str) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for server, places in self._by_server(keys):
            try:
                with translated():
                    pipeline = server().pipeline(transaction=False)
                    for place in places:
                        pipeline.execute_command(command, keys[place], *arguments)
                    found = pipeline.execute(raise_on_error=False)
            except EtlError as error:
                self._look_for_moved_slots()
                found = [error] * len(places)
            answers.update(zip(places, map(self._answer, found), strict=True))
        return [answers[place] for place in range(len(keys))]

    def _by_server(self, keys: Sequence[str]) -> Iterator[tuple[Callable[[], Any], list[int]]]:
        """Each server's client, and the places of its keys. Of a cluster that has lost a node, the others answer."""
        if not isinstance(self._client, redis.RedisCluster):
            yield lambda: self._client, list(range(len(keys)))
            return
        places: dict[Any, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(self._node_of(key), []).append(place)
        for node, of_node in places.items():
            yield partial(self._connected, node), of_node

    def _node_of(self, key: str) -> Any:
        """None while nobody has the key's slot."""
        with contextlib.suppress(RedisClusterException):
            return self._client.get_node_from_key(key)
        return None

    def _connected(self, node: Any) -> Any:
        if node is None:
            raise RedisClusterException("no node has the slot of this key")
        return self._client.get_redis_connection(node)

    def _answer(self, found: Any) -> Answer:
        if isinstance(found, AskError):  # MOVED too: the cluster's own client finds it
            self._look_for_moved_slots()
            return 1
        if isinstance(found, RedisError):
            try:
                with translated():
                    raise found
            except EtlError as error:
                return error
        return found if isinstance(found, EtlError) else int(found or 0)

    def _look_for_moved_slots(self) -> None:
        if isinstance(self._client, redis.RedisCluster):
            with contextlib.suppress(EtlError), translated():
                self._client.nodes_manager.initialize()
