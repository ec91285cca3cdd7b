"""Whose fault it is that Postgres refuses a row: a row's own only if the rest is taken without it, and the server goes
on writing. Every SQLSTATE that the driver knows is raised by a trigger, of every row and of certain ones."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import errors

from etl.errors import ConfigurationError, Outage
from etl.lab.servers.private import PrivatePostgres
from etl.metrics import Counts
from etl.store.connection import cancel_running
from etl.store.ledger import Books
from etl.store.rows import CDRS, Rows
from etl.store.trial import PART
from etl.store.writer import Writer
from tests.machine import postgres_bin
from tests.store import at_once, batch, engine, write
from tests.world import CAMPAIGNS, Archive, cdr, eventually, migrate

STATES = sorted(state for state in errors._sqlcodes if re.fullmatch(r"(?=.*\d)[0-9A-Z]{5}", state))
SOME = 8
# Another transaction is in the way, or somebody cancelled the statement: that the rest is taken proves nothing.
NEVER_A_ROWS = {"40001", "40P01", "55P03", "57014"}
# Waiting for these won't help, unless an operator does something: the list is broken until then, and tried again.
OPERATORS = ("0A", "3F", "42")

TRIGGERS = """
CREATE TABLE mood (state text, whom text, deed text);
INSERT INTO mood VALUES ('P0001', 'nobody', '');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE mood record;
BEGIN
    SELECT * INTO mood FROM mood;
    IF TG_OP ~ mood.deed AND (mood.whom = 'all' OR mood.whom = 'evil' AND to_jsonb(NEW)::text ~ 'evil') THEN
        RAISE EXCEPTION 'not now' USING ERRCODE = mood.state;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON cdrs FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse();
"""


class Debians(PrivatePostgres):
    """The oldest version that we support, where Debian's is installed."""

    def _reachable_binaries(self) -> Path:
        return postgres_bin()


def event(reference: str) -> bytes:
    return b'{"type": "status", "payload": {"status": "started", "ref": "%s"}}' % reference.encode()


def refuse(archive: Archive, state: str, whom: str, deed: str = "INSERT|UPDATE") -> None:
    archive.rows("UPDATE mood SET state = %s, whom = %s, deed = %s RETURNING 1", state, whom, deed)


def counted(archive: Archive) -> tuple[int, ...]:
    tables = ("cdrs", "cdr_revisions", "audit_events", "load_batches", "dead_letters")
    return tuple(archive.value(f"SELECT count(*) FROM {table}") for table in tables)


def refused(archive: Archive) -> set[bytes]:
    return {bytes(row["raw"]) for row in archive.rows("SELECT raw FROM dead_letters")}


@pytest.fixture
def guarded(archive: Archive, writer: Writer) -> Archive:
    """With triggers that may refuse, and something stored."""
    write(writer, cdr("good"), event("good"))
    archive._connection.execute(TRIGGERS)
    return archive


def mixed(state: str) -> tuple[list[bytes], set[bytes]]:
    """Messages, and which of them are evil."""
    messages = [cdr(f"{state}-{n}", number="evil" if n in (2, 3, 7) else "1") for n in range(9)]
    messages += [event("evil" if n == 1 else f"{state}-{n}") for n in range(3)]
    return messages, {message for message in messages if b"evil" in message}


def assert_evil_rows_alone_are_refused(archive: Archive, writer: Writer, state: str) -> None:
    messages, evil = mixed(state)
    before, known = counted(archive), refused(archive)
    refuse(archive, state, "evil")
    if state in NEVER_A_ROWS:
        with pytest.raises(Outage):
            write(writer, *messages)
        assert counted(archive) == before
        return
    assert write(writer, *messages) == Books(claimed=12, inserted=6, events=2, dead=4), state
    assert refused(archive) == known | evil


def assert_refusing_all_is_an_outage(archive: Archive, writer: Writer, state: str) -> None:
    before = counted(archive)
    refuse(archive, state, "all")
    expected = ConfigurationError if state.startswith(OPERATORS) else Outage
    for message in (cdr(f"all of {state}"), event(f"all of {state}")):
        with pytest.raises(expected, match="not now"):
            write(writer, message, cdr(f"more of {state}"))
        assert counted(archive) == before, state


@pytest.mark.parametrize(
    "states",
    [STATES[first : first + SOME] for first in range(0, len(STATES), SOME)],
    ids=lambda states: f"{states[0]} to {states[-1]}",
)
def test_given_any_sqlstate_then_rows_are_refused_only_for_their_own(
    guarded: Archive, writer: Writer, states: list[str]
) -> None:
    for state in states:
        assert_refusing_all_is_an_outage(guarded, writer, state)
        assert_evil_rows_alone_are_refused(guarded, writer, state)
    refuse(guarded, "P0001", "nobody")
    assert write(writer, cdr("in the end")) == Books(claimed=1, inserted=1)
    guarded.assert_books_balance()


@pytest.mark.parametrize("state", ["22023", "54000", "P0001"])
def test_given_nothing_stored_before_then_the_rule_is_the_same(archive: Archive, writer: Writer, state: str) -> None:
    write(writer, b"junk")
    archive._connection.execute(TRIGGERS)
    assert_refusing_all_is_an_outage(archive, writer, state)
    refuse(archive, state, "evil")

    assert write(writer, cdr(1, number="evil")) == Books(claimed=1, dead=1)
    assert write(writer, event("evil")) == Books(claimed=1, dead=1)
    archive.assert_books_balance()


@pytest.mark.parametrize("state", ["22023", "54000", "P0001"])
def test_given_changes_that_are_refused_then_the_rule_is_the_same(guarded: Archive, writer: Writer, state: str) -> None:
    write(writer, *(cdr(n, hold_time=None) for n in range(6)))
    before = counted(guarded)
    changes = [cdr(n, hold_time=3, call_time=9, **({"number": "evil"} if n in (1, 4) else {})) for n in range(6)]
    refuse(guarded, state, "all", "UPDATE")
    with pytest.raises(Outage, match="not now"):
        write(writer, *changes)
    assert counted(guarded) == before

    refuse(guarded, state, "evil", "UPDATE")
    assert write(writer, *changes, cdr("new")) == Books(claimed=7, inserted=1, updated=4, dead=2)
    assert refused(guarded) == {changes[1], changes[4]}
    assert guarded.value("SELECT count(*) FROM cdr_revisions") == 4
    guarded.assert_books_balance()


def test_given_rows_refused_in_company_only_then_the_later_are(guarded: Archive, writer: Writer) -> None:
    guarded._connection.execute("CREATE UNIQUE INDEX ON cdrs (dialed_on, contact_ref)")
    twice = [cdr(n, contact_ref=f"C{n // 2}") for n in range(20)]

    assert write(writer, *twice) == Books(claimed=20, inserted=10, dead=10)
    assert refused(guarded) == set(twice[1::2])
    guarded.assert_books_balance()


def test_given_values_that_cannot_be_sent_then_they_alone_are_refused(guarded: Archive, database_url: str) -> None:
    """None passes the decoder; should one, it costs itself only."""
    [records] = batch([cdr(n) for n in range(5)]).records.pieces()
    calls = records.finish().cdrs
    calls[2] = calls[2]._replace(number="\ud800")
    with engine(database_url) as connections, connections.begin() as connection:
        loaded = Rows(connection, CDRS, CAMPAIGNS, lambda: None).load(calls)

    assert (loaded.merged.inserted.total(), [*loaded.refused]) == (4, [2])
    assert guarded.value("SELECT count(*) FROM cdrs WHERE call_ref IN ('0', '1', '3', '4')") == 4


def test_given_most_rows_of_a_claim_refused_then_that_is_linear_and_beats(
    guarded: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[Counts] = []

    def beat(counts: Counts) -> None:
        beats.append(counts)

    monkeypatch.setattr(Counts, "beat", beat)
    refuse(guarded, "P0001", "evil")
    guarded.push(*(cdr(n, number="evil") for n in range(5_000)))

    assert guarded.load(batch_size=5_000) == Books(claimed=5_000, dead=5_000)
    assert len(beats) >= 5_000 / PART
    guarded.assert_books_balance()


def test_given_a_stop_while_rows_are_tried_then_nothing_took_effect(guarded: Archive, database_url: str) -> None:
    guarded._connection.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF current_query() ~ 'trial' THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER wait BEFORE INSERT ON cdrs FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    refuse(guarded, "P0001", "evil")
    before = counted(guarded)
    trying = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with engine(database_url) as connections:

        def stop() -> None:
            eventually(lambda: guarded.value(trying) == 1)
            cancel_running(connections)

        def load() -> None:
            with pytest.raises(Outage, match="canceling statement"):
                write(Writer(connections), cdr(1), cdr(2, number="evil"))

        at_once(load, stop)
        assert counted(guarded) == before
        guarded._connection.execute("DROP FUNCTION wait() CASCADE")
        assert write(Writer(connections), cdr(1), cdr(2, number="evil")) == Books(claimed=2, inserted=1, dead=1)
    guarded.assert_books_balance()


@pytest.mark.parametrize("messages", [1, 3])
def test_given_a_day_without_partition_then_a_trial_has_it_made(
    guarded: Archive, writer: Writer, messages: int
) -> None:
    refuse(guarded, "23514", "evil")
    day = 86_400
    calls = [cdr(n, dialed_at=1_424_379_960 + n * day, number="evil" if n == 2 else "1") for n in range(messages)]

    books = write(writer, *calls)

    assert books == Books(claimed=messages, inserted=messages - (messages == 3), dead=int(messages == 3))
    guarded.assert_books_balance()


# -- servers of their own


@pytest.fixture
def small(session_folder: Path) -> Iterator[str]:
    """The URL of a database whose server has room for few locks."""
    settings = {"fsync": "off", "max_locks_per_transaction": "10", "max_connections": "10"}
    with PrivatePostgres(session_folder / "small", settings) as server:
        migrate(server.url)
        yield server.url


def test_given_no_room_for_locks_then_it_is_waited_for_and_none_refused(small: str) -> None:
    calls = [cdr(n, dialed_at=1_424_379_960 + n * 86_400) for n in range(40)]
    with engine(small) as connections, psycopg.connect(small, autocommit=True) as other:
        writer = Writer(connections)
        write(writer, *calls[:-1])
        write(writer, cdr("the last day", dialed_at=1_424_379_960 + 39 * 86_400))
        with pytest.raises(errors.OutOfMemory, match="out of shared memory"):  # noqa: PT012
            for number in range(1_000_000):
                other.execute("SELECT pg_advisory_lock(7, %s)", [number])
        again = [cdr(n, hold_time=4, dialed_at=1_424_379_960 + n * 86_400) for n in range(40)]
        with pytest.raises(Outage, match="out of shared memory"):
            write(writer, *again)
        other.execute("SELECT pg_advisory_unlock_all()")
        assert write(writer, *again) == Books(claimed=40, inserted=1, updated=39)


@pytest.fixture
def debians(session_folder: Path, redis_client: "redis.Redis") -> Iterator[Archive]:
    with Debians(session_folder / "debian", {"fsync": "off"}) as server:
        migrate(server.url)
        with Archive("", server.url, redis_client) as archive:  # without Redis
            yield archive


def test_given_the_oldest_postgres_then_the_rule_is_the_same(debians: Archive) -> None:
    with engine(debians.database_url) as connections:
        writer = Writer(connections)
        write(writer, cdr("good"), event("good"))
        debians._connection.execute(TRIGGERS)
        for state in (
            "0A000",
            "22023",
            "23514",
            "25006",
            "42501",
            "53200",
            "54000",
            "57P03",
            "P0001",
            "P0004",
            "XX000",
        ):
            assert_refusing_all_is_an_outage(debians, writer, state)
            assert_evil_rows_alone_are_refused(debians, writer, state)
