"""Days on their way between Postgres and the lake: export, restore, prune. Where a row is if we die:

    export    draft → enter → publish → confirm → copy    in Postgres, all the time
    restore   stage → load back                           in the lake, and from the commit on in Postgres too
    prune     verify, every row → drop                    in both, and from the commit on in the lake

Each day is held under its lock meanwhile. A late CDR for a day that Postgres forgot is in a partition of its own until
the next export: that restores the day first, so that the file never loses a row.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import chain
from typing import Any

from etl.errors import Busy, Contention, LakeError
from etl.jobs.held_day import HeldDay
from etl.jobs.outcomes import Comparison, Findings, Outcome, outcome_of, prevented, verdict_of
from etl.lake import export, layout, receipts, restore, search, verify, witness
from etl.lake.datasets import Dataset
from etl.lake.difference import Difference
from etl.lake.export import Progress
from etl.lake.receipts import Receipt
from etl.lake.target import Draft, Target
from etl.reporting import twins
from etl.store import days, forget, partitions, unite
from etl.store.connection import Engine
from etl.store.days import DayBooks, Snapshot, changed
from etl.store.tables import cdrs
from etl.store.unite import United
from etl.wire.erasure import HASH_PREFIX, Person
from etl.wire.manifest import Manifest


class Lake:
    """One archive's lake and Postgres: every operation takes one day, and raises `EtlError` with day and file named;
    `Busy` if another etl holds the day."""

    def __init__(self, engine: Engine, uri: str, target: Target, worker: str, log: Any) -> None:
        """`uri` is for libpq, and leads where `engine` does."""
        self.engine = engine
        self.target = target
        self._uri = uri
        self._worker = worker
        self._log = log

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

    def unite(self, first: date, last: date) -> list[United]:
        """Every day of the period that had calls stored as leg 1 by 0.1, now one row each."""
        of_the_period = [day for day in unite.days(self.engine) if first <= day <= last]
        done = [unite.unite(self.engine, day, self._worker) for day in of_the_period]
        return [each for each in done if each.renamed or each.united]

    def search(self, dataset: Dataset, day: date, person: Person) -> tuple[int, int]:
        """The person's rows in the day's current revision, and in all other files of the day."""
        revision = days.look(self.engine, dataset.table, day)[0].revision
        found = self.files_of(dataset, day, person)
        current = layout.revision(dataset, day, revision.about.revision, revision.about.sha256) if revision else ""
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

    def clear(self, dataset: Dataset, day: date) -> None:
        """Whatever somebody who died left aside of the day, in the lake or in Postgres, goes."""
        with self.hold(dataset, day) as held, held.day.staging():
            pass

    def erase_history(self, dataset: Dataset, day: date) -> None:
        """Of the day's revisions the current one alone stays."""
        with self.hold(dataset, day) as held:
            held.erase_history()

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

    def export(self, dataset: Dataset, day: date, progress: Progress, force: bool = False) -> Outcome:
        """Bring the lake's revision of the day up to date. With `force` although nothing changed, and although rows
        are missing that the ledger knows of."""
        self._check_receipts()
        with self.hold(dataset, day) as held:
            books = held.books()
            self._check_lineage(held, books)
            if not (books.entries or books.revision):
                self._check_empty(dataset, day)
            if not force and not changed(books):
                if books.revision:
                    held.check_there(books.revision)
                return outcome_of(books, "unchanged")
            if books.revision and books.revision.dropped:
                self._bring_back(held, books.revision.about, progress)
            return self._export(held, progress, force)

    def restore(self, dataset: Dataset, day: date, progress: Progress, into: str | None = None) -> Outcome:
        """Bring the file's rows back into their partition, or into a schema of their own."""
        with self.hold(dataset, day) as held:
            about, name = self._to_restore(held)
            if into is None:
                returned = self._bring_back(held, about, progress)
                why = "" if returned else "nothing was missing"
                return outcome_of(held.books(), "restored", rows=returned, why=why)
            with held.day.staging() as staging:
                restore.bring(self.target, name, dataset, about, self._uri, staging, progress)
                returned = held.day.copy_into(into, staging)
            return outcome_of(held.books(), "restored", rows=returned, why=f"in {into}.{dataset.name}")

    def prove(self, dataset: Dataset, day: date, progress: Progress) -> Outcome:
        """Restore the day into a table aside, compare it with the day in Postgres, if that is still there and has not
        changed since, and throw it away."""
        with self.hold(dataset, day) as held:
            about, name = self._to_restore(held)
            books = held.books()
            known = books.revision if books.revision and books.revision.is_same(about) else None
            comparable = known is not None and not known.dropped and not changed(books)
            with held.day.staging() as staging:
                restore.bring(self.target, name, dataset, about, self._uri, staging, progress)
                rows, differing = held.day.try_out(staging, comparable)
            if rows != about.rows or differing:
                other = f"{rows:,} rows instead of {about.rows:,}, {differing:,} of which differ from Postgres'"
                return outcome_of(books, "failed", rows=rows, why=f"restored, there were {other}")
            why = "" if comparable else "Postgres has nothing to compare with"
            return outcome_of(books, "proved", rows=rows, why=why)

    def verify(self, dataset: Dataset, day: date, deep: bool) -> Findings:
        """What isn't as the books say. `deep` compares every row with Postgres, if the day is still there. A copy for
        plain readers that isn't the current revision is renewed, unless only that copy has what it holds."""
        with self.hold(dataset, day) as held:
            books, found = held.books(), Findings()
            self._look_around(held, books, found)
            if books.revision is None:
                found.wrong.append(
                    Difference(dataset.name, day, "revision", "one in the books", "none: never exported")
                )
                return found
            about, name = books.revision.about, held.name(books.revision.about)
            of_the_file = verify.shallow(self.target, name, dataset, about)
            if not of_the_file and deep and not books.revision.dropped:
                books, of_the_file = self._deep(held, about)
                if of_the_file and books.entries != about.entries:
                    entries = (f"{about.entries} ledger entries", f"{books.entries} ledger entries")
                    of_the_file = [Difference(dataset.name, day, "changes since", *entries), *of_the_file]
            found.wrong += of_the_file
            if not of_the_file:
                self._renew(held, books, found)
            return found

    def prune(self, dataset: Dataset, day: date) -> Outcome:
        """Let Postgres drop the day, if its file was proved equal just now and nothing has arrived since."""
        with self.hold(dataset, day) as held:
            books = held.books()
            return prevented(books) or self._drop(held, books)

    @contextmanager
    def hold(self, dataset: Dataset, day: date) -> Iterator[HeldDay]:
        """The day under its lock, with nothing left half-way."""
        with days.hold(self.engine, dataset.table, day) as locked:
            if locked is None:
                raise Busy("ETL-502", f"{dataset.name} {day}: another etl holds this day just now; try again")
            held = HeldDay(locked, dataset, self.target, self._worker, self._log)
            held.settle()
            yield held

    def _drop(self, held: HeldDay, books: DayBooks) -> Outcome:
        self._check_lineage(held, books)
        assert books.revision  # noqa: S101  (else something would have prevented it)
        about = books.revision.about
        found = verify.shallow(self.target, held.name(about), held.dataset, about) or self._deep(held, about)[1]
        if found:
            return outcome_of(books, "failed", why="the file isn't what Postgres holds", differences=found)
        try:
            dropped = held.day.drop(about)
        except Contention:
            return outcome_of(books, "kept", why="loaders were at work in the table; try again")
        return outcome_of(books, "dropped") if dropped else outcome_of(books, "kept", why="something arrived meanwhile")

    def _export(self, held: HeldDay, progress: Progress, force: bool) -> Outcome:
        dataset, day = held.dataset, held.day.day
        with held.draft() as draft:
            with held.day.snapshot() as snapshot:
                books = snapshot.books
                known = books.revision.about if books.revision else None
                # The same ledger makes the same revision, and then the same rows make the same bytes.
                same = known is not None and books.entries == known.entries
                about = self._write(held, snapshot, draft, known.revision if known and same else None, progress)
                if known and about.sha256 == known.sha256 and not self._damage(held, known):
                    return outcome_of(books, "unchanged", why="the same bytes again")
                if known and about.revision == known.revision:  # a revision never becomes another
                    about = self._write(held, snapshot, draft, None, progress)
            if about.rows != books.rows and not force:
                raise LakeError(
                    "ETL-504",
                    f"{dataset.name} {day}: Postgres holds {about.rows:,} rows and the ledger says {books.rows:,}."
                    f" `etl restore --dataset {dataset.name} --day {day}` brings back what the lake has,"
                    " --force exports what is there",
                )
            held.publish(draft, about)
        return outcome_of(held.books(), "exported")

    def _write(
        self, held: HeldDay, snapshot: Snapshot, draft: Draft, number: int | None, progress: Progress
    ) -> Manifest:
        return export.write(
            self._uri,
            snapshot.id,
            held.dataset,
            held.day.day,
            draft.place,
            revision=number or snapshot.next_number,
            entries=snapshot.books.entries,
            progress=progress,
        )

    def _damage(self, held: HeldDay, about: Manifest) -> list[Difference]:
        return verify.shallow(self.target, held.name(about), held.dataset, about)

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

    def _check_receipts(self) -> None:
        if unknown := self.unknown_receipts():
            raise LakeError(
                "ETL-519",
                f"the lake has receipts of {len(unknown)} erasures that these books don't know: was Postgres set back?"
                " `etl forget --again` erases once more what came back with it",
            )

    def _check_lineage(self, held: HeldDay, books: DayBooks) -> None:
        """What lies in the lake was made by these books: else a database that was set back, or another archive, would
        go on beside rows that it doesn't know of."""
        known = books.revision.about if books.revision else None
        if stranger := held.newest_stranger(books):
            raise LakeError(
                "ETL-505",
                f"{self.target.path(stranger.name)} is revision {stranger.about.revision}, and these books know"
                f" {f'revision {known.revision}, which is another' if known else 'none'}: is it another archive's, or"
                f" was Postgres set back? `etl restore --dataset {held.dataset.name} --day {held.day.day}` takes its"
                " rows over",
            )
        if known is None and held.looks_plain(books) == "damaged":
            raise LakeError(
                "ETL-506",
                f"{self.target.path(held.plain)}: these books know of no such file, and it doesn't say what it is:"
                " look whose it is, and move it away",
            )
        if known and known.entries > books.entries:
            raise LakeError(
                "ETL-507",
                f"{held.dataset.name} {held.day.day}: revision {known.revision} contains {known.entries} ledger"
                f" entries, and Postgres has {books.entries} of them: was it set back?",
            )

    def _check_empty(self, dataset: Dataset, day: date) -> None:
        """Of a day that neither ledger nor lake knew a moment ago: unless they do by now, there are no rows of it."""
        books, rows = days.look(self.engine, dataset.table, day)
        if rows and not books.entries:
            raise LakeError("ETL-511", f"{dataset.name} {day}: there are rows of which the ledger knows none")

    def _to_restore(self, held: HeldDay) -> tuple[Manifest, str]:
        """The revision that the lake has, whether or not these books know it, and its file's name."""
        books = held.books()
        if stranger := held.newest_stranger(books):
            return stranger.about, stranger.name
        if books.revision is None:
            raise LakeError("ETL-510", f"{self.target.path(held.plain)}: there is no such revision")
        held.check_file(books.revision)
        return books.revision.about, held.name(books.revision.about)

    def _bring_back(self, held: HeldDay, about: Manifest, progress: Progress) -> int:
        strangers = held.strangers()
        for stranger in strangers:
            if stranger.about == about:
                held.take_over(stranger)
        partitions.ensure(self.engine, held.dataset.table, [held.day.day])
        with held.day.staging() as staging:
            restore.bring(self.target, held.name(about), held.dataset, about, self._uri, staging, progress)
            reunited = held.day.load_back(staging, about, self.target.url, self._worker)
        if strangers:
            held.day.adopt([each.about for each in strangers if each.about.revision < about.revision], self.target.url)
        self._log.info(
            "day_restored",
            dataset=held.dataset.name,
            day=str(held.day.day),
            revision=about.revision,
            returned=reunited.returned,
            met=reunited.met,
            changed=reunited.changed,
        )
        return reunited.returned

    def _deep(self, held: HeldDay, about: Manifest) -> tuple[DayBooks, list[Difference]]:
        """Every row of the file against every row of Postgres, by readers that share nothing with the file's writer."""
        with held.day.snapshot() as snapshot, self.target.fetched(held.name(about)) as place:
            copied = held.day.copy(witness.query(held.dataset, held.day.day))
            return snapshot.books, witness.compare(place, held.dataset, held.day.day, copied)

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
        name = layout.revision(dataset, books.day, about.revision, about.sha256)
        if self.target.exists(name):
            return verify.count_rows(self.target, name)
        return verify.count_rows(self.target, layout.plain(dataset, books.day))  # of a 0.1, until it's taken over

    def _look_around(self, held: HeldDay, books: DayBooks, found: Findings) -> None:
        """Files of the day that the books don't know."""
        known = books.revision.about.revision if books.revision else 0
        for stranger in held.strangers():
            newer = stranger.about.revision > known
            what = f"revision {stranger.about.revision}"
            way_out = f"; `etl restore --day {held.day.day}` takes it over" if newer else ""
            difference = Difference(
                held.dataset.name, held.day.day, what, "known to the books", f"{stranger.name}{way_out}"
            )
            (found.wrong if newer else found.notes).append(difference)
        for name in held.unknown_files():
            found.notes.append(Difference(held.dataset.name, held.day.day, "file", "none but the revisions", name))

    def _renew(self, held: HeldDay, books: DayBooks, found: Findings) -> None:
        """The copy for plain readers, unless it is the current revision; the revision itself has proved right."""
        assert books.revision  # noqa: S101  (it was verified)
        state = held.looks_plain(books)
        if state in ("current", "unknown"):
            return
        held.renew(books.revision.about)
        said = {"older": "an older revision: renewed", "missing": "missing: renewed", "damaged": "no revision: renewed"}
        difference = Difference(
            held.dataset.name, held.day.day, layout.PLAIN, f"revision {books.revision.about.revision}", said[state]
        )
        (found.wrong if state == "damaged" else found.notes).append(difference)
