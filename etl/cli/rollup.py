"""`etl rollup`: the kept figures behind the reports."""

import sys
from typing import Annotated

import typer

from etl.app import database
from etl.cli import AsJson, Config, app, configured, print_json
from etl.cli.printing import advancing, out


@app.command(epilog="Examples: [bold]etl rollup[/bold] · [bold]etl rollup --all --json[/bold]")
def rollup(
    config: Config = None,
    everything: Annotated[bool, typer.Option("--all", help="Every day that Postgres has, changed or not.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the figures of campaigns and agents anew, for the business days that changed since the last time. Days
    that are over get an index of contacts."""
    with advancing("computing figures", None, sys.stderr.isatty() and not as_json) as progress:
        days = database.rollup(configured(config), everything, lambda _: progress(1))
    if as_json:
        print_json({"days": days})
    elif days:
        out.print(f"figures computed for {len(days):,} business days: {days[0]} to {days[-1]}")
    else:
        out.print("nothing to do")
