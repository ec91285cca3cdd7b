"""`etl forget`: a person's number and contact references, out of Postgres and out of the lake."""

import sys
from typing import Annotated

import typer

from etl import logs
from etl.app.forget import forget_again, open_forgetting
from etl.cli import FAILED, AsJson, Config, app, configured, print_json
from etl.cli.printing import advancing, err, out, print_rows
from etl.jobs.forget import Found


@app.command(
    epilog="Examples: [bold]etl forget --number 0741484437 --dry-run[/bold] · [bold]etl forget --contact M0042[/bold]"
    " · [bold]etl forget --again[/bold]"
)
def forget(
    number: Annotated[
        str | None, typer.Option(help="The person's number, exactly as it's stored.", show_default=False)
    ] = None,
    contact: Annotated[
        str | None, typer.Option(help="Their contact reference, exactly as it's stored.", show_default=False)
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Another spelling of the same, such as +44… of 0…; may be repeated.", show_default=False),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Whoever came back as Postgres was set back: by the receipts in the lake."),
    ] = False,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask whether it's meant.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person for good: in Postgres and in every file of the lake a keyed hash takes the place of their number,
    and of the contact references beside it; or the other way round. Needs ETL_FORGET_KEY, and the rights of the tables'
    owner. What still lies in Redis is erased on arrival, by loaders that have the key. Safe to run again, and after a
    crash to be run again."""
    if (number is not None) + (contact is not None) + again != 1:
        raise typer.BadParameter("either --number or --contact or --again")
    if again and (dry_run or also):
        raise typer.BadParameter("--again stands alone: neither --dry-run nor --also")
    if again:
        _again(config, as_json)
    if not (number or contact) or not all(also or ["-"]):
        raise typer.BadParameter("must not be empty", param_hint="--number / --contact / --also")
    logs.configure(level="warning")
    with open_forgetting(configured(config), number, contact, also or ()) as person:
        if not (dry_run or yes):
            typer.confirm("This can't be undone. Forget this person?", abort=True, err=True)
        rows = sum(books.rows for _, books in person.days)
        with advancing("looking", rows, sys.stderr.isatty() and not as_json) as progress:
            receipt, found = (None, person.count(progress)) if dry_run else person.run(progress)
    _print(person.person.hash, receipt.id if receipt else None, found, as_json)
    for failure in found.failed:
        err.print(f"etl: {failure}", markup=False, soft_wrap=True)
    raise typer.Exit(FAILED if found.failed else 0)


def _again(config: Config, as_json: bool) -> None:
    logs.configure(level="warning")
    found = forget_again(configured(config))
    failed = [failure for each in found for failure in each.failed]
    if as_json:
        print_json({"receipts": len(found), "failed": failed})
    else:
        out.print(f"{len(found):,} erasures that these books didn't know, or not as completed, were made again")
    for failure in failed:
        err.print(f"etl: {failure}", markup=False, soft_wrap=True)
    raise typer.Exit(FAILED if failed else 0)


def _print(hashed: str, receipt: int | None, found: Found, as_json: bool) -> None:
    if as_json:
        days = [each._asdict() for each in found.days]
        result = {"dry_run": receipt is None, "hash": hashed, "receipt": receipt, "days": days}
        print_json({**result, **found.undated, "failed": found.failed})
        return
    rows: list[tuple[object, ...]] = [*found.days, *((name, None, n, None) for name, n in found.undated.items() if n)]
    if rows:
        print_rows(("table", "day", "rows in Postgres", "rows in the lake"), rows)
    if receipt is None:
        out.print(f"{'this' if rows else 'nothing'} would be rewritten")
    elif found.failed:
        out.print(f"not completed: run it again; receipt {receipt}, {hashed}")
    else:
        out.print(f"forgotten; receipt {receipt}, {hashed}")
