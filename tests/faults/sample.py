"""A claim's worth of everything that could take effect once too often, and how it's seen that it didn't."""

from tests.world import CAMPAIGNS, Archive, api_cdr, cdr

EVENT = b'{"type": "status", "payload": {"ref": "2040"}}'
BROKEN = b"not json"

# Two calls, one in both dialects and one sent twice; an event; a dead letter twice, which is two.
MESSAGES = [cdr(1), api_cdr(1), cdr(2), cdr(2), EVENT, BROKEN, BROKEN]

# Small claims, so that there are many: for a loader that is killed among them.
SMALL_CLAIMS = {"batch_size": 25, "linger_ms": 5, "lease_seconds": 10}
SEED = 20150219


def assert_in_postgres_once(archive: Archive) -> None:
    assert archive.value("SELECT array_agg(call_ref ORDER BY call_ref) FROM cdrs") == ["1", "2"]
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    assert archive.value("SELECT count(*) FROM audit_events") == 1
    assert archive.value("SELECT array_agg(raw) FROM dead_letters") == [BROKEN, BROKEN]
    assert archive.value("SELECT array_agg(claimed) FROM load_batches") == [len(MESSAGES)]


def assert_took_effect_once(archive: Archive) -> None:
    """And nothing of it is left in Redis."""
    assert_in_postgres_once(archive)
    archive.assert_books_balance()


def leases(archive: Archive, key: str = CAMPAIGNS) -> dict[str, float]:
    """The deadline of every claim, in ms of the server's time."""
    registry = f"{{{key}}}:claims"
    return {claim: float(str(archive.redis.zscore(registry, claim))) for claim in archive.claims(key)}


def assert_adoptable_at_once(archive: Archive) -> None:
    seconds, _ = archive.redis.time()
    assert leases(archive)
    assert all(deadline / 1_000 <= seconds + 1 for deadline in leases(archive).values())


def let_leases_run_out(archive: Archive) -> None:
    """As if their length had passed."""
    for claim in archive.claims():
        archive.redis.zadd(f"{{{CAMPAIGNS}}}:claims", {claim: 0}, xx=True)


def claims_in_hand(archive: Archive) -> int:
    """Of any source."""
    return sum(len(archive.claims(source.key)) for source in archive.sources)
