"""A report as one page: nothing in it is fetched or run, as its policy says to the browser, and it opens from disk.

Whatever comes from the archive goes through `text`, or through the charts, whose library writes it as text too.
"""

from importlib.resources import files
from typing import TYPE_CHECKING

from etl import __version__
from etl.reporting.blocks import tables, text
from etl.reporting.charts import Chart, charts
from etl.reporting.shown import (
    Shown,
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
    from etl.reporting.figures import Report

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
HEAD_LETTERS = 110  # as many as a sheet has room for in one line
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
        f"<header><h1>{text(title(found))}</h1><p>{text(period(found))}</p></header>",
        _notes(found),
        _tiles(found),
        *(_figure(chart) for chart in charts(found)),
        tables(found),
        _meanings(found, shown) if found.rows else "",
        f"<footer>{text(_made(found))}</footer>",
    ]
    content = "\n".join(part for part in body if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(heading)}</title>
<style>
{(files("etl.reporting") / "page.css").read_text()}{_running_head(heading)}</style>
</head>
<body><main>
{content}
</main></body>
</html>
"""


def _running_head(heading: str) -> str:
    """On each sheet of paper: which report it is of. All but letters and digits is escaped, so that no name ends the
    text, or the style."""
    short = heading if len(heading) <= HEAD_LETTERS else f"{heading[:HEAD_LETTERS]}…"
    letters = (c if c.isascii() and c.isalnum() else f"\\{ord(c):06x}" for c in printable(short).replace("\n", " "))
    return f'@page {{ @top-left {{ content: "{"".join(letters)}"; }} }}\n'


def _notes(found: "Report") -> str:
    items = "".join(f"<li>{text(note)}</li>" for note in notes(found))
    return f'<section class="notes" aria-label="Notes"><ul>{items}</ul></section>' if items else ""


def _tiles(found: "Report") -> str:
    if found.total is None:
        return ""
    by_name = {column.name: column for column in columns(found)}
    tiles = [_tile(by_name[name], found) for name in TILES[found.asked.kind] if name in by_name]
    return '<dl class="tiles">' + "".join(tiles) + "</dl>"


def _tile(column: Shown, found: "Report") -> str:
    """The figure; its target, if it has one; and what it was last week."""
    if found.total is None or not (figure := value(found.total, column, found)):
        return ""
    called = NAMES.get(column.name, column.heading)
    if column.name == "aht_seconds" and found.total["aht_of"]:
        called += f": {found.total['aht_of']}"
    said = ""
    if aim := target(column, found):
        said += f'<dd class="{"met" if aim[1] else "missed"}">{text(aim[0])}</dd>'
    if found.last_week.total and (before := value(found.last_week.total, column, found)):
        said += f'<dd class="before">{text(f"{last_week(found)}: {before}")}</dd>'
    return f"<div><dt>{text(called)}</dt><dd>{text(figure)}</dd>{said}</div>"


def _figure(chart: Chart) -> str:
    return (
        f"<figure><figcaption><h2>{text(chart.heading)}</h2><p>{text(chart.caption)}</p></figcaption>"
        f'<div class="broad">{chart.svg}</div><div class="narrow">{chart.narrow}</div></figure>'
    )


def _meanings(found: "Report", shown: list[Shown]) -> str:
    """The view's own comments."""
    said = [(column.heading, found.comments[column.name]) for column in shown if column.name in found.comments]
    listed = "".join(f"<dt>{text(heading)}</dt><dd>{text(comment)}</dd>" for heading, comment in said)
    return (
        '<section class="figures"><details><summary>What the figures mean</summary>'
        f'<dl class="meanings">{listed}</dl></details></section>'
    )


def _made(found: "Report") -> str:
    made = f"made {found.now:%Y-%m-%d %H:%M} by etl {__version__}"
    return "; ".join(filter(None, (as_of(found), made)))
