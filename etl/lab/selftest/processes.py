"""The processes of a selftest: real `etl` commands, which are killed, frozen and started again like the servers. One
that ends by itself is a complaint.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from etl.lab.servers.process import launch, wait_until

STOP_WITHIN_SECONDS = 40.0  # they stop within 30 s; here they may be frozen meanwhile
PAUSE_SECONDS = 1.5  # between two commands of an exporter
ORDERLY = (0, 1)  # done, or a store was away
STOPPED = (0, -signal.SIGTERM)  # the latter before its signal handler was set


class _Command:
    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.complaints: list[str] = []

    @property
    def pid(self) -> int | None:
        """None if it isn't running."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _launch(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "etl.cli", *arguments]
        here = os.getcwd()  # from where this program's own modules may be imported
        return launch(command, self.log, signal.SIGKILL, None, folder=here, more=self._environment)

    def _signal(self, number: signal.Signals) -> None:
        if process := self._process:
            with suppress(ProcessLookupError):
                process.send_signal(number)


class Program(_Command):
    """An `etl` command that runs until it's stopped. Safe to use from several threads."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        super().__init__(name, {**environment, "ETL_WORKER_NAME": name}, folder)
        self._arguments = arguments
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            self._start()

    def kill(self) -> None:
        with self._lock:
            if self._process:
                self._process.kill()
                self._process.wait()
                self._process = None

    def stop(self) -> None:
        """SIGTERM; a complaint if it doesn't end as it should."""
        with self._lock:
            if not self._process:
                return
            self._process.terminate()
            try:
                code = self._process.wait(STOP_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
            self._process = None
            if code not in STOPPED:
                self.complaints.append(f"{self.name} was asked to stop and ended with {code}")

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def restart_if_ended(self) -> None:
        """Start it again if it ended by itself, which is a complaint."""
        with self._lock:
            if self._process and (code := self._process.poll()) is not None:
                self.complaints.append(f"{self.name} ended by itself with {code}")
                self._start()

    def _start(self) -> None:
        self._process = self._launch(self._arguments)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            super()._signal(number)


class Exporter(_Command):
    """`etl export`, `etl restore --all-missing`, as after a set-back, and `etl prune`, one after the other, over and
    over; harmed by the same methods as a `Program`."""

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        super().__init__(name, environment, folder)
        export = ["export", "--json"]
        restore, prune = ["restore", "--all-missing", "--json"], ["prune", "--keep-days", "1", "--json"]
        self._commands = [export, restore, export, prune]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self._is_killed = False
        self.ended: Counter[int] = Counter()  # exit codes

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After the command that is running."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def kill(self) -> None:
        """SIGKILL to the command that is running, and no more commands."""
        self._stop.set()
        if process := self._process:
            process.kill()
        self.stop()

    def kill_in(self, seconds: float) -> bool:
        """SIGKILL to the next command so long after its start; false if three in a row ended before."""
        for _ in range(3):
            before = self.ended.total()
            if not wait_until(lambda n=before: self.ended.total() > n and self.pid is not None, 30.0):  # type: ignore[misc]
                return False
            time.sleep(seconds)
            process = self._process
            if process and process.poll() is None:
                self._is_killed = True
                process.kill()
                return True
        return False

    def freeze(self) -> None:
        wait_until(lambda: self.pid is not None or self._stop.is_set(), 30.0)
        self._signal(signal.SIGSTOP)

    def restart_if_ended(self) -> None:
        """Its commands end by themselves."""

    def _run(self) -> None:
        while not self._stop.is_set():
            for arguments in self._commands:
                self._command(arguments)
                if self._stop.wait(PAUSE_SECONDS):
                    break

    def _command(self, arguments: Sequence[str]) -> None:
        self._is_killed = False
        self._process = self._launch(arguments)
        code = self._process.wait()
        self._process = None
        self.ended[code] += 1
        if code not in ORDERLY and not self._is_killed:
            self.complaints.append(f"etl {arguments[0]} ended with {code}")


@contextmanager
def repeating(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `action` in a thread, every so many seconds, as long as the context lasts."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, name="repeating")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
