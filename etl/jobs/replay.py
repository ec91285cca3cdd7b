"""Dead letters once more through today's wire and store: a better decoder, or a new column, heals old ones.

Each group of letters of one claim is one transaction, with a ledger entry of its own; a letter that still can't be
stored stays where it is, with today's reason.

A replay counts as of when the letters were received: its id sorts just after that of their claim. So what was claimed
later, such as a correction, stays in force.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from uuid import UUID, uuid5

from etl.ids import after, uuid7
from etl.jobs.loader import Decode
from etl.store.copy import as_date
from etl.store.dead_letters import Group, Letter
from etl.store.ledger import Books
from etl.store.writer import Batch, Writer
from etl.wire.dated import Dated
from etl.wire.decode import Records
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime


@dataclass(slots=True)
class Replayed:
    """What became of letters: `books` of those that are stored now; how many are still dead; how many are left for
    another run, since their days would be too many new ones; and how many came from a list that this etl doesn't load:
    by its key, and by "key of server" if it's on another Redis server."""

    books: Books = field(default_factory=Books)
    still_dead: int = 0
    left: int = 0
    unknown: dict[str, int] = field(default_factory=dict)


class NewDays:
    """Days without a partition that a replay may bring, at most so many in all. `missing` gives those of some days."""

    def __init__(self, most: int, missing: Callable[[Collection[date]], list[date]]) -> None:
        self._most = most
        self._missing = missing

    def may_come(self, letters: list[Letter], batch: Batch) -> list[Letter]:
        """Those letters whose calls are of days that are there already, or of the earliest new ones that may be."""
        of_letters: dict[int, date] = {}
        for records in batch.records.pieces():
            decoded = records.finish()
            of_letters |= {at: as_date(call.dialed_on) for at, call in zip(decoded.cdrs_at, decoded.cdrs, strict=True)}
        new = self._missing({*of_letters.values()})
        too_many = {*new[self._most :]}
        self._most -= len(new) - len(too_many)
        return [letter for at, letter in enumerate(letters) if of_letters.get(at) not in too_many]


def replay(
    groups: Iterable[Group],
    decoders: Mapping[str, Decode],
    writer: Writer,
    *,
    worker: str,
    server: str,
    progress: Callable[[int], None],
    new_days: NewDays | None = None,
) -> Replayed:
    """`decoders` are those of the loaders, by list, of the Redis server that is called `server`; `progress` gets how
    many letters were just tried. Without `new_days` any number may come. Raises as `Writer`."""
    replayed = Replayed()
    for list_key, letters in groups:
        # On another server the same key may be another system's. Letters of 0.1 have no server.
        of_another = letters[0].server not in (None, server)
        name = f"{list_key} of {letters[0].server}" if of_another else list_key
        if not of_another and (decode := decoders.get(list_key)):
            batch = _decoded(list_key, letters, decode, worker)
            coming = new_days.may_come(letters, batch) if new_days else letters
            replayed.left += len(letters) - len(coming)
            if 0 < len(coming) < len(letters):
                batch = _decoded(list_key, coming, decode, worker)
            books = writer.replay(batch, [letter.id for letter in coming]) if coming else Books()
            replayed.books += books
            replayed.still_dead += len(coming) - books.claimed
        else:
            replayed.unknown[name] = replayed.unknown.get(name, 0) + len(letters)
        progress(len(letters))
    return replayed


def _decoded(list_key: str, letters: list[Letter], decode: Decode, worker: str) -> Batch:
    """As a claim of the list, taken when the letters were."""
    received_at, batch_id = letters[0].received_at, _batch_id(letters[0])

    def records(captured_at: int) -> Records:
        messages = [_as_claimed(list_key, letter, captured_at) for letter in letters]
        return decode(messages, batch_id, captured_at)

    dated = Dated(records, from_datetime(received_at))
    return Batch(batch_id, worker, list_key, received_at, len(letters), dated, server=letters[0].server)


def _batch_id(first: Letter) -> UUID:
    """By the claim's: `received_at` may be another time, see `etl.store.claim_times`."""
    claim = first.batch_id
    if claim.version != 7:  # it isn't from a claim of ours
        claim = uuid7(int(first.received_at.timestamp() * 1_000))
    return after(claim, first.position)


def _as_claimed(list_key: str, letter: Letter, captured_at: int) -> bytes:
    """What came by PubSub was on the spool in the listener's frame; of that, time and id are those of the claim."""
    if letter.source_key == list_key:
        return letter.raw
    event_id = uuid5(letter.batch_id, str(letter.position)).bytes
    return pack_heard(event_id, captured_at, letter.source_key.encode(), letter.raw)
