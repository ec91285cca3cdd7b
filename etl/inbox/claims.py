"""Claims: batches of messages that were taken off a source list and are not yet in Postgres.

    source list ──claim──▶ {source}:claim:<batch_id> ──ack──▶ kept for a while, see `etl.inbox.kept`
                                 ▲    │ lease runs out
                                 └────┘ adopt

Each arrow is one Lua script, so each message is in exactly one list at any moment. The rest of the program holds a
`Claim` and never sees a key.

The order of claiming decides which version of a call is the newer one. So the time in a claim's batch_id comes from
Redis and, within a list, is later than that of every earlier claim, whatever worker made it and wherever clocks were
set. `{source}:last` keeps the time of the last claim. Loaders of 0.1 use their own host's time and keep none.

Of a message that a list was given back, by a replica that didn't know the claim or from a backup, only its place in the
list is known: its running number, which `{source}:last` keeps too. See claim.lua.
"""

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, cast
from uuid import UUID

import redis
from redis.crc import key_slot

from etl.errors import ConfigurationError, Forbidden, LeaseLost, Outage
from etl.ids import time_of, unix_ms_of, uuid7
from etl.inbox.connection import Client
from etl.inbox.replicas import Confirmation, Replicas
from etl.inbox.scripts import Script, of_node
from etl.inbox.wrong_type import naming_wrong_types
from etl.keys import prefix_of

End = Literal["left", "right"]
T = TypeVar("T")

_VERBS = ("next", "claim", "adopt", "renew", "ack", "rescue", "recall", "drop", "acked", "notice", "settle", "sweep")
_OVERTAKEN = "OVERTAKEN "  # how the error reply of ours begins

# A claim's messages are in memory several times over while it's loaded; the dialler's batches are a twentieth of this.
MAX_CLAIM_BYTES = 32 * 1024 * 1024

# An adopted claim is read and loaded in pieces of so many bytes; decoded, they are several times as large.
PIECE_BYTES = 4 * 1024 * 1024

# The longest lease that the settings allow. A deadline further ahead is from before Redis' clock was set back, and
# counts as expired: its holder, if alive, renews it soon; else the claim waited for as long as the step. adopt.lua and
# acquire.lua have the same number.
LONGEST_LEASE_MS = 3_600_000

# A worker is overtaken when another claims between its asking for the time and its claim: never so often in a row.
OVERTAKEN_TIMES = 100
# What a message takes in Redis beyond its own bytes, and a kept list beyond its messages; by MEMORY USAGE.
MESSAGE_OVERHEAD_BYTES = 8
LIST_OVERHEAD_BYTES = 400
# Entries of the registry that are read at once.
FEW_ENTRIES = 100
# What `{source}:last` has beside the numbers of claims.
_LAST, _NEXT = b"last", b"next"
# The year 2100. A later time in `{source}:last` is broken, or from a broken clock.
LATEST_MS = 4_102_444_800_000


class Claim:
    """One batch of `count` messages of one source list, held under a lease. The messages are in the order of arrival
    and never change."""

    def __init__(
        self,
        batch_id: UUID,
        source: "Source",
        number: int | None,
        confirmation: Confirmation,
        size: int,
        pieces: Sequence[int],
        read: Sequence[bytes] | None = None,
    ):
        """`number` is the running number of the first message, `size` the bytes of all messages, `pieces` how many
        messages each piece has; `read` are the messages, if they were read."""
        self.batch_id = batch_id
        self.number = number
        self.confirmation = confirmation
        self.count = sum(pieces)
        self.size = size
        self.adopted = read is None
        self._source = source
        self._pieces = pieces
        self._read = read

    @property
    def messages(self) -> list[bytes]:
        """All of them. Raises as `pieces`."""
        return [message for piece in self.pieces() for message in piece]

    def pieces(self) -> Iterator[Sequence[bytes]]:
        """All messages, in pieces: those of an adopted claim are read one by one, since loading all at once may be what
        its former holder died of. Raises `LeaseLost` if another has adopted and loaded it meanwhile, and `Outage`."""
        if self._read is not None:
            yield self._read
            return
        first = 0
        for count in self._pieces:
            yield self._source._piece(self, first, count)
            first += count

    def is_replicated(self) -> bool:
        """Whether all of Redis' replicas that followed have the claim, so that it won't come again when one takes over;
        true if there were none. May wait a second for them. Raises nothing."""
        return self.confirmation.wait()

    def ack(self) -> None:
        """The claim is no longer one: its messages are kept for a while, or deleted. Call it after the commit only.
        Raises `LeaseLost` if another worker holds it."""
        self._source._ack(self)

    def give_back(self) -> None:
        """End the lease, so that any worker can adopt the claim at once."""
        self._source._give_back(self)

    def put_off(self) -> None:
        """Let the lease run out: then any worker can adopt the claim, and not before."""
        self._source._put_off(self)


class Lease(NamedTuple):
    """An entry of the registry. `seconds` are left of the lease; below zero, it ran out so long ago; zero, if it's from
    before Redis' clock was set back. `messages` is the claim's length."""

    batch_id: UUID
    worker: str
    seconds: float
    messages: int


class Source:
    """A source list and its claims, as one worker sees them. Safe to use from several threads.

    Every method may raise `Outage` and `ConfigurationError`.
    """

    def __init__(
        self,
        client: Client,
        key: str,
        *,
        worker: str,
        take_from: End = "right",
        forward_to: str | None = None,
        batch_size: int = 5_000,
        lease_ms: int = 60_000,
        keep_ms: int = 0,
    ) -> None:
        """`keep_ms` is how long the messages of acknowledged claims are kept."""
        self.key = key
        self.client: Any = client
        self._worker = worker
        self._old_end = take_from
        self._forward_to = forward_to
        self._batch_size = batch_size
        self._lease_ms = lease_ms
        self.keep_ms = keep_ms
        self._prefix = prefix_of(key)
        self.registry = f"{self._prefix}:claims"
        self.kept_registry = f"{self._prefix}:kept"
        self.acked = f"{self._prefix}:acked"
        self.last = f"{self._prefix}:last"
        self._check_slots(client)
        self._scripts = {name: Script(client, name) for name in _VERBS}
        self._replicas = Replicas(client, key)
        self._prepared = False
        self._largest: int | None = None  # bytes of the largest message of the last claim
        self._claiming_without: frozenset[str] = frozenset()
        self._keeps = True
        self._live: dict[UUID, Claim] = {}
        self._left_alone: set[UUID] = set()  # what was put off
        self._lock = threading.Lock()
        # Held while a claim is made or adopted, until it's in `_live`: or who adopts its own would take it for one that
        # was left behind.
        self._taking = threading.Lock()

    def claim(self) -> Claim | None:
        """Take the oldest waiting messages, at most a batch; None if there are none.

        Nothing is taken that couldn't be read, renewed and acknowledged.
        """
        with self._taking:
            return self._claim()

    def _claim(self) -> Claim | None:
        self._prepare()
        claimed = self._in_turn(self._try_to_claim)
        if claimed is None:
            return None
        batch_id, number, confirmation = claimed
        try:
            with self.translated():
                messages = self.client.lrange(self.claim_list(batch_id), 0, -1)
        except BaseException:
            confirmation.drop()
            raise
        lengths = [*map(len, messages)]
        self._largest = max(lengths, default=None)
        if not messages:  # this process slept for longer than the lease: the claim was adopted and loaded
            confirmation.drop()
            return None
        return self._add(Claim(batch_id, self, number, confirmation, sum(lengths), [len(messages)], messages))

    def adopt(self) -> Claim | None:
        """Take over one claim whose lease has run out, wherever its worker went; None if there is none."""
        with self._taking:
            entries = map(_parse, self._expired())
            return self._adopt_one((entry for entry in entries if entry.batch_id not in self._live), "expired")

    def adopt_own(self) -> Claim | None:
        """Take over one claim that this worker left behind before a restart, without waiting for its lease."""
        with self._taking:
            with self.translated():
                members = self.client.zrange(self.registry, 0, -1)
            entries = [entry for entry in map(_parse, members) if entry.worker == self._worker]
            self._left_alone.intersection_update(entry.batch_id for entry in entries if entry.batch_id)
            passed_over = self._live.keys() | self._left_alone
            return self._adopt_one((entry for entry in entries if entry.batch_id not in passed_over), "any")

    def rescue(self) -> int:
        """Register claim lists that no registry entry names, so that they can be adopted; returns how many.

        They exist if somebody deleted the registry, or a loader of 0.1 was refused a command half-way. A batch_id never
        names other messages than those it was claimed with: so what was loaded already is known by it.
        """
        start = f"{self._prefix}:claim:".encode()
        with self.translated():
            lists = list(self._scan(start))
        rescued = sum(self._rescue(key, key.removeprefix(start)) for key in lists)
        self._sweep()
        return rescued

    @property
    def without(self) -> frozenset[str]:
        """What the server refused lately and is done without: "sort", by which copying is faster; "last", which keeps
        ids in the order of claiming where clocks are set back, and numbers messages; "kept", what was acknowledged;
        "wait", by which it's known what replicas have."""
        more = {"kept": not self._keeps, "wait": self._replicas.is_refused}
        return self._claiming_without.union(name for name in more if more[name])

    def check(self) -> None:
        """Raises the `ConfigurationError` that names the first key of this source that holds something else than it
        must, or what may not be read and must be."""
        with self.translated():
            self.client.zscore(self.last, "last")
            self.client.llen(self.key)
            self.client.zcard(self.registry)
            if self._forward_to:
                self.client.llen(self._forward_to)

    def now(self) -> int:
        """Unix ms by the clock that leases go by: of the server that has this list. Redis' errors aren't translated."""
        seconds, micros = self.client.time(**of_node(self.client, self.key))
        return int(seconds) * 1_000 + int(micros) // 1_000

    def unix_time(self) -> float:
        """By that clock."""
        with self.translated():
            return self.now() / 1_000

    def waiting(self) -> int:
        """How many messages wait in the source list."""
        with self.translated():
            return int(self.client.llen(self.key))

    def oldest(self, most: int) -> list[bytes]:
        """The oldest waiting messages, at most so many, the oldest first."""
        with self.translated():
            if self._old_end == "left":
                return cast("list[bytes]", self.client.lrange(self.key, 0, most - 1))
            return cast("list[bytes]", self.client.lrange(self.key, -most, -1))[::-1]

    def claims(self) -> list[Lease]:
        """Every claim of this source, whoever holds it, the next to run out first."""
        with self.translated():
            now = self.now()
            entries = [(_parse(member), at) for member, at in self.client.zrange(self.registry, 0, -1, withscores=True)]
            return [
                Lease(entry.batch_id, entry.worker, _left(at - now), self.client.llen(self.claim_list(entry.batch_id)))
                for entry, at in entries
                if entry.batch_id is not None  # another program wrote to our registry
            ]

    def claimed_elsewhere(self) -> int:
        """How many claims of this source are held by others."""
        with self.translated():
            return int(self.client.zcard(self.registry)) - len(self._live)

    def renew_all(self) -> None:
        """Extend the leases of the claims in hand: the heartbeat."""
        for claim in self._holding():
            if not self._renew(claim, self._lease_ms):
                self._remove(claim)

    def give_back_all(self) -> None:
        """End the lease of every claim in hand, at shutdown."""
        for claim in self._holding():
            self._give_back(claim)

    def _try_to_claim(self, unix_ms: int) -> tuple[UUID, int | None, Confirmation] | None:
        """None if nothing is waiting."""
        batch_id = uuid7(unix_ms)
        keys = [self.key, self.claim_list(batch_id), self.registry, self.last]
        if self._forward_to:
            keys.append(self._forward_to)
        limits = [self._batch_size, MAX_CLAIM_BYTES, self._lease_ms]
        seen = "" if self._largest is None else self._largest
        args = [self._member(batch_id), *limits, self._old_end, unix_ms, seen, str(batch_id)]
        (claimed, *about), confirmation = self._run_followed("claim", keys, args)
        if not claimed:
            return None
        number, *without = about
        self._claiming_without = frozenset(map(bytes.decode, without))
        return batch_id, _number(number), confirmation

    def _prepare(self) -> None:
        """Once in a process: a server that has the script that claims, but takes no others, must give nothing."""
        if not self._prepared:
            with self.translated():
                for name in ("renew", "ack"):
                    self._scripts[name].load(self.key)
            self._prepared = True

    def _rescue(self, orphan: bytes, name: bytes) -> int:
        """Under its own batch_id, by which the ledger knows whether it was loaded; under a new one if it has none."""
        if batch_id := claimed_as(name.decode(errors="replace")):
            return self._register(orphan, name, batch_id, "")
        return self._in_turn(lambda unix_ms: self._register(orphan, name, uuid7(unix_ms), unix_ms))

    def _register(self, orphan: bytes, name: bytes, batch_id: UUID, noted: int | str) -> int:
        keys = [orphan, self.claim_list(batch_id), self.registry, self.last]
        return int(self.run("rescue", keys, [name, f"{batch_id}@rescued", noted]))

    def _sweep(self) -> None:
        """Loaders of 0.1 acknowledge claims, and leave their numbers. Where it's refused, they stay."""
        with contextlib.suppress(ConfigurationError), self.translated():
            self._sweep_numbers()

    def _sweep_numbers(self) -> None:
        numbered: set[bytes] = {*self.client.zrange(self.last, 0, -1)} - {_LAST, _NEXT}
        if not numbered:
            return
        known = [*self.client.zrange(self.registry, 0, -1)]
        # One that was just recalled isn't kept any more; the script looks again.
        known += self.client.zrange(self.kept_registry, 0, -1)
        gone = sorted(numbered - {member.partition(b"@")[0] for member in known})
        for first in range(0, len(gone), FEW_ENTRIES):
            ids = [each.decode(errors="replace") for each in gone[first : first + FEW_ENTRIES]]
            lists = [f"{self._prefix}:{kind}:{each}" for each in ids for kind in ("claim", "kept")]
            self.run("sweep", [self.last, *lists], ids)

    def _in_turn(self, step: Callable[[int], T]) -> T:
        """Run `step` with a time later than that of every earlier claim; again if another worker claimed meanwhile."""
        for _ in range(OVERTAKEN_TIMES):
            unix_ms = int(self.run("next", [self.last], []))
            if not 0 < unix_ms < LATEST_MS:
                raise ConfigurationError(
                    "ETL-218",
                    f"{self.last} notes that the last claim was made beyond the year 2100: see that Redis' clock is"
                    " right, and delete that key",
                )
            with contextlib.suppress(_OvertakenError):
                return step(unix_ms)
        raise Outage("ETL-219", f"other workers of {self.key} are always faster")

    def _ack(self, claim: Claim) -> None:
        batch_id = claim.batch_id
        keys = [self.claim_list(batch_id), self.registry]
        keeping = [self.kept_list(batch_id), self.kept_registry, self.acked, self.last]
        size = claim.size + claim.count * MESSAGE_OVERHEAD_BYTES + LIST_OVERHEAD_BYTES
        noted = [self._member(batch_id), str(batch_id), day_of(batch_id), claim.count, size, self.keep_ms]
        try:
            acknowledged = _Acknowledged(self.run("ack", keys + keeping, noted))
        except Forbidden:  # a script with a key that this user may not touch is refused as a whole
            acknowledged = _Acknowledged(self.run("ack", keys, noted))
        self._remove(claim)
        self._keeps = acknowledged is not _Acknowledged.NOT_KEPT
        if acknowledged is _Acknowledged.NOT_OURS:
            raise LeaseLost("ETL-220", f"claim {claim.batch_id} was adopted by another worker")

    def _give_back(self, claim: Claim) -> None:
        try:
            self._renew(claim, 0)
        finally:
            self._remove(claim)  # even so: its lease isn't renewed any more, and runs out

    def _put_off(self, claim: Claim) -> None:
        self._left_alone.add(claim.batch_id)
        self._remove(claim)

    def _expired(self) -> Iterator[bytes]:
        """The registry's entries, some at a time: after a set-back there may be a hundred thousand."""
        with self.translated():
            now = self.now()
        for between in (("-inf", now), (f"({now + LONGEST_LEASE_MS}", "+inf")):
            for first in itertools.count(0, FEW_ENTRIES):
                with self.translated():
                    found = self.client.zrangebyscore(self.registry, *between, start=first, num=FEW_ENTRIES)
                yield from found
                if len(found) < FEW_ENTRIES:
                    break

    def _renew(self, claim: Claim, lease_ms: int) -> bool:
        return bool(self.run("renew", [self.registry], [self._member(claim.batch_id), lease_ms]))

    def _adopt_one(self, entries: Iterable["_Entry"], which: str) -> Claim | None:
        for entry in entries:
            if entry.batch_id is None:  # another program wrote to our registry
                continue
            keys = [self.claim_list(entry.batch_id), self.registry, self.last]
            args = [entry.member, self._member(entry.batch_id), self._lease_ms, which, PIECE_BYTES, str(entry.batch_id)]
            found, confirmation = self._run_followed("adopt", keys, args)
            if found:
                size, number, *pieces = found
                return self._add(Claim(entry.batch_id, self, _number(number), confirmation, size, pieces))
        return None

    def _piece(self, claim: Claim, first: int, count: int) -> list[bytes]:
        with self.translated():
            messages: list[bytes] = self.client.lrange(self.claim_list(claim.batch_id), first, first + count - 1)
        if len(messages) != count:
            self._remove(claim)
            raise LeaseLost("ETL-220", f"claim {claim.batch_id} was adopted by another worker")
        return messages

    def _add(self, claim: Claim) -> Claim:
        with self._lock:
            self._live[claim.batch_id] = claim
        self._left_alone.discard(claim.batch_id)
        return claim

    def _remove(self, claim: Claim) -> None:
        with self._lock:
            self._live.pop(claim.batch_id, None)
        claim.confirmation.drop()

    def _holding(self) -> list[Claim]:
        with self._lock:
            return list(self._live.values())

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Redis' errors become ours."""
        return naming_wrong_types(self.client, list=(self.key, self._forward_to), sorted_set=(self.registry, self.last))

    def run(self, script: str, keys: list[Any], args: list[Any]) -> Any:
        return self._ran(partial(self._scripts[script], keys, args))

    def _run_followed(self, script: str, keys: list[Any], args: list[Any]) -> Any:
        """And whether the replicas have what it wrote."""
        return self._ran(partial(self._replicas.follow, partial(self._scripts[script], keys, args)))

    def _ran(self, script: Callable[[], Any]) -> Any:
        with self.translated():
            try:
                return script()
            except redis.ResponseError as error:
                if str(error).startswith(_OVERTAKEN):
                    raise _OvertakenError from error
                raise

    def _scan(self, start: bytes) -> Iterator[bytes]:
        options: dict[str, Any] = {"match": re.sub(rb"([*?\[\]\\^-])", rb"\\\1", start) + b"*", "_type": "list"}
        # All keys of ours are in the source's slot.
        return cast(Iterator[bytes], self.client.scan_iter(count=1_000, **options, **of_node(self.client, self.key)))

    def claim_list(self, batch_id: UUID) -> str:
        """The key of a claim's messages."""
        return f"{self._prefix}:claim:{batch_id}"

    def kept_list(self, batch_id: UUID) -> str:
        """The key of an acknowledged claim's messages."""
        return f"{self._prefix}:kept:{batch_id}"

    def _member(self, batch_id: UUID) -> str:
        return f"{batch_id}@{self._worker}"

    def _check_slots(self, client: Client) -> None:
        """On a cluster every key of a script must lie in one slot. The hash tag ensures it for our keys; the operator
        named the source and the forward list."""
        if not isinstance(client, redis.RedisCluster):
            return
        for key in filter(None, (self.registry, self._forward_to)):
            if key_slot(key.encode()) != key_slot(self.key.encode()):
                advice = f"name it like {self._prefix}:forward" if key == self._forward_to else "rename the source"
                raise ConfigurationError(
                    "ETL-210", f"{key} and {self.key} lie in different slots of the cluster: {advice}"
                )


def _number(found: int | bytes) -> int | None:
    """As a script tells it."""
    return found if isinstance(found, int) else None


def _left(ms: float) -> float:
    """Seconds of a lease whose deadline is so far ahead."""
    return ms / 1_000 if ms <= LONGEST_LEASE_MS else 0.0


class _Acknowledged(Enum):
    """What ack.lua answers."""

    NOT_OURS = 0
    KEPT = 1
    DELETED = 2
    NOT_KEPT = 3  # though it was to be


class _OvertakenError(Exception):
    """Another worker has claimed meanwhile; the script changed nothing."""


class _Entry(NamedTuple):
    """An entry of the registry. `batch_id` is None if it isn't written as ours are."""

    member: bytes
    batch_id: UUID | None
    worker: str


def _parse(member: bytes) -> _Entry:
    text, _, worker = member.decode(errors="replace").partition("@")
    return _Entry(member, claimed_as(text), worker)


def batch_id_of(member: bytes) -> UUID | None:
    """Of an entry of the registry; None if it isn't written as ours are."""
    return _parse(member).batch_id


def day_of(batch_id: UUID) -> str:
    """The UTC day of a claim."""
    return time_of(batch_id).date().isoformat()


def claimed_as(text: str) -> UUID | None:
    """The batch_id, if it has the form of ours; None otherwise, since only ours contain the time of the claim."""
    try:
        batch_id = UUID(text)
    except ValueError:
        return None
    ours = batch_id.version == 7 and unix_ms_of(batch_id) < LATEST_MS
    return batch_id if ours and str(batch_id) == text else None  # UUID() reads other spellings too
