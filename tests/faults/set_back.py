"""An archive whose Postgres has a standby, and is reached through a door that can be led to another server; with a
dialler and a PubSub whose every message is remembered."""

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import redis

from etl.keys import SPOOL
from etl.lab.proxy import Proxy
from etl.lab.servers.private import PrivatePostgres, PrivateRedis, PrivateStandby
from tests.faults import tally
from tests.faults.dialler import Dialler
from tests.faults.oracle import Effects, effects, judge, lacking, pushed
from tests.faults.sample import SEED, SMALL_CLAIMS
from tests.faults.worker import Worker
from tests.world import Archive, eventually

CHANNEL = "enigma:notifications:agents:1002"
# What a killed process wrote is in the kernel: no fsync is needed for that.
SETTINGS = {"fsync": "off"}
SYNCHRONOUS = {**SETTINGS, "synchronous_standby_names": "standby"}

_numbers = itertools.count(1)


class House:
    """`archive` is reached through `door`; `server` is the Postgres that holds it now."""

    def __init__(self, archive: Archive, server: PrivatePostgres, door: Proxy, dialler: Dialler) -> None:
        self.archive = archive
        self.server = server
        self.door = door
        self.dialler = dialler
        self.confirmed: Effects = {}
        self._published = 0

    def load(self, worker: Worker, messages: int = 200) -> None:
        """Push and publish so much, and return when all of it is in Postgres and none of it in Redis."""
        self.dialler.say(messages)
        for _ in range(messages // 20):
            self.publish()
        self.wait_until_loaded(worker)

    def publish(self) -> None:
        """A message that the listener hears."""
        status = {"type": "status", "payload": {"status": "busy", "ref": "1002", "n": self._published}}
        eventually(lambda: self.archive.redis.publish(CHANNEL, json.dumps(status)), what="nobody listens")
        self._published += 1

    def wait_until_loaded(self, worker: Worker) -> None:
        def loaded() -> bool:
            assert worker.process.poll() is None, "it ended"
            has, wanted = effects(self.server), pushed(self.dialler, self._published)
            return self._is_redis_empty() and all(not wanted[kind] - has[kind] for kind in wanted)

        eventually(loaded, what=f"it doesn't get loaded: {lacking(self.server, pushed(self.dialler, self._published))}")

    def remember(self) -> None:
        """What Postgres has now is confirmed."""
        self.confirmed = effects(self.server)

    def move_to(self, server: PrivatePostgres, kind: str) -> None:
        """From here on, new connections get there. It must lack something, or nothing would be proved."""
        assert any(lacking(server, self.confirmed).values()), "it has all that was confirmed"
        tally.note(kind, "postgres", "while loading")
        self.server = server
        self.door.lead_to(server.socket)

    def assert_nothing_is_lost_or_doubled(self) -> None:
        """After everything that waits was loaded, by whoever still runs and by one more run."""
        done = self.archive.run("run")
        assert done.returncode == 0, done.stderr
        judge(
            pushed(self.dialler, self._published), self.confirmed, effects(self.server)
        ).assert_nothing_is_lost_or_doubled()
        with replace(self.archive) as archive:
            self.dialler.meet(archive)
            self.dialler.assert_all_took_effect_once()

    def is_whole(self) -> bool:
        """All that was pushed is in Postgres."""
        has, wanted = effects(self.server), pushed(self.dialler, self._published)
        return all(not wanted[kind] - has[kind] for kind in wanted)

    def _is_redis_empty(self) -> bool:
        lists = {SPOOL, *(source.key for source in self.archive.sources)}
        keys = self.archive.keys()
        return lists.isdisjoint(keys) and not any(":claim" in key for key in keys)


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
        url = f"postgresql://postgres@127.0.0.1:{door.port}/postgres"
        archive = Archive(store.url, url, client, more=SMALL_CLAIMS)
        yield House(archive, server, door, Dialler(archive, SEED))


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
