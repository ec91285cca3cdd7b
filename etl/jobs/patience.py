"""Waiting for a store that is away: with back-off, saying so once when it begins and once when it ends."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from etl.errors import EtlError, Outage

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Stopped(Exception):
    """We were asked to stop while we waited. Nothing took effect."""


class Patience:
    """Repeats a step until no `Outage` comes of it.

    Gives up after `seconds` of one outage (never, if None), and at once when `stop` is set. Calls `alive` before every
    attempt. `clock` gives seconds.
    """

    def __init__(
        self,
        log: Any,
        stop: threading.Event,
        seconds: float | None = None,
        alive: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._stop = stop
        self._seconds = seconds
        self._alive = alive
        self._clock = clock

    def ride_out(self, step: Callable[[], T]) -> T:
        """What `step` returns. Raises `Outage` when it gives up, `Stopped` when it's told to."""
        began: float | None = None
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._alive()
            try:
                result = step()
            except Outage as outage:
                if began is None:
                    began = self._clock()
                    self._log.warning("outage_began", error=outage.text, code=outage.code)
                elif self._seconds is not None and self._clock() - began > self._seconds:
                    raise
            except EtlError:  # an answer, if not the one we wanted
                self._tell_end(began)
                raise
            else:
                self._tell_end(began)
                return result
            if self._stop.wait(pause):
                raise Stopped
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _tell_end(self, began: float | None) -> None:
        if began is not None:
            self._log.warning("outage_ended", seconds=round(self._clock() - began, 1))
