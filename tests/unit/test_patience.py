"""Riding out an outage, with a clock that goes on only while one waits."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import structlog

from etl.errors import ConfigurationError, Contention, EtlError, LeaseLost, Outage
from etl.jobs.patience import Patience, Stopped


class Pauses(threading.Event):
    """A stop signal that counts the time for which one waited for it, and comes when `stop_at` seconds have gone by."""

    def __init__(self, stop_at: float = float("inf")) -> None:
        super().__init__()
        self.lengths: list[float] = []
        self.now = 0.0
        self._stop_at = stop_at

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.lengths.append(timeout)
        self.now += timeout
        if self.now >= self._stop_at:
            self.set()
        return self.is_set()


class Lines:
    """A log."""

    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []

    def warning(self, action: str, **fields: Any) -> None:
        self.written.append((action, fields))


def steps(*outcomes: Exception | str) -> Callable[[], str]:
    """A step with these outcomes, one after the other."""
    left = iter(outcomes)

    def step() -> str:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return step


def away(times: int) -> Iterable[Outage]:
    return (Outage("ETL-201", f"Redis: away, attempt {number}") for number in range(1, times + 1))


@pytest.fixture
def lines() -> Lines:
    return Lines()


def test_without_an_outage_nothing_is_waited_for_and_nothing_said(lines: Lines) -> None:
    stop = Pauses()

    assert Patience(lines, stop, clock=lambda: stop.now).retry(steps("done")) == "done"

    assert (stop.lengths, lines.written) == ([], [])


def test_pauses_grow_to_a_limit_and_never_beyond(lines: Lines) -> None:
    stop = Pauses()

    assert Patience(lines, stop, clock=lambda: stop.now).retry(steps(*away(9), "done")) == "done"

    assert stop.lengths == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_an_outage_is_told_when_it_begins_and_when_it_ends_with_its_length(lines: Lines) -> None:
    stop = Pauses()
    patience = Patience(lines, stop, clock=lambda: stop.now)

    patience.retry(steps(*away(9), "done"))

    assert lines.written == [
        ("outage_began", {"error": "Redis: away, attempt 1", "code": "ETL-201"}),
        ("outage_ended", {"seconds": 21.3}),
    ]


def test_the_next_outage_is_another_one(lines: Lines) -> None:
    stop = Pauses()
    patience = Patience(lines, stop, clock=lambda: stop.now)

    for _ in range(2):
        patience.retry(steps(*away(2), "done"))

    assert stop.lengths == [0.1, 0.2] * 2
    assert [action for action, _ in lines.written] == ["outage_began", "outage_ended"] * 2


def test_it_gives_up_with_the_last_error_when_its_time_is_over(lines: Lines) -> None:
    stop = Pauses()
    patience = Patience(lines, stop, seconds=3.0, clock=lambda: stop.now)

    with pytest.raises(Outage, match="attempt 6"):
        patience.retry(steps(*away(100)))

    assert stop.now == pytest.approx(3.1)
    assert [action for action, _ in lines.written] == ["outage_began"]


def test_told_to_hurry_it_gives_up_as_soon_as_it_may(lines: Lines) -> None:
    stop = Pauses()
    patience = Patience(lines, stop, seconds=30.0, clock=lambda: stop.now)
    patience.hurry()

    with pytest.raises(Outage, match="attempt 2"):
        patience.retry(steps(*away(100)))

    assert patience.retry(steps("done")) == "done"


def test_its_time_begins_anew_with_every_outage(lines: Lines) -> None:
    stop = Pauses()
    patience = Patience(lines, stop, seconds=3.0, clock=lambda: stop.now)

    for _ in range(5):
        assert patience.retry(steps(*away(4), "done")) == "done"


def test_without_a_limit_it_never_gives_up(lines: Lines) -> None:
    stop = Pauses()

    assert Patience(lines, stop, clock=lambda: stop.now).retry(steps(*away(20_000), "done")) == "done"
    assert stop.now > 24 * 3_600


def test_a_stop_ends_the_waiting(lines: Lines) -> None:
    stop = Pauses(stop_at=1.0)
    step = steps(*away(100))

    with pytest.raises(Stopped):
        Patience(lines, stop, clock=lambda: stop.now).retry(step)

    assert stop.lengths == [0.1, 0.2, 0.4, 0.8]
    with pytest.raises(Outage, match="attempt 5"):  # four were made
        step()


def test_a_step_is_made_even_if_the_stop_came_before_it(lines: Lines) -> None:
    stop = Pauses()
    stop.set()

    assert Patience(lines, stop).retry(steps("done")) == "done"
    with pytest.raises(Stopped):
        Patience(lines, stop).retry(steps(*away(2)))


def test_a_stop_wakes_it_from_a_long_pause(lines: Lines) -> None:
    stop, waiting = threading.Event(), threading.Event()
    ended: list[type[BaseException]] = []

    def outage() -> None:
        waiting.set()
        raise Outage("ETL-201", "away")

    def retry() -> None:
        try:
            Patience(lines, stop).retry(outage)
        except Stopped as stopped:
            ended.append(type(stopped))

    thread = threading.Thread(target=retry)
    thread.start()
    waiting.wait()
    stop.set()
    thread.join(timeout=10)

    assert ended == [Stopped]


@pytest.mark.parametrize(
    "error", [ConfigurationError("ETL-205", "no"), LeaseLost("ETL-220", "gone"), EtlError("ETL-405", "other")]
)
def test_another_answer_is_passed_on_at_once_and_ends_the_outage(lines: Lines, error: EtlError) -> None:
    stop = Pauses()

    with pytest.raises(type(error)):
        Patience(lines, stop, clock=lambda: stop.now).retry(steps(*away(2), error))

    assert stop.lengths == [0.1, 0.2]
    assert [action for action, _ in lines.written] == ["outage_began", "outage_ended"]


def test_a_long_step_keeps_the_pulse_and_sees_the_stop_signal(lines: Lines) -> None:
    stop, beats = Pauses(), [0]
    patience = Patience(lines, stop, alive=lambda: beats.append(0), clock=lambda: stop.now)

    patience.go_on()
    assert len(beats) == 2
    stop.set()
    with pytest.raises(Stopped):
        patience.go_on()


@pytest.mark.parametrize("stopped", [False, True])
def test_who_gives_way_raises_a_contention_at_once_but_ends_if_stopped(stopped: bool) -> None:
    stop, calls = threading.Event(), []

    def step() -> None:
        calls.append(1)
        if stopped:
            stop.set()
        raise Contention("ETL-303", "a lock")

    with pytest.raises(Stopped if stopped else Contention):
        Patience(structlog.get_logger(), stop, gives_way=True).retry(step)
    assert len(calls) == 1
