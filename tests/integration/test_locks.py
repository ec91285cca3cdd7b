"""Locks that last up to the end of a connection."""

import pytest

from etl.errors import EtlError
from etl.store import locks
from tests.store import engine
from tests.world import Archive

OFTEN = 30


def test_given_an_error_under_a_lock_then_the_next_finds_it_free_at_once(archive: Archive) -> None:
    """Closing the connection gives it up too, but only when Postgres notices."""
    with engine(archive.database_url) as first, engine(archive.database_url) as next_one:
        for _ in range(OFTEN):
            with pytest.raises(EtlError), locks.locked(first, locks.SCHEMA, 1):
                raise EtlError("ETL-505", "as an export says, whose books are others")
            with locks.locked(next_one, locks.SCHEMA, 1) as connection:
                assert connection is not None
