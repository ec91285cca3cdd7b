"""As `child.py`, for the steps of the lake: real `etl` processes that are killed at one of them.

There are many steps, and most of a short life goes into importing: so one program imports, and forks a process for each
line that it reads, before it has any threads or connections. It answers with the process's exit code.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import sqlalchemy as sa

import etl.app  # noqa: F401  (what every process imports)
from etl.cli import forget, lake  # noqa: F401
from etl.jobs.tables import Tables
from etl.lake import export, layout, restore
from etl.lake.target import Target
from etl.store import forget as forgetting
from etl.store import load_back
from etl.store.days import Day
from tests.faults.child import Mishap
from tests.faults.program import become_etl

BRING_BACK = ("staging_half_filled", "staging_filled", "amid_load_back", "before_load_back_commits", "after_load_back")
EXPORT = (
    "draft_entered",
    "draft_half_written",
    "before_enter",
    "after_enter",
    "before_publish",
    "after_publish",
    "manifest_half_written",
    "before_confirm",
    "after_confirm",
    "before_copy_for_readers",
    "after_copy_for_readers",
)
SWEEP = ("before_manifest_removed", "before_revision_removed", "after_revision_removed")
TABLE = (
    *(f"{when}_{what}" for what in ("manifest", "list", "metadata") for when in ("before", "half", "after")),
    "before_pointer_commits",
    "after_confirm",
)
TABLE_SWEEP = ("before_expiry_commits", "after_expiry", "before_table_file_removed", "after_table_file_removed")
PRUNE = ("before_drop", "before_drop_commits", "after_drop")
FORGET = (
    "before_erase_commits",
    "after_erase",
    "before_history_erased",
    "after_history_erased",
    "before_complete_commits",
)


def lay(mishap: Mishap, step: str) -> None:
    def wrap(owner: Any, name: str, before: str = "", after: str = "", within: str = "") -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any) -> Any:
            mishap.arrived_at(before)
            with before_each_commit(lambda: mishap.arrived_at(within)):
                result = original(*arguments)
            mishap.arrived_at(after)
            return result

        setattr(owner, name, wrapped)

    def write_small(place: Target, name: str, content: bytes, aside: str, original: Any = Target.write) -> None:
        if step == "manifest_half_written":
            with place._create(aside) as file:
                file.write(content[: len(content) // 2])
                file.flush()
                mishap.arrived_at("manifest_half_written")
        original(place, name, content, aside)

    def replace(source: str, to: str, original: Callable[[str, str], None] = os.replace) -> None:
        for_readers = to.endswith(layout.PLAIN)
        mishap.arrived_at("before_copy_for_readers" if for_readers else "")
        original(source, to)
        mishap.arrived_at("after_copy_for_readers" if for_readers else "")

    def remove(place: Target, name: str, original: Any = Target.remove) -> None:
        parsed = layout.parse(name)
        kind = parsed.kind if parsed else "table_file" if name.startswith(layout.ICEBERG) else ""
        mishap.arrived_at(f"before_{kind}_removed")
        original(place, name)
        mishap.arrived_at(f"after_{kind}_removed")

    def write(*arguments: Any, original: Any = export.write, **more: Any) -> Any:
        return original(*arguments, **more | {"progress": lambda _: mishap.arrived_at("draft_half_written")})

    def bring(*arguments: Any, original: Any = restore.bring) -> Any:
        return original(*arguments[:-1], lambda _: mishap.arrived_at("staging_half_filled"))

    export.write = write
    setattr(Target, "write", write_small)  # noqa: B010 (its type is another)
    setattr(Target, "remove", remove)  # noqa: B010
    _lay_in_the_table(mishap, step)
    restore.bring = bring  # type: ignore[assignment]
    os.replace = replace  # type: ignore[assignment]
    wrap(Day, "draft", after="draft_entered")
    wrap(Day, "enter", before="before_enter", after="after_enter")
    wrap(Target, "publish", before="before_publish", after="after_publish")
    wrap(Day, "confirm", before="before_confirm", within="before_pointer_commits", after="after_confirm")
    wrap(Tables, "expire", within="before_expiry_commits", after="after_expiry")
    wrap(load_back, "_insert_into", before="amid_load_back")
    wrap(Day, "load_back", before="staging_filled", within="before_load_back_commits", after="after_load_back")
    wrap(Day, "drop", before="before_drop", within="before_drop_commits", after="after_drop")
    wrap(Day, "erase", before="before_history_erased", after="after_history_erased")
    wrap(forgetting, "erase", within="before_erase_commits", after="after_erase")
    wrap(forgetting, "complete", within="before_complete_commits")


def _lay_in_the_table(mishap: Mishap, step: str) -> None:
    def write_once(place: Target, name: str, content: bytes, original: Any = Target.write_once) -> None:
        what = "metadata" if name.endswith(".json") else "list" if "/snap-" in name else "manifest"
        mishap.arrived_at(f"before_{what}")
        if step == f"half_{what}":
            with place._create(name) as file:
                file.write(content[: len(content) // 2])
                file.flush()
                mishap.arrived_at(step)
        original(place, name, content)
        mishap.arrived_at(f"after_{what}")

    setattr(Target, "write_once", write_once)  # noqa: B010


@contextmanager
def before_each_commit(call: Callable[[], None]) -> Iterator[None]:
    def committing(_: sa.Connection) -> None:
        call()

    sa.event.listen(sa.Engine, "commit", committing)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "commit", committing)


def run(step: str, arguments: list[str], environment: dict[str, str], log: str) -> NoReturn:
    """As a program of its own."""
    mishap = Mishap(f"kill:{step}", (*BRING_BACK, *EXPORT, *TABLE, *SWEEP, *TABLE_SWEEP, *PRUNE, *FORGET))
    become_etl(arguments, environment, log, lambda: lay(mishap, step))


if __name__ == "__main__":
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
