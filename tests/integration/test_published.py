"""Somebody publishes all tables, for a logical replica: whatever the archive does it still may, on every table."""

from pathlib import Path

import psycopg
import pytest

from etl import __version__
from etl.app import database
from etl.store import dead_letters
from etl.store.dead_letters import Wanted
from tests.lake import export, export_and_prune, load, restore, with_lake
from tests.person import KEY, forget
from tests.store import engine
from tests.world import Archive, api_cdr, cdr

pytestmark = pytest.mark.versions

TABLES = """
SELECT c.oid::regclass::text AS name, (
    SELECT quote_ident(attname) FROM pg_attribute
    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attgenerated = '' LIMIT 1
) AS column
FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
AND c.relnamespace IN ('public'::regnamespace, 'reporting'::regnamespace, 'etl_staging'::regnamespace) ORDER BY 1
"""
STATUS = b'{"type": "status", "payload": {"ref": "1002", "status": "available"}}'
NUMBER = "0741484437"


@pytest.fixture
def published(archive: Archive, tmp_path: Path) -> Archive:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    archive.more = {**archive.more, "forget_key": KEY}
    return with_lake(archive, tmp_path / "lake")


def used(archive: Archive) -> None:
    """What a day's life does to its rows: whatever is refused is an error here."""
    load(archive, cdr(1), cdr(2), cdr(1, call_time=42), api_cdr(3), STATUS, b"junk")
    load(archive, cdr(1, call_time=43))
    for everything in (False, True):
        database.rollup(archive.settings(), everything, lambda _: None)
    with engine(archive.database_url) as connections:
        assert dead_letters.discard(connections, Wanted(reason="not_json"), "noise") == 1
    export_and_prune(archive)
    assert restore(archive).what == "restored"
    export(archive)


def test_given_a_publication_then_every_table_may_be_changed(published: Archive) -> None:
    used(published)
    tables = published.rows(TABLES)
    names = {table["name"] for table in tables}
    assert {"cdrs", "cdrs_20150219", "reporting.campaign_figures", "alembic_version", "united_days"} <= names

    with psycopg.connect(published.database_url) as connection:
        for table in tables:
            connection.execute("SELECT set_config('etl.release', %s, false)", [__version__])
            connection.execute("UPDATE {name} SET {column} = {column}".format(**table))
            connection.execute("DELETE FROM {name}".format(**table))
            connection.rollback()

    forget(published, NUMBER)
    assert published.value("SELECT count(*) FROM cdrs WHERE number = %s", NUMBER) == 0


def test_given_a_publication_then_new_partitions_have_a_key_too(published: Archive) -> None:
    published.push(*[cdr(day, dialed_at=1_424_379_960 + day * 86_400) for day in range(3)])
    published.load()

    keyless = published.rows(
        "SELECT oid::regclass::text AS name FROM pg_class c WHERE relkind IN ('r', 'p') AND relpersistence = 'p'"
        " AND relnamespace IN ('public'::regnamespace, 'reporting'::regnamespace) AND relreplident <> 'f'"
        " AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)"
    )
    assert keyless == []
