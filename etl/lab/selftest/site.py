"""The site of a selftest: servers, wires to them that can be cut, and the processes of an installation.

diallers, switchboard ──▶ Redis ◀──redis wire──┐
                                               ├── loader-0, -1, -2, listener-0, -1, exporter
                          Postgres ◀──wire─────┘

Which server Redis and Postgres are just then, a private one's door knows: one that fails over goes on as another.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from etl.app.database import upgrade
from etl.inbox import connection as inbox
from etl.keys import SPOOL
from etl.lab.proxy import Proxy
from etl.lab.selftest import engine
from etl.lab.selftest.calls import CAMPAIGNS, CDRS, CLICK2DIAL
from etl.lab.selftest.plan import EXPORTER, LEASE_SECONDS, LISTENER, LOADERS, STEADY_LISTENER, STEADY_LOADER
from etl.lab.selftest.processes import Exporter, Program
from etl.lab.selftest.servers import Servers, through
from etl.lab.servers.clock import Clock
from etl.settings import Settings, SourceSettings

FORWARD = "enigma:app"  # where the former consumer of Click2Dial's list gets its copy

SELFTEST_SOURCES = (
    SourceSettings(key=CAMPAIGNS, source="dialler"),
    SourceSettings(key=CDRS, source="dialler"),
    SourceSettings(key=CLICK2DIAL, source="click2dial", forward_to=FORWARD),
)
BATCH_SIZE = 500  # so that an outage's backlog is many claims


_BREAK = """
redis.call('HSET', KEYS[3], 'mine', '1') -- first: a full Redis refuses it
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[2]) end
redis.call('RENAME', KEYS[3], KEYS[1])
"""
# Also a second time, when the answer of the first was lost.
_MEND = """
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  redis.call('DEL', KEYS[1])
  if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end
end
"""


@dataclass(frozen=True)
class Site:
    """`settings` lead to the stores directly; only the processes use the wires. Loaders and listeners go by
    `host_clock`; the exporter doesn't, since libfaketime breaks its sleep."""

    settings: Settings
    servers: Servers
    postgres_wire: Proxy
    redis_wire: Proxy
    programs: dict[str, Program | Exporter]
    host_clock: Clock
    folder: Path  # of the processes' logs

    def limit_redis(self, memory: int) -> None:
        """The most memory that Redis may use, in bytes; 0: no limit."""
        self._ask("CONFIG", "SET", "maxmemory", memory)

    def break_list(self, key: str) -> None:
        """Instead of the list there is a hash; what waits is kept aside."""
        self._ask("EVAL", _BREAK, 3, key, f"{key}:aside", f"{key}:hash")

    def mend_list(self, key: str) -> None:
        self._ask("EVAL", _MEND, 2, key, f"{key}:aside")

    def keys(self) -> set[str]:
        """All keys in Redis."""
        return {key.decode() for key in self._ask("KEYS", "*")}

    def acknowledged(self) -> set[str]:
        """The claims that Redis keeps, or notes at least."""
        kept = (
            self._ask("ZRANGE", f"{{{key}}}:kept", 0, -1) for key in (SPOOL, *(each.key for each in SELFTEST_SOURCES))
        )
        return {member.partition(b"@")[0].decode() for members in kept for member in members}

    def length(self, key: str) -> int:
        return int(self._ask("LLEN", key))

    def _ask(self, *command: str | int) -> Any:
        with closing(inbox.connect(self.settings.redis_url.get_secret_value())) as client, inbox.translated():
            connection: Any = client
            return connection.execute_command(*command)

    def stop(self, *names: str) -> None:
        for name in names:
            self.programs[name].stop()


@contextmanager
def site(servers: Servers, folder: Path) -> Iterator[Site]:
    """A database with its schema, and processes that are not started yet. At the end they are killed."""
    settings = Settings(
        redis_url=SecretStr(servers.redis_url),
        database_url=SecretStr(servers.database_url),
        sources=SELFTEST_SOURCES,
        worker_name="selftest",
        batch_size=BATCH_SIZE,
        lease_seconds=LEASE_SECONDS,
        export_url=str(folder / "lake"),
        export_grace_minutes=0,
        lake_table="iceberg" if engine.is_there() else None,
        http="off",
    )
    upgrade(settings)
    with ExitStack() as stack:
        redis_wire = stack.enter_context(Proxy(servers.redis_at))
        postgres_wire = stack.enter_context(Proxy(servers.postgres_at))
        urls = through(servers.redis_url, redis_wire.port), through(servers.database_url, postgres_wire.port)
        host_clock = Clock(folder / "host-clock")
        stack.callback(host_clock.tidy)
        programs = _programs(_environment(settings, *urls), folder, host_clock)
        for program in programs.values():
            stack.callback(_end, program)
        yield Site(settings, servers, postgres_wire, redis_wire, programs, host_clock, folder)


def _programs(environment: dict[str, str], folder: Path, clock: Clock) -> dict[str, Program | Exporter]:
    by_clock = {**environment, **clock.environment}
    loading, listening = ["run", "--follow", "--no-listen", "--no-schedule"], ["listen"]
    programs: list[Program | Exporter] = [
        *(Program(name, loading, by_clock, folder) for name in (STEADY_LOADER, *LOADERS)),
        *(Program(name, listening, by_clock, folder) for name in (STEADY_LISTENER, LISTENER)),
        Exporter(EXPORTER, environment, folder),
    ]
    return {program.name: program for program in programs}


def _environment(settings: Settings, redis_url: str, database_url: str) -> dict[str, str]:
    """The settings of a process, whose URLs go through the wires."""
    return {
        "ETL_REDIS_URL": redis_url,
        "ETL_DATABASE_URL": database_url,
        "ETL_SOURCES": json.dumps([source.model_dump() for source in settings.sources]),
        "ETL_BATCH_SIZE": str(settings.batch_size),
        "ETL_LEASE_SECONDS": str(settings.lease_seconds),
        "ETL_EXPORT_URL": settings.export_url,
        "ETL_EXPORT_GRACE_MINUTES": str(settings.export_grace_minutes),
        "ETL_LAKE_TABLE": settings.lake_table or "",
        "ETL_HTTP": settings.http,
    }


def _end(program: Program | Exporter) -> None:
    program.thaw()
    program.kill()
