"""`etl db`: the schema made, looked at and checked, by real processes and their exit codes."""

import json

from etl.store import schema
from tests.world import Archive


def test_given_an_empty_database_then_upgrade_makes_what_check_wants(archive: Archive, empty_database_url: str) -> None:
    empty = {"ETL_DATABASE_URL": empty_database_url}
    needed = schema.needed()

    refused = archive.run("db", "check", **empty)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "etl: ETL-309: the database has no schema yet: run `etl db upgrade`\n"
    current = archive.run("db", "current", **empty)
    assert (current.returncode, current.stdout) == (0, f"current: empty\nneeded:  {needed}\n")

    upgraded = archive.run("db", "upgrade", **empty)
    assert (upgraded.returncode, upgraded.stdout, upgraded.stderr) == (0, f"schema upgraded: empty → {needed}\n", "")

    agreed = archive.run("db", "check", **empty)
    assert (agreed.returncode, agreed.stdout, agreed.stderr) == (0, "schema is up to date\n", "")
    current = archive.run("db", "current", "--json", **empty)
    assert (json.loads(current.stdout), current.stdout.count("\n")) == ({"current": needed, "needed": needed}, 1)


def test_given_hosts_that_upgrade_at_once_then_all_of_them_succeed(archive: Archive, empty_database_url: str) -> None:
    empty = {"ETL_DATABASE_URL": empty_database_url}
    with archive.process("db", "upgrade", **empty) as one, archive.process("db", "upgrade", **empty) as other:
        said = sorted(host.communicate(timeout=200) for host in (one, other))

    needed = schema.needed()
    assert said == [(f"schema is at {needed} already\n", ""), (f"schema upgraded: empty → {needed}\n", "")]
    assert (one.returncode, other.returncode) == (0, 0)


def test_given_the_schema_of_a_newer_etl_then_nothing_is_done_to_it(archive: Archive) -> None:
    archive.rows("UPDATE alembic_version SET version_num = '9999' RETURNING 1")

    result = archive.run("db", "upgrade")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"etl: ETL-311: the database's schema (9999) is newer than this program ({schema.needed()}):"
        " install a newer etl\n"
    )
