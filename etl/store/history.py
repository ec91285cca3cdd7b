"""Which history a Postgres server has, and what of ours is in it: by that a set-back is known.

A server that was promoted, restored, or replaced by another may lack commits that were confirmed to us.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from etl.store.connection import Engine, rows
from etl.store.tables import ONE_LOADER, load_batches, set_backs

# Another server, a promoted standby too, and this one restored, were started at another moment; a database that takes
# the place of another has another number, and so has a table that a dump makes anew. (What tells the timeline isn't
# there on every managed server.)
COLUMNS = (
    "pg_postmaster_start_time() AS started_at,"
    " (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,"
    " CAST(to_regclass('load_batches') AS oid) AS ledger"
)
_HISTORY = sa.text(f"SELECT {COLUMNS}")


class History(NamedTuple):
    """Equal while the server is the same and remembers."""

    started_at: datetime
    database: int
    ledger: int | None


@dataclass(frozen=True, slots=True)
class SetBack:
    """Claims of one list that were acknowledged, and that Postgres had forgotten: made from `first_claimed_at` to
    `last_claimed_at`. The recalled ones are loaded again; the others are lost, all made between `lost_from` and
    `lost_until`."""

    source_key: str
    server: str
    first_claimed_at: datetime
    last_claimed_at: datetime
    recalled_claims: int
    recalled_messages: int
    lost_claims: int
    lost_messages: int
    lost_from: datetime | None = None
    lost_until: datetime | None = None


class Noticed(NamedTuple):
    at: datetime
    set_back: SetBack


class Counted(NamedTuple):
    claims: int
    messages: int


def history(engine: Engine) -> History:
    """Raises `Outage`, as all of these do."""
    (found,) = rows(engine, _HISTORY)
    return History(*found)


def unknown(engine: Engine, batch_ids: Collection[UUID]) -> set[UUID]:
    """Those of the claims that the ledger doesn't have."""
    known = sa.select(load_batches.c.batch_id).where(load_batches.c.batch_id == sa.any_(sa.cast(list(batch_ids), _IDS)))
    with engine.connect() as connection:
        return {*batch_ids} - {*connection.scalars(known)}


def first_known(engine: Engine, source_key: str) -> UUID | None:
    """The first claim of this list that the ledger has. What was made before it was another archive's, or this one's
    before it was emptied; None: all was."""
    c = load_batches.c
    first = sa.select(c.batch_id).where(c.source_key == source_key).order_by(c.batch_id).limit(1)
    with engine.connect() as connection:
        return connection.scalar(first)


def last_claimed(engine: Engine, source_key: str, before: UUID) -> datetime | None:
    """When the last claim of this list that the ledger has was made, of those before another claim."""
    c = load_batches.c
    latest = sa.select(c.claimed_at).where(c.source_key == source_key, c.batch_id < before)
    with engine.connect() as connection:
        return connection.scalar(latest.order_by(load_batches.c.batch_id.desc()).limit(1))


def counted(engine: Engine, source_key: str, day: date, last_ms: int | None, without: Collection[UUID]) -> Counted:
    """What the ledger has of claims that were made on a UTC day, not after `last_ms`, Unix ms, and that aren't among
    those `without`."""
    begins, ends = (uuid7_floor(datetime.combine(day + timedelta(days=n), time(), UTC)) for n in (0, 1))
    if last_ms is not None:
        ends = min(ends, _floor(last_ms + 1))
    c = load_batches.c
    of_the_day = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(c.claimed), 0)).where(
        c.batch_id >= begins,
        c.batch_id < ends,
        c.source_key == source_key,
        c.batch_id != sa.all_(sa.cast([each for each in without if begins <= each < ends], _IDS)),
    )
    ((claims, messages),) = rows(engine, of_the_day)
    return Counted(claims, int(messages))


def note(engine: Engine, set_back: SetBack, noticed_us: int | None = None) -> bool:
    """False if one of that list is noted already that was noticed then, in Unix microseconds; now, if it's None."""
    with engine.begin() as connection:
        values: dict[str, Any] = asdict(set_back)
        if noticed_us is not None:
            values["noticed_at"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=noticed_us)
            connection.execute(ONE_LOADER)
            same = (set_backs.c.source_key == set_back.source_key) & (set_backs.c.noticed_at == values["noticed_at"])
            if connection.scalar(sa.select(sa.exists().where(same))):
                return False
        connection.execute(sa.insert(set_backs).values(values))
        return True


def lately(engine: Engine, period: timedelta) -> list[Noticed]:
    """What was noticed within this time, the latest first."""
    c = set_backs.c
    query = (
        sa.select(c.noticed_at, *(c[name] for name in SetBack.__dataclass_fields__))
        .where(c.noticed_at > sa.func.now() - period)
        .order_by(c.id.desc())
    )
    return [Noticed(at, SetBack(*rest)) for at, *rest in rows(engine, query)]


def uuid7_floor(moment: datetime) -> UUID:
    """No version 7 identifier of that moment or later sorts before it."""
    return _floor(int(moment.timestamp() * 1_000))


def _floor(unix_ms: int) -> UUID:
    return UUID(int=unix_ms << 80)


_IDS = sa.ARRAY(sa.Uuid)
