"""The other kinds of Redis: a cluster, and a master behind a sentinel. One of each a session; the tests of one file
leave nothing in them that those of another would find."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
import redis

from etl.lab.servers.ports import free_port
from etl.lab.servers.private import PrivateCluster, PrivateRedis
from etl.lab.servers.process import launch
from etl.lab.servers.redis import find_binary
from tests.world import eventually

SERVICE = "mymaster"
PASSWORD = "hunter2"


@pytest.fixture(scope="session")
def cluster(session_folder: Path) -> Iterator[PrivateCluster]:
    with PrivateCluster(session_folder / "cluster") as servers:
        yield servers


@dataclass(frozen=True)
class Watched:
    """A master with `PASSWORD` and the sentinel that knows it as `SERVICE`."""

    master: PrivateRedis
    sentinel: "Sentinel"


@pytest.fixture(scope="session")
def watched(session_folder: Path) -> Iterator[Watched]:
    folder = session_folder / "watched"
    with PrivateRedis(folder, {"requirepass": PASSWORD}) as master, Sentinel(folder, master.port) as sentinel:
        yield Watched(master, sentinel)


class Sentinel:
    """A sentinel: the same program, with a file of settings that it rewrites."""

    def __init__(self, folder: Path, master_port: int, bind: str = "127.0.0.1", master: str = "127.0.0.1") -> None:
        self.port = free_port()
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            f'port {self.port}\nbind {bind}\ndir "{folder}"\n'
            f"sentinel monitor {SERVICE} {master} {master_port} 1\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
        )

    def __enter__(self) -> Self:
        command = (find_binary(), self._config, "--sentinel")
        self._process = launch(command, self._config.with_suffix(".log"), signal.SIGKILL, owner=None)
        eventually(self._answers, what="the sentinel did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def url(self, password: str = PASSWORD, service: str = SERVICE) -> str:
        return f"redis+sentinel://:{password}@127.0.0.1:{self.port}/{service}/0"

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), redis.Redis(port=self.port) as client:
            return bool(client.ping())
        return False
