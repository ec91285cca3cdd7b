"""When a claim counts as taken, whichever clocks are wrong, alone and in pairs."""

from datetime import UTC, datetime, timedelta

import pytest

from etl.errors import Outage
from etl.store.claim_times import APART, ClaimTimes
from etl.store.partitions import DAYS_AHEAD

NOW = datetime(2026, 11, 26, 17, 30, tzinfo=UTC)
YEARS = timedelta(days=4_000)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)

AS_IT_IS, AS_OF_POSTGRES, WAITS = "as it is", "as of Postgres' now", "waits"

# By how much Redis' clock (or that of any moment before), this host's and Postgres' are ahead, and what becomes of a
# claim. Of a host whose clock alone is wrong nothing comes so far: see tests/integration/test_clocks.py.
OUTCOMES = [
    (0 * DAY, 0 * DAY, 0 * DAY, AS_IT_IS),
    (HOUR, -HOUR, 0 * DAY, AS_IT_IS),
    (DAY, 0 * DAY, 0 * DAY, AS_IT_IS),
    # one alone
    (2 * DAY, 0 * DAY, 0 * DAY, AS_OF_POSTGRES),
    (YEARS, 0 * DAY, 0 * DAY, AS_OF_POSTGRES),
    (-YEARS, 0 * DAY, 0 * DAY, AS_IT_IS),  # in which order it sorts, and by what day: of the past all days may be
    (0 * DAY, YEARS, 0 * DAY, AS_IT_IS),
    (0 * DAY, -YEARS, 0 * DAY, AS_IT_IS),
    (0 * DAY, 0 * DAY, YEARS, AS_IT_IS),
    (0 * DAY, 0 * DAY, -2 * DAY, AS_IT_IS),
    (0 * DAY, 0 * DAY, -3 * DAY, WAITS),
    (0 * DAY, 0 * DAY, -YEARS, WAITS),
    # pairs
    (YEARS, YEARS, 0 * DAY, WAITS),
    (YEARS, 2 * YEARS, 0 * DAY, WAITS),
    (YEARS, -YEARS, 0 * DAY, AS_OF_POSTGRES),
    (2 * YEARS, 0 * DAY, YEARS, AS_OF_POSTGRES),
    (YEARS, 0 * DAY, YEARS, AS_IT_IS),
    (YEARS, 0 * DAY, -3 * DAY, WAITS),
    (0 * DAY, YEARS, -3 * DAY, WAITS),
    (0 * DAY, -YEARS, -3 * DAY, AS_OF_POSTGRES),  # two are wrong, and agree
    # all three
    (YEARS, YEARS, YEARS, AS_IT_IS),
    (YEARS, YEARS, -3 * DAY, WAITS),
]


@pytest.mark.parametrize(("redis", "host", "postgres", "outcome"), OUTCOMES)
def test_which_clocks_are_wrong_decides_when_a_claim_was_taken(
    redis: timedelta, host: timedelta, postgres: timedelta, outcome: str
) -> None:
    times = ClaimTimes(lambda: NOW + host)
    claimed_at, by_postgres = NOW + redis, NOW + postgres
    if outcome is WAITS:
        with pytest.raises(Outage, match="a claim of the:list was taken at") as raised:
            times.of("the:list", claimed_at, by_postgres)
        assert raised.value.code == "ETL-926"
    else:
        expected = {AS_IT_IS: claimed_at, AS_OF_POSTGRES: by_postgres}[outcome]
        assert times.of("the:list", claimed_at, by_postgres) == expected


def test_what_is_within_a_day_of_a_claim_has_a_day_that_may_be() -> None:
    """No call of a broken time keeps a list waiting where the host's clock is right: it's refused before."""
    for now in (NOW.replace(hour=hour) for hour in range(24)):
        times = ClaimTimes(lambda now=now: now)  # type: ignore[misc]
        for hours in range(-10, 24 * 8):
            claimed_at = times.of("the:list", now + hours * HOUR, now)
            assert (claimed_at + APART).date() <= now.date() + timedelta(days=DAYS_AHEAD)


@pytest.mark.parametrize("year", [1, 1970, 1999])
def test_no_claim_was_taken_before_2000(year: int) -> None:
    assert ClaimTimes(lambda: NOW).of("the:list", NOW.replace(year=year), NOW) == NOW
