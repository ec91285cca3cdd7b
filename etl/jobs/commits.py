"""Commits that wait for the synchronous standby: for as long as they do nothing is acknowledged, and that's told."""

import threading
from collections.abc import Callable
from typing import Any

from etl.errors import EtlError

LOOK_SECONDS = 2.0
LONG_SECONDS = 10.0


class CommitWatch:
    """`waiting` gives for how many seconds the longest one has waited for a standby, 0 if none does."""

    def __init__(self, waiting: Callable[[float], float], log: Any) -> None:
        self._waiting = waiting
        self._log = log

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Logs once for each wait."""
        said = False
        while not stop.wait(LOOK_SECONDS):
            try:
                seconds = self._waiting(LONG_SECONDS)
            except EtlError:  # for the loaders to tell
                continue
            if seconds and not said:
                self._log.warning("waiting_for_standby", seconds=round(seconds, 1))
            said = bool(seconds)
