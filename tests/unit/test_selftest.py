"""The selftest's plan and its judgement of memory: what follows from figures alone."""

from itertools import pairwise

import pytest

from etl.lab.selftest import proof
from etl.lab.selftest.memory import MemoryWatch
from etl.lab.selftest.plan import POSTGRES, PROMOTE, REDIS, REDIS_WIRE, SET_BACKS, plan
from etl.lab.selftest.set_backs import SetBack


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


def test_a_soak_of_45_minutes_has_the_faults_that_the_proof_names() -> None:
    for seed in range(20):
        faults = plan(seed, 45 * 60)
        assert len(faults) >= 1_500
        assert sum(fault.kind in SET_BACKS for fault in faults) >= 60, "some find nothing to take back, or come late"


@pytest.mark.parametrize("lost", [{}, {"claims": 2, "dead letters": 0}])
@pytest.mark.parametrize("told", [True, False, None])
def test_a_set_back_is_proved_if_nothing_is_lost_and_it_is_told(lost: dict[str, int], told: bool | None) -> None:
    made = [SetBack(PROMOTE, {"claims": 3, "dead letters": 1}, lost, told), SetBack(PROMOTE, {"claims": 4}, {}, True)]

    whole, reported = proof.set_backs(made)

    assert (whole.ok, reported.ok) == (not lost, told is not False)
    assert whole.found.startswith("2 set-backs; they lacked 7 claims, 1 dead letters")


def test_given_no_set_back_then_nothing_is_wrong() -> None:
    assert all(verdict.ok for verdict in proof.set_backs([]))


@pytest.mark.parametrize(("end", "seconds", "flat"), [(101.0, 600, True), (140.0, 600, False), (140.0, 100, None)])
def test_memory_is_flat_if_the_last_quarter_is_like_the_second(end: float, seconds: int, flat: bool | None) -> None:
    memory = MemoryWatch()
    for moment in range(0, seconds + 1, 10):
        memory.add("loader", 1, moment, 50.0 if moment < 20 else 100.0 if moment < 0.75 * seconds else end)
    memory.add("loader", 2, 0, 1_000.0)  # another life, and a short one

    (growth,) = memory.growth()

    assert (growth.start, growth.largest, growth.end) == (50.0, end, end)
    assert growth.is_flat is flat
