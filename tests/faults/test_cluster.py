"""A cluster under load: its slots move to another node, and a master without a replica is killed. Nothing is lost and
nothing takes effect twice (promises 1 and 2)."""

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from etl.keys import SPOOL
from etl.lab.servers.private import PrivateCluster
from tests.faults import tally
from tests.faults.cluster import LISTS, ClusterTrial
from tests.faults.worker import Worker

QUICK = {"etl.app.load.DRAIN_PATIENCE_SECONDS": 1.0, "etl.jobs.loader.ADOPT_EVERY_SECONDS": 0.5}
SLOTS_MOVED = 2  # times each: away, and back


def reshard(trial: ClusterTrial, cluster: PrivateCluster) -> None:
    """Every list, with its claims and what is kept of it, and the spool go to the next node."""
    client: Any = trial.archive.redis
    for key in (*(each.key for each in LISTS), SPOOL):
        nodes = cycle(cluster.nodes)
        port = client.get_node_from_key(key).port
        source = next(node for node in nodes if node.port == port)
        cluster.move_slot(client.keyslot(key), source, next(nodes))
        client.nodes_manager.initialize()
        tally.note("move a slot", "cluster", "while loading")


def test_given_slots_that_move_under_load_then_each_takes_effect_once(
    cluster_trial: ClusterTrial, own_cluster: PrivateCluster, log: Path
) -> None:
    with Worker(cluster_trial.archive, log, constants=QUICK) as worker:
        with cluster_trial.speaking():
            for _ in range(SLOTS_MOVED):
                cluster_trial.wait_for_more(100)
                reshard(cluster_trial, own_cluster)
            cluster_trial.wait_for_more(100)
        cluster_trial.assert_nothing_is_lost_or_doubled()
        assert worker.stop() == 0


@pytest.mark.parametrize("number", range(3))
def test_given_a_master_killed_under_load_then_each_takes_effect_once(
    cluster_trial: ClusterTrial, own_cluster: PrivateCluster, log: Path, number: int
) -> None:
    node = own_cluster.nodes[number]
    cluster_trial.archive.redis_url = own_cluster.nodes[(number + 1) % len(own_cluster.nodes)].url
    with Worker(cluster_trial.archive, log, constants=QUICK) as worker:
        with cluster_trial.speaking():
            cluster_trial.wait_for_more(100)
            node.kill()
            worker.wait_for("outage_began")
            node.start()
            cluster_trial.wait_for_more(100)
        cluster_trial.assert_nothing_is_lost_or_doubled()
        assert worker.stop() == 0
