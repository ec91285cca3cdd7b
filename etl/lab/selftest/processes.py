"""The processes of a selftest: real `etl` commands, which are killed, frozen and started again like the servers, and
noticed when they end though nobody ended them.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from etl.lab.servers.process import launch, wait_until

STOP_SECONDS = 40.0  # within 30 s they promise to be gone; here they may be frozen on the way
PAUSE_SECONDS = 1.5  # between two commands of an exporter
ORDERLY = (0, 1)  # done, or a store was away
STOPPED = (0, -signal.SIGTERM)  # the latter before it had come so far as to listen to signals


class Program:
    """An `etl` command that goes on until it's ended. Safe to use from several threads."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._arguments = arguments
        self._environment = {**environment, "ETL_WORKER_NAME": name}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.complaints: list[str] = []

    @property
    def pid(self) -> int | None:
        """None if it isn't running."""
        process = self._process
        return process.pid if process and process.poll() is None else None

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
        """SIGTERM, and what it says to that."""
        with self._lock:
            if not self._process:
                return
            self._process.terminate()
            try:
                code = self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
            self._process = None
            if code not in STOPPED:
                self.complaints.append(f"{self.name} was asked to stop and ended with {code}")

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def mind(self) -> None:
        """Start it again if it ended by itself, and remember that it did."""
        with self._lock:
            if self._process and (code := self._process.poll()) is not None:
                self.complaints.append(f"{self.name} ended by itself with {code}")
                self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "etl.cli", *self._arguments]
        here = os.getcwd()  # whence this program's own modules may come
        self._process = launch(command, self.log, signal.SIGKILL, None, folder=here, more=self._environment)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._process:
                self._process.send_signal(number)


class Exporter:
    """`etl export` and `etl prune`, one after the other, over and over; like a `Program` to those who mean it harm."""

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._environment = environment
        self._commands = [["export", "--json"], ["export", "--json"], ["prune", "--keep-days", "1", "--json"]]
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self._is_killed = False
        self.ended: Counter[int] = Counter()  # exit codes
        self.complaints: list[str] = []

    @property
    def pid(self) -> int | None:
        """None if none is running just now."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After the command that is running."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def kill(self) -> None:
        """The last of them, and all at once."""
        self._stop.set()
        if process := self._process:
            process.kill()
        self.stop()

    def kill_in(self, seconds: float) -> bool:
        """SIGKILL to the next command, so long after its start; false if it doesn't last as long, three times."""
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

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def mind(self) -> None:
        """A command ends by itself, that's in order."""

    def _run(self) -> None:
        while not self._stop.is_set():
            for arguments in self._commands:
                self._command(arguments)
                if self._stop.wait(PAUSE_SECONDS):
                    break

    def _command(self, arguments: Sequence[str]) -> None:
        self._is_killed = False
        command = [sys.executable, "-m", "etl.cli", *arguments]
        here = os.getcwd()
        self._process = launch(command, self.log, signal.SIGKILL, None, folder=here, more=self._environment)
        code = self._process.wait()
        self._process = None
        self.ended[code] += 1
        if code not in ORDERLY and not self._is_killed:
            self.complaints.append(f"etl {arguments[0]} ended with {code}")

    def _signal(self, number: signal.Signals) -> None:
        if process := self._process:
            with suppress(ProcessLookupError):
                process.send_signal(number)
