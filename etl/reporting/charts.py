"""Which charts a report has, and of what data. How they look is in `specs`, how they are drawn in `drawing`."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.reporting import hours, specs, timeline, waits
from etl.reporting.drawing import CONFIG, NARROW, drawn
from etl.reporting.shown import count, label, length, name, seconds, share
from etl.reporting.specs import AMBER, BLACK, GREEN, GREY, LIGHT, PALE, RED, UNHEARD, VIOLET, Datum, Parts, ValueFormat

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row
    from etl.reporting.timeline import Span

LONGEST = timeline.AGENTS  # most names in a chart, the largest first; the table has all
LINES = 6  # most campaigns whose lines can be distinguished

OUTCOMES = {
    "agent": ("reached_agent", GREEN),
    "answered, no agent": ("abandoned", AMBER),
    "no answer": ("no_answer", GREY),
    "busy": ("busy", LIGHT),
    "rejected": ("rejected", VIOLET),
    "failed": ("failed", RED),
}
OTHER = "other"
OUTCOME_COLOURS = {part: colour for part, (_, colour) in OUTCOMES.items()} | {OTHER: PALE}
# Inbound and outbound are in no rate together.
RATES = {
    "answered, of dialled (ASR)": "outbound_asr",
    "abandoned, of live answers": "outbound_abandon_rate",
    "service level": "service_level",
}
AGENT_TIMES = {
    "busy": ("busy_seconds", GREEN),
    "wrap-up": ("wrapup_seconds", VIOLET),
    "available": ("available_seconds", LIGHT),
}
ON_A_TIMELINE = {
    "busy": GREEN,
    "wrap-up": VIOLET,
    "available": LIGHT,
    timeline.OTHER: PALE,
    timeline.CALL: BLACK,
    timeline.GAP: UNHEARD,
}
Named = tuple[list[Datum], list[str]]  # of a chart, and what its places are called
FROM_HOUR_TO_HOUR = (
    "From hour to hour",
    "States and calls, in hours since the day began. Where nothing is drawn, nothing is known",
)
_AGENT_FORMATS = {"calls": ",d", "minutes a call": ".1f", "occupancy": "%"}


class Chart(NamedTuple):
    heading: str
    caption: str
    svg: str
    narrow: str  # the same for a telephone


def charts(found: "Report") -> list[Chart]:
    """Raises `ConfigurationError` if the library that draws them isn't installed."""
    return [
        Chart(
            heading,
            caption,
            drawn(spec, CONFIG, heading, f"c{number}"),
            drawn(specs.narrow(spec), NARROW, heading, f"n{number}"),
        )
        for number, (heading, caption, spec) in enumerate(parts(found))
    ]


def parts(found: "Report") -> Parts:
    """Each chart's heading and caption, and what is drawn; none if there are no rows."""
    if found.rows:
        yield from _KINDS[found.asked.kind](found)


def of_an_agent(found: "Report") -> Parts:
    """Of one agent's report: what they did from hour to hour of a day, if that was asked for."""
    yield from _from_hour_to_hour(found, found.rows)


def _campaigns(found: "Report") -> Parts:
    several = found.asked.first < found.asked.last
    largest = _largest(found.by_subject if several else found.rows, "attempts")
    if several:
        yield (
            "Calls a day",
            "What came of them, all campaigns together",
            specs.columns(*_by(found.rows, lambda row: row["day"], lambda row: str(row["day"])), OUTCOME_COLOURS),
        )
    yield (
        "What came of the calls",
        "By campaign. Answered by a machine counts as answered, and mostly has no agent",
        specs.stacked(*_outcomes([(label(row), row) for row in largest]), OUTCOME_COLOURS, "calls"),
    )
    if several:
        days = _days(found, "campaign_ref")
        few = [(label(row), days[row["campaign_ref"]]) for row in largest[:LINES]]
        for heading, column in RATES.items():
            if any(row[column] is not None for _, rows in few for row in rows):
                spec = specs.lines(few, column, found.target(column))
                yield (
                    heading[0].upper() + heading[1:],
                    "Day by day, the largest campaigns" + specs.aim_said(found, column),
                    spec,
                )
    else:
        rates = RATES | {"contacts reached, of tried": "outbound_contact_rate"}
        yield from specs.rates(found, largest, rates, "By campaign", label)
    yield from waits.spread(found)


def _hours(found: "Report") -> Parts:
    several = found.asked.first < found.asked.last
    clocks = hours.clocks(found.rows, apart=not several)
    by_hour = _by(found.rows, clocks, lambda row: hours.called(clocks(row)))
    yield (
        "Calls by hour of the day",
        "What came of them" + (", all days together" if several else ""),
        specs.columns(*by_hour, OUTCOME_COLOURS),
    )
    if several:
        yield from hours.maps(found)
    else:
        yield from specs.rates(found, found.rows, RATES, "By hour", lambda row: hours.called(clocks(row)))
    yield from waits.spread(found)


def _agents(found: "Report") -> Parts:
    several = found.asked.first < found.asked.last
    largest = _largest(found.by_subject if several else found.rows, "calls")
    names = [*map(label, largest)]
    data = [
        _datum((place, names[place]), part, Decimal(row[column]) / 3600, f"{length(row[column])} {part}", order)
        for place, row in enumerate(largest)
        for order, (part, (column, _)) in enumerate(AGENT_TIMES.items())
        if row[column] is not None
    ]
    if any(each["value"] for each in data):
        colours = {part: colour for part, (_, colour) in AGENT_TIMES.items()}
        yield "Time at work", "By agent, in hours", specs.stacked(data, names, colours, "hours")
    panels: dict[str, tuple[str, ValueFormat]] = {
        "calls": ("calls", count),
        "minutes a call": ("aht_seconds", seconds),
        "occupancy": ("occupancy", share),
    }
    bars = {
        title: [(row[column] and row[column] / (60 if form is seconds else 1), form) for row in largest]
        for title, (column, form) in panels.items()
    }
    shown = {title: points for title, points in bars.items() if any(point[0] is not None for point in points)}
    aim = found.target("occupancy")
    yield (
        "Calls, handling and occupancy",
        "By agent; handling is "
        + (str(found.total["aht_of"]) if found.total and found.total["aht_of"] else "not known")
        + specs.aim_said(found, "occupancy"),
        specs.panels(shown, names, _AGENT_FORMATS, {} if aim is None else {"occupancy": aim}),
    )
    yield from _from_hour_to_hour(found, largest)
    if several:
        of = _days(found, "extension")
        days = sorted({row["day"] for each in largest for row in of[each["extension"]]})
        cells: list[specs.Cell] = [
            (place, days.index(row["day"]), row["calls"], count)
            for place, each in enumerate(largest)
            for row in of[each["extension"]]
        ]
        spec = specs.heat(cells, names, [*map(str, days)], specs.MANY, count)
        yield "Calls, by agent and day", "The darker, the more", spec


def _from_hour_to_hour(found: "Report", agents: Sequence["Row"]) -> Parts:
    """Nothing if nothing of them is known."""
    told = found.timeline
    if told is None or not (told.states or told.calls):
        return
    places = {row["extension"]: place for place, row in enumerate(agents)}
    rows = [*map(label, agents)]
    spans = [(each, places[each.extension]) for each in (*told.states, *told.calls)]
    data = [_span(each, rows[place]) | {"place": place} for each, place in spans]
    gaps = [_span(gap) for gap in told.gaps]
    yield *FROM_HOUR_TO_HOUR, specs.spans(rows, data, gaps, ON_A_TIMELINE, timeline.CALL, told.hours)


def _span(span: "Span", called: str = "") -> Datum:
    text = f"{called}: {span.text}" if called else span.text
    return {"part": span.part, "begin": span.begin, "end": span.end, "text": text}


def _reasons(found: "Report") -> Parts:
    names = [name(row["end_reason"]) for row in found.rows[:LONGEST]]
    data = []
    for place, row in enumerate(found.rows[:LONGEST]):
        answered = row["answered"]
        for order, (part, number) in enumerate((("answered", answered), ("not answered", row["calls"] - answered))):
            data.append(_datum((place, names[place]), part, number, f"{count(number)} {part}", order))
    yield (
        "Calls by reason",
        "How each ended, the most frequent first",
        specs.stacked(data, names, {"answered": GREEN, "not answered": GREY}, "calls"),
    )


_KINDS: dict[str, Callable[["Report"], Parts]] = {
    "campaign": _campaigns,
    "hours": _hours,
    "agent": _agents,
    "reasons": _reasons,
}


# -- data


def _largest(rows: Sequence["Row"], measure: str) -> list["Row"]:
    return sorted(rows, key=lambda row: -row[measure])[:LONGEST]


def _days(found: "Report", subject: str) -> "dict[str | None, list[Row]]":
    """The rows of each campaign or agent, by its reference."""
    days: dict[str | None, list[Row]] = {}
    for row in found.rows:
        days.setdefault(row[subject], []).append(row)
    return days


def _by(rows: Sequence["Row"], key: Callable[["Row"], Any], called: Callable[["Row"], str]) -> Named:
    """Sums of the outcomes of rows with the same key, in its order."""
    sums: dict[Any, tuple[str, dict[str, int]]] = {}
    columns = ("attempts", "answered", *(column for column, _ in OUTCOMES.values()))
    for row in sorted(rows, key=key):
        _, into = sums.setdefault(key(row), (called(row), dict.fromkeys(columns, 0)))
        for column in columns:
            into[column] += row[column]
    return _outcomes([*sums.values()])


def _outcomes(named: Sequence[tuple[str, "Row"]]) -> Named:
    data = []
    for place, (called, row) in enumerate(named):
        parts = {part: row[column] for part, (column, _) in OUTCOMES.items()}
        parts[OTHER] = max(0, row["attempts"] - sum(parts.values()))
        for order, (part, number) in enumerate(parts.items()):
            # No percentage: those that came in may be among them.
            data.append(
                _datum(
                    (place, called), part, number, f"{count(number)} {part}, of {count(row['attempts'])} calls", order
                )
            )
    return data, [called for called, _ in named]


def _datum(at: tuple[int, str], part: str, number: Decimal | int, text: str, order: int) -> Datum:
    place, called = at
    return {"place": place, "part": part, "value": float(number), "text": f"{called}: {text}", "order": order}
