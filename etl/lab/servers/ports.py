"""Ports of this machine for private servers, each promised to one server at a time, in whichever process it is.

A port that is free when it's chosen may be another's when it's bound, or while its server is down for a moment: many
tests start and kill many servers at once. So who chooses a TCP port holds the UDP port of the same number, which no
server of ours uses, and the kernel gives to one process only; it's free again when its holder is gone, however it died.
"""

import random
import socket
import weakref
from contextlib import suppress

from etl.errors import ConfigurationError

BUS_OFFSET = 10_000  # from a cluster node's port to that of its bus: Redis's own default
PORTS = range(20_000, 22_768)  # with the bus, below the ports that Linux gives to outgoing connections
_DICE = random.SystemRandom()  # tests seed the other ones, all processes with the same


class Port:
    """A port at random that nobody listens on, nor on the one that would be its cluster bus; no other server of ours
    gets it as long as this object lives."""

    def __init__(self) -> None:
        for number in _DICE.sample(PORTS, len(PORTS)):
            if promise := _promised(number):
                weakref.finalize(self, promise.close)
                self.number = number
                return
        raise ConfigurationError("ETL-919", f"no free port between {PORTS.start} and {PORTS.stop}")


_for_good: list[Port] = []


def free_port() -> int:
    """As `Port`, for as long as this process lives."""
    _for_good.append(Port())
    return _for_good[-1].number


def _promised(number: int) -> socket.socket | None:
    """None if it's somebody else's."""
    promise = socket.socket(type=socket.SOCK_DGRAM)
    with suppress(OSError):
        promise.bind(("127.0.0.1", number))
        if can_bind(number) and can_bind(number + BUS_OFFSET):
            return promise
    promise.close()
    return None


def can_bind(port: int) -> bool:
    """Whether a server of ours could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
