"""What is worked out of a channel's name, once for each: a dialler has one for each agent and campaign, and publishes
on the same ones all day.

Anybody may publish on others. So few are remembered, and no long one: together they take some 20 MiB at most, and those
of 500 agents less than one.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

Name = TypeVar("Name", str, bytes)
Found = TypeVar("Found")

REMEMBERED = 10_000
# Characters, or bytes. A dialler's are a third of it.
LONGEST = 128


def once_a_channel(work_out: Callable[[Name], Found]) -> Callable[[Name], Found]:
    """Of the name of a channel, or one as the spool has it, what `work_out` gives, which nobody may change."""
    remembered = lru_cache(REMEMBERED)(work_out)

    def found(name: Name) -> Found:
        return remembered(name) if len(name) <= LONGEST else work_out(name)

    return found
