"""A Postgres that hangs at one place: whoever enters a claim into the ledger waits there, within the transaction, until
the gate is opened. It's no lock, so that nobody's patience with locks matters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg

from tests.world import Archive, eventually

_CLOSE = """
CREATE TABLE gate (open boolean NOT NULL);
INSERT INTO gate VALUES (false);
CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT (SELECT open FROM gate) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER gate BEFORE INSERT ON load_batches FOR EACH ROW EXECUTE FUNCTION wait_at_the_gate();
"""


_ARRIVED = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'etl' AND datname = current_database()
AND state = 'active' AND strpos(query, 'INSERT INTO load_batches ') > 0
"""


class Gate:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def wait_for(self, arrivals: int) -> None:
        """Until so many transactions wait here."""
        eventually(lambda: self._arrived() == arrivals, what=f"{self._arrived()} wait at the gate, not {arrivals}")

    def open(self) -> None:
        self.execute("UPDATE gate SET open = true")

    def close(self) -> None:
        self.execute("UPDATE gate SET open = false")

    def execute(self, statement: LiteralString) -> None:
        """By a connection of its own: the server may have been away."""
        with psycopg.connect(self._archive.database_url, autocommit=True) as connection:
            connection.execute(statement)

    def _arrived(self) -> int:
        return int(self._archive.value(_ARRIVED))


@contextmanager
def closed_gate(archive: Archive) -> Iterator[Gate]:
    """Open at the end, whatever happens."""
    gate = Gate(archive)
    gate.execute(_CLOSE)
    try:
        yield gate
    finally:
        gate.open()
