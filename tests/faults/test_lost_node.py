"""A cluster that has lost a node: the lists of the others are loaded, by who runs and by who starts, and when the node
is back everything is there, once (promise 10)."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from etl.keys import SPOOL
from etl.lab.servers.private import PrivateCluster, PrivateRedis
from tests.faults.cluster import LISTS
from tests.faults.worker import Worker
from tests.scrape import address, get, samples
from tests.world import Archive, cdr, eventually

KEYS = {each.key for each in LISTS}
PATIENT = 120.0  # seconds: a node that doesn't answer costs a timeout at every look
QUICK = {
    "etl.app.gauges.LOOK_EVERY_SECONDS": 0.2,
    "etl.app.load.DRAIN_PATIENCE_SECONDS": 1.0,
    "etl.jobs.loader.ADOPT_EVERY_SECONDS": 0.5,
}


class Loss:
    """One of the nodes, and which lists it has."""

    def __init__(self, archive: Archive, cluster: PrivateCluster, number: int, how: str) -> None:
        client: Any = archive.redis
        self.node: PrivateRedis = cluster.nodes[number]
        self._how = how
        owners = {key: client.get_node_from_key(key).port for key in {*KEYS, SPOOL}}
        self.away = {key for key, port in owners.items() if port == self.node.port}
        self.lists = KEYS & self.away
        self.others = KEYS - self.away
        # Of one that stays.
        archive.redis_url = cluster.nodes[(number + 1) % len(cluster.nodes)].url

    def __enter__(self) -> "Loss":
        self.node.kill() if self._how == "killed" else self.node.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        self.node.start() if self._how == "killed" else self.node.thaw()


def pushed(archive: Archive, call_ref: str, key: str) -> bool:
    """False while the cluster finds itself again."""
    try:
        archive.push(cdr(call_ref), key=key)
    except redis.RedisError:
        return False
    return True


def push(archive: Archive, call_ref: str, keys: set[str]) -> None:
    for key in keys:
        eventually(partial(pushed, archive, call_ref, key))


def loaded(archive: Archive, call_ref: str) -> set[str]:
    return {row["source"] for row in archive.rows("SELECT source FROM cdrs WHERE call_ref = %s", call_ref)}


@pytest.fixture(params=range(3))
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def assert_told(archive: Archive, at: str, away: set[str]) -> None:
    def lists() -> set[str]:
        lines = get(at, "/readyz").body.splitlines()
        return {line.removeprefix("list ").partition(": ETL-")[0] for line in lines if line.startswith("list ")}

    eventually(lambda: lists() == away, PATIENT)
    eventually(lambda: samples(at, "etl_redis_up") == {(): float(not away)}, PATIENT)
    found = archive.run("status", "--json")
    told = json.loads(found.stdout)["redis"]["lists"]
    assert {each["source_key"] for each in told if each["is_away"] and each["broken"]} == away
    assert found.returncode == int(bool(away))


def test_given_a_node_lost_in_mid_run_then_others_lists_are_loaded(
    clustered: Archive, own_cluster: PrivateCluster, log: Path, number: int
) -> None:
    loss = Loss(clustered, own_cluster, number, "killed")
    with Worker(clustered, log, constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        push(clustered, "first", KEYS)
        eventually(lambda: loaded(clustered, "first") == KEYS)
        with loss:
            push(clustered, "second", loss.others)
            eventually(lambda: loaded(clustered, "second") == loss.others, PATIENT)
            assert_told(clustered, at, loss.away)
        push(clustered, "second", loss.lists)
        eventually(lambda: loaded(clustered, "second") == KEYS, PATIENT)
        assert_told(clustered, at, set())
        assert worker.stop() == 0


def test_given_a_node_lost_before_the_start_then_it_starts(
    clustered: Archive, own_cluster: PrivateCluster, log: Path, number: int
) -> None:
    loss = Loss(clustered, own_cluster, number, "killed")
    push(clustered, "first", KEYS)
    with loss:
        with Worker(clustered, log, constants=QUICK, listen=True):
            eventually(lambda: loaded(clustered, "first") == loss.others, PATIENT)
        with Worker(clustered, log, constants=QUICK, follow=False) as run:
            assert run.wait() == 1
            assert "etl: ETL-407: not every list could be loaded: " in run.log()
            assert {line["source_key"] for line in run.lines("list_broken")} == loss.away
    eventually(lambda: clustered.run("run").returncode == 0, PATIENT)
    assert loaded(clustered, "first") == KEYS


def test_given_a_frozen_node_then_the_others_lists_are_loaded(
    clustered: Archive, own_cluster: PrivateCluster, log: Path
) -> None:
    loss = Loss(clustered, own_cluster, 0, "frozen")
    push(clustered, "first", KEYS)
    with loss, Worker(clustered, log, constants=QUICK) as worker:
        eventually(lambda: loaded(clustered, "first") == loss.others, PATIENT)
        push(clustered, "second", loss.others)
        eventually(lambda: loaded(clustered, "second") == loss.others, PATIENT)
        loss.__exit__()
        push(clustered, "second", loss.lists)
        eventually(lambda: loaded(clustered, "first") == loaded(clustered, "second") == KEYS, PATIENT)
        assert worker.stop() == 0
