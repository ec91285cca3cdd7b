"""Locks in Postgres that outlast transactions: they last as long as the connection that took them."""

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import sqlalchemy as sa

from etl.store.connection import translated

# Marks the locks of jobs; any number that nobody else in this database uses will do.
_JOBS = 0x65746C_06


@contextmanager
def locked(engine: sa.Engine, kind: int, number: int) -> Iterator[sa.Connection | None]:
    """The connection that holds the lock; None if somebody else has it. Raises `Outage`."""
    key = {"kind": kind, "number": number}
    with translated(), engine.connect() as connection:
        if not _scalar(connection, "SELECT pg_try_advisory_lock(:kind, :number)", key):
            yield None
            return
        try:
            yield connection
        except BaseException:
            connection.invalidate()  # it may be amid anything; and without it there is no lock
            raise
        _scalar(connection, "SELECT pg_advisory_unlock(:kind, :number)", key)


@contextmanager
def alone(engine: sa.Engine, job: str) -> Iterator[bool]:
    """Whether nobody else does the job of this name while the context lasts. Raises `Outage`."""
    with locked(engine, _JOBS, crc32(job.encode()) >> 1) as connection:
        yield connection is not None


def _scalar(connection: sa.Connection, query: str, parameters: dict[str, int]) -> bool:
    with connection.begin():
        return bool(connection.scalar(sa.text(query), parameters))
