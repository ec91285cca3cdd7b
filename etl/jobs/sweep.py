"""What the lake needs from time to time: revisions that nobody needs go, copies for plain readers become current, and
the files of a 0.1 get their place among the revisions.

It goes by positive knowledge only: a file that the books don't know stays, and is reported. If one of them is newer
than its day's revision in the books, nothing is taken away at all: after Postgres was set back, what the books call
superseded may be all that there is.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from etl.errors import Busy, EtlError
from etl.jobs import publish
from etl.jobs.held_day import HeldDay, erased
from etl.jobs.lake import Lake
from etl.lake import layout
from etl.lake.datasets import DATASETS, Dataset
from etl.lake.target import File
from etl.store import days
from etl.store.days import Revision

# A copy that was put in its place lately is looked at whatever its length: a writer that woke up may have put it there.
# Where nothing but a nightly export sweeps, it comes a little later on some nights.
LATELY = timedelta(days=2)


@dataclass(slots=True)
class Swept:
    """Names of files that went, and of copies that were renewed; what the books don't know; days that failed."""

    removed: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Day:
    """What books and lake have of a day."""

    dataset: Dataset
    day: date
    revisions: Sequence[Revision]  # that were published, the latest last
    pending: Sequence[Revision]  # that were entered, and may be there
    drafts: Sequence[str]
    files: dict[str, File]

    def name(self, revision: Revision) -> str:
        return layout.revision_of(self.dataset, revision.about)

    def unknown(self) -> list[str]:
        names = {self.name(each) for each in (*self.revisions, *self.pending)}
        known = {*names, *map(layout.manifest, names), *self.drafts, layout.plain(self.dataset, self.day)}
        return [name for name in self.files if name not in known]

    def is_ahead(self) -> bool:
        """Whether the lake has a later revision than the books."""
        latest = self.revisions[-1].about.revision if self.revisions else 0
        return any(name.revision > latest for name in layout.of_revisions(self.unknown()))


def sweep(lake: Lake, history: timedelta, log: Any) -> Swept:
    """Once over all days but those that another etl holds. Raises `EtlError` if the lake can't be listed."""
    lake.copy_receipts()
    found = [*_days(lake)]
    swept = Swept(unknown=sorted(name for day in found for name in day.unknown()))
    is_ahead = any(day.is_ahead() for day in found)
    if is_ahead:
        log.warning("sweep_refused", unknown=len(swept.unknown))
    going = _never if is_ahead else superseded(history)
    needed: Collection[str] = frozenset()
    try:
        if not is_ahead:
            publish.expire(lake, history, log, _with_erased(found))
        needed = lake.needed_by_tables()
    except EtlError as error:  # then nobody knows what is needed
        swept.failed.append(str(error))
        log.error("job_failed", job="table", error=error.text, code=error.code)
        going = _never
    for day in found:
        if not _needs(lake, day, going, needed):
            continue
        try:
            with lake.hold(day.dataset, day.day) as held:
                swept.removed += held.sweep(going, needed)
                swept.renewed += _renew(held)
        except Busy:
            continue
        except EtlError as error:
            swept.failed.append(f"{day.dataset.name} {day.day}: {error}")
            log.error("day_failed", dataset=day.dataset.name, day=str(day.day), rows=0, bytes=0, why=str(error))
    if swept.removed or swept.renewed:
        log.info("lake_swept", removed=len(swept.removed), renewed=len(swept.renewed))
    return swept


def superseded(history: timedelta) -> Callable[[Sequence[Revision]], list[Revision]]:
    """Chooses those whose successor was published longer ago, and those that may not stay."""

    def going(revisions: Sequence[Revision]) -> list[Revision]:
        until = datetime.now(UTC) - history
        over = [older for older, newer in pairwise(revisions) if newer.published_at and newer.published_at < until]
        return [*over, *(each for each in erased(revisions[:-1]) if each not in over)]

    return going


def _never(_: Sequence[Revision]) -> list[Revision]:
    return []


def _days(lake: Lake) -> Iterator[_Day]:
    files: dict[tuple[str, date], dict[str, File]] = {}
    for file in lake.target.files():
        if name := layout.parse(file.name):
            files.setdefault((name.dataset, name.day), {})[file.name] = file
    for dataset in DATASETS.values():
        revisions = days.all_revisions(lake.engine, dataset.table)
        drafts: dict[date, list[str]] = {}
        for draft, day in days.all_drafts(lake.engine, dataset.table).items():
            drafts.setdefault(day, []).append(draft)
        in_the_lake = {day for name, day in files if name == dataset.name}
        for day in sorted({*revisions, *drafts, *in_the_lake}):
            published = [each for each in revisions.get(day, []) if each.published_at]
            pending = [each for each in revisions.get(day, []) if not each.published_at]
            names = {layout.revision_of(dataset, each.about) for each in published}  # of what was given up once, too
            left = [name for name in drafts.get(day, []) if name not in names]
            yield _Day(dataset, day, published, pending, left, files.get((dataset.name, day), {}))


def _with_erased(found: Sequence[_Day]) -> set[str]:
    """The datasets in which files are that may not stay, whoever reads them."""
    return {day.dataset.name for day in found for each in erased(day.revisions[:-1]) if day.name(each) in day.files}


def _needs(
    lake: Lake, day: _Day, going: Callable[[Sequence[Revision]], list[Revision]], needed: Collection[str]
) -> bool:
    """Whether the day must be held for anything."""
    left, there = ({name.kind for name in map(layout.parse, names) if name} for names in (day.drafts, day.files))
    # Of a draft whose file is gone only the name must go; and what is old, a 0.1 was late to leave.
    if "attempt" in left or "old" in there:
        return True
    over = (name for name in map(day.name, going(day.revisions)) if name not in needed)
    if any(name in day.files for name in (*day.drafts, *over)):
        return True
    if not day.revisions:
        return False
    current, plain = day.name(day.revisions[-1]), layout.plain(day.dataset, day.day)
    if current not in day.files or plain not in day.files:
        return True
    if lake.target.is_same(current, plain):
        return False
    copy = day.files[plain]
    return copy.bytes != day.revisions[-1].about.bytes or datetime.now(UTC) - copy.changed_at < LATELY


def _renew(held: HeldDay) -> list[str]:
    """What isn't a revision that only this copy has."""
    books = held.books()
    if books.revision is None or held.looks_plain(books) in ("current", "unknown"):
        return []
    held.check_file(books.revision)
    held.renew(books.revision.about)
    return [held.plain]
