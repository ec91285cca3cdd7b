"""Processes that freeze at a step: see `freezer.py`."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.faults.forker import Forker, forking
from tests.world import Archive, eventually

FREEZER = Path(__file__).with_name("freezer.py")
NEVER = 1 << 30


class Sleepers:
    """Real `etl` processes."""

    def __init__(self, forker: Forker, log: Path) -> None:
        self._forker, self._log = forker, log

    def start(
        self, archive: Archive, at: int, *arguments: str, steps: Literal["lake", "statements"] = "lake", **more: str
    ) -> int:
        """A process of these arguments; returns its id once it is frozen, or over."""
        stores = {name: value for name, value in os.environ.items() if "AWS_" in name}
        asked = {
            "at": at,
            "steps": steps,
            "arguments": arguments,
            "environment": {**archive.environment(**more), **stores},
        }
        pid = int(self._forker.ask({**asked, "log": str(self._log)}))
        eventually(lambda: state_of(pid) in ("T", "Z"), what="it neither froze nor ended")
        return pid

    def end(self, pid: int) -> tuple[int, int]:
        """Thawed, if it was frozen: its exit code, and the steps that it took."""
        os.kill(pid, signal.SIGCONT)
        code, steps = json.loads(self._forker.ask({"end": pid}))
        return code, steps

    def log(self) -> str:
        return self._log.read_text()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]


@contextmanager
def sleepers_in(folder: Path) -> Iterator[Sleepers]:
    with forking(FREEZER) as forker:
        yield Sleepers(forker, folder / "frozen.log")
