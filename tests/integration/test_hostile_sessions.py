"""What is stored, exported, compared and restored doesn't depend on what a role, a database or the environment say of
encodings, formats and timeouts: right bytes, or a clear refusal."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psycopg
import pytest

from tests.lake import DAY, file, folder, in_postgres, load, refs, revision_file, with_lake
from tests.world import Archive, cdr

pytestmark = pytest.mark.versions

NAMES = {"1": "Zoë Ž", "2": "日本 🎧", "3": "\u202eright to left", "4": "plain", "5": "naïve £ €"}
SETTINGS = {
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "300",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "200",
    "idle_session_timeout": "200",
}
ENVIRONMENT = {
    "PGCLIENTENCODING": "LATIN1",
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Kathmandu",
    "PGOPTIONS": "-c bytea_output=escape -c idle_in_transaction_session_timeout=200 -c IntervalStyle=sql_standard",
}


@pytest.fixture(params=[*SETTINGS, "all of them", "environment"])
def hostile(request: pytest.FixtureRequest, archive: Archive, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of an etl whose role, or environment, has this setting, or all of them."""
    with_lake(archive, tmp_path / "lake")
    load(archive, *(cdr(ref, end_reason=name, number=f"0{ref}") for ref, name in NAMES.items()))
    if request.param == "environment":
        yield ENVIRONMENT
        return
    chosen = SETTINGS if request.param == "all of them" else {request.param: SETTINGS[request.param]}
    (name,) = (psycopg.conninfo.conninfo_to_dict(archive.database_url)["dbname"],)
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        for setting, value in chosen.items():
            connection.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    yield {}


def test_given_hostile_settings_then_a_days_whole_life_has_the_right_bytes(
    archive: Archive, hostile: dict[str, str]
) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith("PG")} | hostile

    def run(*arguments: str) -> str:
        result = archive.run(*arguments, **environment)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout

    archive.push(cdr("6", end_reason="Ünï", number="06"))
    run("run")
    run("export")
    run("verify", "--deep")
    expected = {**NAMES, "6": "Ünï"}
    for path in (file(archive), revision_file(archive)):
        with duckdb.connect() as connection:
            rows = connection.execute(f"SELECT call_ref, end_reason FROM '{path}'").fetchall()
        assert dict(rows) == expected
    run("prune", "--keep-days", "1")
    assert in_postgres(archive) == []
    run("verify", "--deep")
    run("restore", "--day", str(DAY), "--prove")
    run("restore", "--day", str(DAY))
    run("verify", "--deep")
    run("reconcile")
    assert refs(in_postgres(archive)) == sorted(expected)
    assert {row["call_ref"]: row["end_reason"] for row in in_postgres(archive)} == expected
    status = json.loads(run("status", "--json"))
    assert status["postgres_error"] is None
    assert [path.name for path in folder(archive).rglob("attempt-*")] == []
