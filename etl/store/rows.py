"""Decoded records into `cdrs` and `audit_events`, within a claim's transaction, in one of three ways. Each does all
that the one before does, and costs more; what isn't brought in by one is rolled back, and comes again in the next.

    FAST        COPY: none of them is stored yet
    CLASSIFIED  etl.store.classify: some are, and Postgres takes what becomes of each
    CAREFUL     etl.store.merge, in savepoints (etl.store.midnight finds the day)
                  └─ refused ─▶ etl.store.trial finds those that fail alone, and the rest is merged
                       └─ refused ─▶ etl.store.trial stores one after the other: some fail in company only
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from enum import IntEnum
from operator import itemgetter
from typing import Generic, TypeVar

import sqlalchemy as sa

from etl.errors import ConfigurationError, Contention, RowRefused, StatementRefused
from etl.store import midnight
from etl.store.classify import UnsettledError, merge_classified
from etl.store.copy import as_date, copy_rows
from etl.store.merge import (
    Merged,
    add_events,
    incoming,
    incoming_events,
    merge_cdrs,
    plpgsql_of_cdrs,
    plpgsql_of_events,
)
from etl.store.tables import audit_events, cdrs
from etl.store.trial import PART, Trial, Tried
from etl.wire.cdr import Cdr
from etl.wire.decode import Records
from etl.wire.event import Event
from etl.wire.packed import GAINED, ROW

Record = TypeVar("Record", Cdr, Event)

# What Postgres says of a statement because of a row, or for a reason of its own.
REFUSALS = (RowRefused, StatementRefused, ConfigurationError)
SHORT = "53"  # the SQLSTATE class of insufficient resources


class Way(IntEnum):
    """How a claim's records are brought in."""

    FAST = 1
    CLASSIFIED = 2
    CAREFUL = 3


class AnotherWayError(Exception):
    """The claim's transaction is to be rolled back, and begun again in the next way."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[Record]):
    """How rows get into one table."""

    table: sa.Table
    columns: Sequence[str]
    tried: Tried
    merge: Callable[[sa.Connection, Sequence[Record]], Merged]
    settled: Callable[[sa.Connection, Sequence[Record]], Sequence[Record]]  # the rows, each under its day


_tried_cdrs = Tried(cdrs, Cdr._fields, incoming, plpgsql_of_cdrs)
_tried_events = Tried(audit_events, Event._fields, incoming_events, plpgsql_of_events)
CDRS: Kind[Cdr] = Kind(cdrs, Cdr._fields, _tried_cdrs, merge_cdrs, midnight.settled)
EVENTS: Kind[Event] = Kind(audit_events, Event._fields, _tried_events, add_events, lambda _, rows: rows)


@dataclass(slots=True)
class Loaded:
    merged: Merged = field(default_factory=Merged)
    refused: dict[int, str] = field(default_factory=dict)  # index of the row → Postgres' message


def load_calls(connection: sa.Connection, records: Records, stream: Callable[[], Iterable[Cdr]], way: Way) -> Merged:
    """Bring in a claim's CDRs, `FAST` or `CLASSIFIED`: the packed ones, and those that each call of `stream` gives from
    the start. Raises as the engine does, and `AnotherWayError`."""
    with _quickly(way):
        if way is Way.CLASSIFIED:
            return merge_classified(connection, records, list(stream()))
        packed = records.packed()
        copy_rows(connection, cdrs, Cdr._fields, stream(), packed.rows if packed else None)
        rows = list(stream())
        if midnight.are_apart(connection, rows):
            raise AnotherWayError
        merged = Merged(Counter(count_days(rows)))
        if packed:
            merged += Merged(_dates(packed.days(ROW)), _dates(packed.days(GAINED)))
        return merged


def load_events(connection: sa.Connection, rows: Sequence[Event], way: Way) -> Merged:
    """Likewise, events."""
    with _quickly(way):
        if way is Way.CLASSIFIED:
            return add_events(connection, rows)
        copy_rows(connection, audit_events, Event._fields, rows)
        return Merged(Counter(count_days(rows)))


@contextmanager
def _quickly(way: Way) -> Iterator[None]:
    # Only the fast way doesn't wait for whoever is writing the same row.
    passing = (*REFUSALS, UnsettledError, *((Contention,) if way is Way.FAST else ()))
    try:
        yield
    except passing as failure:
        raise AnotherWayError from failure


class Rows(Generic[Record]):
    """Of one table and one list, brought in carefully. `alive` is called now and then while it takes long."""

    def __init__(
        self, connection: sa.Connection, kind: Kind[Record], source_key: str, alive: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._kind: Kind[Record] = kind
        self._source_key = source_key
        self._alive = alive

    def load(self, rows: Sequence[Record]) -> Loaded:
        """Raises as the engine does, but no `RowRefused`."""
        rows = list(self._kind.settled(self._connection, rows))
        try:
            return Loaded(self._merge(rows))
        except REFUSALS:
            return self._load_but_refused(rows)

    def _load_but_refused(self, rows: Sequence[Record]) -> Loaded:
        trial = Trial(self._connection, self._kind.tried, self._source_key, rows, self._alive)
        trial.check()
        try:
            with self._connection.begin_nested():
                return self._load_in_parts(rows, trial)
        except _ShortError as short:
            # Are its rows guilty by themselves, while the transaction holds as little as can be?
            if not trial.refused(short.part, alone=True):
                raise short.refusal from None
        places = range(len(rows))
        loaded = Loaded(refused=trial.refused(places, alone=True))
        loaded.merged += self._merge([rows[place] for place in places if place not in loaded.refused])
        return loaded

    def _load_in_parts(self, rows: Sequence[Record], trial: Trial) -> Loaded:
        """A part that is refused is halved, down to what is quickly tried row by row; after one that isn't, the next is
        twice as large."""
        loaded = Loaded()
        at, size = 0, max(1, len(rows) // 2)
        while at < len(rows):
            self._alive()
            part = range(at, min(at + size, len(rows)))
            try:
                loaded.merged += self._merge(rows[part.start : part.stop])
                size *= 2
            except REFUSALS:
                if len(part) > PART:
                    size = len(part) // 2
                    continue
                try:
                    self._load_row_by_row(rows, part, loaded, trial)
                except StatementRefused as refusal:
                    raise (_ShortError(part, refusal) if refusal.sqlstate.startswith(SHORT) else refusal) from refusal
            at = part.stop
        return loaded

    def _load_row_by_row(self, rows: Sequence[Record], part: range, loaded: Loaded, trial: Trial) -> None:
        refused = trial.refused(part)
        left = [place for place in part if place not in refused]
        try:
            loaded.merged += self._merge([rows[place] for place in left])
        except REFUSALS:  # some in company only
            merged, more = trial.store(left)
            loaded.merged += merged
            refused |= more
        loaded.refused |= refused

    def _merge(self, rows: Sequence[Record]) -> Merged:
        with self._connection.begin_nested():
            merged: Merged = self._kind.merge(self._connection, rows)
            return merged


class _ShortError(Exception):
    """Postgres ran short of something when it came to these rows: roll back to the savepoint, and look whether it's
    because of them, or of all that was stored before."""

    def __init__(self, part: range, refusal: StatementRefused) -> None:
        self.part = part
        self.refusal = refusal


def _dates(days: Mapping[int, int]) -> Counter[date]:
    return Counter({as_date(day): rows for day, rows in days.items()})


def count_days(rows: Iterable[Record]) -> dict[date, int]:
    """How many rows belong to each day; the day is a record's first field."""
    return {as_date(day): n for day, n in Counter(map(itemgetter(0), rows)).items()}
