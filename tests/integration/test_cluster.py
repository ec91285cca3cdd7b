"""The whole way of a message on a Redis Cluster: three nodes, and three source lists of which each lies on another."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from etl.errors import ConfigurationError, Outage
from etl.ids import unix_ms_of
from etl.inbox.claims import Source
from etl.inbox.connection import connect
from etl.inbox.producer import push
from etl.lab.servers.private import PrivateCluster
from etl.settings import SourceSettings
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive, cdr, eventually, left

KEYS = (CAMPAIGNS, CDRS, CLICK2DIAL)
APPLICATION = f"{{{CAMPAIGNS}}}:application"


@pytest.fixture
def client(cluster: PrivateCluster) -> Iterator[Any]:
    """A client of an empty cluster."""
    with connect(cluster.url, cluster=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def clustered(cluster: PrivateCluster, client: Any, database_url: str) -> Iterator[Archive]:
    with Archive(cluster.url, database_url, client, more={"redis_cluster": True, "redis_name": "cluster"}) as world:
        yield world


def source(client: Any, key: str, worker: str = "w1", **options: Any) -> Source:
    return Source(client, key, worker=worker, **options)


def test_the_three_lists_lie_on_three_nodes(client: Any) -> None:
    assert len({client.get_node_from_key(key).port for key in KEYS}) == 3


def test_a_run_loads_every_list_and_abandoned_and_orphaned_claims(clustered: Archive, client: Any) -> None:
    clustered.sources = tuple(
        each.model_copy(update={"forward_to": APPLICATION if each.key == CAMPAIGNS else None})
        for each in clustered.sources
    )
    simulated = clustered.run("simulate", "--cdrs", "2000", "--dialect", "both", "--duplicates", "0.1", "--json")
    assert (simulated.returncode, simulated.stderr) == (0, "")
    pushed = json.loads(simulated.stdout)["messages"]
    lengths = {key: client.llen(key) for key in KEYS}
    assert sum(lengths.values()) == pushed
    assert min(lengths.values()) > 100
    of_the_application = client.lrange(CAMPAIGNS, 0, -1)
    for key in KEYS:
        forward = APPLICATION if key == CAMPAIGNS else None
        dead = source(client, key, worker="dead", batch_size=50, forward_to=forward)
        assert dead.claim()
        client.delete(f"{{{key}}}:claims")
        abandoned = dead.claim()
        assert abandoned
        abandoned.give_back()

    result = clustered.run("run", "--json", ETL_BATCH_SIZE="300")

    assert result.returncode == 0
    assert [json.loads(line)["action"] for line in result.stderr.splitlines()] == ["orphans_rescued"] * 3
    books = json.loads(result.stdout)
    assert {key: books["sources"][key]["claimed"] for key in KEYS} == lengths
    assert clustered.value("SELECT count(*) FROM cdrs") == books["total"]["inserted"]
    assert client.lrange(APPLICATION, 0, -1) == of_the_application
    client.delete(APPLICATION)
    assert left(client, target_nodes=client.PRIMARIES) == []
    clustered.assert_books_balance()


@pytest.mark.parametrize("end", ["right", "left"])
@pytest.mark.parametrize("key", KEYS)
def test_a_claim_lives_as_it_does_on_a_single_server(client: Any, key: str, end: Any) -> None:
    first, second = source(client, key, "w1", take_from=end), source(client, key, "w2", take_from=end)
    assert first.waiting() == 0
    push(client, key, [b"1", b"2", b"3"], end)
    assert first.waiting() == 3

    claim = first.claim()
    assert claim
    assert claim.messages == [b"1", b"2", b"3"]
    assert second.adopt() is None
    first.renew_all()
    assert second.claimed_elsewhere() == 1
    claim.give_back()
    adopted = second.adopt()
    assert adopted
    assert (adopted.batch_id, adopted.messages) == (claim.batch_id, claim.messages)
    back = source(client, key, "w2").adopt_own()
    assert back
    back.ack()

    assert left(client, target_nodes=client.PRIMARIES) == []


@pytest.mark.parametrize("key", KEYS)
def test_on_a_cluster_ids_go_on_from_the_last_on_the_lists_own_node(client: Any, key: str) -> None:
    noted = 2 * 10**12  # in 2033
    client.zadd(f"{{{key}}}:last", {"last": noted})
    assert client.get_node_from_key(f"{{{key}}}:last").port == client.get_node_from_key(key).port
    push(client, key, [b"1", b"2"])

    claims = [source(client, key, worker, batch_size=1).claim() for worker in ("w1", "w2")]

    assert [unix_ms_of(claim.batch_id) - noted for claim in claims if claim] == [1, 2]


def test_forwarding_to_another_slot_is_refused_before_anything_moves(clustered: Archive, client: Any) -> None:
    clustered.sources = (SourceSettings(key=CAMPAIGNS, forward_to="application"),)
    clustered.push(cdr(1))

    result = clustered.run("run")

    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"etl: ETL-210: application and {CAMPAIGNS} lie in different slots of the cluster: ")
    assert left(client, target_nodes=client.PRIMARIES) == [CAMPAIGNS.encode()]
    with pytest.raises(ConfigurationError, match="different slots"):
        source(client, CAMPAIGNS, forward_to="application")


def test_a_node_that_is_away_is_an_outage_until_it_is_back(cluster: PrivateCluster, client: Any) -> None:
    port = client.get_node_from_key(CAMPAIGNS).port
    (node,) = (node for node in cluster.nodes if node.port == port)
    with redis.Redis(port=port) as direct:
        direct.config_set(
            "appendfsync", "always"
        )  # until it's killed; else what is acknowledged may not be written yet
    sources = [source(client, key) for key in KEYS]
    here = sources[0]
    for key in KEYS:
        push(client, key, [key.encode()])

    node.kill()
    try:
        for step in (here.claim, here.waiting, here.adopt_own, here.rescue):
            with pytest.raises(Outage):
                step()
    finally:
        node.start()

    eventually(lambda: all(works(each) for each in sources))
    for each in sources:
        claim = each.claim()
        assert claim
        assert claim.messages == [each.key.encode()]
        claim.ack()


def works(source: Source) -> bool:
    try:
        return source.waiting() > 0
    except Outage:
        return False


def test_a_cluster_that_is_away_is_one_line_and_exit_code_1(clustered: Archive) -> None:
    clustered.redis_url = "redis://:hunter2@127.0.0.1:1/0"

    result = clustered.run("run")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "etl: ETL-201: Redis: Error 111 connecting to 127.0.0.1:1. Connection refused.\n"


def test_a_wrong_password_of_a_cluster_is_a_configuration_error(cluster: PrivateCluster, client: Any) -> None:
    url = f"redis://:wrong@127.0.0.1:{cluster.nodes[0].port}/0"
    with redis.Redis(port=cluster.nodes[0].port) as node:
        node.config_set("requirepass", "hunter2")
        try:
            with pytest.raises(ConfigurationError, match="Redis refuses us: invalid username-password pair"):
                connect(url, cluster=True)
        finally:
            node.config_set("requirepass", "")


def test_given_a_slot_that_is_moved_then_it_says_so_and_nothing_is_lost(client: Any, clustered: Archive) -> None:
    """In each state between the first key that is moved and the last."""
    here = client.get_node_from_key(CAMPAIGNS)
    there = next(node for node in client.get_primaries() if node != here)
    slot = client.keyslot(CAMPAIGNS)
    forward = clustered.sources[0].model_copy(update={"forward_to": APPLICATION})
    clustered.sources = [forward]
    messages = [cdr(number) for number in range(100)]
    push(client, CAMPAIGNS, messages)
    loader = source(client, CAMPAIGNS, batch_size=10, forward_to=APPLICATION)
    held = loader.claim()
    assert held
    with redis.Redis(port=here.port) as old, redis.Redis(port=there.port) as new:
        mine, theirs = (_execute(node, "CLUSTER", "MYID") for node in (old, new))
        _execute(new, "CLUSTER", "SETSLOT", slot, "IMPORTING", mine)
        _execute(old, "CLUSTER", "SETSLOT", slot, "MIGRATING", theirs)
        while keys := _execute(old, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            for step in (loader.claim, loader.rescue, loader.adopt_own, loader.waiting):
                _unless_it_is_moved(step)
            _execute(old, "MIGRATE", "127.0.0.1", there.port, keys[0], 0, 5_000)
        for node in (new, old):
            _execute(node, "CLUSTER", "SETSLOT", slot, "NODE", theirs)
        try:
            held.give_back()
            clustered.load()
            assert clustered.value("SELECT count(*) FROM cdrs") == len(messages)
            assert sorted(client.lrange(APPLICATION, 0, -1)) == sorted(messages)
        finally:  # the cluster is others', too
            client.flushall()
            for node in (old, new):
                _execute(node, "CLUSTER", "SETSLOT", slot, "NODE", mine)


def _execute(node: Any, *words: Any) -> Any:
    return node.execute_command(*words)


def _unless_it_is_moved(step: Callable[[], object]) -> None:
    try:
        step()
    except Outage as outage:
        assert outage.code == "ETL-222"  # noqa: PT017 (it needn't be raised)


def test_a_cluster_has_one_database(cluster: PrivateCluster) -> None:
    with pytest.raises(ConfigurationError, match="no database but 0"):
        connect(cluster.url[:-1] + "1", cluster=True)
