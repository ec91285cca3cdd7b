"""The schema in Postgres: what the migrations make is what `etl.store.tables` says, and every upgrade is safe."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from etl.errors import ConfigurationError
from etl.store import schema, tables
from etl.store.writer import Writer
from tests.store import at_once, engine, write
from tests.world import cdr

pytestmark = pytest.mark.versions

PAGE = Path(__file__).parents[2] / "docs/schema.md"
EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[sa.Engine]:
    with engine(empty_database_url) as connections:
        yield connections


@pytest.fixture
def migrated(database_url: str) -> Iterator[sa.Engine]:
    with engine(database_url) as connections:
        yield connections


def differences(connections: sa.Engine) -> list[Any]:
    """Between the database and `etl.store.tables`; partitions aside, which come and go with the data."""

    def no_partition(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in {*tables.metadata.tables, "alembic_version"} or "_2" not in str(name)

    options = {"include_name": no_partition, "compare_type": True, "compare_server_default": True}
    with connections.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata))


def downgrade(connections: sa.Engine) -> None:
    with connections.begin() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")


def set_revision(connections: sa.Engine, *revisions: str) -> None:
    with connections.begin() as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))
        for revision in revisions:
            connection.execute(sa.text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})


def test_given_the_migrations_then_the_schema_is_what_the_tables_say(migrated: sa.Engine) -> None:
    assert differences(migrated) == []


def test_given_a_used_database_then_the_schema_is_what_the_tables_say(migrated: sa.Engine) -> None:
    write(Writer(migrated), cdr(1), EVENT, b"junk")

    assert differences(migrated) == []


def test_given_the_schema_then_every_table_and_column_says_what_it_is(migrated: sa.Engine) -> None:
    write(Writer(migrated), cdr(1), EVENT)
    silent = """
        SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT a.attisdropped
        AND a.attnum > 0 AND col_description(c.oid, a.attnum) IS NULL AND c.relname <> 'alembic_version'
        UNION ALL
        SELECT relname, NULL FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
        AND obj_description(oid) IS NULL AND relname <> 'alembic_version' AND NOT relispartition
    """
    with migrated.connect() as connection:
        assert connection.execute(sa.text(silent)).all() == []


def test_the_page_of_the_schema_has_all_that_there_is_and_no_more(migrated: sa.Engine) -> None:
    there = """
        SELECT CASE nspname WHEN 'public' THEN '' ELSE nspname || '.' END || name FROM (
            SELECT relnamespace, relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition
            UNION ALL
            SELECT pronamespace, proname FROM pg_proc
        ) AS named (namespace, name) JOIN pg_namespace n ON n.oid = namespace
        WHERE nspname IN ('public', 'reporting', 'etl_staging')
    """
    cells = re.findall(r"^\| (`.+?`) \|", PAGE.read_text(), re.MULTILINE)

    with migrated.connect() as connection:
        assert sorted(connection.scalars(sa.text(there))) == sorted(re.findall("`(.+?)`", " ".join(cells)))


def test_given_a_schema_iceberg_of_others_then_the_upgrade_is_refused(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA iceberg CREATE TABLE iceberg_tables (catalog_name text)")
    with engine(empty_database_url) as connections, pytest.raises(ConfigurationError, match="ETL-335"):
        schema.upgrade(connections)


def test_given_a_downgrade_then_it_is_refused_and_nothing_changed(migrated: sa.Engine) -> None:
    write(Writer(migrated), cdr(1), EVENT, b"junk")

    with pytest.raises(NotImplementedError, match="restore the backup"):
        downgrade(migrated)

    schema.check(migrated)
    assert differences(migrated) == []


def test_given_an_empty_database_then_upgrading_twice_is_upgrading_once(empty: sa.Engine) -> None:
    assert schema.upgrade(empty) == (None, schema.needed())
    assert schema.upgrade(empty) == (schema.needed(), schema.needed())
    schema.check(empty)


def test_given_hosts_that_upgrade_at_once_then_only_one_does(empty_database_url: str) -> None:
    def upgrade() -> tuple[str | None, str]:
        with engine(empty_database_url) as connections:
            return schema.upgrade(connections)

    befores = [before for before, _ in at_once(*(partial(upgrade) for _ in range(4)))]

    assert sorted(befores, key=str) == [schema.needed()] * 3 + [None]


def test_given_no_schema_then_the_error_says_what_to_run(empty: sa.Engine) -> None:
    assert schema.current(empty) is None
    with pytest.raises(ConfigurationError, match="no schema yet: run `etl db upgrade`"):
        schema.check(empty)


def test_given_an_old_schema_then_the_error_says_what_to_run(migrated: sa.Engine) -> None:
    set_revision(migrated, "0001")

    with pytest.raises(
        ConfigurationError, match=rf"schema is old \(0001, needed: {schema.needed()}\): run `etl db upgrade`"
    ):
        schema.check(migrated)


def test_given_a_schema_of_tomorrow_then_neither_load_nor_upgrade_touch_it(migrated: sa.Engine) -> None:
    set_revision(migrated, "9999")

    for step in (schema.check, schema.upgrade):
        with pytest.raises(ConfigurationError, match=r"\(9999\) is newer than this program .*: install a newer etl"):
            step(migrated)
    assert schema.current(migrated) == "9999"


def test_given_two_heads_then_the_error_names_them(migrated: sa.Engine) -> None:
    set_revision(migrated, "0001", "ae1027a6acf2")

    for step in (schema.current, schema.check, schema.upgrade):
        with pytest.raises(ConfigurationError, match=r"ETL-312: .* has 2 heads \(0001, ae1027a6acf2\)"):
            step(migrated)


@pytest.mark.parametrize("revision", ["ae1027a6acf2", "0001", "0013", "9999"])
def test_given_another_programs_revisions_then_nothing_is_touched(empty: sa.Engine, revision: str) -> None:
    with empty.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
    set_revision(empty, revision)

    for step in (schema.current, schema.check, schema.upgrade):
        with pytest.raises(ConfigurationError, match=rf"ETL-334: .* another program's \(revision {revision}\)"):
            step(empty)


def test_given_a_foreign_revision_beside_our_tables_then_it_is_named(migrated: sa.Engine) -> None:
    set_revision(migrated, "ae1027a6acf2")

    with pytest.raises(ConfigurationError, match="ETL-334"):
        schema.upgrade(migrated)


def test_the_revisions_by_the_files_names_are_those_of_alembic() -> None:
    scripts = ScriptDirectory.from_config(schema._config())

    assert schema._known() == {script.revision for script in scripts.walk_revisions()}
    assert schema.needed() == scripts.get_current_head()
