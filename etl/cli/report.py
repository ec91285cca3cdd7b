"""`etl report`: the views of the schema `reporting`, asked from the command line. What the table and the page show is
in `shown`; here are the arguments, and the formats for programs.
"""

import os
import sys
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.app.database import engine_of
from etl.cli import Config, a_day, app, configured, to_json
from etl.cli.printing import out
from etl.reporting.figures import TARGETED, Asked, Report, ask, yesterday
from etl.reporting.page import page
from etl.reporting.shown import notes
from etl.reporting.spreadsheet import csv_of
from etl.reporting.table import show
from etl.reporting.workbook import to_xlsx
from etl.store.connection import Engine


class ReportKind(StrEnum):
    CAMPAIGN = "campaign"
    AGENT = "agent"
    HOURS = "hours"
    REASONS = "reasons"


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    XLSX = "xlsx"


@app.command(
    epilog="Examples: [bold]etl report campaign[/bold] · "
    "[bold]etl report hours --day 2026-11-22 --campaign 2040[/bold] · "
    "[bold]etl report agent --from 2026-11-01 --to 2026-11-30 --format html --output agents.html[/bold] · "
    "[bold]etl report agent --format xlsx --output agents.xlsx[/bold]"
)
def report(
    kind: Annotated[
        ReportKind,
        typer.Argument(help="A campaign's days, an agent's days, the hours of the day, or why calls ended."),
    ],
    config: Config = None,
    day: Annotated[
        date | None,
        typer.Option("--day", parser=a_day, metavar="DAY", help="This business day; default: yesterday."),
    ] = None,
    first: Annotated[
        date | None,
        typer.Option("--from", parser=a_day, metavar="DAY", help="First business day.", show_default=False),
    ] = None,
    last: Annotated[
        date | None,
        typer.Option(
            "--to", parser=a_day, metavar="DAY", help="Last business day; default: yesterday.", show_default=False
        ),
    ] = None,
    campaigns: Annotated[
        list[str] | None,
        typer.Option("--campaign", help="Only this campaign; may be given several times.", show_default=False),
    ] = None,
    format_: Annotated[
        Format,
        typer.Option("--format", help="html is one page with charts, which needs no network; xlsx is for Excel."),
    ] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Where csv, json, html or xlsx go; default: stdout.", show_default=False
        ),
    ] = None,
) -> None:
    """Report what came of the calls, from the figures of the last `etl rollup`; reasons are counted from the calls.

    Inbound and outbound calls stand apart, by the trade's definitions: docs/reports.md has each figure's formula.
    Beside the totals stand those of the same days last week. What nobody knows is "not known", empty in csv and null in
    json.

    Days are business days, in the zone of reporting.settings, which also has the seconds of the service level and the
    targets. Below the figures stands what keeps them from being trusted. Whoever may only read the views may run this
    too.
    """
    if kind is ReportKind.AGENT and campaigns:
        raise typer.BadParameter("agents' figures aren't kept by campaign: leave --campaign out")
    if output and format_ is Format.TABLE:
        raise typer.BadParameter("--output is for csv, json, html and xlsx")
    if format_ is Format.HTML and not output and sys.stdout.isatty():
        raise typer.BadParameter("a page isn't for a terminal: --output FILE")
    if format_ is Format.XLSX and not output and sys.stdout.isatty():
        raise typer.BadParameter("a workbook isn't for a terminal: --output FILE")
    with engine_of(configured(config)) as engine:
        asked = _asked(engine, kind, day, first, last, campaigns or [])
        found = ask(engine, asked, with_timeline=format_ is Format.HTML)
    if format_ is Format.TABLE:
        show(found, out)
        return
    _write(to_xlsx(found) if format_ is Format.XLSX else _rendered(found, format_).encode(), output)
    if format_ is Format.CSV:  # the others contain them
        for note in notes(found):
            typer.echo(f"etl: {note}", err=True)


def _asked(
    engine: Engine, kind: ReportKind, day: date | None, first: date | None, last: date | None, campaigns: list[str]
) -> Asked:
    if day and (first or last):
        raise typer.BadParameter("either --day or --from and --to")
    if last and not first:
        raise typer.BadParameter("--to needs --from")
    until = day or last or yesterday(engine)
    since = day or first or until
    if since > until:
        raise typer.BadParameter(f"--from must not be later than {'--to' if last else f'yesterday, {until}'}")
    return Asked(str(kind), since, until, tuple(campaigns))


def _rendered(found: Report, format_: Format) -> str:
    if format_ is Format.JSON:
        return to_json(_as_json(found)) + "\n"
    if format_ is Format.CSV:
        return csv_of(found)
    return page(found)


def _write(content: bytes, output: Path | None) -> None:
    """Text is in UTF-8, whatever the terminal speaks; a file is there whole or not at all."""
    if output is None:
        typer.echo(content, nl=False)
        return
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)


def _as_json(found: Report) -> dict[str, Any]:
    asked = found.asked
    return {
        "report": asked.kind,
        "from": asked.first,
        "to": asked.last,
        "campaigns": asked.campaigns,
        "zone": found.zone,
        "refreshed_at": found.refreshed_at,
        "rows": found.rows,
        "by_subject": found.by_subject,
        "total": found.total,
        "last_week": {
            "from": found.last_week.first,
            "to": found.last_week.last,
            "total": found.last_week.total,
        },
        "targets": {figure: found.target(figure) for figure in TARGETED},
        "load_days": found.books,
        "notes": notes(found),
    }
