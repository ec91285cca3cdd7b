"""A store that is found among several hosts, by address family and by what it lets one do: real servers, of which the
first is down or takes no writes."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import adbc_driver_postgresql.dbapi
import psycopg
import pytest
import redis
from pydantic import SecretStr

from etl.errors import Outage
from etl.inbox.connection import connect
from etl.inbox.preflight_line import line
from etl.inbox.producer import push
from etl.lab.servers.ports import free_port
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.lab.servers.redis import command
from etl.settings import Settings
from etl.store import connection as store
from tests.integration.conftest import PASSWORD, SERVICE, Sentinel, Watched
from tests.lake import export_and_prune, load, restore, with_lake
from tests.tls import Authority, TlsFront
from tests.world import CAMPAIGNS, Archive, cdr, eventually

NOBODY_LISTENS = 1  # a port
USER, SECRET = "o@d:d/,user", "p@:s/,%?&#"


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


# -- Postgres


@dataclass(frozen=True)
class Pair:
    """A server that takes no writes, and one that does, both on TCP and asking `USER` for `SECRET`."""

    reader: int
    writer: int

    def url(self, hosts: str, **options: str) -> str:
        credentials = f"{quote(USER, safe='')}:{quote(SECRET, safe='')}"
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://{credentials}@{hosts}/postgres?{query}".removesuffix("?")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    folder.chmod(0o755)  # Postgres runs as somebody else when we are root
    ports = (free_port(), free_port())
    everywhere = "127.0.0.1,::1" if has_ipv6() else "127.0.0.1"
    with contextlib.ExitStack() as stack:
        for name, port in zip(("reader", "writer"), ports, strict=True):
            settings = {"listen_addresses": everywhere, "port": str(port), "fsync": "off"}
            server = stack.enter_context(PrivatePostgres(folder / name, settings))
            _let_in_the_user(server, port)
            if name == "reader":
                _run(port, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        yield Pair(*ports)


def _let_in_the_user(server: PrivatePostgres, port: int) -> None:
    quoted = SECRET.replace("'", "''")
    _run(port, f"CREATE ROLE \"{USER}\" LOGIN SUPERUSER PASSWORD '{quoted}'")
    access = server.data / "pg_hba.conf"
    access.write_text(f'host all "{USER}" all scram-sha-256\n{access.read_text()}')
    _run(port, "SELECT pg_reload_conf()")


def _run(port: int, *statements: str) -> None:
    with psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def by_sqlalchemy(settings: Settings) -> int:
    engine = store.connect(settings.sqlalchemy_url)
    try:
        _, [[port]] = store.read(engine, "SELECT current_setting('port')::int")
    finally:
        engine.dispose()
    return int(str(port))


def by_psycopg(settings: Settings) -> int:
    with psycopg.connect(settings.libpq_url) as connection:
        row = connection.execute("SELECT current_setting('port')::int").fetchone()
    assert row
    return int(row[0])


def by_adbc(settings: Settings) -> int:
    with adbc_driver_postgresql.dbapi.connect(settings.libpq_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('port')::int AS port")
        row = cursor.fetchone()
    assert row
    return int(row[0])


DRIVERS = pytest.mark.parametrize("reach", [by_sqlalchemy, by_psycopg, by_adbc])
WRITABLE = {"target_session_attrs": "read-write"}
Reach = Callable[[Settings], int]


def settings_of(url: str) -> Settings:
    return Settings(database_url=SecretStr(url))


@DRIVERS
def test_given_a_first_host_that_is_down_then_the_second_is_reached(pair: Pair, reach: Reach) -> None:
    url = pair.url(f"127.0.0.1:{NOBODY_LISTENS},127.0.0.1:{pair.writer}")
    assert reach(settings_of(url)) == pair.writer


@DRIVERS
def test_given_a_first_host_that_takes_no_writes_then_another_is_reached(pair: Pair, reach: Reach) -> None:
    hosts = f"127.0.0.1:{pair.reader},127.0.0.1:{pair.writer}"
    assert reach(settings_of(pair.url(hosts, **WRITABLE))) == pair.writer
    assert reach(settings_of(pair.url(hosts))) == pair.reader, "it isn't asked for more"


@needs_ipv6
@DRIVERS
def test_given_ipv6_hosts_in_brackets_then_they_are_reached(pair: Pair, reach: Reach) -> None:
    url = pair.url(f"[::1]:{pair.reader},127.0.0.1:{NOBODY_LISTENS},[::1]:{pair.writer}", **WRITABLE)
    assert reach(settings_of(url)) == pair.writer
    assert reach(settings_of(pair.url(f"[::1]:{pair.writer}"))) == pair.writer


@DRIVERS
@pytest.mark.parametrize("ports", ["{down},{reader},{writer}", "{writer}"])
def test_given_hosts_as_an_option_then_they_are_still_reached(pair: Pair, reach: Reach, ports: str) -> None:
    several = ports.format(down=NOBODY_LISTENS, reader=pair.reader, writer=pair.writer)
    url = pair.url("", host="127.0.0.1,127.0.0.1,127.0.0.1", port=several, **WRITABLE)
    assert reach(settings_of(url)) == pair.writer


@DRIVERS
def test_given_a_host_without_a_port_then_it_is_the_usual_one(postgres: PrivatePostgres, reach: Reach) -> None:
    socket_folder = quote(parse_qs(urlsplit(postgres.url).query)["host"][0], safe="")
    url = f"postgresql://postgres@127.0.0.1:{NOBODY_LISTENS},{socket_folder}/postgres"
    assert reach(settings_of(url)) == 5432


def test_given_hosts_that_are_all_away_then_no_password_is_told_with_them(pair: Pair) -> None:
    url = pair.url(f"127.0.0.1:{NOBODY_LISTENS},127.0.0.1:{pair.reader}", **WRITABLE)
    with pytest.raises(Outage, match=r"Connection refused.*session is read-only") as raised:
        by_sqlalchemy(settings_of(url))
    assert SECRET not in str(raised.value)


def test_given_a_ca_then_every_host_is_verified(archive: Archive, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    server = Path(parse_qs(urlsplit(archive.database_url).query)["host"][0]) / ".s.PGSQL.5432"
    with TlsFront(server, ours.certificate("localhost")) as front:
        hosts = f"localhost:{NOBODY_LISTENS},localhost:{front.port}"
        url = f"postgresql://postgres@{hosts}{urlsplit(archive.database_url).path}"
        secure = replace(archive, database_url=url, more={**archive.more, "database_ca_file": str(ours.ca)})
        secure._connection = archive._connection
        secure = with_lake(secure, tmp_path / "lake")
        load(secure, cdr(1))
        export_and_prune(secure)
        assert restore(secure).rows == 1, "by way of the other driver, there and back"
        assert front.secured > 1
        with pytest.raises(Outage, match="certificate"):
            replace(secure, more={**secure.more, "database_ca_file": str(theirs.ca)}).load()


def test_given_several_hosts_then_the_command_line_goes_all_the_way(archive: Archive) -> None:
    options = parse_qs(urlsplit(archive.database_url).query)
    hosts = f"127.0.0.1:{NOBODY_LISTENS},{quote(options['host'][0], safe='')}"
    several = replace(
        archive,
        database_url=f"postgresql://postgres@{hosts}{urlsplit(archive.database_url).path}?{next(iter(WRITABLE))}=any",
    )
    archive.push(cdr(1))
    for arguments in (["db", "upgrade"], ["run"], ["status"]):
        result = several.run(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), arguments
    assert archive.value("SELECT count(*) FROM cdrs") == 1


# -- Redis


@needs_ipv6
def test_given_ipv6_sentinels_then_the_master_is_found(watched: Watched, tmp_path: Path) -> None:
    with (
        Sentinel(tmp_path, watched.master.port, bind="127.0.0.1 ::1") as sentinel,
        redis.Redis(port=watched.master.port, password=PASSWORD) as master,
    ):
        for hosts in (
            f"[::1]:{sentinel.port}",
            f"[::1]:{NOBODY_LISTENS},[::1]:{sentinel.port}",
            f"127.0.0.1:{NOBODY_LISTENS},[::1]:{sentinel.port},[::1]:{NOBODY_LISTENS}",
        ):
            url = f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}/0"
            assert Settings(redis_url=SecretStr(url)).inbox_url == url
            assert line(url) == "local"
            with connect(url) as client:
                push(client, CAMPAIGNS, [b"1"])
            assert master.lpop(CAMPAIGNS) == b"1"


@needs_ipv6
def test_given_a_master_on_ipv6_then_its_sentinel_leads_there(tmp_path: Path) -> None:
    config = {"requirepass": PASSWORD, "bind": "127.0.0.1 ::1"}
    with (
        PrivateRedis(tmp_path / "master", config) as master,
        Sentinel(tmp_path, master.port, bind="127.0.0.1 ::1", master="::1") as sentinel,
        connect(f"redis+sentinel://:{PASSWORD}@[::1]:{sentinel.port}/{SERVICE}") as client,
    ):
        push(client, CAMPAIGNS, [b"1"])
        assert client.lpop(CAMPAIGNS) == b"1"


@needs_ipv6
def test_given_a_cluster_on_ipv6_then_a_call_is_loaded_from_it(archive: Archive, tmp_path: Path) -> None:
    config = {"bind": "127.0.0.1 ::1", "cluster-enabled": "yes", "cluster-announce-ip": "::1"}
    with PrivateRedis(tmp_path / "node", config) as node:
        command(node.port, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        eventually(lambda: "cluster_state:ok" in command(node.port, "CLUSTER", "INFO"))
        url = f"redis://[::1]:{node.port}"
        on_it = replace(archive, redis_url=url, more={**archive.more, "redis_cluster": True, "redis_name": "cluster"})
        with connect(url, cluster=True) as client:
            push(client, CAMPAIGNS, [cdr(1)])
            result = on_it.run("run", "--json")
            assert (result.returncode, result.stderr) == (0, "")
            assert client.llen(CAMPAIGNS) == 0
    assert archive.value("SELECT count(*) FROM cdrs") == 1


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://[::1]/0", "local"),
        ("redis://u:p@[::1]:7000/0", "local"),
        ("redis://[2001:db8::1]:7000/0", "plain"),
        ("redis+sentinel://[::1],127.0.0.1:1,localhost/m", "local"),
        ("redis+sentinel://[::1],[2001:db8::1]:1/m", "plain"),
        ("unix://u:p@/run/redis.sock", "local"),
    ],
)
def test_a_line_is_local_if_every_host_is_this_machine(url: str, kind: str) -> None:
    assert line(url) == kind


def test_given_an_empty_port_then_it_is_no_traceback(archive: Archive) -> None:
    """`postgresql://host:/etl` is libpq's own, and SQLAlchemy's crash. As in 0.1, but with two hosts it works now."""
    run = archive.run("dead", "list", ETL_DATABASE_URL="postgresql://127.0.0.1:/etl")
    assert "Traceback" not in run.stderr
