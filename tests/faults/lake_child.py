"""As `child.py`, for the steps of the lake: real `etl` processes that are killed at one of them.

There are many steps, and most of a short life goes into importing: so one program imports, and forks a process for each
line that it reads, before it has any threads or connections. It answers with the process's exit code.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import etl.app  # noqa: F401  (what every process imports)
from etl import cli
from etl.cli import forget, lake  # noqa: F401
from etl.lake import export, restore, target
from etl.lake.target import Target
from etl.store import forget as forgetting
from etl.store import load_back
from etl.store.days import Day
from tests.faults.child import Mishap

BRING_BACK = ("staging_half_filled", "staging_filled", "amid_load_back", "before_load_back_commits", "after_load_back")
EXPORT = (
    "draft_half_written",
    "before_enter",
    "before_publish",
    "after_publish",
    "manifest_half_written",
    "before_confirm",
    "after_confirm",
)
PRUNE = ("before_drop", "before_drop_commits", "after_drop")
FORGET = ("before_erase_commits", "after_erase", "before_complete_commits")


def lay(mishap: Mishap) -> None:
    def wrap(owner: Any, name: str, before: str = "", after: str = "", within: str = "") -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any) -> Any:
            mishap.arrived_at(before)
            with before_each_commit(lambda: mishap.arrived_at(within)):
                result = original(*arguments)
            mishap.arrived_at(after)
            return result

        setattr(owner, name, wrapped)

    def sync(path: Path, original: Callable[[Path], None] = target._sync) -> None:
        if path.name.endswith("_manifest.json.tmp"):
            mishap.arrived_at("manifest_half_written")
        original(path)

    def write(*arguments: Any, original: Any = export.write, **more: Any) -> Any:
        return original(*arguments, **more | {"told": lambda _: mishap.arrived_at("draft_half_written")})

    def bring(*arguments: Any, original: Any = restore.bring) -> Any:
        return original(*arguments[:-1], lambda _: mishap.arrived_at("staging_half_filled"))

    export.write, target._sync = write, sync
    restore.bring = bring  # type: ignore[assignment]
    wrap(Day, "enter", before="before_enter")
    wrap(Target, "publish", before="before_publish", after="after_publish")
    wrap(Day, "confirm", before="before_confirm", after="after_confirm")
    wrap(load_back, "_insert_into", before="amid_load_back")
    wrap(Day, "load_back", before="staging_filled", within="before_load_back_commits", after="after_load_back")
    wrap(Day, "drop", before="before_drop", within="before_drop_commits", after="after_drop")
    wrap(forgetting, "erase", within="before_erase_commits", after="after_erase")
    wrap(forgetting, "complete", within="before_complete_commits")


@contextmanager
def before_each_commit(call: Callable[[], None]) -> Iterator[None]:
    def committing(_: sa.Connection) -> None:
        call()

    sa.event.listen(sa.Engine, "commit", committing)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "commit", committing)


def run(step: str, arguments: list[str], environment: dict[str, str], log: str) -> None:
    """As a program of its own; never returns."""
    with open(log, "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    lay(Mishap(f"kill:{step}", (*BRING_BACK, *EXPORT, *PRUNE, *FORGET)))
    sys.argv = ["etl", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
