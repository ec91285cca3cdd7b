"""`etl db`: the schema in Postgres."""

import typer

from etl.app import database
from etl.cli import AsJson, Config, app, configured, print_json

db = typer.Typer(
    help="The schema in Postgres: upgrade it, or see where it stands.",
    epilog="Example: [bold]etl db upgrade[/bold]",
    no_args_is_help=True,
)
app.add_typer(db, name="db")


@db.command(epilog="Example: [bold]etl db upgrade[/bold]")
def upgrade(config: Config = None) -> None:
    """Bring the schema to the revision that this version of etl needs. Safe to run again."""
    before, after = database.upgrade(configured(config))
    typer.echo(
        f"schema is at {after} already" if before == after else f"schema upgraded: {before or 'empty'} → {after}"
    )


@db.command(epilog="Example: [bold]etl db current --json[/bold]")
def current(config: Config = None, as_json: AsJson = False) -> None:
    """Print the schema's revision, and the one that this version of etl needs."""
    has, needs = database.revisions(configured(config))
    if as_json:
        print_json({"current": has, "needed": needs})
    else:
        typer.echo(f"current: {has or 'empty'}\nneeded:  {needs}")


@db.command(epilog="Example: [bold]etl db check && etl run[/bold]")
def check(config: Config = None) -> None:
    """Exit with 0 if the schema is what this version of etl needs, else say what to do and exit with 2."""
    database.check(configured(config))
    typer.echo("schema is up to date")
