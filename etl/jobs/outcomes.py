"""What is said of a day of the lake: what became of it, what isn't as the books say, and how its books compare."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from etl.errors import Busy, EtlError
from etl.lake.datasets import Dataset
from etl.lake.difference import Difference
from etl.store.days import DayBooks, changed

# Verdicts of `compare` that somebody must do something about.
WRONG = frozenset({"unequal", "unreadable"})
What = Literal["due", "exported", "unchanged", "restored", "proved", "dropped", "kept", "busy", "failed"]


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


@dataclass(slots=True)
class Findings:
    """What isn't as the books say: what is wrong, and what is worth to know and isn't."""

    wrong: list[Difference] = field(default_factory=list)
    notes: list[Difference] = field(default_factory=list)


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


def verdict_of(books: DayBooks, partition: int | None, in_file: int | None, latest: int | None) -> tuple[str, str]:
    revision = books.revision
    if why := _unbalanced(books, partition, in_file, latest):
        return "unequal", why
    if revision is None and not books.pending:
        return "not exported", ""
    if changed(books) or books.pending:
        return "to export", "its last export is half-way" if books.pending else "changed since its last export"
    return ("in the lake only" if revision and revision.dropped else "equal"), ""


def _unbalanced(books: DayBooks, partition: int | None, in_file: int | None, latest: int | None) -> str:
    """Why somebody must look; empty if nobody must."""
    revision = books.revision
    known = max(each.about.revision if each else -1 for each in (revision, books.pending))
    if latest is not None and latest > known:
        whose = f"these books know {f'revision {known}' if known > 0 else 'none'}"
        return f"the lake has {f'revision {latest}' if latest else 'a file'}, and {whose}: `etl restore` takes it over"
    if not (revision and revision.dropped) and (partition or 0) != books.rows:
        return "Postgres doesn't hold what the ledger says"
    if revision is None or books.pending:
        return ""
    if in_file != revision.about.rows:
        return "the file doesn't hold what the books say"
    if not changed(books) and in_file != books.rows:
        return "exported by force, though the books didn't balance"
    return ""


def prevented(books: DayBooks) -> Outcome | None:
    """What keeps a day in Postgres, by the books."""
    if books.revision is None:
        return outcome_of(books, "kept", rows=books.rows, why="never exported")
    if changed(books):
        return outcome_of(books, "kept", rows=books.rows, why="changed since its last export")
    return outcome_of(books, "unchanged", why="dropped before") if books.revision.dropped else None


def one_by_one(
    operation: Callable[[Dataset, date], Outcome], work: list[tuple[Dataset, date]], log: Any
) -> list[Outcome]:
    """One day's failure is one outcome: the others are done all the same."""
    outcomes = []
    for dataset, day in work:
        try:
            outcome = operation(dataset, day)
        except Busy as error:
            outcome = Outcome(dataset.name, day, "busy", why=str(error))
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


def outcome_of(books: DayBooks, what: What, **more: Any) -> Outcome:
    about = books.revision.about if books.revision else None
    known = {"revision": about.revision, "rows": about.rows, "bytes": about.bytes} if about else {}
    return Outcome(books.dataset, books.day, what, **(known | more))
