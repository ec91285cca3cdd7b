"""How today goes: what the wall of `etl serve` shows, asked of the views of the schema `reporting` only. The figures
that are kept are some minutes old, so these are counted from the calls and the events themselves; last week's, beside
them, are kept ones.

One look costs as much as the day so far; how often there is one is for others to decide.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.reporting import live
from etl.reporting.deadline import within
from etl.reporting.figures import TARGETED
from etl.reporting.shown import called

# State → the setting in reporting.settings that has its longest time.
OVER_LONG = {
    status: f"over_long_{status}_seconds" for status in ("logging_in", "available", "busy", "wrapup", "logging_out")
}
OFFLINE = "offline"
# Between two looks at all events of two days, only the latest are asked for. What is loaded later than this after it
# was heard waits for the next look at all.
_ALL_EVERY_SECONDS = 60.0
_LATEST = timedelta(minutes=2)
_DAY = timedelta(days=1)
# Calls that count, of calls that could: None where nobody knows.
Share = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Direction:
    """Of a campaign's calls in one direction. `live` are live answers, by no machine, if we called them, and offered
    calls if they called us; who of these got no agent was dropped, or gave up waiting. `unclear` are calls of ours that
    were answered without an agent, by a person or a machine: they are in no other of these. Of live calls that came in,
    `waits_known` are those of which it's known how long they waited, and `in_time` those that an agent answered within
    the seconds of the service level."""

    calls: int = 0
    live: int = 0
    reached_agent: int = 0
    no_agent: int = 0
    unclear: int = 0
    waits_known: int = 0
    in_time: int = 0

    def __add__(self, other: "Direction") -> "Direction":
        return Direction(
            self.calls + other.calls,
            self.live + other.live,
            self.reached_agent + other.reached_agent,
            self.no_agent + other.no_agent,
            self.unclear + other.unclear,
            self.waits_known + other.waits_known,
            self.in_time + other.in_time,
        )


@dataclass(frozen=True, slots=True)
class Campaign:
    """`campaign_ref` is None of calls without one; `other` are calls of no known direction."""

    campaign_ref: str | None
    outbound: Direction = Direction()
    inbound: Direction = Direction()
    other: int = 0

    @property
    def service_level(self) -> Share:
        """Offered calls of unknown wait are in no service level."""
        known = self.inbound.waits_known
        return (self.inbound.in_time, known) if known or not self.inbound.live else None

    @property
    def rates(self) -> dict[str, Share]:
        """By the names that they have in the views."""
        return {
            "outbound_abandon_rate": (self.outbound.no_agent, self.outbound.live),
            "inbound_abandon_rate": (self.inbound.no_agent, self.inbound.live),
            "service_level": self.service_level,
        }


@dataclass(frozen=True, slots=True)
class Agent:
    """The status that was heard last, and when; None of an event that told none. If nobody listened at some moment
    after that, `unheard_from` is the first of these moments: the agent may have another status since."""

    extension: str
    status: str | None
    campaign_ref: str | None
    since: datetime
    unheard_from: datetime | None = None

    @property
    def is_known(self) -> bool:
        return self.status is not None and self.unheard_from is None


@dataclass(frozen=True, slots=True)
class Gap:
    """Nobody was proven to listen. `begin` is None if nobody ever was before, `end` if nobody is now."""

    begin: datetime | None
    end: datetime | None
    server: str | None


@dataclass(frozen=True, slots=True)
class Book:
    """Of a UTC day: the messages received then which are dead letters, and the twins among its calls. None is what
    isn't known: letters if nothing of the day was loaded, as no view has them; twins if they were never counted."""

    day: date
    dead_letters: int | None = None
    twins: int | None = None


@dataclass(frozen=True, slots=True)
class LastWeek:
    """The same day of last week, until the last full hour of now: naive, on the zone's clock."""

    until: datetime
    rates: Mapping[str, Share]


@dataclass(frozen=True, slots=True)
class Today:
    """`now` is Postgres's; `local` is the same on the zone's clock, naive. `agents` are those of whom something was
    heard since yesterday's midnight, without who logged off; `all_heard` if somebody listened throughout that time.
    `books` are of the UTC days that the business day has touched so far, the earliest first. `settings` are those of
    reporting.settings. `names` are by kind, agent or campaign, and reference. `clocks` are what the zone's clock showed
    at the moments of all these."""

    zone: str
    now: datetime
    local: datetime
    campaigns: list[Campaign]
    agents: list[Agent]
    gone: int
    all_heard: bool
    gaps: list[Gap]
    unheard_seconds: float
    last_loaded_at: datetime | None
    last_dialed_at: datetime | None
    books: list[Book]
    last_week: LastWeek
    settings: Mapping[str, Any]
    names: dict[tuple[str, str], str]
    clocks: Mapping[datetime, datetime]

    def target(self, figure: str) -> Decimal | None:
        """What the figure should be, if a target is set."""
        found: Decimal | None = self.settings[f"target_{TARGETED[figure]}"]
        return found

    def called(self, kind: str, reference: str | None) -> str:
        """As reports call an agent or a campaign."""
        return called(reference, self.names.get((kind, reference or "")))

    def longest(self, status: str | None) -> int | None:
        """Seconds from which on an agent's state is over-long, if there are any."""
        setting = OVER_LONG.get(status or "")
        return None if setting is None else self.settings[setting]

    @property
    def day(self) -> date:
        return self.local.date()

    @property
    def total(self) -> Campaign:
        return Campaign(
            None,
            sum((each.outbound for each in self.campaigns), Direction()),
            sum((each.inbound for each in self.campaigns), Direction()),
            sum(each.other for each in self.campaigns),
        )

    @property
    def logged_in(self) -> int:
        """Of whom that is known."""
        return sum(agent.is_known for agent in self.agents)

    @property
    def nobody_listens_since(self) -> Gap | None:
        return next((gap for gap in self.gaps if gap.end is None), None)

    def on_the_clock(self, moment: datetime) -> datetime:
        """One of these moments on the zone's clock, naive."""
        return self.clocks[moment]


class Wall:
    """Looks at today, and remembers what agents were heard to say. Not for several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._agents: dict[str, Agent] = {}
        self._of_day: date | None = None
        self._all_at = 0.0

    def look(self) -> Today:
        """Raises `Outage` or `ConfigurationError`."""
        with within(self._engine).connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            if connection.scalar(sa.text("SELECT to_regclass('reporting.names_masked')")) is None:
                raise ConfigurationError("ETL-313", "the database has no views for reports: run `etl db upgrade`")
            settings = dict(connection.execute(live.NOW).mappings().one())
            if not settings.keys() >= {*OVER_LONG.values()}:
                raise ConfigurationError("ETL-313", "the database has no views for reports: run `etl db upgrade`")
            zone, now, local, midnight = (settings[name] for name in ("zone", "now", "local", "midnight"))
            day = local.date()
            counted = connection.execute(live.CALLS, {"day": day}).all()
            gaps = [Gap(*row) for row in connection.execute(live.GAPS, {"since": midnight - _DAY})]
            agents = [_doubted(agent, gaps, now) for agent in self._last_states(connection, day)]
            books = _books(connection, midnight, now)
            last_week = _last_week(connection, local)
            campaigns = {row.campaign_ref for row in counted} | {agent.campaign_ref for agent in agents}
            asked = {"agents": [agent.extension for agent in agents], "campaigns": [*campaigns - {None}]}
            names = {(kind, reference): name for kind, reference, name in connection.execute(live.NAMES, asked)}
            last_loaded_at = max((row.loaded_at for row in counted), default=None)
            moments = [each for agent in agents for each in (agent.since, agent.unheard_from)]
            moments += [now, last_loaded_at, *(gap.begin for gap in gaps)]
            shown = {"zone": zone, "moments": [*filter(None, moments)]}
            clocks = {row.at: row.clock for row in connection.execute(live.CLOCKS, shown)}
        of_today = [gap for gap in gaps if gap.end is None or gap.end > midnight]
        return Today(
            zone=zone,
            now=now,
            local=local,
            campaigns=_campaigns(counted),
            agents=[agent for agent in agents if agent.status != OFFLINE],
            gone=sum(agent.status == OFFLINE for agent in agents),
            all_heard=not gaps,
            gaps=of_today,
            unheard_seconds=_length(of_today, midnight, now),
            last_loaded_at=last_loaded_at,
            last_dialed_at=max((row.dialed_at for row in counted), default=None),
            books=books,
            last_week=last_week,
            settings=settings,
            names=names,
            clocks=clocks,
        )

    def _last_states(self, connection: sa.Connection, day: date) -> list[Agent]:
        """By extension. Yesterday's count too, for who is there since before midnight."""
        whole = self._of_day != day or time.monotonic() - self._all_at > _ALL_EVERY_SECONDS
        since = None if whole else max((agent.since for agent in self._agents.values()), default=None)
        asked = {"first": day - _DAY, "last": day, "since": since and since - _LATEST}
        found = {row.extension: Agent(*row) for row in connection.execute(live.AGENTS, asked)}
        if whole:
            self._of_day, self._all_at = day, time.monotonic()
        self._agents = found if since is None else self._agents | found
        return [self._agents[extension] for extension in sorted(self._agents)]


def _books(connection: sa.Connection, begin: datetime, end: datetime) -> list[Book]:
    first, last = (moment.astimezone(UTC).date() for moment in (begin, end))
    found = {row.day: Book(*row) for row in connection.execute(live.BOOKS, {"first": first, "last": last})}
    days = (first + number * _DAY for number in range((last - first).days + 1))
    return [found.get(day, Book(day)) for day in days]


def _last_week(connection: sa.Connection, local: datetime) -> LastWeek:
    """Null is what isn't known, also if there are no figures of that day."""
    until = local.replace(minute=0, second=0, microsecond=0) - 7 * _DAY
    row = connection.execute(live.LAST_WEEK, {"day": until.date(), "until": until}).one()
    pairs = zip(row[::2], row[1::2], strict=True)
    known = [None if None in pair else pair for pair in pairs]
    return LastWeek(until, dict(zip(live.RATES, known, strict=True)))


def _campaigns(counted: Sequence[sa.Row[Any]]) -> list[Campaign]:
    """Those with the most calls first."""
    return sorted(map(_campaign, counted), key=_size, reverse=True)


def _campaign(row: sa.Row[Any]) -> Campaign:
    live = row.outbound_reached + row.outbound_dropped
    gave_up = row.inbound_offered - row.inbound_reached
    return Campaign(
        row.campaign_ref,
        Direction(row.outbound_attempts, live, row.outbound_reached, row.outbound_dropped, row.outbound_unclear),
        Direction(
            row.inbound_calls,
            row.inbound_offered,
            row.inbound_reached,
            gave_up,
            waits_known=row.waits_known,
            in_time=row.in_time,
        ),
        row.calls - row.outbound_attempts - row.inbound_calls,
    )


def _size(campaign: Campaign) -> tuple[int, str]:
    return campaign.outbound.calls + campaign.inbound.calls + campaign.other, campaign.campaign_ref or ""


def _doubted(agent: Agent, gaps: Iterable[Gap], now: datetime) -> Agent:
    since = [max(gap.begin or agent.since, agent.since) for gap in gaps if (gap.end or now) > agent.since]
    return replace(agent, unheard_from=min(since, default=None))


def _length(gaps: Iterable[Gap], since: datetime, now: datetime) -> float:
    """Seconds in any of them, from `since` to `now`."""
    total, heard = 0.0, since
    for gap in sorted(gaps, key=lambda gap: gap.begin or since):
        begin, end = max(gap.begin or since, heard), min(gap.end or now, now)
        total += max(0.0, (end - begin).total_seconds())
        heard = max(heard, end)
    return total
