"""Waiting for a store that is away, with back-off."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from etl.errors import Contention, EtlError, Outage
from etl.logs import OutageLog

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Stopped(Exception):
    """`stop` was set during an outage, or a long step. Nothing took effect."""


class Patience:
    """Repeats a step until no `Outage` comes of it.

    Gives up after `seconds` of one outage (never, if None), and at once when `stop` is set. Calls `alive` before every
    attempt. `clock` gives seconds. With `gives_way` it raises a `Contention` at once: who has other things to do isn't
    to wait for one lock.
    """

    def __init__(
        self,
        log: Any,
        stop: threading.Event,
        seconds: float | None = None,
        alive: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        *,
        gives_way: bool = False,
    ) -> None:
        self._log = log
        self._stop = stop
        self._seconds = seconds
        self._alive = alive
        self._clock = clock
        self._gives_way = gives_way

    def hurry(self) -> None:
        """From now on give up at once: others have waited."""
        self._seconds = 0.0

    def go_on(self) -> None:
        """For a step that takes long, now and then. Raises `Stopped` when `stop` is set."""
        self._alive()
        if self._stop.is_set():
            raise Stopped

    def retry(self, step: Callable[[], T]) -> T:
        """What `step` returns. Raises `Outage` when it gives up or gives way, `Stopped` when `stop` is set."""
        outages = OutageLog(self._log, "outage_began", "outage_ended", self._clock)
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._alive()
            try:
                result = step()
            except Outage as outage:
                if self._gives_way and isinstance(outage, Contention):
                    outages.succeeded()
                    if self._stop.is_set():
                        raise Stopped from outage
                    raise
                lasted = outages.failed(outage)
                if self._seconds is not None and lasted > self._seconds:
                    raise
            except EtlError:  # an answer, if not the one we wanted
                outages.succeeded()
                raise
            else:
                outages.succeeded()
                return result
            if self._stop.wait(pause):
                raise Stopped
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
