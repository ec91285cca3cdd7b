"""What `etl check` says of a fail-over of either store: what it may cost, and what the recall window saves of that."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from etl.app import check as preflight
from etl.findings import Finding
from etl.lab.servers.private import PrivatePostgres, PrivateRedis, PrivateStandby
from tests.store import ROLES
from tests.world import Archive, eventually, migrate

ADVISED = {"fine": False, "warning": True, "wrong": True, "unknown": True}


@pytest.fixture(scope="module")
def primary(session_folder: Path) -> Iterator[PrivatePostgres]:
    """Whose etl_loader may load, and nothing else."""
    server = PrivatePostgres(session_folder / "checked-pg", {"fsync": "off"})
    with server:
        migrate(server.url)
        with psycopg.connect(server.url, autocommit=True) as administrator:
            administrator.execute(ROLES)
        yield server
    server.remove()


@pytest.fixture(scope="module")
def standby(primary: PrivatePostgres) -> Iterator[PrivateStandby]:
    follower = PrivateStandby(primary.folder.with_name("checked-standby"), primary, {"fsync": "off"})
    with follower:
        follower.catch_up()
        yield follower
    follower.remove()


@pytest.fixture
def checked(
    primary: PrivatePostgres, redis_server: PrivateRedis, redis_client: "redis.Redis", tmp_path: Path
) -> Archive:
    """Nothing follows its Postgres, unless `standby` is asked for too."""
    return Archive(redis_server.url, primary.url, redis_client, more={"export_url": str(tmp_path / "lake")})


@pytest.fixture
def set_to(primary: PrivatePostgres) -> Iterator[Any]:
    """Sets what the whole server goes by; it's as it was at the end."""

    def set_to(**settings: str) -> None:
        for name, value in settings.items():
            primary.ask(f"ALTER SYSTEM SET {name} = '{value}'")
        primary.ask("SELECT pg_reload_conf()")
        for name, value in settings.items():
            eventually(lambda name=name, value=value: primary.ask(f"SHOW {name}") == [value])  # type: ignore[misc]

    yield set_to
    primary.ask("ALTER SYSTEM RESET ALL")
    primary.ask("SELECT pg_reload_conf()")
    eventually(lambda: primary.ask("SHOW synchronous_standby_names") == [""])


def finding(archive: Archive, about: str, **more: Any) -> Finding:
    """In one line, and with a way out unless it's fine."""
    settings = replace(archive, more={**archive.more, **more}).settings()
    (found,) = (each for each in preflight.check(settings) if each.about == about)
    assert "\n" not in found.says + found.advice
    assert bool(found.advice) == ADVISED[found.verdict]
    return found


def as_loader(archive: Archive) -> Archive:
    return replace(archive, database_url=archive.database_url.replace("//postgres@", "//etl_loader@"))


# -- Postgres


def test_given_no_standby_then_a_restored_backup_is_what_it_tells_of(
    checked: Archive, primary: PrivatePostgres
) -> None:
    assert primary.ask("SELECT 1 FROM pg_stat_replication") == []
    for archive in (checked, as_loader(checked)):
        found = finding(archive, "Postgres standbys")

        assert found.verdict == "fine"
        assert "backup" in found.says
        assert "24 h" in found.says


@pytest.mark.usefixtures("standby")
def test_given_a_standby_nobody_waits_for_then_it_says_what_it_may_cost(checked: Archive) -> None:
    for archive in (checked, as_loader(checked)):
        found = finding(archive, "Postgres standbys", recall_hours=3, recall_bytes=4 << 20)
        assert found.verdict == "fine"
        assert found.says.startswith("standby; no commit waits")
        assert "the last 3 h come again" in found.says
        assert found.says.endswith("at most 4.0 MiB")
        for nothing in ({"recall_hours": 0}, {"recall_bytes": 0}):
            found = finding(archive, "Postgres standbys", **nothing)
            assert found.verdict == "warning"
            assert "nothing brings them back" in found.says
            assert "synchronous_standby_names" in found.advice


@pytest.mark.usefixtures("standby")
@pytest.mark.parametrize("names", ["standby", "other, STANDBY", "ANY 1 (other, standby)", "*", 'FIRST 1 ("standby")'])
def test_given_a_standby_that_is_waited_for_then_whoever_asks_sees_it(
    checked: Archive, set_to: Any, names: str
) -> None:
    set_to(synchronous_standby_names=names)

    for archive in (checked, as_loader(checked)):
        eventually(lambda archive=archive: finding(archive, "Postgres standbys").verdict == "fine")  # type: ignore[misc]
        assert "loses nothing" in finding(archive, "Postgres standbys").says


@pytest.mark.usefixtures("standby")
def test_given_a_standby_to_wait_for_that_is_not_there_then_that_is_wrong(checked: Archive, set_to: Any) -> None:
    set_to(synchronous_standby_names="nobody")

    for archive in (checked, as_loader(checked)):
        assert finding(archive, "Postgres standbys").verdict == "wrong"


@pytest.mark.parametrize(
    ("asked_for", "verdict"), [("local", "warning"), ("remote_write", "fine"), ("on", "fine"), ("remote_apply", "fine")]
)
@pytest.mark.usefixtures("standby")
def test_given_commits_that_wait_for_less_then_it_says_what_it_may_cost(
    checked: Archive, set_to: Any, asked_for: str, verdict: str
) -> None:
    set_to(synchronous_standby_names="standby")
    url = f"{checked.database_url}&options=-csynchronous_commit%3D{asked_for}"

    found = finding(replace(checked, database_url=url), "Postgres synchronous_commit")

    assert found.verdict == verdict
    assert found.says.startswith(asked_for)


def test_given_a_server_whose_commits_wait_for_nothing_then_ours_do(checked: Archive, set_to: Any) -> None:
    set_to(synchronous_commit="off")

    found = finding(checked, "Postgres synchronous_commit")

    assert (found.verdict, found.says) == ("fine", "on for etl; off for others of this role")


# -- Redis


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    folder = tmp_path_factory.mktemp("redis")
    fast = {"repl-diskless-sync-delay": "0"}
    with (
        PrivateRedis(folder / "1", fast) as first,
        PrivateRedis(folder / "2", {**fast, "replicaof": f"127.0.0.1 {first.port}"}),
        redis.Redis(port=first.port) as client,
    ):
        eventually(lambda: client.info("replication")["connected_slaves"] == 1)
        yield first


def test_given_a_replica_no_push_waits_for_then_it_says_how_to_bound_that(
    checked: Archive, replicated: PrivateRedis
) -> None:
    archive = replace(checked, redis_url=replicated.url)
    found = finding(archive, "Redis replicas")
    assert found.verdict == "warning"
    assert "a fail-over may lose" in found.says
    with redis.Redis(port=replicated.port) as administrator:
        assert "CONFIG SET min-replicas-to-write 1" in found.advice
        administrator.config_set("min-replicas-to-write", 1)
        assert finding(archive, "Redis replicas").verdict == "fine"
        administrator.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize(
    ("fsync", "verdict", "says"),
    [("always", "fine", "on disk before"), ("everysec", "fine", "the last one"), ("no", "warning", "half a minute")],
)
def test_given_an_appendfsync_then_it_says_what_a_lost_power_costs(
    checked: Archive, fsync: str, verdict: str, says: str
) -> None:
    checked.redis.config_set("appendfsync", fsync)
    try:
        found = finding(checked, "Redis appendonly")
    finally:
        checked.redis.config_set("appendfsync", "everysec")
    assert found.verdict == verdict
    assert says in found.says


def test_given_a_user_without_config_then_appendfsync_is_left_open(checked: Archive) -> None:
    administrator: Any = checked.redis
    administrator.execute_command("ACL", "SETUSER", "default", "-config")
    try:
        found = finding(checked, "Redis appendonly")
    finally:
        administrator.execute_command("ACL", "SETUSER", "default", "+@all")
    assert found.verdict == "fine"
    assert "may not ask for appendfsync" in found.says
