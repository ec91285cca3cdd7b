"""The receipts of erasures, as who loads needs them: whose messages are to be erased on arrival.

A claim asks for the latest receipt after it took its turn, and `etl forget` waits, with its receipt committed, for the
claims that had taken theirs: so each claim knows of the receipt, or is stored before anybody looks for the person.
"""

import time
from collections.abc import Callable
from uuid import UUID

import sqlalchemy as sa

from etl.errors import Contention
from etl.store import locks
from etl.store.connection import Engine
from etl.store.tables import forgotten, load_batches
from etl.wire.arrival import Forgotten
from etl.wire.times import from_datetime

# For a claim that is being written: many times what the largest takes. Who is frozen is ended before that.
_WAIT_SECONDS = 600.0
_LOOK_SECONDS = 0.2


class Receipts:
    """What this process knows of them. `unrecognised` tells of so many that there are, and no key to know by them who
    comes. May be used by several threads."""

    def __init__(self, key: str | None, unrecognised: Callable[[int], None]) -> None:
        self._key = key
        self._unrecognised = unrecognised
        self._known: tuple[str | None, Forgotten | None] = (None, None)

    def people(self, connection: sa.Connection, latest: str | None) -> Forgotten | None:
        """Everybody whom a claim is to be without, given the latest receipt that it sees; None: nobody. Receipts are
        entered one after the other: while the latest is the same, all are."""
        known, people = self._known
        if latest != known:
            people = self._read(connection) if latest else None
            self._known = (latest, people)
        return people

    def _read(self, connection: sa.Connection) -> Forgotten | None:
        c = forgotten.c
        query = sa.select(c.subject, c.hash, sa.func.max(c.began_at)).group_by(c.subject, c.hash)
        found = {(subject, hash_): from_datetime(at) for subject, hash_, at in connection.execute(query)}
        if self._key is None:
            self._unrecognised(len(found))
            return None
        return Forgotten(self._key, found)


def look(connection: sa.Connection, batch_id: UUID, sees_receipts: bool) -> tuple[bool, str | None]:
    """Whether the ledger has a claim already, and what tells the latest receipt from all others. `sees_receipts`: this
    user may read them."""
    if not sees_receipts:
        return connection.execute(_HAS, {"batch_id": batch_id}).first() is not None, None
    has, latest = connection.execute(_LOOK, {"batch_id": batch_id}).one()
    return has, latest


def count(engine: Engine) -> int:
    """How many there are; 0 too where there is no table of them, or this user may not read it. Raises `Outage`."""
    with engine.connect() as connection:
        if not connection.scalar(_MAY_READ):
            return 0
        return connection.scalar(sa.select(sa.func.count()).select_from(forgotten)) or 0


def wait_for_claims(engine: Engine) -> None:
    """Until every claim is stored that may not know of the latest receipt. Raises `EtlError`."""
    until = time.monotonic() + _WAIT_SECONDS
    claims = _under_way(engine)
    while claims:
        if time.monotonic() > until:
            of = ", ".join(f"pid {holder.pid} ({holder.role})" for holder in claims.values())
            raise Contention("ETL-960", f"Postgres: claims that began before are still being written, by {of}")
        time.sleep(_LOOK_SECONDS)
        still = _under_way(engine)
        claims = {key: holder for key, holder in claims.items() if key in still}


def _under_way(engine: Engine) -> dict[tuple[int | None, str], locks.Holder]:
    # Who looks waits for nobody: to wait for their locks would be to wait for strangers in the same queue.
    with engine.connect() as connection:
        return locks.under_way(connection, locks.TURN)


_MAY_READ = sa.text("SELECT has_table_privilege(to_regclass('forgotten'), 'SELECT')")
_has = load_batches.c.batch_id == sa.bindparam("batch_id", type_=sa.Uuid)
_HAS = sa.select(load_batches.c.batch_id).where(_has)
_c = forgotten.c
_latest = sa.select(sa.func.concat(_c.id, " ", _c.began_at)).order_by(_c.id.desc()).limit(1).scalar_subquery()
_LOOK = sa.select(sa.exists().where(_has), _latest)
