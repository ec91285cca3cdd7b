"""The lake's Iceberg tables, and their books in Postgres: what one of them may do is in `etl.lake.table`, and where the
pointers are in `etl.store.lake_table`."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial

from etl.errors import LakeError
from etl.lake import layout
from etl.lake.datasets import Dataset
from etl.lake.table import Held, OpenTable, State, data_file
from etl.lake.table_files import TableFiles
from etl.lake.target import Target
from etl.store import days, lake_table
from etl.store.connection import Connection, Engine
from etl.wire.manifest import Manifest


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How many days of a table are as the books have them that weren't; and those whose files can't be had, and why."""

    days: int
    failed: Mapping[date, str]


class Tables:
    """One per dataset. Every method may raise `LakeError`, `Outage`, and `Contention` if a pointer is moved all the
    time: but for `follow`, each begins again by itself when that happens."""

    def __init__(self, engine: Engine, target: Target) -> None:
        self._engine = engine
        self._target = target
        self._states: dict[str, State] = {}

    def follow(self, connection: Connection, dataset: Dataset, about: Manifest) -> None:
        """The table has this revision of its day as soon as the connection's transaction is committed. Where there is
        none yet, none is made that would lack other days: that's for `catch_up`.

        Raises `Contention` if the pointer was moved meanwhile: then all must be done again, in a new transaction.
        """
        pointer = lake_table.look(connection, dataset.name)
        if pointer is None and len(days.current(connection, dataset.table)) > 1:
            return
        with self._changing(connection, dataset, pointer) as table:
            table.follow({about.day: data_file(self._target, dataset, about)})

    def behind(self, dataset: Dataset, of_days: Collection[date] | None = None) -> dict[date, Manifest | None]:
        """What the books call current of these days, or of all, and the table hasn't so; None for a day that it has and
        the books don't know."""
        state = self.state(dataset)
        with self._engine.connect() as connection:
            current = days.current(connection, dataset.table, of_days)
        held = state.days if state else {}
        strange = [day for day in held if day not in current and (of_days is None or day in of_days)]
        other = {day: about for day, about in current.items() if not is_held(held.get(day, ()), dataset, about)}
        return {**other, **dict.fromkeys(strange)}

    def catch_up(self, dataset: Dataset, of_days: Collection[date] | None = None, anew: bool = False) -> CaughtUp:
        """Have the table hold what the books call current, of these days or of all, in one snapshot. What can't be had
        keeps no other day out. `anew` the table has no history, and what it had is forgotten in the same moment."""
        return lake_table.again(partial(self._catch_up, dataset, of_days, anew))

    def expire(self, dataset: Dataset, until: datetime | None) -> int:
        """Snapshots that others had superseded at `until` are no more; without `until`, all but the current one.
        Returns how many."""
        return lake_table.again(partial(self._expire, dataset, until))

    def state(self, dataset: Dataset) -> State | None:
        """None if there is no table."""
        return lake_table.again(partial(self._state, dataset))

    def needed(self, dataset: Dataset) -> set[str]:
        """Names of all files that any snapshot needs; none, if there is no table."""
        return lake_table.again(partial(self._needed, dataset))

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

    def _catch_up(self, dataset: Dataset, of_days: Collection[date] | None, anew: bool) -> CaughtUp:
        if anew:
            with self._engine.connect() as connection:
                behind: dict[date, Manifest | None] = {**days.current(connection, dataset.table)}
        else:
            behind = self.behind(dataset, of_days)
        files, failed = {}, {}
        for day, about in behind.items():
            try:
                files[day] = data_file(self._target, dataset, about) if about else None
            except LakeError as error:
                failed[day] = str(error)
        if anew and failed and not files:
            raise LakeError("ETL-535", f"no day's file can be had at {self._target.uri}: is the lake there?")
        with self._engine.begin() as connection:
            # The books are read when nobody else can move the pointer: what it leads to is never newer than they.
            pointer = lake_table.hold(connection, dataset.name)
            now = days.current(connection, dataset.table, [*behind])
            if any(now.get(day) != about for day, about in behind.items()):
                raise lake_table.moved(dataset.name)
            if anew:
                lake_table.forget(connection, dataset.name)
                pointer = None
            if not files or (of_days is not None and pointer is None):  # one that lacks days would look whole
                return CaughtUp(0, failed)
            with self._changing(connection, dataset, pointer) as table:
                return CaughtUp(table.follow(files), failed)

    def _expire(self, dataset: Dataset, until: datetime | None) -> int:
        with self._engine.begin() as connection:
            if (pointer := lake_table.pointer(connection, dataset.name)) is None:
                return 0
            with self._changing(connection, dataset, pointer) as table:
                return table.expire(until)

    def _state(self, dataset: Dataset) -> State | None:
        with self._engine.begin() as connection:
            pointer = lake_table.pointer(connection, dataset.name)
            known = self._states.get(dataset.name)
            if pointer is None or (known and known.location == pointer):
                return known if pointer else None
            with self._open(connection, dataset, pointer, TableFiles(self._target, _never)) as table:
                self._states[dataset.name] = table.state()
            return self._states[dataset.name]

    def _needed(self, dataset: Dataset) -> set[str]:
        with self._engine.begin() as connection:
            if (pointer := lake_table.pointer(connection, dataset.name)) is None:
                return set()
            with self._open(connection, dataset, pointer, TableFiles(self._target, _never)) as table:
                return table.needed()

    @contextmanager
    def _changing(self, connection: Connection, dataset: Dataset, pointer: str | None) -> Iterator[OpenTable]:
        """The table as it was read that it is; what was written meanwhile is committed with the pointer."""
        lake_table.wait_a_moment(connection)
        files = TableFiles(self._target, lambda name: lake_table.begin(self._engine, dataset.name, name))
        with self._open(connection, dataset, pointer, files) as table:
            yield table
        lake_table.commit(connection, files.written)

    @contextmanager
    def _open(
        self, connection: Connection, dataset: Dataset, pointer: str | None, files: TableFiles
    ) -> Iterator[OpenTable]:
        """What is missing because somebody moved the pointer and swept is no damage."""
        place = (lake_table.CATALOG, lake_table.NAMESPACE, pointer)
        try:
            with lake_table.in_the_catalog(connection):
                yield OpenTable(connection, self._target, dataset, *place, files)
        except LakeError:
            with self._engine.connect() as another:
                if lake_table.pointer(another, dataset.name) != pointer:
                    raise lake_table.moved(dataset.name) from None
            raise


def is_held(held: Collection[Held], dataset: Dataset, about: Manifest) -> bool:
    """Whether a table has this revision alone of its day, as it is."""
    return [*held] == [Held(layout.revision_of(dataset, about), about.rows, about.bytes)]


def _never(name: str) -> None:
    raise AssertionError(f"{name} is written by who only reads")
