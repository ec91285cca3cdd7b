"""Days on their way between Postgres and the lake: export, restore, prune. Where a row is if we die:

    export    draft → enter → publish → confirm → copy    in Postgres, all the time
    restore   stage → load back                           in the lake, and from the commit on in Postgres too
    prune     verify, every row → drop                    in both, and from the commit on in the lake

Each day is held under its lock meanwhile. A late CDR for a day that Postgres forgot is in a partition of its own until
the next export: that restores the day first, so that the file never loses a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING, Any

from etl.errors import Busy, Contention, EtlError, LakeError
from etl.jobs.held_day import HeldDay
from etl.jobs.outcomes import Findings, Outcome, outcome_of, prevented
from etl.jobs.survey import Survey
from etl.lake import export, layout, restore, verify, witness
from etl.lake.datasets import DATASETS, Dataset
from etl.lake.difference import Difference
from etl.lake.export import Progress
from etl.lake.target import Draft, Target
from etl.store import days, partitions, unite, unreadable
from etl.store.connection import Engine
from etl.store.days import DayBooks, Snapshot, changed
from etl.store.unite import United
from etl.wire.manifest import Manifest

if TYPE_CHECKING:  # pyiceberg is an extra
    from etl.jobs.tables import Tables


class Lake(Survey):
    """One archive's lake and Postgres: every operation takes one day, and raises `EtlError` with day and file named;
    `Busy` if another etl holds the day."""

    def __init__(
        self, engine: Engine, uri: str, target: Target, worker: str, log: Any, tables: "Tables | None" = None
    ) -> None:
        """`uri` is for libpq, and leads where `engine` does. `tables` are Iceberg's, if the lake has any."""
        super().__init__(engine, target)
        self._uri = uri
        self._worker = worker
        self._log = log
        self.tables = tables

    def unite(self, first: date, last: date) -> list[United]:
        """Every day of the period that had calls stored as leg 1 by 0.1, now one row each."""
        of_the_period = [day for day in unite.days(self.engine) if first <= day <= last]
        done = [unite.unite(self.engine, day, self._worker) for day in of_the_period]
        return [each for each in done if each.renamed or each.united]

    def needed_by_tables(self) -> set[str]:
        """Names of the files that any snapshot of the Iceberg tables needs."""
        of_each = (self.tables.needed(dataset) for dataset in DATASETS.values()) if self.tables else ()
        return {*chain(*of_each)}

    def clear(self, dataset: Dataset, day: date) -> None:
        """Whatever somebody who died left aside of the day, in the lake or in Postgres, goes."""
        with self.hold(dataset, day) as held, held.day.staging():
            pass

    def erase_history(self, dataset: Dataset, day: date) -> None:
        """Of the day's revisions the current one alone stays; and of the Iceberg table's snapshots."""
        with self.hold(dataset, day) as held:
            if self.tables:
                if failed := self.tables.catch_up(dataset, [day]).failed:
                    raise LakeError("ETL-538", f"{dataset.name} {day}: the Iceberg table can't leave it: {failed[day]}")
                self.tables.expire(dataset, None)
            held.erase_history()

    def export(
        self, dataset: Dataset, day: date, progress: Progress, force: bool = False, because: str = ""
    ) -> Outcome:
        """Bring the lake's revision of the day up to date. With `force` although nothing changed, and although rows
        are missing that the ledger knows of. Where rows changed of which the ledger knows no change, only if it is said
        why, in `because`: the revision has it, and its file. Beside changes that the ledger knows, these are seen where
        an UPDATE took something out of a CDR."""
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
            returned = 0
            if books.revision and books.revision.dropped:
                before = held.day.by_hand()
                self._bring_back(held, books.revision.about, progress)
                returned = held.day.by_hand() - before  # the lake's rows took their places
            return self._export(held, progress, force, because, returned)

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
                contained = books.revision.entries if books.revision else 0
                if of_the_file and books.entries != contained:
                    entries = (f"{contained} ledger entries", f"{books.entries} ledger entries")
                    of_the_file = [Difference(dataset.name, day, "changes since", *entries), *of_the_file]
            found.wrong += of_the_file
            if other := self._table_differs(dataset, about):
                found.wrong.append(other)
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
            held = HeldDay(locked, dataset, self.target, self._worker, self._log, self.tables)
            held.settle()
            yield held

    def _drop(self, held: HeldDay, books: DayBooks) -> Outcome:
        self._check_lineage(held, books)
        assert books.revision  # noqa: S101  (else something would have prevented it)
        about = books.revision.about
        found = verify.shallow(self.target, held.name(about), held.dataset, about) or self._deep(held, about)[1]
        if found:
            return outcome_of(books, "failed", why="the file isn't what Postgres holds", differences=found)
        if other := self._table_differs(held.dataset, about):
            return outcome_of(books, "kept", why=f"{other.what} has {other.found}: `etl lake publish` mends it")
        try:
            dropped = held.day.drop(about)
        except Contention:
            return outcome_of(books, "kept", why="loaders were at work in the table; try again")
        return outcome_of(books, "dropped") if dropped else outcome_of(books, "kept", why="something arrived meanwhile")

    def _export(self, held: HeldDay, progress: Progress, force: bool, because: str, returned: int = 0) -> Outcome:
        """`returned` of the changes by hand were undone."""
        dataset, day = held.dataset, held.day.day
        with held.draft() as draft:
            with held.day.snapshot() as snapshot:
                books = snapshot.books
                known = books.revision.about if books.revision else None
                # The same ledger makes the same revision, and then the same rows make the same bytes.
                same = books.revision is not None and books.entries == books.revision.entries
                changed_by_hand = not same and _more_by_hand(books, snapshot.by_hand - returned)
                if known and changed_by_hand and not because:
                    raise _beside(known)
                number, why = (known.revision if known and same else None), because if changed_by_hand else ""
                about = self._write(held, snapshot, draft, number, progress, why)
                if known and about.sha256 == known.sha256 and not self._damage(held, known):
                    return outcome_of(books, "unchanged", why="the same bytes again")
                if known and about.revision == known.revision:  # a revision never becomes another
                    changed_by_hand = about.sha256 != known.sha256 and self._rows_changed(held, known, draft.place)
                    if changed_by_hand and not because:
                        raise _unsaid(known)
                    about = self._write(held, snapshot, draft, None, progress, because if changed_by_hand else "")
            if about.rows != books.rows and not force:
                raise LakeError(
                    "ETL-504",
                    f"{dataset.name} {day}: Postgres holds {about.rows:,} rows and the ledger says {books.rows:,}."
                    f" `etl restore --dataset {dataset.name} --day {day}` brings back what the lake has,"
                    " --force exports what is there",
                )
            held.publish(draft, about, snapshot.by_hand)
        return outcome_of(held.books(), "exported")

    def _write(
        self,
        held: HeldDay,
        snapshot: Snapshot,
        draft: Draft,
        number: int | None,
        progress: Progress,
        because: str = "",
    ) -> Manifest:
        about = Manifest(
            held.dataset.name,
            held.day.day,
            number or snapshot.next_number,
            rows=0,
            entries=snapshot.books.entries,
            schema_fingerprint=held.dataset.fingerprint(),
            because=because,
        )
        with self._naming_rows(held):
            return export.write(self._uri, snapshot.id, held.dataset, about, draft.place, progress=progress)

    def _rows_changed(self, held: HeldDay, known: Manifest, place: str) -> bool:
        """Unless the revision proves to have the same rows as the file at `place`: with another version of its writer
        they make other bytes."""
        try:
            with self.target.fetched(held.name(known)) as earlier:
                verify.check(earlier, self.target.path(held.name(known)), known)
                return not verify.same_rows(earlier, place, held.dataset)
        except LakeError:
            return True

    @contextmanager
    def _naming_rows(self, held: HeldDay) -> Iterator[None]:
        """Where a day can't be read: the error says for which rows, if it's for some."""
        try:
            yield
        except EtlError as error:
            why = unreadable.reason(self.engine, held.dataset.table, held.day.day, error)
            if why == error.text:
                raise
            raise LakeError("ETL-522", f"{held.dataset.name} {held.day.day}: {why}") from error

    def _damage(self, held: HeldDay, about: Manifest) -> list[Difference]:
        return verify.shallow(self.target, held.name(about), held.dataset, about)

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
        if books.revision and books.revision.entries > books.entries:
            number, entries = books.revision.about.revision, books.revision.entries
            raise LakeError(
                "ETL-507",
                f"{held.dataset.name} {held.day.day}: revision {number} contains {entries} ledger"
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
        if strangers and self.tables:
            self._catch_up(self.tables, held)
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

    def _catch_up(self, tables: "Tables", held: HeldDay) -> None:
        """The rows are back in any case: a table that is beyond that is told of, and `etl lake publish` is for it."""
        try:
            failed = tables.catch_up(held.dataset, [held.day.day]).failed
        except EtlError as error:
            failed = {held.day.day: str(error)}
        for why in failed.values():
            self._log.error("table_published", dataset=held.dataset.name, days=0, failed=[why])

    def _deep(self, held: HeldDay, about: Manifest) -> tuple[DayBooks, list[Difference]]:
        """Every row of the file against every row of Postgres, by readers that share nothing with the file's writer."""
        with (
            self._naming_rows(held),
            held.day.snapshot() as snapshot,
            self.target.fetched(held.name(about)) as place,
        ):
            copied = held.day.copy(witness.query(held.dataset, held.day.day))
            return snapshot.books, witness.compare(place, held.dataset, held.day.day, copied)

    def _look_around(self, held: HeldDay, books: DayBooks, found: Findings) -> None:
        """Files of the day that the books don't know, and revisions for which somebody had to say why."""
        for each in held.day.revisions():
            if each.about.because:
                what, said = f"revision {each.about.revision}", f"exported by force, because: {each.about.because}"
                found.notes.append(Difference(held.dataset.name, held.day.day, what, "a change in the ledger", said))
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

    def _table_differs(self, dataset: Dataset, about: Manifest) -> Difference | None:
        """What the Iceberg table's current snapshot has of the day, if that isn't this revision alone."""
        if self.tables is None:
            return None
        behind = self.tables.behind(dataset, [about.day])
        if not behind:
            return None
        state, wanted = self.tables.state(dataset), layout.revision_of(dataset, about)
        held = state.days.get(about.day) if state else None
        found = "; ".join(f"{each.name}: {each.rows} rows, {each.bytes} bytes" for each in held or ())
        return Difference(dataset.name, about.day, "Iceberg table", wanted, found or "no file of the day")

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


def _more_by_hand(books: DayBooks, by_hand: int) -> bool:
    then = books.revision.by_hand if books.revision else None
    return then is not None and by_hand > then


def _beside(known: Manifest) -> LakeError:
    return LakeError(
        "ETL-961",
        f"{known.dataset} {known.day}: since revision {known.revision} somebody changed rows by hand, beside what the"
        " ledger knows: cdr_revisions has what they were, with replaced_by null. If it was meant, --force --because"
        ' "…" exports what is there, and the revision says why',
    )


def _unsaid(known: Manifest) -> LakeError:
    return LakeError(
        "ETL-380",
        f"{known.dataset} {known.day}: rows aren't what revision {known.revision} has, and the ledger knows of no"
        " change:"
        ' somebody changed them by hand. `etl restore --into …` shows what the lake has; --force --because "…" exports'
        " what is there, and the revision says why",
    )
