"""Where short-lived processes come from: see `lake_child.py`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import tally
from tests.lake import wait_until_nobody_is_left
from tests.world import Archive

KILLED = -signal.SIGKILL
CHILD = Path(__file__).with_name("lake_child.py")


class Nursery:
    """One program that has imported what they need, and forks them."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def kill_at(self, archive: Archive, step: str, *arguments: str) -> None:
        """A real `etl`, dead at this step."""
        life = {"step": step, "arguments": arguments, "environment": archive.environment(), "log": str(self._log)}
        tally.note("kill", f"etl {arguments[0]}", step)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(life) + "\n")
        self._process.stdin.flush()
        assert int(self._process.stdout.readline()) == KILLED, self._log.read_text()
        wait_until_nobody_is_left(archive)


@contextmanager
def nursery_in(folder: Path) -> Iterator[Nursery]:
    with subprocess.Popen(
        [sys.executable, str(CHILD)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Nursery(process, folder / "killed.log")
