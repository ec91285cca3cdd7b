"""`make man`: dist/etl.1, the manual page, made of what `etl --help` and the help of each command say."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import etl
from etl.cli import registered

DESCRIPTION = "the durable archive of a call centre's dialler"

_MARKUP = re.compile(r"\[/?bold\]")


def page() -> str:
    """In troff's man macros."""
    group: Any = typer.main.get_command(registered())
    context = group.make_context("etl", [], resilient_parsing=True)
    lines = [
        f'.TH ETL 1 "" "etl {etl.__version__}"',
        ".SH NAME",
        f"etl \\- {_text(DESCRIPTION)}",
        ".SH SYNOPSIS",
        ".B etl",
        "[OPTIONS] COMMAND [ARGS]...",
        ".SH DESCRIPTION",
        *_paragraphs(group.help),
        ".SH OPTIONS",
        *_options(group, context),
        ".SH COMMANDS",
        *(line for name, command in sorted(group.commands.items()) for line in _command(name, command, context)),
        ".SH NOTES",
        *_paragraphs(group.epilog),
    ]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any, parent: Any) -> Iterator[str]:
    if command.hidden:
        return
    context = command.context_class(command, info_name=name, parent=parent)
    if hasattr(command, "commands"):
        for each, inner in sorted(command.commands.items()):
            yield from _command(each, inner, context)
        return
    yield ".SS " + _text(" ".join([context.command_path, *command.collect_usage_pieces(context)]))
    yield from _paragraphs(command.help)
    yield from _options(command, context)
    yield from _paragraphs(command.epilog)


def _options(command: Any, context: Any) -> Iterator[str]:
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            yield ".TP"
            yield f"\\fB{_text(record[0])}\\fR"
            yield _text(record[1]) or "\\&"


def _paragraphs(text: str | None) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text or ""):
        if paragraph.strip():
            yield ".PP"
            yield _text(paragraph)


def _text(text: str) -> str:
    """One line, without what troff or Rich would take for markup."""
    line = _MARKUP.sub("", " ".join(text.split())).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{line}" if line.startswith((".", "'")) else line


def main() -> None:
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page())


if __name__ == "__main__":
    main()
