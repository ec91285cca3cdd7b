"""`etl selftest`: is nothing lost, whatever happens?"""

import random
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from etl import logs
from etl.cli import FAILED, AsJson, app, print_json
from etl.cli.printing import counting, heading, out, print_rows
from etl.lab import selftest as testing
from etl.lab.selftest.report import SelftestReport

_STYLES = {True: ("proved ", "green"), False: ("WRONG  ", "bold red"), None: ("unknown", "dim")}


@app.command(
    epilog="Examples: [bold]etl selftest[/bold] · [bold]etl selftest --minutes 10 --report SOAK.md[/bold] · "
    "[bold]etl selftest --seed 7[/bold] (the same messages and faults as every time with 7)"
)
def selftest(
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="How long faults are injected.")] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of messages and faults; default: another one each time.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a report, in Markdown.", show_default=False)
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An empty test Redis of yours, with --database-url.", show_default=False),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An empty test database of yours, with --redis-url.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Torment a whole installation on private servers, and prove that nothing was lost and nothing is there twice.

    Producers push known CDRs and events while loaders, listeners, exporter, Redis and Postgres are killed, frozen,
    restarted, cut off, filled up, failed over and set back. Your own servers aren't touched, unless you name test
    instances here: those are cut off, but never harmed, and keep what was loaded. Exits with 1 if anything is wrong;
    then servers' data and logs are kept.
    """
    logs.configure(level="error")
    if report is not None and not report.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {report.parent}", param_hint="--report")
    if (redis_url is None) != (database_url is None):
        raise typer.BadParameter("--redis-url and --database-url go together")
    lent = (redis_url, database_url) if redis_url and database_url else None
    seed = random.randrange(1_000_000) if seed is None else seed  # noqa: S311 (dice)
    if not as_json:
        out.print(f"{minutes:g} minutes of faults on {'your' if lent else 'private'} servers, seed {seed}")
    with counting("tormenting", 100, show=sys.stderr.isatty()) as show:
        found = testing.run(minutes, seed, lambda share: show(int(100 * share)), lent)
    if report is not None:
        report.write_text(found.as_markdown(f"etl selftest --minutes {minutes:g} --report {report}"))
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
    raise typer.Exit(0 if found.ok else FAILED)


def _print(found: SelftestReport) -> None:
    heading("What was done")
    print_rows(("fault", "befell", "times"), [(kind, target, n) for target, kind, n in found.faults_by_kind])
    for what, number in found.produced:
        out.print(f"{number:>10,} {what}")
    heading("What came of it")
    for verdict in found.verdicts:
        mark, style = _STYLES[verdict.ok]
        line = Text(mark, style=style)
        out.print(line.append(f" {verdict.what} ({verdict.found})", style="default"), soft_wrap=True)
    heading("Nothing was lost, and nothing is there twice" if found.ok else "SOMETHING IS WRONG")
    if not found.ok:
        out.print(f"Servers' data and logs are kept in {found.folder}", soft_wrap=True)
    told = f"{found.faults.total():,} faults, {len(found.set_backs):,} of them set-backs of Postgres"
    out.print(f"{told}; the same again: [bold]{found.command}[/bold]", soft_wrap=True)
