"""What the operator types: arguments, printing, exit codes. No logic."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from etl import __version__
from etl.errors import ConfigurationError, EtlError

DONE, FAILED, MISUSED = 0, 1, 2

app = typer.Typer(
    help="The durable archive of a call centre's dialler: CDRs from Redis lists into Postgres, none lost, none twice.",
    epilog="Example: [bold]etl db upgrade && etl run[/bold]\n\n"
    "Settings come from the environment (ETL_REDIS_URL, ETL_DATABASE_URL, …) and a TOML file; see docs/settings.md. "
    "Exit codes: 0 done, 1 failed, 2 usage or configuration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings; default: $ETL_CONFIG.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"etl {__version__}")
        raise typer.Exit


@app.callback()
def etl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def registered() -> typer.Typer:
    """The program with all its commands."""
    # Each registers its own.
    from etl.cli import (  # noqa: F401
        check,
        db,
        dead,
        demo,
        files,
        forget,
        lake,
        listen,
        report,
        rollup,
        run,
        selftest,
        simulate,
        status,
    )

    return app


def main() -> None:
    """The console script. An error is one line on stderr; a traceback is a bug."""
    try:
        sys.exit(registered()(standalone_mode=False))
    except typer.TyperException as error:  # an unknown option or the like
        if message := error.format_message():  # none if the help was printed instead
            _say(ConfigurationError("ETL-001", f"{message} (try --help)"))
        sys.exit(MISUSED)
    except ConfigurationError as error:
        _say(error)
        sys.exit(MISUSED)
    except EtlError as error:
        _say(error)
        sys.exit(FAILED)
    except typer.Abort:
        sys.exit(FAILED)
    except OSError as error:
        # A full disk or a closed pipe under our output. Keep Python from complaining once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say(EtlError("ETL-002", str(error)))
        sys.exit(FAILED)


def _say(error: EtlError) -> None:
    for line in str(error).splitlines():
        typer.echo(f"etl: {line}", err=True)
