"""`etl run`: load what is waiting and exit, or keep loading."""

import sys
import time
from typing import Annotated

import typer

from etl import logs
from etl.app import database, load, sources, threads
from etl.cli import AsJson, Config, app, configured, print_json
from etl.cli.printing import RunBooks
from etl.errors import EtlError
from etl.text import printable


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

    Without --follow: drains every list, adopts what crashed runs left behind, prints the books and exits; with 1 if a
    list couldn't be loaded, whatever became of the others. On a terminal a bar shows meanwhile how far it is.
    """
    settings = configured(config)
    if follow or workers > 1:
        from etl import supervisor  # noqa: PLC0415 (the HTTP server that comes with it is nothing for a run from cron)
    if follow:
        logs.configure()
        supervisor.follow(settings, workers, threads.stop_on_signals(), listen, schedule)
        return

    logs.configure(level="warning")
    database.check(settings)
    books = RunBooks(sources.waiting(settings), show_progress=sys.stderr.isatty() and not as_json)
    stop = threads.stop_on_signals()  # until here nothing is in hand: a signal may end the process at once
    began = time.monotonic()
    with books:
        logs.configure(level="warning")  # anew, since the bar has put itself before stderr: a line goes above it
        if workers > 1:
            supervisor.drain(settings, workers, stop, books.add, books.add_broken)
        else:
            load.drain(settings, stop, books.add, books.add_broken)
    seconds = time.monotonic() - began
    left = None if stop.is_set() else sources.claimed_elsewhere(settings)  # Redis may be what we didn't wait for
    if as_json:
        print_json(books.as_json(seconds, left))
    else:
        books.print(seconds, left)
    if books.broken:
        what = "; ".join(f"{printable(key)}: {printable(str(error))}" for key, error in books.broken.items())
        raise EtlError("ETL-407", f"not every list could be loaded: {what}")
