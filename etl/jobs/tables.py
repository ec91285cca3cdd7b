"""The lake's Iceberg tables, and their books in Postgres: what one of them may do is in `etl.lake.table`, and where the
pointers are in `etl.store.lake_table`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime

from etl.lake import layout
from etl.lake.datasets import Dataset
from etl.lake.table import OpenTable, State
from etl.lake.table_files import TableFiles
from etl.lake.target import Target
from etl.store import lake_table
from etl.store.connection import Connection, Engine
from etl.wire.manifest import Manifest


class Tables:
    """One per dataset. Every method may raise `LakeError` and `Outage`; what moves a pointer `Contention` too, if that
    was moved meanwhile: then all must be done again, in a new transaction."""

    def __init__(self, engine: Engine, target: Target) -> None:
        self._engine = engine
        self._target = target
        self._states: dict[str, State] = {}

    def follow(self, connection: Connection, dataset: Dataset, wanted: Mapping[date, Manifest]) -> int:
        """Have the table hold these revisions; returns how many it didn't. Readers have them as soon as the
        connection's transaction is committed."""
        with self._changing(connection, dataset) as table:
            return table.follow(wanted)

    def expire(self, dataset: Dataset, until: datetime | None) -> int:
        """Snapshots that others had superseded at `until` are no more; without `until`, all but the current one.
        Returns how many."""
        with self._engine.begin() as connection:
            if lake_table.pointer(connection, dataset.name) is None:
                return 0
            with self._changing(connection, dataset) as table:
                return table.expire(until)

    def state(self, dataset: Dataset) -> State | None:
        """None if there is no table."""
        with self._engine.begin() as connection:
            location = lake_table.pointer(connection, dataset.name)
            known = self._states.get(dataset.name)
            if location is None or (known and known.location == location):
                return known if location else None
            with self._reading(connection, dataset) as table:
                self._states[dataset.name] = table.state()
            return self._states[dataset.name]

    def needed(self, dataset: Dataset) -> set[str]:
        """Names of all files that any snapshot needs; none, if there is no table."""
        with self._engine.begin() as connection:
            if lake_table.pointer(connection, dataset.name) is None:
                return set()
            with self._reading(connection, dataset) as table:
                return table.needed()

    def sweep(self, dataset: Dataset, until: datetime | None) -> list[str]:
        """Take away metadata files that no snapshot needs: those with which the pointer moved before `until`, or at any
        time, and those with which it never did. Returns their names."""
        lake_table.give_up(self._engine, dataset.name)
        over = lake_table.removable(self._engine, dataset.name, until)  # first: what a later pointer needs is newer
        gone = sorted(name for name in over - self.needed(dataset) if name.startswith(f"{layout.table(dataset)}/"))
        for name in gone:
            self._target.remove(name)
        lake_table.removed(self._engine, gone)
        return gone

    def unknown(self, dataset: Dataset) -> list[str]:
        """Files among the table's metadata that the books don't know."""
        there = [file.name for file in self._target.files(layout.table(dataset))]
        return sorted({*there} - lake_table.names(self._engine, dataset.name))

    @contextmanager
    def _changing(self, connection: Connection, dataset: Dataset) -> Iterator[OpenTable]:
        """What was written meanwhile is committed with the pointer."""
        lake_table.wait_a_moment(connection)
        files = TableFiles(self._target, lambda name: lake_table.begin(self._engine, dataset.name, name))
        with lake_table.in_the_catalog(connection):
            yield self._open(connection, dataset, files)
        lake_table.commit(connection, files.written)

    @contextmanager
    def _reading(self, connection: Connection, dataset: Dataset) -> Iterator[OpenTable]:
        with lake_table.in_the_catalog(connection):
            yield self._open(connection, dataset, TableFiles(self._target, _never))

    def _open(self, connection: Connection, dataset: Dataset, files: TableFiles) -> OpenTable:
        return OpenTable(connection, self._target, dataset, lake_table.CATALOG, lake_table.NAMESPACE, files)


def _never(name: str) -> None:
    raise AssertionError(f"{name} is written by who only reads")
