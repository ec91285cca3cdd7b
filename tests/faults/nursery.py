"""Where short-lived processes come from: see `lake_child.py`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import tally
from tests.faults.forker import Forker, forking
from tests.lake import wait_until_nobody_is_left
from tests.world import Archive

KILLED = -signal.SIGKILL
CHILD = Path(__file__).with_name("lake_child.py")


class Nursery:
    """One program that has imported what they need, and forks them."""

    def __init__(self, forker: Forker, log: Path) -> None:
        self._forker = forker
        self._log = log

    def kill_at(self, archive: Archive, step: str, *arguments: str) -> None:
        """A real `etl`, dead at this step."""
        life = {"step": step, "arguments": arguments, "environment": archive.environment(), "log": str(self._log)}
        tally.note("kill", f"etl {arguments[0]}", step)
        assert int(self._forker.ask(life)) == KILLED, self._log.read_text()
        wait_until_nobody_is_left(archive)


@contextmanager
def nursery_in(folder: Path) -> Iterator[Nursery]:
    with forking(CHILD) as forker:
        yield Nursery(forker, folder / "killed.log")
