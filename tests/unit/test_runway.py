"""How long the memory lasts, from samples whose answer is plain."""

import math
from collections.abc import Sequence

import pytest

from etl.inbox.memory import Memory
from etl.jobs.runway import WINDOW_SECONDS, Runway, Sample

LIMIT = 1_000_000


def sample(at: float, backlog: int, used: int = 0, limit: int | None = LIMIT) -> Sample:
    return Sample(at, backlog, [Memory("a", used, limit, True)])


def runway(*samples: Sample) -> float | None:
    computed = Runway()
    for each in samples:
        computed.add(each)
    return computed.seconds()


def test_given_a_growing_backlog_then_it_is_the_free_memory_by_its_growth() -> None:
    assert runway(sample(10, 0, 200_000), sample(14, 5, 240_000)) == (LIMIT - 240_000) / 10_000


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (sample(1, 100, 500), "the backlog stays as it is"),
        (sample(1, 99, 500), "it shrinks"),
        (sample(1, 101, 100), "no memory is used for it"),
        (sample(1, 101, 50), "memory was set free meanwhile"),
    ],
)
def test_given_no_growth_then_it_lasts_for_ever(later: Sample, why: str) -> None:
    assert runway(sample(0, 100, 100), later) == math.inf, why


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [sample(0, 0)],
        [sample(0, 0, 1), sample(0, 9, 9)],
        [sample(0, 0, 1, None), sample(1, 9, 9, None)],
        [Sample(0, 0, None), Sample(1, 9, None)],
        [Sample(0, 0, None), sample(1, 9, 9)],
    ],
)
def test_given_too_little_is_known_then_so_is_it(samples: Sequence[Sample]) -> None:
    assert runway(*samples) is None


def test_given_a_server_beyond_its_limit_then_nothing_is_left() -> None:
    assert runway(sample(0, 0, LIMIT), sample(1, 1, LIMIT + 1)) == 0


def test_given_several_servers_then_the_first_that_is_full_decides() -> None:
    def at(second: float, backlog: int, a: int, b: int, c: int) -> Sample:
        used = {"a": (a, LIMIT), "b": (b, LIMIT), "c": (c, None)}
        return Sample(second, backlog, [Memory(name, *each, True) for name, each in used.items()])

    assert runway(at(0, 0, 0, 500_000, 0), at(1, 1, 100, 500_001, 9)) == (LIMIT - 100) / 100


def test_a_growth_that_has_ended_is_forgotten_and_a_new_one_seen() -> None:
    computed = Runway()
    computed.add(sample(0, 0, 0))
    computed.add(sample(1, 1_000, 1_000))
    assert computed.seconds() == (LIMIT - 1_000) / 1_000
    computed.add(sample(2 + WINDOW_SECONDS, 1_000, 1_000))
    assert computed.seconds() == math.inf
    computed.add(sample(3 + 2 * WINDOW_SECONDS, 2_000, 2_000))
    assert computed.seconds() == (LIMIT - 2_000) / (1_000 / (1 + WINDOW_SECONDS)), "after a long silence, too"
