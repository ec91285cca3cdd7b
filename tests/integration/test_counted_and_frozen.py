"""What whoever has the loader's password could stop, by numbers that Postgres counts or by the net for the frozen; and
what can't be done any more."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from etl.errors import Outage
from etl.store.frozen import Net
from etl.store.preflight_rights import UNNEEDED
from etl.store.writer import Writer
from tests.integration.test_attacks import checked, run_as_owner
from tests.integration.test_least_privilege import as_role
from tests.store import ROLES, engine, write
from tests.world import Archive, cdr, eventually

pytestmark = pytest.mark.versions

COUNTED = """
    SELECT c.oid::regclass::text AS name, a.attname AS id FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.attidentity = 'a' AND c.relnamespace IN ('public'::regnamespace, 'reporting'::regnamespace) ORDER BY 1
"""
LOGINS = ("etl_loader", "etl_keeper", "etl_reporting")
# As an installation has it that hasn't run roles.sql since, and 0.1's own.
RIGHTS_OF_0_1 = "GRANT INSERT ON cdr_revisions, dead_letters, set_backs TO etl_loader"


@pytest.fixture
def guarded(archive: Archive) -> Archive:
    run_as_owner(archive, ROLES)
    return archive


def as_login(archive: Archive, login: str, statement: str) -> None:
    with psycopg.connect(as_role(archive.database_url, login)) as connection:
        connection.execute("SET TRANSACTION READ WRITE")
        connection.execute(statement.encode())


# -- numbers that Postgres counts


def ahead(archive: Archive, table: str) -> str:
    """Takes numbers of a table before Postgres gives them."""
    kinds = {"uuid": "gen_random_uuid()", "date": "now()::date", "timestamp with time zone": "now()", "bytea": "''"}
    columns = archive.rows(
        "SELECT attname, format_type(atttypid, NULL) AS kind FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND attnotnull AND attidentity = '' AND NOT atthasdef",
        table,
    )
    names = ", ".join(each["attname"] for each in columns)
    values = ", ".join(kinds.get(each["kind"], "'1'") for each in columns)
    last = archive.value(f"SELECT coalesce(max(id), 0) FROM {table}")
    rows = f"SELECT {last} + n, {values} FROM generate_series(1, 999) n"
    return f"INSERT INTO {table} (id, {names}) OVERRIDING SYSTEM VALUE {rows}"


def test_given_a_login_then_it_can_not_fill_a_counted_id_ahead(guarded: Archive) -> None:
    counted = guarded.rows(COUNTED)
    assert {"cdr_revisions", "dead_letters", "set_backs"} <= {each["name"] for each in counted}
    for table in counted:
        for login in LOGINS:
            with pytest.raises(InsufficientPrivilege):
                as_login(guarded, login, ahead(guarded, table["name"]))


def test_given_0_1s_rights_then_ids_filled_ahead_kept_claims_out(guarded: Archive, writer: Writer) -> None:
    """What contradicted a CDR became a dead letter, until no dead letter could be written either."""
    write(writer, cdr(1))
    run_as_owner(guarded, RIGHTS_OF_0_1)

    as_login(guarded, "etl_loader", ahead(guarded, "cdr_revisions"))
    books = write(writer, cdr(1, call_time=9))
    as_login(guarded, "etl_loader", ahead(guarded, "dead_letters"))

    assert books is not None
    assert (books.updated, books.dead) == (0, 1)
    with pytest.raises(Outage, match="dead_letters_pkey"):
        write(writer, b"junk")


def test_given_columns_then_roles_sql_names_all_but_what_is_counted(guarded: Archive) -> None:
    """Of a table whose columns are granted one by one, a new column would be forgotten."""
    not_to_insert = {
        "cdr_revisions": {"id", "replaced_at"},
        "dead_letters": {"id", "resolved_at", "resolution"},
        "set_backs": {"id"},
    }
    for table, but in not_to_insert.items():
        lacking = guarded.rows(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            " AND NOT has_column_privilege('etl_loader', attrelid, attnum, 'INSERT')",
            table,
        )
        assert {each["attname"] for each in lacking} == but, table


def test_given_rights_on_counted_ids_then_check_says_run_the_file(guarded: Archive) -> None:
    run_as_owner(guarded, RIGHTS_OF_0_1)
    administrators = guarded.database_url
    guarded.database_url = as_role(administrators, "etl_loader")
    guarded.more = {"lake_database_url": as_role(administrators, "etl_keeper")}
    found = checked(guarded)
    assert (found["Postgres rights"].verdict, found[UNNEEDED].verdict) == ("fine", "warning")
    for table in ("cdr_revisions", "dead_letters", "set_backs"):
        assert f"INSERT (id) on {table}" in found[UNNEEDED].says
    run_as_owner(guarded, ROLES)
    found = checked(guarded)
    assert (found["Postgres rights"].verdict, found[UNNEEDED].verdict) == ("fine", "fine")


# -- the net for the frozen

AN_ETL = f"SELECT pg_advisory_lock_shared({0x65746C08}, 0)"
HEALTHY = [
    "UPDATE cdrs SET extra = '{\"x\": 1}'",
    "LOCK TABLE ONLY cdrs IN ACCESS EXCLUSIVE MODE",
    "INSERT INTO forgotten (subject, hash, worker) VALUES ('number', 'x', 'x')",
]
# Below the floor, however it's spelled.
SECONDS = ("-1", "0", "'-Infinity'", "1e-300", "-1e308", "59")
FLOOR = "greatest(end_frozen_of_the_owner.seconds, 60)"


@contextmanager
def between_statements(archive: Archive, statement: str) -> "Iterator[psycopg.Connection[Any]]":
    """A maintenance of the owner's, that thinks before its next statement."""
    with closing(psycopg.connect(as_role(archive.database_url, "etl_owner"), autocommit=True)) as owner:
        owner.execute(AN_ETL)
        owner.execute("SELECT set_config('etl.release', '0.2.0', false)")
        owner.execute("BEGIN")
        owner.execute(statement.encode())
        waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'ClientRead'"
        eventually(lambda: archive.value(waits, owner.info.backend_pid) == 1)
        yield owner


def ended(archive: Archive, seconds: str) -> list[int]:
    """As the loader; whom the function ended."""
    with psycopg.connect(as_role(archive.database_url, "etl_loader"), autocommit=True) as attacker:
        query = f"SELECT pid FROM end_frozen_of_the_owner({seconds}) WHERE ended"
        return [pid for (pid,) in attacker.execute(query.encode()).fetchall()]


def with_floor(archive: Archive, floor: str) -> None:
    """Whoever owns the function may."""
    (found,) = archive.rows("SELECT pg_get_functiondef('end_frozen_of_the_owner'::regproc) AS words")
    assert FLOOR in found["words"]
    run_as_owner(archive, found["words"].replace(FLOOR, floor))


@pytest.mark.parametrize("statement", HEALTHY)
def test_given_who_is_not_frozen_then_no_argument_ends_it(guarded: Archive, writer: Writer, statement: str) -> None:
    write(writer, cdr(1))
    with between_statements(guarded, statement) as owner:
        for seconds in SECONDS:
            assert ended(guarded, seconds) == []
        owner.execute("COMMIT")

    with between_statements(guarded, statement) as owner:
        with_floor(guarded, "end_frozen_of_the_owner.seconds")  # so it was
        assert ended(guarded, "-1") == [owner.info.backend_pid]


def test_given_who_is_frozen_then_the_loader_ends_it_still(
    guarded: Archive, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(writer, cdr(1))
    monkeypatch.setattr("etl.store.frozen.SECONDS", 0)
    with_floor(guarded, "greatest(end_frozen_of_the_owner.seconds, 0.01)")
    with (
        between_statements(guarded, HEALTHY[0]) as owner,
        engine(as_role(guarded.database_url, "etl_loader")) as loader,
    ):
        eventually(Net(loader).end_frozen)
        with pytest.raises(psycopg.OperationalError):
            owner.execute("COMMIT")
