"""The Redis client: what it sends and how often, by which ways it gets to a server, and what becomes of refusals."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from etl.errors import ConfigurationError, EtlError, Outage
from etl.inbox.claims import Source
from etl.inbox.connection import Client, connect, translated
from etl.inbox.producer import push
from etl.lab.proxy import Proxy
from etl.lab.servers.private import PrivateCluster, PrivateRedis
from etl.settings import SourceSettings
from tests.integration.conftest import PASSWORD, Sentinel, Watched
from tests.world import CAMPAIGNS, CLICK2DIAL, Archive, cdr, eventually, left

NOBODY_LISTENS = 1  # a port

# All that the loader needs; every key of a source begins with it, or has it in braces. The spool is one of them.
RIGHTS = (
    f"~{CAMPAIGNS} ~{{{CAMPAIGNS}}}:* ~etl:events ~{{etl:events}}:* "
    "+evalsha +exists +info +llen +lpush +lrange +ltrim +persist +pexpire +rename +scan "
    "+script|load +sort +time +unlink +zadd +zcard +zrange +zrangebyscore +zrem +zscore"
).split()


@pytest.fixture
def private(tmp_path: Path) -> Iterator[PrivateRedis]:
    """A server of the test's own, with a socket: to be locked, filled and broken."""
    with PrivateRedis(tmp_path / "redis", {"unixsocket": str(tmp_path / "s")}) as server:
        yield server


def source(client: Client, key: str = CAMPAIGNS, **options: Any) -> Source:
    return Source(client, key, worker="w1", **options)


def give_rights(administrator: Any, rights: list[str]) -> None:
    administrator.execute_command("ACL", "SETUSER", "loader", "on", f">{PASSWORD}", "-@all", *rights)


def calls_of(server: Any, command: str) -> int:
    """How often a server has executed a command, whoever sent it."""
    return int(server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


# The ways to a server


def test_a_unix_socket_is_a_way_to_redis(archive: Archive, private: PrivateRedis) -> None:
    archive.redis_url = f"unix://{private.folder.parent}/s?db=3"
    with redis.Redis(port=private.port, db=3) as client:
        client.lpush(CAMPAIGNS, cdr(1))

    result = archive.run("run", "--json")

    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["total"]["inserted"] == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:1/0?decode_responses=true", "known: none"),
        ("redis://127.0.0.1:1/0?socket_timeout=0.1", "known: none"),
        ("redis://u:12?hunter2", "known: none"),
        ("rediss://127.0.0.1:1/0?foo=1", "known: ssl_ca_certs, ssl_certfile"),
        ("rediss://127.0.0.1:1/0?ssl_cert_reqs=hunter2", "option ssl_cert_reqs is wrong"),
        ("rediss://127.0.0.1:1/0?ssl_ca_certs=/hunter2.pem", "option ssl_ca_certs is wrong"),
        ("unix:///run/redis.sock?db=hunter2", "option db is wrong"),
        ("redis+sentinel://127.0.0.1:1/mymaster?password=hunter2", "known: sentinel_password"),
    ],
)
def test_an_option_of_the_url_that_would_change_the_client_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        connect(url)
    assert "hunter2" not in str(refused.value)


def test_a_redis_that_is_away_is_one_line_and_exit_code_1(archive: Archive) -> None:
    archive.redis_url = f"redis://:{PASSWORD}@127.0.0.1:{NOBODY_LISTENS}/0"

    result = archive.run("run")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "etl: ETL-201: Redis: Error 111 connecting to 127.0.0.1:1. Connection refused.\n"


@pytest.mark.parametrize("cluster", [False, True])
def test_a_host_that_cannot_exist_is_a_configuration_error(cluster: bool) -> None:
    with pytest.raises(ConfigurationError, match="that can't exist"):
        source(connect("redis://a..b/0", cluster)).waiting()


# What a connection says before its first command


@pytest.mark.parametrize("kind", ["redis", "sentinel", "cluster"])
def test_a_connection_begins_with_nothing_that_needs_a_right(
    kind: str, private: PrivateRedis, watched: Watched, cluster: PrivateCluster
) -> None:
    url = {"redis": f"{private.url[:-1]}5", "sentinel": watched.sentinel.url(), "cluster": cluster.url}[kind]
    port, password = {
        "redis": (private.port, None),
        "sentinel": (watched.master.port, PASSWORD),
        "cluster": (cluster.nodes[0].port, None),
    }[kind]
    with redis.Redis(port=port, password=password) as server:
        server.config_resetstat()
        with connect(url, kind == "cluster") as client:
            source(client, CLICK2DIAL).waiting()

        said = {name.removeprefix("cmdstat_") for name in server.info("commandstats")}

    ours = {"redis": {"select"}, "sentinel": {"auth"}, "cluster": {"cluster|slots", "command"}}[kind]
    of_the_test_and_of_sentinel = {"config|resetstat", "info", "ping", "publish", "subscribe"}
    assert ours <= said - {"llen"} <= ours | of_the_test_and_of_sentinel


@pytest.mark.filterwarnings("error")
def test_a_user_with_just_the_rights_that_are_needed_can_do_all_of_it(archive: Archive, private: PrivateRedis) -> None:
    archive.sources = (SourceSettings(key=CAMPAIGNS, forward_to=f"{{{CAMPAIGNS}}}:application"),)
    archive.redis_url = f"redis://loader:{PASSWORD}@127.0.0.1:{private.port}/0"
    with redis.Redis(port=private.port) as administrator:
        give_rights(administrator, RIGHTS)
        for number in range(3):
            administrator.lpush(CAMPAIGNS, cdr(number))
            abandoned = source(administrator, batch_size=1).claim()
            assert abandoned is not None
            abandoned.give_back()
            if number == 1:
                administrator.delete(f"{{{CAMPAIGNS}}}:claims")
        administrator.lpush(CAMPAIGNS, cdr(3))

        result = archive.run("run", "--json", PYTHONWARNINGS="error")

        assert result.returncode == 0
        assert [json.loads(line)["action"] for line in result.stderr.splitlines()] == ["orphans_rescued"]
        assert json.loads(result.stdout)["total"]["inserted"] == 4
        assert administrator.acl_log() == []
        assert left(administrator) == [f"{{{CAMPAIGNS}}}:application".encode()]


# A command is sent once


@contextmanager
def breaking(kind: str, private: PrivateRedis, cluster: PrivateCluster, folder: Path) -> Iterator[tuple[Any, Any]]:
    """A client of the kind whose line breaks at every claim, and one of the server itself."""
    server = cluster.nodes[0] if kind == "cluster" else private
    claim = hashlib.sha1(files("etl.inbox").joinpath("lua", "claim.lua").read_bytes()).hexdigest()
    with Proxy(server.port) as line, redis.Redis(port=server.port) as direct:
        line.cut(lambda said: claim.encode() in said, always=True)
        url = f"redis://127.0.0.1:{line.port}/0"
        if kind == "redis":
            with connect(url) as client:
                yield client, direct
        elif kind == "sentinel":
            direct.config_set("requirepass", PASSWORD)
            direct.auth(PASSWORD)
            with Sentinel(folder, line.port) as sentinel, connect(sentinel.url()) as client:
                yield client, direct
        else:
            with announced(cluster, line.port), connect(url, cluster=True) as client:
                yield client, direct


@contextmanager
def announced(cluster: PrivateCluster, port: int) -> Iterator[None]:
    """The first node gives out another port than its own."""
    with redis.Redis(port=cluster.nodes[0].port) as node, redis.Redis(port=cluster.nodes[1].port) as other:
        node.config_set("cluster-announce-port", port)
        try:
            yield
        finally:
            node.config_set("cluster-announce-port", 0)
            mine = f"127.0.0.1:{cluster.nodes[0].port}"
            eventually(lambda: mine in str(other.execute_command("CLUSTER NODES")))


@pytest.mark.parametrize("kind", ["redis", "sentinel", "cluster"])
def test_a_command_whose_answer_is_lost_is_not_sent_again(
    kind: str, private: PrivateRedis, cluster: PrivateCluster, tmp_path: Path
) -> None:
    with breaking(kind, private, cluster, tmp_path) as (client, direct):
        ours = source(client, CLICK2DIAL, batch_size=2)
        theirs = source(direct, CLICK2DIAL)
        push(direct, CLICK2DIAL, [b"0"])
        first = theirs.claim()  # so that the server knows the script
        assert first is not None
        first.ack()
        push(direct, CLICK2DIAL, [b"1", b"2", b"3", b"4", b"5"])
        direct.config_resetstat()

        with pytest.raises(Outage):
            ours.claim()

        assert calls_of(direct, "evalsha") == 2, "one for the time, and one for the claim"
        assert direct.lrange(CLICK2DIAL, 0, -1) == [b"5", b"4", b"3"]
        # What was claimed under a name that never reached us is found again.
        found = theirs.adopt_own()
        assert found is not None
        assert found.messages == [b"1", b"2"]
        found.ack()
        direct.delete(CLICK2DIAL)


# Refusals


@pytest.mark.parametrize(("arguments", "password"), [(["run"], "wrong"), (["run", "--follow"], None)])
def test_a_wrong_password_is_one_line_without_it_and_exit_code_2(
    archive: Archive, private: PrivateRedis, arguments: list[str], password: str | None
) -> None:
    with redis.Redis(port=private.port) as administrator:
        administrator.config_set("requirepass", PASSWORD)
    archive.redis_url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{private.port}/0"

    result = archive.run(*arguments)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("etl: ETL-203: Redis refuses us: ")
    assert "Traceback" not in result.stderr
    assert "wrong" not in result.stderr


def test_the_right_password_is_taken_and_not_told(archive: Archive, private: PrivateRedis) -> None:
    with redis.Redis(port=private.port) as administrator:
        administrator.config_set("requirepass", "p@ss/w:rd")
    archive.redis_url = f"redis://:p%40ss%2Fw%3Ard@127.0.0.1:{private.port}/0"

    result = archive.run("run")

    assert (result.returncode, result.stderr) == (0, "")
    assert "p@ss" not in result.stdout


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ("+evalsha", "'evalsha'"),
        ("+ltrim", "'ltrim'"),
        ("+zadd", "'zadd'"),
        (f"~{CAMPAIGNS}", "access a key"),
        (f"~{{{CAMPAIGNS}}}:*", "access a key"),
    ],
)
def test_a_user_who_lacks_a_right_is_told_which_and_moves_nothing(
    archive: Archive, private: PrivateRedis, lacks: str, says: str
) -> None:
    archive.sources = (SourceSettings(key=CAMPAIGNS),)
    archive.redis_url = f"redis://loader:{PASSWORD}@127.0.0.1:{private.port}/0"
    with redis.Redis(port=private.port) as administrator:
        give_rights(administrator, [right for right in RIGHTS if right != lacks])
        administrator.lpush(CAMPAIGNS, cdr(1))

        with pytest.raises(ConfigurationError, match=says) as refused:
            archive.load()

        assert PASSWORD not in str(refused.value)
        assert left(administrator) == [CAMPAIGNS.encode()]


def test_a_user_without_rights_is_told_for_each_list(archive: Archive, private: PrivateRedis) -> None:
    archive.redis_url = f"redis://loader:{PASSWORD}@127.0.0.1:{private.port}/0"
    with redis.Redis(port=private.port) as administrator:
        give_rights(administrator, [])

    result = archive.run("run")

    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("etl: ETL-407: not every list could be loaded: ")
    assert last.count("ETL-204: Redis refuses us") == 1 + len(archive.sources)


def test_a_cluster_that_is_taken_for_a_single_server_says_how_to_mend_it(
    archive: Archive, cluster: PrivateCluster
) -> None:
    archive.redis_url = cluster.nodes[1].url  # which doesn't have the first list

    result = archive.run("run")

    assert (result.returncode, result.stderr) == (
        2,
        "etl: ETL-207: this Redis is a node of a cluster: set ETL_REDIS_CLUSTER=true\n",
    )


def test_a_single_server_that_is_taken_for_a_cluster_says_so(archive: Archive) -> None:
    result = archive.run("run", ETL_REDIS_CLUSTER="true", ETL_REDIS_NAME="cluster")

    assert (result.returncode, result.stderr) == (
        2,
        "etl: ETL-205: Redis can't do what it was asked: This instance has cluster support disabled\n",
    )


def test_a_fail_over_is_an_outage_for_whoever_claims(private: PrivateRedis) -> None:
    with connect(private.url) as client, redis.Redis(port=private.port) as administrator:
        ours = source(client)
        push(client, CAMPAIGNS, [b"1"])
        administrator.replicaof("127.0.0.1", str(NOBODY_LISTENS))
        with pytest.raises(Outage, match="READONLY"):
            ours.claim()
        with pytest.raises(Outage, match="READONLY"):
            push(client, CAMPAIGNS, [b"2"])
        administrator.execute_command("REPLICAOF", "NO", "ONE")
        claim = ours.claim()
        assert claim is not None
        assert claim.messages == [b"1"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # Redis 6 wraps what it answered to a command inside a script.
        (
            ResponseError(
                "Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command not allowed"
            ),
            Outage,
        ),
        (
            ResponseError(
                "Error running script (call to f_1): @user_script:9: @user_script: 9: -READONLY You can't write"
            ),
            Outage,
        ),
        (OutOfMemoryError("command not allowed", status_code="OOM"), Outage),
        (ResponseError("BUSY Redis is busy running a script."), Outage),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), Outage),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots, but …"), Outage),
        (ResponseError("unknown command 'BLMOVE', with args beginning with: ", status_code="ERR"), ConfigurationError),
        (ResponseError("value is not an integer, say BUSYBODY", status_code="ERR"), ConfigurationError),
    ],
)
def test_what_passes_is_told_from_what_does_not(error: Exception, expected: type[EtlError]) -> None:
    with pytest.raises(expected), translated():
        raise error
