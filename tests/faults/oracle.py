"""Remembers what was pushed and what Postgres confirmed, and says after a store forgot what is lost and what is there
twice."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from etl.lab import oracle
from etl.lab.oracle import Effects, lacking
from etl.lab.servers.private import PrivatePostgres
from tests.faults.dialler import Dialler

_QUESTIONS = {
    "CDRs": "SELECT source || ' ' || call_ref FROM cdrs",
    "list events": "SELECT reference FROM audit_events WHERE origin = 'list'",
    "spool events": "SELECT payload ->> 'n' FROM audit_events WHERE origin = 'pubsub'",
    "dead letters": "SELECT encode(raw, 'hex') FROM dead_letters",
}


class Forgotten(AssertionError):
    """Something that was confirmed is gone, or there twice."""


def effects(server: PrivatePostgres, database: str) -> Effects:
    """What this server has."""
    return oracle.effects(server, _QUESTIONS, database)


def pushed(dialler: Dialler, published: int) -> Effects:
    """What there has to be in the end; spool events are numbered from 0."""
    said = dialler.acknowledged
    broken = {message: copies for message, copies in said.items() if not message.identity and not message.event}
    return {
        "CDRs": Counter({" ".join(message.identity) for message in said if message.identity}),
        "list events": Counter({message.event: copies for message, copies in said.items() if message.event}),
        "spool events": Counter(map(str, range(published))),
        "dead letters": Counter({message.raw.hex(): copies for message, copies in broken.items()}),
    }


@dataclass(frozen=True)
class Verdict:
    """In numbers, by kind."""

    pushed: Mapping[str, int]
    confirmed: Mapping[str, int]  # before the store forgot
    rows: Mapping[str, int]  # in the end
    missing: Mapping[str, int]  # of those pushed
    lost: Mapping[str, int]  # of those confirmed
    doubled: Mapping[str, int]

    def __str__(self) -> str:
        names = ("pushed", "confirmed", "rows", "missing", "lost", "doubled")
        lines = (f"{name}: " + ", ".join(f"{n} {kind}" for kind, n in getattr(self, name).items()) for name in names)
        return "\n".join(lines)

    def assert_nothing_is_lost_or_doubled(self) -> None:
        print(self)
        if any(self.lost.values()) or any(self.doubled.values()):
            raise Forgotten(str(self))
        assert not any(self.missing.values()), str(self)


def judge(pushed: Effects, confirmed: Effects, now: Effects) -> Verdict:
    def numbers(counted: Effects) -> dict[str, int]:
        return {kind: counter.total() for kind, counter in counted.items()}

    return Verdict(
        numbers(pushed),
        numbers(confirmed),
        numbers(now),
        lacking(pushed, now),
        lacking(confirmed, now),
        lacking(now, pushed),
    )
