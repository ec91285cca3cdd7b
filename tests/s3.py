"""A real S3 server, and the lines to it that tests break."""

import contextlib
import signal
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlencode

from pyarrow import fs

from etl.lab.proxy import Conversation, Relay
from etl.lab.servers.ports import free_port
from etl.lab.servers.process import launch
from tests.world import eventually

KEY, SECRET = "lake-user", "hunter2hunter2"


class ObjectStore:
    """moto's server, in a process of its own that ends with `with`, or with us."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "s3.log"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = launch(command, self._log, signal.SIGKILL, owner=None)
        eventually(self._answers, what="the S3 server did not start")
        self._client = fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            allow_bucket_creation=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def make_bucket(self, name: str) -> None:
        self._client.create_dir(name)

    def objects(self, bucket: str) -> dict[str, bytes]:
        """All that a reader finds, by key."""
        found: list[Any] = self._client.get_file_info(fs.FileSelector(bucket, recursive=True))
        return {each.path.partition("/")[2]: self._read(each.path) for each in found if each.type is fs.FileType.File}

    def _read(self, path: str) -> bytes:
        with self._client.open_input_stream(path) as stream:
            content: bytes = stream.read()
        return content

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/"):
            return True
        return False


def url(bucket: str, port: int, **options: str) -> str:
    """For ETL_EXPORT_URL."""
    return f"s3://{bucket}/calls?" + urlencode({"endpoint_override": f"127.0.0.1:{port}", "scheme": "http", **options})


class Line(Relay):
    """Passes on what clients send, until a request in which `at` occurs. Of that:

    cut     the first bytes arrive, then the line breaks
    hold    the first bytes arrive, then nothing more, and `held` is set
    mute    all of it arrives, but the line breaks before the answer comes back
    """

    def __init__(self, server_port: int, at: bytes, then: Literal["cut", "hold", "mute"]) -> None:
        super().__init__(server_port)
        self.at, self.then = at, then
        self.held = threading.Event()
        self.over = threading.Event()
        self.times = 0  # that there was trouble

    def __exit__(self, *_: object) -> None:
        self.over.set()
        super().__exit__()

    def conversation(self) -> Conversation:
        return _Troubled(self)


class _Troubled(Conversation):
    FIRST_BYTES = 2_000  # beyond those that came with the request's beginning

    def __init__(self, line: Line) -> None:
        self._line = line
        self._allowed: int | None = None  # bytes until there is trouble

    def command(self, data: bytes, server: socket.socket) -> None:
        if self._allowed is None or self._line.then == "mute":
            server.sendall(data)
            if self._line.at in data:
                self._allowed = self.FIRST_BYTES
            return
        server.sendall(data[: self._allowed])
        self._allowed -= len(data)
        if self._allowed < 0:
            if self._line.then == "hold":
                self._line.held.set()
                self._line.over.wait()
            self._break()

    def answer(self, data: bytes, client: socket.socket) -> None:
        if self._line.then == "mute" and self._allowed is not None and b" 100 " not in data[:20]:
            self._break()
        client.sendall(data)

    def _break(self) -> None:
        self._line.times += 1
        raise ConnectionError("broken")


class Broken:
    """A server that answers 500 to whatever comes."""

    def __init__(self) -> None:
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
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    client.recv(65_536)
                    client.sendall(
                        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
