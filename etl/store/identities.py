"""By what an event or a dead letter of a list is known when the same message is claimed again: since a replica that
didn't know of its claim took over, or an earlier state of Redis was restored.

A CDR has an identity of its own. Any other message has only its place in its list, which is its running number, and its
bytes: two equal statuses are two events. What was loaded once stays as it was stored, whatever became of it since: on
its day, in the lake, replayed, discarded.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import sqlalchemy as sa

from etl.store.merge import WAIT_MS
from etl.store.tables import list_identities

# For so long a message is known. A Redis that goes back further was restored from a backup, by somebody.
KEPT = timedelta(days=30)
# So many are deleted at once.
CHUNK = 10_000


def identity(server: str, source_key: str, number: int, message: bytes) -> UUID:
    """Of the message with this running number in a list of the Redis server of this name."""
    place = f"{len(server)} {server} {len(source_key)} {source_key} {number} "
    return UUID(bytes=sha256(place.encode(errors="surrogateescape") + message).digest()[:16])


def enter(connection: sa.Connection, identities: Sequence[UUID], batch_id: UUID, claimed_at: datetime) -> set[UUID]:
    """Those that no earlier claim of the ledger had brought; from now on this claim did. Waits for another transaction
    that is entering one of them; given in the order of their numbers, no two wait for each other. Raises as the engine
    does."""
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {WAIT_MS}"))
    claim = {"batch_id": batch_id, "claimed_at": claimed_at}
    new = {*connection.scalars(_ENTER, {**claim, "identities": list(identities)})}
    if known := [each for each in identities if each not in new]:
        new |= {*connection.scalars(_TAKE_OVER, {**claim, "identities": known})}
    return new


_ENTER = sa.text(
    "INSERT INTO list_identities (identity, batch_id, claimed_at) SELECT identity, :batch_id, :claimed_at"
    " FROM unnest(CAST(:identities AS uuid[])) AS identity ON CONFLICT DO NOTHING RETURNING identity"
)
# Of a claim that the ledger doesn't know, as after somebody deleted it, nothing is there: better twice than never. Who
# waited for another that took one over finds the claim changed, and leaves it.
_TAKE_OVER = sa.text(
    "UPDATE list_identities AS i SET batch_id = :batch_id, claimed_at = :claimed_at"
    " FROM list_identities AS before"
    " WHERE i.identity = ANY(CAST(:identities AS uuid[])) AND before.identity = i.identity"
    " AND before.batch_id = i.batch_id"
    " AND NOT EXISTS (SELECT FROM load_batches WHERE load_batches.batch_id = before.batch_id)"
    " RETURNING i.identity"
)


def forget(engine: sa.Engine) -> int:
    """Those of longer ago than `KEPT`; how many. Raises `Outage` and `ConfigurationError`."""
    old = sa.select(list_identities.c.identity).where(list_identities.c.claimed_at < sa.func.now() - KEPT).limit(CHUNK)
    forgotten = 0
    while True:
        with engine.begin() as connection:
            gone = connection.execute(sa.delete(list_identities).where(list_identities.c.identity.in_(old))).rowcount
        forgotten += gone
        if gone < CHUNK:
            return forgotten
