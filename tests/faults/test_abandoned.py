"""Claims whose worker is gone, as a loader finds them: among those of the living, and among others' junk in Redis."""

import time
from uuid import UUID, uuid4

import pytest

from etl.ids import uuid7
from etl.inbox import connection
from etl.inbox.claims import Claim, Source
from etl.store.ledger import Books
from tests.faults.sample import MESSAGES, assert_in_postgres_once, assert_took_effect_once, let_leases_run_out
from tests.world import CAMPAIGNS, Archive, cdr

CLAIM = f"{{{CAMPAIGNS}}}:claim:"
REGISTRY = f"{{{CAMPAIGNS}}}:claims"


def now() -> int:
    return time.time_ns() // 1_000_000


def abandoned(archive: Archive, worker: str, lease_ms: int) -> Claim:
    """A claim of all messages, made by a worker that we hear no more of."""
    archive.push(*MESSAGES)
    client = connection.connect(archive.redis_url)
    claim = Source(client, CAMPAIGNS, worker=worker, lease_ms=lease_ms).claim()
    client.close()
    assert claim is not None
    return claim


def batches(archive: Archive) -> list[UUID]:
    return [row["batch_id"] for row in archive.rows("SELECT batch_id FROM load_batches")]


def test_anothers_claim_is_left_alone_until_its_lease_has_run_out(archive: Archive) -> None:
    claim = abandoned(archive, worker="another", lease_ms=60_000)
    assert archive.load() == Books()
    assert archive.claims() == [f"{claim.batch_id}@another"]

    let_leases_run_out(archive)
    assert archive.load().claimed == len(MESSAGES)
    assert batches(archive) == [claim.batch_id]
    assert_took_effect_once(archive)


def test_its_own_claim_from_an_earlier_life_is_taken_up_at_once(archive: Archive) -> None:
    claim = abandoned(archive, worker="test", lease_ms=60_000)
    assert archive.load().claimed == len(MESSAGES)
    assert batches(archive) == [claim.batch_id]
    assert_took_effect_once(archive)


def test_a_claim_that_no_entry_names_is_loaded_as_what_it_was(archive: Archive) -> None:
    claim = abandoned(archive, worker="another", lease_ms=60_000)
    archive.redis.delete(REGISTRY)
    assert archive.load().claimed == len(MESSAGES)
    assert batches(archive) == [claim.batch_id]
    assert_took_effect_once(archive)


def test_a_list_that_is_merely_named_like_a_claim_is_loaded_too(archive: Archive) -> None:
    for name in (b"junk", b"\xff\xfe", str(uuid4()).encode()):
        archive.redis.rpush(CLAIM.encode() + name, *MESSAGES)
    assert archive.load().claimed == 3 * len(MESSAGES)
    archive.assert_books_balance()


@pytest.mark.parametrize("score", [0, 2**53], ids=["expired", "leased"])
@pytest.mark.parametrize("worker", ["@test", "@another", ""])
def test_junk_in_the_registry_stops_nobody(archive: Archive, worker: str, score: int) -> None:
    entries = ["", "junk", str(uuid4()), str(uuid7(now())), str(UUID(int=2**128 - 1)), f"{{{uuid4()}}}"]
    archive.redis.zadd(REGISTRY, {entry + worker: score for entry in entries})
    archive.redis.zadd(REGISTRY, {b"\xff\xfe" + worker.encode(): score})
    archive.push(*MESSAGES)
    assert archive.load().claimed == len(MESSAGES)
    assert_in_postgres_once(archive)


@pytest.mark.parametrize("worker", ["@test", "@another"])
def test_an_entry_that_names_something_else_than_a_claim_stops_nobody(archive: Archive, worker: str) -> None:
    no_list, not_ours = uuid7(now()), UUID(int=uuid4().int | 0xFFFF << 112)  # whose time would be in the year 10889
    archive.redis.set(f"{CLAIM}{no_list}", "a string")
    archive.redis.rpush(f"{CLAIM}{not_ours}", cdr("not ours"))
    archive.redis.zadd(REGISTRY, {f"{no_list}{worker}": 0, f"{not_ours}{worker}": 0})
    archive.push(*MESSAGES)
    assert archive.load().claimed == len(MESSAGES)
    assert_in_postgres_once(archive)
    assert archive.redis.lrange(f"{CLAIM}{not_ours}", 0, -1) == [cdr("not ours")]
