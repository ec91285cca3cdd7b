"""What anybody may send to `ETL_HTTP`: it's answered, adds nothing to the log, and keeps nobody else from an answer."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from etl.app.monitor import MOST_CONNECTIONS
from tests.faults.worker import Worker
from tests.scrape import address, get
from tests.world import Archive, eventually

METHODS = [b"GET", b"HEAD", b"POST", b"get", b"", b"\xff"]
PATHS = [b"/metrics", b"/readyz", b"http://[", b"http://[::1", b"//[", b"/%5b", b"*", b"", b"http://[]/metrics"]
VERSIONS = [b"HTTP/1.0", b"HTTP/1.1", b"HTTP/9.9", b"HTTP/", b"HTTP/1.1.1", b"", b"\0"]
HEADERS = [b"", b"Accept: */*", b"Accept: application/openmetrics-text; version=\xff", b"Accept", b": x"]
LINES = st.tuples(
    st.sampled_from(METHODS) | st.binary(max_size=8),
    st.sampled_from(PATHS) | st.binary(max_size=20) | st.binary(max_size=20).map(b"http://".__add__),
    st.sampled_from(VERSIONS) | st.binary(max_size=8),
)


def connected(at: str) -> socket.socket:
    host, _, port = at.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def answered(at: str, request: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    answer = b""
    with connected(at) as connection, contextlib.suppress(OSError):  # it may have enough before we're done
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(65_536):
            answer += more
    return answer


@contextlib.contextmanager
def serving(archive: Archive, log: Path) -> Iterator[tuple[Worker, str]]:
    with Worker(archive, log, "--no-schedule", ETL_HTTP="127.0.0.1:0") as worker:
        yield worker, address(worker)


def test_given_any_request_then_it_is_answered_and_nothing_logged(archive: Archive, tmp_path: Path) -> None:
    with serving(archive, tmp_path / "log") as (worker, at):
        worker.wait_for("started")
        lines = worker.log().count("\n")

        @given(LINES, st.sampled_from(HEADERS), st.sampled_from([0, 70_000]))
        @example((b"GET", b"http://[", b"HTTP/1.0"), b"", 0)
        def ask(line: tuple[bytes, bytes, bytes], header: bytes, padding: int) -> None:
            answered(at, b" ".join(line) + b"\r\n" + header + b"x" * padding + b"\r\n\r\n")

        ask()
        for path in (b"http://[", b"http://[::1", b"http://[]/metrics"):
            assert answered(at, b"GET %b HTTP/1.0\r\n\r\n" % path).startswith(b"HTTP/1.0 400 "), path
        assert get(at, "/healthz").body == "fine\n"
        assert worker.log().count("\n") == lines, worker.log()


def test_given_many_slow_clients_then_others_are_answered(archive: Archive, tmp_path: Path) -> None:
    with serving(archive, tmp_path / "log") as (worker, at), contextlib.ExitStack() as stack:

        def files() -> int:
            return len(os.listdir(f"/proc/{worker.pid}/fd"))

        def threads() -> int:
            return len(os.listdir(f"/proc/{worker.pid}/task"))

        worker.wait_for("started")
        before = files(), threads()
        for number in range(5 * MOST_CONNECTIONS):
            slow = stack.enter_context(connected(at))
            with contextlib.suppress(OSError):
                slow.sendall(b"GET /metr")
            if number % MOST_CONNECTIONS == 0:
                assert get(at, "/healthz").status == 200
        assert get(at, "/healthz").status == 200
        # Loaders come and go meanwhile.
        eventually(lambda: files() <= before[0] + MOST_CONNECTIONS + 10)
        eventually(lambda: threads() <= before[1] + MOST_CONNECTIONS + 10)
        assert "Traceback" not in worker.log()
