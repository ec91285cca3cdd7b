"""How much memory Redis has, and uses of it: by that it takes what the dialler pushes, or refuses it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etl.errors import ConfigurationError
from etl.findings import Finding
from etl.inbox.connection import Client
from etl.inbox.each import of_each
from etl.text import size

# Of maxmemory. Whose last hundredth is being used refuses a push now and takes one a moment later: what our own
# questions take of it comes and goes.
_FULL = 0.99
_NEARLY_FULL = 0.9


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one server. The limit is None if INFO lacks it; without maxmemory it's the machine's memory,
    which others use too. Used is what counts towards the limit."""

    server: str
    used_bytes: int
    limit_bytes: int | None
    has_maxmemory: bool

    @property
    def is_full(self) -> bool:
        """It refuses what the dialler pushes, or will within its last hundredth."""
        return self._uses(_FULL)

    @property
    def is_nearly_full(self) -> bool:
        return self._uses(_NEARLY_FULL)

    def _uses(self, share: float) -> bool:
        return self.has_maxmemory and self.limit_bytes is not None and self.used_bytes >= share * self.limit_bytes


def memory(client: Client) -> list[Memory] | None:
    """Of each server that takes writes; None if INFO is forbidden. Raises `Outage`."""
    try:
        return [_memory(name, about) for name, about in of_each(client, "info", "memory")]
    except ConfigurationError:
        return None


def _memory(name: str, about: dict[str, Any]) -> Memory:
    most, machine = int(about.get("maxmemory", 0)), int(about.get("total_system_memory", 0))
    used = int(about["used_memory"]) - int(about.get("mem_not_counted_for_evict", 0))
    return Memory(name, used, most or machine or None, bool(most))


def room(nodes: Sequence[Memory] | None) -> Finding:
    """Whether there is any, for `etl check`: of the fullest server."""
    about = "Redis memory"
    known = [node for node in nodes or () if node.limit_bytes]
    if not known:
        return Finding(about, "unknown", "INFO is forbidden, or doesn't tell it", "grant +info to this user")
    fullest = max(known, key=lambda node: (node.has_maxmemory, node.used_bytes / (node.limit_bytes or 1)))
    of = "" if fullest.has_maxmemory else " (the machine's: maxmemory isn't set)"
    says = f"{fullest.server} uses {size(fullest.used_bytes)} of {size(fullest.limit_bytes or 0)}{of}"
    if fullest.is_full:
        advice = "raise it now (CONFIG SET maxmemory), then see with `etl status` what waits, and why it isn't loaded"
        return Finding(about, "wrong", f"{says}: it's full and refuses what the dialler pushes", advice)
    if fullest.is_nearly_full:
        return Finding(
            about, "warning", f"{says}: when it's full it refuses what the dialler pushes", "raise maxmemory"
        )
    return Finding(about, "fine", says)
