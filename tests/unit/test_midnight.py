"""Which calls the other dialect may date on another day."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from etl.store.merge import TOLERANCE
from etl.store.midnight import near_midnight
from etl.wire.times import from_datetime
from tests.wire import a_cdr
from tests.world import cdr

CALL = a_cdr(cdr(1))
MIDNIGHTS = [datetime(2015, 2, 19, tzinfo=UTC) + n * timedelta(days=1) for n in range(3)]
US = timedelta(microseconds=1)
# Mostly within two tolerances of one of the midnights, and else anywhere between them.
OFFSETS = st.one_of(
    st.timedeltas(min_value=-2 * TOLERANCE, max_value=2 * TOLERANCE),
    st.sampled_from([sign * TOLERANCE + n * US for sign in (-1, 1) for n in (-1, 0, 1)]),
    st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1)),
)
TIMES = st.builds(lambda midnight, offset: midnight + offset, st.sampled_from(MIDNIGHTS), OFFSETS)


@given(st.lists(TIMES, max_size=4))
def test_near_midnight_are_those_within_the_tolerance(times: list[datetime]) -> None:
    calls = [CALL._replace(dialed_at=from_datetime(time)) for time in times]
    ends = [*MIDNIGHTS, MIDNIGHTS[-1] + timedelta(days=1), MIDNIGHTS[0] - timedelta(days=1)]

    near = [index for index, time in enumerate(times) if any(abs(time - end) <= TOLERANCE for end in ends)]

    assert near_midnight(calls) == [(index, calls[index]) for index in near]
