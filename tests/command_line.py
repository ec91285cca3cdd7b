"""Whether a command line that a file in ops/ has would be understood, without doing what it says."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

import typer.main

import etl.cli
from etl.cli import check, db, dead, files, forget, lake, listen, report, rollup, run, status  # noqa: F401 (they register)

PROGRAM = "/opt/etl/bin/etl"


def understood(arguments: Sequence[str]) -> dict[str, Any]:
    """The options as the command itself would get them. Raises what the program would print."""
    command: Any = typer.main.get_command(etl.cli.app)
    context, rest = None, list(arguments)
    while True:
        context = command.make_context(command.name, rest, parent=context)
        if not hasattr(command, "resolve_command"):
            return dict(context.params)
        _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


def in_shell(line: str) -> list[str]:
    """The arguments of the one etl in a line of shell, dates filled in."""
    words = shlex.split(re.sub(r'"?\$\(date [^)]*\)"?', "2026-11-19", line).replace("|", " | "))
    after = words[words.index(PROGRAM if PROGRAM in words else "etl") + 1 :]
    return after[: after.index("|")] if "|" in after else after
