"""Advisory locks: the register of their numbers; locks that last longer than a transaction, up to the end of the
connection that took them; and what is done about strangers who hold one.

Whoever may log in can take an advisory lock or queue for it, and sees in `pg_locks` which ones there are. So a lock
counts only if its holder is one of us. Where a stranger has it, a lock aside does instead: of numbers by chance, which
nobody can take beforehand. Whoever got a lock then looks whether another of us has it, by either of its numbers.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple
from zlib import crc32

import sqlalchemy as sa

from etl import logs
from etl.errors import EtlError, Outage

# "etl" and a number, which nobody else in this database uses. Migration 0014 knows by them which sessions are an etl's:
# `etl.store.connection` has 08, which every session holds, shared. 01 was for making a partition, 07 for calls near
# midnight, 09 for noting a set-back, and 06 taken alone for computing figures: their holders wait for one another, and
# whoever waits for an advisory lock waits for strangers, too. They lock tables now, for which one needs rights.
SCHEMA = 0x65746C_02  # one upgrade of the schema at a time
TURN = 0x65746C_03  # and the claim: its holders take turns
DAY_LOCKS = {
    "cdrs": 0x65746C_04,
    "audit_events": 0x65746C_05,
}  # and the day: for export, restore and drop
JOBS = 0x65746C_06  # and the job's name: of several hosts with one schedule, one acts

# Added to a kind: a lock aside. Its second number is 16 bits of the lock's, and 15 by chance. Migration 0027 has the
# same numbers.
ASIDE = 0x20
_CHANCE_BITS = 15
# How often a lock is tried for, if others of us come in between, or strangers have one that was chosen by chance.
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2

_TRY = sa.text("SELECT pg_try_advisory_lock(:kind, :number)")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(:kind, :number)")
_TRY_SCHEMA = sa.text("SELECT pg_try_advisory_xact_lock(:key)")
# A transaction that was prepared has a lock without a session: that's a stranger's.
_HOLDERS = """
    SELECT l.pid, coalesce(a.usename, '') AS role, coalesce({ours}, false) AS is_ours, l.virtualtransaction
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND ({which})
"""
_WRITES_LEDGER = "has_table_privilege(a.usesysid, to_regclass('load_batches'), 'INSERT')"
_MAKES_TABLES = "has_schema_privilege(a.usesysid, current_schema(), 'CREATE')"
_OF_A_LOCK = sa.text(
    _HOLDERS.format(
        ours=_WRITES_LEDGER,
        # pg_locks shows a number without its sign.
        which="l.objsubid = 2 AND (l.classid::bigint, l.objid::bigint) = (:kind, :number & 4294967295)"
        f" OR l.objsubid = 2 AND l.classid::bigint = :kind + {ASIDE}"
        f" AND l.objid::bigint >> {_CHANCE_BITS} = :number & 65535",
    )
)
_OF_A_KIND = sa.text(
    _HOLDERS.format(ours=_WRITES_LEDGER, which=f"l.objsubid = 2 AND l.classid::bigint IN (:kind, :kind + {ASIDE})")
)
_OF_THE_SCHEMA = sa.text(
    _HOLDERS.format(ours=_MAKES_TABLES, which="l.objsubid = 1 AND l.classid = 0 AND l.objid::bigint = :key")
)

log = logs.get()


class Key(NamedTuple):
    """As Postgres takes them: each has 32 bits, with a sign."""

    kind: int
    number: int


class Holder(NamedTuple):
    """A session that has a lock, and in which of its transactions; `pid` is None of a prepared one. `is_ours`: it may
    do what the lock is for."""

    pid: int | None
    role: str
    is_ours: bool
    transaction: str


@contextmanager
def locked(engine: sa.Engine, kind: int, number: int) -> Iterator[sa.Connection | None]:
    """The connection that holds the lock; None if another one of us does. Raises `Outage`."""
    with engine.connect() as connection:
        key = _acquire(connection, Key(kind, number))
        if key is None:
            yield None
            return
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, EtlError) and not isinstance(error, Outage):  # so the next finds it free
                with suppress(sa.exc.SQLAlchemyError):
                    connection.rollback()
                    _scalar(connection, _UNLOCK, key)
            connection.invalidate()  # its state is unknown; closing it gives the lock up, when Postgres notices
            raise
        _scalar(connection, _UNLOCK, key)


@contextmanager
def alone(engine: sa.Engine, job: str) -> Iterator[bool]:
    """Whether this is the only process that does the job of this name while the context lasts. Raises `Outage`."""
    with locked(engine, JOBS, crc32(job.encode()) >> 1) as connection:
        yield connection is not None


def beside_strangers(connection: sa.Connection, key: Key) -> Key:
    """Of the locks of one's own transaction, the one to wait for: a lock aside if a stranger has this one. Then those
    who want it don't wait for one another."""
    strangers = [holder for holder in _holders(connection, _OF_A_LOCK, key) if not holder.is_ours]
    _tell(strangers)
    return _aside(key) if strangers else key


def under_way(connection: sa.Connection, kind: int) -> dict[tuple[int | None, str], Holder]:
    """Transactions of ours that have a lock of this kind, by session and number."""
    found = _holders(connection, _OF_A_KIND, Key(kind, 0))
    return {(holder.pid, holder.transaction): holder for holder in found if holder.is_ours}


def wait_for_schema(connection: sa.Connection) -> None:
    """Until the transaction ends nobody else of us upgrades the schema."""
    key = {"key": SCHEMA}
    while not connection.scalar(_TRY_SCHEMA, key):
        holders = [Holder(*row) for row in connection.execute(_OF_THE_SCHEMA, key)]
        if holders and not any(holder.is_ours for holder in holders):
            _tell(holders)
            return
        time.sleep(_PAUSE_SECONDS)


def _acquire(connection: sa.Connection, wanted: Key) -> Key | None:
    for _ in range(_ATTEMPTS):
        key = wanted
        if not _scalar(connection, _TRY, key):
            with connection.begin():
                holders = _holders(connection, _OF_A_LOCK, wanted)
            if any(holder.is_ours for holder in holders):
                return None
            _tell(holders)
            key = _aside(wanted)
            if not holders or not _scalar(connection, _TRY, key):
                continue
        with connection.begin():
            holders = _holders(connection, _OF_A_LOCK, wanted)
        if not any(holder.is_ours for holder in holders):
            return key
        # Beside a stranger two of us came at once, and each gives way.
        _scalar(connection, _UNLOCK, key)
        time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311  (no secret)
    return None


def _holders(connection: sa.Connection, query: sa.TextClause, key: Key) -> list[Holder]:
    """Other sessions than this one."""
    parameters = key._asdict() if query is _OF_A_LOCK else {"kind": key.kind}
    return [Holder(*row) for row in connection.execute(query, parameters)]


def _aside(key: Key) -> Key:
    chance = random.getrandbits(_CHANCE_BITS)  # who guesses it keeps one attempt from success
    number = (key.number & 0xFFFF) << _CHANCE_BITS | chance
    return Key(key.kind + ASIDE, number)


def _tell(holders: Sequence[Holder]) -> None:
    for holder in holders:
        if not holder.is_ours:
            log.warning("stranger_holds_lock", pid=holder.pid, role=holder.role)


def _scalar(connection: sa.Connection, query: sa.TextClause, key: Key) -> bool:
    with connection.begin():
        return bool(connection.scalar(query, key._asdict()))
