"""How many messages wait in each of many lists, and how many claims each has: one round trip to each server for all.

Nothing here takes a message or waits for one: a command that pops would have it in a process that may die.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import redis
from redis.exceptions import AskError, RedisClusterException, RedisError

from etl.errors import EtlError, Outage
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
        self._late: dict[tuple[Any, ...], _Late] = {}

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
        for node, places in self._by_node(keys).items():
            found = self._answers(node, [(command, keys[place], *arguments) for place in places])
            answers.update(zip(places, found, strict=True))
        return [answers[place] for place in range(len(keys))]

    def _by_node(self, keys: Sequence[str]) -> dict[Any, list[int]]:
        """The places of each node's keys; without a cluster there is one, None."""
        places: dict[Any, list[int]] = {}
        for place, key in enumerate(keys):
            node = self._node_of(key) if isinstance(self._client, redis.RedisCluster) else None
            places.setdefault(node, []).append(place)
        return places

    def _answers(self, node: Any, commands: Sequence[tuple[str, ...]]) -> Sequence[Answer]:
        """Of a cluster that has lost a node, the others answer, and aren't kept waiting a second time."""
        ask, asked = partial(self._ask_node, node, commands), (node and node.name, *commands)
        if node is None:
            return ask()
        late = self._late.pop(asked, None)
        found = late.answers() if late else ask()
        if isinstance(found[0], Outage):
            self._late[asked] = late if late and late.is_asking() else _Late(ask, found)
        return found

    def _ask_node(self, node: Any, commands: Sequence[tuple[str, ...]]) -> Sequence[Answer]:
        try:
            with translated():
                pipeline = self._connected(node).pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                found = pipeline.execute(raise_on_error=False)
        except EtlError as error:
            self._look_for_moved_slots(node)
            found = [error] * len(commands)
        return [self._answer(each) for each in found]

    def _node_of(self, key: str) -> Any:
        """None while nobody has the key's slot."""
        with contextlib.suppress(RedisClusterException):
            return self._client.get_node_from_key(key)
        return None

    def _connected(self, node: Any) -> Any:
        if not isinstance(self._client, redis.RedisCluster):
            return self._client
        if node is None:
            raise RedisClusterException("no node has the slot of this key")
        return self._client.get_redis_connection(node)

    def _answer(self, found: Any) -> Answer:
        if isinstance(found, AskError) and isinstance(self._client, redis.RedisCluster):
            # MOVED too: the cluster's own client finds it.
            self._look_for_moved_slots()
            return 1
        if isinstance(found, RedisError):
            try:
                with translated():
                    raise found
            except EtlError as error:
                return error
        return found if isinstance(found, EtlError) else int(found or 0)

    def _look_for_moved_slots(self, failed: Any = None) -> None:
        if isinstance(self._client, redis.RedisCluster):
            with contextlib.suppress(EtlError), translated():
                self._client.nodes_manager.initialize(last_failed_node_name=failed.name if failed else None)


class _Late:
    """A node that is away, being asked again, by a thread of its own: it may take as long as its timeout."""

    def __init__(self, ask: Callable[[], Sequence[Answer]], last: Sequence[Answer]) -> None:
        self._ask = ask
        self._found = last
        self._thread = threading.Thread(target=self._run, name="watch of a node that is away", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._found = self._ask()

    def is_asking(self) -> bool:
        return self._thread.is_alive()

    def answers(self) -> Sequence[Answer]:
        """The last ones."""
        return self._found
