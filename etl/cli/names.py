"""`etl names`: what agents, campaigns and numbers are called."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from etl.app.database import engine_of
from etl.cli import AsJson, Config, app, configured, print_json
from etl.errors import ConfigurationError
from etl.reporting.names import keep, read

names = typer.Typer(
    help="Names for people: what agents, campaigns and numbers are called.",
    epilog="Example: [bold]etl names import names.csv[/bold]",
    no_args_is_help=True,
)
app.add_typer(names, name="names")


@names.command("import", epilog="Example: [bold]etl names import names.csv[/bold]")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV in UTF-8; its first line is kind,reference,name,group.")
    ],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Enter the names of a file, all or none; reports and the wall show them beside the references from then on.

    kind is agent, campaign or number; reference is what the reports show: an extension, a campaign's reference, a
    client's number. A name that is there already is replaced, and what isn't in the file stays. Agents of the same name
    and group are one person with several extensions. It takes the tables' owner, etl_owner.
    """
    settings = configured(config)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError("ETL-945", f"{file} can't be read: {error.strerror}") from None
    given = read(content)
    with engine_of(settings) as engine:
        kept = keep(engine, given)
    if as_json:
        print_json(asdict(kept))
    else:
        typer.echo(f"{len(given):,} names: {kept.new:,} new, {kept.changed:,} changed, {kept.unchanged:,} as they were")
