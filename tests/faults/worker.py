"""A real `etl run --follow` process that a test may kill and freeze, with its log."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.faults.child import CONSTANTS
from tests.world import Archive, eventually

CHILD = Path(__file__).with_name("child.py")


class Worker:
    """Runs from `with` on, in a process group of its own, which is gone at the end of it.

    `mishap` and `constants` are those of `child.py`; without any, the program is the one that operators run.
    """

    def __init__(
        self,
        archive: Archive,
        log: Path,
        *options: str,
        mishap: str | None = None,
        constants: dict[str, float] | None = None,
        listen: bool = False,
        **environment: str,
    ) -> None:
        program = [str(CHILD), mishap or "nothing"] if mishap or constants else ["-m", "etl.cli"]
        self._command = [sys.executable, *program, "run", "--follow", *([] if listen else ["--no-listen"]), *options]
        self._environment = {
            **archive.environment(**environment),
            "PYTHONPATH": os.pathsep.join(sys.path),
            CONSTANTS: json.dumps(constants or {}),
        }
        self._log = log
        self._begin = log.stat().st_size if log.exists() else 0

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_group()

    @property
    def pid(self) -> int:
        return self.process.pid

    def loaders(self) -> list[int]:
        """The pids of its `--workers`."""
        listing = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True)
        processes = (line.split(maxsplit=2) for line in listing.stdout.splitlines())
        return [int(pid) for pid, parent, command in processes if int(parent) == self.pid and "spawn_main" in command]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_group(self) -> None:
        """The process and all its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.wait_until_frozen()

    def wait_until_frozen(self) -> None:
        def frozen() -> bool:
            assert self.process.returncode is None
            return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None

        eventually(frozen, what=f"it isn't frozen: {self.log()}")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> int:
        """Its exit code; negative is the signal that killed it."""
        eventually(lambda: self.process.poll() is not None, what="it doesn't end")
        return self.process.wait()

    def stop(self) -> int:
        """As a service manager does."""
        self.process.terminate()
        return self.wait()

    def log(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._begin)
            return log.read().decode()

    def lines(self, action: str) -> list[dict[str, Any]]:
        """Its log lines of this kind."""
        found = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in found if line["action"] == action]

    def wait_for(self, action: str, times: int = 1) -> None:
        def told() -> bool:
            assert self.process.poll() is None, f"it ended: {self.log()}"
            return len(self.lines(action)) >= times

        eventually(told, what=f"no {action} in: {self.log()}")
