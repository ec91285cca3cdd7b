"""What is true of a simulated call centre, as plain data: how long each agent was in which state, and how long each
caller waited in a queue. By it reports are checked; it knows nothing of them, nor of the messages.

Days are those of a time zone, as a report's are. Times are Unix times and durations seconds.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple

from etl.lab.agents import Notice
from etl.lab.call_centre import Call
from etl.lab.simulator import Profile, truth


class State(NamedTuple):
    """Of one of the agents who are told of; nobody is in a state while offline. Some last no time."""

    extension: str
    status: str
    since: int
    until: int


class Wait(NamedTuple):
    """Of an inbound call, from when the queue took it until an agent did or the caller hung up."""

    campaign_ref: str
    dialed_at: int
    seconds: int
    answered: bool  # by an agent


@dataclass
class AgentDay:
    """Calls are those that were dialled on this day; a state that lasts beyond midnight is part of both days."""

    seconds: Counter[str] = field(default_factory=Counter)  # by status
    calls: int = 0
    talk_seconds: int = 0

    @property
    def logged_in_seconds(self) -> int:
        return self.seconds.total()

    @property
    def occupancy(self) -> float | None:
        """Share of the working time that was spent on calls and after them."""
        occupied = self.seconds["busy"] + self.seconds["wrapup"]
        working = occupied + self.seconds["available"]
        return occupied / working if working else None


@dataclass
class QueueDay:
    """How long each caller of this day waited, by what came of it."""

    answered: list[int] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)

    @property
    def offered(self) -> int:
        return len(self.answered) + len(self.abandoned)


def states(profile: Profile) -> list[State]:
    """In the order of their ends. None of late calls' and Click2Dial's agents, of whom nobody is told."""
    found: list[State] = []
    last: dict[str, tuple[str, int]] = {}
    for each in truth(profile):
        if not isinstance(each, Notice) or (each.kind, each.sub_type) != ("agents", "status"):
            continue
        extension = str(each.ref)
        status, since = last.get(extension, ("offline", each.at))
        if status != "offline":
            found.append(State(extension, status, since, each.at))
        last[extension] = (each.payload["status"], each.at)
    return found


def waits(profile: Profile) -> list[Wait]:
    """In the order of the calls' ends."""
    return [
        Wait(call.campaign.ref, call.dialed_at, call.hold_time, call.outcome.connected)
        for call in _calls(profile)
        if call.campaign.call_dir == "inbound" and call.leg == 1
    ]


def agent_days(profile: Profile, zone: tzinfo = UTC) -> dict[tuple[date, str], AgentDay]:
    """By day and extension; with the agents of late calls and of Click2Dial, who are in no known state."""
    found: defaultdict[tuple[date, str], AgentDay] = defaultdict(AgentDay)
    for state in states(profile):
        for day, seconds in _by_day(state.since, state.until, zone):
            found[day, state.extension].seconds[state.status] += seconds
    for call in _calls(profile):
        if call.outcome.connected and call.extension is not None:
            agent = found[_day(call.dialed_at, zone), call.extension]
            agent.calls += 1
            agent.talk_seconds += call.call_time
    return dict(found)


def queue_days(profile: Profile, zone: tzinfo = UTC) -> dict[tuple[date, str], QueueDay]:
    """By day and campaign."""
    found: defaultdict[tuple[date, str], QueueDay] = defaultdict(QueueDay)
    for wait in waits(profile):
        day = found[_day(wait.dialed_at, zone), wait.campaign_ref]
        (day.answered if wait.answered else day.abandoned).append(wait.seconds)
    return dict(found)


def _calls(profile: Profile) -> Iterator[Call]:
    return (each for each in truth(profile) if isinstance(each, Call))


def _day(seconds: int, zone: tzinfo) -> date:
    return datetime.fromtimestamp(seconds, zone).date()


def _by_day(since: int, until: int, zone: tzinfo) -> Iterator[tuple[date, int]]:
    """The parts of it that lie on each day."""
    while since < until:
        day = _day(since, zone)
        midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), zone)
        end = min(until, int(midnight.timestamp()))
        yield day, end - since
        since = end
