"""One subscription to PubSub: gives each message once, and proves by probes that it's alive. Sessions, and what
becomes of a message, are in `etl.inbox.listener`.

A probe is a message that we publish to ourselves. One Redis server delivers in the order of publishing, so a probe that
comes back proves that everything published before it has come. In a cluster each node has an order of its own: only
probes through all nodes prove it.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, cast
from uuid import UUID

import redis

from etl.errors import EtlError, Outage
from etl.inbox.connection import Client, translated

PROBES = "etl:probe:"
_PROBES = PROBES.encode()

# `heard` blocks no longer than this, so that its caller can check the time and the stop signal.
READ_SECONDS = 0.2
# For the rest of a message whose first bytes have come.
REST_SECONDS = 5.0
SUBSCRIBE_SECONDS = 2.0

_MESSAGES = (b"pmessage", b"message")
_OF_A_PATTERN = 4  # parts, the second of which is the pattern


PubSubMessage = tuple[bytes, bytes]  # channel, message


class Subscription:
    """A subscription to the dialler's patterns, and to a channel of its own for probes."""

    def __init__(self, client: Client, patterns: Sequence[str], session_id: UUID) -> None:
        self.probe_channel = f"{PROBES}{session_id}"
        self._own = self.probe_channel.encode()
        self._patterns = list(dict.fromkeys(patterns))
        self._pubsub: Any = cast(Any, client).pubsub()
        self._once = _Once()
        self._echoes: defaultdict[int, set[int]] = defaultdict(set)  # probes that came back, by the time they were sent

    def subscribe(self) -> None:
        """Returns when the server has confirmed everything. Raises `Outage`."""
        with translated():
            self._pubsub.psubscribe(*self._patterns)
            self._pubsub.subscribe(self.probe_channel)
        deadline = time.monotonic() + SUBSCRIBE_SECONDS
        missing = len(self._patterns) + 1
        while missing:
            if time.monotonic() > deadline:
                raise Outage("ETL-221", "Redis doesn't confirm the subscription")
            reply = self._read()
            missing -= reply is not None and reply[0] in (b"psubscribe", b"subscribe")

    def heard(self) -> list[PubSubMessage | int]:
        """What has come since the last call, in order: messages, and times until which everything published has come
        (microseconds since 2000). Waits for `READ_SECONDS` at most, and holds as much as one read of the socket gives,
        or one message that is larger. Raises `Outage` when the connection is lost."""
        found: list[PubSubMessage | int] = []
        is_new = self._once.is_new
        for reply in self._read_all():
            if reply[0] not in _MESSAGES:
                continue
            channel, message = reply[-2:]
            if not is_new(reply[1] if len(reply) == _OF_A_PATTERN else None, channel, message):
                continue
            if not channel.startswith(_PROBES):
                found.append((channel, message))
            elif channel == self._own and (proven := self._echoed(message)) is not None:
                found.append(proven)
        return found

    def close(self) -> None:
        with contextlib.suppress(EtlError), translated():
            self._pubsub.close()

    def _read(self) -> list[Any] | None:
        """Not by redis-py's `get_message`, which subscribes again after a lost connection without reporting it."""
        connection = self._pubsub.connection
        with translated():
            if not connection.can_read(timeout=READ_SECONDS):
                return None
            reply: list[Any] = connection.read_response(timeout=REST_SECONDS)
        return reply

    def _read_all(self) -> list[list[Any]]:
        if (first := self._read()) is None:
            return []
        with translated():
            return [first, *_read_already(self._pubsub.connection)]

    def _echoed(self, message: bytes) -> int | None:
        """When the probe was sent, once it has come back through every node; None before."""
        try:
            sent_at, node, nodes = map(int, message.split())
        except ValueError:
            return None  # not one of our probes
        self._echoes[sent_at].add(node)
        if len(self._echoes[sent_at]) < nodes:
            return None
        for earlier in [each for each in self._echoes if each <= sent_at]:
            del self._echoes[earlier]
        return sent_at


class _Once:
    """Redis delivers a message once for each pattern that matches its channel, one right after the other. So an equal
    message is a new one only if this pattern has delivered it already."""

    def __init__(self) -> None:
        self._channel = self._message = b""
        self._patterns: set[bytes | None] = set()

    def is_new(self, pattern: bytes | None, channel: bytes, message: bytes) -> bool:
        if message == self._message and channel == self._channel and self._patterns and pattern not in self._patterns:
            self._patterns.add(pattern)
            return False
        self._channel, self._message = channel, message
        self._patterns = {pattern}
        return True


def _read_already(connection: Any) -> Iterator[list[Any]]:
    """The whole replies that came together with the last one. redis-py's own ways look at the socket before each, which
    takes ten times as long. Of a redis-py that keeps them elsewhere none are found: then they are read by those."""
    gets = getattr(getattr(getattr(connection, "_parser", None), "_reader", None), "gets", bool)
    while isinstance(reply := gets(), list):
        yield reply
    if isinstance(reply, Exception):
        raise reply


def probe(client: Client, channel: str, sent_at: int) -> None:
    """Publish a probe, through each node of a cluster. Raises `Outage`."""
    with translated():
        if isinstance(client, redis.RedisCluster):
            cluster: Any = client
            nodes = cluster.get_primaries()
            for number, node in enumerate(nodes, 1):
                cluster.publish(channel, f"{sent_at} {number} {len(nodes)}", target_nodes=node)
        else:
            client.publish(channel, f"{sent_at} 1 1")
