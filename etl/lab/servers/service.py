"""Stores whose server changes behind an address that stays, as behind a virtual one: a Postgres that fails over to a
standby or is restored from a backup, and a Redis that fails over to its replica.

What lagged or is older lacks what was confirmed since: who asks at the door meets a store that forgot.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Self, TypeVar

from etl.lab.proxy import Proxy
from etl.lab.servers.clock import Clock
from etl.lab.servers.postgres import PrivatePostgres
from etl.lab.servers.process import PrivateServer
from etl.lab.servers.redis import PrivateRedis, command
from etl.lab.servers.sentinel import PrivateSentinels
from etl.lab.servers.standby import NAME, PrivateStandby

# Longer than any fail-over takes: the primary dies meanwhile.
PAUSE_MS = 600_000
WAITS_FOR_THE_STANDBY = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

Server = TypeVar("Server", bound=PrivateServer)


class _Service(Generic[Server]):
    """Both run from `with` on. Each new server has a folder of its own."""

    server: Server
    door: Proxy

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def __enter__(self) -> Self:
        self.server.start()
        self.door.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.door.__exit__()
        self.server.stop()

    def _next(self, what: str) -> Path:
        self._number += 1
        return self._folder / f"{what}-{self._number}"


class PostgresService(_Service[PrivatePostgres]):
    """`server` is the one that serves now, `door` leads to it. Its folders are `folder/postgres-1` and so on."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        standby_settings: Mapping[str, str] | None = None,
        installation: Path | None = None,
    ) -> None:
        super().__init__(folder)
        self._settings = standby_settings
        self.server = PrivatePostgres(self._next("postgres"), settings, installation=installation)
        self.door = Proxy(self.server.socket)

    @property
    def url(self) -> str:
        """By TCP, through the door."""
        return f"postgresql://postgres@127.0.0.1:{self.door.port}/postgres"

    def follow(self) -> PrivateStandby:
        """A new standby, which has all that is there now. Whoever doesn't promote it removes it."""
        standby = PrivateStandby(self._next("standby"), self.server, self._settings)
        standby.start()
        standby.catch_up()
        return standby

    def wait_for_a_standby(self) -> None:
        """From here on every commit does, also after a restart; and for good, if it doesn't answer."""
        self.server.ask(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")
        self.server.ask("SELECT pg_reload_conf()")

    def waiting(self) -> int:
        """How many commits wait for a standby."""
        return int(self.server.ask(WAITS_FOR_THE_STANDBY)[0])

    def fail_over(self, standby: PrivateStandby) -> None:
        """The server dies, and the standby serves with what it has."""
        former = self.server
        former.kill()
        standby.promote()
        self.move_to(standby)
        former.remove()

    def move_to(self, server: PrivatePostgres) -> None:
        """New connections lead there; the others stay where they lead."""
        self.server = server
        self.door.lead_to(server.socket)

    def back_up(self) -> Path:
        """The folder of a base backup."""
        backup = self._next("backup")
        self.server.back_up(backup)
        return backup

    def restore(self, backup: Path, forks: bool) -> None:
        """The server dies, and serves with what the backup has, which is gone then. If it `forks`: see
        `PrivatePostgres.restore`."""
        self.server.kill()
        self.server.restore(backup, forks)
        shutil.rmtree(backup)
        self.server.start()


class RedisService(_Service[PrivateRedis]):
    """`server` is the one that serves now, `door` leads to it. Its folders are `folder/redis-1` and so on."""

    def __init__(self, folder: Path, config: Mapping[str, str] | None = None, clock: Clock | None = None) -> None:
        super().__init__(folder)
        self._config = config
        self._clock = clock
        self.server = PrivateRedis(self._next("redis"), config, clock=clock)
        self.door = Proxy(self.server.port)

    @property
    def url(self) -> str:
        """Through the door."""
        return f"redis://127.0.0.1:{self.door.port}/0"

    def fail_over(self) -> None:
        """The primary dies with all that it confirmed on its replica, and three sentinels promote that."""
        with PrivateSentinels(self._next("redis"), self._config, self.server, self._clock) as group:
            group.watch()
            # Nobody can write any more, but for what the replica is sent.
            command(self.server.port, "CLIENT", "PAUSE", str(PAUSE_MS), "WRITE")
            group.catch_up()
            self.server.kill()
            group.promoted()
            self.server = group.hand_over()
        self.door.lead_to(self.server.port)
