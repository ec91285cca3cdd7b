"""`etl rollup`: the kept figures behind the reports."""

import json
import os
import sys
from datetime import date
from typing import Annotated

import typer

from etl.cli import AsJson, Config, app


@app.command(epilog="Examples: [bold]etl rollup[/bold] · [bold]etl rollup --all --json[/bold]")
def rollup(
    config: Config = None,
    everything: Annotated[bool, typer.Option("--all", help="Every day that Postgres has, changed or not.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the figures of campaigns and agents anew, for the business days that changed since the last time. Days
    that are over get an index of contacts."""
    from etl import settings
    from etl.app import stores
    from etl.cli.printing import counting, out

    done = 0
    with counting("computing figures", None, sys.stderr.isatty() and not as_json) as show:

        def told(_: date) -> None:
            nonlocal done
            done += 1
            show(done)

        days = stores.rollup(settings.load(config, os.environ), everything, told)
    if as_json:
        typer.echo(json.dumps({"days": [str(day) for day in days]}))
    elif days:
        out.print(f"figures computed for {len(days):,} business days: {days[0]} to {days[-1]}")
    else:
        out.print("nothing to do")
