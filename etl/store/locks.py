"""Advisory locks: the register of their numbers; and locks that last longer than a transaction, up to the end of the
connection that took them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from zlib import crc32

import sqlalchemy as sa

from etl.errors import EtlError, Outage

# "etl" and a number, which nobody else in this database uses. 01 was for making a partition, up to migration 0022: any
# login can hold an advisory lock, and nothing that must go on may wait for one alone. Migration 0014 knows by them
# which sessions are an etl's: `etl.store.connection` has 08, which every session holds, shared.
# `etl.store.tables` has 06 taken alone, FIGURES_LOCK. JOBS is another lock, since it is taken with a second number.
SCHEMA = 0x65746C_02  # one upgrade of the schema at a time
TURN = 0x65746C_03  # and the claim: its holders take turns
DAY_LOCKS = {
    "cdrs": 0x65746C_04,
    "audit_events": 0x65746C_05,
}  # and the day: for export, restore and drop
JOBS = 0x65746C_06  # and the job's name: of several hosts with one schedule, one acts
MIDNIGHT = 0x65746C_07  # and the day that begins: calls that may be on either side of it
SET_BACK = 0x65746C_09  # who note that claims were lost do it one after the other


_UNLOCK = "SELECT pg_advisory_unlock(:kind, :number)"


@contextmanager
def locked(engine: sa.Engine, kind: int, number: int) -> Iterator[sa.Connection | None]:
    """The connection that holds the lock; None if another one does. Raises `Outage`."""
    key = {"kind": kind, "number": number}
    with engine.connect() as connection:
        if not _scalar(connection, "SELECT pg_try_advisory_lock(:kind, :number)", key):
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


def _scalar(connection: sa.Connection, query: str, parameters: dict[str, int]) -> bool:
    with connection.begin():
        return bool(connection.scalar(sa.text(query), parameters))
