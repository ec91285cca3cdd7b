"""Hundreds of source lists in one process, and file descriptors that run out: all are loaded, none starves."""

import os
import resource
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from etl.app.sources import sources
from etl.app.stores import Stores
from etl.errors import Outage
from etl.ids import uuid7
from etl.inbox.claims import Source
from etl.inbox.connection import connect
from etl.inbox.watch import Watch
from etl.jobs.pool import THREADS
from etl.lab.servers.private import PrivateCluster, PrivateRedis
from etl.settings import SourceSettings
from etl.store.connection import connect as connect_postgres
from tests.benchmarks.figures import cpu_seconds
from tests.faults.gate import closed_gate
from tests.faults.worker import Worker
from tests.scrape import address, get
from tests.world import CAMPAIGNS, Archive, cdr, eventually

MANY = 300
IDLE_SECONDS = 4.0


def lists(number: int) -> tuple[SourceSettings, ...]:
    return tuple(SourceSettings(key=f"{CAMPAIGNS}:{n}", source=f"dialler-{n}") for n in range(number))


def fill(archive: Archive, each: int = 2) -> None:
    for n, source in enumerate(archive.sources):
        archive.push(*(cdr(f"{n} {call}") for call in range(each)), key=source.key)


def stored(archive: Archive) -> int:
    return int(archive.value("SELECT count(*) FROM cdrs"))


def clients(archive: Archive) -> int:
    told: Any = archive.redis.info("clients")
    return int(told["connected_clients"])


def test_three_hundred_lists_are_loaded_by_one_process(own_archive: Archive, log: Path) -> None:
    own_archive.sources = lists(MANY)
    before = clients(own_archive)
    with Worker(own_archive, log) as worker:
        fill(own_archive)
        eventually(lambda: stored(own_archive) == 2 * MANY, seconds=60)
        fill(own_archive, each=3)  # a third call for each list, and two that are known
        eventually(lambda: stored(own_archive) == 3 * MANY, seconds=60)
        assert worker.count("outage_began") == 0
        assert clients(own_archive) - before < 20
        assert len(os.listdir(f"/proc/{worker.pid}/task")) < 20
        assert worker.stop() == 0
    own_archive.assert_books_balance()


def test_three_hundred_lists_at_rest_take_a_twentieth_of_a_core(own_archive: Archive, log: Path) -> None:
    own_archive.sources = lists(MANY)
    with Worker(own_archive, log) as worker:
        fill(own_archive)
        eventually(lambda: stored(own_archive) == 2 * MANY, seconds=60)
        looks = lengths_asked(own_archive)
        spent = cpu_seconds(worker.pid)
        eventually(lambda: lengths_asked(own_archive) - looks >= MANY * IDLE_SECONDS / 0.25)
        assert cpu_seconds(worker.pid) - spent < 0.05 * IDLE_SECONDS


def lengths_asked(archive: Archive) -> int:
    stats: Any = archive.redis.info("commandstats")
    return int(stats["cmdstat_llen"]["calls"])


def test_a_list_with_little_is_loaded_while_others_have_much(own_archive: Archive, log: Path) -> None:
    own_archive.sources = lists(12)
    own_archive.more = {"batch_size": 5}
    *busy, last = own_archive.sources
    with Worker(own_archive, log) as worker:
        worker.wait_for("started")
        for n, source in enumerate(busy):
            own_archive.push(*(cdr(f"{n} {call}") for call in range(2_000)), key=source.key)
        own_archive.push(cdr("the only one"), key=last.key)
        eventually(lambda: own_archive.value("SELECT count(*) FROM cdrs WHERE call_ref = 'the only one'"), seconds=60)
        assert all(own_archive.redis.llen(source.key) for source in busy)


def test_only_a_list_whose_thread_hangs_is_called_silent(archive: Archive, log: Path) -> None:
    archive.sources = lists(THREADS + 3)
    quick = {"etl.app.gauges.LOOK_EVERY_SECONDS": 0.1, "etl.app.monitor.STUCK_SECONDS": 3.0}
    with closed_gate(archive) as gate, Worker(archive, log, constants=quick, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        fill(archive)
        gate.wait_for(arrivals=THREADS)
        eventually(lambda: get(at, "/healthz").status == 503)
        silent = get(at, "/healthz").body.removeprefix("the loader of ").partition(" has been silent for ")[0]
        assert archive.claims(silent)
        gate.open()
        eventually(lambda: get(at, "/healthz").status == 200)
        eventually(lambda: stored(archive) == 2 * len(archive.sources))


def test_claims_of_each_list_are_written_in_their_order(own_archive: Archive, log: Path) -> None:
    own_archive.sources = lists(9)
    own_archive.more = {"batch_size": 4, "linger_ms": 0}
    with Worker(own_archive, log):
        for call in range(40):
            for source in own_archive.sources:
                own_archive.push(cdr("one", call_time=call), key=source.key)
        query = "SELECT count(*) FROM cdrs WHERE call_time = 39"
        eventually(lambda: own_archive.value(query) == len(own_archive.sources), seconds=60)
        eventually(lambda: not any(own_archive.claims(source.key) for source in own_archive.sources))
    assert own_archive.value("SELECT count(*) FROM cdr_revisions WHERE batch_id > replaced_by") == 0
    own_archive.assert_books_balance()


def test_a_claim_that_died_with_its_worker_is_adopted_from_a_list_at_rest(own_archive: Archive, log: Path) -> None:
    own_archive.sources = lists(40)
    with Worker(own_archive, log) as worker:
        worker.wait_for("started")
        fill(own_archive, each=1)
        eventually(lambda: stored(own_archive) == 40)
        abandon(own_archive, own_archive.sources[7].key, cdr("abandoned"))
        eventually(lambda: own_archive.value("SELECT count(*) FROM cdrs WHERE call_ref = 'abandoned'"))
        assert worker.stop() == 0  # Postgres has it before Redis hears of that: who kills it may leave the claim
    own_archive.assert_books_balance()


def abandon(archive: Archive, key: str, *messages: bytes) -> None:
    """A claim whose worker is gone and whose lease has run out."""
    batch_id = uuid7(time.time_ns() // 1_000_000)
    with archive.redis.pipeline() as transaction:
        transaction.rpush(f"{{{key}}}:claim:{batch_id}", *messages)
        transaction.zadd(f"{{{key}}}:claims", {f"{batch_id}@another": 0})
        transaction.execute()


def limited(descriptors: int) -> tuple[str, ...]:
    return "/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"


def test_few_descriptors_are_told_at_the_start_and_suffice(own_archive: Archive, log: Path) -> None:
    own_archive.sources = lists(40)
    with Worker(own_archive, log, wrapper=limited(64)) as worker:
        fill(own_archive)
        eventually(lambda: stored(own_archive) == 80, seconds=60)
        [told] = worker.lines("few_file_descriptors")
        assert told["limit"] == 64
        assert 1 <= told["threads"] < told["wanted"]
        assert worker.count("outage_began") == 0
        assert worker.stop() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system can't limit another process")
def test_descriptors_that_run_out_later_are_an_outage(own_archive: Archive, own_redis: PrivateRedis, log: Path) -> None:
    with Worker(own_archive, log) as worker:
        own_archive.push(cdr(1))
        worker.wait_for("loaded")
        _, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, hard))
        own_archive.redis.client_kill_filter(_type="normal", skipme=True)
        worker.wait_for("outage_began")
        own_archive.push(cdr(2))
        assert worker.process.poll() is None
        assert worker.count("outage_ended") == 0  # it can't have: no descriptor below this limit is free
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (hard, hard))
        eventually(lambda: stored(own_archive) == 2)
        worker.wait_for("outage_ended")
        assert worker.stop() == 0
    own_archive.assert_books_balance()


def test_the_lists_of_a_lost_node_do_not_keep_the_others_waiting(tmp_path: Path) -> None:
    with PrivateCluster(tmp_path / "cluster") as cluster, connect(cluster.url, cluster=True) as client:
        settings = Archive(cluster.url, "postgresql://nobody@localhost/none", client, sources=lists(30)).settings(
            redis_cluster=True, redis_name="cluster"
        )
        watched = sources(settings, Stores(client, connect_postgres(settings.sqlalchemy_url)))
        for source in watched:
            client.lpush(source.key, *range(3))
        watch = Watch(client, watched)
        assert set(watch.waiting()) == {3}
        lost, *_ = cluster.nodes
        os.kill(lost.pid, signal.SIGKILL)
        answers = watch.waiting()
        assert 3 in answers
        assert [answer for answer in answers if answer != 3]


def test_nobody_waits_twice_for_a_node_that_does_not_answer(tmp_path: Path) -> None:
    keys = {f"{CAMPAIGNS}:{n}" for n in range(30)}
    servers = PrivateCluster(tmp_path / "cluster")
    for node in servers.nodes:
        node._config["cluster-require-full-coverage"] = "no"
    with servers as cluster, connect(cluster.url, cluster=True) as client:
        watch = Watch(client, [Source(client, key, worker="test") for key in sorted(keys)])
        assert set(watch.waiting()) == {0}
        lost, *_ = cluster.nodes
        lost.freeze()
        try:
            assert away_in(watch.waiting())
            assert away_in(watch.waiting())
            assert "watch of a node that is away" in {thread.name for thread in threading.enumerate()}
        finally:
            lost.thaw()
        eventually(lambda: set(watch.waiting()) == {0})


def away_in(answers: Sequence[object]) -> bool:
    return 0 in answers and any(isinstance(answer, Outage) for answer in answers)
