"""The program in processes of its own that needn't import what it consists of, which takes each a second: they are
forked from one that has. Exit code, output, signals and memory are a process's own all the same.

What a test freezes, kills or stops is a whole process: `Archive.process`. So are all those of test_demo and
test_selftest, and of test_promises on an archive of today, which would notice what the program forgets to import.
"""

import atexit
import functools
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, NoReturn

MODULE = "etl.cli"


def run(
    arguments: Sequence[str], environment: Mapping[str, str], typed: str = "", seconds: float = 150
) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run` does with output captured. Raises TimeoutExpired."""
    request = json.dumps({"arguments": arguments, "environment": dict(environment), "folder": os.getcwd()})
    with (
        tempfile.TemporaryFile("w+") as asked,
        tempfile.TemporaryFile("w+") as stdin,
        tempfile.TemporaryFile("w+") as stdout,
        tempfile.TemporaryFile("w+") as stderr,
        socket.socket(socket.AF_UNIX) as connection,
        connection.makefile() as answers,
    ):
        for file, content in ((asked, request), (stdin, typed)):
            file.write(content)
            file.seek(0)
        connection.connect(_mother())
        socket.send_fds(connection, [b"?"], [file.fileno() for file in (asked, stdin, stdout, stderr)])
        pid = int(answers.readline())
        connection.settimeout(seconds)
        try:
            code = answers.readline()
        except BaseException as interruption:
            os.kill(pid, signal.SIGKILL)
            if isinstance(interruption, TimeoutError):
                raise subprocess.TimeoutExpired(list(arguments), seconds) from None
            raise
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(list(arguments), int(code), stdout.read(), stderr.read())


@functools.cache
def _mother() -> str:
    """The address of the process that forks. It ends when ours does."""
    mother = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if not name.startswith("ETL_")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    atexit.register(mother.communicate)
    assert mother.stdout is not None
    address = mother.stdout.readline().decode().strip()
    assert address, "it didn't start"
    return address


# In the process that forks


def main() -> None:
    """Serves until its stdin ends. In a forked process, it returns as the program does."""
    for module in walk_packages(import_module("etl").__path__, "etl."):
        if not module.name.endswith(".__main__"):
            import_module(module.name)
    gc.freeze()  # else each that ends would go through all of it, and so copy it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of those who wait for the program nobody needs to know how they end
    folder = Path(tempfile.mkdtemp(prefix="etl-fork-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(100)
        print(folder / "socket", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
        else:
            shutil.rmtree(folder)  # it does so however who started it ended
            return
    _serve(connection)


def _serve(connection: socket.socket) -> None:
    """Tells the program's pid and then its exit code, each on a line."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(connection, 1, 4)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become_program(*files)
    with suppress(OSError):  # who asked may be gone
        connection.sendall(b"%d\n" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        connection.sendall(b"%d\n" % code)
    os._exit(0)


def _become_program(asked: int, *standard: int) -> NoReturn:
    with os.fdopen(asked) as file:
        request: dict[str, Any] = json.load(file)
    for number, replacement in enumerate(standard):
        os.dup2(replacement, number)
        os.close(replacement)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv = [MODULE, *request["arguments"]]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
