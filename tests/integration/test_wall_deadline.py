"""However many statements a request takes, together they cost Postgres no more than one may."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from etl.app.serving import REQUEST_SECONDS
from etl.errors import Outage
from etl.reporting.asks import ASKS
from etl.reporting.deadline import bounded, within
from etl.reporting.figures import Asked, ask, yesterday
from etl.reporting.today import Wall
from tests.store import engine
from tests.wall import PROMISED, served
from tests.world import Archive

DAY = date(2015, 2, 19)
LATE = {"ETL-301", "ETL-970"}  # cancelled by Postgres, or not asked any more


def slow(archive: Archive, seconds: float) -> None:
    """Whoever asks for the settings waits, each time."""
    kept, view = "reporting.settings_kept", "CREATE VIEW reporting.settings AS SELECT s.*"
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute("ALTER TABLE reporting.settings RENAME TO settings_kept")
        administrator.execute(f"{view} FROM {kept} s CROSS JOIN pg_sleep({seconds})".encode())


def sleep_on(asking: sa.Engine, each: float, done: list[float]) -> None:
    """Without an end: two statements in a transaction, and then in the next."""
    while True:
        with asking.connect() as connection:
            for _ in range(2):
                connection.execute(sa.text("SELECT pg_sleep(:each)"), {"each": each})
                done.append(each)


@pytest.mark.parametrize("each", [0.3, 0.6, 30.0])
def test_each_statement_gets_what_is_left_of_the_bound(archive: Archive, each: float) -> None:
    shown = sa.text("SHOW statement_timeout")
    with engine(archive.database_url) as connections:
        with connections.connect() as connection:
            before = connection.scalar(shown)
        asking = bounded(connections, 1.0)
        done: list[float] = []
        with pytest.raises(Outage) as raised:
            sleep_on(within(asking), each, done)
        with within(bounded(connections, 3_600.0)).connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1, "the next request has a bound of its own"
        with asking.connect() as connection:
            assert connection.scalar(shown) == before, "and nothing is left of the last"
    assert raised.value.code in LATE
    assert sum(done) <= 1.0


LOOKS: dict[str, Callable[[sa.Engine], Any]] = {
    **{kind: lambda asking, kind=kind: ask(within(asking), Asked(kind, DAY, DAY)) for kind in ASKS},  # type: ignore[misc]
    "today": lambda asking: Wall(asking).look(),
}


@pytest.mark.parametrize("look", LOOKS)
def test_given_many_slow_statements_then_the_sum_is_bounded(archive: Archive, look: str) -> None:
    slow(archive, 0.4)
    with engine(archive.database_url) as connections:
        assert yesterday(connections), "each of them is quick enough"
        with pytest.raises(Outage) as raised:
            LOOKS[look](bounded(connections, 0.6))
    assert raised.value.code in LATE


def test_given_a_page_of_slow_statements_then_it_says_so(archive: Archive, tmp_path: Path) -> None:
    slow(archive, REQUEST_SECONDS * 0.4)
    with served(archive, tmp_path / "log") as wall:
        answer = wall.ask(f"/hours?from={DAY}&to={DAY}")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert any(f"Postgres can't be asked: {code}" in answer.text for code in LATE)
        assert PROMISED.items() <= answer.headers.items()
        assert len(wall.log.read_text().splitlines()) == 1, wall.log.read_text()
