"""An archive whose Postgres has a standby or a backup, and is reached through a door that can lead elsewhere."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from etl.lab.oracle import lacking
from etl.lab.servers.private import PostgresService, PrivateRedis, PrivateStandby
from tests.faults import tally
from tests.faults.oracle import effects
from tests.faults.sample import SMALL_CLAIMS
from tests.faults.trial import Trial
from tests.world import Archive

DATABASE = "postgres"
# What a killed process wrote is in the kernel: no fsync is needed for that.
SETTINGS = {"fsync": "off"}
SYNCHRONOUS = {**SETTINGS, "synchronous_standby_names": "standby"}

_numbers = itertools.count(1)


class House(Trial):
    """The archive is reached through the door of `service`."""

    def __init__(self, archive: Archive, service: PostgresService) -> None:
        super().__init__(archive, service.server, DATABASE)
        self.service = service

    def moved(self, what: str) -> None:
        """The server that serves now must lack something, or nothing would be proved."""
        self.server = self.service.server
        lacks = lacking(self.confirmed, effects(self.server, DATABASE))
        assert any(lacks.values()), "it has all that was confirmed"
        print(f"{what}: it lacks {lacks}")
        tally.note(what, "postgres", "while loading")


@contextmanager
def house(
    folder: Path, backup: Path, store: PrivateRedis, settings: dict[str, str], installation: Path | None = None
) -> Iterator[House]:
    """Its Postgres begins with what `backup` has."""
    service = PostgresService(folder / f"house-{next(_numbers)}", settings, SETTINGS, installation)
    first = service.server
    first.restore(backup, forks=False)
    with ExitStack() as stack:
        stack.callback(first.remove)
        stack.enter_context(service)
        client = stack.enter_context(redis.Redis.from_url(store.url))
        yield House(Archive(store.url, service.url, client, more=SMALL_CLAIMS), service)


@contextmanager
def standby(house: House) -> Iterator[PrivateStandby]:
    """Of the house's server; it has all that is there now."""
    follower = house.service.follow()
    try:
        yield follower
    finally:
        follower.remove()
