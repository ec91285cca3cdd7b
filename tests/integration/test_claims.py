"""Claims against a real server: what is in which key at any moment, who may hold what, and what can't happen twice.
What a claim's messages become is no business of these tests."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any
from uuid import UUID

import pytest
import redis
from redis.crc import key_slot

from etl.errors import ConfigurationError, LeaseLost, Outage
from etl.ids import new_id, unix_ms_of, uuid7
from etl.inbox import claims
from etl.inbox.claims import Claim, End, Source
from etl.inbox.connection import connect
from etl.inbox.producer import push
from etl.lab.servers.private import PrivateRedis
from tests.world import eventually, left

KEY = "calls:waiting"
REGISTRY = "{calls:waiting}:claims"
CLAIMED = "{calls:waiting}:last"
LEASE_MS = 60_000
BOTH_ENDS = pytest.mark.parametrize("end", ["right", "left"])

Workers = Callable[..., Source]


@pytest.fixture
def worker(redis_server: PrivateRedis, redis_client: Any) -> Iterator[Workers]:
    """Makes a worker's view of the list KEY; workers share nothing but the server."""
    clients = []

    def make(name: str = "w1", *, key: str = KEY, **options: Any) -> Source:
        clients.append(connect(redis_server.url))
        options = {"lease_ms": LEASE_MS, **options}
        return Source(clients[-1], key, worker=name, **options)

    yield make
    for client in clients:
        client.close()


def numbered(count: int) -> list[bytes]:
    return [b"message %d" % number for number in range(count)]


def server_ms(client: Any) -> int:
    seconds, micros = client.time()
    return int(seconds * 1_000 + micros // 1_000)


def list_of(claim: Claim, key: str = f"{{{KEY}}}") -> str:
    return f"{key}:claim:{claim.batch_id}"


def contents(client: Any) -> dict[bytes, bytes]:
    """Everything that the server holds."""
    return {key: client.dump(key) for key in client.scan_iter()}


def taken(claim: Claim | None) -> Claim:
    assert claim is not None
    return claim


def expire(client: Any, registry: str = REGISTRY) -> None:
    """As time does: every lease there has run out, a moment ago."""
    for member in client.zrange(registry, 0, -1):
        client.zadd(registry, {member: server_ms(client) - 1})


# claim


@BOTH_ENDS
@pytest.mark.parametrize("size", [1, 3, 249, 250, 251, 5_000])
def test_messages_are_claimed_in_the_order_of_arrival_and_at_most_a_batch(
    worker: Workers, redis_client: Any, end: End, size: int
) -> None:
    messages = numbered(2 * size + 1)
    push(redis_client, KEY, messages, end)
    source = worker(take_from=end, batch_size=size)

    batches = [taken(source.claim()).messages for _ in range(3)]

    assert batches == [messages[:size], messages[size : 2 * size], messages[2 * size :]]
    assert source.claim() is None


@BOTH_ENDS
def test_messages_that_arrive_later_stay_behind_those_that_wait(worker: Workers, redis_client: Any, end: End) -> None:
    source = worker(take_from=end, batch_size=2)
    push(redis_client, KEY, [b"1", b"2", b"3"], end)
    assert taken(source.claim()).messages == [b"1", b"2"]

    push(redis_client, KEY, [b"4"], end)

    assert taken(source.claim()).messages == [b"3", b"4"]


@BOTH_ENDS
def test_what_is_claimed_is_in_the_claims_list_and_nowhere_else(worker: Workers, redis_client: Any, end: End) -> None:
    push(redis_client, KEY, numbered(5), end)
    before = server_ms(redis_client)

    claim = taken(worker("w1", take_from=end, batch_size=3).claim())

    after = server_ms(redis_client)
    assert set(left(redis_client)) == {KEY.encode(), REGISTRY.encode(), list_of(claim).encode()}
    assert redis_client.lrange(list_of(claim), 0, -1) == numbered(5)[:3]
    assert sorted(redis_client.lrange(KEY, 0, -1)) == numbered(5)[3:]
    ((member, deadline),) = redis_client.zrange(REGISTRY, 0, -1, withscores=True)
    assert member == f"{claim.batch_id}@w1".encode()
    assert before + LEASE_MS <= deadline <= after + LEASE_MS
    assert not claim.adopted


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("calls:waiting", "{calls:waiting}"),
        ("{calls}:waiting", "{calls}:waiting"),
        ("calls:{centre 1}", "calls:{centre 1}"),
        ("calls{", "{calls{}"),
    ],
)
def test_all_keys_of_a_source_lie_in_one_slot(worker: Workers, redis_client: Any, key: str, prefix: str) -> None:
    source = worker(key=key)
    push(redis_client, key, [b"1", b"2"])

    claim = taken(source.claim())
    push(redis_client, key, [b"3"])

    keys = set(redis_client.keys())
    named = {key, f"{prefix}:claims", f"{prefix}:last", list_of(claim, prefix)}
    assert keys == {each.encode() for each in named}
    assert len({key_slot(each) for each in keys}) == 1
    claim.ack()
    assert left(redis_client) == [key.encode()]


def test_an_empty_list_makes_no_claim_and_leaves_no_key(worker: Workers, redis_client: Any) -> None:
    source = worker(forward_to="application")

    assert source.claim() is None
    assert source.adopt() is None
    assert source.adopt_own() is None
    assert source.rescue() == 0
    assert left(redis_client) == []


@BOTH_ENDS
def test_a_claim_is_split_where_its_bytes_become_too_many(
    worker: Workers, redis_client: Any, monkeypatch: pytest.MonkeyPatch, end: End
) -> None:
    monkeypatch.setattr(claims, "MAX_CLAIM_BYTES", 100)
    sizes = [50, 50, 1, 99, 1, 101, 100, 300, 40, 40, 40]
    push(redis_client, KEY, [bytes(size) for size in sizes], end)
    source = worker(take_from=end)

    batches = []
    while claim := source.claim():
        batches.append([len(message) for message in claim.messages])

    assert batches == [[50, 50], [1, 99], [1], [101], [100], [300], [40, 40], [40]]


@BOTH_ENDS
@pytest.mark.parametrize("every", [1, 2, 7, 64])
def test_large_messages_behind_small_ones_stay_within_the_bound(
    worker: Workers, redis_client: Any, end: End, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lengths of a claim like the last one are looked at by samples only."""
    monkeypatch.setattr(claims, "MAX_CLAIM_BYTES", 100_000)
    large = [bytes(5_000 if number % every == 0 else 5) for number in range(2_000)]
    messages = [*numbered(3_000), *large]
    push(redis_client, KEY, messages, end)
    source = worker(take_from=end, batch_size=1_000)

    batches = []
    while claim := source.claim():
        batches.append(claim.messages)
        claim.ack()

    assert [message for batch in batches for message in batch] == messages
    assert max(sum(map(len, batch)) for batch in batches) <= 100_000
    assert [len(batch) for batch in batches[:3]] == [1_000] * 3


def test_a_claim_holds_large_messages_up_to_its_bound(worker: Workers, redis_client: Any) -> None:
    large = [bytes([number]) * (5 * 2**20) for number in range(8)]
    push(redis_client, KEY, large)
    source = worker()

    first, second = taken(source.claim()), taken(source.claim())

    assert [*first.messages, *second.messages] == large
    assert len(first.messages) == claims.MAX_CLAIM_BYTES // len(large[0])


@BOTH_ENDS
def test_messages_of_any_bytes_come_out_as_they_went_in(worker: Workers, redis_client: Any, end: End) -> None:
    messages = [bytes([byte]) for byte in range(256)]
    messages += [b"", b"\r\n", b"$-1\r\n", bytes(range(256)), "ü€😀".encode(), b"\xff\xfe\x00", os.urandom(1_000)]
    push(redis_client, KEY, messages, end)

    claim = taken(worker("w1", take_from=end).claim())
    claim.give_back()
    adopted = taken(worker("w2", take_from=end).adopt())

    assert claim.messages == messages
    assert adopted.messages == messages


def test_workers_that_claim_at_once_share_the_messages_without_overlap(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(2_000))
    workers = [worker(f"w{number}", batch_size=30) for number in range(4)]
    batches: list[list[bytes]] = []

    def claim_all(source: Source) -> None:
        while claim := source.claim():
            batches.append(claim.messages)
            claim.ack()

    in_threads(claim_all, workers)

    assert sorted(message for batch in batches for message in batch) == sorted(numbered(2_000))
    assert all(batch == sorted(batch, key=lambda message: int(message.split()[1])) for batch in batches)
    assert left(redis_client) == []


@BOTH_ENDS
def test_a_server_that_copies_another_part_of_the_list_takes_nothing(redis_client: Any, end: End) -> None:
    """As one might that isn't quite Redis. What wasn't copied would be lost."""
    redis_client.rpush(KEY, *numbered(10))
    script = files("etl.inbox").joinpath("lua", "claim.lua").read_text()
    otherwise = script.replace("'ASC' or 'DESC'", "'DESC' or 'ASC'")
    assert otherwise != script

    with pytest.raises(redis.ResponseError, match="nothing was taken"):
        redis_client.eval(
            otherwise, 4, KEY, f"{{{KEY}}}:claim:x", REGISTRY, CLAIMED, "x@w1", 3, 1_000, LEASE_MS, end, 1
        )

    assert left(redis_client) == [KEY.encode()]
    assert redis_client.lrange(KEY, 0, -1) == numbered(10)


@pytest.mark.parametrize("left_over", ["both", "list", "entry"])
def test_a_claim_command_that_comes_twice_is_refused(
    worker: Workers, redis_client: Any, left_over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = new_id()
    monkeypatch.setattr(claims, "uuid7", lambda _: batch_id)
    source = worker(batch_size=2, forward_to="application")
    push(redis_client, KEY, numbered(5))
    claim = taken(source.claim())
    if left_over == "list":
        redis_client.delete(REGISTRY)
    elif left_over == "entry":
        redis_client.delete(list_of(claim))
    before = contents(redis_client)

    with pytest.raises(Outage, match="CLAIMED"):
        source.claim()

    assert contents(redis_client) == before


def test_a_forward_list_that_is_none_is_found_before_anything_moves(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    redis_client.set("application", "no list")

    with pytest.raises(ConfigurationError, match="WRONGTYPE: the key application holds something else than a list"):
        worker(forward_to="application").claim()

    assert set(left(redis_client)) == {KEY.encode(), b"application"}
    assert redis_client.llen(KEY) == 3


def test_a_source_that_is_no_list_is_a_configuration_error(worker: Workers, redis_client: Any) -> None:
    redis_client.set(KEY, "no list")
    source = worker()

    for step in (source.claim, source.waiting):
        with pytest.raises(ConfigurationError, match=f"WRONGTYPE: the key {re.escape(KEY)} holds"):
            step()


def test_a_redis_without_memory_can_still_be_emptied(worker: Workers, redis_client: Any) -> None:
    source = worker()
    push(redis_client, KEY, numbered(300))
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.OutOfMemoryError):
            push_raw(redis_client)
        claim = taken(source.claim())
        source.renew_all()
        claim.give_back()
        adopted = taken(source.adopt())
        assert adopted.messages == numbered(300)
        adopted.ack()
    finally:
        redis_client.config_set("maxmemory", "0")
    assert left(redis_client) == []


def push_raw(client: Any) -> None:
    client.lpush(KEY, b"one more")


def test_scripts_that_redis_has_forgotten_are_sent_again(worker: Workers, redis_client: Any) -> None:
    source = worker()
    push(redis_client, KEY, [b"1"])
    taken(source.claim()).ack()

    redis_client.script_flush()
    push(redis_client, KEY, [b"2"])

    assert taken(source.claim()).messages == [b"2"]


# the time of a claim


def ms(claim: Claim | None) -> int:
    return unix_ms_of(taken(claim).batch_id)


def last(client: Any) -> int | None:
    """As it's noted in Redis."""
    noted = client.zscore(CLAIMED, "last")
    return None if noted is None else int(noted)


def test_a_claim_has_its_time_from_redis(worker: Workers, redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1)  # the host's clock is nothing to go by
    push(redis_client, KEY, numbered(1))
    before = server_ms(redis_client)

    claim = taken(worker().claim())

    assert before <= ms(claim) <= server_ms(redis_client)
    assert last(redis_client) == ms(claim)
    assert redis_client.ttl(CLAIMED) == -1


@pytest.mark.parametrize("ahead_ms", [1, 60_000, 366 * 86_400_000])
def test_if_redis_clock_was_set_back_ids_go_on_from_the_last(worker: Workers, redis_client: Any, ahead_ms: int) -> None:
    noted = server_ms(redis_client) + 1_000 + ahead_ms
    redis_client.zadd(CLAIMED, {"last": noted})
    push(redis_client, KEY, numbered(4))

    one, other = worker("w1", batch_size=1), worker("w2", batch_size=1)

    assert [ms(each.claim()) for each in (one, other, one, other)] == [noted + 1, noted + 2, noted + 3, noted + 4]
    assert last(redis_client) == noted + 4


@pytest.mark.parametrize("ahead", [False, True])
def test_ids_of_workers_that_claim_at_once_never_repeat_or_go_back(
    worker: Workers, redis_client: Any, ahead: bool
) -> None:
    if ahead:
        redis_client.zadd(CLAIMED, {"last": server_ms(redis_client) + 3_600_000})
    push(redis_client, KEY, numbered(600))
    in_turn: list[int] = []  # each claim's time by the place of its only message

    def claim_all(source: Source) -> None:
        own = 0
        while claim := source.claim():
            assert ms(claim) > own
            own = ms(claim)
            in_turn.append(int(claim.messages[0].split()[1]) * 10**14 + own)

    in_threads(claim_all, [worker(f"w{number}", batch_size=1) for number in range(3)])

    times = [each % 10**14 for each in sorted(in_turn)]
    assert len(times) == 600
    assert times == sorted(set(times)), "what was claimed later has the later time"


def test_a_worker_that_was_overtaken_asks_again(
    worker: Workers, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another claims between its question for the time and its claim."""
    push(redis_client, KEY, numbered(3))
    slow, quick = worker("slow", batch_size=1), worker("quick", batch_size=1)
    overtakers: list[Claim] = []

    def late(unix_ms: int) -> UUID:
        if not overtakers:
            overtakers.append(quick_in_time(quick))
        return uuid7(unix_ms)

    def quick_in_time(source: Source) -> Claim:
        with monkeypatch.context() as patch:
            patch.setattr(claims, "uuid7", uuid7)
            redis_client.zadd(CLAIMED, {"last": server_ms(redis_client) + 50})
            return taken(source.claim())

    monkeypatch.setattr(claims, "uuid7", late)
    claim = taken(slow.claim())

    assert claim.messages == [b"message 1"]
    assert ms(claim) > ms(overtakers[0])
    assert len(redis_client.zrange(REGISTRY, 0, -1)) == 2


@pytest.mark.parametrize("loser", ["claim", "rescue"])
def test_one_that_is_overtaken_changes_nothing(worker: Workers, redis_client: Any, loser: str) -> None:
    push(redis_client, KEY, numbered(3))
    redis_client.rpush(f"{{{KEY}}}:claim:x", b"orphan")
    redis_client.zadd(CLAIMED, {"last": 77})
    before = contents(redis_client)
    script = files("etl.inbox").joinpath("lua", f"{loser}.lua").read_text()
    keys = {
        "claim": (KEY, f"{{{KEY}}}:claim:y", REGISTRY, CLAIMED, "application"),
        "rescue": (f"{{{KEY}}}:claim:x", f"{{{KEY}}}:claim:y", REGISTRY, CLAIMED),
    }[loser]
    arguments = {"claim": ("y@w1", 3, 1_000, LEASE_MS, "right"), "rescue": ("x", "y@rescued")}[loser]

    for unix_ms in (76, 77):
        with pytest.raises(redis.ResponseError, match="OVERTAKEN"):
            redis_client.eval(script, len(keys), *keys, *arguments, unix_ms)

    assert contents(redis_client) == before


@pytest.mark.parametrize("noted", ["inf", "-inf", "1e300", str(2**48), str(claims.LATEST_MS)])
def test_a_noted_time_that_can_not_be_is_told_with_the_way_out(worker: Workers, redis_client: Any, noted: str) -> None:
    redis_client.zadd(CLAIMED, {"last": noted})
    push(redis_client, KEY, numbered(1))
    source = worker()

    if noted == "-inf":
        assert taken(source.claim()).messages == numbered(1)
        return
    with pytest.raises(ConfigurationError, match=rf"{CLAIMED} .*delete that key"):
        source.claim()
    assert redis_client.lrange(KEY, 0, -1) == numbered(1)
    redis_client.delete(CLAIMED)
    assert taken(source.claim()).messages == numbered(1)


def test_a_note_that_is_no_sorted_set_stops_a_claim_before_it_moves(worker: Workers, redis_client: Any) -> None:
    redis_client.set(CLAIMED, "mine")
    push(redis_client, KEY, numbered(2))

    with pytest.raises(ConfigurationError, match=f"WRONGTYPE: the key {re.escape(CLAIMED)} holds"):
        worker().claim()

    assert set(redis_client.keys()) == {KEY.encode(), CLAIMED.encode()}
    assert redis_client.llen(KEY) == 2


@pytest.mark.parametrize("by_a_host", [-3_600_000, 3_600_000])
def test_a_worker_of_0_1_beside_us_does_no_harm(worker: Workers, redis_client: Any, by_a_host: int) -> None:
    """It has its ids from its host's clock, and notes nothing."""
    push(redis_client, KEY, numbered(3))
    ours = worker("w1", batch_size=1)
    first = taken(ours.claim())
    theirs = f"{uuid7(server_ms(redis_client) + by_a_host)}"
    redis_client.lmove(KEY, f"{{{KEY}}}:claim:{theirs}", "RIGHT", "RIGHT")
    redis_client.zadd(REGISTRY, {f"{theirs}@old": server_ms(redis_client) - 1})

    second = taken(ours.claim())
    adopted = taken(ours.adopt())

    assert [first.messages, adopted.messages, second.messages] == [[each] for each in numbered(3)]
    assert str(adopted.batch_id) == theirs
    assert ms(first) < ms(second) == last(redis_client)
    for claim in (first, second, adopted):
        claim.ack()
    assert left(redis_client) == []


def test_a_redis_without_memory_notes_the_time_all_the_same(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(2))
    redis_client.config_set("maxmemory", "1")
    try:
        claimed = [taken(worker("w1", batch_size=1).claim()) for _ in range(2)]
        redis_client.delete(REGISTRY)
        redis_client.rename(list_of(claimed[1]), f"{{{KEY}}}:claim:nameless")
        assert worker("w2").rescue() == 2
        adopted = [taken(worker("w2").adopt()) for _ in range(2)]
    finally:
        redis_client.config_set("maxmemory", "0")

    assert sorted(each.messages for each in adopted) == [[each] for each in numbered(2)]
    assert last(redis_client) == max(map(ms, adopted)) > ms(claimed[1])


# ack


def test_an_acknowledged_claim_leaves_nothing(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    source = worker()

    taken(source.claim()).ack()

    assert left(redis_client) == []
    assert source.claimed_elsewhere() == 0


def test_acknowledging_a_claim_leaves_the_others_alone(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(4))
    source = worker(batch_size=2)
    first, second = taken(source.claim()), taken(source.claim())

    second.ack()

    assert set(left(redis_client)) == {REGISTRY.encode(), list_of(first).encode()}
    assert redis_client.zrange(REGISTRY, 0, -1) == [f"{first.batch_id}@w1".encode()]


def test_acknowledging_a_claim_that_was_adopted_deletes_nothing(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    slow = taken(worker("slow").claim())
    expire(redis_client)
    adopted = taken(worker("quick").adopt())

    with pytest.raises(LeaseLost):
        slow.ack()

    assert redis_client.lrange(list_of(adopted), 0, -1) == numbered(3)
    assert redis_client.zrange(REGISTRY, 0, -1) == [f"{adopted.batch_id}@quick".encode()]
    adopted.ack()
    assert left(redis_client) == []


def test_a_claim_is_acknowledged_once(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    claim = taken(worker().claim())
    claim.ack()

    with pytest.raises(LeaseLost):
        claim.ack()


# renew, give back


def test_a_renewed_lease_begins_anew(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(4))
    source = worker("w1", batch_size=2)
    source.claim()
    source.claim()
    expire(redis_client)
    before = server_ms(redis_client)

    source.renew_all()

    deadlines = [deadline for _, deadline in redis_client.zrange(REGISTRY, 0, -1, withscores=True)]
    assert len(deadlines) == 2
    assert min(deadlines) >= before + LEASE_MS
    assert worker("w2").adopt() is None


def test_renewing_a_claim_that_was_adopted_does_not_take_it_back(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    slow, quick = worker("slow"), worker("quick")
    claim = taken(slow.claim())
    expire(redis_client)
    taken(quick.adopt())
    entries = redis_client.zrange(REGISTRY, 0, -1, withscores=True)

    slow.renew_all()
    assert slow.claimed_elsewhere() == 1
    claim.give_back()

    assert redis_client.zrange(REGISTRY, 0, -1, withscores=True) == entries


def test_renewing_a_claim_that_is_done_does_not_bring_it_back(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    source = worker()
    claim = taken(source.claim())
    claim.ack()

    source.renew_all()
    claim.give_back()

    assert left(redis_client) == []


def test_a_claim_that_is_given_back_is_anybodys_at_once(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    claim = taken(worker("w1").claim())
    other = worker("w2")
    assert other.adopt() is None

    claim.give_back()

    adopted = taken(other.adopt())
    assert (adopted.batch_id, adopted.messages, adopted.adopted) == (claim.batch_id, claim.messages, True)


def test_all_claims_in_hand_are_given_back_at_once(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(6))
    source, other = worker("w1", batch_size=2), worker("w2")
    held = [taken(source.claim()) for _ in range(3)]
    held.pop().ack()

    source.give_back_all()

    assert {taken(other.adopt()).batch_id for _ in range(2)} == {claim.batch_id for claim in held}
    assert other.adopt() is None
    source.renew_all()
    assert {member.rpartition(b"@")[2] for member in redis_client.zrange(REGISTRY, 0, -1)} == {b"w2"}


# adopt


def test_a_claim_is_adopted_in_place_once_its_lease_has_run_out(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(5_000))
    claim = taken(worker("dead", lease_ms=200).claim())
    heir = worker("heir", batch_size=10)

    adopted: list[Claim] = []

    def one_is_adopted() -> bool:
        adopted.extend(filter(None, [heir.adopt()]))
        return bool(adopted)

    eventually(one_is_adopted)

    assert server_ms(redis_client) - LEASE_MS < redis_client.zscore(REGISTRY, f"{claim.batch_id}@heir")
    assert (adopted[0].batch_id, adopted[0].messages) == (claim.batch_id, numbered(5_000))
    assert adopted[0].adopted
    assert redis_client.zcard(REGISTRY) == 1
    adopted[0].ack()
    assert left(redis_client) == []


def test_a_lease_that_has_not_run_out_is_left_alone(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(3))
    taken(worker("busy").claim())
    (member,) = redis_client.zrange(REGISTRY, 0, -1)
    redis_client.zadd(REGISTRY, {member: server_ms(redis_client) + 10_000})
    entries = redis_client.zrange(REGISTRY, 0, -1, withscores=True)

    assert worker("heir").adopt() is None
    assert redis_client.zrange(REGISTRY, 0, -1, withscores=True) == entries


def test_a_lease_that_is_renewed_while_it_is_being_adopted_is_left_alone(
    worker: Workers, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(redis_client, KEY, numbered(3))
    busy, heir = worker("busy"), worker("heir")
    taken(busy.claim())
    expire(redis_client)
    look = redis.Redis.zrangebyscore

    def look_and_be_late(*arguments: Any, **options: Any) -> Any:
        found = look(*arguments, **options)
        busy.renew_all()
        return found

    monkeypatch.setattr(redis.Redis, "zrangebyscore", look_and_be_late)

    assert heir.adopt() is None
    assert heir.claimed_elsewhere() == 1


def test_abandoned_claims_are_adopted_one_by_one_by_whoever_comes(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(60))
    dead = worker("dead", batch_size=2)
    abandoned = {taken(dead.claim()).batch_id for _ in range(30)}
    expire(redis_client)
    heirs = [worker(f"heir{number}") for number in range(3)]
    adopted: list[UUID] = []

    def adopt_all(source: Source) -> None:
        while claim := source.adopt():
            adopted.append(claim.batch_id)

    in_threads(adopt_all, heirs)

    assert len(adopted) == 30
    assert set(adopted) == abandoned


def test_a_worker_that_comes_back_adopts_its_claims_before_the_lease_ends(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(6))
    first_life = worker("w1", batch_size=2)
    left = {claim.batch_id: claim.messages for claim in (taken(first_life.claim()) for _ in range(2))}
    taken(worker("w2", batch_size=2).claim())

    second_life = worker("w1")
    adopted = [taken(second_life.adopt_own()) for _ in range(2)]

    assert {claim.batch_id: claim.messages for claim in adopted} == left
    assert second_life.adopt_own() is None


def test_a_worker_never_adopts_what_it_holds(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(4))
    source = worker("w1", batch_size=2)
    first = taken(source.claim())
    taken(source.claim())

    assert source.adopt_own() is None
    assert source.adopt() is None
    first.give_back()
    assert taken(source.adopt_own()).batch_id == first.batch_id


def test_what_was_put_off_is_left_alone_until_its_lease_is_over(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(2))
    source = worker("w1", batch_size=1)
    off, other = taken(source.claim()), taken(source.claim())
    off.put_off()
    other.give_back()

    assert taken(source.adopt_own()).batch_id == other.batch_id
    assert source.adopt_own() is source.adopt() is None
    expire(redis_client)
    again = taken(source.adopt())
    assert again.batch_id == off.batch_id
    again.give_back()
    assert taken(source.adopt_own()).batch_id == off.batch_id


def test_a_worker_never_adopts_what_it_is_claiming(
    worker: Workers, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(redis_client, KEY, numbered(2))
    source = worker("w1")
    original, is_made, may_go_on = source.client.lrange, threading.Event(), threading.Event()

    def late(*words: Any) -> Any:
        is_made.set()
        assert may_go_on.wait(10)
        return original(*words)

    monkeypatch.setattr(source.client, "lrange", late)
    with ThreadPoolExecutor(3) as pool:
        claiming = pool.submit(source.claim)
        assert is_made.wait(10)
        expire(redis_client)
        adopting = [pool.submit(adopt) for adopt in (source.adopt_own, source.adopt)]
        time.sleep(0.2)
        may_go_on.set()
        assert taken(claiming.result()).messages == numbered(2)
        assert [each.result() for each in adopting] == [None, None]


@pytest.mark.parametrize(
    ("name", "other"), [("w-1", "w-10"), ("w-1", "w"), ("w", "W"), ("a@b", "b"), ("a@b", "a"), ("ü", "u")]
)
def test_a_worker_is_known_by_its_whole_name(worker: Workers, redis_client: Any, name: str, other: str) -> None:
    push(redis_client, KEY, numbered(1))
    claim = taken(worker(name).claim())

    assert worker(other).adopt_own() is None
    assert taken(worker(name).adopt_own()).batch_id == claim.batch_id


def test_entries_that_are_not_ours_are_passed_over_and_kept(worker: Workers, redis_client: Any) -> None:
    foreign: list[bytes] = [b"", b"@", b"@w1", b"garbage", b"no-uuid@w1", b"\xff\xfe@w1", b"{}" * 20]
    redis_client.zadd(REGISTRY, dict.fromkeys(foreign, 0))
    push(redis_client, KEY, numbered(1))
    claim = taken(worker("w1").claim())
    back = worker("w1")

    adopted = taken(back.adopt_own())
    assert adopted.batch_id == claim.batch_id
    assert back.adopt_own() is None
    expire(redis_client)
    assert taken(worker("w2").adopt()).batch_id == claim.batch_id
    assert worker("w3").adopt() is None

    assert set(redis_client.zrange(REGISTRY, 0, -1)) == {*foreign, f"{claim.batch_id}@w2".encode()}


def test_an_entry_whose_list_is_gone_is_cleared_away(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(2))
    dead = worker("dead", batch_size=1)
    hollow, whole = taken(dead.claim()), taken(dead.claim())
    redis_client.delete(list_of(hollow))
    expire(redis_client)
    redis_client.zadd(REGISTRY, {f"{hollow.batch_id}@dead": 1})  # the one that comes first

    assert taken(worker("heir").adopt()).batch_id == whole.batch_id
    assert redis_client.zrange(REGISTRY, 0, -1) == [f"{whole.batch_id}@heir".encode()]


# rescue


def test_lists_that_no_entry_names_are_adopted_as_what_they_were(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(9))
    dead = worker("dead", batch_size=3)
    orphans = [taken(dead.claim()) for _ in range(2)]
    redis_client.delete(REGISTRY)
    held = taken(dead.claim())
    heir = worker("heir")

    assert heir.rescue() == 2

    assert heir.rescue() == 0
    adopted = [taken(heir.adopt()) for _ in range(2)]
    assert heir.adopt() is None
    assert sorted(claim.messages for claim in adopted) == [claim.messages for claim in orphans]
    # A batch_id never names other messages: so the ledger knows by it whether they were loaded.
    assert sorted(claim.batch_id for claim in adopted) == [claim.batch_id for claim in orphans]
    for claim in (*adopted, held):
        claim.ack()
    assert left(redis_client) == []


def test_an_orphan_without_a_time_in_its_name_gets_the_next(worker: Workers, redis_client: Any) -> None:
    names = ["x", str(uuid7(5)).upper(), "00000000-0000-4000-8000-000000000000", str(uuid7(claims.LATEST_MS)), "ü\n"]
    for name in names:
        redis_client.rpush(f"{{{KEY}}}:claim:{name}", name)
    push(redis_client, KEY, [b"first", b"then"])
    source = worker(batch_size=1)
    before = ms(source.claim())

    assert source.rescue() == len(names)

    adopted = [taken(source.adopt()) for _ in names]
    assert {claim.messages[0].decode() for claim in adopted} == set(names)
    assert len({before, *map(ms, adopted)}) == len(names) + 1
    assert before < min(map(ms, adopted))
    assert ms(source.claim()) > max(map(ms, adopted))


def test_only_lists_named_like_claims_of_this_source_are_rescued(worker: Workers, redis_client: Any) -> None:
    name = str(new_id())
    redis_client.set(f"{{{KEY}}}:claim:{name}", "a string")
    redis_client.sadd(f"{{{KEY}}}:claim:set", "a set")
    redis_client.rpush(f"{{{KEY}}}:claims:x", "a list of somebody else's")
    redis_client.rpush(f"{{{KEY}x}}:claim:{name}", "a claim of another source")
    redis_client.rpush(f"x{{{KEY}}}:claim:{name}", "and of yet another")
    before = set(left(redis_client))

    assert worker().rescue() == 0
    assert set(left(redis_client)) == before


@pytest.mark.parametrize("key", ["calls*", "calls?", "calls[1-9]", "calls[^a]", "calls\\", "calls\\*", "^calls-"])
def test_a_key_of_wildcards_means_itself(worker: Workers, redis_client: Any, key: str) -> None:
    decoys = [
        f"{{{other}}}:claim:{new_id()}" for other in ("callsx", "calls1", "calls", "calls*x", "calls\\x", "calls-")
    ]
    for decoy in decoys:
        redis_client.rpush(decoy, "of another source")
    push(redis_client, key, [b"ours"])
    taken(worker(key=key).claim())
    redis_client.delete(f"{{{key}}}:claims")
    source = worker(key=key)

    assert source.rescue() == 1
    assert taken(source.adopt()).messages == [b"ours"]
    assert redis_client.exists(*decoys) == len(decoys)


def test_orphans_are_rescued_once_however_many_try(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(20))
    dead = worker("dead", batch_size=1)
    for _ in range(20):
        taken(dead.claim())
    redis_client.delete(REGISTRY)
    rescued: list[int] = []

    in_threads(lambda source: rescued.append(source.rescue()), [worker(f"w{number}") for number in range(3)])

    assert sum(rescued) == 20
    assert redis_client.zcard(REGISTRY) == 20
    heir = worker("heir")
    adopted = [taken(heir.adopt()).messages for _ in range(20)]
    assert sorted(message for (message,) in adopted) == sorted(numbered(20))


# what is told


def test_claims_of_others_are_counted_and_own_ones_not(worker: Workers, redis_client: Any) -> None:
    push(redis_client, KEY, numbered(5))
    source, other = worker("w1", batch_size=1), worker("w2", batch_size=1)
    source.claim()
    other.claim()
    other.claim()

    assert (source.claimed_elsewhere(), other.claimed_elsewhere(), source.waiting()) == (2, 1, 2)


def in_threads(work: Callable[[Source], object], sources: list[Source]) -> None:
    failures: list[BaseException] = []

    def run(source: Source) -> None:
        try:
            work(source)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
