"""Every command does what it always does, whatever the settings of its role, the variables around it, and the names
that others have taken: what is stored, read and proved is the session's own business."""

import contextlib
import itertools
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from etl.cli import COMMANDS
from etl.lab.servers.ports import free_port
from etl.lab.servers.private import PrivatePostgres
from tests import hostile
from tests.lake import DAY, with_lake
from tests.pgbouncer import pgbouncer
from tests.scrape import get
from tests.world import NAMES_FILE, Archive, api_cdr, cdr, eventually, migrate

SCHEMA = "archive"
NAMES = {"1": "Zoë Ž", "2": "日本 🎧", "3": "\u202eright to left", "4": "plain", "5": "naïve £ €", "6": "7e-3"}
EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'
KEY = "k" * 32
# Each command with what it's given, in the order of a day's life. Those without a word follow, and are ended.
JOURNEY = [
    *("db upgrade", "db current", "db check", "files {folder}", "check", "status --json", "run", "recall --json"),
    *(
        "gaps --json",
        "dead list --json",
        "dead show 1 --json",
        "dead replay --json",
        "rollup",
        "report reasons --day 2015-02-19 --format csv",
    ),
    *(
        "export",
        "lake publish",
        "lake expire",
        "lake status",
        "verify --deep",
        "prune --keep-days 1",
        "restore --day 2015-02-19 --prove",
        "restore --day 2015-02-19",
    ),
    *(
        "reconcile",
        "rollup --all",
        f"names import {NAMES_FILE}",
        "report campaign --day 2015-02-19 --format csv",
        "forget --contact M0666 --yes",
    ),
    *(
        "verify --deep",
        "reconcile",
        "simulate --cdrs 30 --days 2 --broken 0.1 --json",
        "listen",
        "serve",
        "run --follow",
        "run --json",  # what the signal made it give back
        "status",
    ),
]
# They start servers of their own, with roles of their own; every command begins by forgetting the environment's part.
OF_THEIR_OWN = {"demo", "selftest"}
# Thirty commands one after the other.
pytestmark = pytest.mark.timeout(600)
_numbers = itertools.count(1)


def test_the_journey_has_every_command() -> None:
    assert {step.split()[0] for step in JOURNEY} | OF_THEIR_OWN == {*COMMANDS}


@pytest.fixture
def hostile_role(postgres: PrivatePostgres) -> Iterator[str]:
    """A role for which everything is set that a user may set."""
    role = f"hostile_{next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as administrator:
        administrator.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
        for name, value in hostile.settings(administrator).items():
            quoted = sql.SQL(value) if name == "search_path" else sql.Literal(value)
            administrator.execute(
                sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(role), sql.Identifier(name), quoted)
            )
        yield role
        administrator.execute(f"DROP OWNED BY {role} CASCADE")
        administrator.execute(f"DROP ROLE {role}")


@contextmanager
def in_a_schema(archive: Archive, url: str) -> Iterator[Archive]:
    """An archive in a schema of its own, with others' objects of the same names where roles look by default."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute(f"CREATE SCHEMA {SCHEMA}")
        set_path = sql.SQL("ALTER DATABASE {} SET search_path = {}")
        administrator.execute(set_path.format(sql.Identifier(str(name)), sql.Identifier(SCHEMA)))
        migrate(url)
        hostile.make_decoys(administrator, SCHEMA, "public")
        hostile.make_decoys(administrator, SCHEMA, "decoys")
    with replace(archive, database_url=url) as world:
        yield world


def as_role(archive: Archive, role: str) -> Archive:
    """What `etl` is told; the test itself asks as before."""
    other = replace(archive, database_url=archive.database_url.replace("postgres@", f"{role}@"))
    other._connection = archive._connection
    return other


def go(archive: Archive, folder: Path, **environment: str) -> dict[str, str]:
    """All of the journey; returns what the commands printed."""
    with_lake(archive, folder / "lake")
    bad = cdr("7", number="07").replace(b'"dialed_at"', b'"dialled_at"')
    archive.push(*(cdr(ref, end_reason=name, number=f"0{ref}") for ref, name in NAMES.items()), bad, EVENT)
    archive.push(
        *(api_cdr(ref, end_reason=name) for ref, name in NAMES.items()),
        cdr("8", contact_ref="M0666", dialed_at="1424379960"),
    )
    said: dict[str, str] = {}
    for step in JOURNEY:
        arguments = step.format(folder=folder / "files").split()
        if step in ("listen", "serve", "run --follow"):
            said[step] = _follow(archive, arguments, environment)
            continue
        done = archive.run(*arguments, **environment, ETL_FORGET_KEY=KEY, ETL_LAKE_TABLE="iceberg")
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), f"{step}: {done.stdout}{done.stderr}"
        said[step] = done.stdout
    return said


def _follow(archive: Archive, arguments: list[str], environment: dict[str, str]) -> str:
    wall = f"127.0.0.1:{free_port()}"
    with archive.process(*arguments, **environment, ETL_WEB=wall) as process:
        if arguments == ["listen"]:
            eventually(lambda: archive.redis.pubsub_numpat() > 0)
            archive.redis.publish("enigma:notifications:agents:1002", EVENT)
            eventually(lambda: any(b'"started"' in each for each in archive.redis.lrange("etl:events", 0, -1)))
        elif arguments == ["serve"]:
            eventually(lambda: "<dt>calls out</dt><dd>0</dd>" in _shown(wall))
        else:
            eventually(lambda: sum(archive.redis.llen(source.key) for source in archive.sources) == 0)
            eventually(lambda: not any(archive.claims(source.key) for source in archive.sources))
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=200)
        assert (process.returncode, "outage" in errors, "Traceback" in errors) == (0, False, False), errors
        return output


def _shown(wall: str) -> str:
    """The page, or nothing as long as nobody answers."""
    with contextlib.suppress(OSError):
        return get(wall, "/").body
    return ""


def assert_arrived(archive: Archive, said: dict[str, str]) -> None:
    names = archive.rows("SELECT call_ref, end_reason FROM cdrs WHERE dialed_on = %s", DAY)
    assert {row["call_ref"]: row["end_reason"] for row in names} == {**NAMES, "8": "callee_hungup"}
    times = "SELECT DISTINCT dialed_at AT TIME ZONE 'UTC' AS at, ended_at - dialed_at AS length FROM cdrs"
    assert {str(row["at"]) for row in archive.rows(f"{times} WHERE dialed_on = %s", DAY)} == {"2015-02-19 21:06:00"}
    assert archive.value(
        "SELECT contact_ref LIKE 'forgotten:%%' OR contact_ref <> 'M0666' FROM cdrs WHERE call_ref = '8'"
    )
    (letter,) = json.loads(said["dead list --json"])["letters"]
    assert letter["reason"] == "missing_field"
    assert json.loads(said["status --json"])["postgres_error"] is None
    assert "2015-02-19" in said["report campaign --day 2015-02-19 --format csv"]
    archive.assert_books_balance()


def test_given_nothing_hostile_then_the_journey_is_as_it_should_be(archive: Archive, tmp_path: Path) -> None:
    assert_arrived(archive, go(archive, tmp_path))


def test_given_a_role_with_everything_set_hostile_then_all_is_as_ever(
    archive: Archive, hostile_role: str, empty_database_url: str, tmp_path: Path
) -> None:
    with in_a_schema(archive, empty_database_url) as world:
        ours = as_role(world, hostile_role)
        assert_arrived(world, go(ours, tmp_path))


def test_given_every_variable_of_libpq_then_all_is_as_ever(archive: Archive, tmp_path: Path) -> None:
    assert_arrived(archive, go(archive, tmp_path, **hostile.environment()))


@pytest.fixture
def pooled(archive: Archive, empty_database_url: str, session_folder: Path) -> Iterator[Archive]:
    """An archive in a schema of its own, by way of a pgbouncer that leaves tables behind: its first session has a
    temporary table for each name of the archive's, of some other client."""
    with (
        in_a_schema(archive, empty_database_url) as world,
        pgbouncer(session_folder, world.database_url, pool_mode="session", server_reset_query="DEALLOCATE ALL") as url,
    ):
        with psycopg.connect(url, autocommit=True) as another:
            hostile.make_tables(another, hostile.relations(another, SCHEMA), "TEMPORARY TABLE ")
        through = replace(world, database_url=url)
        through._connection = world._connection
        yield through


def test_given_a_pooler_and_others_names_everywhere_then_all_is_as_ever(pooled: Archive, tmp_path: Path) -> None:
    assert_arrived(pooled, go(pooled, tmp_path, **hostile.environment()))


WAYS = ("variables", "service")


@pytest.mark.parametrize("way", WAYS)
def test_where_postgres_is_and_who_asks_may_be_said_around_us(archive: Archive, tmp_path: Path, way: str) -> None:
    told = {name: str(value) for name, value in psycopg.conninfo.conninfo_to_dict(archive.database_url).items()}
    if way == "service":
        (tmp_path / "services").write_text("[here]\n" + "".join(f"{name}={value}\n" for name, value in told.items()))
        around = {"PGSERVICEFILE": str(tmp_path / "services"), "PGSERVICE": "here"}
    else:
        names = {option.keyword.decode(): option.envvar for option in psycopg.pq.Conninfo.get_defaults()}
        around = {(names[name] or b"").decode(): value for name, value in told.items()}
    with_lake(archive, tmp_path / "lake")
    archive.push(cdr("1"))
    for step in ("run", "export", "verify --deep"):
        done = archive.run(*step.split(), **around, ETL_DATABASE_URL="postgresql:///")
        assert done.returncode == 0, done.stderr
    assert archive.cdr("1")["end_reason"] == "callee_hungup"


def test_functions_with_their_owners_rights_look_in_no_others_schema(archive: Archive) -> None:
    functions = archive.rows(
        "SELECT oid::regprocedure::text AS name, proconfig FROM pg_proc WHERE prosecdef"
        " AND pronamespace IN ('public'::regnamespace, 'reporting'::regnamespace)"
    )
    assert len(functions) >= 5
    for function in functions:
        assert "search_path=pg_catalog, pg_temp" in (function["proconfig"] or []), function["name"]
