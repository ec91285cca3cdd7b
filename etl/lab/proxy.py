"""A wire between the loader and a store that breaks at the worst moment: a command arrives, and its answer doesn't.

It knows no protocol. It passes bytes on until a predicate, shown what the loader said since the last answer, wants this
answer lost, or the command itself; and it can be cut for a while, or swallow all that is said.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

Heard = Callable[[bytes], bool]
Address = int | Path | tuple[str, int]  # a port of this machine, a unix socket, or a host and its port


class Proxy:
    """Listens on a free port, or on a unix socket at `path`; passes on to `server`."""

    def __init__(self, server: Address, path: Path | None = None) -> None:
        self._server = server
        self._listening = _listen(path)
        self._cut: Heard | None = None
        self._lose_command = False
        self._passing = threading.Event()
        self._passing.set()
        self._is_cut = False
        self.cuts = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def cut(self, heard: Heard | None, lose_command: bool = False) -> None:
        """Once, when the loader has said something that `heard` knows, cut its connection instead of passing on the
        answer; with `lose_command`, instead of passing on what it said. None takes it back."""
        self._lose_command = lose_command
        self._cut = heard

    def part(self) -> None:
        """End every connection, and every new one at once."""
        self._is_cut = True
        self._end_connections()

    def blackhole(self) -> None:
        """Pass nothing on, in either direction, and keep every connection open: new ones too."""
        self._passing.clear()

    def heal(self) -> None:
        """Pass on again; what was held up first."""
        self._is_cut = False
        self._passing.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _shut_down(self._listening)
        self._listening.close()
        self._passing.set()
        self._end_connections()

    def _end_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                _shut_down(connection)  # its thread, which may be waiting for it just now, closes it

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self._is_cut:
                    client.close()
                    continue
                threading.Thread(target=self._serve, args=(client,), name="proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), self._kept(client), self._kept(_connect(self._server)) as server:
            said = b""
            while True:
                readable, _, _ = select.select([client, server], [], [])
                self._passing.wait()
                if client in readable:
                    command = client.recv(65_536)
                    said += command
                    if not command or (self._lose_command and self._wants_it_lost(said)):
                        return
                    server.sendall(command)
                if server in readable:
                    answer = server.recv(65_536)
                    if not answer or (not self._lose_command and self._wants_it_lost(said)):
                        return
                    client.sendall(answer)
                    said = b""

    def _wants_it_lost(self, said: bytes) -> bool:
        with self._lock:
            if self._cut is None or not self._cut(said):
                return False
            self._cut = None
            self.cuts += 1
            return True

    @contextlib.contextmanager
    def _kept(self, connection: socket.socket) -> Iterator[socket.socket]:
        with self._lock:
            self._open.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._open.discard(connection)
            _shut_down(connection)
            connection.close()


def _listen(path: Path | None) -> socket.socket:
    if path is None:
        return socket.create_server(("127.0.0.1", 0))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


def _connect(server: Address) -> socket.socket:
    if not isinstance(server, Path):
        return socket.create_connection(("127.0.0.1", server) if isinstance(server, int) else server)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(server))
    return connection


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
