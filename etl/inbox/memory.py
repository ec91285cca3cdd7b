"""How much memory Redis has, and how much of it is used."""

from dataclasses import dataclass
from typing import Any

from etl.errors import ConfigurationError
from etl.inbox.connection import Client
from etl.inbox.preflight import of_each


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one server. The limit is None if the server doesn't tell; if it has no maxmemory, it's the machine's memory,
    which others use too."""

    server: str
    used_bytes: int
    limit_bytes: int | None
    has_maxmemory: bool


def memory(client: Client) -> list[Memory] | None:
    """Of each server that takes writes; None if INFO is forbidden. Raises `Outage`."""
    try:
        return [_memory(name, about) for name, about in of_each(client, "info", "memory")]
    except ConfigurationError:
        return None


def _memory(name: str, about: dict[str, Any]) -> Memory:
    most, machine = int(about.get("maxmemory", 0)), int(about.get("total_system_memory", 0))
    return Memory(name, int(about["used_memory"]), most or machine or None, bool(most))
