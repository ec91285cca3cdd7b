"""A real `etl run --follow` process that a test may kill and freeze, with its log."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from etl.lab.servers import launcher as _launcher
from tests.faults import tally
from tests.faults.child import CONSTANTS
from tests.world import Archive, eventually

LAST_WORDS = 5_000  # characters of the log, for who reads why a test failed
# What keeps a process from outliving the tests, if those are killed themselves; it becomes the program, with its pid.
_NOBODY_ELSE = str(_launcher.NOT_GIVEN)
_MORTAL = [
    *(sys.executable, "-I", "-S", _launcher.__file__),
    *(str(os.getpid()), str(int(signal.SIGKILL)), _NOBODY_ELSE, _NOBODY_ELSE, _NOBODY_ELSE),
]
CHILD = Path(__file__).with_name("child.py")


class Worker:
    """Runs from `with` on, in a process group of its own, which is gone at the end of it.

    `mishap` and `constants` are those of `child.py`; without any, the program is the one that operators run.
    `wrapper` is a command that executes the one behind it.
    """

    def __init__(
        self,
        archive: Archive,
        log: Path,
        *options: str,
        mishap: str | None = None,
        constants: dict[str, float] | None = None,
        follow: bool = True,
        listen: bool = False,
        wrapper: Sequence[str] = (),
        **environment: str,
    ) -> None:
        program = [str(CHILD), mishap or "nothing"] if mishap or constants else ["-m", "etl.cli"]
        following = [*(["--follow"] if follow else []), *([] if listen else ["--no-listen"])]
        self._command = [*_MORTAL, *wrapper, sys.executable, *program, "run", *following, *options]
        self._environment = {
            **archive.environment(**environment),
            "PYTHONPATH": os.pathsep.join(sys.path),
            CONSTANTS: json.dumps(constants or {}),
        }
        self._mishap = mishap
        self._log = log
        self._begin = log.stat().st_size if log.exists() else 0

    def __enter__(self) -> Self:
        if self._mishap:  # whose test waits for it
            what, _, step = self._mishap.partition(":")
            tally.note(what, "etl run", step)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._end()
        if failure:
            print(self.log()[-LAST_WORDS:])

    @property
    def pid(self) -> int:
        return self.process.pid

    def loaders(self) -> list[int]:
        """The pids of its `--workers`."""
        listing = subprocess.check_output(["ps", "-A", "-ww", "-o", "pid=,ppid=,command="], text=True)
        processes = (line.split(maxsplit=2) for line in listing.splitlines())
        return [int(pid) for pid, parent, command in processes if int(parent) == self.pid and "spawn_main" in command]

    def kill(self, step: str = tally.AT_ANY_MOMENT) -> None:
        tally.note("kill", "etl run", step)
        self.process.kill()
        self.process.wait()

    def kill_group(self) -> None:
        """The process and all its children at once."""
        tally.note("kill", "etl run")
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        tally.note("freeze", "etl run")
        self.process.send_signal(signal.SIGSTOP)
        self.wait_until_frozen()

    def wait_until_frozen(self) -> None:
        def frozen() -> bool:
            assert self.process.poll() is None, "it ended"
            return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None

        eventually(frozen, what="it isn't frozen")

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
        return [json.loads(line) for line in self.log().splitlines() if f'"action": "{action}"' in line]

    def count(self, action: str) -> int:
        return self.log().count(f'"action": "{action}"')

    def wait_for(self, action: str, times: int = 1) -> None:
        def told() -> bool:
            assert self.process.poll() is None, "it ended"
            return self.count(action) >= times

        eventually(told, what=f"{self.count(action)} times {action}, not {times}")

    @contextlib.contextmanager
    def told_more(self, action: str, times: int = 1) -> Iterator[None]:
        """What the block does has it tell this so many times more. Counted before: it may tell it at once."""
        before = self.count(action)
        yield
        self.wait_for(action, before + times)

    def wait_for_more(self, action: str, times: int) -> None:
        """While it is told again and again anyway; what is told of one deed waits with `told_more`."""
        self.wait_for(action, self.count(action) + times)
