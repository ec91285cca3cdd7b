"""`etl files`: what an installation needs beside the program."""

from pathlib import Path
from typing import Annotated

import typer

from etl.app import shipped
from etl.cli import AsJson, app, print_json


@app.command(epilog="Example: [bold]etl files etl-files && psql -f etl-files/ops/postgres/roles.sql[/bold]")
def files(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write the files that an installation needs: roles, ACL, units, cron lines, compose, alerts, constraints.

    They are those of this release, laid out as the documents name them. Overwrites nothing: the folder mustn't exist.
    """
    written = shipped.write(folder)
    if as_json:
        print_json({"folder": str(folder), "files": [str(path) for path in written]})
        return
    for path in written:
        typer.echo(folder / path)
