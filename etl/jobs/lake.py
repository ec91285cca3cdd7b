"""Days on their way between Postgres and the lake: export, restore, prune. Where a row is if we die:

    export    draft → enter → publish → describe → confirm    in Postgres, all the time
    restore   stage → load back                               in the lake, and from the commit on in Postgres too
    prune     verify, every row → drop                        in both, and from the commit on in the lake

Each day is held under its lock meanwhile. A late CDR for a day that Postgres forgot is in a partition of its own until
the next export: that restores the day first, so that the file never loses a row.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

from etl.errors import Contention, EtlError, LakeError
from etl.lake import export, restore, search, verify
from etl.lake.datasets import Dataset
from etl.lake.target import Target
from etl.lake.verify import Difference
from etl.reporting import twins
from etl.store import days, partitions, unite
from etl.store.connection import Engine
from etl.store.days import Day, DayBooks, Revision, Snapshot, changed
from etl.store.tables import cdrs
from etl.store.unite import United
from etl.wire.erasure import Person
from etl.wire.manifest import Manifest

# Verdicts of `compare` that somebody must do something about.
WRONG = frozenset({"unequal", "unreadable"})
What = Literal["due", "exported", "unchanged", "restored", "proved", "dropped", "kept", "busy", "failed"]
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a day. `why` says it for people, where `what` doesn't."""

    dataset: str
    day: date
    what: What
    revision: int | None = None
    rows: int = 0
    bytes: int = 0
    why: str = ""
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of a day by the ledger, in Postgres (None: no partition) and in the lake (None: no file); the verdict, and
    why, where it's no good one. Calls in two rows, as `reporting.twins` has them (None: no CDRs, or not here)."""

    dataset: str
    day: date
    ledger: int
    postgres: int | None
    lake: int | None
    verdict: str
    why: str = ""
    twins: int | None = None


class Lake:
    """One archive's lake and Postgres: every operation takes one day. They raise `EtlError` with day and file named."""

    def __init__(self, engine: Engine, uri: str, target: Target, worker: str, log: Any) -> None:
        """`uri` is for libpq, and leads where `engine` does."""
        self._engine = engine
        self._uri = uri
        self._target = target
        self._worker = worker
        self._log = log

    def books(self, dataset: Dataset, first: date, last: date) -> list[DayBooks]:
        """Every day of the period that the ledger or the lake knows."""
        return days.books(self._engine, dataset.table, first, last)

    def due(self, dataset: Dataset, before: date) -> list[DayBooks]:
        """The days before `before` that an export is due for: changed, or left half-way."""
        known = self.books(dataset, date.min, before - timedelta(days=1))
        return [books for books in known if changed(books) or (books.revision and not books.revision.published)]

    def would_export(self, books: DayBooks) -> Outcome:
        """What `export` is going to do, as far as the books tell."""
        why = "changed since its last export" if books.revision else "never exported"
        return _outcome(books, "due", rows=books.rows, why=why) if changed(books) else _outcome(books, "unchanged")

    def would_prune(self, books: DayBooks) -> Outcome:
        """What `prune` is going to do, if the file proves equal."""
        return _prevented(books) or _outcome(books, "due", why="if its file proves equal")

    def exported(self, dataset: Dataset) -> list[DayBooks]:
        """The days that the lake has."""
        return [books for books in self.books(dataset, date.min, date.max) if books.revision]

    def prunable(self, dataset: Dataset, last: date) -> list[DayBooks]:
        """The days up to `last` that Postgres hasn't forgotten."""
        known = self.books(dataset, date.min, last)
        return [books for books in known if changed(books) or not (books.revision and books.revision.dropped)]

    def restorable(self, dataset: Dataset, day: date) -> list[DayBooks]:
        """The day, if the lake has it, whether or not these books know."""
        books = self.books(dataset, day, day)
        if any(each.revision for each in books):
            return books
        return (books or [DayBooks(dataset.name, day, 0, 0, None)]) if self._target.manifest(dataset, day) else []

    def unite(self, first: date, last: date) -> list[United]:
        """Every day of the period that had calls stored as leg 1 by 0.1, now one row each."""
        of_the_period = [day for day in unite.days(self._engine) if first <= day <= last]
        done = [unite.unite(self._engine, day, self._worker) for day in of_the_period]
        return [each for each in done if each.renamed or each.united]

    def search(self, dataset: Dataset, day: date, person: Person) -> int:
        """The person's rows in the day's file."""
        return search.count(self._target, dataset, day, person)

    def clear(self, dataset: Dataset, day: date) -> None:
        """Whatever somebody who died left aside of the day, in the lake or in Postgres, goes."""
        with days.hold(self._engine, dataset.table, day) as held:
            if held is None:
                raise LakeError("ETL-502", f"{dataset.name} {day}: another etl holds this day just now; try again")
            with self._target.draft(dataset, day), held.staging():
                pass

    def compare(self, dataset: Dataset, day: date) -> Comparison:
        """What each book says of a day, side by side, whoever is at work there."""
        books, partition = days.look(self._engine, dataset.table, day)
        pairs = twins.count(self._engine, day) if partition is not None and dataset.table is cdrs else None
        try:
            in_file = verify.count_rows(self._target, dataset, day)
        except LakeError as error:
            return Comparison(dataset.name, day, books.rows, partition, None, "unreadable", str(error), pairs)
        if days.look(self._engine, dataset.table, day)[0].revision != books.revision:
            return self.compare(dataset, day)  # the file may be another one by now
        verdict, why = _verdict(books, partition, in_file)
        return Comparison(dataset.name, day, books.rows, partition, in_file, verdict, why, pairs)

    def export(self, dataset: Dataset, day: date, told: Told, force: bool = False) -> Outcome:
        """Bring the lake's revision of the day up to date. With `force` although nothing changed, and although rows
        are missing that the ledger knows of."""
        with days.hold(self._engine, dataset.table, day) as held:
            if held is None:
                return Outcome(dataset.name, day, "busy", why="another etl holds this day")
            self._settle(held, dataset)
            books = held.books()
            if not force and not changed(books):
                return _outcome(books, "unchanged")
            self._check_lineage(held, dataset, books)
            if books.revision and books.revision.dropped:
                self._bring_back(held, dataset, books.revision, told)
            return self._export(held, dataset, told, force)

    def restore(self, dataset: Dataset, day: date, told: Told, into: str | None = None) -> Outcome:
        """Bring the file's rows back into their partition, or into a schema of their own."""
        with days.hold(self._engine, dataset.table, day) as held:
            if held is None:
                return Outcome(dataset.name, day, "busy", why="another etl holds this day")
            self._settle(held, dataset)
            revision = self._revision_in_the_lake(held, dataset)
            if into is None:
                returned = self._bring_back(held, dataset, revision, told)
                return _outcome(held.books(), "restored", rows=returned, why="" if returned else "nothing was missing")
            self._check_file(dataset, revision)
            with held.staging() as staging:
                restore.bring(self._target, dataset, day, self._uri, staging, told)
                returned = held.copy_into(into, staging)
            return _outcome(held.books(), "restored", rows=returned, why=f"in {into}.{dataset.name}")

    def prove(self, dataset: Dataset, day: date, told: Told) -> Outcome:
        """Restore the day into a table aside, compare it with the day in Postgres, if that is still there and has not
        changed since, and throw it away."""
        with days.hold(self._engine, dataset.table, day) as held:
            if held is None:
                return Outcome(dataset.name, day, "busy", why="another etl holds this day")
            self._settle(held, dataset)
            revision = self._revision_in_the_lake(held, dataset)
            self._check_file(dataset, revision)
            books = held.books()
            comparable = not revision.dropped and not changed(books)
            with held.staging() as staging:
                restore.bring(self._target, dataset, day, self._uri, staging, told)
                rows, differing = held.try_out(staging, comparable)
            if rows != revision.rows or differing:
                other = f"{rows:,} rows instead of {revision.rows:,}, {differing:,} of which differ from Postgres'"
                return _outcome(books, "failed", rows=rows, why=f"restored, there were {other}")
            return _outcome(
                books, "proved", rows=rows, why="" if comparable else "Postgres has nothing to compare with"
            )

    def verify(self, dataset: Dataset, day: date, deep: bool) -> list[Difference]:
        """What isn't as the books say. `deep` compares every row with Postgres, if the day is still there."""
        with days.hold(self._engine, dataset.table, day) as held:
            if held is None:
                raise LakeError("ETL-502", f"{dataset.name} {day}: another etl holds this day just now; try again")
            self._settle(held, dataset)
            revision = held.books().revision
            if revision is None:
                return [Difference(dataset.name, day, "revision", "one in the books", "none: never exported")]
            found = verify.shallow(self._target, dataset, _manifest(revision))
            if not found and deep and not revision.dropped:
                books, found = self._deep(held, dataset)
                if found and books.entries != revision.entries:
                    entries = f"{books.entries} ledger entries"
                    late = Difference(dataset.name, day, "changes since", f"{revision.entries} ledger entries", entries)
                    found = [late, *found]
            return found

    def prune(self, dataset: Dataset, day: date) -> Outcome:
        """Let Postgres forget the day, if its file was proved equal just now and nothing has arrived since."""
        with days.hold(self._engine, dataset.table, day) as held:
            if held is None:
                return Outcome(dataset.name, day, "busy", why="another etl holds this day")
            self._settle(held, dataset)
            books = held.books()
            return _prevented(books) or self._drop(held, dataset, books)

    def _drop(self, held: Day, dataset: Dataset, books: DayBooks) -> Outcome:
        revision = self._revision_in_the_lake(held, dataset)
        if revision != books.revision:
            raise LakeError(
                "ETL-509", f"{self._target.path(dataset, held.day)} is revision {revision.revision}, unknown here"
            )
        if found := verify.shallow(self._target, dataset, _manifest(revision)) or self._deep(held, dataset)[1]:
            return _outcome(books, "failed", why="the file isn't what Postgres holds", differences=found)
        try:
            dropped = held.drop(revision)
        except Contention:
            return _outcome(books, "kept", why="loaders were at work in the table; try again")
        return _outcome(books, "dropped") if dropped else _outcome(books, "kept", why="something arrived meanwhile")

    def _export(self, held: Day, dataset: Dataset, told: Told, force: bool) -> Outcome:
        with self._target.draft(dataset, held.day) as draft:
            with held.snapshot() as snapshot:
                books = snapshot.books
                known = books.revision
                # The same ledger makes the same revision, and then the same rows make the same bytes.
                number = 1 if known is None else known.revision + (books.entries != known.entries)
                about = self._write(snapshot, dataset, draft, number, told)
                if known and known.revision == about.revision and known.sha256 != about.sha256:
                    about = self._write(snapshot, dataset, draft, number + 1, told)
            if about.rows != books.rows and not force:
                raise LakeError(
                    "ETL-504",
                    f"{dataset.name} {held.day}: Postgres holds {about.rows:,} rows and the ledger says {books.rows:,}."
                    f" `etl restore --dataset {dataset.name} --day {held.day}` brings back what the lake has,"
                    " --force exports what is there",
                )
            # Unless somebody did something to them, in the lake.
            if known and known.sha256 == about.sha256 and not verify.shallow(self._target, dataset, about):
                return _outcome(books, "unchanged", why="the same bytes again")
            revision = _revision(about, self._target.url)
            held.enter(revision)
            self._target.publish(draft, dataset, held.day)
        self._target.describe(about, dataset, held.day)
        held.confirm(revision)
        return _outcome(held.books(), "exported")

    def _write(self, snapshot: Snapshot, dataset: Dataset, draft: Path, number: int, told: Told) -> Manifest:
        day, entries = snapshot.books.day, snapshot.books.entries
        return export.write(self._uri, snapshot.id, dataset, day, draft, revision=number, entries=entries, told=told)

    def _settle(self, held: Day, dataset: Dataset) -> None:
        """Finish, or undo, what somebody who died had begun: the file itself says which."""
        revision = held.books().revision
        if revision is None or revision.published:
            return
        if self._target.fingerprint(dataset, held.day) == (revision.bytes, revision.sha256):
            self._target.describe(_manifest(revision), dataset, held.day)
            held.confirm(revision)
        else:
            held.withdraw(revision)
        self._log.warning("export_settled", dataset=dataset.name, day=str(held.day), revision=revision.revision)

    def _check_lineage(self, held: Day, dataset: Dataset, books: DayBooks) -> None:
        """What lies in the lake was made by these books: else a database that was set back, or another archive, would
        replace rows that it doesn't know of."""
        beside = self._target.manifest(dataset, held.day)
        known = _manifest(books.revision) if books.revision else None
        if beside is not None and beside != known:
            raise LakeError(
                "ETL-505",
                f"{self._target.path(dataset, held.day)} is revision {beside.revision}, and these books know"
                f" {f'revision {known.revision}, which is another' if known else 'none'}: is it another archive's, or"
                f" was Postgres set back? `etl restore --dataset {dataset.name} --day {held.day}` takes its rows over",
            )
        if beside is None and known is None and self._target.exists(dataset, held.day):
            raise LakeError(
                "ETL-506",
                f"{self._target.path(dataset, held.day)}: these books know of no such file, and no manifest says what"
                " it is: look whose it is, and move it away",
            )
        if known and known.entries > books.entries:
            raise LakeError(
                "ETL-507",
                f"{dataset.name} {held.day}: revision {known.revision} contains {known.entries} ledger entries, and"
                f" Postgres has {books.entries} of them: was it set back?",
            )

    def _revision_in_the_lake(self, held: Day, dataset: Dataset) -> Revision:
        """The revision that lies in the lake, whether or not these books know it."""
        known = held.books().revision
        beside = self._target.manifest(dataset, held.day)
        place = self._target.path(dataset, held.day)
        if beside is None or (known and _manifest(known) == beside):
            if known is None:
                raise LakeError("ETL-510", f"{place}: there is no such revision")
            return known
        if known and known.revision >= beside.revision:
            raise LakeError(
                "ETL-508",
                f"{place} is revision {beside.revision}, and the books know revision {known.revision}, which is"
                f" another: see `etl verify --dataset {dataset.name} --day {held.day}`",
            )
        # The books can't vouch for the manifest: the file must.
        if found := verify.shallow(self._target, dataset, beside):
            differing = ", ".join(difference.what for difference in found)
            raise LakeError(
                "ETL-511", f"{place} isn't what the manifest beside it says, and the books don't know it: {differing}"
            )
        return _revision(beside, self._target.url)

    def _bring_back(self, held: Day, dataset: Dataset, revision: Revision, told: Told) -> int:
        self._check_file(dataset, revision)
        partitions.ensure(self._engine, dataset.table, [held.day])
        with held.staging() as staging:
            rows = restore.bring(self._target, dataset, held.day, self._uri, staging, told)
            if rows != revision.rows:
                raise LakeError(
                    "ETL-513", f"{self._target.path(dataset, held.day)}: {revision.rows} rows expected, {rows} read"
                )
            met = held.load_back(staging, revision, self._worker)
        self._log.info(
            "day_restored",
            dataset=dataset.name,
            day=str(held.day),
            revision=revision.revision,
            returned=met.returned,
            met=met.met,
            changed=met.changed,
        )
        return met.returned

    def _check_file(self, dataset: Dataset, revision: Revision) -> None:
        found = self._target.fingerprint(dataset, revision.day)
        if found != (revision.bytes, revision.sha256):
            is_not = "is missing" if found is None else f"isn't revision {revision.revision} any more"
            elsewhere = "" if revision.url == self._target.url else f" (it was published to {revision.url})"
            raise LakeError("ETL-516", f"{self._target.path(dataset, revision.day)} {is_not}{elsewhere}")

    def _deep(self, held: Day, dataset: Dataset) -> tuple[DayBooks, list[Difference]]:
        with held.snapshot() as snapshot:
            return snapshot.books, verify.deep(self._target, dataset, held.day, self._uri, snapshot.id)


def _verdict(books: DayBooks, partition: int | None, in_file: int | None) -> tuple[str, str]:
    revision = books.revision
    forgotten = revision is not None and revision.dropped
    if not forgotten and (partition or 0) != books.rows:
        return "unequal", "Postgres doesn't hold what the ledger says"
    if revision is None:
        return ("unequal", "a file that these books don't know") if in_file is not None else ("not exported", "")
    if revision.published and in_file != revision.rows:
        return "unequal", "the file doesn't hold what the books say"
    if changed(books) or not revision.published:
        return "to export", "changed since its last export" if changed(books) else "its last export is half-way"
    if in_file != books.rows:
        return "unequal", "exported by force, though the books didn't balance"
    return ("in the lake only" if forgotten else "equal"), ""


def _prevented(books: DayBooks) -> Outcome | None:
    """What keeps a day in Postgres, by the books."""
    if books.revision is None:
        return _outcome(books, "kept", rows=books.rows, why="never exported")
    if changed(books):
        return _outcome(books, "kept", rows=books.rows, why="changed since its last export")
    return _outcome(books, "unchanged", why="dropped before") if books.revision.dropped else None


def one_by_one(
    operation: Callable[[Dataset, date], Outcome], work: list[tuple[Dataset, date]], log: Any
) -> list[Outcome]:
    """One day's failure is one outcome: the others are done all the same."""
    outcomes = []
    for dataset, day in work:
        try:
            outcome = operation(dataset, day)
        except EtlError as error:
            outcome = Outcome(dataset.name, day, "failed", why=str(error))
        level = log.error if outcome.what == "failed" else log.info
        level(
            "day_" + outcome.what,
            dataset=dataset.name,
            day=str(day),
            rows=outcome.rows,
            bytes=outcome.bytes,
            why=outcome.why,
        )
        outcomes.append(outcome)
    return outcomes


def _manifest(revision: Revision) -> Manifest:
    return Manifest(
        dataset=revision.dataset,
        day=revision.day,
        revision=revision.revision,
        rows=revision.rows,
        entries=revision.entries,
        schema_fingerprint=revision.schema_fingerprint,
        first_time=revision.first_time,
        last_time=revision.last_time,
        bytes=revision.bytes,
        sha256=revision.sha256,
    )


def _revision(about: Manifest, url: str) -> Revision:
    return Revision(
        dataset=about.dataset,
        day=about.day,
        revision=about.revision,
        rows=about.rows,
        bytes=about.bytes,
        sha256=about.sha256,
        schema_fingerprint=about.schema_fingerprint,
        first_time=about.first_time,
        last_time=about.last_time,
        entries=about.entries,
        url=url,
    )


def _outcome(books: DayBooks, what: What, **more: Any) -> Outcome:
    revision = books.revision
    known = {"revision": revision.revision, "rows": revision.rows, "bytes": revision.bytes} if revision else {}
    return Outcome(books.dataset, books.day, what, **(known | more))
