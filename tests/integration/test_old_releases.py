"""A 0.1 beside the new release: it may load, but what it would do to the lake, the books of it and the receipts, the
database refuses."""

import psycopg
import pytest
from psycopg.errors import FeatureNotSupported

from etl.app.database import engine_of
from tests.world import Archive

REFUSED = "older than the archive"
ENTER = (
    "INSERT INTO exports (dataset, day, revision, rows, bytes, sha256, schema_fingerprint, entries, url)"
    " VALUES ('cdrs', '2015-02-19', 1, 1, 1, 'x', 'x', 1, 'x')"
    " ON CONFLICT (dataset, day, revision) DO UPDATE SET rows = excluded.rows"
)
OF_0_1 = [
    ENTER,
    "UPDATE exports SET published_at = now()",
    "DELETE FROM exports WHERE published_at IS NULL",
    "INSERT INTO forgotten (subject, hash, worker) VALUES ('number', 'x', 'x')",
    "SELECT forget_day('cdrs', '2015-02-19', 1, 'x')",
]


@pytest.mark.parametrize("statement", OF_0_1)
def test_given_an_etl_of_0_1_then_its_exports_and_erasures_are_refused(archive: Archive, statement: str) -> None:
    old = psycopg.connect(archive.database_url, application_name="etl")
    with old, pytest.raises(FeatureNotSupported, match=REFUSED):
        old.execute(statement)


def test_given_a_0_1_under_another_name_then_its_exports_are_refused(archive: Archive) -> None:
    old = psycopg.connect(archive.database_url, application_name="nightly")
    with old, pytest.raises(FeatureNotSupported, match=REFUSED):
        old.execute(ENTER)


def test_given_our_own_sessions_then_they_say_their_release(archive: Archive) -> None:
    with engine_of(archive.settings()) as engine, engine.connect() as connection:
        for statement in OF_0_1[1:4]:
            connection.exec_driver_sql(statement)
        connection.rollback()
        connection.exec_driver_sql(OF_0_1[1])
