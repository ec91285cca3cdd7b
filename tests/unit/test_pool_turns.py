"""What a pool keeps of a list's two loaders, and tells of them: see `_Turn` in etl/jobs/pool.py."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from etl.errors import ConfigurationError, Outage
from etl.jobs.loader import Loader
from etl.jobs.pool import _Told, _Turn
from etl.metrics import Tally

BROKEN, AWAY = ConfigurationError("ETL-205", "it holds a string"), Outage("ETL-201", "no answer")


class Idle:
    """A loader that has nothing in hand."""

    has_ahead = False

    def is_recovering(self) -> bool:
        return False

    def finish_fetching(self) -> None: ...

    def is_broken(self, error: Any) -> None: ...

    def is_mended(self) -> None: ...


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def turns() -> list[_Turn]:
    told = _Told(structlog.get_logger())
    loaders: list[Any] = [Idle(), Idle()]
    return [_Turn(loader, 0.2, told) for loader in loaders]


def actions(logged: list[Any]) -> list[str]:
    return [line["event"] for line in logged]


@pytest.mark.parametrize("error", [BROKEN, AWAY])
@pytest.mark.parametrize("then", [None, BROKEN, AWAY])
def test_whoever_told_that_it_cannot_load_tries_until_it_can(turns: list[_Turn], error: Any, then: Any) -> None:
    for each in filter(None, (error, then)):
        turns[1].rest(each)
    assert turns[1].has_left
    turns[1].went_well()
    assert not turns[1].has_left


@pytest.mark.parametrize(("error", "ended"), [(BROKEN, "list_mended"), (AWAY, "outage_ended")])
def test_what_one_still_cannot_is_not_called_over(
    turns: list[_Turn], logged: list[Any], error: Any, ended: str
) -> None:
    one, other = turns
    one.rest(error)
    for _ in range(3):
        other.went_well()
        one.rest(error)
    assert len(logged) == 1
    one.went_well()
    assert actions(logged)[1:] == [ended]


def test_what_both_meet_is_told_once(turns: list[_Turn], logged: list[Any]) -> None:
    for turn in turns:
        turn.rest(BROKEN)
    for turn in turns:
        turn.went_well()
    assert actions(logged) == ["list_broken", "list_mended"]


def test_a_process_that_is_gone_leaves_no_list_broken() -> None:
    tally = Tally(["calls"], ["not_json"])
    tally.of("calls").broken("ETL-205")
    assert tally.broken() == {"calls": "ETL-205"}
    source: Any = SimpleNamespace(key="calls")
    anything: Any = None
    Loader(source, anything, anything, anything, tally.of("calls"), structlog.get_logger())
    assert tally.broken() == {}
