"""How results look: the books of a run as a table, as JSON, and as a progress bar while they grow."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from etl.errors import EtlError
from etl.store.ledger import Books

UNBOUNDED = 10_000  # characters; a pipe or a file has no width that anything would have to be cut to


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console


out, err = _console(), _console(stderr=True)

_COLUMNS = tuple(asdict(Books()))


class _Loaded(ProgressColumn):
    """Of the messages that waited, how many are loaded, and how many a second since the bar was first drawn."""

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0
        return Text(f"{task.completed:,.0f} of {task.total or 0:,.0f} messages ({rate:,.0f}/s)")


def _progress(what: str, show: bool, done: ProgressColumn | None = None) -> Progress:
    return Progress(
        TextColumn(what),
        BarColumn(),
        done or MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not show,
    )


@contextlib.contextmanager
def counting(what: str, total: int | None, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar; call what it gives with the number done so far."""
    with _progress(what, show) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def advancing(what: str, total: int | None, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar; call what it gives with the number just done."""
    with _progress(what, show) as progress:
        yield partial(progress.advance, progress.add_task(what, total=total))


def program() -> str:
    """This program, as the user can type it where they are."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"{_from_here(Path(sys.executable))} -m etl.cli"
    found = shutil.which(path.name)
    return path.name if found and path.samefile(found) else _from_here(path)


def _from_here(path: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def heading(title: str) -> None:
    out.print(f"\n[bold]{title}[/bold]")


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    out.print(table_of(columns, rows))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[object]], thousands: str = "") -> Table:
    """`thousands` stands between them in whole numbers."""
    table = Table(*columns)
    for index, column in enumerate(table.columns):
        if all(isinstance(row[index], int | Decimal | None) for row in rows):
            column.justify = "right"
    for row in rows:
        # As text, since an error's "[Errno 28]" isn't meant for Rich.
        table.add_row(*(Text(f"{value:{thousands}}" if isinstance(value, int) else _text(value)) for value in row))
    return table


def _text(value: object) -> str:
    return "" if value is None else str(value)


class RunBooks:
    """The books of a run, by source list, with a progress bar while it lasts."""

    def __init__(self, waiting: Mapping[str, int | None], show_progress: bool) -> None:
        """`waiting` are messages by list; None where that isn't known."""
        self._books: dict[str, Books] = dict.fromkeys(waiting, Books())
        self._claims = 0
        self.broken: dict[str, EtlError] = {}  # why these lists couldn't be loaded
        self._progress = _progress("loading", show_progress, _Loaded())
        self._waiting = sum(number or 0 for number in waiting.values())
        self._task = self._progress.add_task("loading", total=self._waiting)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._progress.stop()

    def add(self, key: str, books: Books) -> None:
        self._books[key] += books
        self._claims += 1
        # What is pushed meanwhile is loaded, too.
        done = self.total.claimed
        self._progress.update(self._task, completed=done, total=max(done, self._waiting))

    def add_broken(self, key: str, error: EtlError) -> None:
        self.broken[key] = error

    @property
    def total(self) -> Books:
        return sum(self._books.values(), Books())

    def as_json(self, seconds: float, claimed_elsewhere: int | None) -> dict[str, Any]:
        return {
            "claims": self._claims,
            "seconds": round(seconds, 3),
            "claimed_elsewhere": claimed_elsewhere,
            "broken": {key: str(error) for key, error in self.broken.items()},
            "total": asdict(self.total),
            "sources": {key: asdict(books) for key, books in self._books.items()},
        }

    def print(self, seconds: float, claimed_elsewhere: int | None = 0) -> None:
        table = Table(Column("source list", overflow="fold"), *_COLUMNS)
        for column in table.columns[1:]:
            column.justify = "right"
        for key, books in self._books.items():
            table.add_row(key, *_figures(books))
        if len(self._books) > 1:
            table.add_section()
            table.add_row("all", *_figures(self.total))
        out.print(table)
        rate = self.total.claimed / seconds if seconds else 0
        out.print(f"{self.total.claimed:,} messages in {self._claims:,} claims, {seconds:.1f} s ({rate:,.0f}/s)")
        if self.total.dead:
            out.print(f"{self.total.dead:,} dead letters: see `etl dead list` and `etl dead show`")
        if claimed_elsewhere:
            out.print(
                f"{claimed_elsewhere:,} claims are held by other workers; if one has crashed, "
                "a run after its lease adopts them"
            )


def _figures(books: Books) -> list[str]:
    return [f"{figure:,}" for figure in asdict(books).values()]
