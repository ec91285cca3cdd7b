"""A day of the lake while its lock is ours: what the books say, which files there are, and the steps between them.

    draft → written → entered → published → described → confirmed → copied for plain readers

A file's name is in the books before the file is begun, and no name is used twice. So whoever was stopped amid these
steps, and goes on when the day has long been another's, can do no harm but to leave a file that the books know as a
draft, or an older revision where plain readers look: `etl.jobs.sweep` takes away the one and renews the other.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from etl.errors import LakeError
from etl.lake import layout, verify
from etl.lake.datasets import Dataset
from etl.lake.layout import Name
from etl.lake.target import Draft, Target
from etl.store import lake_table
from etl.store.connection import Connection
from etl.store.days import Day, DayBooks, Revision
from etl.wire import manifest
from etl.wire.manifest import Manifest

if TYPE_CHECKING:  # pyiceberg is an extra
    from etl.jobs.tables import Tables

# An exporter of 0.1 that was stopped may go on and write into the file that lies where plain readers look. After so
# long nobody expects it any more, and the file needn't be copied to be out of its reach.
_UNSAFE_TO_LINK = timedelta(days=7)

# What lies where plain readers look: the current revision, an older one, nothing, a revision that the books don't know,
# or no revision at all.
Plain = Literal["current", "older", "missing", "unknown", "damaged"]


@dataclass(frozen=True, slots=True)
class Stranger:
    """A revision in the lake that the books don't know."""

    about: Manifest
    name: str


def erased(revisions: Sequence[Revision]) -> list[Revision]:
    """Those that may not stay, as they may hold a person that was forgotten."""
    return [each for each in revisions if each.erased]


class HeldDay:
    """One day of one dataset. Every method may raise `LakeError` and `Outage`."""

    def __init__(
        self, day: Day, dataset: Dataset, target: Target, worker: str, log: Any, tables: "Tables | None" = None
    ) -> None:
        """`tables` are those that move with the books."""
        self.day = day
        self.dataset = dataset
        self.target = target
        self._worker = worker
        self._log = log
        self._tables = tables

    def books(self) -> DayBooks:
        return self.day.books()

    def name(self, about: Manifest) -> str:
        """Of the revision's file."""
        return layout.revision_of(self.dataset, about)

    @property
    def plain(self) -> str:
        """Where plain readers look."""
        return layout.plain(self.dataset, self.day.day)

    def settle(self) -> None:
        """Finish, or undo, what somebody who died had begun: the files themselves say which. And what a release before
        0.2 published gets its place among the revisions."""
        books = self.books()
        if pending := books.pending:
            if self._is_there(pending.about):
                self._describe(pending.about)
                self._confirm(pending.about)
            else:
                self.day.withdraw(pending.about, self.name(pending.about), self._worker)
            self._log.warning(
                "export_settled",
                dataset=self.dataset.name,
                day=str(self.day.day),
                revision=pending.about.revision,
            )
        elif books.revision and not self.target.exists(self.name(books.revision.about)):
            self._is_there(books.revision.about, books.revision.published_at)
        self._sweep_drafts()

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """A file to write a revision to, gone afterwards."""
        name = self._aside()
        with self.target.draft(name) as draft:
            yield draft
        self.day.swept([name])

    def publish(self, draft: Draft, about: Manifest, by_hand: int) -> None:
        """The draft becomes the day's revision, and what plain readers find. `by_hand` is its snapshot's."""
        self.day.enter(about, self.target.url, by_hand)
        self.target.publish(draft, self.name(about))
        self._describe(about)
        self._confirm(about)
        self.renew(about)

    def _confirm(self, about: Manifest) -> None:
        self.day.confirm(about, lambda connection: self._move_table(connection, about))

    def _move_table(self, connection: Connection, about: Manifest) -> None:
        if self._tables:
            self._tables.follow(connection, self.dataset, about)
        elif lake_table.is_kept(connection, self.dataset.name):  # since we began
            raise lake_table.wanted()

    def renew(self, about: Manifest) -> None:
        """Plain readers find this revision from now on."""
        aside = self._aside()
        self.target.copy(self.name(about), self.plain, aside)
        self.day.swept([aside])

    def looks_plain(self, books: DayBooks) -> Plain:
        """What plain readers find."""
        if books.revision and self.target.is_same(self.name(books.revision.about), self.plain):
            return "current"
        found = self.target.fingerprint(self.plain)
        if found is None:
            return "missing"
        if books.revision and found == (books.revision.about.bytes, books.revision.about.sha256):
            return "current"
        if found[1] in {each.about.sha256 for each in self.day.revisions()}:
            return "older"
        stranger = self._stranger(self.plain)
        if stranger is None:
            return "damaged"
        # One that was given up for dead, and never confirmed: nothing was dropped on its word.
        return "older" if self.name(stranger.about) in self.day.drafts() else "unknown"

    def strangers(self) -> list[Stranger]:
        """Revisions that the books don't know, the latest last; what isn't what its name says is none."""
        known = {self.name(each.about) for each in self.day.revisions()} | {*self.day.drafts()}
        files = self.target.files(layout.revisions(self.dataset, self.day.day))
        found = [
            stranger
            for name in layout.of_revisions(file.name for file in files)
            if name.path not in known and (stranger := self._stranger(name.path, name))
        ]
        if not found and self.looks_plain(self.books()) == "unknown" and (plain := self._stranger(self.plain)):
            found.append(plain)
        return sorted(found, key=lambda stranger: stranger.about.revision)

    def newest_stranger(self, books: DayBooks) -> Stranger | None:
        """If it is newer than all that the books know: was Postgres set back, or is the lake another archive's?"""
        newest = next(reversed(self.strangers()), None)
        known = books.revision.about.revision if books.revision else 0
        return newest if newest and newest.about.revision > known else None

    def take_over(self, stranger: Stranger) -> None:
        """The file of a revision that the books are about to know comes to its place."""
        if stranger.name == self.plain:
            self._take_from_plain(stranger.about)
        else:
            self._describe(stranger.about)

    def unknown_files(self) -> list[str]:
        """Files of the day that neither the books nor their names account for."""
        known = {self.name(each.about) for each in self.day.revisions()}
        known |= {*map(layout.manifest, known), *self.day.drafts()}
        folders = (layout.revisions(self.dataset, self.day.day), layout.folder(self.dataset, self.day.day))
        files = [file.name for folder in folders for file in self.target.files(folder)]
        return sorted(
            name for name in files if name not in known and (parsed := layout.parse(name)) and parsed.kind != "plain"
        )

    def check_file(self, revision: Revision) -> None:
        """Raises `LakeError` unless the revision's file is what the books say."""
        self.check_there(revision)
        name = self.name(revision.about)
        with self.target.fetched(name) as place:
            verify.check(place, self.target.path(name), revision.about)

    def check_there(self, revision: Revision) -> None:
        """Raises `LakeError` if there is no file of the revision."""
        name = self.name(revision.about)
        if not self.target.exists(name):
            elsewhere = "" if revision.url == self.target.url else f" (it was published to {revision.url})"
            raise LakeError("ETL-518", f"{self.target.path(name)} is missing{elsewhere}")

    def sweep(
        self, going: Callable[[Sequence[Revision]], list[Revision]], needed: Collection[str] = frozenset()
    ) -> list[str]:
        """Take away the files of revisions that the books say nobody needs, if the current one is there; returns their
        names. `going` chooses them out of the day's, the latest last; what a snapshot has `needed` stays."""
        revisions = [each for each in self.day.revisions() if each.published_at]
        if not revisions or not self.target.exists(self.name(revisions[-1].about)):
            return []
        gone = [name for each in going(revisions) if each != revisions[-1] for name in self._files(each.about)]
        gone = [name for name in gone if name.replace(".json", ".parquet") not in needed]
        if self.target.exists(old := f"{layout.folder(self.dataset, self.day.day)}/{layout.OLD_MANIFEST}"):
            gone.append(old)
        for name in gone:
            self.target.remove(name)
        return gone

    def erase_history(self) -> None:
        """No revision but the current one stays, nor comes back; plain readers find that one too."""
        books = self.books()
        if books.revision:
            self.day.erase(books.revision.about)
            if self.looks_plain(books) not in ("current", "unknown"):
                self.check_file(books.revision)
                self.renew(books.revision.about)
            self.sweep(erased)

    def _files(self, about: Manifest) -> list[str]:
        # The revision last: as long as it is there, somebody comes for what was left half-way.
        names = (layout.manifest(self.name(about)), self.name(about))
        return [name for name in names if self.target.exists(name)]

    def _is_there(self, about: Manifest, published_at: datetime | None = None) -> bool:
        """Whether the revision's file is whole, and in its place from now on, if it was where 0.1 had it."""
        expected = (about.bytes, about.sha256)
        if self.target.fingerprint(self.name(about)) == expected:
            return True
        if self.target.fingerprint(self.plain) != expected:
            return False
        self._take_from_plain(about, published_at)
        return True

    def _take_from_plain(self, about: Manifest, published_at: datetime | None = None) -> None:
        aside = self._aside()
        if published_at and datetime.now(UTC) - published_at > _UNSAFE_TO_LINK:
            self.target.copy(self.plain, self.name(about), aside)
        else:
            self.target.duplicate(self.plain, self.name(about), aside)
        self.day.swept([aside])
        self._describe(about)
        for old in (layout.OLD_MANIFEST, layout.OLD_DRAFT):
            self.target.remove(f"{layout.folder(self.dataset, self.day.day)}/{old}")

    def _describe(self, about: Manifest) -> None:
        aside = self._aside()
        self.target.write(layout.manifest(self.name(about)), manifest.as_json(about), aside)
        self.day.swept([aside])

    def _stranger(self, path: str, name: Name | None = None) -> Stranger | None:
        """What the file says of itself, if it is a revision of this day, and what its name says."""
        try:
            with self.target.fetched(path) as place:
                about = verify.footer(place, self.target.path(path), self.dataset)
        except LakeError:
            return None
        if (about.dataset, about.day) != (self.dataset.name, self.day.day):
            return None
        if name and self.name(about) != name.path:
            return None
        return Stranger(about, path)

    def _sweep_drafts(self) -> None:
        """What somebody left who doesn't hold the day any more; but what the books call a revision by now is none."""
        revisions = {self.name(each.about) for each in self.day.revisions()}
        names = [name for name in self.day.drafts() if name not in revisions]
        if self.target.is_local:  # whoever of 0.1 still writes to it, may not publish it
            self.target.remove(f"{layout.folder(self.dataset, self.day.day)}/{layout.OLD_DRAFT}")
        for name in names:
            self.target.remove(name)
        if names:
            self.day.swept(names)

    def _aside(self) -> str:
        """A name for a file that is about to be begun. An object store needs none: there a file is whole, or not."""
        name = layout.attempt(self.dataset, self.day.day)
        if self.target.is_local:
            self.day.draft(name, self._worker)
        return name
