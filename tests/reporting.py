"""The reports' figures, computed by hand: plain Python over plain records, knowing nothing of the SQL that is tested.
Where the records come from, the simulator's truth or the archive's own rows, is the tests' business."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import zip_longest
from typing import Any, Literal
from zoneinfo import ZoneInfo

from tests.world import Archive

ANSWERED = {"hungup", "callee_hungup", "agent_hungup", "voicemail"}
KNOWN = ANSWERED | {"busy", "reject", "timeout", "error", "failed"}
IN_TIME, SHORT = 20, 5  # seconds: of an answer by the service level, of a short abandon
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
QUARTER = timedelta(minutes=15)
ZERO = timedelta(0)
FOREVER = datetime.max.replace(tzinfo=UTC)

Per = Literal["days", "hours"]
Rows = dict[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    source: str
    call_ref: str
    leg: int
    dialed_at: datetime
    campaign: str | None
    contact_ref: str | None
    extension: str | None
    number: str | None
    end_reason: str | None
    has_answered_at: bool
    ring: int | None
    hold: int | None
    talk: int | None
    absurd: int = 0  # of these three, how many were sent as something that can't be
    call_dir: str | None = "outbound"
    wait: int | None = None  # for an agent, or until the callee hung up

    @property
    def answered(self) -> bool:
        return self.end_reason in ANSWERED or self.has_answered_at

    @property
    def reached_agent(self) -> bool:
        return self.answered and self.extension is not None

    @property
    def abandoned(self) -> bool:
        return self.answered and self.extension is None

    @property
    def machine(self) -> bool:
        said = (self.end_reason or "").lower()
        return any(word in said for word in ("machine", "voicemail", "voice mail", "voice_mail", "answerphone"))

    @property
    def is_clear(self) -> bool:
        """Whether anybody knows what its disposition means."""
        return self.end_reason in KNOWN or self.machine

    @property
    def ended_at(self) -> datetime:
        """As far as anybody told."""
        return self.dialed_at + timedelta(seconds=sum(part or 0 for part in (self.ring, self.hold, self.talk)))


@dataclass(frozen=True)
class Change:
    """Of an agent's status, as it was heard."""

    extension: str
    at: datetime
    status: str
    campaign: str | None = None


@dataclass(frozen=True)
class State:
    change: Change
    until: datetime | None
    closed_by: str


Gap = tuple[datetime, datetime]
Preview = tuple[datetime, str, str]  # when, campaign, contact


# -- days and hours


def day_of(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()


def hour_of(moment: datetime, zone: ZoneInfo) -> datetime:
    """When the hour on the wall's clock began."""
    offset = moment.astimezone(zone).utcoffset() or ZERO
    wall = moment.astimezone(UTC) + offset
    return wall.replace(minute=0, second=0, microsecond=0) - offset


def _key(moment: datetime, zone: ZoneInfo, per: Per) -> tuple[Any, ...]:
    return (day_of(moment, zone),) if per == "days" else (day_of(moment, zone), hour_of(moment, zone))


# -- figures


def campaign_figures(calls: Iterable[Call], previews: Iterable[Preview], zone: ZoneInfo, per: Per) -> Rows:
    grouped: defaultdict[tuple[Any, ...], list[Call]] = defaultdict(list)
    for call in calls:
        grouped[*_key(call.dialed_at, zone, per), call.campaign].append(call)
    found = {key: _of_a_campaign(group) | outbound(group) | inbound(group) for key, group in grouped.items()}
    if per == "days":
        seen: defaultdict[tuple[Any, ...], set[str]] = defaultdict(set)
        for moment, campaign, contact in previews:
            seen[day_of(moment, zone), campaign].add(contact)
        for key, row in found.items():
            listed = len(seen[key]) or None
            row["contacts_previewed"] = listed
            row["list_penetration"] = ratio(row["outbound_contacts"], listed or 0)
    return found


def outbound(calls: Sequence[Call]) -> dict[str, Any]:
    """Of the calls that were dialled; and the dispositions of all calls that nobody knows."""
    dialled = [call for call in calls if call.call_dir == "outbound"]
    machines = [call for call in dialled if call.machine]
    people = [call for call in dialled if call.answered and not call.machine]
    met = [call for call in people if call.extension is not None]
    alone = [call for call in people if call.extension is None]
    dropped = [call for call in alone if call.is_clear]
    answered = len(machines) + len(people)
    known = [who for call in dialled if (who := _who(call))]
    talked_to = {who for call in met if (who := _who(call))}
    return {
        "outbound_attempts": len(dialled),
        "outbound_answered": answered,
        "outbound_machines": len(machines),
        "outbound_reached": len(met),
        "outbound_dropped": len(dropped),
        "outbound_unclear": len(alone) - len(dropped),
        "outbound_short_dropped": sum(call.wait is not None and call.wait <= SHORT for call in dropped),
        "outbound_live": len(met) + len(dropped),
        "outbound_asr": ratio(answered, len(dialled)),
        "outbound_abandon_rate": ratio(len(dropped), len(met) + len(dropped)),
        "outbound_contacts": len(set(known)),
        "outbound_contacts_reached": len(talked_to),
        "outbound_contact_attempts": len(known),
        "outbound_contact_rate": ratio(len(talked_to), len(set(known))),
        "attempts_per_contact": ratio(len(known), len(set(known)), 2),
        "unknown_dispositions": sum(not call.is_clear for call in calls),
    }


def inbound(calls: Sequence[Call]) -> dict[str, Any]:
    """Of the calls that came in; and the waits, also of those that were dialled and dropped."""
    came = [call for call in calls if call.call_dir == "inbound"]
    offered = [call for call in came if call.answered]
    answered = [call.wait for call in offered if call.extension is not None]
    left = [call.wait for call in offered if call.extension is None]
    answered_after, left_after = ([wait for wait in waits if wait is not None] for waits in (answered, left))
    waits = sorted(answered_after + left_after)
    in_time, short = sum(wait <= IN_TIME for wait in answered_after), sum(wait <= SHORT for wait in left_after)
    dropped_after = [
        call.wait
        for call in calls
        if call.call_dir == "outbound" and call.abandoned and call.is_clear and not call.machine
        if call.wait is not None
    ]
    all_waits = sorted({*waits, *dropped_after})
    return {
        "inbound_calls": len(came),
        "inbound_offered": len(offered),
        "inbound_reached": len(answered),
        "inbound_abandoned": len(left),
        "inbound_short_abandoned": short,
        "inbound_abandon_rate": ratio(len(left), len(offered)),
        "waits_known": len(waits),
        "answered_in_time": in_time,
        "service_level": ratio(in_time, len(waits)),
        "service_level_without_short": ratio(in_time, len(waits) - short),
        "answer_waits_known": len(answered_after),
        "answer_wait_seconds": sum(answered_after),
        "average_speed_of_answer": ratio(sum(answered_after), len(answered_after), 1),
        "longest_wait": max(waits, default=None),
        "wait_p80": nearest_rank(waits, 80),
        "wait_p95": nearest_rank(waits, 95),
        "waits": all_waits,
        "waits_answered": [answered_after.count(wait) for wait in all_waits],
        "waits_abandoned": [left_after.count(wait) for wait in all_waits],
        "waits_dropped": [dropped_after.count(wait) for wait in all_waits],
    }


def nearest_rank(waits: Sequence[int], percent: int) -> int | None:
    """The smallest of them that so many in a hundred don't exceed."""
    return next((wait for place, wait in enumerate(waits, 1) if place * 100 >= percent * len(waits)), None)


def _of_a_campaign(calls: Sequence[Call]) -> dict[str, Any]:
    ends = Counter(call.end_reason for call in calls)
    answered = [call for call in calls if call.answered]
    reached = [call for call in calls if call.reached_agent]
    abandoned = sum(call.abandoned for call in calls)
    held = [call.hold for call in answered if call.hold is not None]
    contacts = {who for call in calls if (who := _who(call))}
    met = {who for call in reached if (who := _who(call))}
    talked = [call.talk for call in reached if call.talk is not None]
    return {
        "attempts": len(calls),
        "answered": len(answered),
        "reached_agent": len(reached),
        "abandoned": abandoned,
        "voicemail": ends["voicemail"],
        "busy": ends["busy"],
        "no_answer": ends["timeout"],
        "rejected": ends["reject"],
        "failed": ends["error"] + ends["failed"],
        "answer_seizure_ratio": ratio(len(answered), len(calls)),
        "abandon_rate": ratio(abandoned, len(answered)),
        "average_talk_seconds": ratio(sum(talked), len(talked), 1),
        "average_hold_seconds": ratio(sum(held), len(held), 1),
        "hold_seconds": sum(held),
        "held": len(held),
        "talk_seconds": sum(talked),
        "unique_contacts": len(contacts),
        "contacts_reached": len(met),
        "contact_rate": ratio(len(met), len(contacts)),
        "absurd_durations": sum(call.absurd > 0 for call in calls),
        "talked": len(talked),
    }


def _who(call: Call) -> str | None:
    return call.contact_ref or call.number or None


def ratio(part: Decimal | int, whole: Decimal | int, digits: int = 4) -> Decimal | None:
    return None if not whole else (Decimal(part) / whole).quantize(Decimal(10) ** -digits, ROUND_HALF_UP)


@dataclass
class _Agent:
    calls: int = 0
    dirs: Counter[str | None] = field(default_factory=Counter)
    talks: list[int] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)
    absurd: int = 0
    unclosed: int = 0
    spent: defaultdict[str, timedelta] = field(default_factory=lambda: defaultdict(timedelta))  # by status


def agent_figures(calls: Iterable[Call], states: Iterable[State], now: datetime, zone: ZoneInfo, per: Per) -> Rows:
    agents: defaultdict[tuple[Any, ...], _Agent] = defaultdict(_Agent)
    for call in calls:
        if call.reached_agent:
            agent = agents[*_key(call.dialed_at, zone, per), call.extension]
            agent.calls += 1
            agent.dirs[call.call_dir] += 1
            agent.talks += [] if call.talk is None else [call.talk]
            agent.holds += [] if call.hold is None else [call.hold]
            agent.absurd += call.absurd > 0
    for state in states:
        began, who = state.change.at, state.change.extension
        if state.closed_by == "login":
            agents[*_key(began, zone, per), who].unclosed += 1
            continue
        for since, until in _pieces(began, state.until or now):
            if day_of(since, zone) - day_of(began, zone) <= timedelta(days=1):
                agents[*_key(since, zone, per), who].spent[state.change.status] += until - since
    return {key: _of_an_agent(agent) for key, agent in agents.items()}


def _of_an_agent(agent: _Agent) -> dict[str, Any]:
    spent = {status: Decimal(str(length.total_seconds())) for status, length in agent.spent.items()}
    available, busy, wrapup = (spent.get(status, Decimal(0)) for status in ("available", "busy", "wrapup"))
    return {
        "calls": agent.calls,
        "talk_seconds": sum(agent.talks),
        "hold_seconds": sum(agent.holds),
        "average_handle_seconds": _handling(agent.talks, agent.holds),
        "logged_in_seconds": _whole(sum(spent.values(), Decimal(0))),
        "available_seconds": _whole(available),
        "busy_seconds": _whole(busy),
        "wrapup_seconds": _whole(wrapup),
        "occupancy": ratio(busy + wrapup, available + busy + wrapup),
        "unclosed": agent.unclosed,
        "absurd_durations": agent.absurd,
        "talked": len(agent.talks),
        "held": len(agent.holds),
        "outbound_calls": agent.dirs["outbound"],
        "inbound_calls": agent.dirs["inbound"],
        "states_known": sum(spent.values(), Decimal(0)) > 0,
        **_handled(agent, wrapup),
    }


def _handled(agent: _Agent, wrapup: Decimal) -> dict[str, Any]:
    """As the trade has it: talk, hold, and the wrap-up if any was told."""
    wrapped = agent.calls if wrapup else 0
    handling = None
    if agent.talks:
        parts = [Decimal(sum(part)) / len(part) for part in (agent.talks, agent.holds) if part]
        handling = ratio(sum(parts) + (wrapup / wrapped if wrapped else 0), 1, 1)
    return {
        "wrapped_calls": wrapped,
        "average_wrapup_seconds": ratio(wrapup, wrapped, 1),
        "aht_seconds": handling,
        "aht_of": None if not agent.talks else "talk + hold + wrap-up" if wrapup else "talk + hold",
    }


def _handling(talks: Sequence[int], holds: Sequence[int]) -> Decimal | None:
    if not talks:
        return None
    hold = Decimal(sum(holds)) / len(holds) if holds else Decimal(0)
    return ratio(Decimal(sum(talks)) / len(talks) + hold, 1, 1)


def _whole(seconds: Decimal) -> Decimal:
    return seconds.quantize(Decimal(1), ROUND_HALF_UP)


def _pieces(since: datetime, until: datetime) -> Iterator[Gap]:
    """No piece lies in two hours: every zone's begin with a quarter."""
    while since < until:
        quarter = since.replace(minute=since.minute // 15 * 15, second=0, microsecond=0) + QUARTER
        yield since, min(quarter, until)
        since = quarter


# -- the audit trail


def states_of(changes: Iterable[Change], gaps: Sequence[Gap]) -> list[State]:
    by_agent: defaultdict[str, list[Change]] = defaultdict(list)
    for change in sorted(changes, key=lambda change: change.at):  # of one moment, in the order in which they came
        by_agent[change.extension].append(change)
    found = []
    for told in by_agent.values():
        for change, following in zip_longest(told, told[1:]):
            if change.status != "offline":
                found.append(_state(change, following, gaps))
    return found


def _state(change: Change, following: Change | None, gaps: Sequence[Gap]) -> State:
    end = following.at if following else FOREVER
    unheard = [begin for begin, until in gaps if until > change.at and begin < end]
    if unheard:
        return State(change, max(min(unheard), change.at), "gap")
    if following is None:
        return State(change, None, "open")
    return State(change, following.at, "login" if following.status == "logging_in" else "status")


def history_of(calls: Iterable[Call]) -> Rows:
    by_contact: defaultdict[str, list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: (call.dialed_at, call.source, call.call_ref, call.leg)):
        if call.contact_ref:
            by_contact[call.contact_ref].append(call)
    return {
        (contact, attempt): {
            "call_ref": call.call_ref,
            "attempts": len(calls),
            "since_previous": call.dialed_at - calls[attempt - 2].dialed_at if attempt > 1 else None,
            "best_outcome": _best(calls),
            "numbers_tried": len({call.number for call in calls}),
        }
        for contact, calls in by_contact.items()
        for attempt, call in enumerate(calls, 1)
    }


def _best(calls: Sequence[Call]) -> str:
    if any(call.reached_agent for call in calls):
        return "reached an agent"
    if any(call.answered and call.end_reason != "voicemail" for call in calls):
        return "answered"
    return "answering machine" if any(call.end_reason == "voicemail" for call in calls) else "not reached"


# -- what the views say


def asked(archive: Archive, view: str, key: Sequence[str]) -> Rows:
    """A view's rows by their key, without when they were computed, and without names, which aren't figures."""
    rows = archive.rows(f"SELECT * FROM reporting.{view}")
    found = {tuple(row.pop(name) for name in key): row for row in rows}
    assert len(found) == len(rows)
    for row in rows:
        for name in ("refreshed_at", "agent_name", "agent_group", "campaign_name", "campaign_group"):
            row.pop(name, None)
    return found


def figures(archive: Archive) -> dict[str, Rows]:
    """All that is kept."""
    return {
        f"{what}_{per}": asked(archive, f"{what}_{per}", ("day", *(("hour",) if per == "hours" else ()), key))
        for what, key in (("campaign", "campaign_ref"), ("agent", "extension"))
        for per in ("days", "hours")
    }


def expected(
    calls: Sequence[Call], states: Sequence[State], now: datetime, zone: ZoneInfo, previews: Sequence[Preview] = ()
) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for per in ("days", "hours"):
        found[f"campaign_{per}"] = campaign_figures(calls, previews, zone, per)
        found[f"agent_{per}"] = agent_figures(calls, states, now, zone, per)
    return found


def assert_equal(found: Mapping[str, Rows], wanted: Mapping[str, Rows]) -> None:
    """Row by row, so that a difference can be read."""
    assert found.keys() == wanted.keys()
    for view, rows in wanted.items():
        assert found[view].keys() ^ rows.keys() == set(), view
        for key, row in rows.items():
            assert found[view][key] == row, (view, key)
