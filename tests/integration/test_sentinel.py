"""A master that is found by asking a sentinel."""

import json
from pathlib import Path

import pytest
import redis

from etl.errors import ConfigurationError
from etl.inbox.claims import Source
from etl.inbox.connection import connect
from etl.inbox.producer import push
from etl.lab.servers.private import PrivateRedis
from tests.integration.conftest import PASSWORD, SERVICE, Sentinel, Watched
from tests.world import CAMPAIGNS, Archive, eventually, left

NOBODY_LISTENS = "127.0.0.1:1"


def test_the_loader_finds_the_master_and_loads_from_it(archive: Archive, watched: Watched) -> None:
    archive.redis_url = watched.sentinel.url()
    simulated = archive.run("simulate", "--cdrs", "300", "--json")
    assert (simulated.returncode, simulated.stderr) == (0, "")

    result = archive.run("run", "--json")

    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["total"]["claimed"] == json.loads(simulated.stdout)["messages"]
    assert archive.value("SELECT count(*) FROM cdrs") == 300
    with redis.Redis(port=watched.master.port, password=PASSWORD) as master:
        assert left(master) == []


def test_sentinels_that_are_away_are_passed_over(watched: Watched) -> None:
    url = f"redis+sentinel://:{PASSWORD}@{NOBODY_LISTENS},127.0.0.1:{watched.sentinel.port}/{SERVICE}/3"

    with connect(url) as client, redis.Redis(port=watched.master.port, password=PASSWORD, db=3) as master:
        push(client, CAMPAIGNS, [b"1"])

        assert master.lpop(CAMPAIGNS) == b"1"


def test_a_name_that_the_sentinel_does_not_know_is_a_configuration_error(archive: Archive, watched: Watched) -> None:
    archive.redis_url = watched.sentinel.url(service="hismaster")

    result = archive.run("run")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "etl: ETL-216: the sentinels know no service named 'hismaster'\n"


def test_sentinels_that_are_all_away_are_an_outage(archive: Archive) -> None:
    archive.redis_url = f"redis+sentinel://:{PASSWORD}@{NOBODY_LISTENS}/{SERVICE}?sentinel_password={PASSWORD}"

    result = archive.run("run")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "etl: ETL-201: Redis: no sentinel knows where the master is:"
        " Error 111 connecting to 127.0.0.1:1. Connection refused.\n"
    )


def test_a_wrong_password_of_the_master_is_a_configuration_error(archive: Archive, watched: Watched) -> None:
    archive.redis_url = watched.sentinel.url(password="wrong")

    result = archive.run("run")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "etl: ETL-203: Redis refuses us: invalid username-password pair or user is disabled.\n"


def test_a_password_of_the_sentinel_is_used_for_it_alone(watched: Watched) -> None:
    with redis.Redis(port=watched.sentinel.port) as administrator:
        administrator.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
        try:
            with connect(watched.sentinel.url() + "?sentinel_password=secret") as client:
                push(client, CAMPAIGNS, [b"1"])
                assert client.lpop(CAMPAIGNS) == b"1"
            for wrong in ("", "?sentinel_password=wrong"):
                with connect(watched.sentinel.url() + wrong) as client:
                    with pytest.raises(ConfigurationError, match="the sentinel refuses us") as refused:
                        push(client, CAMPAIGNS, [b"1"])
                    assert "wrong" not in str(refused.value)
        finally:
            administrator.execute_command("ACL", "SETUSER", "default", "resetpass", "nopass")


def test_a_redis_that_is_no_sentinel_is_a_configuration_error(watched: Watched, redis_server: PrivateRedis) -> None:
    client = connect(f"redis+sentinel://127.0.0.1:{redis_server.port}/{SERVICE}")

    with client, pytest.raises(ConfigurationError, match="unknown command 'SENTINEL'"):
        push(client, CAMPAIGNS, [b"1"])


def test_after_a_fail_over_the_claims_go_on_at_the_new_master(tmp_path: Path) -> None:
    config = {"requirepass": PASSWORD, "masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
    with (
        PrivateRedis(tmp_path / "old", config) as old,
        PrivateRedis(tmp_path / "new", config | {"replicaof": f"127.0.0.1 {old.port}"}) as new,
        redis.Redis(port=new.port, password=PASSWORD) as replica,
    ):
        eventually(lambda: replica.info("replication")["master_link_status"] == "up")
        with Sentinel(tmp_path, old.port) as sentinel, connect(sentinel.url()) as client:
            source = Source(
                client,
                CAMPAIGNS,
                worker="w1",
            )
            push(client, CAMPAIGNS, [b"1", b"2"])
            before = source.claim()
            push(client, CAMPAIGNS, [b"3"])
            assert client.execute_command("WAIT", 1, 10_000) == 1

            fail_over(sentinel, new)
            old.kill()

            after = source.claim()
            assert before is not None
            assert after is not None
            assert after.messages == [b"3"]
            before.ack()
            after.ack()
            assert left(replica) == []


def fail_over(sentinel: Sentinel, to: PrivateRedis) -> None:
    with redis.Redis(port=sentinel.port) as administrator:

        def begun() -> bool:
            try:
                return bool(administrator.execute_command("SENTINEL", "FAILOVER", SERVICE))
            except redis.ResponseError:  # it hasn't asked the replica how it is yet
                return False

        def done() -> bool:
            _host, port = administrator.sentinel_get_master_addr_by_name(SERVICE)
            return bool(port == to.port)

        eventually(begun)
        eventually(done)
