"""What Postgres answers, and what the program makes of it: wait, give way, merge, bury, or tell the operator. Every
error here is a real server's."""

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
import sqlalchemy as sa

from etl.errors import ConfigurationError, Contention, EtlError, MissingPartition, Outage, RowRefused, StatementRefused
from etl.lab.servers.private import PrivatePostgres
from etl.store import connection, schema
from tests.store import at_once, engine
from tests.world import eventually

INSERT = "INSERT INTO cdrs (dialed_on, source, call_ref, leg, dialed_at, batch_id) VALUES"


@pytest.fixture
def session(database_url: str) -> Iterator[sa.Connection]:
    with engine(database_url) as connections, connections.connect() as opened:
        yield opened


def attempt(session: sa.Connection, *statements: str) -> None:
    for statement in statements:
        session.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("statements", "expected", "says"),
    [
        (["SELECT 1/0"], RowRefused, "division by zero"),
        (["SELECT '1e200000'::jsonb"], RowRefused, "overflow"),
        (["SELECT convert_from('\\x00', 'UTF8')"], RowRefused, "invalid byte sequence"),
        (["INSERT INTO load_batches (batch_id) VALUES (NULL)"], RowRefused, "null value"),
        ([f"{INSERT} ('2015-02-19', 'dialler', '1', 0, now(), gen_random_uuid())"], MissingPartition, "no partition"),
        (["SELECT * FROM nothing"], ConfigurationError, '"nothing" does not exist'),
        (["SELEC 1"], ConfigurationError, "syntax error"),
        (["CREATE ROLE reader", "SET ROLE reader", "DELETE FROM cdrs"], ConfigurationError, "permission denied"),
        (["SET statement_timeout = 20", "SELECT pg_sleep(10)"], Outage, "statement timeout"),
        (["SET transaction_read_only = on", "DELETE FROM cdrs"], StatementRefused, "read-only transaction"),
        (["SELECT pg_terminate_backend(pg_backend_pid())"], Outage, "terminating connection"),
    ],
)
def test_given_an_error_then_its_kind_says_what_to_do(
    session: sa.Connection, statements: list[str], expected: type[EtlError], says: str
) -> None:
    with pytest.raises(EtlError, match=says) as raised:
        attempt(session, *statements)
    assert type(raised.value) is expected
    assert "\n" not in str(raised.value)


def test_given_no_free_connection_then_it_is_an_outage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(database_url) as connections, ExitStack() as held:
        monkeypatch.setattr(connections.pool, "_timeout", 0)
        with pytest.raises(Outage, match="limit of size"):  # noqa: PT012  (whichever is one too many)
            while True:
                held.enter_context(connections.connect())


def test_given_a_key_twice_then_the_row_is_refused_and_not_quoted(session: sa.Connection) -> None:
    """Postgres' own DETAIL has its values, a phone number perhaps."""
    row = "INSERT INTO load_batch_days VALUES ('00000000-0000-0000-0000-000000000001', 'cdrs', '2015-02-19', 1, 0)"
    with pytest.raises(RowRefused, match="duplicate key") as raised:
        attempt(session, row, row)
    assert "2015" not in str(raised.value)


def test_given_a_row_that_a_check_refuses_then_no_partition_is_missing(session: sa.Connection) -> None:
    columns = "claimed, inserted, updated, unchanged, events, dead, worker, source_key, claimed_at, batch_id"
    with pytest.raises(RowRefused, match="books_balance"):
        attempt(
            session, f"INSERT INTO load_batches ({columns}) VALUES (1, 0, 0, 0, 0, 0, '', '', now(), gen_random_uuid())"
        )


def test_given_another_transaction_in_the_way_then_it_is_contention(database_url: str, session: sa.Connection) -> None:
    with engine(database_url) as connections, connections.begin() as other:
        attempt(other, "LOCK TABLE cdrs")
        with pytest.raises(Contention, match="lock timeout"):
            attempt(session, "SET lock_timeout = 20", "LOCK TABLE cdrs")


def test_given_a_deadlock_then_the_one_who_gives_way_meets_contention(database_url: str) -> None:
    def take(first: int, second: int) -> EtlError | None:
        try:
            with engine(database_url) as connections, connections.begin() as own:
                attempt(own, "SET LOCAL deadlock_timeout = '100ms'", f"SELECT pg_advisory_xact_lock({first})")
                held = sa.text(
                    "SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND locktype = 'advisory' AND granted "
                    "AND database = "
                    "(SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                eventually(lambda: own.scalar(held) == 2)
                attempt(own, f"SELECT pg_advisory_xact_lock({second})")
        except EtlError as error:
            return error
        return None

    one, two = at_once(lambda: take(1, 2), lambda: take(2, 1))

    assert {type(one), type(two)} == {type(None), Contention}


def test_given_no_such_server_database_or_role_then_the_outage_names_it(postgres: PrivatePostgres) -> None:
    url = postgres.database_url("nowhere").replace("postgresql", "postgresql+psycopg", 1)
    for wrong, says in (
        (url, 'database "nowhere" does not exist'),
        (url.replace("postgres@", "nobody:hunter2@"), 'role "nobody" does not exist'),
        (url.replace("5432", "5433"), "No such file or directory"),
        ("postgresql+psycopg://nobody:hunter2@127.0.0.1:1/nowhere", "Connection refused"),
    ):
        with pytest.raises(Outage, match=says) as raised:
            schema.current(connection.connect(wrong))
        assert "\n" not in str(raised.value)
        assert "hunter2" not in str(raised.value)


def test_given_a_wrong_password_then_the_outage_says_so_and_hides_it(postgres: PrivatePostgres) -> None:
    access = postgres.data / "pg_hba.conf"
    before = access.read_text()
    with psycopg.connect(postgres.url, autocommit=True) as administrator:
        administrator.execute("CREATE ROLE guarded LOGIN PASSWORD 'correct'")
        try:
            access.write_text("local all guarded scram-sha-256\n" + before)
            administrator.execute("SELECT pg_reload_conf()")
            url = postgres.url.replace("postgresql://postgres@", "postgresql+psycopg://guarded:hunter2@")
            eventually(lambda: "password authentication failed" in _outage(url))
            assert "hunter2" not in _outage(url)
        finally:
            access.write_text(before)
            administrator.execute("SELECT pg_reload_conf()")
            administrator.execute("DROP ROLE guarded")


def test_given_a_server_out_of_connections_then_it_is_an_outage(postgres: PrivatePostgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as administrator:
        administrator.execute("CREATE ROLE visitor LOGIN CONNECTION LIMIT 1")
        try:
            url = postgres.url.replace("postgres@", "visitor@")
            with psycopg.connect(url):
                assert "too many connections" in _outage(url.replace("postgresql", "postgresql+psycopg", 1))
        finally:
            administrator.execute("DROP ROLE visitor")


def test_given_an_unknown_option_in_the_url_then_waiting_is_no_use(database_url: str) -> None:
    url = database_url.replace("postgresql", "postgresql+psycopg", 1)
    with pytest.raises(ConfigurationError, match='invalid connection option "sllmode"'):
        schema.current(connection.connect(f"{url}&sllmode=require"))


def test_given_options_in_the_url_then_they_win(database_url: str) -> None:
    url = f"{database_url}&application_name=mine&connect_timeout=77"
    with engine(url) as connections, connections.connect() as opened:
        assert opened.scalar(sa.text("SHOW application_name")) == "mine"


def _outage(url: str) -> str:
    try:
        schema.current(connection.connect(url))
    except Outage as outage:
        return str(outage)
    return ""
