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


def campaign_figures(calls: Iterable[Call], zone: ZoneInfo, per: Per) -> Rows:
    grouped: defaultdict[tuple[Any, ...], list[Call]] = defaultdict(list)
    for call in calls:
        grouped[*_key(call.dialed_at, zone, per), call.campaign].append(call)
    return {key: _of_a_campaign(group) for key, group in grouped.items()}


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
    """A view's rows by their key, without when they were computed."""
    rows = archive.rows(f"SELECT * FROM reporting.{view}")
    found = {tuple(row.pop(name) for name in key): row for row in rows}
    assert len(found) == len(rows)
    for row in rows:
        row.pop("refreshed_at", None)
    return found


def figures(archive: Archive) -> dict[str, Rows]:
    """All that is kept."""
    return {
        f"{what}_{per}": asked(archive, f"{what}_{per}", ("day", *(("hour",) if per == "hours" else ()), key))
        for what, key in (("campaign", "campaign_ref"), ("agent", "extension"))
        for per in ("days", "hours")
    }


def expected(calls: Sequence[Call], states: Sequence[State], now: datetime, zone: ZoneInfo) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for per in ("days", "hours"):
        found[f"campaign_{per}"] = campaign_figures(calls, zone, per)
        found[f"agent_{per}"] = agent_figures(calls, states, now, zone, per)
    return found


def assert_equal(found: Mapping[str, Rows], wanted: Mapping[str, Rows]) -> None:
    """Row by row, so that a difference can be read."""
    assert found.keys() == wanted.keys()
    for view, rows in wanted.items():
        assert found[view].keys() ^ rows.keys() == set(), view
        for key, row in rows.items():
            assert found[view][key] == row, (view, key)
