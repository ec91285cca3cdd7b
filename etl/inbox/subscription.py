"""One subscription to PubSub: gives each message once, and proves by probes that it's alive. Sessions, and what
becomes of a message, are in `etl.inbox.listener`.

A probe is a message that we publish to ourselves. One Redis server delivers in the order of publishing, so a probe that
comes back proves that everything published before it has come. In a cluster each node has an order of its own: only
probes through all nodes prove it.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from uuid import UUID

import redis

from etl.errors import EtlError, Outage
from etl.inbox.connection import Client, translated

PROBES = "etl:probe:"

# `next` blocks no longer than this, so that its caller can check the time and the stop signal.
READ_SECONDS = 0.2
# For the rest of a message whose first bytes have come.
REST_SECONDS = 5.0
SUBSCRIBE_SECONDS = 2.0


class PubSubMessage(NamedTuple):
    channel: bytes
    message: bytes


class Subscription:
    """A subscription to the dialler's patterns, and to a channel of its own for probes."""

    def __init__(self, client: Client, patterns: Sequence[str], session_id: UUID) -> None:
        self.probe_channel = f"{PROBES}{session_id}"
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

    def next(self) -> PubSubMessage | int | None:
        """The next message, or the time until which everything published has come (microseconds since 2000); None after
        `READ_SECONDS` without either. Raises `Outage` when the connection is lost."""
        reply = self._read()
        if reply is None or reply[0] not in (b"pmessage", b"message"):
            return None
        pattern = reply[1] if len(reply) == 4 else None
        channel, message = reply[-2:]
        if not self._once.is_new(pattern, channel, message):
            return None
        if channel.startswith(PROBES.encode()):
            return self._echoed(message) if channel == self.probe_channel.encode() else None
        return PubSubMessage(channel, message)

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
        self._last: tuple[bytes, bytes] | None = None
        self._patterns: set[bytes | None] = set()

    def is_new(self, pattern: bytes | None, channel: bytes, message: bytes) -> bool:
        if self._last == (channel, message) and pattern not in self._patterns:
            self._patterns.add(pattern)
            return False
        self._last = channel, message
        self._patterns = {pattern}
        return True


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
