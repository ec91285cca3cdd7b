"""Forgetting a person, day by day, and then where there are no days. Each day:

    lake only ──restore──▶ Postgres ──erase, and enter──▶ ledger ──export──▶ next revision ──look──▶ nobody there

Then names for people, copies in other schemas, and the names in kept figures; and at last a search of all of it, which
proves that nobody is there; see `etl.jobs.remains`.

Each step looks at what is there, and takes no note of what was done. So whoever comes after a death in between finds
what is left to do: the file still holds the person, until its next revision is in its place. Revisions of CDRs come
after all days, since a late CDR that meets its day on the way may leave one.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

from etl.errors import EtlError, LakeError
from etl.jobs.lake import Lake
from etl.jobs.remains import Progress, Searched, search, sought
from etl.lake import receipts
from etl.lake.datasets import DATASETS, Dataset
from etl.store import forget, remains, unreadable
from etl.store.connection import Engine
from etl.store.days import DayBooks
from etl.store.forget import Receipt
from etl.store.receipts import wait_for_claims
from etl.store.unreadable import Table
from etl.wire.erasure import HASH_PREFIX, Person, hashes, mark

Told = Callable[[int], None]
Work = list[tuple[Dataset, DayBooks]]


class OfADay(NamedTuple):
    """The person's rows of a day: in Postgres, and in the lake's file."""

    dataset: str
    day: date
    postgres: int
    lake: int


@dataclass(slots=True)
class Found:
    """The person's rows: of each day that has any, of each table that has no days, of copies that `etl restore --into`
    made, and of kept figures. A day that could not be done is in `failed`, with the reason; then nothing was searched.
    The receipt is completed if nothing failed, and if what was `searched` proved that nobody is left."""

    days: list[OfADay] = field(default_factory=list)
    undated: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    figures: int = 0
    failed: list[str] = field(default_factory=list)
    searched: Searched | None = None


def work(lake: Lake) -> Work:
    """Every day that ledger or lake know."""
    return [(dataset, books) for dataset in DATASETS.values() for books in lake.books(dataset, date.min, date.max)]


def count(
    engine: Engine, lake: Lake, person: Person, days: Work, told: Told, progress: Progress = lambda *_: None
) -> Found:
    """What would be rewritten, and what the search finds. `told` hears of each day's rows, and `progress` of each place
    that is searched. Raises `EtlError`."""
    found = Found()
    for dataset, books in days:
        with _of(engine, found, dataset.table, books.day):
            in_postgres = forget.count(engine, dataset.table, person, books.day)
            current, others = lake.search(dataset, books.day, person)
            if in_postgres or current or others:
                found.days.append(OfADay(dataset.name, books.day, in_postgres, current or others))
        told(books.rows)
    for table in forget.UNDATED:
        with _of(engine, found, table):
            found.undated[table.name] = forget.count(engine, table, person)
    found.undated["names"] = forget.in_names(engine, person)
    for copy in remains.copies(engine):
        with _of(engine, found, copy):
            found.copies[copy.fullname] = forget.count(engine, copy, person)
    found.figures = forget.in_figures(engine, person)
    found.searched = search(engine, lake, sought([person]), progress)
    return found


@contextmanager
def _of(engine: Engine, found: Found, table: Table, day: date | None = None) -> Iterator[None]:
    """What fails of this day, or of this table without days, is noted, and no reason not to go on."""
    try:
        yield
    except EtlError as error:
        about = f"{table.fullname} {day}" if day else table.fullname
        found.failed.append(f"{error.code}: {about}: {unreadable.reason(engine, table, day, error)}")


def run(
    engine: Engine, lake: Lake, person: Person, receipts: Sequence[Receipt], worker: str, days: Work, told: Told
) -> Found:
    """Rewrite it all. Of the receipts, one of each of the person's values, the first counts. As `count`, but for the
    search: see `prove`."""
    found, receipt, names = Found(), receipts[0], 0
    for dataset, books in days:
        with _of(engine, found, dataset.table, books.day):
            done, of_the_day = _day(engine, lake, person, receipt, worker, dataset, books)
            names += of_the_day
            if done.postgres or done.lake:
                found.days.append(done)
        told(books.rows)
    for table in forget.UNDATED:
        with _of(engine, found, table):
            erased = forget.erase(engine, table, person, receipt, worker)
            found.undated[table.name] = erased.rows
            names += erased.names
    found.undated["names"] = names + forget.erase_names(engine, person)
    for copy in remains.copies(engine):
        with _of(engine, found, copy):
            found.copies[copy.fullname] = forget.erase_copy(engine, copy, person)
    found.figures = forget.erase_figures(engine, person)
    return found


def prove(
    engine: Engine, lake: Lake, erased: Sequence[tuple[Person, Sequence[Receipt], Found]], progress: Progress
) -> None:
    """Look for all of them at once, but for those with whom something failed; what is found is noted with each. Their
    receipts are completed if nothing was. Raises `EtlError`."""
    done = [each for each in erased if not each[2].failed]
    if not done:
        return
    wanted = sought([person for person, _, _ in done])
    remains.sample_anew(engine, wanted)
    searched = search(engine, lake, wanted, progress)
    for _, of_the_person, found in done:
        found.searched = searched
        if searched.is_proof:
            forget.complete(engine, of_the_person)


def begin(engine: Engine, lake: Lake, subject: str, hash_: str, key: str, worker: str) -> Receipt:
    """A receipt, in the lake as well: it tells of the erasure if Postgres is set back. What is claimed from here on is
    erased on arrival. Raises `EtlError`."""
    receipt = forget.begin(engine, subject, hash_, worker)
    number = max(n for *same, n in forget.receipts(engine) if same == [subject, hash_])
    receipts.put(lake.target, receipts.Receipt(subject, hash_.removeprefix(HASH_PREFIX), number), mark(key))
    wait_for_claims(engine)
    return receipt


def people(engine: Engine, lake: Lake, key: str, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Person]:
    """Those of the receipts' people, by subject and hash, whom Postgres or else a file of the lake has: each number and
    contact reference is tried, until all are found. The lake may have somebody alone whose erasure was under way.
    Raises `EtlError`; a day that can't be read is passed over if they are found without it."""
    found: dict[tuple[str, str], Person] = {}
    passed_over = Found()
    with closing(_everybody(engine, lake, passed_over)) as everybody:
        while found.keys() != wanted and (row := next(everybody, None)) is not None:
            for subject, hash_, value in hashes(key, row):
                if (subject, hash_) in wanted:
                    found[subject, hash_] = Person(key, **{subject: value})
    if passed_over.failed and found.keys() != wanted:
        raise LakeError("ETL-523", f"some people may be where nobody could look: {'; '.join(passed_over.failed)}")
    return found


def _everybody(engine: Engine, lake: Lake, passed_over: Found) -> Generator[Mapping[str, Any]]:
    for dataset, books in work(lake):
        with _of(engine, passed_over, dataset.table, books.day):
            yield from forget.everybody(engine, dataset.table, books.day)
    for table in forget.UNDATED:
        with _of(engine, passed_over, table):
            yield from forget.everybody(engine, table)
    yield from forget.everybody_named(engine)
    yield from forget.everybody_in_figures(engine)
    for dataset in DATASETS.values():
        yield from lake.everybody(dataset)


def _day(
    engine: Engine, lake: Lake, person: Person, receipt: Receipt, worker: str, dataset: Dataset, books: DayBooks
) -> tuple[OfADay, int]:
    """And how many names went with the rows."""
    day = books.day
    current, others = lake.search(dataset, day, person)
    dropped = books.revision is not None and books.revision.dropped
    if current and dropped:
        lake.restore(dataset, day, _ignore)
    erased, names = forget.erase(engine, dataset.table, person, receipt, worker, day)
    if not (erased or current or others):
        return OfADay(dataset.name, day, 0, 0), names
    lake.clear(dataset, day)
    known = any(each.revision for each in lake.books(dataset, day, day))  # by now: an export may have been under way
    if known:
        if erased or current:
            lake.export(dataset, day, _ignore, because="etl forget")  # who waits for it needn't know who else was there
        lake.erase_history(dataset, day)
    if left := lake.files_of(dataset, day, person):
        raise LakeError(
            "ETL-517",
            f"a file still has the person, {', '.join(map(lake.target.path, left))}: somebody else was at work on this"
            " day, or no books know it; run it again",
        )
    if known:
        forget.count_file(engine, receipt)
        if dropped and current:  # as it was; if it can't be, the next prune does it
            lake.prune(dataset, day)
    return OfADay(dataset.name, day, erased, current or others), names


def _ignore(_rows: int) -> None:
    """Progress is told by days."""
