"""The search that proves an erasure, or foresees one: every table and every file, one after the other, read to its end.
It shares neither pattern nor list of tables nor reader of files with who erases.

    catalog ──tables──▶ Postgres' rows ─┐
                                        ├──▶ where it still stands, and how else they are spelled
    folders ──files──▶ the lake's rows ─┘
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from etl.errors import EtlError
from etl.jobs.lake import Lake
from etl.lake import remains as in_lake
from etl.lake.remains import Piece
from etl.store import remains as in_postgres
from etl.store.connection import Engine
from etl.store.remains import Place
from etl.wire.erasure import Person
from etl.wire.remains import Hit, Kind, Sought

# How many are done, of how many, and which is next.
Progress = Callable[[int, int, str], None]
# Of each place so many rows are named.
_NAMED = 3


class Remain(NamedTuple):
    """Rows in which one column tells of the person: of a table or a day of it, or of a file of the lake, with the keys
    of the first. No key has the value in it. `of` is the table, or the dataset. `kind`: the value itself, or only its
    last nine digits are the same."""

    of: str
    where: str
    column: str
    day: date | None
    kind: Kind
    rows: int
    keys: tuple[str, ...]


class Samples(NamedTuple):
    """What Postgres' planner remembers of columns."""

    of: str = "pg_catalog.pg_stats"
    day: date | None = None

    def __str__(self) -> str:
        return self.of


@dataclass(slots=True)
class Searched:
    """Where it was looked, and what was found there; `spellings` are other values by which rows would be theirs, each
    with the number of these rows in Postgres and in files. A place that couldn't be read to its end is in `unread`,
    with the reason; `drafts` are files that somebody is writing, or died over, and no reader can read either."""

    schemas: list[str] = field(default_factory=list)
    tables: int = 0
    files: int = 0
    drafts: int = 0
    days: int = 0
    first: date | None = None
    last: date | None = None
    bytes: int = 0
    remains: list[Remain] = field(default_factory=list)
    spellings: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def is_proof(self) -> bool:
        """That nothing of the values themselves is left."""
        return not self.unread and all(each.kind == "alike" for each in self.remains)


def sought(people: Iterable[Person]) -> Sought:
    """All of them at once."""
    people = [*people]
    values = [(person.by, value) for person in people for value in person.values]
    return Sought(
        [value for by, value in values if by == "number"],
        [value for by, value in values if by == "contact"],
        [hashed for person in people for hashed in person.hashes],
    )


def search(engine: Engine, lake: Lake, wanted: Sought, progress: Progress) -> Searched:
    """Look everywhere. Raises `EtlError` only if it can't be said where to look."""
    places, files = in_postgres.places(engine), in_lake.files(lake.target)
    days = {place.day for place in places if place.day} | {file.day for file in files if file.day}
    found = Searched(sorted({place.schema for place in places}), days=len(days))
    found.first, found.last = min(days, default=None), max(days, default=None)

    def read(count: int) -> None:
        found.bytes += count

    _look(found, Samples(), in_postgres.samples_by_column(engine, wanted, read))
    total = len(places) + len(files)
    for number, place in enumerate(places):
        progress(number, total, str(place))
        if _look(found, place, in_postgres.search(engine, place, wanted, read)):
            found.tables += 1
    for number, file in enumerate(files, len(places)):
        progress(number, total, str(file))
        if _look(found, file, in_lake.search(lake.target, file, wanted, read)):
            found.files += 1
    return found


def _look(found: Searched, where: Place | Piece | Samples, hits: Iterator[tuple[str, list[Hit]]]) -> bool:
    """Whether it was read to its end. What was found before stays found."""
    keys: dict[tuple[str, Kind], list[str]] = {}
    counted: Counter[tuple[str, Kind]] = Counter()
    spellings: Counter[str] = Counter()
    is_read = True
    try:
        for key, of_row in hits:
            for hit in of_row:
                counted[hit.column, hit.kind] += 1
                keys.setdefault((hit.column, hit.kind), []).append(key)
                del keys[hit.column, hit.kind][_NAMED:]
            spellings.update({spelling for hit in of_row for spelling in hit.spellings})
    except EtlError as error:
        is_read = False
        if isinstance(where, Piece) and where.is_draft:
            found.drafts += 1
        else:
            found.unread.append(f"{where}: {error}")
    for (column, kind), number in counted.items():
        found.remains.append(Remain(where.of, str(where), column, where.day, kind, number, (*keys[column, kind],)))
    for spelling, number in spellings.items():
        found.spellings[spelling] = found.spellings.get(spelling, 0) + number
    return is_read
