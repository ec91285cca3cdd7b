"""The roles and the ACL that we ship: all of etl works with them, and what it shouldn't do is refused."""

import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from alembic import command
from psycopg.errors import InsufficientPrivilege, InvalidName, ReadOnlySqlTransaction
from redis.exceptions import AuthenticationError, NoPermissionError

from etl.app import check as preflight
from etl.app.database import engine_of, gaps, rollup
from etl.app.replay import replay_dead_letters
from etl.errors import ConfigurationError
from etl.inbox import rights
from etl.inbox.connection import connect
from etl.inbox.rights import Needs, SourceList
from etl.keys import SPOOL
from etl.lab.servers.private import PrivateRedis
from etl.settings import Settings
from etl.store import dead_letters, schema
from etl.store.dead_letters import Wanted
from etl.store.locks import DAY_LOCKS
from tests.integration.conftest import PASSWORD
from tests.lake import (
    CALLS,
    DAY,
    EVENTS,
    assert_agrees,
    export,
    export_and_prune,
    lake,
    load,
    on,
    prune,
    restore,
    told,
    with_lake,
)
from tests.store import ROLES, ROLES_FILE, engine
from tests.world import CAMPAIGNS, CLICK2DIAL, Archive, cdr, eventually

OPS = Path(__file__).parents[2] / "ops"
ACL = (OPS / "redis/etl.acl").read_text()
TABLES = (
    "cdrs",
    "cdr_revisions",
    "audit_events",
    "audit_gaps",
    "listener_sessions",
    "retired_servers",
    "load_batches",
    "load_batch_days",
    "dead_letters",
    "exports",
    "forgotten",
    "lake_drafts",
    "lake_table_files",
    "list_identities",
    "set_backs",
    "united_days",
    "counted_days",
)
VIEWS = (
    "calls",
    "events",
    "agent_states",
    "campaign_days",
    "campaign_hours",
    "agent_days",
    "agent_hours",
    "contact_history",
    "call_audit",
    "unmatched_calls",
    "twins",
    "load_days",
)
STATUS = b'{"type": "status", "payload": {"status": "available", "ref": "1002"}}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """A Redis with the users of the file, and passwords for them."""
    folder = tmp_path_factory.mktemp("redis")
    users = folder / "users.acl"
    users.write_text(ACL.replace(" on ", f" on >{PASSWORD} "))
    with PrivateRedis(folder / "data", {"aclfile": str(users)}) as private:
        yield private


def client_of(server: PrivateRedis, user: str) -> "redis.Redis":
    return redis.Redis(port=server.port, username=user, password=PASSWORD, protocol=2)


def as_role(database_url: str, role: str) -> str:
    return database_url.replace("postgres@", f"{role}@")


def keeper(archive: Archive) -> str:
    return as_role(archive.database_url.replace("etl_loader@", "postgres@"), "etl_keeper")


@pytest.fixture
def guarded(server: PrivateRedis, database_url: str, tmp_path: Path) -> Iterator[Archive]:
    """An archive whose etl is `etl` in Redis, and in Postgres `etl_loader`, or `etl_keeper` for the lake; the test
    itself may do anything."""
    with psycopg.connect(database_url, autocommit=True) as administrator:
        for _ in range(2):  # it can be run again
            administrator.execute(ROLES)
    with client_of(server, "default") as anybody:
        anybody.flushall()
        with Archive(f"redis://etl:{PASSWORD}@127.0.0.1:{server.port}/0", database_url, anybody) as all_rights:
            all_rights.sources = Settings().sources
            loader = replace(
                all_rights,
                database_url=as_role(database_url, "etl_loader"),
                more={"lake_database_url": as_role(database_url, "etl_keeper")},
            )
            loader._connection = all_rights._connection
            yield with_lake(loader, tmp_path / "lake")


def test_given_rows_that_postgres_refuses_then_the_loader_may_find_them(guarded: Archive) -> None:
    event = b'{"type": "stats", "payload": {"ref": "2040", "x": %s}}'
    load(guarded, cdr(1, call_time=1), event % b"1")
    large = [message.replace(b"4711", b"9" * 131_073) for message in (cdr(2, x=4711), cdr(1, x=4711), event % b"4711")]

    guarded.push(cdr(1, call_time=2), *large, event % b"2")
    books = guarded.load()

    assert (books.updated, books.events, books.dead) == (1, 1, 3)
    guarded.assert_books_balance()


@pytest.mark.skipif(not shutil.which("psql"), reason="psql isn't installed")
def test_given_an_error_then_plain_psql_stops_at_it_and_says_so(empty_database_url: str) -> None:
    command = ["psql", "--no-psqlrc", "--dbname", empty_database_url, "--file", str(ROLES_FILE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # of a database without a schema

    assert result.returncode == 3, result.stderr
    assert result.stderr.count("ERROR") == 1, result.stderr


def test_given_the_roles_and_the_acl_then_loading_and_listening_work(guarded: Archive, server: PrivateRedis) -> None:
    with client_of(server, "dialler") as dialler, guarded.process("run", "--follow", "--no-schedule") as process:
        dialler.lpush(CAMPAIGNS, cdr(1), on(1, 2), cdr(1, call_time=5), b"junk", cdr(3, x=1))
        dialler.rpush(CLICK2DIAL, cdr(1))
        eventually(lambda: guarded.value("SELECT count(*) FROM listener_sessions"), what="nobody listens")
        dialler.publish("enigma:notifications:agents:1002", STATUS)
        eventually(
            lambda: (
                guarded.value("SELECT count(*) FROM cdrs") == 4
                and guarded.value("SELECT count(*) FROM audit_events") == 1
            ),
            what="not all was loaded",
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, process.communicate()
    guarded.load()  # the report of the session's end
    assert guarded.value("SELECT count(*) FROM cdr_revisions") == 1
    assert guarded.value("SELECT reason FROM listener_sessions") == "stopped"
    guarded.assert_books_balance()


def test_given_the_roles_and_the_acl_then_everything_else_works(guarded: Archive) -> None:
    load(guarded, cdr(1), on(1, 2), b"junk", b"junk, too", STATUS)
    today = datetime.now(UTC)

    # the lake, its dangerous way first: a late CDR of a forgotten day, which contradicts
    export_and_prune(guarded)
    load(guarded, cdr(1, call_time=5), cdr(9))
    assert export(guarded).what == "exported"
    assert guarded.value("SELECT count(*) FROM cdr_revisions") == 1
    assert prune(guarded).what == "dropped"
    assert restore(guarded).rows == 2
    with lake(guarded) as opened:
        assert opened.prove(CALLS, DAY, told).what == "proved"
        assert opened.export(EVENTS, today.date(), told).what == "exported"
    export(guarded, DAY + timedelta(days=1))
    assert_agrees(guarded)
    # dead letters, gaps, the preflight
    settings = guarded.settings()
    assert {DAY, DAY + timedelta(days=1)} <= {*rollup(settings, False, print)}
    assert guarded.value("SELECT sum(attempts) FROM reporting.campaign_days") == 3
    assert guarded.value("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%%open_reference(contact_ref,%%'") == 2
    with engine_of(settings) as connections:
        first, second = (letter.id for letter in dead_letters.find(connections, Wanted()))
        assert dead_letters.discard(connections, Wanted([first]), "noise") == 1
    assert replay_dead_letters(settings, Wanted([second]), told).still_dead == 1
    assert gaps(settings, today, today)[0:0] == []
    found = list(preflight.check(settings))
    assert {finding.about: finding for finding in found if finding.verdict == "wrong"} == {}
    assert {finding.about for finding in found if finding.about.endswith("rights") and finding.verdict == "fine"} == {
        "Postgres rights",
        "Redis rights",
    }
    assert {finding.about for finding in found if finding.about.startswith("Postgres rights")} == {
        "Postgres rights",
        "Postgres rights of the lake",
        "Postgres rights unneeded",
    }


def test_given_the_roles_then_etl_owner_upgrades_and_nobody_else(guarded: Archive, empty_database_url: str) -> None:
    """Nobody but the owner, of an archive that 0.1 made."""
    with psycopg.connect(empty_database_url, autocommit=True) as administrator:
        administrator.execute(f'ALTER DATABASE "{administrator.info.dbname}" OWNER TO etl_owner')
        administrator.execute("ALTER SCHEMA public OWNER TO etl_owner")
    with engine(as_role(empty_database_url, "etl_owner")) as owner:
        with owner.begin() as connection:
            config = schema._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0007")
        owner_of = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO etl_loader"
        with owner.begin() as connection:
            connection.exec_driver_sql(owner_of)
        with (
            engine(as_role(empty_database_url, "etl_loader")) as loader,
            pytest.raises(ConfigurationError, match="must be owner"),
        ):
            schema.upgrade(loader)

        assert schema.upgrade(owner) == ("0007", schema.needed())


# -- Postgres refuses


def allowed(url: str, statements: Iterable[str], refusal: type[psycopg.Error] = InsufficientPrivilege) -> list[str]:
    """Those of the statements that aren't refused for this very reason."""

    def is_allowed(statement: str) -> bool:
        try:
            with psycopg.connect(url) as connection:
                connection.execute(statement)
        except refusal:
            return False
        return True

    return [statement for statement in statements if is_allowed(statement)]


def test_given_the_loader_then_what_is_not_its_business_is_refused(guarded: Archive) -> None:
    load(guarded, cdr(1), b"junk", STATUS)
    statements = [
        *(
            f"{what} {table}"
            for what in ("DROP TABLE", "TRUNCATE", "DELETE FROM")
            for table in ("cdrs", "dead_letters")
        ),
        "DELETE FROM audit_events",
        "DROP TABLE cdrs_20150219",
        "DELETE FROM cdrs_20150219",
        "ALTER TABLE cdrs DETACH PARTITION cdrs_20150219",
        "ALTER TABLE cdrs ADD COLUMN x int",
        "CREATE INDEX ON cdrs (number)",
        "ALTER TABLE cdrs DISABLE TRIGGER keep_version",
        "DELETE FROM load_batches",
        "UPDATE load_batches SET claimed = 0",
        "UPDATE load_batch_days SET inserted = 0",
        "DELETE FROM cdr_revisions",
        "UPDATE dead_letters SET raw = ''",
        "CREATE TABLE public.mine (x int)",
        "CREATE SCHEMA mine",
        "CREATE OR REPLACE FUNCTION make_partition(dataset text, day date) RETURNS void LANGUAGE sql AS ''",
        "INSERT INTO forgotten (subject, hash, worker) VALUES ('number', 'x', 'x')",
        "SELECT * FROM pg_authid",
        "SET ROLE etl_owner",
        "CREATE ROLE mine",
        "COPY cdrs TO PROGRAM 'cat'",
    ]
    assert allowed(guarded.database_url, statements) == []
    assert allowed(keeper(guarded), statements) == []


@pytest.mark.parametrize(
    "dataset",
    ["pg_class", "cdrs; DROP TABLE cdrs", 'cdrs" (x int); --', "load_batches", "cdrs_20150219", "", "CDRS", "ćdrs"],
)
def test_given_another_table_then_the_owners_functions_do_nothing(guarded: Archive, dataset: str) -> None:
    for call in (
        "SELECT make_partition(%s, '2015-02-19')",
        "SELECT lock_partition(%s, '2015-02-19')",
        "SELECT drop_day(%s, '2015-02-19', 1, '')",
    ):
        with psycopg.connect(keeper(guarded)) as connection, pytest.raises(InvalidName):
            connection.execute(call, [dataset])


@pytest.mark.parametrize("day", ["1999-12-31", "infinity", "-infinity", "10000-01-01"])
def test_given_a_day_without_a_name_then_it_gets_no_partition(guarded: Archive, day: str) -> None:
    assert allowed(guarded.database_url, [f"SELECT make_partition('cdrs', '{day}')"], InvalidName) == []


def test_given_tables_of_the_loader_then_the_owners_functions_miss_them(guarded: Archive) -> None:
    """A search path is anybody's to set, and temporary tables come first in it."""
    load(guarded, cdr(1))
    with psycopg.connect(keeper(guarded), autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE exports AS SELECT 'cdrs' AS dataset, date '2015-02-19' AS day")
        connection.execute("CREATE TEMPORARY TABLE cdrs (LIKE public.cdrs)")
        connection.execute("SET search_path = pg_temp, public")
        connection.execute(HOLD)
        connection.execute("SELECT make_partition('cdrs', '2015-02-20')")
        forgotten = connection.execute("SELECT drop_day('cdrs', '2015-02-19', 1, '')").fetchone()
    assert forgotten == (False,)
    assert guarded.value("SELECT 'cdrs_20150220'::regclass::oid IN (SELECT inhrelid FROM pg_inherits)")
    assert guarded.value("SELECT count(*) FROM cdrs") == 1


@pytest.mark.parametrize(
    "doubt", ["never exported", "not published", "changed since", "another file", "not the latest"]
)
def test_given_a_day_that_the_lake_has_not_then_no_function_forgets_it(guarded: Archive, doubt: str) -> None:
    load(guarded, cdr(1))
    number, digest = 1, "0"
    if doubt != "never exported":
        export(guarded)
        digest = guarded.value("SELECT sha256 FROM exports")
    with psycopg.connect(guarded.database_url.replace("etl_loader@", "postgres@"), autocommit=True) as c:
        if doubt == "not published":
            c.execute("UPDATE exports SET published_at = NULL")
        if doubt == "not the latest":
            c.execute("CREATE TEMPORARY TABLE e AS SELECT * FROM exports")
            c.execute("UPDATE e SET revision = 2, published_at = NULL")
            c.execute("INSERT INTO exports SELECT * FROM e")
    if doubt == "changed since":
        load(guarded, cdr(2))
    if doubt == "another file":
        digest = digest[::-1]

    with psycopg.connect(keeper(guarded), autocommit=True) as connection:
        connection.execute(HOLD)
        call = "SELECT drop_day('cdrs', '2015-02-19', %s, %s)"
        assert connection.execute(call, [number, digest]).fetchone() == (False,)
    assert guarded.value("SELECT count(*) FROM cdrs") >= 1


def _held(kind: int, day: int, how: str = "pg_advisory_lock") -> str:
    return f"SELECT {how}({kind}, {day})"


OF_THE_DAY = (DAY_LOCKS["cdrs"], (DAY - date(2000, 1, 1)).days)
HOLD = _held(*OF_THE_DAY)  # the day of `DAY`, for as long as the session lasts
NOT_THE_LOCK = {
    "none": "SELECT 1",
    "another session's": HOLD,
    "another day's": _held(OF_THE_DAY[0], OF_THE_DAY[1] + 1),
    "another dataset's": _held(DAY_LOCKS["audit_events"], OF_THE_DAY[1]),
    "shared": _held(*OF_THE_DAY, "pg_advisory_lock_shared"),
    "one number": f"SELECT pg_advisory_lock({OF_THE_DAY[0] << 32 | OF_THE_DAY[1]})",
    "given back": f"{HOLD}; SELECT pg_advisory_unlock({OF_THE_DAY[0]}, {OF_THE_DAY[1]})",
}


@pytest.mark.parametrize("lock", NOT_THE_LOCK)
def test_given_a_session_without_the_days_lock_then_it_drops_nothing(guarded: Archive, lock: str) -> None:
    load(guarded, cdr(1))
    export(guarded)
    digest = guarded.value("SELECT sha256 FROM exports")
    call = "SELECT drop_day('cdrs', '2015-02-19', 1, %s)"
    with (
        psycopg.connect(keeper(guarded), autocommit=True) as ours,
        psycopg.connect(keeper(guarded), autocommit=True) as other,
    ):
        (other if lock == "another session's" else ours).execute(NOT_THE_LOCK[lock])
        with pytest.raises(InsufficientPrivilege, match="must hold its lock"):
            ours.execute(call, [digest])
        assert guarded.value("SELECT count(*) FROM cdrs") == 1
        assert guarded.value("SELECT count(dropped_at) FROM exports") == 0

        for each in (ours, other):
            each.execute("SELECT pg_advisory_unlock_all()")
        ours.execute(HOLD)
        assert ours.execute(call, [digest]).fetchone() == (True,)


def test_given_the_reports_role_then_it_asks_the_views_and_no_more(guarded: Archive) -> None:
    load(guarded, cdr(1), b"junk", STATUS)
    url = guarded.database_url.replace("etl_loader@", "etl_reporting@")
    with psycopg.connect(url, autocommit=True) as connection:
        for view in VIEWS:
            connection.execute(f"SELECT * FROM reporting.{view}")
        assert connection.execute("SELECT call_ref FROM reporting.calls").fetchall() == [("1",)]
    secret = (
        *(f"SELECT * FROM {table}" for table in TABLES),
        "SELECT raw FROM dead_letters",
        "SELECT * FROM reporting.calls_unmasked",
        "SELECT * FROM pg_authid",
    )
    writing = (
        "INSERT INTO load_batch_days VALUES (gen_random_uuid(), 'cdrs', '2015-02-19', 1, 0)",
        "UPDATE cdrs SET number = ''",
        *(f"DELETE FROM {table}" for table in TABLES if table != "audit_gaps"),
        "UPDATE reporting.settings SET zone = 'Europe/London'",
        "DELETE FROM reporting.campaign_figures",
        "SELECT reporting.index_contacts('2015-02-19')",
        "CREATE TABLE public.mine (x int)",
        "CREATE TABLE etl_staging.mine (x int)",
        "CREATE TABLE reporting.mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "SELECT make_partition('cdrs', '2015-02-20')",
        f"{HOLD}; SELECT drop_day('cdrs', '2015-02-19', 1, '')",
        "SET ROLE etl_reporting_numbers",
    )
    assert allowed(url, [*secret, *(f"SET TRANSACTION READ WRITE; {statement}" for statement in writing)]) == []
    assert allowed(url, ["CREATE SCHEMA mine"], ReadOnlySqlTransaction) == []


# -- Redis refuses


def test_given_the_file_as_it_is_then_nobody_gets_in(tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text(ACL)
    with PrivateRedis(tmp_path / "redis", {"aclfile": str(tmp_path / "users.acl")}) as untouched:
        for user in ("default", "etl", "dialler"):
            for password in ("", PASSWORD):
                with (
                    redis.Redis(port=untouched.port, username=user, password=password, protocol=2) as client,
                    pytest.raises(AuthenticationError),
                ):
                    client.execute_command("PING")


def test_given_default_settings_then_the_file_grants_what_preflight_asks() -> None:
    settings = Settings()
    lists = [SourceList(source.key, source.take_from, source.forward_to) for source in settings.sources]
    with connect("redis://127.0.0.1:1/0") as client:  # which connects when it's asked for something
        minimal = rights.minimal(client, Needs(lists, SPOOL, settings.listen_patterns))

    assert f"user etl on resetkeys resetchannels -@all {minimal}\n" in ACL


REFUSED: dict[str, Sequence[Sequence[Any]]] = {
    "etl": [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "SET", "appendonly", "no"),
        ("CONFIG", "GET", "*"),
        ("ACL", "SETUSER", "etl", "+@all"),
        ("SHUTDOWN",),
        ("KEYS", "*"),
        ("DEL", "crm:customers"),
        ("UNLINK", "crm:customers"),
        ("GET", "crm:customers"),
        ("LPUSH", "crm:queue", "x"),
        ("RENAME", CAMPAIGNS, "crm:queue"),
        ("RPOP", CAMPAIGNS),  # not even the safe way's opposite
        ("LRANGE", "enigma:notifications:agents", 0, -1),
        ("PUBLISH", "crm:events", "x"),
        ("EVAL", "return 1", 0),
        ("REPLICAOF", "NO", "ONE"),
        ("MONITOR",),
    ],
    "dialler": [
        ("FLUSHALL",),
        ("LRANGE", CAMPAIGNS, 0, -1),
        ("RPOP", CAMPAIGNS),
        ("DEL", CAMPAIGNS),
        ("LPUSH", "etl:events", "x"),
        ("LPUSH", f"{{{CAMPAIGNS}}}:claim:x", "x"),
        ("PUBLISH", "etl:probe:x", "0 1 1"),
        ("SUBSCRIBE", "enigma:notifications:agents"),
        ("EVAL", "return 1", 0),
        ("CONFIG", "GET", "*"),
    ],
}


@pytest.mark.parametrize("user", REFUSED)
def test_given_a_user_then_what_is_not_its_business_is_refused(server: PrivateRedis, user: str) -> None:
    def is_allowed(command: Sequence[Any]) -> bool:
        try:
            client.execute_command(*command)
        except NoPermissionError:
            return False
        return True

    with client_of(server, user) as client:
        assert [command for command in REFUSED[user] if is_allowed(command)] == []


def test_given_the_loader_then_it_can_not_take_a_row_away(guarded: Archive) -> None:
    """A key can be changed by UPDATE, and unite_legs then deletes: the books balance all the same."""
    load(guarded, cdr("victim", call_time=77), cdr("other"))
    with psycopg.connect(guarded.database_url) as loader, pytest.raises(InsufficientPrivilege):
        loader.execute("UPDATE cdrs SET call_ref = 'other', leg = 1 WHERE call_ref = 'victim'")
    with psycopg.connect(guarded.database_url) as loader:
        loader.execute("SELECT unite_legs('2015-02-19', 10, gen_random_uuid(), 'x')")
    assert guarded.value("SELECT count(*) FROM cdrs") == 2
