"""How long messages of a list wait for others, in simulated time: looks and arrivals as they may come."""

import math
from itertools import count, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.jobs.linger import TRICKLE, Lingering
from etl.jobs.pool import LOOK_SECONDS

LINGER = 0.2  # seconds
HALF_A_SECOND = 0.5


def claimed(arrivals: list[float], linger: float = LINGER) -> list[tuple[float, list[float]]]:
    """When the pool, whose looks and claims take no time, claims which arrivals."""
    lingering = Lingering(linger)
    claims: list[tuple[float, list[float]]] = []
    waiting: list[float] = []
    coming, now = sorted(arrivals), 0.0
    while waiting or coming:
        waiting += [at for at in coming if at <= now]
        coming = [at for at in coming if at > now]
        if not waiting:
            lingering.saw_none(now)
            now += LOOK_SECONDS
        elif now >= lingering.due_at:
            claims.append((now, waiting))
            waiting = []
            lingering.claimed(now)
            now += LOOK_SECONDS
        else:
            now = min(now + LOOK_SECONDS, lingering.due_at)
    return claims


@given(st.lists(st.floats(0.001, 60, allow_nan=False), min_size=1, max_size=200))
def test_given_any_arrivals_then_none_waits_for_half_a_second(arrivals: list[float]) -> None:
    claims = claimed(arrivals)

    assert sorted(at for _, messages in claims for at in messages) == sorted(arrivals), "each once"
    assert max(when - at for when, messages in claims for at in messages) <= TRICKLE * LINGER + 1e-9 < HALF_A_SECOND


@pytest.mark.parametrize("per_second", [5, 20, 100, 1_000])
def test_given_a_trickle_then_two_claims_a_second_are_enough(per_second: int) -> None:
    arrivals = list(takewhile(lambda at: at < 60, (number / per_second for number in count(1))))

    assert len(claimed(arrivals)) <= math.ceil(60 / (TRICKLE * LINGER)) + 1


def test_given_a_message_now_and_then_then_it_waits_no_longer_than_set() -> None:
    for when, messages in claimed([number * 7.77 for number in range(1, 20)]):
        assert len(messages) == 1
        assert when - messages[0] <= LINGER


def test_given_no_lingering_then_each_look_claims() -> None:
    assert [when for when, _ in claimed([0.3, 0.31, 0.5], linger=0)] == pytest.approx([0.4, 0.6])
