"""What is taken out of a CDR leaves a version behind, once, whoever takes it (promise 4): a writer keeps what it
replaces, a trigger what any other UPDATE takes away. Erasures alone leave none, and nobody but the owner can say so."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from psycopg.types.json import Jsonb

from etl.ids import new_id
from etl.store.tables import CDR_KEY, cdr_revisions, cdrs
from etl.store.writer import Writer
from tests.lake import DAY, export, export_and_prune, load, on, restore, with_lake
from tests.person import KEY, NUMBER, PERSON, forget, where_the_person_is
from tests.store import ROLES, write
from tests.world import Archive, api_cdr, cdr

pytestmark = pytest.mark.versions

VALUES = [column for column in cdrs.c if column.name not in (*CDR_KEY, "batch_id", "loaded_at")]
NULLABLE = [column.name for column in VALUES if column.nullable]
TIMES = [column.name for column in VALUES if isinstance(column.type, sa.DateTime)]
FULL = {
    "answered_at": "2015-02-19 21:06:12.5+00",
    "connected_at": "2015-02-19 21:06:15+00",
    "ended_at": "2015-02-19 21:06:56+00",
    "hold_time": 1,
    "ring_time": 2,
    "uuid": "2b1cc7c0",
    "extra": Jsonb({"x": 1, "y": None}),
}


@pytest.fixture
def stored(archive: Archive, writer: Writer) -> Archive:
    """Call 1, of which every column has a value; and the roles."""
    write(writer, cdr(1))
    assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in FULL)
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        administrator.execute(sql.SQL("UPDATE cdrs SET {}").format(assignments), [*FULL.values()])
    assert kept(archive) == [], "it only gained"
    assert None not in archive.cdr(1).values()
    return archive


def loader(archive: Archive) -> "psycopg.Connection[Any]":
    return psycopg.connect(archive.database_url.replace("postgres@", "etl_loader@"))


def as_loader(archive: Archive, *statements: str) -> None:
    """In one transaction."""
    with loader(archive) as connection:
        for statement in statements:
            connection.execute(statement)


def kept(archive: Archive) -> list[dict[str, Any]]:
    return archive.rows("SELECT * FROM cdr_revisions ORDER BY id")


def version(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in cdrs.c.keys()}  # noqa: SIM118  (columns, not a dict's)


def another(column: sa.Column[Any], old: Any) -> Any:
    if isinstance(old, datetime):
        return old + timedelta(days=1)
    if isinstance(old, dict):
        return Jsonb({"x": 2})
    return old + 1 if isinstance(old, int) else f"not {old}"


def set_to(archive: Archive, name: str, value: Any) -> None:
    with loader(archive) as connection:
        connection.execute(sql.SQL("UPDATE cdrs SET {} = %s").format(sql.Identifier(name)), [value])


def test_all_columns_of_a_cdr_are_in_a_version() -> None:
    assert [*cdrs.c.keys()] == [name for name in cdr_revisions.c.keys() if name in cdrs.c]  # noqa: SIM118


@pytest.mark.parametrize("column", VALUES, ids=lambda column: column.name)
def test_given_an_update_by_the_loader_then_the_version_is_kept(stored: Archive, column: sa.Column[Any]) -> None:
    old = stored.cdr(1)

    set_to(stored, column.name, another(column, old[column.name]))

    (trace,) = kept(stored)
    assert version(trace) == old
    assert trace["replaced_by"] is None
    if column.nullable:
        new = stored.cdr(1)
        set_to(stored, column.name, None)
        assert [version(each) for each in kept(stored)] == [old, new]


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ('extra = \'{"x": 1, "y": 5, "z": 7}\'', False),
        ("extra = extra || '{\"y\": [1]}'", False),
        ("extra = '{\"y\": 5}'", True),
        ("extra = '{\"x\": null}'", True),
        ('extra = \'{"x": {"x": 1}}\'', True),
        ("dialed_at = dialed_at + interval '0.25 s'", False),
        ("dialed_at = dialed_at - interval '9 s'", False),
        ("dialed_at = dialed_at - interval '9 s', batch_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'", True),
        ("dialed_at = dialed_at + interval '0.25 s', batch_id = 'ffffffff-ffff-7fff-bfff-ffffffffffff'", True),
        ("dialed_at = dialed_at + interval '0.25 s', batch_id = '00000000-0000-0000-0000-000000000000'", True),
        ("dialed_at = dialed_at + interval '0.25 s', loaded_at = '1970-01-01'", True),
        ("dialed_at = dialed_at + interval '0.25 s', loaded_at = now()", False),
        ("dialed_at = dialed_at - interval '11 s'", True),
        ("dialed_at = dialed_at + interval '1 s'", True),
        ("connected_at = connected_at + interval '0.25 s'", False),
        ("answered_at = date_trunc('second', answered_at)", True),
        ("connected_at = connected_at - interval '1 s'", True),
        ("loaded_at = now()", False),
        ("loaded_at = '2000-01-01'", True),
        ("batch_id = gen_random_uuid()", True),
        ("batch_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'", True),
        ("batch_id = '00000000-0000-0000-0000-000000000000', loaded_at = now()", True),
        ("number = number", False),
    ],
)
def test_given_a_change_then_what_only_gains_leaves_no_version(stored: Archive, change: str, lost: bool) -> None:
    old = stored.cdr(1)

    as_loader(stored, f"UPDATE cdrs SET {change}")

    assert [version(each) for each in kept(stored)] == ([old] if lost else [])


def test_given_many_small_steps_then_none_leaves_the_day_without_trace(stored: Archive) -> None:
    step = "UPDATE cdrs SET dialed_at = dialed_at - interval '10 s'"
    as_loader(stored, f"DO $$ BEGIN FOR n IN 1..7596 LOOP {step}; END LOOP; END $$", step)
    assert kept(stored) == []
    old = stored.cdr(1)
    as_loader(stored, step)
    assert [version(each) for each in kept(stored)] == [old]


@pytest.mark.parametrize("name", NULLABLE)
def test_given_a_field_filled_in_then_no_version_is_kept(stored: Archive, name: str) -> None:
    value = stored.cdr(1)[name]
    set_to(stored, name, None)

    set_to(stored, name, Jsonb(value) if isinstance(value, dict) else value)

    assert len(kept(stored)) == 1, "of the time before"


@pytest.mark.parametrize("extra", ["[1]", "7", "null", '"x"'])
def test_given_an_extra_that_is_no_object_then_it_is_kept_as_well(stored: Archive, extra: str) -> None:
    """By hand, as etl never writes one."""
    as_loader(stored, f"UPDATE cdrs SET extra = '{extra}'")
    as_loader(stored, "UPDATE cdrs SET extra = '{\"x\": 1}'")
    assert len(kept(stored)) == 2


def test_given_many_changes_in_a_transaction_then_each_version_is_kept(stored: Archive) -> None:
    old = version(stored.cdr(1))

    as_loader(stored, *(f"UPDATE cdrs SET number = '{n}'" for n in range(4)))

    assert [version(each) for each in kept(stored)] == [old, *(old | {"number": str(n)} for n in range(3))]


def keeping(**forged: str) -> str:
    """A statement that keeps the version, with another expression for some columns."""
    values = {**{name: name for name in cdrs.c.keys()}, "replaced_by": "gen_random_uuid()", **forged}  # noqa: SIM118
    return f"INSERT INTO cdr_revisions ({', '.join(values)}) SELECT {', '.join(values.values())} FROM cdrs"


REPLACE = "UPDATE cdrs SET number = '0000'"


def test_given_who_keeps_the_version_itself_then_it_is_kept_once(stored: Archive) -> None:
    old = stored.cdr(1)
    as_loader(stored, keeping(), REPLACE)
    assert [version(each) for each in kept(stored)] == [old]


@pytest.mark.parametrize("name", [*cdrs.c.keys(), "replaced_at"])
def test_given_a_version_that_is_not_this_one_then_it_does_not_count(stored: Archive, name: str) -> None:
    kinds: dict[type, str] = {date: "%s - 1", datetime: "%s - interval '1 hour'", int: "%s + 1", str: "'not ' || %s"}
    old = stored.cdr(1)
    forged = {"batch_id": "gen_random_uuid()", "extra": "'{}'", "replaced_at": "now() - interval '1 us'"}
    statements = (keeping(**{name: forged.get(name) or kinds[type(old[name])] % name}), REPLACE)
    if name == "replaced_at":  # which the owner alone can say
        with pytest.raises(InsufficientPrivilege):
            as_loader(stored, *statements)
        with psycopg.connect(stored.database_url) as administrator:
            for statement in statements:
                administrator.execute(statement.encode())
    else:
        as_loader(stored, *statements)
    assert version(kept(stored)[-1]) == old
    assert len(kept(stored)) == 2


def test_given_a_version_kept_earlier_then_it_does_not_count(stored: Archive) -> None:
    old = stored.cdr(1)
    as_loader(stored, keeping())
    as_loader(stored, REPLACE)
    assert [version(each) for each in kept(stored)] == [old, old]


@pytest.mark.parametrize("name", [*CDR_KEY])
def test_given_the_loader_then_it_may_not_change_a_key(stored: Archive, name: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        as_loader(stored, f"UPDATE cdrs SET {name} = {name}")


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT leave_no_trace('etl forget')",
        "INSERT INTO untraced_changes VALUES (pg_current_xact_id()::text::bigint, now(), 'x', 'x')",
        "ALTER TABLE cdrs DISABLE TRIGGER keep_version",
        "SET session_replication_role = replica",
        "DROP TRIGGER keep_version ON cdrs",
        "UPDATE cdrs_20150219 SET number = '0000'",
        "DELETE FROM cdr_revisions",
        "UPDATE cdr_revisions SET number = '0000'",
        "SET ROLE etl_owner",
        "CREATE FUNCTION etl_staging.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'epoch'::timestamptz$$",
        "CREATE OPERATOR etl_staging.= (LEFTARG = text, RIGHTARG = text, FUNCTION = textne)",
    ],
)
@pytest.mark.parametrize("role", ["etl_loader", "etl_keeper", "etl_reporting"])
def test_given_a_login_of_etl_then_it_can_not_go_without_trace(stored: Archive, role: str, attempt: str) -> None:
    if role == "etl_keeper" and "etl_staging" in attempt:
        pytest.skip("may make things there, and the next test is about that")
    with psycopg.connect(stored.database_url.replace("postgres@", f"{role}@")) as connection:
        connection.execute("SET TRANSACTION READ WRITE")
        with pytest.raises(InsufficientPrivilege):
            connection.execute(attempt)


def test_given_names_of_the_attackers_then_the_trigger_misses_them(stored: Archive) -> None:
    """Settings and a search path can be set by anybody, and temporary tables come first in it."""
    old = version(stored.cdr(1))
    with psycopg.connect(stored.database_url.replace("postgres@", "etl_keeper@"), autocommit=True) as attacker:
        for statement in (
            "CREATE FUNCTION etl_staging.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'epoch'::timestamptz$$",
            "CREATE FUNCTION etl_staging.no(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
            "CREATE OPERATOR etl_staging.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = etl_staging.no)",
            "CREATE TEMPORARY TABLE cdr_revisions (LIKE public.cdr_revisions)",
            "CREATE TEMPORARY TABLE untraced_changes AS SELECT pg_current_xact_id()::text::bigint AS transaction",
            "SET search_path = etl_staging, pg_temp, public, pg_catalog",
            "SET etl.release = '0.2.0'",
            "SET etl.untraced = on",
            "UPDATE public.cdrs SET number = '0000'",
        ):
            attacker.execute(statement)

    assert [version(each) for each in kept(stored)] == [old]


def test_given_an_administrator_then_every_way_to_the_row_leaves_one(stored: Archive) -> None:
    writes: Sequence[LiteralString] = (
        "UPDATE cdrs SET number = '1'",
        "UPDATE ONLY cdrs_20150219 SET number = '2'",
        "UPDATE cdrs SET call_ref = '2'",
        "UPDATE cdrs SET source = 'other'",
        "UPDATE cdrs SET leg = 2",
        "INSERT INTO cdrs SELECT * FROM cdrs ON CONFLICT (dialed_on, source, call_ref, leg) DO UPDATE SET number = '3'",
        "MERGE INTO cdrs USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET number = '4'",
    )
    for number, write_ in enumerate(writes, 1):
        before = version(stored.rows("SELECT * FROM cdrs")[0])
        with psycopg.connect(stored.database_url) as administrator:
            administrator.execute(write_)
        assert len(kept(stored)) == number, write_
        assert version(kept(stored)[-1]) == before, write_


def test_given_a_partition_of_later_then_it_is_watched_as_well(stored: Archive, writer: Writer) -> None:
    write(writer, on(40, 2))

    as_loader(stored, "UPDATE cdrs SET number = '0000' WHERE call_ref = '2'")

    assert [each["call_ref"] for each in kept(stored)] == ["2"]


def test_given_writers_then_a_version_is_kept_once(stored: Archive, writer: Writer) -> None:
    """Also if it was older, came twice in a claim, or was refused at first: the trigger adds nothing."""
    older, newer = new_id(), new_id()
    write(writer, api_cdr(1), cdr(1, call_time=5), cdr(1, call_time=6), batch_id=newer)
    write(writer, cdr(1, call_time=9, x=2), cdr(2), batch_id=older)
    write(writer, cdr(2, call_time=1), cdr(2, call_time=2), cdr(2, number="1" * 70_000_000))

    found = kept(stored)
    assert None not in [each["replaced_by"] for each in found]
    assert len({tuple(map(str, version(each).values())) for each in found}) == len(found) >= 5


def test_given_0_1s_way_to_replace_then_a_version_is_kept_once(stored: Archive) -> None:
    """The statements of 0.1's loaders, with the rights that it had."""
    with psycopg.connect(stored.database_url, autocommit=True) as administrator:
        administrator.execute("GRANT UPDATE ON cdrs TO etl_loader")
    columns = ", ".join(cdrs.c.keys())
    with loader(stored) as of_0_1, of_0_1.transaction():
        of_0_1.execute("SAVEPOINT rows")
        of_0_1.execute(
            f"INSERT INTO cdr_revisions ({columns}, replaced_by) SELECT {columns}, %s FROM cdrs",
            [new := new_id()],
        )
        of_0_1.execute("UPDATE cdrs SET number = '0000', batch_id = %s, loaded_at = now()", [new])
        of_0_1.execute("RELEASE SAVEPOINT rows")

    assert [each["replaced_by"] for each in kept(stored)] == [new]


def test_given_an_erasure_then_no_version_is_kept_and_a_row_says_why(archive: Archive, tmp_path: Path) -> None:
    archive.more = {**with_lake(archive, tmp_path / "lake").more, "forget_key": KEY}
    load(archive, cdr(1, **PERSON), cdr(2))
    export(archive)

    forget(archive)

    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    assert where_the_person_is(archive) == set()
    (said,) = archive.rows("SELECT * FROM untraced_changes")
    assert (said["role"], said["why"]) == ("postgres", "etl forget")
    with psycopg.connect(archive.database_url) as connection:  # and in no other transaction
        connection.execute("UPDATE cdrs SET number = %s", [NUMBER])
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 2


def test_given_a_restore_then_the_trigger_keeps_nothing(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1), cdr(2), cdr(3))
    export_and_prune(archive)
    load(archive, cdr(1, call_time=99), api_cdr(2))
    assert restore(archive).what == "restored"

    assert [(each["call_ref"], each["replaced_by"] is None) for each in kept(archive)] == [("1", False)]
    assert archive.value("SELECT count(*) FROM cdrs WHERE dialed_on = %s", DAY) == 3
    assert isinstance(DAY, date)
