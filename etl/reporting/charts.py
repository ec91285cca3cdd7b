"""A report's charts, drawn by Vega-Lite into SVG that needs no script: it opens in a mail, on paper, and for a screen
reader: every mark has a description, which is its tooltip too.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from etl.errors import ConfigurationError
from etl.reporting import specs
from etl.reporting.shown import count, hour, label, length, name, seconds, share
from etl.reporting.specs import AMBER, BLUE, GREEN, GREY, LIGHT, PALE, RED, VIOLET, Datum, Parts, Spec, ValueFormat

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

LONGEST = 30  # most names in a chart, the largest first; the table has all
FEW = 10  # calls: a rate of fewer means nothing
LINES = 6  # most campaigns whose lines can be distinguished

_SVG = "http://www.w3.org/2000/svg"
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
    "wrap-up": ("wrapup_seconds", BLUE),
    "available": ("available_seconds", LIGHT),
}
_AGENT_FORMATS = {"calls": ",d", "minutes a call": ".1f", "occupancy": "%"}
CONFIG: Spec = {
    "font": "Arial, Helvetica, sans-serif",
    "background": "transparent",
    "padding": {"left": 24, "right": 8, "top": 4, "bottom": 4},  # the browser's letters may be wider than measured
    "view": {"stroke": None},
    "axis": {"labelColor": "#44515e", "titleColor": "#44515e", "titleFontWeight": "normal", "labelFontSize": 12,
             "titleFontSize": 12, "gridColor": "#e6eaee", "domainColor": "#9aa6b2", "tickColor": "#9aa6b2",
             "labelLimit": 240},
    "legend": {"labelColor": "#2b3640", "labelFontSize": 12, "title": None, "orient": "top", "symbolType": "square",
               "columns": 7, "columnPadding": 28, "labelLimit": 240},
    "header": {"labelColor": "#2b3640", "labelFontSize": 13, "labelFontWeight": "bold", "title": None},
}  # fmt: skip


class Chart(NamedTuple):
    heading: str
    caption: str
    svg: str


def charts(found: "Report") -> list[Chart]:
    """Raises `ConfigurationError` if the library that draws them isn't installed."""
    if not found.rows:
        return []
    return [
        Chart(heading, caption, _drawn(spec, heading)) for heading, caption, spec in _KINDS[found.asked.kind](found)
    ]


def _drawn(spec: Spec, heading: str) -> str:
    try:
        import vl_convert
    except ImportError:
        raise ConfigurationError(
            "ETL-005",
            "charts need one more library: the extra `report`, which is pip install 'vl-convert-python>=1.9,<2'",
        ) from None
    # The library may not fetch anything.
    text = vl_convert.vegalite_to_svg({**spec, "config": CONFIG}, allowed_base_urls=[])
    ET.register_namespace("", _SVG)
    root = ET.fromstring(text)  # noqa: S314  # the library's own
    root.set("role", "graphics-document")
    root.set("aria-label", heading)
    for element in root.iter():
        if element.get("role") == "graphics-symbol" and element.get("aria-roledescription") not in ("axis", "legend"):
            ET.SubElement(element, f"{{{_SVG}}}title").text = element.get("aria-label")
    return ET.tostring(root, encoding="unicode")


def _campaigns(found: "Report") -> Parts:
    several = found.asked.first < found.asked.last
    largest = _largest(found.by_subject if several else found.rows, "attempts")
    if several:
        yield (
            "Calls a day",
            "What came of them, all campaigns together",
            specs.columns(_by(found.rows, "day", lambda row: str(row["day"])), OUTCOME_COLOURS, specs.day_axis()),
        )
    yield (
        "What came of the calls",
        "By campaign. Answered by a machine counts as answered, and mostly has no agent",
        specs.stacked(_outcomes((label(row), row) for row in largest), OUTCOME_COLOURS, "calls"),
    )
    if several:
        few = [row["campaign_ref"] for row in largest[:LINES]]
        rows = [row for row in found.rows if row["campaign_ref"] in few]
        for heading, column in RATES.items():
            if any(row[column] is not None for row in rows):
                spec = specs.lines(rows, column, [*map(label, largest[:LINES])], found.target(column))
                yield (
                    heading[0].upper() + heading[1:],
                    "Day by day, the largest campaigns" + specs.aim_said(found, column),
                    spec,
                )
    else:
        rates = RATES | {"contacts reached, of tried": "outbound_contact_rate"}
        yield from specs.rates(found, largest, rates, "By campaign", label)


def _hours(found: "Report") -> Parts:
    by_hour = _by(found.rows, "hour", lambda row: hour(row["hour"], found))
    several = found.asked.first < found.asked.last
    yield (
        "Calls by hour of the day",
        "What came of them" + (", all days together" if several else ""),
        specs.columns(by_hour, OUTCOME_COLOURS, {"title": None, "labelAngle": 0, **specs.APART}),
    )
    if several:
        busy = [row for row in found.rows if (row["outbound_attempts"] or 0) >= FEW]
        for heading, caption, column, form, rows in (
            ("Calls, by day and hour", "The darker, the more", "attempts", count, found.rows),
            (
                "Answered of dialled, by day and hour",
                f"The darker, the more. Hours of fewer than {FEW} dialled calls are left white",
                "outbound_asr",
                share,
                busy,
            ),
        ):
            cells = [(f"{row['day']:%a} {row['day']}", hour(row["hour"], found), row[column], form) for row in rows]
            if any(cell[2] is not None for cell in cells):
                yield heading, caption, specs.heat(cells, "%" if form is share else ",d")
    else:
        yield from specs.rates(found, found.rows, RATES, "By hour", lambda row: hour(row["hour"], found))


def _agents(found: "Report") -> Parts:
    several = found.asked.first < found.asked.last
    largest = _largest(found.by_subject if several else found.rows, "calls")
    data = [
        _datum(label(row), part, Decimal(row[column]) / 3600, f"{length(row[column])} {part}", order)
        for row in largest
        for order, (part, (column, _)) in enumerate(AGENT_TIMES.items())
        if row[column] is not None
    ]
    if any(each["value"] for each in data):
        colours = {part: colour for part, (_, colour) in AGENT_TIMES.items()}
        yield "Time at work", "By agent, in hours", specs.stacked(data, colours, "hours")
    panels: dict[str, tuple[str, ValueFormat]] = {
        "calls": ("calls", count),
        "minutes a call": ("aht_seconds", seconds),
        "occupancy": ("occupancy", share),
    }
    bars = {
        title: [(label(row), row[column] and row[column] / (60 if form is seconds else 1), form) for row in largest]
        for title, (column, form) in panels.items()
    }
    shown = {title: points for title, points in bars.items() if any(point[1] is not None for point in points)}
    aim = found.target("occupancy")
    yield (
        "Calls, handling and occupancy",
        "By agent; handling is "
        + (str(found.total["aht_of"]) if found.total and found.total["aht_of"] else "not known")
        + specs.aim_said(found, "occupancy"),
        specs.panels(shown, _AGENT_FORMATS, {} if aim is None else {"occupancy": aim}),
    )
    if several:
        days: dict[str, list[Row]] = {}
        for row in found.rows:
            days.setdefault(row["extension"], []).append(row)
        cells = [
            (label(each), str(row["day"]), row["calls"], count) for each in largest for row in days[each["extension"]]
        ]
        yield "Calls, by agent and day", "The darker, the more", specs.heat(cells, ",d")


def _reasons(found: "Report") -> Parts:
    data = []
    for row in found.rows[:LONGEST]:
        answered = row["answered"]
        for order, (part, number) in enumerate((("answered", answered), ("not answered", row["calls"] - answered))):
            data.append(_datum(name(row["end_reason"]), part, number, f"{count(number)} {part}", order))
    yield (
        "Calls by reason",
        "How each ended, the most frequent first",
        specs.stacked(data, {"answered": GREEN, "not answered": GREY}, "calls"),
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


def _by(rows: Sequence["Row"], key: str, called: Callable[["Row"], str]) -> list[Datum]:
    """Sums of the outcomes of rows with the same name."""
    sums: dict[str, dict[str, int]] = {}
    columns = ("attempts", "answered", *(column for column, _ in OUTCOMES.values()))
    for row in sorted(rows, key=called):
        into = sums.setdefault(called(row), dict.fromkeys(columns, 0))
        for column in columns:
            into[column] += row[column]
    return _outcomes(sums.items())


def _outcomes(named: Iterable[tuple[str, "Row"]]) -> list[Datum]:
    data = []
    for called, row in named:
        parts = {part: row[column] for part, (column, _) in OUTCOMES.items()}
        parts[OTHER] = max(0, row["attempts"] - sum(parts.values()))
        for order, (part, number) in enumerate(parts.items()):
            # No percentage: those that came in may be among them.
            data.append(
                _datum(called, part, number, f"{count(number)} {part}, of {count(row['attempts'])} calls", order)
            )
    return data


def _datum(called: str, part: str, number: Decimal | int, text: str, order: int) -> Datum:
    return {"name": called, "part": part, "value": float(number), "text": f"{called}: {text}", "order": order}
