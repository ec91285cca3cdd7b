"""What of a claim's time its decoder goes by."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from etl.app.sources import decoders_of
from etl.settings import Settings
from etl.wire.faults import Reason
from etl.wire.times import EPOCH, from_datetime
from tests.world import CAMPAIGNS, cdr

NOW = datetime.now(UTC)


@pytest.mark.parametrize(("claimed_in_days", "dead"), [(0, 1), (2, 1), (3, 0), (30, 0)])
def test_a_call_may_be_as_late_as_its_claim_whatever_the_host_says(claimed_in_days: int, dead: int) -> None:
    message = cdr(1, dialed_at=int((NOW + timedelta(days=3.5)).timestamp()))
    claimed_at = from_datetime(NOW + timedelta(days=claimed_in_days))

    decoded = decoders_of(Settings())[CAMPAIGNS]([message], UUID(int=7), claimed_at).finish()

    assert (len(decoded.cdrs), len(decoded.dead)) == (1 - dead, dead)


@pytest.mark.parametrize("oldest_days", [1, 3_650, 36_500])
@pytest.mark.parametrize("claimed_days_ago", [-3, 0, 5_000])
def test_how_old_a_call_may_be_goes_by_its_claim_and_not_by_now(oldest_days: int, claimed_days_ago: int) -> None:
    claimed_at = NOW.replace(microsecond=0) - timedelta(days=claimed_days_ago)
    last = max(claimed_at - timedelta(days=oldest_days), EPOCH)
    calls = [cdr(n, dialed_at=int(last.timestamp()) - n) for n in range(2)]
    event = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'

    settings = Settings(oldest_days=oldest_days)
    decoded = decoders_of(settings)[CAMPAIGNS]([*calls, event], UUID(int=7), from_datetime(claimed_at)).finish()

    assert [call.call_ref for call in decoded.cdrs] == ["0"]
    assert [(letter.position, letter.reason) for letter in decoded.dead] == [(1, Reason.OUT_OF_RANGE)]
    assert len(decoded.events) == 1


def test_where_any_day_may_come_the_year_2000_is_the_first() -> None:
    calls = [cdr(n, dialed_at=int(EPOCH.timestamp()) - n) for n in range(2)]

    decoded = decoders_of(Settings(oldest_days=0))[CAMPAIGNS](calls, UUID(int=7), from_datetime(NOW)).finish()

    assert [call.call_ref for call in decoded.cdrs] == ["0"]
