"""Redis' replicas: a claim is loaded only when all that follow have it, or the ledger says that it may come again."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from etl.cli import app
from etl.errors import EtlError
from etl.inbox import replicas
from etl.inbox.claims import Claim, Source
from etl.inbox.connection import Client, connect
from etl.inbox.producer import push
from etl.lab.servers.private import PrivateCluster, PrivateRedis
from tests.world import CAMPAIGNS, Archive, cdr, eventually

FOLLOWING = {"repl-diskless-sync-delay": "0"}

Sources = Callable[..., Source]


@contextmanager
def following(primary: PrivateRedis, folder: Path) -> Iterator[PrivateRedis]:
    """A replica of it, which has everything."""
    config = {**FOLLOWING, "replicaof": f"127.0.0.1 {primary.port}"}
    with PrivateRedis(folder, config) as replica, redis.Redis.from_url(primary.url) as client:
        eventually(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        try:
            yield replica
        finally:
            replica.thaw()


@pytest.fixture(scope="module")
def primary(session_folder: Path) -> Iterator[PrivateRedis]:
    with PrivateRedis(session_folder / "followed", FOLLOWING) as server:
        yield server


@pytest.fixture(scope="module")
def the_replica(primary: PrivateRedis, session_folder: Path) -> Iterator[PrivateRedis]:
    with following(primary, session_folder / "follower") as server:
        yield server


@pytest.fixture
def replica(primary: PrivateRedis, the_replica: PrivateRedis) -> Iterator[PrivateRedis]:
    """Which has everything."""
    with redis.Redis.from_url(primary.url) as client:
        client.flushall()
        eventually(lambda: client.wait(1, 1_000) == 1)
        yield the_replica
        the_replica.thaw()


@pytest.fixture
def source(primary: PrivateRedis, replica: PrivateRedis) -> Iterator[Source]:
    with opened(primary.url) as source:
        yield source


@contextmanager
def opened(url: str, cluster: bool = False) -> Iterator[Source]:
    """A worker's view; after it every connection was given back."""
    client: Client = connect(url, cluster)
    try:
        source = Source(client, CAMPAIGNS, worker="w", batch_size=1)
        push(client, CAMPAIGNS, [b"%d" % n for n in range(20)])
        yield source
        source.give_back_all()
        if isinstance(client, redis.Redis):
            assert not client.connection_pool._in_use_connections
    finally:
        client.close()


def taken(claim: Claim | None) -> Claim:
    assert claim is not None
    return claim


def is_replicated(claim: Claim | None) -> bool:
    found = taken(claim).is_replicated()
    taken(claim).ack()
    return found


def test_given_a_replica_that_has_the_claim_then_it_is_replicated(source: Source, replica: PrivateRedis) -> None:
    assert is_replicated(source.claim())


def test_given_a_frozen_replica_then_only_its_own_connection_waits(
    source: Source, primary: PrivateRedis, replica: PrivateRedis
) -> None:
    assert is_replicated(source.claim())
    replica.freeze()

    claim = taken(source.claim())

    with redis.Redis.from_url(primary.url) as another:
        assert another.wait(1, 60_000) == 1  # at once, and it means nothing: nothing was written over it
    assert not claim.is_replicated()


def test_given_a_replica_that_thaws_then_claims_are_replicated_again(source: Source, replica: PrivateRedis) -> None:
    replica.freeze()
    assert not is_replicated(source.claim())
    replica.thaw()
    eventually(lambda: is_replicated(source.claim()))


def test_given_an_adopted_claim_then_it_is_asked_for_too(source: Source, replica: PrivateRedis) -> None:
    taken(source.claim()).give_back()
    replica.freeze()

    assert not is_replicated(source.adopt())


def test_given_a_claim_that_is_given_back_then_its_connection_is_too(source: Source, replica: PrivateRedis) -> None:
    replica.freeze()
    taken(source.claim()).give_back()
    source.claim()  # and the rest at the end of the fixture


def test_given_a_server_that_dies_meanwhile_then_it_is_not_replicated(tmp_path: Path) -> None:
    with (
        PrivateRedis(tmp_path / "first", FOLLOWING) as server,
        following(server, tmp_path / "second") as replica,
        suppress(EtlError),  # the claim can't be given back
        opened(server.url) as source,
    ):
        replica.freeze()
        claim = taken(source.claim())
        server.kill()
        assert not claim.is_replicated()


def test_given_nobody_who_follows_then_nothing_is_waited_for(redis_server: PrivateRedis, redis_client: Any) -> None:
    redis_client.config_resetstat()
    with opened(redis_server.url) as source:
        for _ in range(10):
            assert is_replicated(source.claim())
    calls = {name: each["calls"] for name, each in redis_client.info("commandstats").items()}
    assert "cmdstat_wait" not in calls


def test_given_a_node_of_a_cluster_then_its_replica_is_waited_for(cluster: PrivateCluster, tmp_path: Path) -> None:
    client: Any = connect(cluster.url, cluster=True)
    port = client.get_node_from_key(CAMPAIGNS).port
    client.close()
    node = next(each for each in cluster.nodes if each.port == port)
    with following(node, tmp_path / "of-a-node") as replica, opened(cluster.url, cluster=True) as source:
        assert is_replicated(source.claim())
        replica.freeze()
        assert not is_replicated(source.claim())
        while claim := source.claim():
            claim.ack()


@pytest.mark.parametrize("right", ["wait", "info"])
def test_given_a_missing_right_then_it_is_said_and_loading_goes_on(
    primary: PrivateRedis, replica: PrivateRedis, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "REFUSED_SECONDS", 0)
    with redis.Redis.from_url(primary.url) as client:
        client.acl_setuser("poor", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", f"-{right}"])
        with opened(primary.url.replace("://", "://poor:pw@")) as source:
            assert is_replicated(source.claim()) == (right == "info")  # of whom it doesn't know
            assert source.without == {"wait"}
            client.acl_setuser("poor", enabled=True, keys=["*"], commands=["+@all"])
            assert is_replicated(source.claim())
            assert source.without == set()
        client.acl_deluser("poor")


# in the ledger


@pytest.mark.parametrize("frozen", [True, False])
def test_given_claims_that_replicas_lack_then_the_books_say_so(
    primary: PrivateRedis, replica: PrivateRedis, database_url: str, tmp_path: Path, frozen: bool
) -> None:
    lake = str(tmp_path / "lake")
    with (
        redis.Redis.from_url(primary.url) as client,
        Archive(primary.url, database_url, client, more={"export_url": lake}) as archive,
    ):
        if frozen:
            replica.freeze()
        archive.push(cdr(1))
        archive.load()

        assert archive.rows("SELECT may_repeat FROM load_batches") == [{"may_repeat": frozen}]
        variables = archive.environment(ETL_EXPORT_URL=lake)
        status = json.loads(CliRunner().invoke(app, ["status", "--json"], env=variables).stdout)
        assert status["postgres"]["may_repeat"]["claims"] == frozen
        books = CliRunner().invoke(app, ["reconcile", "--json"], env=variables)
        assert json.loads(books.stdout)["claims_that_may_repeat"] == frozen
        for command in ("status", "reconcile"):
            told = CliRunner().invoke(app, [command], env=variables).stdout
            assert ("not all of Redis' replicas had" in " ".join(told.split())) == frozen
        archive.assert_books_balance()
