"""Sessions that load have limits, others have none; and a limit that is reached is an outage, never a dead letter."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import psycopg
import pytest
import sqlalchemy as sa

from etl.app.database import engine_of
from etl.app.stores import stores
from etl.errors import Outage
from etl.store import connection
from etl.store.ledger import Books
from etl.store.pinned import LOADING, PATIENT
from etl.store.writer import Writer
from etl.wire.dated import Dated
from etl.wire.decode import Records
from tests.store import batch, write
from tests.world import Archive, cdr, eventually

TIMEOUTS = "SELECT name, setting::bigint FROM pg_settings WHERE context = 'user' AND name = ANY(:names)"
OURS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'etl'"


def limits(engine: sa.Engine) -> dict[str, int]:
    """In ms; without those that there are."""
    with engine.connect() as session:
        return {name: ms for name, ms in session.execute(sa.text(TIMEOUTS), {"names": [*PATIENT]}) if ms}


def test_only_sessions_that_load_have_limits(archive: Archive) -> None:
    with stores(archive.settings()) as clients, engine_of(archive.settings()) as patient:
        assert limits(patient) == {}
        assert limits(clients.engine) == {
            "statement_timeout": 600_000,
            "lock_timeout": 60_000,
            "idle_in_transaction_session_timeout": 300_000,
        }


class Slow(Dated):
    """A claim's records, which its loader comes to only when something has happened."""

    def __init__(self, records: Dated, happened: Callable[[], None]) -> None:
        super().__init__(lambda _: records, 0)
        self._happened = happened

    def pieces(self) -> Iterator[Records]:
        self._happened()
        yield from super().pieces()


@pytest.fixture(params=["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"])
def hurried(archive: Archive, request: pytest.FixtureRequest) -> Iterator[tuple[str, Writer]]:
    """A limit, and a writer to whom it applies soon."""
    url = "postgresql+psycopg://" + archive.database_url.partition("://")[2]
    engine = connection.connect(url, timeouts={**LOADING, request.param: "200ms"})
    try:
        yield request.param, Writer(engine)
    finally:
        engine.dispose()


def test_given_a_limit_that_is_reached_then_it_is_an_outage(archive: Archive, hurried: tuple[str, Writer]) -> None:
    limit, writer = hurried
    write(writer, cdr("0"))
    claim = batch([cdr("1"), cdr("2")])
    with psycopg.connect(archive.database_url) as other:
        if limit.startswith("idle"):
            ended = partial(eventually, lambda: archive.value(OURS) == 0)
            claim = replace(claim, records=Slow(claim.records, ended))
        else:
            other.execute("LOCK TABLE load_batches IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Outage):
            writer.write(claim)

    assert write(writer, cdr("1"), cdr("2"), batch_id=claim.batch_id) == Books(2, inserted=2)
    assert archive.value("SELECT count(*) FROM dead_letters") == 0
    archive.assert_books_balance()
