"""`etl demo`: the whole story in a minute, on private servers."""

import sys
import time
from typing import Annotated

import typer

from etl.cli import app


@app.command(epilog="Examples: [bold]etl demo[/bold] · afterwards [bold]etl demo --psql[/bold]")
def demo(
    psql: Annotated[bool, typer.Option("--psql", help="Open psql on the data of the last demo.")] = False,
) -> None:
    """Start a private Postgres and a private Redis, simulate a dialler, load what it says, and show what came of it."""
    from etl import logs
    from etl.cli.printing import Ledger, counting, heading, out, print_rows, program
    from etl.devtools import demo as playing

    logs.configure(level="warning")
    if psql:
        raise typer.Exit(playing.psql([]))
    watched = sys.stderr.isatty()

    out.print("starting a private Postgres and a private Redis, and making the schema")
    with playing.fresh() as running:
        heading("A dialler speaks")
        with counting("pushing", None, show=watched) as progress:
            tally = running.play(progress)
        out.print(
            f"{tally.messages:,} messages about {tally.calls:,} calls lie on three Redis lists: two dialects, "
            f"{tally.duplicates:,} sent twice, {tally.events:,} that are no CDR, {sum(tally.broken.values()):,} broken"
        )

        heading("etl run: the books of the load")
        ledger = Ledger(running.waiting(), show_progress=watched)
        began = time.monotonic()
        with ledger:
            running.load(ledger.add)
        ledger.print(time.monotonic() - began)

        for title, query in playing.REPORTS.items():
            heading(f"SQL: {title}")
            print_rows(*running.read(query))
        heading("Dead letters: kept whole, with the reason")
        print_rows(*running.read(playing.DEAD_LETTERS))

    heading("Look further")
    out.print(f"[bold]{program()} demo --psql[/bold] opens psql on these data; then, for example:")
    for query, what in playing.QUERIES.items():
        out.print(f"  {query}", markup=False, soft_wrap=True)
        out.print(f"      {what}")
