"""What every form of a report shows: its columns with their headings, values as text, and notes on the figures."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.reporting.figures import AT_LEAST, TARGETED
from etl.text import duration, printable

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

NONE = "(none)"  # a campaign that the dialler didn't name, an empty disposition
NOT_KNOWN = "not known"
NAMES = ("agent_name", "agent_group", "campaign_name", "campaign_group")
_SHARES = {"outbound_share": "outbound_calls", "inbound_share": "inbound_calls"}
DAYS_NAMED = 5  # in a note; the others are counted

TITLES = {"campaign": "Campaigns", "agent": "Agents", "hours": "Hours", "reasons": "Why calls ended"}


class Shown(NamedTuple):
    """A column: its name in the view, its heading, and what its values are: text, count, share, seconds, length or
    number.

    `known_by` is the column that is null where nobody knows this one; a null elsewhere is nothing to tell. A column of
    one `side` is left out where no call went that way. `of_one`: not in a total of more than one row.
    """

    name: str
    heading: str
    what: str
    brief: bool = True  # shown on a terminal too, which has no room for all
    known_by: str = ""
    side: str = ""  # outbound or inbound
    of_one: bool = False


def _outbound(name: str, heading: str, what: str, brief: bool = False, of_one: bool = False, by: str = "") -> Shown:
    return Shown(name, heading, what, brief, by or "outbound_attempts", "outbound", of_one)


def _inbound(name: str, heading: str, what: str, brief: bool = False) -> Shown:
    return Shown(name, heading, what, brief, "inbound_calls", "inbound")


_OUTBOUND = (
    _outbound("outbound_attempts", "dialled", "count"),
    _outbound("outbound_answered", "dialled, answered", "count", brief=True),
    _outbound("outbound_asr", "ASR", "share", brief=True),
    _outbound("outbound_machines", "machines", "count"),
    _outbound("outbound_live", "live answers", "count"),
    _outbound("outbound_reached", "live, agent", "count"),
    _outbound("outbound_dropped", "dropped", "count", brief=True),
    _outbound("outbound_abandon_rate", "abandoned of live", "share", brief=True),
    _outbound("outbound_short_dropped", "short drops", "count"),
    _outbound("outbound_unclear", "unclear", "count"),
)
_INBOUND = (
    _inbound("inbound_calls", "came in", "count"),
    _inbound("inbound_offered", "offered", "count", brief=True),
    _inbound("inbound_reached", "offered, agent", "count"),
    _inbound("inbound_abandoned", "gave up", "count"),
    _inbound("inbound_abandon_rate", "gave up of offered", "share"),
    _inbound("inbound_short_abandoned", "short abandons", "count"),
    _inbound("service_level", "service level", "share", brief=True),
    _inbound("service_level_without_short", "service level without short", "share"),
    _inbound("average_speed_of_answer", "ASA", "seconds", brief=True),
    _inbound("longest_wait", "longest wait", "seconds"),
    _inbound("wait_p80", "80 % waited", "seconds"),
    _inbound("wait_p95", "95 % waited", "seconds"),
)
_ENDS = (
    Shown("busy", "busy", "count", brief=False),
    Shown("no_answer", "no answer", "count", brief=False),
    Shown("rejected", "rejected", "count", brief=False),
    Shown("failed", "failed", "count", brief=False),
    Shown("average_talk_seconds", "avg talk", "seconds"),
    Shown("average_hold_seconds", "avg hold", "seconds", brief=False),
    Shown("talk_seconds", "talk", "length", brief=False),
)
_FIGURES = (Shown("attempts", "calls", "count"), *_OUTBOUND, *_INBOUND, *_ENDS)


def _of_states(name: str, heading: str, what: str) -> Shown:
    return Shown(name, heading, what, known_by="logged_in_seconds")


def _named(kind: str) -> tuple[Shown, Shown]:
    return Shown(f"{kind}_name", "name", "text"), Shown(f"{kind}_group", "group", "text", brief=False)


COLUMNS: dict[str, tuple[Shown, ...]] = {
    "campaign": (
        Shown("day", "day", "text"),
        Shown("campaign_ref", "campaign", "text"),
        *_named("campaign"),
        *_FIGURES,
        _outbound("outbound_contacts", "contacts tried", "count", brief=True, of_one=True),
        _outbound("outbound_contact_rate", "contact rate", "share", brief=True, of_one=True),
        _outbound("attempts_per_contact", "attempts a contact", "number", of_one=True),
        _outbound("contacts_previewed", "contacts previewed", "count", of_one=True, by="contacts_previewed"),
        _outbound("list_penetration", "list penetration", "share", of_one=True, by="contacts_previewed"),
    ),
    "hours": (Shown("day", "day", "text"), Shown("hour", "hour", "text"), *_FIGURES),
    "agent": (
        Shown("day", "day", "text"),
        Shown("extension", "agent", "text"),
        *_named("agent"),
        Shown("calls", "calls", "count"),
        Shown("outbound_calls", "dialled", "count", brief=False, known_by="outbound_calls"),
        Shown("inbound_calls", "came in", "count", brief=False, known_by="inbound_calls"),
        Shown("aht_seconds", "AHT", "seconds"),
        Shown("aht_of", "AHT is of", "text", brief=False),
        Shown("average_handle_seconds", "avg talk + hold", "seconds", brief=False),
        Shown("talk_seconds", "talk", "length"),
        _of_states("logged_in_seconds", "logged in", "length"),
        _of_states("available_seconds", "available", "length"),
        _of_states("busy_seconds", "busy", "length"),
        _of_states("wrapup_seconds", "wrap-up", "length"),
        _of_states("occupancy", "occupancy", "share"),
        Shown("unclosed", "unclosed", "count", brief=False),
    ),
    "reasons": (
        Shown("end_reason", "reason", "text"),
        Shown("disposition", "meaning", "text"),
        Shown("ended_by", "ended by", "text", brief=False),
        Shown("calls", "calls", "count"),
        Shown("outbound_calls", "dialled", "count"),
        Shown("outbound_share", "of dialled", "share"),
        Shown("inbound_calls", "came in", "count"),
        Shown("inbound_share", "of came in", "share"),
        Shown("answered", "answered", "count"),
        Shown("reached_agent", "agent", "count", brief=False),
    ),
}
_ABSURD = Shown("absurd_durations", "absurd times", "count")
# The column that the bars show.
MEASURE = {"campaign": "attempts", "hours": "attempts", "agent": "calls", "reasons": "calls"}


def columns(found: "Report") -> list[Shown]:
    """Without the day if there is only one; with the calls of impossible durations, and with names, only if there are
    any."""
    shown = COLUMNS[found.asked.kind] + ((_ABSURD,) if _absurd(found) else ())
    total = found.total or {}
    none = {
        side
        for side, calls in (("outbound", "outbound_attempts"), ("inbound", "inbound_calls"))
        if total.get(calls) == 0
    }
    if found.asked.first == found.asked.last:
        none.add("day")
    none |= {each for each in NAMES if not any(row.get(each) for row in found.rows)}
    return [each for each in shown if each.name not in none and each.side not in none]


def _absurd(found: "Report") -> int:
    return found.total["absurd_durations"] if found.total else 0


def value(row: "Row", column: Shown, found: "Report") -> str:
    """As people read it. Safe for a terminal, not for HTML."""
    content = row.get(column.name)
    if column.name in _SHARES and found.total:
        calls = _SHARES[column.name]
        is_part = found.total[calls] and row is not found.last_week.total
        content = Decimal(row[calls]) / found.total[calls] if is_part else None
    if content is None or content == "":
        if column.known_by and row.get(column.known_by) is None:
            return "" if column.of_one and row.get("unique_contacts") is None else NOT_KNOWN
        return NONE if column.name in ("campaign_ref", "end_reason") else ""
    if isinstance(content, datetime):
        return hour(content, found)
    return _FORMATS[column.what](content)


def target(column: Shown, found: "Report") -> tuple[str, bool] | None:
    """The target of a figure, as people read it, and whether the total meets it; None if there's none to be met."""
    figure = found.total[column.name] if found.total and column.name in TARGETED else None
    aim = found.target(column.name)
    if figure is None or aim is None:
        return None
    is_met = figure >= aim if column.name in AT_LEAST else figure <= aim
    said = f"target {'at least' if column.name in AT_LEAST else 'at most'} {_FORMATS[column.what](aim)}"
    return f"{said}, {'met' if is_met else 'missed'}", is_met


def name(text: str | None) -> str:
    """Of a campaign, an agent or a disposition, on one line."""
    return printable(text).replace("\n", "\\n") if text else NONE


def called(reference: str | None, its_name: str | None) -> str:
    """A campaign or an agent by its name, if it has one, and its reference, on one line. Two may be called the same:
    no key is made of this."""
    return f"{name(its_name)} ({name(reference)})" if its_name else name(reference)


def label(row: "Row") -> str:
    """What the campaign or the agent of a row is called."""
    kind, column = ("agent", "extension") if "extension" in row else ("campaign", "campaign_ref")
    return called(row[column], row.get(f"{kind}_name"))


def hour(moment: datetime, found: "Report") -> str:
    """With the UTC offset where it changes: an hour may come twice in a day."""
    return f"{moment:%H:%M %z}" if found.changes_offset else f"{moment:%H:%M}"


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
    "number": lambda number: f"{number:,.2f}",
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


def last_week(found: "Report") -> str:
    """What the row of last week's total is called."""
    days = found.last_week
    return f"{days.first:%a} {days.first}" if days.first == days.last else f"{days.first} to {days.last}"


def about_totals(found: "Report") -> str | None:
    """Why some of their cells are empty."""
    if found.asked.kind == "campaign" and len(found.rows) > 1:
        return "No contacts in totals: who was called on several days, or by several campaigns, would count again"
    return None


def notes(found: "Report") -> list[str]:
    """Why there are no rows, and why the figures may be wrong."""
    return [*_of_days(found), *_of_calls(found), *_of_agents(found)]


def _of_days(found: "Report") -> Iterable[str]:
    kept = found.asked.kind != "reasons"
    if not found.rows:
        yield from _nothing(found)
    if found.asked.last >= found.now.date():
        yield f"{found.now.date()} isn't over yet"
    if stale := [each["day"] for each in found.books if kept and not each["figures_current"]]:
        yield f"more was loaded since the figures were computed, for {_days(stale)}: run `etl rollup`"
    if letters := sum(each["dead_letters"] for each in found.books):
        days = _days([each["day"] for each in found.books if each["dead_letters"]])
        yield f"{letters:,} messages that were received on {days} are dead letters, and may be calls: `etl dead list`"
    if not kept and (dropped := [each["day"] for each in found.books if each["dropped"]]):
        yield f"Postgres forgot calls of {_days(dropped)}, and they aren't counted: `etl restore` brings them back"


def _of_calls(found: "Report") -> Iterable[str]:
    total = found.total or {}
    if absurd := _absurd(found):
        yield (
            f"{absurd:,} calls have a duration that can't be right, below 0 or above a day: it is in no sum and"
            " no average"
        )
    if twins := sum(each["twins"] or 0 for each in found.books):
        days = _days([each["day"] for each in found.books if each["twins"]])
        yield f"{twins:,} calls of {days} look like one call in two rows, and are counted twice: see `etl reconcile`"
    if unknown := total.get("unknown_dispositions"):
        # By reason the rows say which; elsewhere they are in many rows together.
        which = [name(row["end_reason"]) for row in found.rows if "end_reason" in row and row["unknown_dispositions"]]
        named = f": {_days(which)}" if which else ", which `etl report reasons` lists"
        yield f"{unknown:,} calls have dispositions that reporting.end_reasons doesn't know{named}"
    if "attempts" in total and found.total:
        yield from _of_directions(found.total)


def _of_directions(total: "Row") -> Iterable[str]:
    dialled, came, offered = (total[name] for name in ("outbound_attempts", "inbound_calls", "inbound_offered"))
    if dialled is None or came is None:
        yield "figures of an etl before 0.2 are among these, and lack what isn't known: run `etl rollup --all`"
        return
    if elsewhere := total["attempts"] - dialled - came:
        yield f"{elsewhere:,} calls neither came in nor were dialled, as far as was told: they are in no rate"
    if unclear := total["outbound_unclear"]:
        yield of_unclear(unclear)
    if unknown := offered - (total["waits_known"] or 0):
        yield of_waits(unknown, offered)


def of_unclear(calls: int) -> str:
    return (
        f"{calls:,} dialled calls were answered without an agent, by whom their disposition doesn't tell: they are in"
        " no rate of abandoned calls"
    )


def of_waits(unknown: int, offered: int) -> str:
    return f"how long {unknown:,} of {offered:,} offered calls waited isn't known: they are in no service level"


def _of_agents(found: "Report") -> Iterable[str]:
    if found.asked.kind != "agent":
        return
    if gaps := [each for each in found.books if each["gap_seconds"]]:
        lost = duration(float(sum(each["gap_seconds"] for each in gaps)))
        yield f"nobody listened for {lost} of {_days([each['day'] for each in gaps])}: states are missing, `etl gaps`"
    if unknown := sum(row["logged_in_seconds"] is None for row in found.rows):
        yield f"{unknown:,} of {len(found.rows):,} agents' days have no state that is known: no total of time has them"


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
