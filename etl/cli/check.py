"""`etl check`: is everything as the loader needs it?"""

import typer
from rich.text import Text

from etl.app import check as preflight
from etl.cli import FAILED, AsJson, Config, app, configured, print_json
from etl.cli.printing import out

_STYLES = {"fine": "green", "warning": "yellow", "wrong": "bold red", "unknown": "dim"}


@app.command(epilog="Example: [bold]etl check && etl run --follow[/bold]")
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Look at Redis, Postgres and the export target, and say what must be mended, and how. Loads nothing.

    Exits with 1 if anything is wrong. A warning is for you to judge; unknown is what this user may not ask.
    """
    found = []
    for finding in preflight.check(configured(config)):
        found.append(finding)
        if not as_json:
            code = f"{finding.code}: " if finding.code else ""
            line = Text(f"{finding.verdict:<8}", style=_STYLES[finding.verdict])
            line.append(f" {finding.about}: {code}{finding.says}", style="default")
            line.append(f" → {finding.advice}" if finding.advice else "", style="default")
            out.print(line, soft_wrap=True)
    wrong = sum(finding.verdict == "wrong" for finding in found)
    if as_json:
        print_json({"wrong": wrong, "findings": found})
    raise typer.Exit(FAILED if wrong else 0)
