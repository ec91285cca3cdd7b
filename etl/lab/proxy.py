"""A relay between a client and a server, which knows no protocol; and a proxy, which breaks the connection at the worst
moment: a command arrives, and its answer doesn't.

The proxy asks a predicate, with what the client sent since the last answer, whether to lose this answer or the command
itself. It can also refuse connections for a while, or hold up everything.
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

Recognises = Callable[[bytes], bool]
Address = int | Path | tuple[str, int]  # a port of this machine, a unix socket, or a host and its port


class Conversation:
    """The bytes of one connection, passed on. An OSError ends the connection."""

    def command(self, data: bytes, server: socket.socket) -> None:
        """The client sent `data`."""
        server.sendall(data)

    def answer(self, data: bytes, client: socket.socket) -> None:
        """The server sent `data`."""
        client.sendall(data)


class Relay:
    """Listens on a free port, or on a unix socket at `path`; passes on to `server`."""

    def __init__(self, server: Address, path: Path | None = None) -> None:
        self._server = server
        self._listening = _listen(path)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def welcomed(self, client: socket.socket) -> socket.socket:
        """The socket by which a new client is served. An OSError turns it away."""
        return client

    def conversation(self) -> Conversation:
        """With a new client."""
        return Conversation()

    def lead_to(self, server: Address) -> None:
        """From here on new connections go there, as behind a virtual address that moved; the others stay where they
        lead, unless `end_connections` ends them."""
        self._server = server

    def end_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                _shut_down(connection)  # its thread, which may be waiting for it just now, closes it

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="relay", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _shut_down(self._listening)
        self._listening.close()
        self.end_connections()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), name="relay", daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self._kept(accepted),
            self._kept(self.welcomed(accepted)) as client,
            self._kept(_connect(self._server)) as server,
        ):
            conversation = self.conversation()
            while True:
                readable, _, _ = select.select([client, server], [], [])
                if client in readable:
                    conversation.command(_received(client), server)
                if server in readable:
                    conversation.answer(_received(server), client)

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


class Proxy(Relay):
    def __init__(self, server: Address, path: Path | None = None) -> None:
        super().__init__(server, path)
        self._cut: Recognises | None = None
        self._lose_command = False
        self._always = False
        self._passing = threading.Event()
        self._passing.set()
        self._is_cut = False
        self.cuts = 0

    def cut(self, wanted: Recognises | None, lose_command: bool = False, always: bool = False) -> None:
        """Once, or `always`, when `wanted` recognises what a client sent, cut its connection instead of passing on the
        answer; with `lose_command`, instead of passing on the command. None takes it back."""
        self._lose_command = lose_command
        self._always = always
        self._cut = wanted

    def part(self) -> None:
        """End every connection, and every new one at once."""
        self._is_cut = True
        self.end_connections()

    def blackhole(self) -> None:
        """Pass nothing on in either direction, and keep every connection open, new ones too."""
        self._passing.clear()

    def heal(self) -> None:
        """Pass on again, first what was held up."""
        self._is_cut = False
        self._passing.set()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._passing.set()

    def welcomed(self, client: socket.socket) -> socket.socket:
        if self._is_cut:
            raise ConnectionError("the wire is cut")
        return client

    def conversation(self) -> Conversation:
        return _Watched(self)

    def pass_or_break(self, sent: bytes, is_command: bool) -> None:
        """Return when a command, or the answer to `sent`, may be passed on. Raises ConnectionError to lose it."""
        self._passing.wait()
        with self._lock:
            if is_command == self._lose_command and self._cut is not None and self._cut(sent):
                self._cut = self._cut if self._always else None
                self.cuts += 1
                raise ConnectionError("lost")


class _Watched(Conversation):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._sent = b""  # since the last answer

    def command(self, data: bytes, server: socket.socket) -> None:
        self._sent += data
        self._proxy.pass_or_break(self._sent, is_command=True)
        server.sendall(data)

    def answer(self, data: bytes, client: socket.socket) -> None:
        self._proxy.pass_or_break(self._sent, is_command=False)
        client.sendall(data)
        self._sent = b""


def _received(connection: socket.socket) -> bytes:
    """What has come. Raises ConnectionError at the end."""
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("closed")
    while isinstance(connection, ssl.SSLSocket) and connection.pending():  # decrypted already: select doesn't see it
        data += connection.recv(65_536)
    return data


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
    try:
        connection.connect(str(server))
    except OSError:
        connection.close()
        raise
    return connection


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
