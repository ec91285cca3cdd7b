"""How long Redis's memory lasts at the present growth of the backlog. Computes only: the caller takes the samples."""

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from etl.inbox.memory import Memory

# Between the samples that are compared: long enough that a claim's coming and going is no growth, short enough that an
# outage's end is seen.
WINDOW_SECONDS = 300.0


class Sample(NamedTuple):
    """What was seen at a moment, in seconds of any clock that only goes forward: how many messages
    wait, and the memory of each server; None if it may not be known."""

    at: float
    backlog: int
    memory: Sequence[Memory] | None


class Runway:
    """Remembers the samples of the last `WINDOW_SECONDS`, and always the last two."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at - self._samples[0].at > WINDOW_SECONDS:
            self._samples.popleft()

    def seconds(self) -> float | None:
        """Until the first server is full: 0 if one is, whose backlog doesn't grow since nothing gets in. Infinity while
        the backlog doesn't grow, or no memory does with it. None if it can't be known: before the second sample, or if
        no server's limit is known."""
        if not self._samples:
            return None
        first, last = self._samples[0], self._samples[-1]
        if any(node.is_full for node in last.memory or ()):
            return 0.0
        elapsed = last.at - first.at
        if elapsed <= 0:
            return None
        if last.backlog <= first.backlog:
            return math.inf
        before = {node.server: node.used_bytes for node in first.memory or ()}
        lasts = [
            _lasts(node.limit_bytes - node.used_bytes, (node.used_bytes - before[node.server]) / elapsed)
            for node in last.memory or ()
            if node.limit_bytes is not None and node.server in before
        ]
        return min(lasts, default=None)


def _lasts(free: int, growth: float) -> float:
    """Bytes, and bytes per second."""
    return max(0, free) / growth if growth > 0 else math.inf
