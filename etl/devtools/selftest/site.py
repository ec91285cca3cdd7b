"""The site of a selftest: private servers, wires to them that can be cut, and every process of an installation.

diallers, switchboard ──▶ Redis ◀──redis wire──┐
                                               ├── loader-0, -1, -2, listener-0, -1, exporter
                          Postgres ◀──wire─────┘
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from etl import app
from etl.devtools.embedded import PrivatePostgres, PrivateRedis
from etl.devtools.embedded_redis import command
from etl.devtools.proxy import Proxy
from etl.devtools.selftest.calls import CAMPAIGNS, CDRS, CLICK2DIAL
from etl.devtools.selftest.plan import EXPORTER, LEASE_SECONDS, LISTENER, LOADERS, STEADY_LISTENER, STEADY_LOADER
from etl.devtools.selftest.processes import Exporter, Program
from etl.settings import Settings, Source

FORWARD = "enigma:app"  # what the application that used to pop Click2Dial's list gets

SOURCES = (
    Source(key=CAMPAIGNS, source="dialler"),
    Source(key=CDRS, source="dialler"),
    Source(key=CLICK2DIAL, source="click2dial", forward_to=FORWARD),
)
BATCH_SIZE = 500  # so that an outage's backlog is many claims

_KEYS = "return table.concat(redis.call('KEYS', '*'), '\\n')"


@dataclass(frozen=True)
class Site:
    """`settings` lead to the stores directly: the wires are the processes' own."""

    settings: Settings
    postgres: PrivatePostgres
    redis: PrivateRedis
    postgres_wire: Proxy
    redis_wire: Proxy
    programs: dict[str, Program | Exporter]

    def limit_redis(self, memory: int) -> None:
        """How many bytes Redis may have; 0 for as many as it likes."""
        command(self.redis.port, "CONFIG", "SET", "maxmemory", str(memory))

    def keys(self) -> set[str]:
        """What is in Redis."""
        return set(command(self.redis.port, "EVAL", _KEYS, "0").split("\n")) - {""}

    def length(self, key: str) -> int:
        return int(command(self.redis.port, "LLEN", key))

    def stop(self, *names: str) -> None:
        for name in names:
            self.programs[name].stop()


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Servers that are up, a schema, and processes that are about to be started. At the end all are gone."""
    with ExitStack() as stack:
        postgres = stack.enter_context(PrivatePostgres(folder / "postgres"))
        redis = stack.enter_context(PrivateRedis(folder / "redis", {"appendfsync": "always"}))
        settings = Settings(
            redis_url=SecretStr(redis.url),
            database_url=SecretStr(postgres.url),
            sources=SOURCES,
            worker_name="selftest",
            batch_size=BATCH_SIZE,
            lease_seconds=LEASE_SECONDS,
            export_url=str(folder / "lake"),
            export_grace_minutes=0,
            http="off",
        )
        app.upgrade(settings)
        redis_wire = stack.enter_context(Proxy(redis.port))
        postgres_wire = stack.enter_context(Proxy(_socket_of(postgres)))
        programs = _programs(_environment(settings, redis_wire, postgres_wire), folder)
        for program in programs.values():
            stack.callback(_end, program)
        yield Site(settings, postgres, redis, postgres_wire, redis_wire, programs)


def _programs(environment: dict[str, str], folder: Path) -> dict[str, Program | Exporter]:
    loading, listening = ["run", "--follow", "--no-listen", "--no-schedule"], ["listen"]
    programs: list[Program | Exporter] = [
        *(Program(name, loading, environment, folder) for name in (STEADY_LOADER, *LOADERS)),
        *(Program(name, listening, environment, folder) for name in (STEADY_LISTENER, LISTENER)),
        Exporter(EXPORTER, environment, folder),
    ]
    return {program.name: program for program in programs}


def _environment(settings: Settings, redis_wire: Proxy, postgres_wire: Proxy) -> dict[str, str]:
    """The settings as a process gets them, with the wires in between."""
    return {
        "ETL_REDIS_URL": f"redis://127.0.0.1:{redis_wire.port}/0",
        "ETL_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres_wire.port}/postgres",
        "ETL_SOURCES": json.dumps([source.model_dump() for source in settings.sources]),
        "ETL_BATCH_SIZE": str(settings.batch_size),
        "ETL_LEASE_SECONDS": str(settings.lease_seconds),
        "ETL_EXPORT_URL": settings.export_url,
        "ETL_EXPORT_GRACE_MINUTES": str(settings.export_grace_minutes),
        "ETL_HTTP": settings.http,
    }


def _socket_of(postgres: PrivatePostgres) -> Path:
    host, port = (parse_qs(urlsplit(postgres.url).query)[name][0] for name in ("host", "port"))
    return Path(host) / f".s.PGSQL.{port}"


def _end(program: Program | Exporter) -> None:
    program.thaw()
    program.kill()
