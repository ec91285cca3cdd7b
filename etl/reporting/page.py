"""A report as one page: nothing in it is fetched or run, as its policy says to the browser, and it opens from disk.

Whatever comes from the archive goes through `_text`, or through the charts, whose library writes it as text too.
"""

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from etl import __version__
from etl.reporting.charts import Chart, charts
from etl.reporting.shown import (
    Shown,
    about_totals,
    as_of,
    columns,
    last_week,
    notes,
    period,
    target,
    title,
    value,
)
from etl.text import printable

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# Of the total row: what a manager looks at first.
_OF_CALLS = (
    *("attempts", "outbound_asr", "outbound_abandon_rate", "outbound_contact_rate", "attempts_per_contact"),
    *("list_penetration", "service_level", "average_speed_of_answer", "inbound_abandon_rate", "average_talk_seconds"),
)
TILES = {
    "campaign": _OF_CALLS,
    "hours": _OF_CALLS,
    "agent": ("calls", "aht_seconds", "talk_seconds", "logged_in_seconds", "occupancy"),
    "reasons": ("calls", "outbound_calls", "inbound_calls"),
}
NAMES = {
    "outbound_asr": "ASR: answered, of dialled",
    "outbound_abandon_rate": "abandoned, of live answers",
    "service_level": "service level",
    "average_speed_of_answer": "average speed of answer",
    "inbound_abandon_rate": "gave up, of offered",
    "average_talk_seconds": "average talk",
    "aht_seconds": "average handling",
    "logged_in_seconds": "logged in",
}


def page(found: "Report") -> str:
    """Raises `ConfigurationError` if the library that draws charts isn't installed."""
    shown = columns(found)
    heading = f"{title(found)}: {period(found)}"
    body = [
        f"<header><h1>{_text(title(found))}</h1><p>{_text(period(found))}</p></header>",
        _notes(found),
        _tiles(found),
        *(_figure(chart) for chart in charts(found)),
        _table(found, shown) if found.rows else "",
        _meanings(found, shown) if found.rows else "",
        f"<footer>{_text(_made(found))}</footer>",
    ]
    content = "\n".join(part for part in body if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(heading)}</title>
<style>
{(files("etl.reporting") / "page.css").read_text()}</style>
</head>
<body><main>
{content}
</main></body>
</html>
"""


def _text(text: str) -> str:
    return escape(printable(text))


def _notes(found: "Report") -> str:
    items = "".join(f"<li>{_text(note)}</li>" for note in notes(found))
    return f'<section class="notes" aria-label="Notes"><ul>{items}</ul></section>' if items else ""


def _tiles(found: "Report") -> str:
    if found.total is None:
        return ""
    by_name = {column.name: column for column in columns(found)}
    tiles = [_tile(by_name[name], found) for name in TILES[found.asked.kind] if name in by_name]
    return '<dl class="tiles">' + "".join(tiles) + "</dl>"


def _tile(column: Shown, found: "Report") -> str:
    """The figure; its target, if it has one; and what it was last week."""
    if found.total is None or not (text := value(found.total, column, found)):
        return ""
    called = NAMES.get(column.name, column.heading)
    if column.name == "aht_seconds" and found.total["aht_of"]:
        called += f": {found.total['aht_of']}"
    said = ""
    if aim := target(column, found):
        said += f'<dd class="{"met" if aim[1] else "missed"}">{_text(aim[0])}</dd>'
    if found.last_week.total and (before := value(found.last_week.total, column, found)):
        said += f'<dd class="before">{_text(f"{last_week(found)}: {before}")}</dd>'
    return f"<div><dt>{_text(called)}</dt><dd>{_text(text)}</dd>{said}</div>"


def _figure(chart: Chart) -> str:
    return (
        f"<figure><figcaption><h2>{_text(chart.heading)}</h2><p>{_text(chart.caption)}</p></figcaption>"
        f"{chart.svg}</figure>"
    )


def _table(found: "Report", shown: list[Shown]) -> str:
    heads = "".join(
        f'<th scope="col"{_class(column)} title="{_text(found.comments.get(column.name, ""))}">'
        f"{_text(column.heading)}</th>"
        for column in shown
    )
    rows = "\n".join(_row(row, shown, found) for row in found.rows)
    sums = "\n".join(_row(row, shown, found, "all days") for row in found.by_subject)
    if found.total and len(found.rows) > 1:
        sums += "\n" + _row(found.total, shown, found, "all", whole=True)
    if found.last_week.total:
        sums += "\n" + _row(found.last_week.total, shown, found, last_week(found), whole=True)
    about = about_totals(found)
    return (
        f'<section class="figures"><h2>Figures</h2><div class="wide"><table><thead><tr>{heads}</tr></thead>\n'
        f'<tbody class="sums">{sums}</tbody>\n<tbody>{rows}</tbody></table></div>'
        + (f"<p>{_text(about)}</p>" if about else "")
        + "</section>"
    )


def _row(row: "Row", shown: list[Shown], found: "Report", called: str | None = None, whole: bool = False) -> str:
    cells = []
    for index, column in enumerate(shown):
        text = "" if whole and column.what == "text" else value(row, column, found)
        if index == 0:
            cells.append(f'<th scope="row"{_class(column)}>{_text(called or text)}</th>')
        else:
            cells.append(f"<td{_class(column)}>{_text(text)}</td>")
    return f"<tr{' class=all' if whole else ''}>{''.join(cells)}</tr>"


def _class(column: Shown) -> str:
    if column.name == "day":
        return ' class="day"'
    return ' class="text"' if column.what == "text" else ""


def _meanings(found: "Report", shown: list[Shown]) -> str:
    """The view's own comments."""
    text = [(column.heading, found.comments[column.name]) for column in shown if column.name in found.comments]
    listed = "".join(f"<dt>{_text(heading)}</dt><dd>{_text(comment)}</dd>" for heading, comment in text)
    return (
        '<section class="figures"><details><summary>What the figures mean</summary>'
        f'<dl class="meanings">{listed}</dl></details></section>'
    )


def _made(found: "Report") -> str:
    made = f"made {found.now:%Y-%m-%d %H:%M} by etl {__version__}"
    return "; ".join(filter(None, (as_of(found), made)))
