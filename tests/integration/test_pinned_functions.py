"""Functions of ours, as pg_proc lists them: nobody's schema changes what they do, and not everybody may call them. And
the file of roles, run by an owner who is no superuser."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl.lab.servers.private import PrivatePostgres
from etl.store import schema
from tests.lake import SPOOL, heard, load
from tests.store import ROLES, engine
from tests.world import Archive, cdr

pytestmark = pytest.mark.versions

OURS = "pronamespace IN ('public'::regnamespace, 'reporting'::regnamespace, 'etl_staging'::regnamespace)"
PINNED = ("search_path=pg_catalog, pg_temp",)


def test_every_function_is_pinned_or_bound(archive: Archive) -> None:
    functions = archive.rows(f"SELECT oid::regprocedure::text AS name, proconfig, prosqlbody FROM pg_proc WHERE {OURS}")
    assert len(functions) > 30
    loose = [
        each["name"] for each in functions if each["prosqlbody"] is None and PINNED[0] not in (each["proconfig"] or [])
    ]
    assert loose == []


def test_no_function_is_anybodys_to_call(archive: Archive) -> None:
    public = "has_function_privilege('public', oid, 'EXECUTE')"
    query = f"SELECT oid::regprocedure::text AS name FROM pg_proc WHERE {OURS} AND {public}"
    assert archive.rows(query) == []


# -- a schema of the attacker's own, first in the path

# Whatever ours may call of pg_catalog, and it says what an attacker would like to hear.
DECOYS = """
DO $$
DECLARE
    name text;
    arguments text;
BEGIN
    FOR name, arguments IN
        SELECT DISTINCT proname, one FROM pg_proc
        CROSS JOIN (VALUES ('VARIADIC text[]'), ('text, text'), ('oid, text')) AS arguments (one)
        WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ (
            '^(has_|pg_has_|regexp_|repeat$|right$|length$|strpos$|translate$|left$|encode$|sha256$|concat' ||
            '|octet_length$|convert_to$|to_reg)'
        )
    LOOP
        EXECUTE format(
            'CREATE FUNCTION attacker.%I(%s) RETURNS boolean LANGUAGE sql AS %L', name, arguments, 'SELECT true'
        );
    END LOOP;
END
$$;
CREATE FUNCTION attacker.yes(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION attacker.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR attacker.= (LEFTARG = name, RIGHTARG = text, FUNCTION = attacker.yes);
CREATE OPERATOR attacker.= (LEFTARG = text, RIGHTARG = text, FUNCTION = attacker.yes);
CREATE OPERATOR attacker.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = attacker.yes);
CREATE TABLE attacker.pg_roles AS SELECT 'etl_reporting_numbers'::name AS rolname, 10::oid AS oid;
CREATE DOMAIN attacker.text AS pg_catalog.text;
CREATE DOMAIN attacker.date AS pg_catalog.date;
"""
NUMBER = "07009123456"


@pytest.fixture
def attacked(archive: Archive) -> Iterator["psycopg.Connection[Any]"]:
    """A session of etl_reporting, with everything that it could want in a schema of its own, which comes first."""
    day = int(datetime(2025, 3, 1, 12, tzinfo=UTC).timestamp())
    load(archive, cdr(1, number=NUMBER, dialed_at=day, contact_ref=NUMBER, recording_url=f"{NUMBER}.wav"))
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        administrator.execute("CREATE SCHEMA attacker AUTHORIZATION etl_reporting")
    with psycopg.connect(archive.database_url.replace("postgres@", "etl_reporting@"), autocommit=True) as session:
        session.execute("SET default_transaction_read_only = off")
        session.execute(DECOYS)
        session.execute("SET search_path = attacker, pg_catalog, reporting")
        yield session


def test_a_schema_of_ones_own_unmasks_no_number(attacked: "psycopg.Connection[Any]") -> None:
    assert attacked.execute("SELECT pg_catalog.count(*) FROM reporting.calls").fetchone() == (1,)
    functions = attacked.execute(
        "SELECT pg_catalog.format('reporting.%I(%s)', p.proname, CASE p.pronargs WHEN 1 THEN '''2025-03-01'''"
        " ELSE '''2025-03-01'', ''2025-03-02''' END) FROM pg_catalog.pg_proc p"
        " WHERE p.pronamespace OPERATOR(pg_catalog.=) 'reporting'::pg_catalog.regnamespace AND p.proretset"
        " AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')"
    ).fetchall()
    assert len(functions) >= 14
    for source in ("reporting.calls", "reporting.contact_history", *(name for (name,) in functions)):
        said = str(attacked.execute(f"SELECT * FROM {source}".encode()).fetchall())
        assert NUMBER[-7:] not in said, source
    assert attacked.execute("SELECT reporting.sees_numbers()").fetchone() == (False,)


def test_a_cheap_function_in_where_sees_nothing_before_the_mask(attacked: "psycopg.Connection[Any]") -> None:
    told: list[str] = []
    attacked.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
    attacked.execute(
        "CREATE FUNCTION attacker.peek(whole pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql COST 0.0001 AS"
        " $$ BEGIN RAISE NOTICE '%', whole; RETURN true; END $$"
    )
    attacked.execute("SET plan_cache_mode = auto")
    sources = (
        "calls",
        "calls_on('2025-03-01')",
        "contact_history",
        "contact_history_on('2025-03-01')",
        "contact_calls",
    )
    for source in sources:
        for column in ("contact_ref", "number", "call_ref"):
            attacked.execute(f"SELECT 1 FROM reporting.{source} WHERE attacker.peek({column})".encode())
    assert len(told) >= 10
    assert [said for said in told if NUMBER[-7:] in said] == []


# -- partitions


def test_an_event_heard_by_a_wrong_clock_holds_up_no_other(archive: Archive) -> None:
    ahead = datetime.now(UTC).date() + timedelta(days=30)
    load(archive, heard(1, ahead), heard(2), key=SPOOL)
    today = datetime.now(UTC).date()
    days = {row["captured_on"] for row in archive.rows("SELECT captured_on FROM audit_events")}
    assert len(days) == 2
    assert max(days) in {today, today - timedelta(days=1)}, "as it was claimed"
    assert archive.rows("SELECT reason FROM dead_letters") == []


# -- an owner who is no superuser


def test_the_roles_are_made_by_an_owner_who_is_no_superuser(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    installation = request.config.getoption("--postgres")
    with PrivatePostgres(tmp_path / "pg", {"fsync": "off"}, installation=installation) as server:
        with psycopg.connect(server.url, autocommit=True) as superuser:
            superuser.execute("CREATE ROLE landlord LOGIN CREATEROLE CREATEDB NOSUPERUSER")
            superuser.execute("CREATE DATABASE house OWNER landlord")
        url = server.database_url("house")
        landlord = url.replace("postgres@", "landlord@")
        with engine(landlord) as connections:
            schema.upgrade(connections)
        for _ in range(2):
            with psycopg.connect(landlord, autocommit=True) as connection:
                connection.execute(ROLES)
        with psycopg.connect(landlord, autocommit=True) as connection:
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
                False,
            )
            owners = (
                "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'reporting'::regnamespace"
            )
            assert connection.execute(owners).fetchall() == [("etl_owner",)]
        for role, may in (
            ("etl_loader", "SELECT count(*) FROM cdrs"),
            ("etl_reporting", "SELECT * FROM reporting.calls"),
        ):
            with psycopg.connect(url.replace("postgres@", f"{role}@"), autocommit=True) as connection:
                connection.execute(may.encode())
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute("SELECT * FROM reporting.secret; DELETE FROM cdrs")
        with engine(url.replace("postgres@", "etl_owner@")) as connections:
            schema.upgrade(connections)


def test_what_is_dumped_can_be_restored(archive: Archive, postgres: PrivatePostgres) -> None:
    """With functions that are bound to views, views that call functions, and an index that calls one."""
    load(archive, cdr(1, contact_ref="M1"))
    archive.rows("SELECT reporting.index_contacts('2015-02-19')")
    command = [str(postgres.bin / "pg_dump"), "--format=plain", "--dbname", archive.database_url]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name = "restored_of_functions"
    with psycopg.connect(postgres.url, autocommit=True) as administrator:
        administrator.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    url = postgres.database_url(name)
    restore = [str(postgres.bin / "psql"), "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--quiet", "--dbname", url]
    done = subprocess.run(restore, input=dump, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT call_ref FROM reporting.contact_history_on('2015-02-19')").fetchall() == [
            ("1",)
        ]
    with psycopg.connect(postgres.url, autocommit=True) as administrator:
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
