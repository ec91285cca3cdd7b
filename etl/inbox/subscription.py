"""One subscription to PubSub: each message that is heard, once; and the probes that prove it's alive. What a session
is, and what becomes of a message, is `etl.inbox.listener`'s business.

A probe is a message that we publish to ourselves. Redis delivers what one server was told in that order, so a probe
that comes back proves that everything published before has come. In a cluster each node passes on what it was told, in
order as well, but on a line of its own: only probes through all of them prove it for the whole.
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

# `next` blocks no longer than this, so that its caller can look at the clock and at the stop signal.
READ_SECONDS = 0.2
# For the rest of a message that has begun to come.
REST_SECONDS = 5.0
SUBSCRIBE_SECONDS = 2.0


class Heard(NamedTuple):
    channel: bytes
    message: bytes


class Ears:
    """Subscribed to the dialler's patterns, and to a channel of our own, for probes."""

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
            said = self._read()
            missing -= said is not None and said[0] in (b"psubscribe", b"subscribe")

    def next(self) -> Heard | int | None:
        """What comes next: a message, or the time up to which all has come (microseconds since 2000). None after a
        short while without anything. Raises `Outage` when the connection is lost."""
        said = self._read()
        if said is None or said[0] not in (b"pmessage", b"message"):
            return None
        pattern = said[1] if len(said) == 4 else None
        channel, message = said[-2:]
        if not self._once.is_new(pattern, channel, message):
            return None
        if channel.startswith(PROBES.encode()):
            return self._echoed(message) if channel == self.probe_channel.encode() else None
        return Heard(channel, message)

    def close(self) -> None:
        with contextlib.suppress(EtlError), translated():
            self._pubsub.close()

    def _read(self) -> list[Any] | None:
        """Past redis-py's own `get_message`: it subscribes anew when a connection is lost, and we would never know."""
        connection = self._pubsub.connection
        with translated():
            if not connection.can_read(timeout=READ_SECONDS):
                return None
            said: list[Any] = connection.read_response(timeout=REST_SECONDS)
        return said

    def _echoed(self, message: bytes) -> int | None:
        """The time at which a probe was sent, when it has come back through every node."""
        try:
            sent_at, node, nodes = map(int, message.split())
        except ValueError:
            return None  # somebody else's
        self._echoes[sent_at].add(node)
        if len(self._echoes[sent_at]) < nodes:
            return None
        for earlier in [each for each in self._echoes if each <= sent_at]:
            del self._echoes[earlier]
        return sent_at


class _Once:
    """Redis delivers a message once for each pattern that matches its channel, one delivery right after the other. So
    the same words again are another message only if their pattern has had them already."""

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
