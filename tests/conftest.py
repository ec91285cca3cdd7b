"""The servers every test shares: one private Postgres and one private Redis a session, a fresh database and an empty
Redis for each test. Tests that kill servers start their own."""

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hypothesis
import psycopg
import pytest
import redis

from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.store.writer import Writer
from tests.results import Results
from tests.store import engine
from tests.world import Archive, migrate

# The same examples in every run, and no example fails for being slow: a red test is a bug, never bad luck. Other ones,
# and ten times as many, to look for new bugs: `make nightly`.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "nightly",
    hypothesis.settings.get_profile("repeatable"),
    derandomize=False,
    max_examples=1_000,
    print_blob=True,
)
hypothesis.settings.load_profile("repeatable")

_numbers = itertools.count(1)
MEMORY = Path("/dev/shm")
ENOUGH = 4 * 2**30  # bytes, for the servers of several processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--results", type=Path, metavar="FILE", help="write there when this ran, how long, and what failed"
    )
    parser.addoption("--postgres", type=Path, metavar="DIR", help="another PostgreSQL than the wheel's, with bin in it")


def pytest_configure(config: pytest.Config) -> None:
    # With several processes, it's the first that collects the reports.
    file = config.getoption("--results")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(file))


def pytest_unconfigure() -> None:
    """A loader freezes what is there when it starts, for the process's life. Python takes none of it apart at the end,
    and DuckDB, which counts, complains of leaks."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    with _folder() as path:
        yield path


@contextmanager
def _folder(place: Path | None = None) -> Iterator[Path]:
    """A short path: sockets live in it, and theirs may not be longer than about a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="etl-", dir=place, ignore_cleanup_errors=True) as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def _in_memory() -> Path | None:
    """Where there is much of it. Each test's database is some 430 files, made and dropped; for a minute ext4 doesn't
    use what was dropped again, but looks at it for each new file: 0.2 s a test and more, which the kernel computed."""
    with suppress(OSError):
        if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ENOUGH:
            return MEMORY
    return None


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[PrivatePostgres]:
    """A Postgres whose database `template_etl` is migrated."""
    installation: Path | None = request.config.getoption("--postgres")
    # fsync is what makes a commit survive the machine; the tests kill processes only, and are many. Without replicas,
    # less is written to the log.
    lean = {"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    settings = {**lean, "max_connections": "200"}
    with (
        _folder(_in_memory()) as folder,
        PrivatePostgres(folder / "pg", settings, installation=installation) as server,
    ):
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE template_etl")
        migrate(server.database_url("template_etl"))
        yield server


@pytest.fixture(scope="session")
def redis_server(session_folder: Path) -> Iterator[PrivateRedis]:
    with PrivateRedis(session_folder / "redis") as server:
        yield server


@pytest.fixture
def empty_database_url(postgres: PrivatePostgres) -> Iterator[str]:
    """A database without any schema."""
    yield from _database(postgres, "template0")


@pytest.fixture
def database_url(postgres: PrivatePostgres) -> Iterator[str]:
    """A migrated, empty database."""
    yield from _database(postgres, "template_etl")


def _database(postgres: PrivatePostgres, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE {template} STRATEGY file_copy')
        yield postgres.database_url(name)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def redis_client(redis_server: PrivateRedis) -> Iterator["redis.Redis"]:
    """A client of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def archive(redis_server: PrivateRedis, redis_client: "redis.Redis", database_url: str) -> Iterator[Archive]:
    """Both stores, empty, with settings that point to them."""
    with Archive(redis_server.url, database_url, redis_client) as world:
        yield world


@pytest.fixture
def writer(database_url: str) -> Iterator[Writer]:
    """What loads claims into the archive's database, for tests that make their own."""
    with engine(database_url) as connections:
        yield Writer(connections)
