"""A message that falls back into its list, since a replica that didn't know of its claim took over or a backup was
restored, is known by its running number: it takes effect once (promise 2). Real fail-overs are in tests/faults."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.ids import uuid7
from etl.inbox.claims import Claim, End, Source
from etl.inbox.connection import connect
from etl.inbox.kept import KeptClaims
from etl.inbox.producer import push
from etl.lab.servers.private import PrivateRedis
from etl.store import identities
from etl.store.writer import Batch, Writer
from tests.faults.sample import let_leases_run_out
from tests.store import at_once, batch, engine
from tests.world import CAMPAIGNS, Archive, cdr

LAST = f"{{{CAMPAIGNS}}}:last"
BROKEN = b"not json"
KEEP_MS = 3_600_000
BOTH_ENDS = pytest.mark.parametrize("end", ["right", "left"])

Workers = Callable[..., Source]


def event(reference: object) -> bytes:
    return json.dumps({"type": "status", "payload": {"status": "started", "ref": str(reference)}}).encode()


@pytest.fixture
def worker(redis_server: PrivateRedis, redis_client: Any) -> Iterator[Workers]:
    clients = []

    def make(name: str = "w1", **options: Any) -> Source:
        clients.append(connect(redis_server.url))
        return Source(clients[-1], CAMPAIGNS, worker=name, **options)

    yield make
    for client in clients:
        client.close()


def taken(claim: Claim | None) -> tuple[Claim, int]:
    assert claim is not None
    assert claim.number is not None
    return claim, claim.number


def numbers(claim: Claim | None) -> dict[int, bytes]:
    """The messages of a claim, by their running numbers."""
    known, first = taken(claim)
    return dict(enumerate(known.messages, first))


def state(client: Any) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


def fall_back(client: Any, to: dict[bytes, bytes]) -> None:
    """What a replica that lags has, and a backup: everything of one moment."""
    client.flushall()
    for key, value in to.items():
        client.restore(key, 0, value)


def numbered(client: Any) -> set[str]:
    return {member.decode() for member in client.zrange(LAST, 0, -1)} - {"last", "next"}


# numbers


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    end=st.sampled_from(["left", "right"]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    again=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    waiting=st.integers(1, 100),
)
def test_what_falls_back_gets_the_same_number_in_claims_of_any_size(
    worker: Workers, redis_client: Any, end: End, sizes: list[int], again: list[int], waiting: int
) -> None:
    redis_client.flushall()
    push(redis_client, CAMPAIGNS, [b"%d" % n for n in range(waiting + 1)], end)
    worker(take_from=end, batch_size=1).claim()  # from here on the list has a number
    before = state(redis_client)

    def claimed(sizes: list[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for size in sizes:
            if claim := worker(take_from=end, batch_size=size).claim():
                found |= numbers(claim)
        return found

    first = claimed(sizes)
    fall_back(redis_client, before)
    second = claimed(again)

    assert [*first] == [*range(min(first), max(first) + 1)]
    assert all(first[number] == second[number] for number in first.keys() & second.keys())
    assert first.keys() <= second.keys() or second.keys() <= first.keys()


@pytest.mark.parametrize("loss", ["flushall", "the key", "a value that is no number of ours"])
def test_given_a_lost_number_if_it_begins_anew_then_no_number_repeats(
    worker: Workers, redis_client: Any, loss: str
) -> None:
    push(redis_client, CAMPAIGNS, [b"x"] * 100)
    before = numbers(worker(batch_size=100).claim())

    match loss:
        case "flushall":
            redis_client.flushall()
        case "the key":
            redis_client.delete(LAST)
        case _:
            redis_client.zadd(LAST, {"next": 1e300})
    push(redis_client, CAMPAIGNS, [b"x"])

    assert min(numbers(worker().claim())) > max(before)


@BOTH_ENDS
def test_an_adopted_claim_keeps_its_number(worker: Workers, redis_client: Any, end: End) -> None:
    push(redis_client, CAMPAIGNS, [b"1", b"2"], end)
    claim, number = taken(worker("w1", take_from=end).claim())
    claim.give_back()

    assert taken(worker("w2").adopt())[1] == number


def test_a_recalled_claim_keeps_its_number_and_a_dropped_one_forgets_it(worker: Workers, redis_client: Any) -> None:
    source = worker(batch_size=1, keep_ms=KEEP_MS)
    kept = KeptClaims(source)
    push(redis_client, CAMPAIGNS, [b"1", b"2"])
    (first, number), (second, _) = (taken(source.claim()) for _ in range(2))
    first.ack()
    second.ack()
    of_first, of_second = kept.oldest()

    assert kept.recall(of_first) == 1
    adopted, same = taken(source.adopt())
    assert (adopted.batch_id, same) == (first.batch_id, number)
    kept.drop([of_second])
    assert numbered(redis_client) == {str(first.batch_id)}


def test_an_acknowledged_claim_that_is_not_kept_forgets_its_number(worker: Workers, redis_client: Any) -> None:
    push(redis_client, CAMPAIGNS, [b"1"])
    taken(worker().claim())[0].ack()

    assert numbered(redis_client) == set()


def test_what_a_loader_of_0_1_leaves_is_swept_and_nothing_else(worker: Workers, redis_client: Any) -> None:
    source = worker(batch_size=1, keep_ms=KEEP_MS)
    push(redis_client, CAMPAIGNS, [b"%d" % n for n in range(4)])
    held, kept, orphan, gone = (taken(source.claim())[0] for _ in range(4))
    kept.ack()
    registry = f"{{{CAMPAIGNS}}}:claims"
    redis_client.zrem(registry, f"{orphan.batch_id}@w1")
    redis_client.zrem(registry, f"{gone.batch_id}@w1")  # as its ack did
    redis_client.unlink(f"{{{CAMPAIGNS}}}:claim:{gone.batch_id}")

    assert source.rescue() == 1  # the orphan
    assert numbered(redis_client) == {str(each.batch_id) for each in (held, kept, orphan)}


def test_a_claim_of_0_1_has_no_number(worker: Workers, redis_client: Any) -> None:
    batch_id = uuid7(1_700_000_000_000)
    redis_client.lpush(f"{{{CAMPAIGNS}}}:claim:{batch_id}", b"1")
    redis_client.zadd(f"{{{CAMPAIGNS}}}:claims", {f"{batch_id}@old": 0})

    claim = worker().adopt()
    assert claim is not None
    assert (claim.batch_id, claim.number) == (batch_id, None)


# what is loaded again


def stored(archive: Archive) -> dict[str, Any]:
    """What is there, and when it was captured."""
    return {
        "events": archive.rows("SELECT captured_on, event_id, captured_at, reference FROM audit_events ORDER BY 2"),
        "letters": archive.rows("SELECT id, raw, received_at, resolved_at FROM dead_letters ORDER BY id"),
    }


def load_twice(archive: Archive, messages: list[bytes], between: Callable[[], object] = lambda: None) -> None:
    """They fall back into the list after they were loaded."""
    archive.push(event("before"))
    archive.load()
    archive.push(*messages)
    before = state(archive.redis)
    archive.load()
    between()
    fall_back(archive.redis, before)
    archive.load(batch_size=2)


def test_given_messages_that_fall_back_if_loaded_again_then_once(archive: Archive) -> None:
    found: dict[str, Any] = {}

    def look() -> None:
        found.update(stored(archive))

    load_twice(archive, [event(1), event(1), BROKEN, BROKEN, event(2)], look)

    assert stored(archive) == found
    assert (len(found["events"]), len(found["letters"])) == (4, 2)
    archive.assert_books_balance()
    again = "SELECT sum(claimed) AS claimed, sum(unchanged) AS unchanged FROM load_batches"
    assert archive.rows(again) == [{"claimed": 11, "unchanged": 5}]


def test_given_a_claim_that_falls_back_over_midnight_then_its_day_stays(archive: Archive) -> None:
    def a_day_passes() -> None:
        archive.rows(
            "UPDATE audit_events SET captured_on = captured_on - 1, captured_at = captured_at - '1 day'::interval"
            " RETURNING 1"
        )
        archive.rows("UPDATE load_batch_days SET day = day - 1 RETURNING 1")

    yesterday = "SELECT make_partition('audit_events', (now() AT TIME ZONE 'UTC')::date - 1)"
    archive.rows(yesterday)
    load_twice(archive, [event(1)], a_day_passes)

    assert archive.value("SELECT count(DISTINCT captured_on) FROM audit_events") == 1
    assert archive.value("SELECT count(*) FROM audit_events") == 2
    archive.assert_books_balance()


def test_given_a_day_that_was_pruned_if_it_falls_back_then_it_stays_gone(archive: Archive) -> None:
    def prune() -> None:
        archive.rows("DELETE FROM audit_events RETURNING 1")

    load_twice(archive, [event(1)], prune)

    assert archive.value("SELECT count(*) FROM audit_events") == 0


@pytest.mark.parametrize("what", ["resolved_at = now(), resolution = 'discarded: no'", None])
def test_given_letters_resolved_or_deleted_if_they_fall_back_then_no_more(archive: Archive, what: str | None) -> None:
    change = f"UPDATE dead_letters SET {what} RETURNING 1" if what else "DELETE FROM dead_letters RETURNING 1"
    load_twice(archive, [BROKEN, BROKEN], lambda: archive.rows(change))

    assert archive.value("SELECT count(*) FROM dead_letters") == (2 if what else 0)
    assert archive.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 0


def test_given_an_adopted_claim_that_falls_back_then_once(archive: Archive, worker: Workers) -> None:
    """Whose messages are read in pieces."""
    archive.push(event(0))
    archive.load()
    archive.push(event(1), BROKEN, event(2))
    before = state(archive.redis)
    claim, _ = taken(worker("gone").claim())
    claim.put_off()
    let_leases_run_out(archive)
    archive.load()
    fall_back(archive.redis, before)
    archive.load()

    assert archive.value("SELECT count(*) FROM audit_events") == 3
    assert archive.value("SELECT count(*) FROM dead_letters") == 1
    archive.assert_books_balance()


def test_given_equal_bytes_at_an_equal_number_then_one_is_lost(archive: Archive) -> None:
    """What is left, and documented: the former primary was told an event that its replica never knew, and the replica's
    next message is the same, at the same place."""
    archive.push(event(0))
    archive.load()
    before = state(archive.redis)
    archive.push(event("same"))
    archive.load()
    fall_back(archive.redis, before)
    archive.push(event("same"))
    archive.load()

    assert archive.value("SELECT count(*) FROM audit_events WHERE reference = 'same'") == 1
    assert archive.value("SELECT sum(unchanged) FROM load_batches") == 1


def test_given_a_claim_of_0_1_that_falls_back_then_it_is_there_twice(archive: Archive) -> None:
    """What is left, and documented: it has no number."""
    batch_id = uuid7(1_700_000_000_000)
    archive.redis.lpush(f"{{{CAMPAIGNS}}}:claim:{batch_id}", event(1))
    archive.redis.zadd(f"{{{CAMPAIGNS}}}:claims", {f"{batch_id}@old": 0})
    archive.load()
    archive.push(event(1))
    archive.load()

    assert archive.value("SELECT count(*) FROM audit_events") == 2


def numbered_batch(number: int, messages: list[bytes]) -> Batch:
    return replace(batch(messages), server="redis", number=number)


@pytest.mark.parametrize("shift", [0, 1, 50, 99])
def test_given_two_claims_of_the_same_at_once_then_each_takes_effect_once(database_url: str, shift: int) -> None:
    """A worker goes on at the former primary while others are at the promoted replica; their claims overlap."""
    messages = [event(n) if n % 3 else b"broken %d" % n for n in range(200)]
    with engine(database_url) as one, engine(database_url) as other:
        claims = (numbered_batch(0, messages[:100]), numbered_batch(shift, messages[shift : shift + 100]))
        at_once(*(partial(Writer(each).write, claim) for each, claim in zip((one, other), claims, strict=True)))
        with one.connect() as connection:
            rows = connection.scalar(
                sa.text("SELECT (SELECT count(*) FROM audit_events) + (SELECT count(*) FROM dead_letters)")
            )

    assert rows == 100 + shift


def test_given_an_identity_whose_claim_the_ledger_lost_then_it_is_loaded(database_url: str) -> None:
    found = []
    with engine(database_url) as database:
        writer = Writer(database)
        writer.write(numbered_batch(0, [event(1), BROKEN]))
        with database.begin() as connection:
            for table in ("load_batches", "load_batch_days", "audit_events", "dead_letters"):
                connection.execute(sa.text(f"DELETE FROM {table}"))
        for _ in range(2):
            books = writer.write(numbered_batch(0, [event(1), BROKEN]))
            found.append((books.events, books.dead, books.unchanged) if books else None)

    assert found == [(1, 1, 0), (0, 0, 2)]


def test_given_another_server_or_list_then_the_same_number_is_another(database_url: str) -> None:
    with engine(database_url) as database:
        for server, key in (("a", "l"), ("b", "l"), ("a", "m"), ("al", ""), ("", "al")):
            Writer(database).write(replace(numbered_batch(0, [BROKEN]), server=server, source_key=key))
        with database.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM dead_letters")) == 5


def test_given_a_row_that_postgres_refuses_if_it_falls_back_then_once(database_url: str) -> None:
    with engine(database_url) as database:
        with database.begin() as connection:
            connection.execute(sa.text("ALTER TABLE audit_events ADD CHECK (reference <> 'no')"))
            connection.execute(sa.text("ALTER TABLE cdrs ADD CHECK (call_ref <> 'no')"))
        messages = [event("yes"), event("no"), cdr("no"), cdr("yes"), event("good")]
        for expected in ((2, 2, 0), (0, 0, 5)):
            books = Writer(database).write(numbered_batch(7, messages))
            assert books is not None
            assert (books.events, books.dead, books.unchanged) == expected


def test_identities_are_forgotten_after_their_time_and_not_before(database_url: str) -> None:
    with engine(database_url) as database:
        for days, number in ((31, 0), (29, 1)):
            then = datetime.now(UTC) - timedelta(days=days)
            Writer(database).write(replace(numbered_batch(number, [BROKEN]), claimed_at=then))

        assert identities.forget(database) == 1
        assert identities.forget(database) == 0


def test_calls_alone_have_no_identities(archive: Archive) -> None:
    archive.push(cdr(1), cdr(2))
    archive.load()

    assert archive.value("SELECT count(*) FROM list_identities") == 0
