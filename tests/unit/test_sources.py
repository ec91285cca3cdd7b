"""What of a claim's time its decoder goes by."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from etl.app.sources import decoders_of
from etl.settings import Settings
from etl.wire.times import from_datetime
from tests.world import CAMPAIGNS, cdr

NOW = datetime.now(UTC)


@pytest.mark.parametrize(("claimed_in_days", "dead"), [(0, 1), (2, 1), (3, 0), (30, 0)])
def test_a_call_may_be_as_late_as_its_claim_whatever_the_host_says(claimed_in_days: int, dead: int) -> None:
    message = cdr(1, dialed_at=int((NOW + timedelta(days=3.5)).timestamp()))
    claimed_at = from_datetime(NOW + timedelta(days=claimed_in_days))

    decoded = decoders_of(Settings())[CAMPAIGNS]([message], UUID(int=7), claimed_at).finish()

    assert (len(decoded.cdrs), len(decoded.dead)) == (1 - dead, dead)
