"""A report on a terminal: rows with a small bar each, totals and notes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl.reporting.shown import MEASURE, about_totals, as_of, columns, last_week, notes, period, title, value

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row
    from etl.reporting.shown import Shown

BAR = 10  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"


def show(found: "Report", out: Console) -> None:
    out.print(Text(f"{title(found)}: {period(found)}", style="bold"))
    if found.rows:
        out.print(_table(found, _eighths if out.encoding.lower().startswith("utf") else _hashes))
    for line in filter(None, (about_totals(found), as_of(found))):
        out.print(Text(line, style="dim"))
    for note in notes(found):
        out.print(Text(f"Note: {note}" if found.rows else note, style="yellow" if found.rows else ""))


def _table(found: "Report", bar: Callable[[int, int], str]) -> Table:
    shown = [column for column in columns(found) if column.brief]
    measure = MEASURE[found.asked.kind]
    most = max((row[measure] for row in found.rows), default=0)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in shown:
        if column.what == "text":
            table.add_column(column.heading, overflow="fold")
        else:
            table.add_column(column.heading, justify="right")
        if column.name == measure:
            table.add_column("", no_wrap=True)

    def add(row: "Row", style: str = "", called: str | None = None) -> None:
        cells = []
        for index, column in enumerate(shown):
            cells.append(
                Text(
                    called if called and index == 0 else value(row, column, found) if not _vain(column, called) else ""
                )
            )
            if column.name == measure:
                cells.append(Text("" if called else bar(row[measure], most), style="cyan"))
        table.add_row(*cells, style=style)

    for row in found.rows:
        add(row)
    if found.by_subject:
        table.add_section()
        for row in found.by_subject:
            add(row, called="all days")
    if found.total and len(found.rows) > 1:
        table.add_section()
        add(found.total, style="bold", called="all")
    if found.last_week.total:
        table.add_section()
        add(found.last_week.total, style="dim", called=last_week(found))
    return table


def _vain(column: "Shown", called: str | None) -> bool:
    """Text columns stay empty in total rows."""
    return called not in (None, "all days") and column.what == "text"


def _eighths(number: int, most: int) -> str:
    eighths = round(8 * BAR * number / most) if most else 0
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def _hashes(number: int, most: int) -> str:
    """For terminals without block characters."""
    return "#" * round(BAR * number / most) if most else ""
