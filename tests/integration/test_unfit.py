"""Servers, databases, roles and tables that an archive can't be kept in, or not well: `etl check` and `etl db upgrade`
call each by its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from etl.app import check as preflight
from etl.errors import ConfigurationError
from etl.findings import Finding
from etl.lab.servers.private import PrivatePostgres
from etl.store import schema, server
from tests.lake import load
from tests.store import ROLES, engine
from tests.world import Archive, cdr

pytestmark = pytest.mark.versions


def by_check(archive: Archive, database_url: str | None = None) -> dict[str, Finding]:
    archive.database_url = database_url or archive.database_url
    return {finding.about: finding for finding in preflight.check(archive.settings())}


def refused(database_url: str) -> str:
    with engine(database_url) as connections, pytest.raises(ConfigurationError) as refusal:
        schema.upgrade(connections)
    with psycopg.connect(database_url) as connection:
        made = connection.execute("SELECT to_regclass('alembic_version'), to_regnamespace('reporting')").fetchone()
    assert made == (None, None), "nothing was begun"
    return str(refusal.value)


@contextmanager
def database(postgres: PrivatePostgres, encoding: str) -> Iterator[str]:
    name = f"in_{encoding.lower()}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
        try:
            yield postgres.database_url(name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"])
def test_given_another_encoding_then_it_is_named_and_refused(
    archive: Archive, postgres: PrivatePostgres, encoding: str
) -> None:
    with database(postgres, encoding) as url:
        assert f"ETL-331: the database's encoding is {encoding}, not UTF8" in refused(url)
        finding = by_check(archive, url)["Postgres encoding"]
    assert (finding.verdict, finding.code) == ("wrong", "ETL-331")
    assert "ENCODING 'UTF8'" in finding.advice


def test_given_an_older_version_then_it_is_named_and_refused(
    archive: Archive, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert by_check(archive)["Postgres version"].verdict == "fine"
    assert server.OLDEST_MAJOR == 15
    monkeypatch.setattr(server, "OLDEST_MAJOR", 99)

    assert "is too old: upgrade it to 99 or newer" in refused(empty_database_url)
    finding = by_check(archive)["Postgres version"]
    assert (finding.verdict, finding.advice, finding.code) == ("wrong", "upgrade it to 99 or newer", "ETL-330")


@pytest.mark.parametrize("whose", ["ROLE postgres IN DATABASE", "DATABASE"])
def test_given_read_only_transactions_then_they_are_named_and_refused(
    archive: Archive, empty_database_url: str, whose: str
) -> None:
    for url in (archive.database_url, empty_database_url):
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'ALTER {whose} "{name}" SET default_transaction_read_only = on')

    assert "ETL-333: transactions of postgres are read-only here" in refused(empty_database_url)
    finding = by_check(archive)["Postgres role"]
    assert (finding.verdict, finding.code) == ("wrong", "ETL-333")
    assert finding.advice == 'ALTER ROLE "postgres" SET default_transaction_read_only = off, or ALTER DATABASE'


@pytest.mark.parametrize("table", ["cdrs", "audit_events"])
def test_given_a_default_partition_then_check_names_it(archive: Archive, table: str) -> None:
    load(archive, cdr(1))
    assert by_check(archive)["Postgres partitions"].verdict == "fine"
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE the_rest PARTITION OF {table} DEFAULT")

    finding = by_check(archive)["Postgres partitions"]

    assert finding.verdict == "wrong"
    assert finding.says.startswith(f"{table} has a DEFAULT partition, the_rest: ")
    assert finding.advice.startswith(f"ALTER TABLE {table} DETACH PARTITION the_rest")


def test_given_a_foreign_trigger_on_any_table_then_check_names_it(archive: Archive) -> None:
    load(archive, cdr(1))
    assert by_check(archive)["Postgres triggers"].verdict == "fine", "ours aren't foreign"
    tables = archive.rows(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace IN ('public'::regnamespace, 'reporting'::regnamespace)"
    )
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
        for table in (row["name"] for row in tables):
            connection.execute(
                f"CREATE TRIGGER meddle AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION meddle()"
            )
            finding = by_check(archive)["Postgres triggers"]
            assert (finding.verdict, f"meddle on {table};" in finding.says) == ("warning", True), table
            connection.execute(f"DROP TRIGGER meddle ON {table}")


def test_given_two_heads_or_a_foreign_one_then_check_names_them(archive: Archive) -> None:
    for revisions, code, says in (
        (("0001", "ae1027a6acf2"), "ETL-312", "has 2 heads (0001, ae1027a6acf2)"),
        (("ae1027a6acf2",), "ETL-334", "is another program's (revision ae1027a6acf2)"),
    ):
        with psycopg.connect(archive.database_url, autocommit=True) as connection:
            connection.execute("DELETE FROM alembic_version")
            for revision in revisions:
                connection.execute("INSERT INTO alembic_version VALUES (%s)", [revision])

        finding = by_check(archive)["Postgres schema"]

        assert (finding.verdict, finding.code) == ("wrong", code)
        assert says in finding.says
        assert finding.advice


def test_given_the_least_rights_then_all_of_this_can_be_looked_at(archive: Archive, tmp_path: Path) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(ROLES)
    found = by_check(archive, archive.database_url.replace("postgres@", "etl_loader@"))

    for word in ("version", "encoding", "role", "partitions", "triggers", "locks", "schema"):
        assert found[f"Postgres {word}"].verdict == "fine", word
