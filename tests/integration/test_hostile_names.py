"""Names that a setting may have, and that would be something else in SQL if they were pasted into it."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from etl.app import check as preflight
from etl.lab.servers.private import PrivatePostgres
from etl.settings import SourceSettings
from tests.lake import CALLS, DAY, assert_agrees, export, export_and_prune, lake, load, told, with_lake
from tests.store import ROLES
from tests.world import Archive, cdr, migrate

HOSTILE = (
    "we\"ird'; DROP TABLE cdrs; --",
    "%s %(x)s :x {x} $1 \\",
    "ünï cödé\N{RIGHT-TO-LEFT OVERRIDE}😀",
)
_numbers = itertools.count(1)


@pytest.fixture(params=HOSTILE, ids=["quotes", "placeholders", "unicode"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(postgres: PrivatePostgres, name: str) -> Iterator[str]:
    """A migrated database of that name, whose tables are in a schema of that name."""
    own = f"{name} {next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as administrator:
        administrator.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(own)))
        try:
            url = postgres.database_url(own)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
                to_schema = sql.SQL("ALTER DATABASE {} SET search_path = {}")
                connection.execute(to_schema.format(sql.Identifier(own), sql.Identifier(name)))
            migrate(url)
            yield url
        finally:
            administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(own)))


@pytest.fixture
def hostile(archive: Archive, database: str, name: str, tmp_path: Path) -> Iterator[Archive]:
    source = SourceSettings(key=name, forward_to=f"{name} {{forward}}")
    with replace(archive, database_url=database, sources=(source,)) as world:
        yield with_lake(world, tmp_path / "lake")


def test_given_hostile_names_then_every_way_goes_as_usual(hostile: Archive, name: str) -> None:
    load(hostile, cdr(1, ref=name), b"junk", b'{"type": "status", "payload": {}}', key=name)
    export_and_prune(hostile)
    load(hostile, cdr(1, call_time=5), cdr(2), key=name)
    assert export(hostile).what == "exported"
    with lake(hostile) as opened:
        assert opened.prove(CALLS, DAY, told).what == "proved"
        assert opened.restore(CALLS, DAY, told, into=f"{name} aside").rows == 2
    assert_agrees(hostile)
    assert hostile.value("SELECT DISTINCT source_key FROM dead_letters") == name
    aside = sql.SQL("SELECT count(*) AS n FROM {}").format(sql.Identifier(f"{name} aside", "cdrs")).as_string()
    assert hostile.value(aside.replace("%", "%%")) == 2
    assert hostile.redis.llen(f"{name} {{forward}}") == 5


def test_given_hostile_names_then_roles_and_preflight_are_right(hostile: Archive) -> None:
    with psycopg.connect(hostile.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    loader, keeper = (hostile.database_url.replace("postgres@", f"etl_{name}@", 1) for name in ("loader", "keeper"))
    as_loader = replace(hostile, database_url=loader, more={**hostile.more, "lake_database_url": keeper})

    found = {finding.about: finding for finding in preflight.check(as_loader.settings())}

    assert {about for about, finding in found.items() if finding.verdict == "wrong"} == set()
