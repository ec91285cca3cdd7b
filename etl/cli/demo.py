"""`etl demo`: the whole story in a minute, on private servers."""

import sys
import time
from typing import Annotated

import typer

from etl import logs
from etl.app.threads import stop_on_signals
from etl.cli import app
from etl.cli.printing import RunBooks, advancing, counting, heading, out, print_rows, program
from etl.cli.serve import wall
from etl.lab import demo as playing


@app.command(
    epilog="Examples: [bold]etl demo[/bold] · afterwards [bold]etl demo --psql[/bold] or [bold]etl demo --serve[/bold]"
)
def demo(
    psql: Annotated[bool, typer.Option("--psql", help="Open psql on the data of the last demo.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the data of the last demo in a browser, until Ctrl-C.")
    ] = False,
) -> None:
    """Start a private Postgres and a private Redis, simulate a dialler, load what it says, and show what came of it."""
    logs.configure(level="warning")
    if psql:
        raise typer.Exit(playing.psql([]))
    if serve:
        show = wall()
        with playing.again() as settings:
            host, port = settings.web_address
            out.print(f"http://{host}:{port} has the demo's days, until Ctrl-C")
            show(settings, stop_on_signals())
        return
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
        out.print(
            f"{tally.published.total():,} events about agents and campaigns lie on a fourth, as a listener would have"
            f" heard them on the {playing.DAYS} days"
        )
        listened_until = running.listened()
        out.print("then the real listener came, and heard the dialler start once more")

        heading("etl run: the books of the load")
        books = RunBooks(running.waiting(), show_progress=watched)
        began = time.monotonic()
        with books:
            running.load(books.add)
        books.print(time.monotonic() - began)
        running.rollup()

        for title, query in playing.REPORTS.items():
            heading(f"SQL: {title}")
            print_rows(*running.read(query))
        heading("The audit trail: an agent's day")
        print_rows(*running.read(playing.AGENTS_DAY))
        heading("etl gaps: when nobody listened")
        found = running.gaps(listened_until)
        print_rows(
            ("from (UTC)", "until (UTC)", "reason"),
            [(*(f"{at:%Y-%m-%d %H:%M:%S}" for at in gap[:2]), gap.reason) for gap in found],
        )
        out.print("between the days that were played and the real listener; at any other time of them one was there")
        heading("Dead letters: kept whole, with the reason")
        print_rows(*running.read(playing.DEAD_LETTERS))

        _show_the_lake(running, watched)

    heading("Look further")
    out.print(f"[bold]{program()} demo --psql[/bold] opens psql on these data; then, for example:")
    for query, what in playing.QUERIES.items():
        out.print(f"  {query}", markup=False, soft_wrap=True)
        out.print(f"      {what}")
    out.print(f"[bold]{program()} demo --serve[/bold] shows them in a browser")
    out.print(f"The Parquet files are in {running.settings.export_url}", soft_wrap=True)
    table = (
        "They are an Iceberg table, too" if running.settings.lake_table else "With the extra iceberg they are a table"
    )
    out.print(f"{table}: docs/lake.md has the call of each engine, from pandas to Spark")


def _show_the_lake(running: playing.Demo, watched: bool) -> None:
    heading("etl export: closed days as Parquet")
    with advancing("exporting", None, show=watched) as progress:
        outcomes, differences = running.export(progress)
    print_rows(
        ("dataset", "day", "revision", "rows", "bytes"),
        [(each.dataset, each.day, each.revision, each.rows, each.bytes) for each in outcomes],
    )
    heading("etl verify --deep: every row of the files against every row of Postgres")
    if differences:
        print_rows(("dataset", "day", "what", "expected", "found"), differences)
    else:
        out.print(f"{len(outcomes)} files hold exactly what Postgres holds")
    heading("DuckDB, reading the files")
    out.print(playing.LAKE_QUERY.format(lake=playing.FILES), markup=False)
    print_rows(*running.ask_the_files())
    if (location := running.table()) and (answer := running.ask_the_table(location)):
        heading("Polars, asked the same of the Iceberg table that these files are")
        out.print(f"FROM polars.scan_iceberg('{location}')", markup=False, soft_wrap=True)
        print_rows(*answer)
