"""The servers of a selftest: private ones, which may be harmed, or the user's test instances, only cut off."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from etl.app.database import revisions
from etl.errors import ConfigurationError
from etl.inbox import connection as inbox
from etl.lab.proxy import Address
from etl.lab.servers.clock import Clock
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.settings import Settings

REDIS_PORT, POSTGRES_PORT = 6379, 5432


@dataclass(frozen=True, slots=True)
class Servers:
    """The stores' URLs, and the addresses that a wire to each connects to. `database_by_tcp` takes a wire's port."""

    redis_url: str
    database_url: str
    database_by_tcp: str
    redis_at: Address
    postgres_at: Address
    redis: PrivateRedis | None = None
    postgres: PrivatePostgres | None = None
    redis_clock: Clock | None = None


@contextmanager
def private(folder: Path) -> Iterator[Servers]:
    clock = Clock(folder / "redis-clock")
    with (
        PrivatePostgres(folder / "postgres") as postgres,
        PrivateRedis(folder / "redis", {"appendfsync": "always"}, clock=clock) as redis,
    ):
        by_tcp = "postgresql://postgres@localhost/postgres"
        yield Servers(redis.url, postgres.url, by_tcp, redis.port, postgres.socket, redis, postgres, clock)


def owned(redis_url: str, database_url: str) -> Servers:
    """Those that somebody lends, which must be empty. Raises `ConfigurationError` unless they are; and `Outage`."""
    redis_at = _address(redis_url, "redis", REDIS_PORT)
    postgres_at = _address(database_url, "postgresql", POSTGRES_PORT)
    with closing(inbox.connect(redis_url)) as client, inbox.translated():
        connection: Any = client
        if connection.dbsize():
            raise ConfigurationError(
                "ETL-907", "this Redis isn't empty: a selftest takes an empty database of a test instance"
            )
    settings = Settings(redis_url=SecretStr(redis_url), database_url=SecretStr(database_url))
    has, _ = revisions(settings)
    if has is not None:
        raise ConfigurationError(
            "ETL-908", "this Postgres has an archive already: a selftest takes an empty test database"
        )
    return Servers(redis_url, database_url, database_url, redis_at, postgres_at)


def through(url: str, port: int) -> str:
    """The URL by way of a wire."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{port}").geturl()


def _address(url: str, scheme: str, port: int) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != scheme or not parts.hostname:
        raise ConfigurationError(
            "ETL-909", f"a selftest's wire takes {scheme}://host:port/…, and no TLS, socket or sentinels"
        )
    return parts.hostname, parts.port or port
