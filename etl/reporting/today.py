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
from etl.reporting.figures import TARGETED
from etl.reporting.kept import WHICH

# Seconds from which on a state is over-long. Who rings, or talks, or rests for so long forgot to say so, most likely.
OVER_LONG = {"logging_in": 120, "available": 3_600, "busy": 3_600, "wrapup": 300, "logging_out": 120}
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
    reporting.settings. `names` are by kind, agent or campaign, and reference."""

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

    def target(self, figure: str) -> Decimal | None:
        """What the figure should be, if a target is set."""
        found: Decimal | None = self.settings[f"target_{TARGETED[figure]}"]
        return found

    def called(self, kind: str, reference: str) -> str:
        """An agent or a campaign by its name, if it has one, and its reference."""
        name = self.names.get((kind, reference))
        return f"{name} ({reference})" if name else reference

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
        """A moment of today on the zone's clock, naive. If that was set today, moments before are off by as much."""
        return (moment - self.now) + self.local


class Wall:
    """Looks at today, and remembers what agents were heard to say. Not for several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._agents: dict[str, Agent] = {}
        self._of_day: date | None = None
        self._all_at = 0.0

    def look(self) -> Today:
        """Raises `Outage` or `ConfigurationError`."""
        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            if connection.scalar(sa.text("SELECT to_regclass('reporting.names_masked')")) is None:
                raise ConfigurationError("ETL-313", "the database has no views for reports: run `etl db upgrade`")
            settings = dict(connection.execute(_NOW).mappings().one())
            zone, now, local, midnight = (settings[name] for name in ("zone", "now", "local", "midnight"))
            day = local.date()
            counted = connection.execute(_CALLS, {"day": day}).all()
            gaps = [Gap(*row) for row in connection.execute(_GAPS, {"since": midnight - _DAY})]
            agents = [_doubted(agent, gaps, now) for agent in self._last_states(connection, day)]
            books = _books(connection, midnight, now)
            last_week = _last_week(connection, local)
            campaigns = {row.campaign_ref for row in counted} | {agent.campaign_ref for agent in agents}
            asked = {"agents": [agent.extension for agent in agents], "campaigns": [*campaigns - {None}]}
            names = {(kind, reference): name for kind, reference, name in connection.execute(_NAMES, asked)}
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
            last_loaded_at=max((row.loaded_at for row in counted), default=None),
            last_dialed_at=max((row.dialed_at for row in counted), default=None),
            books=books,
            last_week=last_week,
            settings=settings,
            names=names,
        )

    def _last_states(self, connection: sa.Connection, day: date) -> list[Agent]:
        """By extension. Yesterday's count too, for who is there since before midnight."""
        whole = self._of_day != day or time.monotonic() - self._all_at > _ALL_EVERY_SECONDS
        since = None if whole else max((agent.since for agent in self._agents.values()), default=None)
        asked = {"first": day - _DAY, "last": day, "since": since and since - _LATEST}
        found = {row.extension: Agent(*row) for row in connection.execute(_AGENTS, asked)}
        if whole:
            self._of_day, self._all_at = day, time.monotonic()
        self._agents = found if since is None else self._agents | found
        return [self._agents[extension] for extension in sorted(self._agents)]


def _books(connection: sa.Connection, begin: datetime, end: datetime) -> list[Book]:
    first, last = (moment.astimezone(UTC).date() for moment in (begin, end))
    found = {row.day: Book(*row) for row in connection.execute(_BOOKS, {"first": first, "last": last})}
    days = (first + number * _DAY for number in range((last - first).days + 1))
    return [found.get(day, Book(day)) for day in days]


def _last_week(connection: sa.Connection, local: datetime) -> LastWeek:
    """Null is what isn't known, also if there are no figures of that day."""
    until = local.replace(minute=0, second=0, microsecond=0) - 7 * _DAY
    row = connection.execute(_LAST_WEEK, {"day": until.date(), "until": until}).one()
    pairs = zip(row[::2], row[1::2], strict=True)
    known = [None if None in pair else pair for pair in pairs]
    return LastWeek(until, dict(zip(_RATES, known, strict=True)))


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


_NOW = sa.text(
    "SELECT *, now() AS now, now() AT TIME ZONE zone AS local,"
    " date_trunc('day', now() AT TIME ZONE zone) AT TIME ZONE zone AS midnight"
    " FROM reporting.settings"
)
_COUNTED = (
    "outbound_attempts",
    "outbound_reached",
    "outbound_dropped",
    "outbound_unclear",
    "inbound_calls",
    "inbound_offered",
    "inbound_reached",
)
_WHICH = {
    **{name: WHICH[name] for name in _COUNTED},
    "waits_known": f"{WHICH['inbound_offered']} AND wait_seconds IS NOT NULL",
    "in_time": f"{WHICH['inbound_reached']} AND wait_seconds <= service_level_seconds",
}
_CALLS = sa.text(
    "SELECT campaign_ref, count(*) AS calls, max(loaded_at) AS loaded_at, max(dialed_at) AS dialed_at, {counts}"
    " FROM reporting.calls_on(:day), reporting.settings GROUP BY campaign_ref".replace(
        "{counts}", ", ".join(f"count(*) FILTER (WHERE {which}) AS {name}" for name, which in _WHICH.items())
    )
)
_RATES = {
    "outbound_abandon_rate": ("outbound_dropped", "outbound_live"),
    "inbound_abandon_rate": ("inbound_abandoned", "inbound_offered"),
    "service_level": ("answered_in_time", "waits_known"),
}
_LAST_WEEK = sa.text(
    "SELECT {sums} FROM reporting.campaign_hours, reporting.settings"
    " WHERE day = :day AND hour AT TIME ZONE zone < :until".replace(
        "{sums}",
        ", ".join(
            f"CASE WHEN count({name}) = count(*) THEN sum({name}) END" for pair in _RATES.values() for name in pair
        ),
    )
)
_AGENTS = sa.text("""
SELECT DISTINCT ON (extension) extension, status, campaign_ref, captured_at
FROM reporting.events_between(:first, :last)
WHERE kind = 'agents' AND event_type = 'status' AND extension IS NOT NULL
    AND captured_at > coalesce(CAST(:since AS timestamptz), '-infinity')
ORDER BY extension, captured_at DESC, event_id DESC""")
_GAPS = sa.text("SELECT gap_from, gap_until, server FROM reporting.gaps_between(:since, now())")
# It has days only of which something was loaded.
_BOOKS = sa.text("SELECT day, dead_letters, twins FROM reporting.load_days WHERE day BETWEEN :first AND :last")
_NAMES = sa.text(
    "SELECT kind, reference, name FROM reporting.names_masked"
    " WHERE kind = 'agent' AND reference = ANY(:agents) OR kind = 'campaign' AND reference = ANY(:campaigns)"
)
