"""The host's clock beside those of the stores, whenever it's set."""

import time

import pytest

from etl.jobs.clocks import compared

DAY = 86_400.0


@pytest.mark.parametrize("step", [-DAY, -3_600.0, 3_600.0, DAY])
def test_given_a_clock_set_between_the_questions_then_both_say_the_same(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    right = time.time()

    def redis() -> float:
        monkeypatch.setattr(time, "time", lambda: right + 2 * DAY + step)
        return right

    monkeypatch.setattr(time, "time", lambda: right + 2 * DAY)

    ahead = compared(redis, lambda: right)

    assert ahead.is_host_wrong
    assert ahead.redis == pytest.approx(-2 * DAY, abs=60)
