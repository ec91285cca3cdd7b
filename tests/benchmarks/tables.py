"""What an Iceberg table costs that has ten years of days: to fill, to follow one more day, and an old one again, to
read a day of, to end its history. The days have one row each: neither files nor rows are what grows."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from etl import logs
from etl.jobs import publish
from etl.jobs.lake import Lake
from etl.jobs.tables import Tables
from etl.lab.servers.private import PrivatePostgres
from etl.lake import layout
from etl.lake.datasets import DATASETS
from etl.lake.target import Target, digest
from etl.store import connection, days
from etl.store.connection import Engine
from etl.store.tables import exports
from etl.wire.manifest import Manifest
from tests.benchmarks.figures import Figure
from tests.world import migrate

CDRS = DATASETS["cdrs"]
FIRST = date(2016, 1, 1)


class World:
    """A lake of such days, and the books of it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.target = Target(str(folder))
        self.tables = Tables(engine, self.target)
        self._lake = Lake(engine, "", self.target, "bench", logs.get(), self.tables)

    def enter(self, day: date, revision: int = 1) -> Manifest:
        """As if it had been exported by who knew of no table."""
        place = Path(self.target.path("new"))
        place.parent.mkdir(exist_ok=True)
        values = {field.name: [_value(field, day)] for field in CDRS.schema}
        pq.write_table(pa.table(values, schema=CDRS.schema).replace_schema_metadata({"r": str(revision)}), place)
        about = Manifest(CDRS.name, day, revision, 1, 1, "", bytes=place.stat().st_size, sha256=digest(str(place)))
        name = Path(self.target.path(layout.revision_of(CDRS, about)))
        name.parent.mkdir(parents=True, exist_ok=True)
        place.rename(name)
        with self.engine.begin() as transaction:
            row = days._row(about, self.target.url) | {"published_at": sa.func.now()}
            transaction.execute(sa.insert(exports).values(row))
        return about

    def publish(self) -> None:
        publish.publish(self._lake, logs.get())

    def follow(self, about: Manifest) -> None:
        with self.engine.begin() as transaction:
            self.tables.follow(transaction, CDRS, about)

    def query(self, day: date) -> None:
        location = self._location()
        assert pl.scan_iceberg(location).filter(pl.col(CDRS.day) == day).select("call_ref").collect().height == 1

    def metadata_kib(self) -> float:
        """Of what a query of the whole table reads of it."""
        needed = self.tables.needed(CDRS)
        return sum(self.target.size(name) or 0 for name in needed if name.startswith(layout.ICEBERG)) / 1024

    def _location(self) -> str:
        state = self.tables.state(CDRS)
        assert state
        return state.location


def measure(number: int, runs: int) -> list[Figure]:
    """`number` days, then so many more."""
    with _world() as world:
        for n in range(number):
            world.enter(FIRST + timedelta(days=n))
        filled = _timed(world.publish)
        following, again = [], []
        for run in range(runs):
            about = world.enter(FIRST + timedelta(days=number + run))
            following.append(_timed(partial(world.follow, about)))
            old = world.enter(FIRST + timedelta(days=number * run // runs), 2)
            again.append(_timed(partial(world.follow, old)))
        querying = [_timed(partial(world.query, FIRST + timedelta(days=n * 7))) for n in range(runs)]
        expiring = _timed(lambda: (world.tables.expire(CDRS, None), world.tables.sweep(CDRS, None)))
        metadata = world.metadata_kib()
    of = f"an Iceberg table of {number:,} days"
    return [
        Figure("tables", f"{of}, filled", "s", [filled]),
        Figure("tables", f"{of}, one more", "ms", [1000 * each for each in following]),
        Figure("tables", f"{of}, an old one again", "ms", [1000 * each for each in again]),
        Figure("tables", f"{of}, a day by Polars", "ms", [1000 * each for each in querying]),
        Figure("tables", f"{of}, its history ended", "s", [expiring]),
        Figure("tables", f"{of}, metadata then", "KiB", [metadata]),
    ]


@contextmanager
def _world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="etl-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # Postgres runs as somebody else when we are root
        with PrivatePostgres(Path(folder) / "pg") as server:
            migrate(server.url)
            engine = connection.connect("postgresql+psycopg" + server.url.removeprefix("postgresql"))
            try:
                yield World(engine, Path(folder) / "lake")
            finally:
                engine.dispose()


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _value(field: pa.Field, day: date) -> object:
    if pa.types.is_timestamp(field.type):
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    return 0 if pa.types.is_integer(field.type) else "0"
