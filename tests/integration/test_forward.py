"""`forward_to`: the application that used to consume a source list gets every message from another list instead,
exactly once and in the order of arrival, by popping from the same end as it always did."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from etl.app.load import follow
from etl.app.sources import tallies_of
from etl.errors import Outage
from etl.ids import uuid7
from etl.inbox import claims
from etl.inbox.claims import Claim, End, Source
from etl.inbox.connection import connect
from etl.inbox.producer import push
from etl.lab.servers.private import PrivateRedis
from etl.settings import SourceSettings
from tests.world import CAMPAIGNS, Archive, cdr, eventually, left

APPLICATION = "application:calls"
BOTH_ENDS = pytest.mark.parametrize("end", ["right", "left"])

Workers = Callable[..., Source]


@pytest.fixture
def worker(redis_server: PrivateRedis, redis_client: Any) -> Iterator[Workers]:
    with connect(redis_server.url) as client:

        def make(name: str = "w1", **options: Any) -> Source:
            options = {"batch_size": 3, **options}
            return Source(client, CAMPAIGNS, worker=name, forward_to=APPLICATION, **options)

        yield make


def consumed(client: Any, end: End) -> list[bytes]:
    """What the application gets, in its order, until nothing is left."""
    messages = []
    while (message := client.rpop(APPLICATION) if end == "right" else client.lpop(APPLICATION)) is not None:
        messages.append(message)
    return messages


def taken(claim: Claim | None) -> Claim:
    assert claim is not None
    return claim


@BOTH_ENDS
@pytest.mark.parametrize("size", [1, 3, 250, 600])
def test_the_application_gets_every_message_in_order_over_many_claims(
    worker: Workers, redis_client: Any, end: End, size: int
) -> None:
    messages = [b"message %d" % number for number in range(2 * size + 1)]
    push(redis_client, CAMPAIGNS, messages, end)
    source = worker(take_from=end, batch_size=size)

    while claim := source.claim():
        claim.ack()

    assert consumed(redis_client, end) == messages
    assert left(redis_client) == []


@BOTH_ENDS
def test_the_application_need_not_keep_up(worker: Workers, redis_client: Any, end: End) -> None:
    source = worker(take_from=end)
    got = []
    for first in range(0, 40, 4):
        push(redis_client, CAMPAIGNS, [b"%d" % number for number in range(first, first + 4)], end)
        taken(source.claim())
        got += [redis_client.rpop(APPLICATION) if end == "right" else redis_client.lpop(APPLICATION)]
    while source.claim():
        pass

    assert [int(message) for message in got + consumed(redis_client, end)] == list(range(40))


def test_a_message_is_forwarded_byte_for_byte_and_as_often_as_it_came(worker: Workers, redis_client: Any) -> None:
    messages = [b"twice", b"", b"twice", bytes(range(256)), b"not JSON", b"twice"]
    push(redis_client, CAMPAIGNS, messages)

    taken(worker(batch_size=10).claim())

    assert consumed(redis_client, "right") == messages


@BOTH_ENDS
def test_a_claim_is_not_forwarded_again_whoever_takes_it_over(worker: Workers, redis_client: Any, end: End) -> None:
    messages = [b"1", b"2", b"3", b"4"]
    push(redis_client, CAMPAIGNS, messages, end)
    first_life = worker("w1", take_from=end)
    taken(first_life.claim()).give_back()
    taken(worker("w2", take_from=end).adopt())
    again = taken(worker("w2", take_from=end).adopt_own())
    assert again.messages == messages[:3]
    redis_client.delete(f"{{{CAMPAIGNS}}}:claims")
    assert worker("w3", take_from=end).rescue() == 1
    taken(worker("w3", take_from=end).adopt()).ack()
    taken(worker("w3", take_from=end).claim()).ack()

    assert consumed(redis_client, end) == messages


def test_a_claim_command_that_comes_twice_forwards_nothing(
    worker: Workers, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = uuid7(0)
    monkeypatch.setattr(claims, "uuid7", lambda _: name)
    source = worker()
    push(redis_client, CAMPAIGNS, [b"%d" % number for number in range(5)])
    taken(source.claim())

    with pytest.raises(Outage):
        source.claim()

    assert consumed(redis_client, "right") == [b"0", b"1", b"2"]
    assert redis_client.llen(CAMPAIGNS) == 2


@BOTH_ENDS
def test_two_producers_two_loaders_and_the_application_lose_nothing(archive: Archive, end: End) -> None:
    archive.sources = (SourceSettings(key=CAMPAIGNS, source="dialler", take_from=end, forward_to=APPLICATION),)
    calls = {name: [cdr(f"{name}{number}") for number in range(1_500)] for name in ("a", "b")}
    got: list[bytes] = []
    stop, loaded = threading.Event(), threading.Event()

    def produce(messages: list[bytes]) -> None:
        with connect(archive.redis_url) as client:
            for first in range(0, len(messages), 7):
                push(client, CAMPAIGNS, messages[first : first + 7], end)

    def load(name: str) -> None:
        settings = archive.settings(worker_name=name, batch_size=40, linger_ms=0)
        follow(settings, stop, tallies_of(settings), listen=False)

    def consume() -> None:
        with connect(archive.redis_url) as client:
            while not loaded.is_set():
                got.extend(consumed(client, end))

    producers = [threading.Thread(target=produce, args=(messages,)) for messages in calls.values()]
    loaders = [threading.Thread(target=load, args=(name,)) for name in ("w1", "w2")]
    application = threading.Thread(target=consume)
    for thread in (*loaders, application):
        thread.start()
    # each looks at its lists
    eventually(lambda: archive.redis.info("clients")["connected_clients"] >= 4, what="the loaders did not start")
    for thread in producers:
        thread.start()
    eventually(lambda: archive.value("SELECT coalesce(sum(claimed), 0) FROM load_batches") == 3_000)
    stop.set()
    loaded.set()
    for thread in (*producers, *loaders, application):
        thread.join()
    got += consumed(archive.redis, end)

    for name, messages in calls.items():
        assert [message for message in got if f'"call_ref": "{name}'.encode() in message] == messages
    assert len(got) == 3_000
    assert archive.value("SELECT count(*) FROM cdrs") == 3_000
    archive.assert_books_balance()
