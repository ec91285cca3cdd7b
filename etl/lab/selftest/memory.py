"""How much memory each process holds over time, and whether it grows."""

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

EVERY_SECONDS = 2.0
ENOUGH_SECONDS = 120.0  # of one life; in less its growth can't be judged
# From the second quarter of a life to its last: a buffer here, a connection there.
SLACK_SHARE, SLACK_BYTES = 0.10, 8 << 20
_MIB = 1 << 20


class Growth(NamedTuple):
    """The longest life of a process of that name: resident memory in MiB."""

    name: str
    seconds: float
    start: float
    median: float
    largest: float
    end: float
    second_quarter: float  # medians
    last_quarter: float

    @property
    def is_flat(self) -> bool | None:
        """None if it didn't live long enough to judge."""
        if self.seconds < ENOUGH_SECONDS:
            return None
        slack = max(self.second_quarter * SLACK_SHARE, SLACK_BYTES / _MIB)
        return self.last_quarter <= self.second_quarter + slack


class MemoryWatch:
    """Samples of every process, from /proc; without it there are none."""

    def __init__(self) -> None:
        self._lives: defaultdict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)

    def sample(self, pids: Mapping[str, int | None]) -> None:
        """By the processes' names."""
        for name, pid in pids.items():
            if pid is not None:
                self._sample(name, pid)

    def growth(self) -> list[Growth]:
        """By name, of the longest life of each that was seen more than once."""
        longest: dict[str, list[tuple[float, float]]] = {}
        for (name, _), life in self._lives.items():
            if len(life) > len(longest.get(name, [0])):
                longest[name] = life
        return [_growth(name, life) for name, life in sorted(longest.items())]

    def add(self, name: str, pid: int, seconds: float, mebibytes: float) -> None:
        self._lives[name, pid].append((seconds, mebibytes))

    def _sample(self, name: str, pid: int) -> None:
        with suppress(OSError, IndexError):  # it ended just now, or there is no /proc
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            self.add(name, pid, time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE") / _MIB)


def _growth(name: str, life: list[tuple[float, float]]) -> Growth:
    sizes = [size for _, size in life]
    quarter = max(1, len(sizes) // 4)
    return Growth(
        name,
        seconds=life[-1][0] - life[0][0],
        start=sizes[0],
        median=median(sizes),
        largest=max(sizes),
        end=sizes[-1],
        second_quarter=median(sizes[quarter : 2 * quarter] or sizes),
        last_quarter=median(sizes[-quarter:]),
    )
