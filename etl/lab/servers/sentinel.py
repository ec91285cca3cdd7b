"""A Redis that fails over: a primary, a replica that follows it over a wire, and three sentinels that watch both.

The wire can be frozen and cut: what the replica lacks when it's promoted is what the primary did meanwhile. Sentinels
are patient here until something is expected of them, so that a busy machine isn't taken for a dead server, and so that
they don't send the replica, which follows at another address than theirs, back to the primary itself.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from etl.lab.proxy import Proxy
from etl.lab.servers.clock import Clock
from etl.lab.servers.process import wait_until
from etl.lab.servers.redis import CommandRefused, PrivateRedis, ValkeyServer, command, quoted

SERVICE = "mymaster"
SENTINELS = 3
QUORUM = 2
PATIENT_MS = 600_000
DOWN_AFTER_MS = 500  # a primary that is silent for so long is down
AGREE_SECONDS = 60.0
_REPLICATED = {"repl-diskless-sync-delay": "0"}  # seconds that a first replica would wait for a second one


class PrivateSentinel(ValkeyServer):
    """A sentinel that watches `primary`, and keeps in its file what it learns of others."""

    name = "sentinel"

    def __init__(self, folder: Path, primary: PrivateRedis) -> None:
        super().__init__(folder)
        self._primary = primary

    def knows(self) -> str:
        """Its line about the service: who is the primary, and how many replicas and sentinels there are."""
        (line,) = (line for line in command(self.port, "INFO", "sentinel").splitlines() if line.startswith("master0:"))
        return line

    def primary_port(self) -> int:
        """Where it says that the primary is."""
        address = self.knows().partition("address=")[2].partition(",")[0]
        return int(address.rpartition(":")[2])

    def _write_config(self) -> Sequence[str | Path]:
        file = self.folder / "sentinel.conf"
        if not self._port_is_ours:  # it was never up
            about = {
                "port": str(self.port),
                "bind": "127.0.0.1",
                "dir": quoted(str(self.folder)),
                "set-proc-title": "no",
                "sentinel monitor": f"{SERVICE} 127.0.0.1 {self._primary.port} {QUORUM}",
                "sentinel down-after-milliseconds": f"{SERVICE} {PATIENT_MS}",
                "sentinel failover-timeout": f"{SERVICE} {PATIENT_MS}",
            }
            file.write_text("".join(f"{name} {value}\n" for name, value in about.items()))
        return [file, "--sentinel"]


class NoFailOver(Exception):
    """The servers don't come to what they were to; the message says to what."""


class PrivateSentinels:
    """`first` is the primary to begin with, and may be there already; `second` is its replica, `wire` what the replica
    hears it by."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, str] | None = None,
        first: PrivateRedis | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = {**(config or {}), **_REPLICATED}
        self._folder = folder
        self._clock = clock
        self.first = first or PrivateRedis(folder / "first", self._config, clock=clock)
        self.second: PrivateRedis
        self.wire: Proxy
        self.sentinels: list[PrivateSentinel] = []
        self._servers = [self.first]
        self._open = ExitStack()

    @property
    def url(self) -> str:
        """By which the sentinels are asked for the primary of the moment."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def start(self) -> None:
        """Returns when the replica follows. Raises `NoFailOver` if it doesn't."""
        with ExitStack() as on_failure:
            on_failure.callback(self.stop)
            self.first.start()
            self.wire = self._open.enter_context(Proxy(self.first.port))
            following = {**self._config, "replicaof": f"127.0.0.1 {self.wire.port}"}
            self.second = PrivateRedis(self._folder / "second", following, clock=self._clock)
            self._servers.append(self.second)
            self.second.start()
            self._wait(self._follows, "the replica doesn't follow")
            self.sentinels = [
                PrivateSentinel(self._folder / f"sentinel-{number}", self.first) for number in range(1, SENTINELS + 1)
            ]
            on_failure.pop_all()

    def watch(self) -> None:
        """Start the sentinels; returns when they know each other and both servers. Raises `NoFailOver` if they don't
        come to."""
        for sentinel in self.sentinels:
            self._open.enter_context(sentinel)
        self._wait(self._agree, "the sentinels don't find each other")
        self._tell("DEBUG", "TILT-TRIGGER", str(PATIENT_MS))

    def stop(self) -> None:
        """Whatever of it is frozen, too."""
        self._open.close()
        for server in self._servers:
            server.stop()

    def hand_over(self) -> PrivateRedis:
        """Returns the second, which was promoted, and from now on goes on by itself; everything else ends."""
        self._servers.remove(self.second)
        self.stop()
        self.second.leads()
        return self.second

    def catch_up(self) -> None:
        """Returns when the replica has all that the primary did until now."""

        def even() -> bool:
            return _replication(self.first, "master_repl_offset") == _replication(self.second, "slave_repl_offset")

        self._wait(even, "the replica lags")

    def promoted(self) -> None:
        """Returns when all sentinels say that the second is the primary, and it takes writes; the first has to be down
        for that."""
        self._expect_silence_of(DOWN_AFTER_MS)
        # What sentinels do within ten seconds, they do within one from here on.
        self._tell("DEBUG", "INFO-PERIOD", "1000", "PUBLISH-PERIOD", "250")
        self._wait(lambda: all(map(self._is_promoted_for, self.sentinels)), "there is no fail-over")
        self._wait(lambda: _replication(self.second, "role") == "master", "nobody was promoted")
        self._expect_silence_of(PATIENT_MS)  # one fail-over is enough

    def fail_over(self) -> None:
        """An orderly one, as an administrator does it. Returns as `promoted`."""
        asked = self.sentinels[0]

        def done() -> bool:
            with suppress(CommandRefused):  # it's at it, or hasn't asked the replica yet how it is
                if not self._is_promoted_for(asked):
                    command(asked.port, "SENTINEL", "FAILOVER", SERVICE)
            return self._is_promoted_for(asked)

        self._wait(done, "the sentinels see no good replica")
        self.promoted()

    def look_away(self) -> None:
        """The sentinels are cut off: a former primary that comes back isn't told that it isn't one any more."""
        for sentinel in self.sentinels:
            sentinel.freeze()

    def gave_in(self) -> None:
        """Returns when the first, which runs again, was made the replica of the second and has all of it."""
        for sentinel in self.sentinels:
            sentinel.thaw()
        self._wait(lambda: _replication(self.first, "role") == "slave", "the former primary isn't told")
        self._wait(lambda: _replication(self.first, "master_link_status") == "up", "the former primary can't follow")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _expect_silence_of(self, milliseconds: int) -> None:
        """And nothing else is a dead primary."""
        after = min(milliseconds * 10, PATIENT_MS)
        self._tell("SET", SERVICE, "down-after-milliseconds", str(milliseconds), "failover-timeout", str(after))

    def _tell(self, *words: str) -> None:
        """Each of them; again if it doesn't answer in time: it answers nobody while the disk takes what it learned."""
        for sentinel in self.sentinels:
            self._wait(lambda at=sentinel.port: command(at, "SENTINEL", *words) == "OK", f"a sentinel is deaf: {words}")  # type: ignore[misc]

    def _is_promoted_for(self, sentinel: PrivateSentinel) -> bool:
        return sentinel.primary_port() == self.second.port

    def _follows(self) -> bool:
        return _replication(self.second, "master_link_status") == "up"

    def _agree(self) -> bool:
        known = f"status=ok,address=127.0.0.1:{self.first.port},slaves=1,sentinels={SENTINELS}"
        return all(known in sentinel.knows() for sentinel in self.sentinels)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def is_so() -> bool:
            with suppress(OSError):  # a primary that becomes a replica cuts its clients off
                return condition()
            return False

        if not wait_until(is_so, AGREE_SECONDS):
            raise NoFailOver(f"{what} (logs: {self._folder}/*/*.log)")


def _replication(server: PrivateRedis, field: str) -> str:
    """Of INFO; "" if it isn't there."""
    return command(server.port, "INFO", "replication").partition(f"\n{field}:")[2].partition("\r")[0]
