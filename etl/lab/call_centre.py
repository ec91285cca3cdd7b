"""A random call centre: its campaigns, and the calls of its days.

Here are a call's outcomes and their odds; agents has who takes it, dialects and simulator have how it is written. Only
random() and getrandbits() are used, and no libm: the same calls on any machine and Python.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from functools import lru_cache
from random import Random
from typing import NamedTuple

HOUR, DAY = 3600, 86400  # seconds


class CallOutcome(NamedTuple):
    end_reason: str
    end_code: int | None
    answered: bool  # by the network: the callee, a machine
    connected: bool  # with an agent


class Campaign(NamedTuple):
    ref: str
    call_dir: str
    dial_number: str
    outcomes: tuple[CallOutcome, ...]  # equally likely
    zone: str = "+0000"  # of its system's times; with a colon where the documents print ISO 8601


class Call(NamedTuple):
    source: str
    call_ref: int | str
    uuid: int
    campaign: Campaign
    extension: str | None  # None until an agent takes the call
    number: str
    contact_ref: str | None
    dialed_at: int  # Unix time; the times that follow are seconds
    ring_time: int
    hold_time: int  # from the answer, an inbound call's by the queue, until an agent has it or the caller hangs up
    call_time: int
    outcome: CallOutcome
    late_by: int  # seconds between the call and its place in the stream
    oddity: float  # below 0.02 a system of another age, below 0.04 fields that nobody documented; from 0.9 transferred
    leg: int = 1

    @property
    def placed_at(self) -> int:
        """When the call would have been dialled, were it not late."""
        return self.dialed_at + self.late_by

    @property
    def ended_at(self) -> int:
        return self.dialed_at + self.ring_time + self.hold_time + self.call_time


def _odds(*rows: tuple[int, CallOutcome]) -> tuple[CallOutcome, ...]:
    return tuple(outcome for share, outcome in rows for _ in range(share))


_TALKS = (
    (18, CallOutcome("callee_hungup", 16, True, True)),
    (14, CallOutcome("agent_hungup", 16, True, True)),
    (8, CallOutcome("hungup", 16, True, True)),
)
_QUEUE = (  # hung up before an agent was free
    (6, CallOutcome("callee_hungup", 16, True, False)),
    (1, CallOutcome("hungup", 0, True, False)),
)
_MISSES = (
    (10, CallOutcome("voicemail", 16, True, False)),
    (8, CallOutcome("busy", 17, False, False)),
    (4, CallOutcome("reject", 21, False, False)),
    (1, CallOutcome("reject", 22, False, False)),
    (20, CallOutcome("timeout", 18, False, False)),
    (3, CallOutcome("timeout", 102, False, False)),
    (3, CallOutcome("error", 34, False, False)),
    (2, CallOutcome("error", 28, False, False)),
    (1, CallOutcome("error", 38, False, False)),
    (1, CallOutcome("failed", None, False, False)),
    (1, CallOutcome("machine_left_message", 16, True, False)),
)
_OUTBOUND, _INBOUND, _CLICKED = _odds(*_TALKS, *_QUEUE, *_MISSES), _odds(*_TALKS, *_QUEUE), _odds(*_TALKS, *_MISSES)

# Numbers from the ranges that the British regulator keeps free for fiction.
CAMPAIGNS = (
    Campaign("2040", "outbound", "03069990040", _OUTBOUND, "+0200"),
    Campaign("2041", "outbound", "03069990041", _OUTBOUND, "+02:00"),
    Campaign("2042", "outbound", "03069990042", _OUTBOUND, "-0500"),
    Campaign("2043", "outbound", "03069990043", _OUTBOUND, "+00:00"),
    Campaign("3001", "inbound", "03069990901", _INBOUND, "+0200"),
    Campaign("3002", "inbound", "03069990902", _INBOUND, "+01:00"),
)
_CLICK_DIAL = Campaign("click-dial", "outbound", "03069990800", _CLICKED)
_AREAS = ("07700900", "01632960", "02079460", "01134960", "01144960", "01154960", "01164960", "01214960", "01314960")
_NUMBERS = tuple(f"{area}{line:03d}" for area in _AREAS for line in range(1000))
# Calls by UTC hour, relative.
_HOURS = (1, 1, 1, 1, 1, 2, 4, 12, 40, 60, 64, 56, 40, 52, 60, 60, 56, 44, 30, 16, 6, 3, 1, 1)


def calls(count: int, until: int, days: int, seed: int, late: float, click2dial: float) -> Iterator[Call]:
    """In the order in which they were dialled, but for the share `late`: these lie one to three days back. No call has
    an agent yet.

    `until` is Unix time. References start at a number that depends on all of the arguments, so that the calls of two
    simulations have different ones.
    """
    dice = Random(f"{count} {until} {days} {seed} {late} {click2dial}")
    draw, first = dice.random, dice.getrandbits(36)
    for serial, moment in enumerate(_moments(count, until, days, draw), first):
        late_by = DAY * (1 + int(3 * draw())) if draw() < late else 0
        dialed_at = moment - late_by
        clicked = draw() < click2dial
        campaign = _CLICK_DIAL if clicked else CAMPAIGNS[int(len(CAMPAIGNS) * draw())]
        outcome = campaign.outcomes[int(len(campaign.outcomes) * draw())]
        yield Call(
            source="click2dial" if clicked else "dialler",
            call_ref=f"c2d-{serial:x}" if clicked else serial,
            uuid=dice.getrandbits(128),
            campaign=campaign,
            extension=None,
            number="" if campaign.call_dir == "inbound" and draw() < 0.15 else _NUMBERS[int(len(_NUMBERS) * draw())],
            contact_ref=_contact_ref(draw(), dice.getrandbits(16), campaign.call_dir == "inbound"),
            dialed_at=dialed_at,
            ring_time=2 + int(28 * draw()),
            hold_time=_wait(campaign, outcome, draw(), draw()) if outcome.answered else 0,
            call_time=4 + int(900 * draw() * draw() * draw()) if outcome.connected else 0,
            outcome=outcome,
            late_by=late_by,
            oddity=draw(),
        )


def _wait(campaign: Campaign, outcome: CallOutcome, luck: float, length: float) -> int:
    """Seconds on hold. In a queue most callers are answered within 20 s and some wait for minutes; of those who hang up
    one in five does so within 5 s."""
    if campaign.call_dir == "outbound":
        return int(40 * luck * length)
    if outcome.connected:
        return int(21 * length) if luck < 0.75 else 21 + int(280 * length * length)
    return int(6 * length) if luck < 0.2 else 6 + int(240 * length * length * length)


def day_of(seconds: int) -> date:
    """The UTC day of a Unix time."""
    return _day(seconds // DAY)


@lru_cache(maxsize=1024)
def _day(number: int) -> date:
    return datetime.fromtimestamp(number * DAY, UTC).date()


def _moments(count: int, until: int, days: int, draw: Callable[[], float]) -> Iterator[int]:
    """Unix times in rising order: many in office hours, few at night, a quarter of it all at weekends."""
    hours = range(until - days * DAY, until, HOUR)
    # 1970-01-01 was a Thursday: three days on, days that leave 5 or 6 when divided by 7 are Saturdays and Sundays.
    weights = [_HOURS[at // HOUR % 24] * (1 if (at // DAY + 3) % 7 > 4 else 4) for at in hours]
    total, heaped, done = sum(weights), 0, 0
    for at, weight in zip(hours, weights, strict=True):
        heaped += weight
        share = count * heaped // total - done
        yield from (at + int(HOUR * (n + draw()) / share) for n in range(share))
        done += share


def _contact_ref(luck: float, number: int, is_inbound: bool) -> str | None:
    if is_inbound and luck < 0.3:  # the dialler doesn't know who this is
        return None
    if luck < 0.92:
        return f"M{number:05d}"
    return f"{number}" if luck < 0.95 else "" if luck < 0.98 else None
