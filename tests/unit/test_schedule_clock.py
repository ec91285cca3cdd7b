"""The schedule by a clock that is set: which jobs run when. Time goes on only while the schedule waits."""

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import WrongClock
from etl.jobs.schedule import ASK_AGAIN_SECONDS, POLL_SECONDS, Job, Schedule

NOON = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3_600, 86_400


class World(threading.Event):
    """A stop signal that comes after `seconds`, and the host's two clocks, of which one may be set."""

    def __init__(self, seconds: float, steps: dict[float, float] | None = None, begin: datetime = NOON) -> None:
        super().__init__()
        self._seconds = seconds
        self._steps = sorted((steps or {}).items())
        self._begin = begin
        self.passed = 0.0
        self.moments: list[float] = []  # since the beginning, when a job ran

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.passed += timeout
        if self.passed > self._seconds:
            self.set()
        return self.is_set()

    def now(self) -> datetime:
        set_by = sum(seconds for at, seconds in self._steps if at <= self.passed)
        return self._begin + timedelta(seconds=self.passed + set_by)

    def schedule(self, cron: str, takes: float = 0.0, wrong: tuple[float, float] = (0.0, 0.0)) -> list[datetime]:
        """When, by the host's clock, a job ran that takes so long. `wrong`: from and until when that clock is."""
        ran = []

        def act(_stop: threading.Event) -> None:
            ran.append(self.now())
            self.moments.append(self.passed)
            self.passed += takes

        def check_clock() -> None:
            if wrong[0] <= self.passed < wrong[1]:
                raise WrongClock("ETL-420", "this host's clock is wrong")

        log = structlog.get_logger()
        Schedule([Job("job", cron, act)], alone, log, self.now, lambda: self.passed, check_clock).run(self)
        return ran


def alone(_name: str) -> contextlib.AbstractContextManager[bool]:
    return contextlib.nullcontext(True)


def test_given_a_right_clock_then_a_job_runs_once_at_each_of_its_times() -> None:
    ran = World(10 * MINUTE).schedule("* * * * *")

    assert [each.replace(second=0, microsecond=0) for each in ran] == [
        NOON.replace(second=0) + timedelta(minutes=n) for n in range(1, 11)
    ]
    assert all(each.second <= POLL_SECONDS for each in ran)


@given(st.dictionaries(st.floats(0, 20 * MINUTE), st.floats(-2 * DAY, 2 * DAY), max_size=4))
def test_given_any_steps_then_a_minutes_job_neither_stops_nor_multiplies(steps: dict[float, float]) -> None:
    world = World(20 * MINUTE, steps)
    world.schedule("* * * * *")

    # A step passes a time or not, and begins another minute.
    assert abs(len(world.moments) - 20) <= 2 * len(steps)
    moments = [0.0, *world.moments, world.passed]
    assert max(later - earlier for earlier, later in pairwise(moments)) <= (1 + len(steps)) * MINUTE + MINUTE / 2 + 1


def test_given_a_step_back_of_an_hour_then_the_next_minute_has_its_run() -> None:
    ran = World(5 * MINUTE, {100.0: -HOUR}).schedule("* * * * *")

    assert len(ran) == 5
    assert [each.hour for each in ran] == [12, 12, 11, 11, 11]


@pytest.mark.parametrize("seconds", [-HOUR, -5 * MINUTE, HOUR, 5 * MINUTE])
def test_given_a_step_after_it_ran_then_a_nightly_job_has_run_once(seconds: float) -> None:
    night = datetime(2026, 11, 24, 2, 14, 30, tzinfo=UTC)

    assert len(World(3 * HOUR, {2 * MINUTE: seconds}, night).schedule("15 2 * * *")) == 1


def test_given_several_missed_times_then_they_make_one_run() -> None:
    assert len(World(2 * MINUTE, {20.0: 5 * DAY}).schedule("0 * * * *")) == 1
    assert len(World(2 * MINUTE, {20.0: 56 * 365 * DAY}, datetime(1970, 1, 1, tzinfo=UTC)).schedule("0 * * * *")) == 1


def test_given_a_job_longer_than_its_interval_then_none_follow_at_once() -> None:
    ran = World(21 * MINUTE, {}).schedule("* * * * *", takes=5 * MINUTE)

    assert len(ran) == 5
    assert all(later - earlier >= timedelta(minutes=5) for earlier, later in pairwise(ran))


@given(
    st.floats(0, 10 * MINUTE),
    st.floats(0, 10 * MINUTE),
    st.dictionaries(st.floats(0, 20 * MINUTE), st.floats(-2 * DAY, 2 * DAY), max_size=3),
)
def test_given_a_wrong_clock_then_nothing_runs_until_it_is_right(
    begin: float, lasts: float, steps: dict[float, float]
) -> None:
    world, end = World(25 * MINUTE, steps), begin + lasts
    world.schedule("* * * * *", wrong=(begin, end))

    assert not [moment for moment in world.moments if begin <= moment < end]
    # What was missed meanwhile makes one run, as soon as it's seen, or when the next minute is.
    after = min(moment for moment in world.moments if moment >= end)
    assert after - end <= MINUTE * (1 + len(steps)) + ASK_AGAIN_SECONDS + 1


def test_given_a_wrong_clock_then_that_is_told_once_and_when_it_is_over() -> None:
    with structlog.testing.capture_logs() as logged:
        World(10 * MINUTE).schedule("* * * * *", wrong=(90, 400))

    assert [line["event"] for line in logged] == ["schedule_outage_began", "schedule_outage_ended"]
    assert logged[0]["code"] == "ETL-420"
    assert logged[1]["log_level"] == "warning"
