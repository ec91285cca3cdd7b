"""What could be done to 0.1 with the loader's password, and can't be done any more; and more of the kind."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege

from etl.app import check as preflight
from etl.app import lake as nightly
from etl.app import schedule
from etl.errors import ConfigurationError
from etl.findings import Finding
from etl.lake import layout
from etl.store.preflight_rights import KEEPING, LOADING, of_logins
from tests.integration.test_least_privilege import as_role
from tests.lake import (
    DAY,
    SPOOL,
    assert_agrees,
    export,
    export_and_prune,
    heard,
    in_file,
    load,
    on,
    prune,
    restore,
    revision_file,
    with_lake,
)
from tests.logins import DROP, FORGE, HOLD
from tests.store import ROLES, engine
from tests.world import Archive, cdr

# As ops/postgres/roles.sql of 0.1 had it, and the owner's functions that it granted.
ROLES_OF_0_1 = """
GRANT SELECT, INSERT, UPDATE ON cdrs, audit_events TO etl_loader;
GRANT SELECT, INSERT, UPDATE, DELETE ON exports TO etl_loader;
GRANT EXECUTE ON FUNCTION forget_day(text, date, integer, text) TO etl_loader;
GRANT USAGE, CREATE ON SCHEMA etl_staging TO etl_loader;
"""
# What 0.2 had before the keeper.
ROLES_WITHOUT_KEEPER = f"""
{ROLES_OF_0_1}
GRANT SELECT, INSERT, DELETE ON lake_drafts TO etl_loader;
GRANT EXECUTE ON FUNCTION drop_day(text, date, integer, text), lock_partition(text, date) TO etl_loader;
"""
FORGET = DROP.replace("drop_day", "forget_day")


def run_as_owner(archive: Archive, *statements: str) -> None:
    with psycopg.connect(archive.database_url.replace("etl_loader@", "postgres@"), autocommit=True) as administrator:
        for statement in statements:
            administrator.execute(statement)


@pytest.fixture
def guarded(archive: Archive, tmp_path: Path) -> Iterator[Archive]:
    """etl has the loader's login, and the keeper's for the lake."""
    run_as_owner(archive, ROLES)
    administrators = archive.database_url
    archive.database_url = as_role(administrators, "etl_loader")
    archive.more = {"lake_database_url": as_role(administrators, "etl_keeper")}
    yield with_lake(archive, tmp_path / "lake")
    archive.database_url = administrators


def attack(archive: Archive, *statements: str) -> list[bool]:
    """By whoever has the loader's password, as any release of etl; whether each wasn't refused."""
    done = []
    with psycopg.connect(archive.database_url, autocommit=True) as attacker:
        attacker.execute("SELECT set_config('etl.release', '0.2.0', false)")
        for statement in statements:
            try:
                attacker.execute(statement)
                done.append(True)
            except (InsufficientPrivilege, FeatureNotSupported):
                done.append(False)
    return done


TAKE_BACK = "DELETE FROM exports WHERE sha256 = 'x'"


def test_given_a_forged_revision_then_no_day_goes(guarded: Archive) -> None:
    load(guarded, cdr(1), cdr(2))

    assert attack(guarded, FORGE, HOLD, DROP, FORGET, TAKE_BACK) == [False, True, False, False, False]

    assert guarded.value("SELECT count(*) FROM cdrs") == 2
    run_as_owner(guarded, ROLES_WITHOUT_KEEPER)  # so it was
    assert attack(guarded, FORGE, HOLD, DROP, TAKE_BACK) == [True] * 4
    assert guarded.value("SELECT count(*) FROM cdrs") == 0


def test_given_a_forged_draft_then_no_file_of_another_day_goes(guarded: Archive) -> None:
    load(guarded, cdr(1), on(1, 2))
    export_and_prune(guarded)
    victim = str(revision_file(guarded).relative_to(Path(guarded.more["export_url"])))
    assert layout.parse(victim)
    draft = f"INSERT INTO lake_drafts (name, dataset, day, worker) VALUES ('{victim}', 'cdrs', date '{DAY}' + 1, 'x')"

    assert attack(guarded, draft) == [False]
    run_as_owner(guarded, ROLES_WITHOUT_KEEPER)
    assert attack(guarded, draft) == [True], "so it was"


@pytest.mark.parametrize("rows", ["deleted", "added"])
def test_given_rows_that_no_revision_has_then_the_keeper_drops_no_day(guarded: Archive, rows: str) -> None:
    """Neither the caller's word nor the ledger's: they are counted."""
    load(guarded, cdr(1), cdr(2))
    assert export(guarded).what == "exported"
    change = {
        "deleted": ("DELETE FROM cdrs WHERE call_ref = '1'",),
        "added": (
            "CREATE TEMPORARY TABLE t AS SELECT * FROM cdrs WHERE call_ref = '1'",
            "UPDATE t SET call_ref = 'x'",
            "INSERT INTO cdrs SELECT * FROM t",
        ),
    }
    run_as_owner(guarded, *change[rows])

    with psycopg.connect(guarded.more["lake_database_url"], autocommit=True) as keeper:
        keeper.execute(HOLD)
        assert keeper.execute(DROP).fetchone() == (False,)
    assert guarded.value("SELECT count(*) FROM cdrs") == {"deleted": 1, "added": 3}[rows]


def test_given_what_the_loader_staged_then_the_keeper_never_meets_it(guarded: Archive) -> None:
    """A table in the keeper's way, with a trigger of the loader's, would run the loader's words as the keeper."""
    load(guarded, cdr(1))
    export_and_prune(guarded)
    table = f"CREATE TABLE etl_staging.returning_cdrs_{DAY:%Y%m%d} (x int)"

    assert attack(guarded, table) == [False]
    run_as_owner(guarded, ROLES_WITHOUT_KEEPER)
    assert attack(guarded, table) == [True]
    run_as_owner(guarded, ROLES)
    assert restore(guarded).what == "restored"


# The ledger tells the version of what the lake has.
FORGE_CALL = f"""
    INSERT INTO cdrs (dialed_on, source, call_ref, leg, dialed_at, number, uuid, batch_id, loaded_at)
    SELECT day, 'dialler', '1', 0, '{DAY} 21:06:00Z', '0000', 'x', batch_id, committed_at
    FROM load_batches JOIN load_batch_days USING (batch_id)
"""
FORGE_EVENT = f"""
    INSERT INTO audit_events (captured_on, event_id, captured_at, origin, channel, kind, event_type, payload, batch_id)
    SELECT day, '{UUID(int=1)}', day, 'pubsub', 'x', 'x', 'x', '{{}}', batch_id FROM load_batch_days
"""
ENTER_CHANGE = """
    WITH entry AS (
        INSERT INTO load_batches (
            batch_id, worker, source_key, claimed, inserted, updated, unchanged, events, dead, claimed_at
        ) VALUES (gen_random_uuid(), 'x', 'x', 0, 0, 0, 0, 0, 0, now()) RETURNING batch_id
    )
    INSERT INTO load_batch_days SELECT entry.batch_id, dataset, day, 0, 0 FROM entry, load_batch_days
"""


@pytest.mark.parametrize(("dataset", "forge"), [("cdrs", FORGE_CALL), ("audit_events", FORGE_EVENT)])
def test_given_what_says_it_is_the_lakes_version_then_the_lakes_stays(
    guarded: Archive, dataset: str, forge: str
) -> None:
    load(guarded, cdr(1), cdr(2)) if dataset == "cdrs" else load(guarded, heard(1), heard(2), key=SPOOL)
    export_and_prune(guarded, DAY, dataset)
    before = in_file(guarded, DAY, dataset)

    assert attack(guarded, f"SELECT make_partition('{dataset}', '{DAY}')", forge, ENTER_CHANGE) == [True] * 3

    assert export(guarded, DAY, dataset).what == "exported"
    assert in_file(guarded, DAY, dataset) == before
    kept = guarded.rows("SELECT number, uuid, replaced_by FROM cdr_revisions")
    assert kept == ([{"number": "0000", "uuid": "x", "replaced_by": None}] if dataset == "cdrs" else [])


def test_given_two_logins_then_the_lakes_whole_round_goes(guarded: Archive) -> None:
    load(guarded, cdr(1), cdr(2))
    export_and_prune(guarded)
    load(guarded, cdr(1, call_time=5), cdr(3))
    assert export(guarded).what == "exported"
    assert prune(guarded).what == "dropped"
    assert restore(guarded).rows == 3
    assert_agrees(guarded)
    assert len(in_file(guarded)) == 3
    for job in (nightly.sweep, nightly.prove):
        job(guarded.settings())
    for command in ("verify --deep", "reconcile --unite", "status --json", "export", "db check"):
        done = guarded.run(*command.split())
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_given_the_schedule_then_only_its_own_process_is_the_keeper(guarded: Archive) -> None:
    """What exports needs no loader, and what loads needs no keeper."""
    nobody = as_role(guarded.database_url.replace("etl_loader@", "postgres@"), "no_such_role")
    load(replace(guarded, more={**guarded.more, "lake_database_url": nobody}), cdr(1))

    settings = replace(guarded, database_url=nobody).settings()
    schedule._aside("export", settings, threading.Event())

    assert len(in_file(guarded)) == 1


def test_given_the_loaders_login_alone_then_the_lake_is_refused(guarded: Archive) -> None:
    load(guarded, cdr(1))
    guarded.more = {name: value for name, value in guarded.more.items() if name != "lake_database_url"}
    with pytest.raises(ConfigurationError, match="permission denied"):
        export(guarded)


# -- what `etl check` says


def checked(archive: Archive, **more: object) -> dict[str, Finding]:
    return {finding.about: finding for finding in preflight.check(archive.settings(**more))}


def said_of(loader: str, keeper: str | None) -> dict[str, Finding]:
    """Of the rights of these logins alone."""
    with ExitStack() as opened:
        engines = [opened.enter_context(engine(url)) if url else None for url in (loader, keeper)]
        assert engines[0] is not None
        return {finding.about: finding for finding in of_logins(engines[0], engines[1])}


LAKE, UNNEEDED = "Postgres rights of the lake", "Postgres rights unneeded"


def test_given_one_login_for_all_then_check_finds_nothing_to_say(archive: Archive) -> None:
    found = checked(archive)
    assert [found[about].verdict for about in ("Postgres rights", UNNEEDED)] == ["fine", "fine"]
    assert LAKE not in found


def test_given_both_logins_then_check_says_fine_of_each(guarded: Archive) -> None:
    found = checked(guarded)
    assert [found[about].verdict for about in ("Postgres rights", UNNEEDED, LAKE)] == ["fine", "fine", "fine"]


def test_given_no_keepers_url_then_check_says_what_to_set(guarded: Archive) -> None:
    found = checked(guarded, lake_database_url=None)["Postgres rights"]
    assert found.verdict == "wrong"
    assert "INSERT on exports" in found.says
    assert "EXECUTE on function drop_day" in found.says
    assert "etl_keeper" in (found.advice or "")
    assert "ETL_LAKE_DATABASE_URL" in (found.advice or "")


def test_given_the_rights_of_0_1_then_check_says_run_the_file_and_it_helps(guarded: Archive) -> None:
    run_as_owner(guarded, ROLES_WITHOUT_KEEPER, "REVOKE ALL ON lake_drafts FROM etl_keeper")
    found = checked(guarded)
    assert (found[UNNEEDED].verdict, found[LAKE].verdict) == ("warning", "wrong")
    for right in ("UPDATE (call_ref) on cdrs", "INSERT on exports", "EXECUTE on function drop_day", "on lake_drafts"):
        assert right in found[UNNEEDED].says
    assert "INSERT on lake_drafts" in found[LAKE].says
    assert "roles.sql" in (found[UNNEEDED].advice or "")

    run_as_owner(guarded, ROLES)
    found = checked(guarded)
    assert (found[UNNEEDED].verdict, found[LAKE].verdict) == ("fine", "fine")


NAME_LOADER = "name etl_loader, which ops/postgres/roles.sql makes, in ETL_DATABASE_URL"
NAME_KEEPER = "name etl_keeper, which ops/postgres/roles.sql makes, in ETL_LAKE_DATABASE_URL"
RUN = "run ops/postgres/roles.sql as it is in this release"
# By a login and the keeper's: what `etl check` advises of rights, of rights that aren't needed, and of the lake's.
ADVICE = {
    ("stranger", None): (f"{NAME_LOADER}, and name etl_keeper in ETL_LAKE_DATABASE_URL", "", ""),
    ("stranger", "etl_keeper"): (NAME_LOADER, "", ""),
    ("etl_keeper", None): (NAME_LOADER, "", ""),
    ("etl_keeper", "etl_keeper"): (NAME_LOADER, NAME_LOADER, ""),
    ("etl_loader", "etl_loader"): ("", "", NAME_KEEPER),
    ("etl_loader", "stranger"): ("", "", NAME_KEEPER),
    ("member", "etl_keeper"): ("", f"REVOKE from member what makes it a member of etl_keeper, and {RUN}", ""),
}


@pytest.mark.parametrize("logins", ADVICE, ids=str)
def test_given_a_login_that_is_not_the_one_then_check_names_it(
    guarded: Archive, logins: tuple[str, str | None]
) -> None:
    with psycopg.connect(guarded.database_url.replace("etl_loader@", "postgres@"), autocommit=True) as administrator:
        administrator.execute("CREATE ROLE stranger LOGIN; CREATE ROLE member LOGIN IN ROLE etl_loader, etl_keeper")
        try:
            loader, keeper = (each and guarded.database_url.replace("etl_loader@", f"{each}@") for each in logins)
            found = said_of(str(loader), keeper)
        finally:
            administrator.execute("DROP ROLE stranger, member")
    expected = dict(zip(("Postgres rights", UNNEEDED, LAKE), ADVICE[logins], strict=True))
    assert {about: found[about].advice if about in found else "" for about in expected} == expected


@pytest.mark.parametrize("role", ["etl_loader", "etl_keeper"])
def test_given_any_right_taken_away_then_the_file_gives_it_back(guarded: Archive, role: str) -> None:
    """And never a GRANT, which might give the loader what only the keeper may do."""
    duty, about = {"etl_loader": (LOADING, "Postgres rights"), "etl_keeper": (KEEPING, LAKE)}[role]
    on_tables = [f"{right} ON {table}" for table, rights in duty.tables.items() for right in rights]
    for right in (
        *on_tables,
        *(f"EXECUTE ON FUNCTION {signature}" for signature in duty.functions),
        *(f"{right} ON SCHEMA {schema}" for schema, rights in duty.schemas.items() for right in rights),
    ):
        run_as_owner(guarded, f"REVOKE {right} FROM {role}")
        found = said_of(guarded.database_url, guarded.more["lake_database_url"])[about]
        assert (found.verdict, found.advice) == ("wrong", RUN), right
    run_as_owner(guarded, ROLES)
    assert said_of(guarded.database_url, guarded.more["lake_database_url"])[about].verdict == "fine"


def test_given_a_keeper_of_another_database_then_check_says_so(guarded: Archive, empty_database_url: str) -> None:
    found = checked(guarded, lake_database_url=empty_database_url)[LAKE]
    assert (found.verdict, found.says) == ("wrong", "the two logins lead to different databases")


def test_given_a_keeper_who_can_not_get_in_then_check_names_the_setting(guarded: Archive) -> None:
    url = guarded.database_url.replace("etl_loader@", "no_such_role@")
    found = checked(guarded, lake_database_url=url)[LAKE]
    assert found.verdict == "wrong"
    assert "no_such_role" in found.says
