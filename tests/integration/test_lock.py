"""One holder at a time, and one that knows, without asking, when it may no longer be sure."""

from typing import Any

import pytest
import redis

from etl.errors import ConfigurationError, Outage
from etl.inbox.connection import connect
from etl.inbox.lock import Lock
from tests.world import eventually

KEY = "lock"


def lock(client: Any, holder: str, lease_seconds: float = 60.0) -> Lock:
    return Lock(client, KEY, holder, lease_seconds)


def test_only_one_holds_it_until_it_releases_it(redis_client: "redis.Redis") -> None:
    one, other = lock(redis_client, "one"), lock(redis_client, "other")
    assert not one.is_held()
    assert one.acquire()
    assert one.is_held()
    assert not other.acquire()
    assert not other.is_held()
    one.release()
    assert not one.is_held()
    assert other.acquire()
    assert not one.acquire()


def test_letting_go_takes_it_from_nobody_else(redis_client: "redis.Redis") -> None:
    one, other = lock(redis_client, "one"), lock(redis_client, "other")
    assert one.acquire()
    other.release()
    assert not other.acquire()
    assert redis_client.get(KEY) == b"one"


def test_renewing_makes_the_lease_anew(redis_client: "redis.Redis") -> None:
    one = lock(redis_client, "one")
    assert one.acquire()
    redis_client.pexpire(KEY, 1_000)
    assert one.acquire()
    assert redis_client.pttl(KEY) > 50_000


def test_a_holder_knows_that_its_lease_ran_out_before_another_gets_it(redis_client: "redis.Redis") -> None:
    for _ in range(5):
        one, other = lock(redis_client, "one", 0.1), lock(redis_client, "other", 0.1)
        eventually(one.acquire)
        eventually(other.acquire)
        assert not one.is_held()
        other.release()


def test_a_holder_that_finds_another_in_its_place_is_none(redis_client: "redis.Redis") -> None:
    one, other = lock(redis_client, "one"), lock(redis_client, "other")
    assert one.acquire()
    redis_client.delete(KEY)
    assert other.acquire()
    assert not one.acquire()
    assert not one.is_held()


def test_who_reaches_nobody_has_not_got_it() -> None:
    with connect("redis://127.0.0.1:1/0") as nowhere:
        one = lock(nowhere, "one")
        with pytest.raises(Outage):
            one.acquire()
        assert not one.is_held()


def test_a_full_redis_lets_the_holder_renew(redis_client: "redis.Redis") -> None:
    one = lock(redis_client, "one")
    assert one.acquire()
    redis_client.config_set("maxmemory", 1)
    try:
        assert one.acquire()
        with pytest.raises(redis.RedisError):
            redis_client.set("other", "1")
    finally:
        redis_client.config_set("maxmemory", 0)


def test_a_key_that_is_no_string_is_named(redis_client: "redis.Redis") -> None:
    redis_client.rpush(KEY, "mine")

    with pytest.raises(ConfigurationError, match="WRONGTYPE: the key lock holds something else than a string"):
        lock(redis_client, "one").acquire()


def test_given_a_lock_made_to_last_for_ever_then_it_ends_with_its_lease(redis_client: "redis.Redis") -> None:
    dead, heir = lock(redis_client, "dead", 0.2), lock(redis_client, "heir", 0.2)
    assert dead.acquire()
    redis_client.persist(KEY)
    assert not heir.acquire()
    eventually(heir.acquire)
