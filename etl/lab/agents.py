"""The call centre's floor: which agent takes a call, and what the dialler publishes while campaigns and agents work.

The calls come from call_centre, in the order in which they were dialled; they leave in the order in which they ended,
as their CDRs do, with an agent and between the notices of docs/protocol.md that belong to them. An agent works for one
campaign a shift and is never in two calls at once; there are as many agents as the calls need. The simulator encodes
the messages.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Any, NamedTuple

from etl.lab.call_centre import HOUR, Call, CallOutcome, Campaign

SHIFT = 8 * HOUR  # seconds from an agent's login after which the agent goes home; a call in hand is finished first
AHEAD = 2  # seconds before a call is connected in which its agent is chosen: no longer than the shortest ringing
# From the last call's beginning until all is over: ringing, waiting, talking, wrapping up, and some time to spare.
CLOSING = HOUR // 2
STATS_EVERY = 25  # ended calls between two statistics of a campaign
_TRANSFERRED = CallOutcome("callee_hungup", 16, answered=True, connected=True)  # what becomes of a further leg


class Notice(NamedTuple):
    """Something published. `payload` lacks only the `ref`; the dialler itself has none."""

    at: int  # Unix time
    kind: str  # agents, campaigns or dialers
    ref: str | None  # extension or campaign reference
    sub_type: str
    payload: dict[str, Any]


@dataclass(slots=True, eq=False)
class Agent:
    team: "Team"
    number: int
    campaign: Campaign
    since: int  # the login; times are those of the stream, seconds
    talk_time: int = 0
    wrapup_time: int = 0
    calls: int = 0
    is_free: bool = False

    @property
    def extension(self) -> str:
        return f"{self.team.prefix}{self.number}"


@dataclass(slots=True)
class Team:
    """Agents of one system whose calls come with one delay; so their calls are in order of time."""

    prefix: str
    publishes: bool
    numbers: Iterator[int] = field(default_factory=lambda: count(1001))
    at_home: list[int] = field(default_factory=list)  # a heap: whoever has the lowest number comes first
    free: dict[str, list[Agent]] = field(default_factory=dict)  # by campaign


@dataclass(slots=True)
class Run:
    """A campaign from its start to its end. Counters are calls and agents, timers are seconds, summed up."""

    campaign: Campaign
    agents: Counter[str] = field(default_factory=Counter)  # by status
    counters: Counter[str] = field(default_factory=Counter)
    timers: Counter[str] = field(default_factory=Counter)
    active: int = 0

    def end(self, call: Call) -> None:
        self.active -= 1
        fate = _fate(call)
        self.counters.update((fate, "total_calls", f"total_{call.campaign.call_dir}"))
        self.timers["ring_time"] += call.ring_time
        self.timers["abandon_time" if fate == "dropped" else "hold_time"] += call.hold_time
        self.timers["talk_time"] += call.call_time

    def stats(self) -> dict[str, Any]:
        of_calls = ("answered", "unanswered", "dropped", "rejected", "failed", "total_calls")
        counters = {name: self.counters[name] for name in (*of_calls, "total_inbound", "total_outbound")}
        agents = {name: self.agents[name] for name in ("available", "busy", "wrapup")}
        timers = ("ring_time", "hold_time", "abandon_time", "talk_time", "wrapup_time")
        stats: dict[str, Any] = {
            "timers": {name: self.timers[name] for name in timers},
            "counters": counters | {"active": self.active} | agents,
        }
        if self.campaign.call_dir == "outbound":  # who calls in was never on a list
            done = self.counters["answered"]
            failed = self.counters["total_calls"] - done
            stats["gauges"] = {"callees_completed": done, "callees_failed": failed}
        return stats


def at_work(calls: Iterable[Call], seed: str, publish: bool, legs: bool = False) -> Iterator[Call | Notice]:
    """Every call once, with its agent's extension, and with `publish` the notices, in their order; with `legs` some
    calls are transferred to extensions outside of the floor, and each further leg follows as a call of its own.

    Nothing is published about Click2Dial, which does not do so, and about late calls: they are late because Redis was
    away, and what was published then is lost. The calls are the same with and without notices.
    """
    floor = Floor(Random(f"floor {seed}").random, publish, legs)
    for call in calls:
        floor.go_on_until(call.placed_at)
        floor.dial(call)
        yield from floor.take_events()
    floor.close()
    yield from floor.take_events()


class Floor:
    def __init__(self, draw: Callable[[], float], publish: bool, legs: bool) -> None:
        self._draw = draw
        self._publish = publish
        self._legs = legs
        self._now = 0
        self._serial = count()
        self._agenda: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._teams: dict[tuple[str, int], Team] = {}
        self._runs: dict[str, Run] = {}
        self._events: list[Call | Notice] = []
        self._awaited = 0  # calls that will be connected, and have no agent yet
        self._is_closing = False

    def take_events(self) -> list[Call | Notice]:
        """The calls that ended and the notices that were published since the last call of this."""
        events, self._events = self._events, []
        return events

    def go_on_until(self, moment: int) -> None:
        agenda = self._agenda
        while agenda and agenda[0][0] <= moment:
            self._now, _, happens, arguments = heappop(agenda)
            happens(*arguments)
        self._now = moment

    def dial(self, call: Call) -> None:
        if call.source == "dialler":
            run = self._runs.get(call.campaign.ref) or self._start(call.campaign)
            if not call.late_by:
                run.active += 1
                if call.campaign.call_dir == "outbound":
                    callee = {"number": call.number, "contact_ref": call.contact_ref}
                    self._notify("campaigns", call.campaign.ref, "dial_preview", {"callees": [callee]})
        connected_at = self._now + call.ring_time + call.hold_time
        if call.source == "click2dial":  # the agent is on the line before the callee is
            self._assign(call, connected_at)
        elif call.outcome.connected:
            self._awaited += 1
            self._at(connected_at - AHEAD, self._find_agent, call, connected_at)
        else:
            self._at(connected_at, self._end, call, None)

    def close(self) -> None:
        """No more calls: those that go on end, the agents go home, the campaigns stop."""
        if self._runs:
            self._publish_dialler_status("stopping")
        for run in self._runs.values():
            self._publish_campaign_status(run.campaign, "stopping")
        while self._awaited:
            self.go_on_until(self._agenda[0][0])
        self._is_closing = True
        # Nobody's shift lasts longer than the last call; and the dialler stops when it's over.
        self._agenda = [due for due in self._agenda if due[2] != self._end_shift]
        heapify(self._agenda)
        for team in self._teams.values():
            for agent in [agent for agents in team.free.values() for agent in agents]:
                self._go_home(agent)
        while self._agenda:
            self.go_on_until(self._agenda[0][0])
        for run in self._runs.values():
            self._notify("campaigns", run.campaign.ref, "stats", run.stats())
            self._publish_campaign_status(run.campaign, "stopped")
            if run.campaign.call_dir == "outbound":
                self._publish_campaign_status(run.campaign, "completed")
        if self._runs:
            self._publish_dialler_status("stopped")

    # -- what happens

    def _start(self, campaign: Campaign) -> Run:
        if not self._runs:
            self._publish_dialler_status("started")
        run = self._runs[campaign.ref] = Run(campaign)
        self._publish_campaign_status(campaign, "initialized")
        self._publish_campaign_status(campaign, "started")
        return run

    def _find_agent(self, call: Call, connected_at: int) -> None:
        self._awaited -= 1
        self._assign(call, connected_at)

    def _assign(self, call: Call, connected_at: int) -> None:
        agent = self._take_agent(call)
        call = call._replace(extension=agent.extension)
        self._at(connected_at, self._connect, call, agent)
        self._at(connected_at + call.call_time, self._end, call, agent)

    def _connect(self, call: Call, agent: Agent) -> None:
        connection = {
            "call_ref": call.call_ref,
            "agent": agent.extension,
            "contact_ref": call.contact_ref,
            "number": call.number,
            "campaign_ref": call.campaign.ref,
        }
        if agent.team.publishes:
            self._notify("agents", agent.extension, "call", connection)
        self._turn(agent, "busy", "available")

    def _end(self, call: Call, agent: Agent | None) -> None:
        if call.source == "dialler" and not call.late_by:
            run = self._runs[call.campaign.ref]
            run.end(call)
            if run.counters["total_calls"] % STATS_EVERY == 0:
                self._notify("campaigns", call.campaign.ref, "stats", run.stats())
        if agent is not None:
            wrapup = 3 + int(45 * self._draw())
            agent.calls += 1
            agent.talk_time += call.call_time
            self._turn(agent, "wrapup", "busy")
            self._at(self._now + wrapup, self._end_wrapup, agent, wrapup)
        self._hang_up(call)

    def _hang_up(self, call: Call) -> None:
        self._events.append(call)
        if self._legs and call.leg <= _transfers(call):
            # All of it follows from the call, so that the floor's random numbers stay as they were.
            number = call.uuid >> 8 * call.leg
            leg = call._replace(
                leg=call.leg + 1,
                dialed_at=call.ended_at,
                ring_time=2 + number % 20,
                hold_time=0,
                call_time=5 + number % 300,
                extension=f"9{number % 1000:03d}",
                outcome=_TRANSFERRED,
            )
            self._at(leg.ended_at + leg.late_by, self._hang_up, leg)

    def _end_wrapup(self, agent: Agent, seconds: int) -> None:
        agent.wrapup_time += seconds
        if agent.team.publishes:
            self._runs[agent.campaign.ref].timers["wrapup_time"] += seconds
        self._turn(agent, "available", "wrapup")
        self._publish_agent_stats(agent)
        agent.is_free = True
        agent.team.free[agent.campaign.ref].append(agent)
        if self._is_closing or self._now >= agent.since + SHIFT:
            self._go_home(agent)

    def _end_shift(self, agent: Agent) -> None:
        if agent.is_free:
            self._go_home(agent)

    # -- agents

    def _take_agent(self, call: Call) -> Agent:
        key = (call.source, call.late_by)
        team = self._teams.get(key)
        if team is None:
            team = self._teams[key] = _team(call, len(self._teams))
        free = team.free.setdefault(call.campaign.ref, [])
        if not free:
            return self._log_in(team, call.campaign)
        chosen = int(len(free) * self._draw())
        free[chosen], free[-1] = free[-1], free[chosen]
        agent = free.pop()
        agent.is_free = False
        return agent

    def _log_in(self, team: Team, campaign: Campaign) -> Agent:
        """A new agent, who is available a second later: before the call is connected."""
        number = heappop(team.at_home) if team.at_home else next(team.numbers)
        agent = Agent(team, number, campaign, self._now)
        self._turn(agent, "logging_in")
        self._at(self._now + 1, self._turn, agent, "available", "logging_in")
        self._at(self._now + SHIFT, self._end_shift, agent)
        return agent

    def _go_home(self, agent: Agent) -> None:
        agent.is_free = False
        agent.team.free[agent.campaign.ref].remove(agent)
        self._turn(agent, "logging_out", "available")
        self._turn(agent, "offline", "logging_out")
        heappush(agent.team.at_home, agent.number)

    def _turn(self, agent: Agent, status: str, before: str | None = None) -> None:
        if not agent.team.publishes:
            return
        agents = self._runs[agent.campaign.ref].agents
        agents[status] += 1
        if before is not None:
            agents[before] -= 1
        payload: dict[str, Any] = {"status": status}
        if status not in ("busy", "offline"):  # of a busy agent the call notice has it; one who is offline has none
            payload["campaign_ref"] = None if status == "logging_in" else agent.campaign.ref
        self._notify("agents", agent.extension, "status", payload)

    def _publish_agent_stats(self, agent: Agent) -> None:
        if agent.team.publishes:
            idle_time = self._now - agent.since - agent.talk_time - agent.wrapup_time
            timers = {"talk_time": agent.talk_time, "wrapup_time": agent.wrapup_time, "idle_time": idle_time}
            self._notify("agents", agent.extension, "stats", {"timers": timers, "counters": {"calls": agent.calls}})

    # -- notices

    def _publish_campaign_status(self, campaign: Campaign, status: str) -> None:
        self._notify("campaigns", campaign.ref, "status", {"status": status})

    def _publish_dialler_status(self, status: str) -> None:
        self._notify("dialers", None, "status", {"status": status})

    def _notify(self, kind: str, ref: str | None, sub_type: str, payload: dict[str, Any]) -> None:
        if self._publish:
            self._events.append(Notice(self._now, kind, ref, sub_type, payload))

    def _at(self, moment: int, happens: Callable[..., None], *arguments: Any) -> None:
        heappush(self._agenda, (moment, next(self._serial), happens, arguments))


def _team(call: Call, serial: int) -> Team:
    """The dialler's agents have extensions from 1001; everybody else's begin with a number of their team."""
    publishes = call.source == "dialler" and not call.late_by
    return Team("" if publishes else f"{20 + serial}", publishes)


def _transfers(call: Call) -> int:
    """How often the call is transferred."""
    if call.source != "dialler" or not call.outcome.connected or call.oddity < 0.9:
        return 0
    return 2 if call.oddity >= 0.97 else 1


def _fate(call: Call) -> str:
    if call.outcome.connected:
        return "answered"
    reason = call.outcome.end_reason
    if call.outcome.answered and reason.endswith("hungup"):
        return "dropped"
    return {"reject": "rejected", "error": "failed", "failed": "failed"}.get(reason, "unanswered")
