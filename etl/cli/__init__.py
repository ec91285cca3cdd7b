"""What the operator types: arguments, printing, exit codes. No logic.

`etl --help` and completion must answer at once, and the libraries of the stores take most of a second to import: so a
command's module, which imports what it runs, is itself imported when the command is called. `COMMANDS` has them all.
"""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from typer.core import TyperCommand, TyperGroup

from etl import __version__
from etl.errors import ConfigurationError, EtlError
from etl.store.pinned import forget_environment

if TYPE_CHECKING:
    from etl.settings import Settings

DONE, FAILED, MISUSED = 0, 1, 2

# By name: the module in this package that has the command, and its line in `etl --help`.
COMMANDS = {
    "run": ("run", "Load CDRs from the configured Redis lists into Postgres, once or for good."),
    "listen": ("listen", "Record the dialler's PubSub events onto the spool in Redis."),
    "gaps": ("gaps", "Print when nobody was proven to listen to PubSub."),
    "status": ("status", "Show what waits, who works on it and how fast, what is dead, what the lake has."),
    "check": ("check", "Look at Redis, Postgres and the export target, and say what to mend, and how."),
    "dead": ("dead", "Dead letters: messages that couldn't be understood or stored; list, replay or discard them."),
    "db": ("db", "The schema in Postgres: upgrade it, or see where it stands."),
    "files": ("files", "Write the files that an installation needs: roles, ACL, units, cron lines, alerts, …"),
    "export": ("lake", "Write closed days to the lake as Parquet."),
    "verify": ("lake", "Read files of the lake back and compare them with the books."),
    "restore": ("lake", "Bring a day's rows from the lake back into Postgres."),
    "prune": ("lake", "Drop old days from Postgres, each after its file was compared with it."),
    "reconcile": ("lake", "Print each day's rows by the ledger, in Postgres and in the lake."),
    "lake": ("table", "The lake's Iceberg tables: bring them up to date, expire, see where they stand."),
    "recall": ("recall", "Load again what Postgres has forgotten, from what Redis keeps of it."),
    "rollup": ("rollup", "Compute the figures of campaigns and agents anew, for the days that changed."),
    "report": ("report", "Report what came of the calls: by campaign, agent, hour or reason."),
    "serve": ("serve", "Show in a browser how today goes: agents, campaigns, what waits; read-only."),
    "names": ("names", "Names for people: what agents, campaigns and numbers are called."),
    "forget": ("forget", "Erase a person's number and contact references for good, from Postgres and the lake."),
    "demo": ("demo", "See the whole story in a minute, on private servers."),
    "simulate": ("simulate", "Push simulated CDRs onto the configured Redis lists, as a dialler would."),
    "selftest": ("selftest", "Torment a whole installation on private servers, and prove that nothing was lost."),
}


class _CommandsOnDemand(TyperGroup):
    """Lists its commands by `COMMANDS`, and imports the module of the one that is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        listed = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}
        self.commands = {**listed, **self.commands}

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:  # type: ignore[override]
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            command = typer.main.get_group(registered([name])).commands[name]
        return name, command, rest


app = typer.Typer(
    cls=_CommandsOnDemand,
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


def registered(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The program, with these commands imported: each module registers its own."""
    for name in names:
        import_module(f"{__name__}.{COMMANDS[name][0]}")
    return app


def configured(config: Path | None) -> "Settings":
    """Settings from that file, if any, and from the environment. Raises `ConfigurationError`."""
    from etl import settings  # noqa: PLC0415 (the help needs none)

    return settings.load(config, os.environ)


def a_day(text: str) -> date:
    """As a parser of options."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day like 2026-11-22") from None


def print_json(result: object) -> None:
    typer.echo(to_json(result))


def to_json(result: object) -> str:
    """One object on one line. Times are in UTC, decimals numbers, dataclasses objects."""
    return json.dumps(result, default=_plain)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | UUID):
        return str(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(value)


def main() -> None:
    """The console script. An error is one line on stderr; a traceback is a bug."""
    forget_environment(os.environ)
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:  # an unknown option or the like
        if message := error.format_message():  # none if the help was printed instead
            _complain(ConfigurationError("ETL-001", f"{message} (try --help)"))
        sys.exit(MISUSED)
    except ConfigurationError as error:
        _complain(error)
        sys.exit(MISUSED)
    except EtlError as error:
        _complain(error)
        sys.exit(FAILED)
    except typer.Abort:
        sys.exit(FAILED)
    except OSError as error:
        # A full disk or a closed pipe under our output. Keep Python from complaining once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _complain(EtlError("ETL-002", str(error)))
        sys.exit(FAILED)


def _complain(error: EtlError) -> None:
    for line in str(error).splitlines():
        typer.echo(f"etl: {line}", err=True)
