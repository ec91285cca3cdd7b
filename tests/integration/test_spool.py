"""The buffer between the listener and the spool list: in order, in groups, bounded, and patient."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import structlog

from etl.inbox import spool
from etl.inbox.connection import connect
from etl.inbox.spool import Spooler
from tests.world import eventually

KEY = "etl:events"
NOWHERE = "redis://127.0.0.1:1/0"


def spooler(client: Any) -> Spooler:
    return Spooler(client, KEY, structlog.get_logger())


@contextmanager
def running(buffer: Spooler, seconds: float = 10.0) -> Iterator[None]:
    """Closed at the end, with so much time for what is left."""
    thread = threading.Thread(target=buffer.run)
    thread.start()
    try:
        yield
    finally:
        buffer.close(seconds)
        thread.join()


def spooled(client: "redis.Redis") -> list[Any]:
    """The oldest first."""
    return list(reversed(client.lrange(KEY, 0, -1)))


def test_what_is_put_in_comes_out_in_its_order(redis_client: "redis.Redis") -> None:
    records = [str(number).encode() for number in range(3 * spool.GROUP_MESSAGES + 7)]
    buffer = spooler(redis_client)
    with running(buffer):
        for number, record in enumerate(records):
            if number % 100:
                assert buffer.offer([record])
            else:
                buffer.insist(record)
    assert spooled(redis_client) == records


def test_a_single_record_is_not_kept_waiting_for_others(redis_client: "redis.Redis") -> None:
    buffer = spooler(redis_client)
    with running(buffer):
        for number in range(1, 4):
            assert buffer.offer([b"x"])
            eventually(lambda: redis_client.llen(KEY) == number)  # noqa: B023


def test_records_go_in_groups_that_are_bounded_by_number_and_bytes(
    redis_client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "GROUP_MESSAGES", 500)
    monkeypatch.setattr(spool, "GROUP_BYTES", 1_000)
    buffer = spooler(redis_client)
    records = [b"x"] * 1_200 + [b"y" * 400] * 5 + [b"z" * 5_000]
    for record in records:
        assert buffer.offer([record])
    redis_client.config_resetstat()
    with running(buffer):
        pass
    assert spooled(redis_client) == records
    pushes = redis_client.info("commandstats")["cmdstat_lpush"]["calls"]
    # 500 + 500 + 200 with two of the five + two + one + the one that is too large for any group
    assert pushes == 6


def test_the_buffer_is_bounded_by_number(redis_client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "CAPACITY_MESSAGES", 10)
    buffer = spooler(redis_client)
    assert [buffer.offer([b"x"]) for _ in range(11)] == [1] * 10 + [0]
    assert not buffer.has_room()
    buffer.insist(b"report")
    with running(buffer):
        eventually(buffer.has_room)
        assert buffer.offer([b"y"])
    assert spooled(redis_client) == [b"x"] * 10 + [b"report", b"y"]


def test_the_buffer_is_bounded_by_bytes(redis_client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "CAPACITY_BYTES", 1_000)
    buffer = spooler(redis_client)
    assert [buffer.offer([b"x" * 400]) for _ in range(3)] == [1, 1, 0]
    assert not buffer.has_room()
    assert buffer.offer([b"x" * 100])
    with running(buffer):
        eventually(buffer.has_room)
    assert redis_client.llen(KEY) == 3


def test_of_many_records_those_are_taken_for_which_there_is_room(
    redis_client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "CAPACITY_MESSAGES", 10)
    monkeypatch.setattr(spool, "CAPACITY_BYTES", 100)
    buffer = spooler(redis_client)
    assert buffer.offer([]) == 0
    assert buffer.offer([b"a" * 90, b"b" * 11, b"c"]) == 1
    assert buffer.offer([b"d" * 10, b"e"]) == 1
    buffer.insist(b"report")
    assert buffer.offer([b"", b"f"]) == 0
    with running(buffer):
        eventually(buffer.has_room)
        assert buffer.offer([b"%d" % number for number in range(11)]) == 10
    numbers = [b"%d" % number for number in range(10)]
    assert spooled(redis_client) == [b"a" * 90, b"d" * 10, b"report", *numbers]


def test_while_redis_refuses_everything_is_kept_and_said_once(redis_client: "redis.Redis") -> None:
    buffer = spooler(redis_client)
    records = [str(number).encode() for number in range(1_000)]
    with structlog.testing.capture_logs() as log, running(buffer):
        redis_client.config_set("maxmemory", 1)
        try:
            for record in records:
                assert buffer.offer([record])
            eventually(lambda: log)
        finally:
            redis_client.config_set("maxmemory", 0)
        eventually(lambda: redis_client.llen(KEY) == len(records))
    assert spooled(redis_client) == records
    assert [line["event"] for line in log] == ["spool_outage_began", "spool_outage_ended"]


def test_a_close_waits_no_longer_than_it_was_told_and_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PUSH_RETRY_SECONDS", 0.01)
    with connect(NOWHERE) as nowhere, structlog.testing.capture_logs() as log:
        buffer = spooler(nowhere)
        with running(buffer, seconds=0.05):
            assert buffer.offer([b"x"])
    assert log[-1] == {"event": "spool_abandoned", "log_level": "error", "records": 1}


def test_given_a_key_that_is_no_list_if_mended_then_all_is_there(redis_client: "redis.Redis") -> None:
    redis_client.set(KEY, "mine")
    buffer = spooler(redis_client)
    with structlog.testing.capture_logs() as log, running(buffer):
        assert buffer.offer([b"x"])
        eventually(lambda: log)
        redis_client.delete(KEY)
        eventually(lambda: redis_client.llen(KEY) == 1)
    assert [line["event"] for line in log] == ["spool_outage_began", "spool_outage_ended"]
    assert log[0]["code"] == "ETL-206"
