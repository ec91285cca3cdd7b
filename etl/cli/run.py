"""`etl run`: load what is waiting and exit, or keep loading."""

import json
import os
import sys
import time
from typing import Annotated

import typer

from etl.cli import AsJson, Config, app


@app.command(
    epilog="Examples: [bold]etl run[/bold] (from cron) · [bold]etl run --json[/bold] · "
    "[bold]etl run --follow --workers 2[/bold] (as a service)"
)
def run(
    config: Config = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep loading until SIGTERM or Ctrl-C.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Loader processes.")] = 1,
    listen: Annotated[
        bool, typer.Option("--listen/--no-listen", help="With --follow: record PubSub events too.")
    ] = True,
    schedule: Annotated[
        bool,
        typer.Option("--schedule/--no-schedule", help="With --follow: export nightly, and what else the clock says."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Load CDRs from the configured Redis lists into Postgres.

    Without --follow: drains every list, adopts what crashed runs left behind, prints the books and exits. On a terminal
    a bar shows meanwhile how far it is.
    """
    from etl import logs, settings, supervisor
    from etl.app import load, sources, stores, threads
    from etl.cli.printing import Ledger

    configured = settings.load(config, os.environ)
    stop = threads.stop_on_signals()
    if follow:
        logs.configure()
        supervisor.follow(configured, workers, stop, listen, schedule)
        return

    logs.configure(level="warning")
    stores.check(configured)
    ledger = Ledger(sources.waiting(configured), show_progress=sys.stderr.isatty() and not as_json)
    began = time.monotonic()
    with ledger:
        logs.configure(level="warning")  # anew, since the bar has put itself before stderr: a line goes above it
        if workers > 1:
            supervisor.drain(configured, workers, stop, ledger.add)
        else:
            load.drain(configured, stop, ledger.add)
    seconds = time.monotonic() - began
    left = sources.claimed_elsewhere(configured)
    if as_json:
        typer.echo(json.dumps(ledger.as_json(seconds, left)))
    else:
        ledger.print(seconds, left)
