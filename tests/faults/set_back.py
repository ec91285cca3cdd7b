"""An archive whose Postgres has a standby or a backup, and is reached through a door that can lead elsewhere."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from etl.lab.proxy import Proxy
from etl.lab.servers.private import PrivatePostgres, PrivateRedis, PrivateStandby
from tests.faults import tally
from tests.faults.oracle import effects, lacking
from tests.faults.sample import SMALL_CLAIMS
from tests.faults.trial import Trial
from tests.world import Archive

DATABASE = "postgres"
# What a killed process wrote is in the kernel: no fsync is needed for that.
SETTINGS = {"fsync": "off"}
SYNCHRONOUS = {**SETTINGS, "synchronous_standby_names": "standby"}

_numbers = itertools.count(1)


class House(Trial):
    """The archive is reached through `door`."""

    def __init__(self, archive: Archive, server: PrivatePostgres, door: Proxy) -> None:
        super().__init__(archive, server, DATABASE)
        self.door = door

    def move_to(self, server: PrivatePostgres, what: str) -> None:
        """From here on, new connections get there. It must lack something, or nothing would be proved."""
        lacks = lacking(self.confirmed, effects(server, DATABASE))
        assert any(lacks.values()), "it has all that was confirmed"
        print(f"{what}: it lacks {lacks}")
        tally.note(what, "postgres", "while loading")
        self.server = server
        self.door.lead_to(server.socket)


@contextmanager
def house(
    folder: Path, backup: Path, store: PrivateRedis, settings: dict[str, str], installation: Path | None = None
) -> Iterator[House]:
    """Its Postgres begins with what `backup` has."""
    server = PrivatePostgres(folder / f"primary-{next(_numbers)}", settings, installation=installation)
    server.folder.mkdir()
    server.restore(backup, forks=False)
    with ExitStack() as stack:
        stack.callback(server.remove)
        stack.enter_context(server)
        door = stack.enter_context(Proxy(server.socket))
        client = stack.enter_context(redis.Redis.from_url(store.url))
        url = f"postgresql://postgres@127.0.0.1:{door.port}/{DATABASE}"
        yield House(Archive(store.url, url, client, more=SMALL_CLAIMS), server, door)


@contextmanager
def standby(house: House) -> Iterator[PrivateStandby]:
    """Of the house's server; it has all that is there now."""
    follower = PrivateStandby(house.server.folder.with_name(f"standby-{next(_numbers)}"), house.server, SETTINGS)
    try:
        with follower:
            follower.catch_up()
            yield follower
    finally:
        follower.remove()
