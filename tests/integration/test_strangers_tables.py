"""Whoever may make tables in the archive's schema, as everybody could before Postgres 15, makes ones that are called as
ours are that last for a session only: what we send never gets there."""

import gc

import psycopg
import sqlalchemy as sa

from etl.store import days, trial  # noqa: F401  (with all that have temporary tables)
from etl.store.ledger import Books
from etl.store.writer import Writer
from tests.store import write
from tests.world import Archive, api_cdr, cdr


def _temporary() -> set[str]:
    """As the code itself has them."""
    gc.unfreeze()  # what a loader of an earlier test froze isn't among the objects
    tables = [each for each in gc.get_objects() if isinstance(each, sa.Table)]
    assert all(each.schema == "pg_temp" for each in tables if "TEMPORARY" in each._prefixes), "of any schema"
    return {each.name for each in tables if "TEMPORARY" in each._prefixes}


def test_given_strangers_tables_of_our_names_then_nothing_gets_there(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(1), b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}')
    refusing = "CHECK (number IS DISTINCT FROM 'refused')"
    with psycopg.connect(archive.database_url, autocommit=True) as stranger:
        stranger.execute(f"ALTER TABLE cdrs ADD CONSTRAINT of_an_administrator {refusing}")
        names = _temporary() | {f"{kind}_cdrs" for kind in ("doubtful", "good", "newer", "trying")}
        assert names >= {"arrived_cdrs", "incoming_cdrs", "incoming_audit_events", "merged_rows", "refused_rows"}
        for name in names:
            stranger.execute(f"CREATE TABLE public.{name} (LIKE cdrs, position integer, round integer, place integer)")

        claim = [cdr(1, call_time=9), cdr(2), api_cdr(2), cdr(3, number="refused"), cdr(1, call_time=8)]
        assert write(writer, *claim) == Books(claimed=5, inserted=1, updated=3, dead=1)

        assert [stranger.execute(f"SELECT count(*) FROM public.{name}").fetchone() for name in names] == [(0,)] * len(
            names
        )
    archive.assert_books_balance()
