"""A report as a page of the wall: what `etl report` would print, by the same columns and in the same words."""

from dataclasses import replace
from typing import Any
from urllib.parse import quote

from etl.reporting.figures import Report, Row
from etl.reporting.shown import Shown, about_totals, as_of, columns, label, notes, period, title, value
from etl.reporting.web.asked import is_reference, query_of

# More rows make a page that nobody reads; the CSV has all.
MOST_ROWS = 2_000


def of_agent(found: Report, extension: str) -> Report:
    """The same for one agent."""
    rows, sums = ([row for row in some if row["extension"] == extension] for some in (found.rows, found.by_subject))
    return replace(found, rows=rows, by_subject=[], total=next(iter(sums or rows), None))


def values(found: Report, path: str, charts: list[dict[str, str]], agent: str | None = None) -> dict[str, Any]:
    """What the template wants."""
    shown = columns(found)
    return {
        "path": path,
        "title": f"Agent {label(found.rows[0]) if found.rows else agent}" if agent else title(found),
        "period": period(found),
        "asked": found.asked,
        "by_campaign": found.asked.kind != "agent",
        "csv": f"{path}?{query_of(found.asked, format='csv')}",
        "notes": notes(found),
        "charts": charts,
        "heads": [(column, found.comments.get(column.name, "")) for column in shown],
        "sums": _sums(found, shown, agent),
        "rows": [(_cells(row, shown, found), _page_of(row, found, agent)) for row in found.rows[:MOST_ROWS]],
        "left": max(0, len(found.rows) - MOST_ROWS),
        "about": about_totals(found),
        "as_of": as_of(found),
        "agent_column": next((place for place, column in enumerate(shown) if column.name == "extension"), None),
    }


def _page_of(row: Row, found: Report, agent: str | None) -> str | None:
    """The address of the agent's own page, of agents."""
    if found.asked.kind != "agent" or agent or not is_reference(row["extension"] or ""):
        return None
    return f"/agent/{quote(row['extension'], safe='')}?{query_of(found.asked)}"


def _sums(found: Report, shown: list[Shown], agent: str | None) -> list[list[str]]:
    sums = [_cells(row, shown, found, "all days") for row in found.by_subject[:MOST_ROWS]]
    if found.total and len(found.rows) > 1:
        sums.append(_cells(found.total, shown, found, "all days" if agent else "all", whole=not agent))
    return sums


def _cells(row: Row, shown: list[Shown], found: Report, called: str = "", whole: bool = False) -> list[str]:
    cells = ["" if whole and column.what == "text" else value(row, column, found) for column in shown]
    return [called or cells[0], *cells[1:]]
