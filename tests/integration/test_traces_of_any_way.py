"""Whatever statement changes a CDR, what it takes away is kept (promise 4): generated changes are traced just as 0019
traced them, and of all the ways that a loader's login has to a row, none goes without."""

import importlib.util
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, LiteralString, cast

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from etl.store.tables import cdrs
from etl.store.writer import Writer
from tests.integration.test_traces import VALUES, kept, loader, stored, version
from tests.lake import DAY, on
from tests.store import write
from tests.world import Archive, api_cdr, cdr

pytestmark = pytest.mark.versions

__all__ = ["stored"]  # a fixture

MIGRATIONS = Path(__file__).parents[2] / "migrations/versions"
COLUMNS = [*cdrs.c.keys()]


def migration(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, next(MIGRATIONS.glob(f"{name}_*.py")))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the same as 0019's

AGES = [timedelta(days=-4000), timedelta(minutes=-1), timedelta(minutes=59), timedelta(minutes=61), timedelta(days=900)]


LATEST = "(SELECT batch_id FROM load_batches ORDER BY batch_id DESC LIMIT 1)"


def claim_of(age: timedelta) -> str:
    """The id of a claim that was made so long ago, or will be."""
    ms = int((datetime.now(UTC) + age).timestamp() * 1000)
    return f"'{ms:012x}7000bfffffffffffffff'::uuid"


CLAIMS = ["batch_id", LATEST, "'cc233d17-8f52-45ef-8c30-0dedc92c45dc'", *map(claim_of, AGES)]
TIMES = ["now()", "loaded_at", "'2000-01-01'"]


def values_of(name: str) -> list[str]:
    """As an UPDATE may set the column."""
    if name == "extra":
        return ["NULL", "'{}'", '\'{"x": 1, "y": 2}\'', "'{\"x\": null}'", "'[1]'", "extra || '{\"z\": 7}'"]
    if name == "dialed_at":
        return [f"dialed_at {step}" for step in ("- interval '9 s'", "+ interval '0.25 s'", "+ interval '1 day'")]
    if name.endswith("_at"):
        whole = f"date_trunc('second', {name})"
        return ["NULL", whole, f"{name} + interval '0.25 s'", f"coalesce({name}, '2015-02-19 21:06:12.5Z')"]
    if name in ("call_time", "hold_time", "ring_time", "end_code"):
        return ["NULL", f"{name} + 1", f"coalesce({name}, 3)"]
    return ["NULL", f"'other ' || {name}", f"coalesce({name}, 'x')"]


def assignments() -> st.SearchStrategy[dict[str, str]]:
    a_value = st.sampled_from([column.name for column in VALUES]).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(values_of(name)))
    )
    changed = st.lists(a_value, max_size=4).map(dict)
    claim = st.sampled_from([{}, *({"batch_id": each} for each in CLAIMS)])
    loaded = st.sampled_from([{}, *({"loaded_at": each} for each in TIMES)])
    return st.tuples(changed, claim, loaded).map(lambda each: {**each[0], **each[1], **each[2]}).filter(bool)


def _set(changes: dict[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items())


WAYS: dict[str, Callable[[dict[str, str]], str]] = {
    "parent": lambda changes: f"UPDATE cdrs SET {_set(changes)}",
    "partition": lambda changes: f"UPDATE cdrs_{DAY:%Y%m%d} SET {_set(changes)}",
    "block": lambda changes: f"DO $block$ BEGIN UPDATE cdrs SET {_set(changes)}; END $block$",
    "merge": lambda changes: (
        f"MERGE INTO cdrs USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET {_set(changes)}"
    ),
    "rolled back": lambda changes: (
        f"SAVEPOINT s; UPDATE cdrs SET {_set(changes)}; ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s"
    ),
    "some": lambda changes: f"UPDATE cdrs SET {_set(changes)} WHERE call_ref IN ('1', '4')",
    "keeps": lambda changes: (
        f"INSERT INTO cdr_revisions ({', '.join(COLUMNS)}) SELECT {', '.join(COLUMNS)} FROM cdrs;"
        f" UPDATE cdrs SET {_set(changes)}"
    ),
}
STATEMENTS = st.lists(st.tuples(st.sampled_from([*WAYS]), assignments()), min_size=1, max_size=4)


@pytest.fixture
def administrator(stored: Archive, writer: Writer) -> Iterator["psycopg.Connection[Any]"]:
    """With calls that lack what others have, of two days."""
    write(writer, api_cdr(2), cdr(3), on(1, 4))
    with psycopg.connect(stored.database_url, autocommit=True) as connection:
        yield connection


def left_by(connection: "psycopg.Connection[Any]", trigger: str, statements: list[str]) -> list[str]:
    """What they leave behind with this trigger, and that is taken back."""
    connection.execute("BEGIN")
    try:
        connection.execute("DROP TRIGGER keep_version ON cdrs")
        connection.execute(trigger.encode())
        for statement in statements:
            connection.execute(statement.encode())
        # The two transactions began at different times.
        rows = connection.execute("SELECT replace(r::text, now()::text, 'now') FROM cdr_revisions r ORDER BY id")
        return [row.partition(",")[2] for (row,) in rows]
    finally:
        connection.execute("ROLLBACK")


def assert_alike(connection: "psycopg.Connection[Any]", statements: list[str]) -> None:
    before = migration("0019").TRIGGER.format(schema="public")
    made = connection.execute("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'keep_version'").fetchone()
    (now,) = cast(tuple[str], made)
    assert "rpad" not in now
    assert left_by(connection, now, statements) == left_by(connection, before, statements), statements


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(chosen=STATEMENTS)
def test_given_any_changes_then_what_is_kept_is_what_0019_kept(
    administrator: "psycopg.Connection[Any]", chosen: list[tuple[str, dict[str, str]]]
) -> None:
    assert_alike(administrator, [WAYS[way](changes) for way, changes in chosen])


@pytest.mark.parametrize("way", WAYS)
def test_given_gains_by_any_claim_then_what_is_kept_is_what_0019_kept(
    administrator: "psycopg.Connection[Any]", way: str
) -> None:
    for claim, at in product(CLAIMS, TIMES):
        for gain in ({}, {"uuid": "coalesce(uuid, 'x')"}):
            assert_alike(administrator, [WAYS[way]({**gain, "batch_id": claim, "loaded_at": at})])


@pytest.mark.parametrize("minutes", [-(10**6), -60, 0, 30, 59, 61, 120, 10**6, 10**7])
def test_given_a_claims_id_then_both_say_whether_it_is_ahead(archive: Archive, minutes: int) -> None:
    claim = claim_of(timedelta(minutes=minutes))
    now = migration("0023").AN_HOUR_AHEAD.replace("NEW.batch_id", claim)
    before = f"{claim} > {migration('0019').AN_HOUR_FROM_NOW}"
    assert archive.rows(f"SELECT {now} AS now, {before} AS before") == [{"now": minutes > 60, "before": minutes > 60}]


# -- no way without

ATTACKS: dict[str, tuple[LiteralString, ...]] = {
    "plain": ("UPDATE cdrs SET number = '0000'",),
    "prepared": ("PREPARE forge AS UPDATE cdrs SET number = $1", "EXECUTE forge ('0000')"),
    "only the parent": ("UPDATE cdrs AS c SET number = '0000' FROM cdrs d WHERE c.call_ref = d.call_ref",),
    "CTE": ("WITH forged AS (UPDATE cdrs SET number = '0000' RETURNING 1) SELECT count(*) FROM forged",),
    "CTE that keeps another": (
        "WITH forged AS (UPDATE cdrs SET number = '0000' RETURNING *) INSERT INTO cdr_revisions"
        " (dialed_on, source, call_ref, leg, dialed_at, number, batch_id, loaded_at)"
        " SELECT dialed_on, source, call_ref, leg, dialed_at, number, batch_id, loaded_at FROM forged",
    ),
    "merge": ("MERGE INTO cdrs USING (SELECT 1) AS x ON true WHEN MATCHED THEN UPDATE SET number = '0000'",),
    "on conflict": (
        "INSERT INTO cdrs SELECT * FROM cdrs ON CONFLICT (dialed_on, source, call_ref, leg)"
        " DO UPDATE SET number = '0000'",
    ),
    "view": ("CREATE TEMPORARY VIEW mine AS SELECT * FROM cdrs", "UPDATE mine SET number = '0000'"),
    "function": (
        "CREATE FUNCTION pg_temp.forge() RETURNS void LANGUAGE sql AS $$UPDATE public.cdrs SET number = '0000'$$",
        "SELECT pg_temp.forge()",
    ),
    "trigger": (
        "CREATE TEMPORARY TABLE bait (x int)",
        "CREATE FUNCTION pg_temp.forge() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE public.cdrs SET number = '0000'; RETURN NULL; END $$",
        "CREATE TRIGGER forge AFTER INSERT ON bait FOR EACH ROW EXECUTE FUNCTION pg_temp.forge()",
        "INSERT INTO bait VALUES (1)",
    ),
    "cursor": (
        "DECLARE found CURSOR FOR SELECT * FROM cdrs FOR UPDATE",
        "FETCH found",
        "UPDATE cdrs SET number = '0000' WHERE CURRENT OF found",
    ),
    "block": ("DO $$ BEGIN UPDATE cdrs SET number = '0000'; END $$",),
    "caught": (
        "DO $$ BEGIN UPDATE cdrs SET number = '0000';"
        " BEGIN PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
    ),
    "savepoint": ("SAVEPOINT s", "UPDATE cdrs SET number = '0000'", "RELEASE SAVEPOINT s"),
    "there and back": ("UPDATE cdrs SET number = '1'", "UPDATE cdrs SET number = '0000'"),
    "emptied first": ("UPDATE cdrs SET number = NULL", "UPDATE cdrs SET number = '0000'"),
    "deferred": ("SET CONSTRAINTS ALL DEFERRED", "UPDATE cdrs SET number = '0000'"),
    "settings": (
        "SET enable_indexscan = off",
        "SET plan_cache_mode = force_custom_plan",
        "SET search_path = pg_temp, public",
        "UPDATE cdrs SET number = '0000'",
    ),
    "unites legs": ("SELECT unite_legs('2015-02-19', 9, gen_random_uuid(), 'x')", "UPDATE cdrs SET number = '0000'"),
}


def left_after(attacker: "psycopg.Connection[Any]", way: str) -> tuple[str, list[dict[str, Any]]]:
    """The number that is there then, and the versions that were kept; it is taken back."""
    with attacker.transaction(force_rollback=True):
        for statement in ATTACKS[way]:
            attacker.execute(statement)
        (number,) = cast(tuple[str], attacker.execute("SELECT number FROM cdrs").fetchone())
        cursor = attacker.cursor(row_factory=dict_row)
        return number, cursor.execute("SELECT * FROM cdr_revisions ORDER BY id").fetchall()


def test_given_any_way_of_the_loaders_then_the_version_is_kept(stored: Archive) -> None:
    old = version(stored.cdr(1))
    with loader(stored) as attacker:
        for way in ATTACKS:
            number, versions = left_after(attacker, way)
            assert number == "0000", way
            assert old in [version(each) for each in versions], way
            attacker.execute("DEALLOCATE ALL")


def test_given_0_1_then_the_same_ways_left_no_trace(stored: Archive) -> None:
    """It had no trigger, and the rest is as it was."""
    old = version(stored.cdr(1))
    with psycopg.connect(stored.database_url, autocommit=True) as administrator:
        administrator.execute("ALTER TABLE cdrs DISABLE TRIGGER keep_version")
    with loader(stored) as attacker:
        for way in ATTACKS:
            number, versions = left_after(attacker, way)
            assert number == "0000", way
            assert old not in [version(each) for each in versions], way
            attacker.execute("DEALLOCATE ALL")


def test_given_a_partition_attached_by_hand_then_it_is_watched(stored: Archive) -> None:
    """Whether a statement names it or its parent."""
    with psycopg.connect(stored.database_url, autocommit=True) as administrator:
        for statement in (
            "CREATE TABLE by_hand (LIKE cdrs INCLUDING DEFAULTS)",
            "INSERT INTO by_hand SELECT * FROM cdrs",
            "UPDATE by_hand SET dialed_on = '2015-03-01'",
            "ALTER TABLE cdrs ATTACH PARTITION by_hand FOR VALUES FROM ('2015-03-01') TO ('2015-03-02')",
            "UPDATE cdrs SET number = '1' WHERE dialed_on = '2015-03-01'",
            "UPDATE by_hand SET number = '2'",
        ):
            administrator.execute(statement)
    assert [str(each["dialed_on"]) for each in kept(stored)] == ["2015-03-01"] * 2


def test_given_a_superuser_who_is_a_replica_then_nothing_is_kept(stored: Archive) -> None:
    """As docs/security.md says: a subscriber doesn't trace what its publisher has traced."""
    with psycopg.connect(stored.database_url, autocommit=True) as administrator:
        administrator.execute("SET session_replication_role = replica")
        administrator.execute("UPDATE cdrs SET number = '0000'")
    assert kept(stored) == []
