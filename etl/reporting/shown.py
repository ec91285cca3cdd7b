"""What every form of a report shows: its columns with their headings, values as text, and notes on the figures."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.text import duration, printable

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

NONE = "(none)"  # a campaign that the dialler didn't name, an empty disposition
DAYS_NAMED = 5  # in a note; the others are counted

TITLES = {"campaign": "Campaigns", "agent": "Agents", "hours": "Hours", "reasons": "Why calls ended"}


class Shown(NamedTuple):
    """A column: its name in the view, its heading, and what its values are: text, count, share, seconds or length."""

    name: str
    heading: str
    what: str
    brief: bool = True  # shown on a terminal too, which has no room for all


_OUTCOMES = (
    Shown("attempts", "attempts", "count"),
    Shown("answered", "answered", "count"),
    Shown("answer_seizure_ratio", "ASR", "share"),
    Shown("reached_agent", "agent", "count"),
    Shown("abandoned", "no agent", "count"),
    Shown("abandon_rate", "abandon rate", "share"),
    Shown("voicemail", "machine", "count", brief=False),
    Shown("busy", "busy", "count", brief=False),
    Shown("no_answer", "no answer", "count", brief=False),
    Shown("rejected", "rejected", "count", brief=False),
    Shown("failed", "failed", "count", brief=False),
    Shown("average_talk_seconds", "avg talk", "seconds"),
    Shown("average_hold_seconds", "avg hold", "seconds", brief=False),
    Shown("talk_seconds", "talk", "length", brief=False),
)
COLUMNS: dict[str, tuple[Shown, ...]] = {
    "campaign": (
        Shown("day", "day", "text"),
        Shown("campaign_ref", "campaign", "text"),
        *_OUTCOMES,
        Shown("unique_contacts", "contacts", "count"),
        Shown("contact_rate", "contact rate", "share"),
    ),
    "hours": (Shown("day", "day", "text"), Shown("hour", "hour", "text"), *_OUTCOMES),
    "agent": (
        Shown("day", "day", "text"),
        Shown("extension", "agent", "text"),
        Shown("calls", "calls", "count"),
        Shown("average_handle_seconds", "avg handle", "seconds"),
        Shown("talk_seconds", "talk", "length"),
        Shown("logged_in_seconds", "logged in", "length"),
        Shown("available_seconds", "available", "length"),
        Shown("busy_seconds", "busy", "length"),
        Shown("wrapup_seconds", "wrap-up", "length"),
        Shown("occupancy", "occupancy", "share"),
        Shown("unclosed", "unclosed", "count", brief=False),
    ),
    "reasons": (
        Shown("end_reason", "reason", "text"),
        Shown("disposition", "meaning", "text"),
        Shown("ended_by", "ended by", "text", brief=False),
        Shown("calls", "calls", "count"),
        Shown("share", "share", "share"),
        Shown("answered", "answered", "count"),
        Shown("reached_agent", "agent", "count", brief=False),
    ),
}
_ABSURD = Shown("absurd_durations", "absurd times", "count")
# The column that the bars show.
MEASURE = {"campaign": "attempts", "hours": "attempts", "agent": "calls", "reasons": "calls"}


def columns(found: "Report") -> list[Shown]:
    """Without the day if there is only one; with the calls of impossible durations only if there are any."""
    shown = COLUMNS[found.asked.kind] + ((_ABSURD,) if _absurd(found) else ())
    return [each for each in shown if each.name != "day" or found.asked.first < found.asked.last]


def _absurd(found: "Report") -> int:
    return found.total["absurd_durations"] if found.total else 0


def value(row: "Row", column: Shown, found: "Report") -> str:
    """As people read it. Safe for a terminal, not for HTML."""
    content = row.get(column.name)
    if column.name == "share" and found.total:
        content = Decimal(row["calls"]) / found.total["calls"]
    if content is None or content == "":
        return NONE if column.name in ("campaign_ref", "end_reason") else ""
    if isinstance(content, datetime):
        return hour(content, found)
    return _FORMATS[column.what](content)


def name(text: str | None) -> str:
    """Of a campaign, an agent or a disposition, on one line."""
    return printable(text).replace("\n", "\\n") if text else NONE


def hour(moment: datetime, found: "Report") -> str:
    """With the UTC offset where it changes: an hour may come twice in a day."""
    several = len({row["hour"].utcoffset() for row in found.rows}) > 1
    return f"{moment:%H:%M %z}" if several else f"{moment:%H:%M}"


def count(number: int) -> str:
    return f"{number:,}"


def share(number: Decimal | float) -> str:
    return f"{number:.1%}"


def seconds(number: Decimal | int) -> str:
    """Minutes and seconds."""
    whole = round(number)
    return f"{whole // 60}:{whole % 60:02}"


def length(number: Decimal | int) -> str:
    """Hours, minutes and seconds."""
    whole = round(number)
    return f"{whole // 3600:,}:{whole // 60 % 60:02}:{whole % 60:02}"


_FORMATS: dict[str, Callable[[Any], str]] = {
    "text": lambda text: name(str(text)),
    "count": count,
    "share": share,
    "seconds": seconds,
    "length": length,
}


def title(found: "Report") -> str:
    return TITLES[found.asked.kind]


def period(found: "Report") -> str:
    """With weekdays, which explain most differences between days."""
    first, last = found.asked.first, found.asked.last
    days = f"{first:%A} {first}" if first == last else f"{first:%A} {first} to {last:%A} {last}"
    only = ", ".join(name(each) for each in found.asked.campaigns)
    return f"{days}, {printable(found.zone)} time" + (f", campaign {only}" if only else "")


def as_of(found: "Report") -> str | None:
    if found.refreshed_at is None:
        return None
    return f"figures computed {found.refreshed_at.astimezone(found.now.tzinfo):%Y-%m-%d %H:%M}"


def about_totals(found: "Report") -> str | None:
    """Why some of their cells are empty."""
    if found.asked.kind == "campaign" and len(found.rows) > 1:
        return "No contacts in totals: who was called on several days, or by several campaigns, would count again"
    return None


def notes(found: "Report") -> list[str]:
    """Why there are no rows, and why the figures may be wrong."""
    kept = found.asked.kind != "reasons"
    texts = [] if found.rows else [*_nothing(found)]
    if found.asked.last >= found.now.date():
        texts.append(f"{found.now.date()} isn't over yet")
    if stale := [each["day"] for each in found.books if kept and not each["figures_current"]]:
        texts.append(f"more was loaded since the figures were computed, for {_days(stale)}: run `etl rollup`")
    if letters := sum(each["dead_letters"] for each in found.books):
        days = _days([each["day"] for each in found.books if each["dead_letters"]])
        texts.append(
            f"{letters:,} messages that were received on {days} are dead letters, and may be calls: `etl dead list`"
        )
    if absurd := _absurd(found):
        texts.append(
            f"{absurd:,} calls have a duration that can't be right, below 0 or above a day: it is in no sum and"
            " no average"
        )
    if twins := sum(each["twins"] or 0 for each in found.books):
        days = _days([each["day"] for each in found.books if each["twins"]])
        texts.append(
            f"{twins:,} calls of {days} look like one call in two rows, and are counted twice: see `etl reconcile`"
        )
    if found.asked.kind == "agent" and (gaps := [each for each in found.books if each["gap_seconds"]]):
        lost = duration(float(sum(each["gap_seconds"] for each in gaps)))
        texts.append(
            f"nobody listened for {lost} of {_days([each['day'] for each in gaps])}: states are missing, `etl gaps`"
        )
    if not kept and (dropped := [each["day"] for each in found.books if each["dropped"]]):
        texts.append(
            f"Postgres forgot calls of {_days(dropped)}, and they aren't counted: `etl restore` brings them back"
        )
    return texts


def _nothing(found: "Report") -> Iterable[str]:
    asked = found.asked
    days = str(asked.first) if asked.first == asked.last else f"{asked.first} to {asked.last}"
    yield f"there are no figures of {days}" + (" for such a campaign" if asked.campaigns else "")
    if found.campaigns_there:
        yield f"campaigns of that time, the largest first: {', '.join(map(name, found.campaigns_there))}"
    elif found.known is None:
        yield "there are no figures at all: `etl run` loads calls, `etl rollup` computes the figures"
    else:
        yield f"there are figures of {found.known[0]} to {found.known[1]}: --day, or --from and --to"


def _days(days: Sequence[object]) -> str:
    named = ", ".join(map(str, days[:DAYS_NAMED]))
    more = len(days) - DAYS_NAMED
    return f"{named} and {more:,} more" if more > 0 else named
