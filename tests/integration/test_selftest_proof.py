"""The selftest's proof: green for what the loader really does, and red for every harm that is planted into a copy."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import redis
from pydantic import SecretStr

from etl.errors import Outage
from etl.lab.selftest import bring_the_lake_up_to_date, proof
from etl.lab.selftest.producers import Dialler, Switchboard, Truth
from etl.lab.selftest.site import FORWARD, SELFTEST_SOURCES
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.settings import Settings
from tests.world import CLICK2DIAL, Archive

GROUPS = 25  # of about eight calls
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Sample:
    """What a dialler said, and the archive that came of it; it's only ever copied."""

    postgres: PrivatePostgres
    database: str
    lake: Path
    truth: Truth
    forwarded: int

    @contextmanager
    def copied(self) -> Iterator[Settings]:
        name = f"copy_{os.getpid()}_{next(_numbers)}"
        lake = self.lake.with_name(name)
        shutil.copytree(self.lake, lake)
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {self.database}")
            url = SecretStr(self.postgres.database_url(name))
            yield Settings(database_url=url, sources=SELFTEST_SOURCES, export_url=str(lake), http="off")
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def prove(self, settings: Settings, too_many: int = 0) -> Iterator[proof.Proof]:
        return proof.verdicts(settings, self.truth, {CLICK2DIAL: self.forwarded + too_many})


@pytest.fixture(scope="module")
def sample(
    postgres: PrivatePostgres, redis_server: PrivateRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sample]:
    """One dialler's calls, with pushes that weren't answered; and events that nobody heard."""
    database, lake = f"selftest_{os.getpid()}", tmp_path_factory.mktemp("selftest") / "lake"
    truth = Truth(seed=7, today=datetime.now(UTC).date())
    with (
        psycopg.connect(postgres.url, autocommit=True) as connection,
        redis.Redis.from_url(redis_server.url) as client,
    ):
        connection.execute(f"CREATE DATABASE {database} TEMPLATE template_etl")
        client.flushall()
        more = {"batch_size": 100, "export_url": str(lake), "export_grace_minutes": 0}
        with Archive(redis_server.url, postgres.database_url(database), client, SELFTEST_SOURCES, more) as archive:
            _say_everything(truth, client)
            archive.load()
            bring_the_lake_up_to_date(archive.settings())
            archive.assert_books_balance()
            forwarded = client.llen(FORWARD)
        yield Sample(postgres, database, lake, truth, int(forwarded))
        connection.execute(f"DROP DATABASE {database}")


def _say_everything(truth: Truth, client: "redis.Redis") -> None:
    pushes = itertools.count(1)

    def push(key: str, messages: list[bytes]) -> None:
        client.lpush(key, *messages)
        if next(pushes) % 20 == 0:
            raise Outage("ETL-201", "the answer is lost")

    dialler, switchboard = Dialler(1, truth, push), Switchboard(truth, lambda _channel, _message: None)
    for _ in range(GROUPS):
        dialler.send()
        switchboard.send()
    dialler.finish()


def test_what_the_loader_does_is_proved(sample: Sample) -> None:
    assert sample.truth.calls.total() > 100
    assert sample.truth.attempted.total() > sample.truth.acknowledged.total()
    assert min(len(sample.truth.events), len(sample.truth.undecodable), sample.forwarded) > 0
    with sample.copied() as settings:
        assert [verdict for verdict in sample.prove(settings) if not verdict.ok] == []


A_CALL = "(SELECT min(call_ref) FROM cdrs)"
ANOTHER_DAY = "(SELECT min(dialed_on) FROM cdrs WHERE dialed_on <> c.dialed_on)"
# Of one that is there twice, since its push wasn't answered, either may be missing.
LIST_EVENT = """(SELECT min(event_id::text)::uuid FROM audit_events WHERE payload->>'serial' IN
    (SELECT payload->>'serial' FROM audit_events GROUP BY 1 HAVING count(*) = 1))"""
AS_PUBLISHED = """INSERT INTO audit_events SELECT (jsonb_populate_record(e, jsonb_build_object(
    'event_id', gen_random_uuid(), 'origin', 'pubsub', 'payload', jsonb_build_object('serial', 'p-1')))).*
    FROM audit_events e LIMIT 2"""
NO_GAP = """INSERT INTO listener_sessions
    (session_id, listener, subscribed_at, proven_until, received, ignored, dropped, batch_id) VALUES
    (gen_random_uuid(), 'liar', now() - interval '1 day', now() + interval '1 day', 0, 0, 0, gen_random_uuid())"""
UNCHECKED = "ALTER TABLE load_batches DROP CONSTRAINT load_batches_books_balance; UPDATE load_batches "
ONE_CLAIM = "WHERE batch_id = (SELECT min(batch_id::text)::uuid FROM load_batches)"
A_LETTER = "WHERE id = (SELECT min(id) FROM dead_letters)"


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (f"DELETE FROM cdrs WHERE call_ref = {A_CALL}", "in Postgres exactly once"),
        (
            "INSERT INTO cdrs SELECT (jsonb_populate_record(c, jsonb_build_object("
            f"'dialed_on', {ANOTHER_DAY}))).* FROM cdrs c WHERE call_ref = {A_CALL}",
            "in Postgres exactly once",
        ),
        (
            "INSERT INTO cdrs SELECT (jsonb_populate_record(c, jsonb_build_object("
            f"'call_ref', 'nobody said this'))).* FROM cdrs c WHERE call_ref = {A_CALL}",
            "in Postgres exactly once",
        ),
        (f"UPDATE cdrs SET number = '1' WHERE call_ref = {A_CALL}", "in Postgres exactly once"),
        ("DELETE FROM cdr_revisions WHERE id = (SELECT min(id) FROM cdr_revisions)", "that was contradicted is kept"),
        (
            "UPDATE cdr_revisions SET call_ref = (SELECT min(call_ref) FROM cdrs WHERE call_ref NOT IN"
            " (SELECT call_ref FROM cdr_revisions)) WHERE id = (SELECT min(id) FROM cdr_revisions)",
            "that was contradicted is kept",
        ),
        (f"DELETE FROM audit_events WHERE event_id = {LIST_EVENT}", "event from a list"),
        (
            "INSERT INTO audit_events SELECT (jsonb_populate_record(e, jsonb_build_object("
            "'event_id', gen_random_uuid()))).* FROM audit_events e, generate_series(1, 2)",
            "event from a list",
        ),
        (AS_PUBLISHED, "no published event is there more than once"),
        (NO_GAP, "missing lies in a gap"),
        (
            "INSERT INTO dead_letters OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(d, jsonb_build_object("
            "'id', -n, 'batch_id', gen_random_uuid()))).* FROM dead_letters d, generate_series(1, 5) n " + A_LETTER,
            "a dead letter, byte for byte",
        ),
        (f"DELETE FROM dead_letters {A_LETTER}", "a dead letter, byte for byte"),
        (f"UPDATE dead_letters SET raw = raw || '!' {A_LETTER}", "a dead letter, byte for byte"),
        (f"UPDATE dead_letters SET reason = 'too_large' {A_LETTER}", "a dead letter, byte for byte"),
        (f"{UNCHECKED} SET claimed = claimed + 1 {ONE_CLAIM}", "the books of every claim"),
        (f"{UNCHECKED} SET claimed = 0 {ONE_CLAIM}", "pushed was claimed once"),
        (f"{UNCHECKED} SET claimed = claimed + 1000 {ONE_CLAIM}", "pushed was claimed once"),
        (
            "UPDATE load_batch_days SET inserted = inserted + 1 WHERE (batch_id, day) ="
            " (SELECT batch_id, day FROM load_batch_days WHERE dataset = 'cdrs' LIMIT 1)",
            "the books of every day",
        ),
        (f"UPDATE cdrs SET loaded_at = loaded_at + interval '1 s' WHERE call_ref = {A_CALL}", "the lake equals"),
    ],
)
def test_a_harm_that_is_planted_into_postgres_is_found(sample: Sample, harm: str, what: str) -> None:
    with sample.copied() as settings:
        with psycopg.connect(settings.libpq_url) as connection:
            for statement in harm.split(";"):
                assert connection.execute(statement).rowcount != 0
        (verdict,) = itertools.islice((each for each in sample.prove(settings) if what in each.what), 1)

    assert verdict.ok is False
    assert ";" in verdict.found, "it gives no example"


def test_a_file_that_is_missing_in_the_lake_is_found(sample: Sample) -> None:
    with sample.copied() as settings:
        day = next(Path(settings.export_url).glob("cdrs/dialed_on=*")).name
        for folder in ("cdrs", "_revisions/cdrs"):
            shutil.rmtree(Path(settings.export_url, folder, day))
        found = [verdict.what for verdict in sample.prove(settings) if not verdict.ok]

    assert [each.partition(":")[0].partition(",")[0] for each in found] == [
        "the books of every day balance",
        "the lake equals Postgres",
        "every CDR is in the lake exactly once",
    ]


@pytest.mark.parametrize("more", [-1, 1])
def test_a_message_that_was_passed_on_never_or_twice_is_found(sample: Sample, more: int) -> None:
    with sample.copied() as settings:
        found = [verdict.what for verdict in sample.prove(settings, too_many=more) if not verdict.ok]

    assert found == ["every message of a forwarded list was passed on once"]


def test_what_is_left_in_redis_is_found() -> None:
    assert proof.quiet({"enigma:app"}, ["enigma:app"]).ok
    assert not proof.quiet({"enigma:app", "{enigma:notifications:cdr}:claims"}, ["enigma:app"]).ok
