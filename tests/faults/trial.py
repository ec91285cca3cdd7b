"""What the trials of a store that forgets share: an archive under load, and everything that it was told and that it
confirmed."""

import json
from dataclasses import replace

from etl.keys import SPOOL
from etl.lab.oracle import Effects, lacking
from etl.lab.servers.private import PrivatePostgres
from tests.faults.dialler import Dialler
from tests.faults.oracle import effects, judge, pushed
from tests.faults.sample import SEED
from tests.faults.worker import Worker
from tests.world import Archive, eventually

CHANNEL = "enigma:notifications:agents:1002"


class Trial:
    """`server` is the Postgres that holds the archive now, in its database `database`."""

    def __init__(self, archive: Archive, server: PrivatePostgres, database: str) -> None:
        self.archive = archive
        self.server = server
        self.database = database
        self.dialler = Dialler(archive, SEED)
        self.confirmed: Effects = {}
        self._published = 0

    def tell(self, messages: int = 200) -> None:
        """Push so many, and publish some."""
        self.dialler.say(messages)
        for _ in range(messages // 20):
            self.publish()

    def publish(self) -> None:
        """A message that the listener hears."""
        status = {"type": "status", "payload": {"status": "busy", "ref": "1002", "n": self._published}}
        eventually(lambda: self.archive.redis.publish(CHANNEL, json.dumps(status)), what="nobody listens")
        self._published += 1

    def load(self, worker: Worker, messages: int = 200) -> None:
        """Push and publish, and return when all of it is in Postgres and none of it in Redis."""
        self.tell(messages)
        self.wait_until_loaded(worker)

    def wait_until_loaded(self, worker: Worker) -> None:
        def loaded() -> bool:
            assert worker.process.poll() is None, "it ended"
            return self._is_redis_empty() and self.is_whole()

        eventually(loaded, what="it doesn't get loaded")

    def is_whole(self) -> bool:
        """All that was pushed and published is in Postgres."""
        return not any(lacking(self._wanted(), effects(self.server, self.database)).values())

    def remember(self) -> None:
        """What Postgres has now is confirmed."""
        self.confirmed = effects(self.server, self.database)

    def assert_nothing_is_lost_or_doubled(self) -> None:
        """After everything that waits was loaded, by one more run."""
        done = self.archive.run("run")
        assert done.returncode == 0, done.stderr
        verdict = judge(self._wanted(), self.confirmed, effects(self.server, self.database))
        verdict.assert_nothing_is_lost_or_doubled()
        with replace(self.archive) as archive:
            self.dialler.meet(archive)
            self.dialler.assert_all_took_effect_once()

    def _wanted(self) -> Effects:
        return pushed(self.dialler, self._published)

    def _is_redis_empty(self) -> bool:
        lists = {SPOOL, *(source.key for source in self.archive.sources)}
        keys = self.archive.keys()
        return lists.isdisjoint(keys) and not any(":claim" in key for key in keys)
