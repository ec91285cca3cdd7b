"""The other kinds of Redis: a cluster, a master behind a sentinel, and a line that breaks. One of each a session; the
tests of one file leave nothing in them that those of another would find."""

import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
import redis

from etl.lab.servers.private import PrivateCluster, PrivateRedis
from etl.lab.servers.process import launch
from etl.lab.servers.redis import find_binary, free_port
from tests.world import eventually

SERVICE = "mymaster"
PASSWORD = "hunter2"


@pytest.fixture(scope="session")
def cluster(session_folder: Path) -> Iterator[PrivateCluster]:
    with PrivateCluster(session_folder / "cluster") as servers:
        yield servers


@dataclass(frozen=True)
class Watched:
    """A master with `PASSWORD` and the sentinel that knows it as `SERVICE`."""

    master: PrivateRedis
    sentinel: "Sentinel"


@pytest.fixture(scope="session")
def watched(session_folder: Path) -> Iterator[Watched]:
    folder = session_folder / "watched"
    with PrivateRedis(folder, {"requirepass": PASSWORD}) as master, Sentinel(folder, master.port) as sentinel:
        yield Watched(master, sentinel)


class Sentinel:
    """A sentinel: the same program, with a file of settings that it rewrites."""

    def __init__(self, folder: Path, master_port: int, bind: str = "127.0.0.1", master: str = "127.0.0.1") -> None:
        self.port = free_port()
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            f'port {self.port}\nbind {bind}\ndir "{folder}"\n'
            f"sentinel monitor {SERVICE} {master} {master_port} 1\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
        )

    def __enter__(self) -> Self:
        command = (find_binary(), self._config, "--sentinel")
        self._process = launch(command, self._config.with_suffix(".log"), signal.SIGKILL, owner=None)
        eventually(self._answers, what="the sentinel did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def url(self, password: str = PASSWORD, service: str = SERVICE) -> str:
        return f"redis+sentinel://:{password}@127.0.0.1:{self.port}/{service}/0"

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), redis.Redis(port=self.port) as client:
            return bool(client.ping())
        return False


class BreakingLine:
    """Stands before a server and passes on what clients send. A command in which `breaks_at` occurs is passed on and
    executed too, but its answer never comes back: the line breaks. `broken` counts how often it did."""

    def __init__(self, server_port: int, breaks_at: bytes) -> None:
        self.broken = 0
        self._server_port = server_port
        self._breaks_at = breaks_at
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            while True:
                readable, _, _ = select.select([client, server], [], [])
                if server in readable:
                    client.sendall(_received(server))
                if client in readable:
                    command = _received(client)
                    server.sendall(command)
                    if self._breaks_at in command:
                        _received(server)
                        self.broken += 1
                        return


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("closed")
    return data
