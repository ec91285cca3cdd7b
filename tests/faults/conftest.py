"""Servers that may be killed, frozen and filled: of these tests alone, and running again at the end of each."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from etl.inbox.connection import connect
from etl.lab.servers.private import PrivateCluster, PrivatePostgres, PrivateRedis
from tests.faults import tally
from tests.faults.cluster import LISTS, ClusterTrial
from tests.faults.nursery import Nursery, nursery_in
from tests.faults.sleepers import Sleepers, sleepers_in
from tests.world import Archive, migrate


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tally", type=Path, metavar="FILE", help="write there how many faults the passing tests injected"
    )


def pytest_configure(config: pytest.Config) -> None:
    # With several processes, it's the first that collects the reports.
    file = config.getoption("--tally", None)
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(tally.Book(file))


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tally.counting(request.node, monkeypatch):
        yield


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def _own_postgres(session_folder: Path) -> Iterator[PrivatePostgres]:
    # A killed process takes nothing with it that the kernel has: no fsync is needed for that.
    with PrivatePostgres(session_folder / "own-pg", {"fsync": "off"}) as server:
        migrate(server.url)
        yield server


@pytest.fixture(scope="session")
def _own_redis(session_folder: Path) -> Iterator[PrivateRedis]:
    # So that what it acknowledged is in the file, however busy the disk is.
    with PrivateRedis(session_folder / "own-redis", {"appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def own_postgres(_own_postgres: PrivatePostgres) -> Iterator[PrivatePostgres]:
    yield _own_postgres
    _own_postgres.thaw()
    _own_postgres.start()


@pytest.fixture
def own_redis(_own_redis: PrivateRedis) -> Iterator[PrivateRedis]:
    with redis.Redis.from_url(_own_redis.url) as client:
        client.flushall()
    yield _own_redis
    _own_redis.thaw()
    _own_redis.start()


@pytest.fixture
def own_database(own_postgres: PrivatePostgres) -> str:
    """The name of a migrated, empty database of `own_postgres`."""
    name = f"fault_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(own_postgres.database_url("template1"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE postgres")
    return name


@pytest.fixture
def own_archive(own_postgres: PrivatePostgres, own_database: str, own_redis: PrivateRedis) -> Iterator[Archive]:
    """As `archive`, on servers whose life is the test's."""
    with (
        redis.Redis.from_url(own_redis.url) as client,
        Archive(own_redis.url, own_postgres.database_url(own_database), client) as archive,
    ):
        yield archive


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    cluster = PrivateCluster(tmp_path_factory.mktemp("cluster"))
    for node in cluster.nodes:
        # Else the others refuse everything; and what is acknowledged is to be there after a kill.
        node._config |= {"cluster-require-full-coverage": "no", "appendfsync": "always"}
    with cluster:
        yield cluster


@pytest.fixture
def clustered(own_cluster: PrivateCluster, database_url: str) -> Iterator[Archive]:
    with connect(own_cluster.url, cluster=True) as client:
        administrator: Any = client
        administrator.flushall()
        more = {"redis_cluster": True, "redis_name": "cluster"}
        with Archive(own_cluster.url, database_url, administrator, LISTS, more) as archive:
            yield archive


@pytest.fixture
def cluster_trial(clustered: Archive, own_postgres: PrivatePostgres, own_database: str) -> Iterator[ClusterTrial]:
    url = own_postgres.database_url(own_database)
    with replace(clustered, database_url=url) as archive:
        yield ClusterTrial(archive, own_postgres, own_database)


@pytest.fixture(scope="session")
def nursery(session_folder: Path) -> Iterator[Nursery]:
    with nursery_in(session_folder) as started:
        yield started


@pytest.fixture(scope="session")
def sleepers(session_folder: Path) -> Iterator[Sleepers]:
    with sleepers_in(session_folder) as started:
        yield started


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a worker's log goes; its successors' too."""
    return tmp_path / "worker.log"
