"""What many browsers ask for is asked of a store once, and never by more at a time than is good for it.

Whatever blocks runs in a thread of its own that nobody waits for at the end: a store that hangs keeps no process alive,
and no request waits for it longer than some seconds.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from etl.errors import EtlError
from etl.logs import OutageLog

T = TypeVar("T")

# A look is good for so long, or for so many times as long as it took: that bounds what looking costs a store.
GOOD_SECONDS = 1.0
GOOD_TIMES = 4.0
# How long a request waits for a look, or for its turn; and after how long an old look is no answer any more.
PATIENCE_SECONDS = 3.0
STALE_SECONDS = 30.0
# Postgres has less than half of that for a request: only a store that hangs takes longer.
ANSWER_SECONDS = 20.0


class Full(Exception):
    """As many ask as may, and they took too long."""


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What a look found, `seconds` ago; with an error, if there is one of the last look, it's of one before. With an
    error alone, that is so old."""

    found: T | None
    error: EtlError | None
    seconds: float


class Shared(Generic[T]):
    """The last look, which all who ask share: one at a time looks. For one event loop."""

    def __init__(self, name: str, look: Callable[[], T], outages: OutageLog) -> None:
        self._name = name
        self._look = look
        self._outages = outages
        self._running: asyncio.Future[T] | None = None
        self._began = 0.0
        self._found: tuple[T, float] | None = None  # and when
        self._failed: EtlError | None = None
        self._at = self._good_until = 0.0

    async def get(self) -> Seen[T] | None:
        """None if there is no look that isn't too old. Raises what `look` raises beside `EtlError`."""
        if time.monotonic() >= self._good_until:
            if self._running is None:
                self._began = time.monotonic()
                self._running = in_thread(self._name, self._look)
                self._running.add_done_callback(self._done)
            running = self._running
            await asyncio.wait([running], timeout=PATIENCE_SECONDS)
            if running.done() and running.exception() and not isinstance(running.exception(), EtlError):
                running.result()
        now = time.monotonic()
        failed = self._failed if now - self._at <= STALE_SECONDS else None
        if self._found and now - self._found[1] <= STALE_SECONDS:
            return Seen(self._found[0], failed, now - self._found[1])
        return Seen(None, failed, now - self._at) if failed else None

    def _done(self, running: "asyncio.Future[T]") -> None:
        self._running = None
        self._at = time.monotonic()
        self._good_until = self._at + max(GOOD_SECONDS, GOOD_TIMES * (self._at - self._began))
        error = running.exception()
        if error is None:
            self._found, self._failed = (running.result(), self._at), None
            self._outages.succeeded()
        elif isinstance(error, EtlError):
            self._failed = error
            self._outages.failed(error)


class Gate:
    """Lets only so many in at a time, whatever becomes of who asked. For one event loop."""

    def __init__(self, most: int, patience: float | None = None) -> None:
        """`patience` is how long who comes waits for a turn, in seconds: as for a look, if nothing is said."""
        self._free = asyncio.Semaphore(most)
        self._patience = patience

    async def through(self, name: str, work: Callable[[], T]) -> T:
        """Does it in a thread. Raises `Full` soon, and what `work` raises."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS if self._patience is None else self._patience):
                await self._free.acquire()
        except TimeoutError:
            raise Full from None
        done = in_thread(name, work)
        done.add_done_callback(lambda _: self._free.release())
        await asyncio.wait([done], timeout=ANSWER_SECONDS)
        if not done.done():  # it keeps its place until it ends
            raise Full
        return done.result()


def in_thread(name: str, work: Callable[[], T]) -> "asyncio.Future[T]":
    """Its result, or what it raises, in this event loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            _tell(loop, future.set_exception, error)
        else:
            _tell(loop, future.set_result, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _tell(loop: asyncio.AbstractEventLoop, tell: Callable[[T], None], what: T) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(tell, what)
