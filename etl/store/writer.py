"""One claim, one transaction: records, dead letters and the ledger row commit together or not at all.

    CDRs, events ──▶ etl.store.rows
       └─ refused ─▶ dead letters, as are the messages that can't be understood

The ledger row's primary key is the claim's id. So a claim that was committed but not acknowledged, or that two workers
hold, takes effect once: that is promise 2, kept by `etl.store.ledger`; `_take_turn` makes the two work one after the
other.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from etl.errors import ClocksDisagree, Contention, EtlError, MissingPartition, Outage, RowRefused
from etl.store import history, identities, ledger, locks, merge
from etl.store.claim_times import ClaimTimes
from etl.store.copy import as_date, copy_rows
from etl.store.frozen import Net
from etl.store.history import History
from etl.store.ledger import Books
from etl.store.merge import Merged
from etl.store.partitions import ensure as ensure_partitions
from etl.store.receipts import Receipts, look
from etl.store.rows import (
    CDRS,
    EVENTS,
    AnotherWayError,
    Loaded,
    Rows,
    Way,
    count_days,
    load_calls,
    load_events,
)
from etl.store.sessions import record_sessions
from etl.store.tables import audit_events, cdrs, dead_letters
from etl.wire.arrival import Forgotten
from etl.wire.dated import Dated
from etl.wire.decode import Decodable, Records
from etl.wire.faults import DeadLetter
from etl.wire.packed import ROW
from etl.wire.times import from_datetime

# A lock timeout, a deadlock, a partition that was just dropped: five in a row are an outage.
ATTEMPTS = 5
# A row that another worker is writing is most likely a duplicate, and two that wait for each other deadlock: so the
# fast way doesn't wait for long. The merge way does: all workers take rows in the same order.
FAST_WAIT_MS = 200


@dataclass(frozen=True, slots=True)
class Batch:
    """A claim of `claimed` messages, whose `records` are decoded as they are read. `claimed_at` is the time in its id,
    which may be wrong: see `etl.store.claim_times`. `server` is the name of the Redis server that it was taken from;
    None if that isn't known. `number` is the running number of its first message in that list; None if it has none.
    `is_replicated` is asked before the commit: it may wait until Redis' replicas have the claim, and says whether they
    do."""

    batch_id: UUID
    worker: str
    source_key: str
    claimed_at: datetime
    claimed: int
    records: Dated
    server: str | None = None
    number: int | None = None
    is_replicated: Callable[[], bool] = lambda: True


class Writer:
    """Writes claims into Postgres. Safe to use from several threads."""

    def __init__(
        self,
        engine: sa.Engine,
        forget_key: str | None = None,
        unrecognised: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`forget_key` is that of the hashes of who was forgotten; `unrecognised` hears of so many receipts if there
        are some, and no key."""
        self._engine = engine
        self._receipts = Receipts(forget_key, unrecognised)
        self.history: History | None = None  # what the last claim was written into
        self._net = Net(engine)
        self._claim_times = ClaimTimes(partial(datetime.now, UTC))
        # Lists of whose last claim more than half was stored already, as when a dialler pushes its backup again or the
        # other dialect comes from another list: so is most likely the next one, and the fast way costs a COPY before it
        # fails. (Where a claim has both dialects of each new call, as many are updated as are inserted.)
        self._repeating: set[str] = set()

    def write(self, batch: Batch, alive: Callable[[], None] = lambda: None) -> Books | None:
        """Commit a claim. None if the ledger has it already: then it needs only be acknowledged.

        Calls `alive` again and again while it takes long; what that raises ends it, and nothing took effect. Raises
        `Outage`, after which the same call may be repeated, or `ConfigurationError`.
        """
        way = Way.CLASSIFIED if batch.source_key in self._repeating else Way.FAST
        books = self._persist(batch, lambda taken, dated, way: _write(taken, dated, alive, way), alive, way)
        if books:
            known = books.updated + books.unchanged
            note = self._repeating.add if known > 2 * books.inserted else self._repeating.discard
            note(batch.source_key)
        return books

    def replay(self, batch: Batch, letters: Sequence[int]) -> Books:
        """Commit dead letters, given by their ids and decoded anew as `batch`: those that can be stored now are
        resolved, the others get today's reason. The books have the former only. Raises as `write`."""
        books = self._persist(batch, lambda taken, dated, way: _write(taken, dated, lambda: None, way, letters))
        return books or Books()

    def _persist(
        self,
        batch: Batch,
        write: Callable[["_Taken", Batch, Way], Books],
        alive: Callable[[], None] = lambda: None,
        way: Way = Way.FAST,
    ) -> Books | None:
        number = 0
        while number < ATTEMPTS:
            try:
                return self._attempt(batch, way, write, is_first=number == 0)
            except AnotherWayError:
                way = Way(way + 1)
                continue
            except Contention as error:
                trouble: EtlError = error
                way = Way.CAREFUL
                self._net.end_frozen()
            except MissingPartition as error:
                trouble = error
                self._make_partitions(batch.records, alive)
            number += 1
        raise Contention("ETL-308", f"gave up after {ATTEMPTS} attempts: {trouble.text}") from trouble

    def _make_partitions(self, claim: Decodable, alive: Callable[[], None]) -> None:
        for records in claim.pieces():
            packed, decoded = records.packed(), records.finish()
            of_calls = [*count_days(decoded.cdrs), *map(as_date, packed.days(ROW) if packed else ())]
            for table, days in ((cdrs, of_calls), (audit_events, count_days(decoded.events))):
                try:
                    ensure_partitions(self._engine, table, days, alive)
                except Contention:  # the next attempt goes on where this one ended
                    if not self._net.end_frozen():
                        raise

    def _attempt(
        self, batch: Batch, way: Way, write: Callable[["_Taken", Batch, Way], Books], is_first: bool
    ) -> Books | None:
        try:
            with suppress(_LoadedAlreadyError), self._engine.begin() as connection:
                turn = _take_turn(connection, batch.batch_id, is_first)
                self.history = turn.history
                is_loaded, latest = look(connection, batch.batch_id, turn.sees_receipts)
                if is_loaded:
                    raise _LoadedAlreadyError
                dated = self._dated(batch, turn.now)
                return write(_Taken(connection, self._receipts.people(connection, latest)), dated, way)
            # The commit that we saw may wait for a standby still, or was cut off from it by a crash.
            with self._engine.begin() as connection:
                connection.execute(_WRITE_NOTHING)
            return None
        except (Contention, ClocksDisagree):
            raise
        except RowRefused as refusal:  # of the ledger or the dead letters, or at the commit: no row of ours is known
            raise Outage("ETL-342", f"Postgres refuses what goes with the rows: {refusal.text}") from refusal
        except Outage:
            # Next time on new connections: an old one may lead to a server that has become a standby.
            self._engine.dispose()
            raise

    def _dated(self, batch: Batch, now: datetime) -> Batch:
        """As of the time at which it counts as taken, while it's `now` by Postgres."""
        claimed_at = self._claim_times.of(batch.source_key, batch.claimed_at, now)
        batch.records.as_of(from_datetime(claimed_at))
        return replace(batch, claimed_at=claimed_at)


class _Turn(NamedTuple):
    """Which history the claim will be in; whether we may read the receipts, since of a 0.1 no loader did; and what time
    it is by Postgres."""

    history: History
    sees_receipts: bool
    now: datetime


class _Taken(NamedTuple):
    """A claim's turn: its transaction, and whoever is to be erased on arrival; None: nobody."""

    connection: sa.Connection
    forgotten: Forgotten | None


def _write(
    taken: _Taken,
    batch: Batch,
    alive: Callable[[], None],
    way: Way,
    letters: Sequence[int] | None = None,
) -> Books:
    """`letters` are the ids of the dead letters that the messages are; None if they come from a list."""
    connection, written = taken.connection, _Written()
    for records in batch.records.pieces():
        alive()
        dead = _write_piece(taken, batch, records, written, way, alive)
        if letters is None:
            _bury(connection, batch, dead)
            written.dead += len(dead)
        else:
            _resolve(connection, batch, letters, dead)
            written.left_dead += len(dead)
    books = written.books(batch.claimed)
    if books.claimed or letters is None:
        _enter(connection, batch, books, written)
    return books


def _write_piece(
    taken: _Taken,
    batch: Batch,
    records: Records,
    written: "_Written",
    way: Way,
    alive: Callable[[], None],
) -> list[DeadLetter]:
    """Gives what became a dead letter, and adds the rest to `written`."""
    connection, forgotten = taken
    packed = records.packed()
    if packed and (way is Way.CAREFUL or (forgotten and not forgotten.are_later(packed.moments()))):
        records.unpack()
        packed = None
    stream = forgotten.calls(records.stream) if forgotten else records.stream
    if way is Way.CAREFUL:
        calls = Rows(connection, CDRS, batch.source_key, alive).load(list(stream()))
    else:
        calls = Loaded(load_calls(connection, records, stream, way))
    decoded = records.finish()
    decoded.refused_at = {decoded.cdrs_at[index] for index in calls.refused}
    dead = [
        *decoded.dead,
        *(records.refused(decoded.cdrs_at[index], detail) for index, detail in calls.refused.items()),
    ]
    # What a listener heard has an id of its own, but its day is part of its key.
    new = list(zip(decoded.events_at, decoded.events, strict=True))
    of_list = {at for at, event in new if event.origin == "list"} | decoded.misdated_at
    repeated = _repeated(connection, batch, records, [*of_list, *(letter.position for letter in dead)])
    if repeated:
        new = [(at, event) for at, event in new if at not in repeated]
    if forgotten:
        heard = forgotten.events([(event, at in decoded.misdated_at) for at, event in new])
    else:
        heard = [event for _, event in new]
    if not heard:  # as in most claims, and each round trip is felt
        events = Loaded()
    elif way is Way.CAREFUL:
        events = Rows(connection, EVENTS, batch.source_key, alive).load(heard)
    else:
        events = Loaded(load_events(connection, heard, way))
    dead += [records.refused(new[index][0], detail) for index, detail in events.refused.items()]
    of_spool = [new[index][0] for index in events.refused if new[index][0] not in of_list]
    decoded.repeated_at = repeated | _repeated(connection, batch, records, of_spool)
    record_sessions(connection, decoded.sessions, batch.batch_id)
    written.calls += calls.merged
    written.events += events.merged
    written.known += len(decoded.cdrs) - len(calls.refused) + len(decoded.repeated_at)
    written.known += packed.how_many() if packed else 0
    written.told += len(new) - len(events.refused) + len(decoded.sessions)
    written.set_aside += decoded.set_aside
    dead = [letter for letter in dead if letter.position not in decoded.repeated_at]
    at = from_datetime(batch.claimed_at)
    return [forgotten.letter(each, batch.source_key, at) for each in dead] if forgotten else dead


def _repeated(connection: sa.Connection, batch: Batch, records: Records, places: Collection[int]) -> set[int]:
    """Those of the places whose messages an earlier claim of the list had brought. Asked for events of the list and for
    dead letters: CDRs, and what a listener heard, have ids of their own."""
    if not places or batch.number is None or batch.server is None:
        return set()
    of_places = {
        at: identities.identity(batch.server, batch.source_key, batch.number + at, records.message(at))
        for at in sorted(places)
    }
    new = identities.enter(connection, [*of_places.values()], batch.batch_id, batch.claimed_at)
    return {at for at, identity in of_places.items() if identity not in new}


@dataclass(slots=True)
class _Written:
    """What became of the pieces of a claim so far."""

    calls: Merged = field(default_factory=Merged)
    events: Merged = field(default_factory=Merged)
    known: int = 0  # CDRs that are stored, by these messages or others; and what an earlier claim had brought
    told: int = 0  # events and sessions, those that a listener told twice among them
    dead: int = 0
    left_dead: int = 0  # letters that stay what they were
    set_aside: Counter[str] = field(default_factory=Counter)

    def books(self, messages: int) -> Books:
        inserted, updated = self.calls.inserted.total(), self.calls.updated.total()
        unchanged = self.known - inserted - updated
        return Books(messages - self.left_dead, inserted, updated, unchanged, self.told, self.dead)


def _take_turn(connection: sa.Connection, batch_id: UUID, is_first: bool) -> _Turn:
    """Another holder of this claim waits here until we have committed, and then finds it in the ledger. Whoever waited
    for a stranger goes on without the next time: then the ledger's key alone keeps the claim from being loaded twice.
    """
    key = locks.Key(locks.TURN, int.from_bytes(batch_id.bytes[-4:], signed=True))
    if not is_first:
        key = locks.beside_strangers(connection, key)
    waits = {"patiently": str(merge.WAIT_MS), "fast": str(FAST_WAIT_MS)}
    turn = connection.execute(_TAKE_TURN, {"turn": key.kind, "own": key.number, **waits}).one()
    return _Turn(History(turn.started_at, turn.database, turn.ledger), bool(turn.sees_receipts), turn.now)


_TAKE_TURN = sa.text(
    "SELECT set_config('lock_timeout', :patiently, true), pg_advisory_xact_lock(:turn, :own),"
    f" set_config('lock_timeout', :fast, true), {history.COLUMNS},"
    " has_table_privilege(to_regclass('forgotten'), 'SELECT') AS sees_receipts, now() AS now"
)
# A transaction that changes nothing, and still writes to the log that standbys follow: its commit waits as any does.
_WRITE_NOTHING = sa.text("SELECT pg_logical_emit_message(true, 'etl', '')")


def _bury(connection: sa.Connection, batch: Batch, dead: Sequence[DeadLetter]) -> None:
    if not dead:
        return
    columns = ("batch_id", "position", "source_key", "reason", "detail", "raw", "received_at", "server")
    received_at = from_datetime(batch.claimed_at)
    batch_id, server = batch.batch_id.bytes, batch.server
    rows = (
        (batch_id, d.position, d.channel or batch.source_key, str(d.reason), d.detail, d.raw, received_at, server)
        for d in dead
    )
    copy_rows(connection, dead_letters, columns, rows)


def _resolve(connection: sa.Connection, batch: Batch, letters: Sequence[int], dead: Sequence[DeadLetter]) -> None:
    """Instead of `_bury`: these letters are stored already; update them."""
    c, still = dead_letters.c, {letters[letter.position]: letter for letter in dead}
    for number, letter in still.items():
        connection.execute(
            sa.update(dead_letters).where(c.id == number).values(reason=str(letter.reason), detail=letter.detail)
        )
    healed = [number for number in letters if number not in still]
    resolution = {"resolved_at": sa.func.now(), "resolution": f"replayed as {batch.batch_id}"}
    resolve = sa.update(dead_letters).where(c.id.in_(healed), c.resolved_at.is_(None)).values(resolution)
    if connection.execute(resolve).rowcount != len(healed):
        raise Contention("ETL-401", "somebody else is resolving the same dead letters")


def _enter(connection: sa.Connection, batch: Batch, books: Books, written: _Written) -> None:
    claim = {
        "batch_id": batch.batch_id,
        "worker": batch.worker,
        "source_key": batch.source_key,
        "claimed_at": batch.claimed_at,
        "server": batch.server,
        "set_aside": written.set_aside or None,
        "may_repeat": not batch.is_replicated(),
    }
    if not ledger.enter(connection, claim, books, {"cdrs": written.calls, "audit_events": written.events}):
        raise _LoadedAlreadyError


class _LoadedAlreadyError(Exception):
    """The ledger has this claim: roll back whatever was done for it."""
