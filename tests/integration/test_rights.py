"""Which rights are missing, as `etl check` finds out by trying: on every version of the server, right by right."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from etl.findings import Finding
from etl.inbox import preflight, rights
from etl.inbox.connection import connect
from etl.inbox.rights import Lacking, Needs, SourceList
from etl.lab.servers.private import PrivateCluster, PrivateRedis
from tests.integration.conftest import PASSWORD
from tests.redis_versions import SERVERS, server_of
from tests.world import CAMPAIGNS, CLICK2DIAL

LISTS = [SourceList(CAMPAIGNS, "right", "application"), SourceList(CLICK2DIAL, "left", "odd[key]*")]
NEEDS = Needs(LISTS, "etl:events", ["enigma:notifications:*", "other:[a]*"])
# `check` alone needs these, and says so elsewhere.
OF_THE_CHECK = {"+client|list", "+discard", "+multi"}
# The line that 0.1 printed, for the default lists.
OF_0_1 = (
    f"~{CAMPAIGNS} ~{{{CAMPAIGNS}}}:* ~{CLICK2DIAL} ~{{{CLICK2DIAL}}}:* ~etl:events ~{{etl:events}}:* "
    "&enigma:notifications:* &etl:probe:* +blmove +del +evalsha +exists +get +info +llen +lpush +lrange +ltrim "
    "+memory|usage +pexpire +psubscribe +publish +rename +scan +script|load +set +sort +subscribe +time +unlink +zadd "
    "+zcard +zrange +zrangebyscore +zrem +zscore"
)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with server_of(request.param, tmp_path_factory.mktemp("redis")) as private:
        yield private


def administrator_of(port: int) -> "redis.Redis":
    return redis.Redis(port=port, protocol=2, driver_info=None)


def allow(port: int, *granted: str) -> str:
    """The URL of a user who may do this and nothing else."""
    with administrator_of(port) as client:
        administrator: Any = client
        first = ("reset", "resetchannels", "on", f">{PASSWORD}", "-@all")
        administrator.execute_command("ACL", "SETUSER", "loader", *first, *granted)
    return f"redis://loader:{PASSWORD}@127.0.0.1:{port}/0"


def lacking(port: int, *granted: str) -> Lacking:
    with connect(allow(port, *granted)) as client:
        return rights.lacking(client, NEEDS)


def found(port: int, *granted: str, needs: Needs = NEEDS) -> Finding:
    with connect(allow(port, *granted)) as client:
        return preflight._rights(client, needs, "loader")


def line() -> list[str]:
    """The advised one."""
    with connect("redis://127.0.0.1:1/0") as client:  # which connects when it's asked for something
        return rights.minimal(client, NEEDS).split()


def all_of(lacks: Lacking) -> set[str]:
    return {
        *lacks.loading,
        *lacks.extras,
        *lacks.listening,
        *lacks.status,
        *lacks.of_0_1,
        *lacks.untried,
        *lacks.absent,
    }


def test_given_the_advised_line_then_nothing_is_missing(server: PrivateRedis) -> None:
    with administrator_of(server.port) as administrator:
        administrator.flushall()

    assert lacking(server.port, *line()) == Lacking()
    assert found(server.port, *line()).verdict == "fine"
    with administrator_of(server.port) as administrator:
        assert administrator.keys() == [], "trying changes nothing"


@pytest.mark.parametrize("right", [right for right in line() if right not in OF_THE_CHECK])
def test_given_one_right_is_missing_then_it_is_named_and_no_other(server: PrivateRedis, right: str) -> None:
    granted = [each for each in line() if each != right]

    assert all_of(lacking(server.port, *granted)) == {right}
    finding = found(server.port, *granted)
    assert finding.verdict in ("wrong", "warning")
    assert finding.says.endswith(f"lacks {right}")
    assert right in finding.advice.split()


@pytest.mark.parametrize(
    ("command", "verdict"), [("memory", "fine"), ("blmove", "warning"), ("sort", "warning"), ("ltrim", "wrong")]
)
def test_given_a_user_who_may_all_but_one_then_it_says_what_that_is_for(
    server: PrivateRedis, command: str, verdict: str
) -> None:
    finding = found(server.port, "allkeys", "allchannels", "+@all", f"-{command}")

    assert finding.verdict == verdict
    assert verdict == "fine" or finding.says.endswith(f" lacks +{command}")


def test_given_no_right_at_all_then_that_is_wrong(server: PrivateRedis) -> None:
    assert found(server.port).verdict == "wrong"


def test_given_a_user_of_0_1_then_it_says_what_could_not_be_tried(server: PrivateRedis) -> None:
    needs = Needs(
        [SourceList(CAMPAIGNS, "right", None), SourceList(CLICK2DIAL, "right", None)],
        "etl:events",
        ["enigma:notifications:*"],
    )
    finding = found(server.port, *OF_0_1.split(), needs=needs)

    assert finding.verdict == "warning"
    assert finding.says.startswith("loader lacks +multi, so it couldn't be tried")
    assert {"+ltrim", "+sort", "+unlink", "+zadd", "+psubscribe"} <= set(finding.says.split())
    assert "+multi" in finding.advice.split()


@pytest.mark.parametrize("name", SERVERS)
def test_given_commands_of_other_names_then_they_are_named(tmp_path: Path, name: str) -> None:
    def told(*commands: str) -> Finding:
        renamed = "\nrename-command ".join(f"{command} {command}-of-ours" for command in commands)
        with server_of(name, tmp_path / "-".join(commands), {"rename-command": renamed}) as server:
            return found(server.port, "allkeys", "allchannels", "+@all")

    needed, extra = told("ltrim", "zrem", "sort"), told("sort")

    assert (needed.verdict, needed.says) == ("wrong", "this server takes LTRIM, ZREM from nobody")
    assert (extra.verdict, extra.says) == ("warning", "this server takes SORT from nobody: loading does without")


def test_given_a_full_server_then_what_is_untried_is_said(server: PrivateRedis) -> None:
    with administrator_of(server.port) as administrator:
        administrator.config_set("maxmemory", "1")
        try:
            finding = found(server.port, *line())
        finally:
            administrator.config_set("maxmemory", "0")

    assert finding.verdict == "warning"
    assert finding.says.startswith("it couldn't be tried whether loader has ")
    assert "+zadd" in finding.says.split()


@pytest.mark.parametrize("node", range(3))
def test_given_a_cluster_then_each_node_is_asked_for_what_it_holds(cluster: PrivateCluster, node: int) -> None:
    """Each has users of its own."""
    spool = next(key for key in (f"spool{n}" for n in range(100)) if owner(cluster, key) == node)
    needs = Needs([], spool, [])
    url = cluster.url.replace("127.0.0.1", f"loader:{PASSWORD}@127.0.0.1")

    def ask(refused: str = "") -> Lacking:
        with connect(cluster.url, cluster=True) as all_rights:
            granted = rights.minimal(all_rights, needs).split()
        for number, each in enumerate(cluster.nodes):
            allow(each.port, *(right for right in granted if number != node or right != refused))
        with connect(url, cluster=True) as client:
            return rights.lacking(client, needs)

    assert ask() == Lacking()
    assert ask("+ltrim").loading == ("+ltrim",)
    assert ask("+blmove").of_0_1 == ("+blmove",)
    assert ask("+scan").extras == ("+scan",)
    assert ask(f"~{spool}").loading == (f"~{spool}",)


def owner(cluster: PrivateCluster, key: str) -> int:
    with connect(cluster.url, cluster=True) as client:
        connection: Any = client
        return [each.port for each in cluster.nodes].index(connection.get_node_from_key(key).port)
