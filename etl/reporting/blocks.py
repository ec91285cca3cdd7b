"""A report's table on its page, in blocks: of a wide one, each has its share of the columns, and is a table of its own
whose rows begin with what they are rows of. So each block fits on a sheet of paper, and its heads stand on every one.
"""

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from etl.reporting.shown import Shown, about_totals, columns, last_week, value
from etl.text import printable

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

MOST = 17  # columns of a block: as many fit on a landscape A4 at the size of letters that page.css has for paper
KEYS = frozenset({"day", "campaign_ref", "campaign_name", "hour", "extension", "agent_name", "end_reason"})
# A column's side → the heading of its block.
SIDES = {"": "Calls", "outbound": "Outbound", "inbound": "Inbound"}


def text(content: str) -> str:
    """Of the archive, as text of the page."""
    return escape(printable(content))


def tables(found: "Report") -> str:
    """HTML; nothing if there are no rows."""
    if not found.rows:
        return ""
    listed = [_table(heading, shown, found) for heading, shown in blocks(found)]
    about = about_totals(found)
    return "\n".join(listed) + (f'\n<p class="about">{text(about)}</p>' if about else "")


def blocks(found: "Report") -> Iterator[tuple[str, list[Shown]]]:
    """Headings, and columns of at most `MOST`, those of the key first in each."""
    shown = columns(found)
    keys = [column for column in shown if column.name in KEYS]
    figures = [column for column in shown if column.name not in KEYS]
    if len(shown) <= MOST:
        yield "Figures", shown
        return
    for side, heading in SIDES.items():
        of_side = [column for column in figures if column.side == side]
        room = MOST - len(keys)
        for start in range(0, len(of_side), room):
            yield heading if start == 0 else f"{heading}, more", [*keys, *of_side[start : start + room]]


def _table(heading: str, shown: list[Shown], found: "Report") -> str:
    heads = "".join(
        f'<th scope="col"{_class(column)} title="{text(found.comments.get(column.name, ""))}">'
        f"{text(column.heading)}</th>"
        for column in shown
    )
    rows = "\n".join(_row(row, shown, found) for row in found.rows)
    sums = "\n".join(_row(row, shown, found, "all days") for row in found.by_subject)
    if found.total and len(found.rows) > 1:
        sums += "\n" + _row(found.total, shown, found, "all", whole=True)
    if found.last_week.total:
        sums += "\n" + _row(found.last_week.total, shown, found, last_week(found), whole=True)
    return (
        f'<section class="figures"><h2>{text(heading)}</h2>'
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(heading)}">'
        f"<table><thead><tr>{heads}</tr></thead>\n"
        f'<tbody class="sums">{sums}</tbody>\n<tbody>{rows}</tbody></table></div></section>'
    )


def _row(row: "Row", shown: list[Shown], found: "Report", called: str | None = None, whole: bool = False) -> str:
    cells = []
    for index, column in enumerate(shown):
        content = "" if whole and column.what == "text" else value(row, column, found)
        if index == 0:
            cells.append(f'<th scope="row"{_class(column)}>{text(called or content)}</th>')
        else:
            cells.append(f"<td{_class(column)}>{text(content)}</td>")
    return f"<tr{' class=all' if whole else ''}>{''.join(cells)}</tr>"


def _class(column: Shown) -> str:
    if column.name == "day":
        return ' class="day"'
    return ' class="text"' if column.what == "text" else ""
