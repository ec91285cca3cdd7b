"""`etl lake`: the lake's Iceberg tables, one per dataset, which every engine reads."""

import sys
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from etl import logs
from etl.app.lake import open_lake
from etl.cli import FAILED, AsJson, Config, app, configured, print_json
from etl.cli.lake import MIB, Day
from etl.cli.printing import out, print_rows
from etl.jobs import publish as tables

lake = typer.Typer(
    help="The lake's Iceberg tables: bring them up to date, let their history end, see where they stand.",
    epilog="Example: [bold]ETL_LAKE_TABLE=iceberg etl lake publish[/bold]",
    no_args_is_help=True,
)
app.add_typer(lake, name="lake")


@lake.command(
    epilog="Examples: [bold]etl lake publish[/bold] · [bold]etl lake publish --day 2026-11-21[/bold] ·"
    " [bold]etl lake publish --rebase[/bold] (after the lake has moved)"
)
def publish(
    config: Config = None,
    day: Day = None,
    rebase: Annotated[
        bool,
        typer.Option("--rebase", help="Begin the tables anew, where the lake is now; their history ends."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Have the tables hold the current revision of each day. `etl export` does it by itself: this is for days that were
    exported before there was a table, or by a release that knew of none. Safe to run again."""
    if day and rebase:
        raise typer.BadParameter("either --day or --rebase")
    logs.configure(level="warning" if sys.stderr.isatty() else "info")
    with open_lake(configured(config), tables=True) as opened:
        done = tables.publish(opened, logs.get(), day, rebase)
    if as_json:
        print_json({"published": [asdict(each) for each in done]})
    else:
        for each in done:
            out.print(f"{each.dataset}: {each.days:,} new in the table")
            for why in each.failed:
                out.print(f"failed: {why}", soft_wrap=True)
    raise typer.Exit(FAILED if any(each.failed for each in done) else 0)


@lake.command(epilog="Example: [bold]etl lake expire[/bold]")
def expire(config: Config = None, as_json: AsJson = False) -> None:
    """Let snapshots go that were superseded more than ETL_LAKE_HISTORY_DAYS ago, and the metadata files that none
    needs. `etl export` does it by itself, and then lets revisions go that no snapshot has."""
    logs.configure(level="warning" if sys.stderr.isatty() else "info")
    settings = configured(config)
    with open_lake(settings, tables=True) as opened:
        tables.check_books(opened)
        done = tables.expire(opened, timedelta(days=settings.lake_history_days), logs.get())
    if as_json:
        print_json({"expired": [asdict(each) for each in done]})
        return
    for each in done:
        out.print(f"{each.dataset}: {each.snapshots:,} snapshots and {each.files:,} metadata files went")


@lake.command(epilog="Example: [bold]etl lake status --json[/bold]")
def status(config: Config = None, as_json: AsJson = False) -> None:
    """Print where each table stands, and which days of it aren't as the books say. Exit code 1 if any."""
    with open_lake(configured(config), tables=True) as opened:
        found = tables.status(opened)
    if as_json:
        print_json({"tables": [asdict(each) for each in found]})
    elif not found:
        out.print("there is no table yet: `etl export` or `etl lake publish` makes it")
    else:
        columns = ("dataset", "days", "behind", "snapshots", "since (UTC)", "metadata MiB", "unknown files")
        print_rows(
            columns,
            [
                (
                    each.dataset,
                    each.days,
                    len(each.behind),
                    each.snapshots,
                    f"{each.since:%Y-%m-%d %H:%M}" if each.since else "",
                    f"{each.bytes / MIB:.1f}",
                    len(each.unknown),
                )
                for each in found
            ],
        )
        for each in found:
            out.print(f"{each.dataset}: {each.location}", soft_wrap=True)
            for day in each.behind:
                out.print(f"{each.dataset} {day}: not as the books say: `etl lake publish --day {day}`", soft_wrap=True)
    raise typer.Exit(FAILED if any(each.behind for each in found) else 0)
