"""Metrics and health over HTTP: what was counted, and how the stores were a moment ago.

    /metrics   for Prometheus
    /healthz   200 while every loader makes progress, is idle, or waits for a store; else this process wants a restart
    /readyz    200 while Redis and Postgres answer, the schema is the needed one, and every list can be loaded

Nothing else is served, and a scrape asks no store: whoever scrapes, however often, costs the loaders nothing.
"""

import contextlib
import errno
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from etl import logs
from etl.app.exposition import Exposition
from etl.app.gauges import Observer
from etl.errors import ConfigurationError, EtlError
from etl.metrics import Tally
from etl.settings import Settings
from etl.text import printable

# A claim takes a second; some minutes if it waits for a lock, such as that of a day that is loaded back.
STUCK_SECONDS = 300.0
# A slower client is dropped.
CLIENT_TIMEOUT_SECONDS = 10.0
# Each has a thread. One more, and the oldest is dropped: whoever is quick has its answer by then.
MOST_CONNECTIONS = 64
PLAIN = "text/plain; charset=utf-8"

log = logs.get()


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


@contextlib.contextmanager
def serving(settings: Settings, tallies: Sequence[Tally]) -> Iterator[None]:
    """Serves the sum of `tallies` at `settings.http_address`, if that isn't off, as long as the context lasts.

    Raises `EtlError` if another program has the address, `ConfigurationError` if there's no such.
    """
    if settings.http_address is None:
        yield
        return
    observer = Observer(settings)
    answers = {
        "/metrics": lambda accept: _metrics(tallies, observer, accept),
        "/healthz": lambda _: _health([_stuck(tallies)]),
        "/readyz": lambda _: _health([*observer.troubles(), *_broken(tallies, observer)]),
    }
    with _bound(settings.http_address, answers) as server, observer.running():
        thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
        thread.start()
        host, port = server.server_address[:2]
        log.info("serving_metrics", host=host, port=port)
        try:
            yield
        finally:
            server.shutdown()


def _metrics(tallies: Sequence[Tally], observer: Observer, accept: str) -> _Answer:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition(tallies, observer.gauges))
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it takes any word for a version
        encode, content_type = choose_encoder("")
    return _Answer(HTTPStatus.OK, content_type, encode(registry))


def _stuck(tallies: Sequence[Tally]) -> str | None:
    silent = [(seconds, key) for tally in tallies for key, seconds in tally.silent_seconds().items()]
    seconds, key = max(silent)
    return f"the loader of {key} has been silent for {seconds:.0f} s" if seconds > STUCK_SECONDS else None


def _broken(tallies: Sequence[Tally], observer: Observer) -> list[str]:
    """The lists that can't be loaded: as a loader found, or as a look at them tells, which has the words."""
    codes = {key: f"{code}: see list_broken in the log" for tally in tallies for key, code in tally.broken().items()}
    return [f"list {printable(key)}: {why}" for key, why in sorted({**codes, **observer.broken}.items())]


def _health(troubles: Sequence[str | None]) -> _Answer:
    found = [trouble for trouble in troubles if trouble]
    status = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
    return _Answer(status, PLAIN, "".join(f"{line}\n" for line in found or ["fine"]).encode())


_Answers = dict[str, Callable[[str], _Answer]]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True  # the last process' connections don't keep us waiting

    def __init__(self, address: tuple[str, int], answers: _Answers) -> None:
        family, _, _, _, sockaddr = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self.answers = answers
        self._connections: dict[socket.socket, None] = {}  # the oldest first
        self._lock = threading.Lock()
        super().__init__(sockaddr[:2], _Handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            oldest = next(iter(self._connections)) if len(self._connections) >= MOST_CONNECTIONS else None
            if oldest is not None:
                del self._connections[oldest]
                # Its thread closes it: until then the number of the descriptor is nobody else's.
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._connections[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away amid its answer is no error. Anything else is a bug, and told in one line."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.warning("request_failed", error=repr(error))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_TIMEOUT_SECONDS
    server_version, sys_version = "etl", ""

    def do_GET(self) -> None:
        try:
            path = urlsplit(self.path).path
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        answer = self.server.answers.get(path)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        status, content_type, body = answer(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Requests aren't logged."""


def _bound(address: tuple[str, int], answers: _Answers) -> _Server:
    host, port = address
    try:
        return _Server(address, answers)
    except OSError as error:
        problem = f"can't serve metrics at {host}:{port}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            raise EtlError(
                "ETL-114", f"{problem}: if another `etl run --follow` runs here, give each its own ETL_HTTP"
            ) from error
        raise ConfigurationError("ETL-115", f"{problem}: set ETL_HTTP to an address of this host, or to off") from error
