"""Redis dies, fills up or changes its role: nothing that it acknowledged is lost, and nothing takes effect twice."""

from pathlib import Path
from typing import Any

import pytest
import redis

from etl.lab.servers.private import PrivateRedis
from tests.faults.dialler import Dialler
from tests.faults.gate import closed_gate
from tests.faults.sample import SEED, SMALL_CLAIMS
from tests.faults.worker import Worker
from tests.world import Archive, cdr, eventually


def test_redis_restarted_under_load_is_waited_for_and_costs_nothing(
    own_archive: Archive, own_redis: PrivateRedis, log: Path
) -> None:
    own_archive.more = SMALL_CLAIMS
    dialler = Dialler(own_archive, SEED)
    with Worker(own_archive, log) as worker, dialler.speaking():
        for _ in range(3):
            worker.wait_for_more("loaded", 20)
            with worker.told_more("outage_began"):
                own_redis.kill()
            own_redis.start()
            eventually(lambda: worker.count("outage_ended") == worker.count("outage_began"))
        worker.wait_for_more("loaded", 20)
        assert all("Redis" in line["error"] for line in worker.lines("outage_began"))
    own_archive.load()
    dialler.assert_all_took_effect_once()


def test_a_full_redis_is_emptied_by_the_loader(own_archive: Archive, own_redis: PrivateRedis) -> None:
    own_archive.sources = own_archive.sources[:1]
    backlog = [cdr(n) for n in range(2_000)]
    own_archive.push(*backlog)
    own_archive.redis.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            own_archive.push(cdr("refused"))
        assert own_archive.load(batch_size=1_000).inserted == len(backlog)
    finally:
        own_archive.redis.config_set("maxmemory", "0")
    own_archive.assert_books_balance()


def test_a_redis_that_fills_up_during_an_outage_is_emptied_afterwards(
    own_archive: Archive, own_redis: PrivateRedis, log: Path
) -> None:
    """After a claim that isn't full, the loader would rest until something comes."""
    with Worker(own_archive, log) as worker, closed_gate(own_archive) as gate:
        own_archive.push(cdr("first"))
        gate.wait_for(1)
        own_archive.push(*[cdr(n) for n in range(2_000)])
        own_archive.redis.config_set("maxmemory", "1")
        try:
            gate.open()
            eventually(lambda: own_archive.value("SELECT count(*) FROM cdrs") == 2_001)
            assert worker.count("outage_began") == 0
            assert worker.stop() == 0
        finally:
            own_archive.redis.config_set("maxmemory", "0")
    own_archive.assert_books_balance()


def test_a_full_redis_is_nothing_to_a_loader_that_has_nothing_to_do(
    own_archive: Archive, own_redis: PrivateRedis, log: Path
) -> None:
    own_archive.redis.set("somebody else's", b"x" * 2_000_000)
    with Worker(own_archive, log) as worker:
        worker.wait_for("started")
        own_archive.redis.config_set("maxmemory", "1mb")
        try:
            looked = lengths_asked(own_archive)
            eventually(lambda: lengths_asked(own_archive) > looked + 10)
        finally:
            own_archive.redis.config_set("maxmemory", "0")
        own_archive.push(cdr(1))
        worker.wait_for("loaded")
        assert worker.count("outage_began") == 0
    own_archive.assert_books_balance()


def lengths_asked(archive: Archive) -> int:
    stats: Any = archive.redis.info("commandstats")
    return int(stats["cmdstat_llen"]["calls"])


def test_a_redis_that_becomes_a_replica_is_waited_for_and_costs_nothing(
    own_archive: Archive, own_redis: PrivateRedis, log: Path
) -> None:
    own_archive.more = SMALL_CLAIMS
    dialler = Dialler(own_archive, SEED)
    with Worker(own_archive, log) as worker, dialler.speaking():
        worker.wait_for("loaded", times=10)
        own_archive.redis.replicaof("127.0.0.1", "1")
        try:
            worker.wait_for("outage_began")
        finally:
            own_archive.redis.replicaof("NO", "ONE")
        worker.wait_for_more("loaded", 10)
    own_archive.load()
    dialler.assert_all_took_effect_once()
