"""A seed's faults: what befalls which target, and when. The same seed makes the same plan; `faults` carries it out."""

from collections.abc import Collection, Iterator
from random import Random
from typing import NamedTuple

# Two loaders and a listener that are killed at random; one of each that never is, so that its memory can be watched.
STEADY_LOADER, LOADERS = "loader-0", ("loader-1", "loader-2")
STEADY_LISTENER, LISTENER = "listener-0", "listener-1"
EXPORTER = "exporter"
REDIS, POSTGRES, REDIS_WIRE, POSTGRES_WIRE = "redis", "postgres", "redis wire", "postgres wire"
LAKE_TARGET = "lake"
SOURCE_KEY = "a source key"
HOST_CLOCK, REDIS_CLOCK = "the host's clock", "Redis' clock"
SERVERS = (REDIS, POSTGRES)

LEASE_SECONDS = 10  # the shortest that the settings allow
CALM_SECONDS = 2.0  # at the start, for the processes to come up

_AT_ONCE, _A_MOMENT, _A_WHILE = (0.0, 0.0), (0.0, 2.0), (1.0, 5.0)
_BEYOND_A_LEASE = (LEASE_SECONDS + 1.0, LEASE_SECONDS + 4.0)
_BEYOND_THE_LOCK = (9.0, 12.0)  # of the listener
_LIFE_OF_AN_EXPORT = (0.3, 2.5)  # on two cores; most of it is the start
_UNTIL_IT_IS_SENT = (8.0, 8.0)  # the longest wait for the command

_KILLED = [("kill", _A_MOMENT), ("stop", _A_MOMENT), ("freeze", _A_WHILE), ("freeze", _BEYOND_A_LEASE)]
# What makes a store forget, or change its server.
PROMOTE = "promote the lagging standby of"
RESTART_AND_PROMOTE = "restart in a synchronous wait, then promote the standby of"
RESTORE = "restore an earlier backup of"
FAIL_OVER = "promote the replica of"
SET_BACKS = (PROMOTE, RESTART_AND_PROMOTE, RESTORE)
_SERVER = [("kill", _A_MOMENT), ("stop", _A_MOMENT), ("freeze", _A_WHILE)]
_WIRE = [("cut", _A_WHILE), ("silence", _A_WHILE)]

# For each target: how many seconds pass between two faults, and what befalls it, for how long. A kill's or a stop's
# length is the time until it's started again; an exporter's, the time from its start to the blow; a set-back's, for how
# long the standby lags, or since when the backup is.
_DECKS: dict[str, tuple[tuple[float, float], list[tuple[str, tuple[float, float]]]]] = {
    STEADY_LOADER: ((8.0, 25.0), [("freeze", _A_WHILE), ("freeze", _BEYOND_A_LEASE)]),
    LOADERS[0]: ((2.0, 8.0), [*_KILLED, ("kill", _A_MOMENT), ("kill", _A_MOMENT)]),
    LOADERS[1]: ((2.0, 8.0), [*_KILLED, ("kill", _A_MOMENT), ("kill", _A_MOMENT)]),
    STEADY_LISTENER: ((15.0, 40.0), [("freeze", _A_WHILE), ("freeze", _BEYOND_THE_LOCK)]),
    LISTENER: ((8.0, 20.0), [("kill", _A_MOMENT), ("kill", _A_MOMENT), ("stop", _A_MOMENT), ("freeze", _A_WHILE)]),
    EXPORTER: ((3.0, 8.0), [("kill", _LIFE_OF_AN_EXPORT), ("kill", _LIFE_OF_AN_EXPORT), ("freeze", _A_WHILE)]),
    REDIS: ((8.0, 20.0), [*_SERVER, ("fill", _A_WHILE), (FAIL_OVER, _AT_ONCE)]),
    POSTGRES: ((6.0, 16.0), [*_SERVER, *((kind, _A_WHILE) for kind in SET_BACKS)]),
    REDIS_WIRE: (
        (4.0, 12.0),
        [*_WIRE, *((f"lose the {what} of {verb}", _UNTIL_IT_IS_SENT)
                   for what in ("command", "answer") for verb in ("claim", "ack"))],
    ),
    POSTGRES_WIRE: (
        (4.0, 12.0),
        [*_WIRE, ("lose the command of commit", _UNTIL_IT_IS_SENT), ("lose the answer of commit", _UNTIL_IT_IS_SENT)],
    ),
    SOURCE_KEY: ((15.0, 40.0), [("make a hash of", _A_WHILE)]),
    HOST_CLOCK: ((15.0, 40.0), [("step", _A_WHILE)]),
    REDIS_CLOCK: ((15.0, 40.0), [("step", _A_WHILE)]),
    LAKE_TARGET: ((10.0, 25.0), [("lock", _A_WHILE)]),
}  # fmt: skip


class Fault(NamedTuple):
    """At `at` seconds from the start `kind` befalls `target`, for `seconds`."""

    at: float
    target: str
    kind: str
    seconds: float


def plan(seed: int, seconds: float, spared: Collection[str] = ()) -> list[Fault]:
    """The faults of a selftest of that length, in the order of their beginnings. Those of one target don't overlap."""
    targets = [target for target in _DECKS if target not in spared]
    return sorted(fault for target in targets for fault in _befalling(target, Random(f"{seed} {target}"), seconds))


def _befalling(target: str, dice: Random, until: float) -> Iterator[Fault]:
    (shortest, longest), deck = _DECKS[target]
    at = CALM_SECONDS + dice.uniform(0.0, shortest)
    while True:
        # Dealt like cards, so that everything happens before anything happens once more.
        for kind, (least, most) in dice.sample(deck, len(deck)):
            seconds = round(dice.uniform(least, most), 2)
            if at + seconds > until:
                return
            yield Fault(round(at, 2), target, kind, seconds)
            at += seconds + dice.uniform(shortest, longest)
