"""What an archive's books, its lake and its Postgres have, day by day, whoever is at work there. Nothing is changed."""

from collections.abc import Collection, Iterator
from datetime import date, timedelta
from itertools import chain
from typing import Any

from etl.errors import LakeError
from etl.jobs.outcomes import Comparison, Outcome, outcome_of, prevented, verdict_of
from etl.lake import layout, receipts, search, verify
from etl.lake.datasets import Dataset
from etl.lake.receipts import Receipt
from etl.lake.target import Target
from etl.reporting import twins
from etl.store import days, forget, ledger, partitions
from etl.store.connection import Engine
from etl.store.days import DayBooks, changed
from etl.store.tables import cdrs
from etl.wire.erasure import HASH_PREFIX, Person


class Survey:
    """One archive's lake and Postgres, to be looked at. Every method may raise `EtlError`."""

    def __init__(self, engine: Engine, target: Target) -> None:
        self.engine = engine
        self.target = target

    def books(self, dataset: Dataset, first: date, last: date) -> list[DayBooks]:
        """Every day of the period that the ledger, the lake's books, the lake itself or a partition has."""
        return self._books(dataset, first, last, self._in_the_lake(dataset, first if first == last else None))

    def _books(self, dataset: Dataset, first: date, last: date, in_the_lake: Collection[date]) -> list[DayBooks]:
        known = {books.day: books for books in days.books(self.engine, dataset.table, first, last)}
        others = {*in_the_lake, *partitions.with_rows(self.engine, dataset.table, {*known})}
        for day in others - known.keys():
            if first <= day <= last:
                known[day] = DayBooks(dataset.name, day, 0, 0)
        return [known[day] for day in sorted(known)]

    def may_repeat(self, first: date, last: date) -> int:
        """How many claims of the period's UTC days not all of Redis' replicas had when they were loaded."""
        return ledger.may_repeat(self.engine, first, last)

    def due(self, dataset: Dataset, before: date) -> list[DayBooks]:
        """The days before `before` that an export is due for, or must fail for: changed, left half-way, unknown to the
        books, or not in the lake as the books have it."""
        latest = self._in_the_lake(dataset)
        known = self._books(dataset, date.min, before - timedelta(days=1), latest)

        def is_due(books: DayBooks) -> bool:
            if books.revision is None:
                return True
            return changed(books) or bool(books.pending) or latest.get(books.day) != books.revision.about.revision

        return [each for each in known if is_due(each)]

    def would_export(self, books: DayBooks) -> Outcome:
        """What `export` is going to do, as far as the books tell."""
        why = "changed since its last export" if books.revision else "never exported"
        return outcome_of(books, "due", rows=books.rows, why=why) if changed(books) else outcome_of(books, "unchanged")

    def would_prune(self, books: DayBooks) -> Outcome:
        """What `prune` is going to do, if the file proves equal."""
        return prevented(books) or outcome_of(books, "due", why="if its file proves equal")

    def exported(self, dataset: Dataset) -> list[DayBooks]:
        """The days of which the books have a revision."""
        return [books for books in days.books(self.engine, dataset.table, date.min, date.max) if books.revision]

    def prunable(self, dataset: Dataset, last: date) -> list[DayBooks]:
        """The days up to `last` that Postgres hasn't dropped."""
        known = days.books(self.engine, dataset.table, date.min, last)
        return [books for books in known if changed(books) or not (books.revision and books.revision.dropped)]

    def restorable(self, dataset: Dataset, day: date) -> list[DayBooks]:
        """The day, if the lake has it, whether or not these books know."""
        return self.verifiable(dataset, day, day)

    def verifiable(self, dataset: Dataset, first: date, last: date) -> list[DayBooks]:
        """The days of the period that the lake has, by its books or by its files."""
        there = self._in_the_lake(dataset, first if first == last else None)
        return [books for books in self._books(dataset, first, last, there) if books.revision or books.day in there]

    def missing(self, dataset: Dataset) -> list[DayBooks]:
        """The days of which the lake has a revision that is newer than all that the books know, or that only the lake
        has: after Postgres was set back, or where the books begin anew."""
        latest = self._in_the_lake(dataset)
        known = self._books(dataset, date.min, date.max, latest)
        return [
            books
            for books in known
            if latest.get(books.day, -1) > (books.revision.about.revision if books.revision else -1)
        ]

    def search(self, dataset: Dataset, day: date, person: Person) -> tuple[int, int]:
        """The person's rows in the day's current revision, and in all other files of the day."""
        revision = days.look(self.engine, dataset.table, day)[0].revision
        found = self.files_of(dataset, day, person)
        current = layout.revision_of(dataset, revision.about) if revision else ""
        if revision and not self.target.exists(current):  # of a 0.1, until it's taken over
            current = layout.plain(dataset, day)
        return found.pop(current, 0), sum(found.values())

    def files_of(self, dataset: Dataset, day: date, person: Person) -> dict[str, int]:
        """The person's rows in each file of the day that has any."""
        found = {name: search.count(self.target, name, dataset, person) for name in self._files_with_rows(dataset, day)}
        return {name: rows for name, rows in found.items() if rows}

    def everybody(self, dataset: Dataset) -> Iterator[dict[str, Any]]:
        """The columns of each row of each file in which people may be."""
        for name in self._files_with_rows(dataset):
            yield from search.everybody(self.target, name, dataset)

    def _files_with_rows(self, dataset: Dataset, day: date | None = None) -> list[str]:
        """Whatever may have rows, under one name each: also what a 0.1 or nobody knows left there; but no drafts, of
        which the next holder of the day takes care."""
        drafts = days.all_drafts(self.engine, dataset.table)
        hidden: dict[date, list[str]] = {}
        plain: list[str] = []
        for name in map(layout.parse, self._files(dataset, day)):
            if name is None or not name.may_have_rows or name.path in drafts or name.is_old_draft:
                continue
            if name.is_hidden:
                hidden.setdefault(name.day, []).append(name.path)
            elif not any(self.target.is_same(name.path, other) for other in hidden.get(name.day, [])):
                plain.append(name.path)
        return [*chain(*hidden.values()), *plain]

    def compare(self, dataset: Dataset, day: date) -> Comparison:
        """What each book says of a day, side by side, whoever is at work there."""
        books, partition = days.look(self.engine, dataset.table, day)
        pairs = twins.count(self.engine, day) if partition is not None and dataset.table is cdrs else None
        latest = self._in_the_lake(dataset, day).get(day)
        try:
            in_file = self._rows_in_file(dataset, books)
        except LakeError as error:
            return Comparison(dataset.name, day, books.rows, partition, None, "unreadable", str(error), pairs)
        if days.look(self.engine, dataset.table, day)[0].revision != books.revision:
            return self.compare(dataset, day)  # the file may be another one by now
        verdict, why = verdict_of(books, partition, in_file, latest)
        return Comparison(dataset.name, day, books.rows, partition, in_file, verdict, why, pairs)

    def unknown_receipts(self) -> set[Receipt]:
        """Of erasures that these books don't know: Postgres was set back to a moment before them."""
        return receipts.found(self.target) - self._known_receipts()

    def unfinished_receipts(self) -> set[Receipt]:
        """Of erasures that these books don't know, or know as begun and not as completed."""
        return receipts.found(self.target) - self._known_receipts(completed=True)

    def _known_receipts(self, completed: bool = False) -> set[Receipt]:
        known = forget.receipts(self.engine, completed)
        return {Receipt(subject, hash_.removeprefix(HASH_PREFIX), number) for subject, hash_, number in known}

    def copy_receipts(self) -> None:
        """Those of a release before 0.2, which kept them in Postgres alone."""
        for receipt in self._known_receipts() - receipts.found(self.target):
            receipts.put(self.target, receipt)

    def _in_the_lake(self, dataset: Dataset, day: date | None = None) -> dict[date, int]:
        """The latest revision of each day, by the names of the lake's files; 0 where there is none but a 0.1's file."""
        drafts = days.all_drafts(self.engine, dataset.table)
        names = [layout.parse(name) for name in self._files(dataset, day) if name not in drafts]
        latest: dict[date, int] = {}
        for name in names:
            if name and name.kind in ("revision", "plain"):
                latest[name.day] = max(latest.get(name.day, 0), name.revision)
        return latest

    def _files(self, dataset: Dataset, day: date | None) -> list[str]:
        """The names of all that lie in the folders of the day, or of all days."""
        if day:
            folders = [layout.revisions(dataset, day), layout.folder(dataset, day)]
        else:
            folders = [f"{layout.REVISIONS}/{dataset.name}", dataset.name]
        return [file.name for folder in folders for file in self.target.files(folder)]

    def _rows_in_file(self, dataset: Dataset, books: DayBooks) -> int | None:
        if books.revision is None:
            return verify.count_rows(self.target, layout.plain(dataset, books.day))
        about = books.revision.about
        name = layout.revision_of(dataset, about)
        if self.target.exists(name):
            return verify.count_rows(self.target, name)
        return verify.count_rows(self.target, layout.plain(dataset, books.day))  # of a 0.1, until it's taken over
