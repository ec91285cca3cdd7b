"""The selftest's plan and its judgement of memory: what follows from figures alone."""

from itertools import pairwise

import pytest

from etl.lab.selftest.memory import MemoryWatch
from etl.lab.selftest.plan import POSTGRES, REDIS, REDIS_WIRE, plan


def test_the_same_seed_makes_the_same_plan_and_another_one_another() -> None:
    assert plan(7, 60) == plan(7, 60)
    assert plan(7, 60) != plan(8, 60)


def test_the_faults_of_a_target_do_not_overlap_and_are_over_in_time() -> None:
    faults = plan(7, 300)
    for target in {fault.target for fault in faults}:
        befalling = [fault for fault in faults if fault.target == target]
        assert all(one.at + one.seconds < other.at for one, other in pairwise(befalling))
    assert max(fault.at + fault.seconds for fault in faults) <= 300


@pytest.mark.parametrize("target", [REDIS, POSTGRES, REDIS_WIRE])
def test_in_five_minutes_a_store_suffers_everything_there_is(target: str) -> None:
    kinds = {fault.kind for fault in plan(7, 300) if fault.target == target}

    assert kinds == {fault.kind for seed in range(20) for fault in plan(seed, 600) if fault.target == target}
    assert len(kinds) >= 3


@pytest.mark.parametrize(("end", "seconds", "flat"), [(101.0, 600, True), (140.0, 600, False), (140.0, 100, None)])
def test_memory_is_flat_if_the_last_quarter_is_like_the_second(end: float, seconds: int, flat: bool | None) -> None:
    memory = MemoryWatch()
    for moment in range(0, seconds + 1, 10):
        memory.add("loader", 1, moment, 50.0 if moment < 20 else 100.0 if moment < 0.75 * seconds else end)
    memory.add("loader", 2, 0, 1_000.0)  # another life, and a short one

    (growth,) = memory.growth()

    assert (growth.start, growth.largest, growth.end) == (50.0, end, end)
    assert growth.is_flat is flat
