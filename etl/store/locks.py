"""Advisory locks: the register of their numbers, and those that outlast transactions, as long as the connection that
took them."""

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import sqlalchemy as sa

# "etl" and a number, which nobody else in this database uses. Migration 0005 has 01, of whoever makes a partition, and
# `etl.reporting.rollup` has 06 as one number, where those here that are taken with another number are pairs.
SCHEMA = 0x65746C_02  # upgrades of the schema take turns
TURN = 0x65746C_03  # and the claim: those who hold the same one take turns
DAYS = {"cdrs": 0x65746C_04, "audit_events": 0x65746C_05}  # and the day: export, restore and drop exclude each other
JOBS = 0x65746C_06  # and the job's name: of several hosts with one schedule, one acts
MIDNIGHT = 0x65746C_07  # and the day that begins: calls that may lie on either side of it


@contextmanager
def locked(engine: sa.Engine, kind: int, number: int) -> Iterator[sa.Connection | None]:
    """The connection that holds the lock; None if somebody else has it. Raises `Outage`."""
    key = {"kind": kind, "number": number}
    with engine.connect() as connection:
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
    with locked(engine, JOBS, crc32(job.encode()) >> 1) as connection:
        yield connection is not None


def _scalar(connection: sa.Connection, query: str, parameters: dict[str, int]) -> bool:
    with connection.begin():
        return bool(connection.scalar(sa.text(query), parameters))
