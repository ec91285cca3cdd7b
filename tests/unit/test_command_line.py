"""What comes with the command line: completion for the shell, and the manual page that is made of the help."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from etl.cli import COMMANDS, registered
from tests import manual


def commands(group: Any, path: str = "etl") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_the_manual_has_every_command_and_option() -> None:
    page = manual.page().replace("\\-", "-")

    everything = list(commands(typer.main.get_command(registered())))
    assert len(everything) > 20
    for path, command in everything:
        _, _, section = page.partition(f".SS {path} ")
        section = section.partition(".SS ")[0]
        assert section, path
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if option not in section] == [], path
    assert "[bold]" not in page


def test_each_listed_command_is_one_that_its_module_registers() -> None:
    assert list(COMMANDS) == list(typer.main.get_group(registered()).commands)
    for name, (module, _) in COMMANDS.items():
        ours = [each.name or each.callback.__name__ for each in registered().registered_commands if each.callback]
        assert name in [*ours, *(each.name for each in registered().registered_groups)], (name, module)


@pytest.mark.parametrize("words", ["etl --help", "etl --version", "etl no-such-command", "TAB etl re"])
def test_what_runs_no_command_imports_no_library_of_a_store(words: str) -> None:
    """The shell, or somebody at it, waits for each of these."""
    completing = {"_ETL_COMPLETE": "complete_bash", "COMP_WORDS": words.removeprefix("TAB "), "COMP_CWORD": "1"}
    program = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); import etl.cli; "
    ended = subprocess.run(
        [sys.executable, "-c", program + "etl.cli.main()", *words.split()[1:]],
        env=os.environ | (completing if words.startswith("TAB") else {}),
        capture_output=True,
        text=True,
        check=False,
    )

    imported = set(ended.stderr.split())
    assert "etl.cli" in imported
    assert imported & {"sqlalchemy", "redis", "pyarrow", "psycopg", "structlog", "alembic", "etl.settings"} == set()


@pytest.mark.skipif(not shutil.which("groff"), reason="groff isn't installed")
def test_the_manual_is_understood_by_groff_without_a_warning() -> None:
    command = ["groff", "-man", "-ww", "-Tutf8", "-K", "utf8"]
    shown = subprocess.run(command, input=manual.page(), capture_output=True, text=True, check=True)

    assert shown.stderr == ""
    assert "etl run" in shown.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [("etl re", {"recall", "restore", "reconcile", "report"}), ("etl db ", {"upgrade", "current", "check"})],
)
def test_the_shell_completes_commands(words: str, completed: set[str]) -> None:
    place = str(len(words.split(" ")) - 1)
    asked = {**os.environ, "_ETL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
    program = Path(sys.executable).with_name("etl")
    answer = subprocess.run([program], env=asked, capture_output=True, text=True, check=True)

    assert (set(answer.stdout.split()), answer.stderr) == (completed, "")


def test_completion_is_installed_for_the_users_shell_alone(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("etl")
    environment = {**os.environ, "HOME": str(tmp_path)}
    # Which shell that is it finds out from who called it: in a detached run of tests there may be none.
    typed = ["bash", "-c", f"'{program}' --install-completion; exit $?"]
    subprocess.run(typed, env=environment, check=True, stdout=subprocess.DEVNULL)

    assert ".bash_completions/etl.sh" in (tmp_path / ".bashrc").read_text()
    assert "_ETL_COMPLETE" in (tmp_path / ".bash_completions/etl.sh").read_text()
