"""`etl recall`: what Postgres has forgotten, from what Redis keeps of it."""

from typing import Annotated

import typer

from etl.app import recall as window
from etl.cli import FAILED, AsJson, Config, app, configured, print_json
from etl.cli.printing import err, out, print_rows
from etl.errors import ConfigurationError
from etl.jobs.recall import Looked
from etl.text import printable, size


@app.command(
    epilog="Examples: [bold]etl recall --dry-run[/bold] · [bold]etl recall[/bold] · [bold]etl recall --drop[/bold]"
)
def recall(
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what Postgres has forgotten.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Delete what is kept, to free Redis' memory: nothing can be recalled then.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put acknowledged claims that Postgres has forgotten back, to be loaded again: after a fail-over to a standby that
    lagged, or a backup that was restored. `etl run` does it by itself, except into a database that never knew the
    list."""
    if drop:
        if dry_run:
            raise typer.BadParameter("goes without --dry-run", param_hint="--drop")
        _drop(config, as_json)
        return
    broken: dict[str, str] = {}

    def note(key: str, error: ConfigurationError) -> None:
        broken[key] = str(error)

    found = [*window.look(configured(config), dry_run, note)]
    if as_json:
        print_json({"lists": found, "broken": broken})
    else:
        print_rows(
            ("list", "kept claims", "bytes", "forgotten", "recalled", "lost"), [_row(each, dry_run) for each in found]
        )
    for key, error in broken.items():
        err.print(f"{printable(key)}: {error}", markup=False)
    if broken:
        raise typer.Exit(FAILED)


def _row(looked: Looked, dry_run: bool) -> tuple[str, ...]:
    back = looked.set_back
    fate = ("", "") if dry_run else (str(back.recalled_claims), str(back.lost_claims)) if back else ("0", "0")
    return (
        printable(looked.source_key),
        f"{looked.kept_claims:,}",
        size(looked.kept_bytes),
        f"{looked.forgotten_claims:,}",
        *fate,
    )


def _drop(config: Config, as_json: bool) -> None:
    freed = window.drop(configured(config))
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        out.print(f"freed about {size(freed)} of Redis' memory")
