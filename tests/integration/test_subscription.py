"""A subscription proves that it's alive by hearing its own probes: each of them, whole, and none but its own."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from etl.errors import Outage
from etl.ids import new_id
from etl.inbox import subscription as subscriptions
from etl.inbox.connection import connect
from etl.inbox.subscription import PubSubMessage, Subscription, probe
from etl.lab.servers.private import PrivateCluster, PrivateRedis

PATTERNS = ("enigma:*", "etl:*")


@pytest.fixture
def subscription(redis_server: PrivateRedis, redis_client: "redis.Redis") -> Iterator[Subscription]:
    with connect(redis_server.url) as client:
        subscription = Subscription(client, PATTERNS, new_id())
        subscription.subscribe()
        yield subscription
        subscription.close()


def heard(subscription: Subscription, count: int) -> list[PubSubMessage | int]:
    """The next so many."""
    deadline = time.monotonic() + 10
    found: list[PubSubMessage | int] = []
    while len(found) < count and time.monotonic() < deadline:
        found += subscription.heard()
    return found


def test_a_probe_comes_after_what_was_published_before(redis_client: "redis.Redis", subscription: Subscription) -> None:
    redis_client.publish("enigma:a", b"1")
    probe(redis_client, subscription.probe_channel, 42)
    redis_client.publish("enigma:a", b"2")
    assert heard(subscription, 3) == [(b"enigma:a", b"1"), 42, (b"enigma:a", b"2")]


def test_a_probe_proves_nothing_before_it_came_back_through_every_node(
    redis_client: "redis.Redis", subscription: Subscription
) -> None:
    for message in ("7 1 3", "7 2 3", "7 2 3", "8 1 3", "8 3 3", "8 2 3", "7 3 3"):
        redis_client.publish(subscription.probe_channel, message)
    redis_client.publish("enigma:a", b"end")
    assert heard(subscription, 2) == [8, (b"enigma:a", b"end")]


def test_strange_messages_and_probes_are_neither_proof_nor_event(
    redis_client: "redis.Redis", subscription: Subscription
) -> None:
    for message in (b"", b"x", b"1 2", b"1 1 1 1", b"\xff 1 1"):
        redis_client.publish(subscription.probe_channel, message)
    probe(redis_client, f"etl:probe:{new_id()}", 42)
    redis_client.publish("enigma:a", b"end")
    assert heard(subscription, 1) == [(b"enigma:a", b"end")]


def test_a_connection_that_was_lost_is_not_made_again_in_silence(
    redis_client: "redis.Redis", subscription: Subscription
) -> None:
    assert redis_client.client_kill_filter(_type="pubsub") == 1
    with pytest.raises(Outage):
        heard(subscription, 1)
    assert redis_client.pubsub_numpat() == 0


def test_what_came_together_is_read_together_and_in_order(
    redis_client: "redis.Redis", subscription: Subscription
) -> None:
    published = [(b"enigma:a", str(number).encode()) for number in range(300)]
    with redis_client.pipeline(transaction=False) as pipeline:
        for channel, message in published:
            pipeline.publish(channel, message)
        pipeline.execute()
    probe(redis_client, subscription.probe_channel, 42)
    at_once = subscription.heard()
    assert len(at_once) > 100
    assert at_once + heard(subscription, 301 - len(at_once)) == [*published, 42]


def test_messages_of_any_size_come_whole_and_in_order(redis_client: "redis.Redis", subscription: Subscription) -> None:
    sizes = [0, 1, 65_500, 65_536, 200_000, 2, 1_000_000, 3, 65_400, 100, 0]
    published = [(b"enigma:a", str(number).encode() + b"x" * size) for number, size in enumerate(sizes)]
    for channel, message in published:
        redis_client.publish(channel, message)
    assert heard(subscription, len(published)) == published


def test_given_another_redis_py_then_what_came_is_read_one_by_one(
    redis_client: "redis.Redis", subscription: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_already = subscriptions._read_already
    monkeypatch.setattr(subscriptions, "_read_already", lambda _: read_already(object()))
    for number in range(3):
        redis_client.publish("enigma:a", str(number))
    assert heard(subscription, 3) == [(b"enigma:a", b"0"), (b"enigma:a", b"1"), (b"enigma:a", b"2")]


def test_on_a_cluster_a_probe_goes_through_every_node(cluster: PrivateCluster) -> None:
    with connect(cluster.url, cluster=True) as client:
        subscription = Subscription(client, PATTERNS, new_id())
        subscription.subscribe()
        nodes: Any = client.get_primaries()
        before = [published(node.port) for node in nodes]
        probe(client, subscription.probe_channel, 42)
        assert heard(subscription, 1) == [42]
        assert [published(node.port) for node in nodes] == [count + 1 for count in before]
        subscription.close()


def published(port: int) -> int:
    with redis.Redis(port=port) as node:
        return int(node.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"])
