"""The pages' templates, and how their values are written. Whatever isn't a template's own words is escaped."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from etl import __version__
from etl.reporting.figures import AT_LEAST
from etl.reporting.shown import of_unclear, of_waits
from etl.reporting.today import Agent, Gap, Share, Today
from etl.text import duration, printable

NOT_KNOWN = "not known"
STATES = {
    "logging_in": "logging in",
    "available": "available",
    "busy": "busy",
    "wrapup": "wrap-up",
    "logging_out": "logging out",
}


def _written(value: object) -> object:
    """No control character reaches a page, nor one that turns the text around. Markup is the templates' own."""
    return printable(value).replace("\n", "\\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def count(number: int | None) -> str:
    return NOT_KNOWN if number is None else f"{number:,}"


def share(part: int, whole: int) -> str:
    """Of nothing there is none."""
    return f"{part / whole:.1%}" if whole else "–"  # noqa: RUF001  # a dash


def rate(found: Share) -> str:
    return NOT_KNOWN if found is None else share(*found)


def beside(today: Today, figure: str) -> list[tuple[str, str]]:
    """What stands below the figure's tile, each with its class: its target, if one is set, and last week's."""
    said = []
    found, aim = today.total.rates[figure], today.target(figure)
    if aim is not None:
        least = figure in AT_LEAST
        text, kind = f"target at {'least' if least else 'most'} {aim:.1%}", "met"
        if found and found[1]:
            is_met = found[0] >= aim * found[1] if least else found[0] <= aim * found[1]
            kind = "met" if is_met else "missed"
            text += f", {kind}"
        said.append((kind, text))
    last_week = today.last_week
    if last_week.until.hour:  # before, there was nothing yet
        said.append(("before", f"last week until {last_week.until:%H:%M}: {rate(last_week.rates[figure])}"))
    return said


def clock(moment: datetime | None) -> str:
    return NOT_KNOWN if moment is None else f"{moment:%H:%M:%S}"


def lasted(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def logged_in(today: Today | None) -> str:
    """How many agents are; who may be, and isn't known to, is no 0."""
    if today is None or today.nobody_listens_since or not (today.agents or today.all_heard):
        return NOT_KNOWN
    unknown = len(today.agents) - today.logged_in
    return count(today.logged_in) + (f", and {count(unknown)} {NOT_KNOWN}" if unknown else "")


def agents(today: Today) -> list[dict[str, Any]]:
    """As rows of the table: whose state is over-long first, then by extension."""
    rows = [_agent(agent, today) for agent in today.agents]
    return sorted(rows, key=lambda row: not row["over_long"])


def over_long(today: Today) -> str:
    """Which states are marked, for those who wonder; nothing if none is."""
    bounds = [f"{called} above {lasted(most)}" for status, called in STATES.items() if (most := today.longest(status))]
    return f"Long is {', '.join(bounds)}." if bounds else ""


def _agent(agent: Agent, today: Today) -> dict[str, Any]:
    seconds = (today.now - agent.since).total_seconds()
    status, longest = agent.status or "", today.longest(agent.status)
    return {
        "extension": agent.extension,
        "called": today.called("agent", agent.extension),
        "page": f"/agent/{quote(agent.extension, safe='')}?from={today.day}&to={today.day}",
        "campaign": agent.campaign_ref and today.called("campaign", agent.campaign_ref),
        "status": STATES.get(status, status) if agent.status is not None else NOT_KNOWN,
        "kind": status if status in STATES else "other",
        "since": clock(today.on_the_clock(agent.since)),
        "lasted": lasted(seconds),
        "over_long": agent.unheard_from is None and longest is not None and seconds > longest,
        "unheard_from": agent.unheard_from and clock(today.on_the_clock(agent.unheard_from)),
    }


def notes(today: Today) -> list[str]:
    """What keeps today's figures from being trusted."""
    said = []
    if gap := today.nobody_listens_since:
        said.append(_deaf(gap, today))
    elif today.unheard_seconds:
        said.append(f"nobody listened for {duration(today.unheard_seconds)} of today: states are missing")
    said += _of_books(today)
    if unclear := today.total.outbound.unclear:
        said.append(of_unclear(unclear))
    came = today.total.inbound
    if unknown := came.live - came.waits_known:
        said.append(of_waits(unknown, came.live))
    if other := today.total.other:
        said.append(f"{other:,} calls are neither outbound nor inbound, and in no column")
    return said


def _of_books(today: Today) -> Iterable[str]:
    """By UTC days, as the views count them: one may have begun before the business day."""
    for book in today.books:
        if book.dead_letters is None:
            yield (
                f"nothing of the UTC day {book.day} was loaded, so how many of its messages are dead letters isn't"
                " known: `etl dead list`"
            )
        elif book.dead_letters:
            yield (
                f"{book.dead_letters:,} messages that were received on the UTC day {book.day} are dead letters, and may"
                " be calls: `etl dead list`"
            )
        if book.twins:
            yield f"{book.twins:,} calls of the UTC day {book.day} look like one call in two rows, and count twice"


def _deaf(gap: Gap, today: Today) -> str:
    where = f" on {gap.server}" if gap.server else ""
    if gap.begin is None:
        return f"nobody listens{where}: agents' states aren't known"
    since = today.on_the_clock(gap.begin)
    when = clock(since) if since.date() == today.day else f"{since:%Y-%m-%d %H:%M}"
    return f"nothing was loaded of a listener{where} since {when}: what agents did after that isn't known"


def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("etl.reporting.web"),
        autoescape=True,
        finalize=_written,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"logged_in": logged_in, "count": count, "share": share, "clock": clock, "lasted": lasted}
    made.filters |= {"rate": rate, "beside": beside, "over_long": over_long}
    made.globals |= {"version": __version__, "not_known": NOT_KNOWN}
    return made
