"""TLS to both stores: who has the right CA gets everywhere, and whoever else doesn't, and is told why."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import redis

from etl.app import check as preflight
from etl.errors import Outage
from etl.findings import Finding
from etl.inbox.connection import connect
from etl.inbox.producer import push
from etl.lab.servers.private import PrivateCluster
from tests.integration.conftest import PASSWORD, SERVICE, Sentinel, Watched
from tests.lake import assert_agrees, export_and_prune, load, restore, with_lake
from tests.tls import Authority, TlsFront
from tests.world import CAMPAIGNS, Archive, cdr, eventually


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def another_ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Authority(tmp_path_factory.mktemp("theirs")).ca)


@pytest.fixture
def fronts(archive: Archive, authority: Authority) -> Iterator[tuple[TlsFront, TlsFront]]:
    """Before the archive's Redis and its Postgres. Their certificates say `localhost`."""
    sockets = parse_qs(urlsplit(archive.database_url).query)["host"][0]
    certificate = authority.certificate("localhost")
    with (
        TlsFront(urlsplit(archive.redis_url).port or 0, certificate) as to_redis,
        TlsFront(Path(sockets) / ".s.PGSQL.5432", certificate) as to_postgres,
    ):
        yield to_redis, to_postgres


@pytest.fixture
def secure(archive: Archive, fronts: tuple[TlsFront, TlsFront], authority: Authority, tmp_path: Path) -> Archive:
    """The archive over TLS, as its settings have it."""
    files = {"redis_ca_file": str(authority.ca), "database_ca_file": str(authority.ca)}
    over_tls = replace(
        archive,
        redis_url=f"rediss://localhost:{fronts[0].port}/0",
        database_url=f"postgresql://postgres@localhost:{fronts[1].port}{urlsplit(archive.database_url).path}",
        more={**archive.more, **files},
    )
    over_tls._connection = archive._connection
    return with_lake(over_tls, tmp_path / "lake")


def without(archive: Archive, *settings: str) -> dict[str, Any]:
    return {name: value for name, value in archive.more.items() if name not in settings}


# -- the right CA


def test_given_the_ca_of_both_then_a_call_goes_all_the_way(secure: Archive, fronts: tuple[TlsFront, TlsFront]) -> None:
    to_redis, to_postgres = fronts
    load(secure, cdr(1))
    loading = (to_redis.secured, to_postgres.secured)
    assert all(loading)

    export_and_prune(secure)
    assert restore(secure).rows == 1, "by way of the other driver, there and back"

    assert to_postgres.secured > loading[1]
    assert_agrees(secure)
    secure.push(cdr(2))
    result = secure.run("run", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert secure.value("SELECT count(*) FROM cdrs") == 2


def test_a_servers_first_words_after_the_handshake_come_when_they_come(
    fronts: tuple[TlsFront, TlsFront], authority: Authority, archive: Archive
) -> None:
    for _ in range(10):
        with connect(f"rediss://localhost:{fronts[0].port}/0?ssl_ca_certs={authority.ca}") as client:
            push(client, CAMPAIGNS, [b"1"])
    assert archive.redis.llen(CAMPAIGNS) == 10


def test_given_a_sentinel_and_tls_then_both_it_and_its_master_are_verified(
    watched: Watched, authority: Authority, another_ca: str, tmp_path: Path
) -> None:
    """A sentinel gives out addresses, so the certificate must say the address."""
    certificate = authority.certificate("127.0.0.1")
    with (
        TlsFront(watched.master.port, certificate) as to_master,
        Sentinel(tmp_path, to_master.port) as sentinel,
        TlsFront(sentinel.port, certificate) as to_sentinel,
        redis.Redis(port=watched.master.port, password=PASSWORD) as master,
    ):
        url = f"rediss+sentinel://:{PASSWORD}@127.0.0.1:{to_sentinel.port}/{SERVICE}/0?ssl_ca_certs="
        with connect(f"{url}{authority.ca}") as client:
            push(client, "over:tls", [b"1"])
        assert master.lpop("over:tls") == b"1"
        assert (to_master.secured, to_sentinel.secured) == (1, 1)
        with connect(f"{url}{another_ca}") as client, pytest.raises(Outage, match="certificate verify failed"):
            push(client, "over:tls", [b"2"])
        assert master.llen("over:tls") == 0


def test_given_a_cluster_and_tls_then_every_node_is_verified(cluster: PrivateCluster, authority: Authority) -> None:
    certificate = authority.certificate("127.0.0.1")
    with ExitStack() as stack:
        nodes = [stack.enter_context(redis.Redis(port=node.port)) for node in cluster.nodes]
        fronts = [stack.enter_context(TlsFront(node.port, certificate)) for node in cluster.nodes]
        for node, front in zip(nodes, fronts, strict=True):
            node.config_set("cluster-announce-port", front.port)
        try:
            eventually(lambda: str(fronts[2].port) in str(nodes[0].execute_command("CLUSTER NODES")))
            eventually(lambda: str(fronts[1].port) in str(nodes[0].execute_command("CLUSTER NODES")))
            with connect(f"rediss://127.0.0.1:{fronts[0].port}?ssl_ca_certs={authority.ca}", cluster=True) as client:
                for number in range(20):
                    push(client, f"over:tls:{number}", [b"1"])
                    client.delete(f"over:tls:{number}")
        finally:
            for node, server in zip(nodes, cluster.nodes, strict=True):
                node.config_set("cluster-announce-port", 0)
                for other in nodes:
                    mine = f"127.0.0.1:{server.port}"
                    eventually(lambda other=other, mine=mine: mine in str(other.execute_command("CLUSTER NODES")))  # type: ignore[misc]
    assert all(front.secured for front in fronts)


# -- any other


@pytest.mark.parametrize("store", ["redis", "database"])
def test_given_another_ca_then_one_line_says_so_and_how_to_mend_it(
    secure: Archive, another_ca: str, store: str
) -> None:
    result = secure.run("run", **{f"ETL_{store.upper()}_CA_FILE": another_ca})

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"etl: {'ETL-202: Redis' if store == 'redis' else 'ETL-302: Postgres'}: ")
    assert "certificate" in result.stderr
    assert f"name its CA in ETL_{store.upper()}_CA_FILE" in result.stderr


@pytest.mark.parametrize("store", ["redis", "database"])
def test_given_a_name_that_the_certificate_lacks_then_it_is_refused(secure: Archive, store: str) -> None:
    url = f"{store}_url"
    elsewhere = replace(secure, **{url: getattr(secure, url).replace("localhost", "127.0.0.1")})
    secure.push(cdr(1))

    with pytest.raises(Outage, match=r"(mismatch|does not match host name).*and the host as the certificate does"):
        elsewhere.load()

    assert secure.redis.llen(CAMPAIGNS) == 1


def test_given_no_ca_file_then_redis_is_measured_by_the_systems_cas(secure: Archive) -> None:
    with pytest.raises(Outage, match="isn't trusted"):
        replace(secure, more=without(secure, "redis_ca_file")).load()


# -- what the preflight says of it


def lines(archive: Archive) -> dict[str, Finding]:
    return {f.about: f for f in preflight.check(archive.settings()) if f.about.startswith("line to")}


def test_given_verified_lines_then_the_preflight_says_so(secure: Archive) -> None:
    found = lines(secure)
    assert {about: finding.verdict for about, finding in found.items()} == {
        "line to Redis": "fine",
        "line to Postgres": "fine",
    }
    assert all("verified" in finding.says for finding in found.values())


def test_given_a_line_that_nobody_verifies_then_the_preflight_warns(secure: Archive) -> None:
    """What libpq does if nobody says anything. Whoever says so in a URL is wrong: see test_tls_weakened."""
    found = lines(replace(secure, more=without(secure, "database_ca_file")))["line to Postgres"]

    assert found.verdict == "warning"
    assert "ETL_DATABASE_CA_FILE" in found.advice
