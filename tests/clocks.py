"""Servers whose clocks a test may set, and whether it can: see `etl.lab.servers.clock`."""

import time
from collections.abc import Callable

import pytest

from etl.lab.servers.clock import SEEN_WITHIN_SECONDS, Clock
from tests.world import eventually

HOUR, DAY = 3_600, 86_400

settable = pytest.mark.skipif(
    Clock.library() is None, reason="no clock can be set without libfaketime: Debian's package faketime"
)


def step(clock: Clock, seconds: float, shown: Callable[[], float]) -> None:
    """Set the clock so far from this machine's, and wait until who goes by it shows that."""
    clock.step(seconds)
    eventually(lambda: abs(shown() - time.time() - seconds) < 5, what="the clock wasn't set")


def wait_until_seen() -> None:
    """After a clock was set: a process remembers the time for a moment, and hands that down to its children."""
    later = time.monotonic() + SEEN_WITHIN_SECONDS
    eventually(lambda: time.monotonic() > later)
