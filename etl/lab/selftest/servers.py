"""The servers of a selftest: private ones, which may be harmed and made to forget, or the user's test instances, only
cut off."""

import shutil
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
from etl.lab.servers.private import PostgresService, PrivatePostgres, RedisService
from etl.settings import Settings

REDIS_PORT, POSTGRES_PORT = 6379, 5432


@dataclass(frozen=True, slots=True)
class Servers:
    """The stores' URLs, and the addresses that a wire to each connects to."""

    redis_url: str
    database_url: str
    redis_at: Address
    postgres_at: Address
    redis: RedisService | None = None
    postgres: PostgresService | None = None
    redis_clock: Clock | None = None


@contextmanager
def private(folder: Path) -> Iterator[Servers]:
    clock = Clock(folder / "redis-clock")
    with (
        PostgresService(folder) as postgres,
        RedisService(folder, {"appendfsync": "always"}, clock) as redis,
    ):
        yield Servers(redis.url, postgres.url, redis.door.port, postgres.door.port, redis, postgres, clock)


def remove(folder: Path) -> None:
    """What `private` left there; a Postgres may have had to put its data elsewhere."""
    for kind in ("postgres", "standby"):
        for each in folder.glob(f"{kind}-*"):
            PrivatePostgres(each).remove()
    shutil.rmtree(folder, ignore_errors=True)


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
    return Servers(redis_url, database_url, redis_at, postgres_at)


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
