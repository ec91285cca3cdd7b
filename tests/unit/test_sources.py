"""What of a claim's time its decoder goes by."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from etl.app.sources import decoders_of
from etl.settings import Settings
from etl.wire.decode import Records
from etl.wire.faults import Reason
from etl.wire.times import EPOCH, from_datetime
from tests.world import CAMPAIGNS, cdr

NOW = datetime.now(UTC)


@pytest.mark.parametrize(("claimed_in_days", "dead"), [(0, 1), (2, 1), (3, 0), (30, 0)])
def test_a_call_may_be_as_late_as_its_claim_whatever_the_host_says(claimed_in_days: int, dead: int) -> None:
    message = cdr(1, dialed_at=int((NOW + timedelta(days=3.5)).timestamp()))
    claimed_at = from_datetime(NOW + timedelta(days=claimed_in_days))

    for packs, records in _decoded([message], claimed_at):
        decoded = records.finish()
        assert (_how_many(records), len(decoded.dead)) == (1 - dead, dead), packs


@pytest.mark.parametrize("oldest_days", [1, 3_650, 36_500])
@pytest.mark.parametrize("claimed_days_ago", [-3, 0, 5_000])
def test_how_old_a_call_may_be_goes_by_its_claim_and_not_by_now(oldest_days: int, claimed_days_ago: int) -> None:
    claimed_at = NOW.replace(microsecond=0) - timedelta(days=claimed_days_ago)
    last = max(claimed_at - timedelta(days=oldest_days), EPOCH)
    calls = [cdr(n, dialed_at=int(last.timestamp()) - n) for n in range(2)]
    event = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'

    for packs, records in _decoded([*calls, event], from_datetime(claimed_at), oldest_days=oldest_days):
        decoded = records.finish()
        assert _how_many(records) == 1, packs
        assert [(letter.position, letter.reason) for letter in decoded.dead] == [(1, Reason.OUT_OF_RANGE)], packs
        assert len(decoded.events) == 1


def test_where_any_day_may_come_the_year_2000_is_the_first() -> None:
    calls = [cdr(n, dialed_at=int(EPOCH.timestamp()) - n) for n in range(2)]

    for packs, records in _decoded(calls, from_datetime(NOW), oldest_days=0):
        assert (_how_many(records), [letter.position for letter in records.finish().dead]) == (1, [1]), packs


def _decoded(messages: list[bytes], claimed_at: int, **more: Any) -> Iterator[tuple[str, Records]]:
    """By each decoder that there is; without the compiled one both are Python's."""
    for decoder in ("python", "auto"):
        records = decoders_of(Settings(decoder=decoder, **more))[CAMPAIGNS](messages, UUID(int=7), claimed_at)
        records.packed()
        yield decoder, records


def _how_many(records: Records) -> int:
    """CDRs, packed or not."""
    packed = records.packed()
    return len(records.finish().cdrs) + (packed.how_many() if packed else 0)
