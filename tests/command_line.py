"""Command lines in the test's own process: whether one that a file in ops/ has would be understood, without doing what
it says; and what the program answers to one, where a process of its own would add nothing but its second."""

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest import mock

import pytest
import typer.main

import etl.cli

PROGRAM = "/opt/etl/bin/etl"


def answered(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """For help and for what is refused before anything is done: whoever does more sets up logging and signals, which
    are the whole process's."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "argv", ["etl", *arguments]),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        pytest.raises(SystemExit) as ended,
    ):
        etl.cli.main()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())


def understood(arguments: Sequence[str]) -> dict[str, Any]:
    """The options as the command itself would get them. Raises what the program would print."""
    command: Any = typer.main.get_command(etl.cli.registered())
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
