"""How the wall's HTTP server treats whoever connects: nobody keeps a place without asking anything."""

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from etl import logs

# For a whole request, head and body, from when its connection was made or the answer before was given. What an answer
# takes doesn't count.
REQUEST_SECONDS = 10.0
# Of connections that the system refuses, for there is no file descriptor left, one line in so long.
REFUSED_EVERY_SECONDS = 60.0

log = logs.get()


class Impatient(H11Protocol):
    """Closes a connection that has no whole request in time. Each has a place of `limit_concurrency`, and whoever may
    not even look could take them all for good."""

    _closing: asyncio.TimerHandle | None = None
    _unread = 0  # bytes of answers that nobody had taken when it last looked

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_our_turn():
            self._stop()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_our_turn():  # the next request may have been there before
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _is_our_turn(self) -> bool:
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _wait(self) -> None:
        self._stop()
        self._unread = self.transport.get_write_buffer_size()
        self._closing = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._closing:
            self._closing.cancel()
            self._closing = None

    def _give_up(self) -> None:
        if 0 < self.transport.get_write_buffer_size() < self._unread:  # slowly, but they read
            self._wait()
        else:
            self.transport.abort()


class Refusals:
    """What an event loop tells of connections that it can't take: one line a minute, and no traceback for each."""

    def __init__(self) -> None:
        self._told: float | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "accept()" not in str(context.get("message")):
            loop.default_exception_handler(context)
        elif self._told is None or time.monotonic() - self._told >= REFUSED_EVERY_SECONDS:
            self._told = time.monotonic()
            log.warning("connections_refused", error=str(context.get("exception")))
