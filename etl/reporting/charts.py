"""A report's charts, drawn by Vega-Lite into SVG that needs no script: it opens in a mail, on paper, and for a screen
reader: every mark has a description, which is its tooltip too.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.errors import ConfigurationError
from etl.reporting.shown import count, hour, length, name, seconds, share

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

Spec = dict[str, Any]
Datum = dict[str, Any]
ValueFormat = Callable[[Any], str]  # a value → its text

PLOT_WIDTH = 940  # of a chart's plot, in pixels
LONGEST = 30  # most names in a chart, the largest first; the table has all
FEW = 10  # calls: a rate of fewer means nothing
APART: Spec = {"labelOverlap": "parity", "labelSeparation": 6}  # labels that would touch are left out
LINES = 6  # most campaigns whose lines can be distinguished

_SVG = "http://www.w3.org/2000/svg"
# Distinguishable also for those who don't see red and green alike.
GREEN, BLUE, AMBER, VIOLET, RED = "#1b7f79", "#2f6db3", "#e0912f", "#7b68a6", "#c0453b"
GREY, LIGHT, PALE = "#8a97a6", "#bcc6d0", "#e3e7eb"
OUTCOMES = {
    "agent": ("reached_agent", GREEN),
    "answered, no agent": ("abandoned", AMBER),
    "no answer": ("no_answer", GREY),
    "busy": ("busy", LIGHT),
    "rejected": ("rejected", VIOLET),
    "failed": ("failed", RED),
}
OTHER = "other"
RATES = {"answered, of attempts": "answer_seizure_ratio", "no agent, of answered": "abandon_rate"}
AGENT_TIMES = {
    "busy": ("busy_seconds", GREEN),
    "wrap-up": ("wrapup_seconds", BLUE),
    "available": ("available_seconds", LIGHT),
}
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


Parts = Iterator[tuple[str, str, Spec]]


def _campaigns(found: "Report") -> Parts:
    several = found.asked.first < found.asked.last
    largest = _largest(found.by_subject if several else found.rows, "attempts")
    if several:
        yield (
            "Calls a day",
            "What came of them, all campaigns together",
            _columns(_by(found.rows, "day", lambda row: str(row["day"])), _day_axis()),
        )
    yield (
        "What came of the calls",
        "By campaign. Answered by a machine counts as answered, and mostly has no agent",
        _stacked(_outcomes((name(row["campaign_ref"]), row) for row in largest), _OUTCOME_COLOURS, "calls"),
    )
    if several:
        few = [row["campaign_ref"] for row in largest[:LINES]]
        rows = [row for row in found.rows if row["campaign_ref"] in few]
        for heading, column in RATES.items():
            yield heading.capitalize(), "Day by day, the largest campaigns", _lines(rows, column, [*map(name, few)])
    else:
        rates = RATES | {"contacts reached, of contacts": "contact_rate"}
        yield "Rates", "By campaign", _rates(largest, rates, lambda row: name(row["campaign_ref"]))


def _hours(found: "Report") -> Parts:
    by_hour = _by(found.rows, "hour", lambda row: hour(row["hour"], found))
    several = found.asked.first < found.asked.last
    yield (
        "Calls by hour of the day",
        "What came of them" + (", all days together" if several else ""),
        _columns(by_hour, {"title": None, "labelAngle": 0, **APART}),
    )
    if several:
        busy = [row for row in found.rows if row["attempts"] >= FEW]
        for heading, caption, column, form, rows in (
            ("Calls, by day and hour", "The darker, the more", "attempts", count, found.rows),
            (
                "Answered of attempts, by day and hour",
                f"The darker, the more. Hours of fewer than {FEW} calls are left white",
                "answer_seizure_ratio",
                share,
                busy,
            ),
        ):
            cells = [(f"{row['day']:%a} {row['day']}", hour(row["hour"], found), row[column], form) for row in rows]
            yield heading, caption, _heat(cells, "%" if form is share else ",d")
    else:
        yield "Rates", "By hour", _rates(found.rows, RATES, lambda row: hour(row["hour"], found))


def _agents(found: "Report") -> Parts:
    several = found.asked.first < found.asked.last
    largest = _largest(found.by_subject if several else found.rows, "calls")
    data = [
        _datum(name(row["extension"]), part, Decimal(row[column]) / 3600, f"{length(row[column])} {part}", order)
        for row in largest
        for order, (part, (column, _)) in enumerate(AGENT_TIMES.items())
    ]
    if any(each["value"] for each in data):
        colours = {part: colour for part, (_, colour) in AGENT_TIMES.items()}
        yield "Time at work", "By agent, in hours", _stacked(data, colours, "hours")
    panels: dict[str, tuple[str, ValueFormat]] = {
        "calls": ("calls", count),
        "minutes a call": ("average_handle_seconds", seconds),
        "occupancy": ("occupancy", share),
    }
    bars = {
        title: [
            (name(row["extension"]), row[column] and row[column] / (60 if form is seconds else 1), form)
            for row in largest
        ]
        for title, (column, form) in panels.items()
    }
    shown = {title: points for title, points in bars.items() if any(point[1] is not None for point in points)}
    yield (
        "Calls, handling and occupancy",
        "By agent",
        _panels(shown, {"calls": ",d", "minutes a call": ".1f", "occupancy": "%"}),
    )
    if several:
        days: dict[str, list[Row]] = {}
        for row in found.rows:
            days.setdefault(row["extension"], []).append(row)
        cells = [
            (name(each["extension"]), str(row["day"]), row["calls"], count)
            for each in largest
            for row in days[each["extension"]]
        ]
        yield "Calls, by agent and day", "The darker, the more", _heat(cells, ",d")


def _reasons(found: "Report") -> Parts:
    total = found.total["calls"] if found.total else 0
    data = []
    for row in found.rows[:LONGEST]:
        answered = row["answered"]
        for order, (part, number) in enumerate((("answered", answered), ("not answered", row["calls"] - answered))):
            text = f"{count(number)} {part}, {share(Decimal(number) / total)} of all calls"
            data.append(_datum(name(row["end_reason"]), part, number, text, order))
    yield (
        "Calls by reason",
        "How each ended, the most frequent first",
        _stacked(data, {"answered": GREEN, "not answered": GREY}, "calls"),
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
            of = f", {share(Decimal(number) / row['attempts'])} of {count(row['attempts'])}" if row["attempts"] else ""
            data.append(_datum(called, part, number, f"{count(number)} {part}{of}", order))
    return data


def _datum(called: str, part: str, number: Decimal | int, text: str, order: int) -> Datum:
    return {"name": called, "part": part, "value": float(number), "text": f"{called}: {text}", "order": order}


# -- specifications

_OUTCOME_COLOURS = {part: colour for part, (_, colour) in OUTCOMES.items()} | {OTHER: PALE}
_DESCRIPTION: Spec = {"field": "text", "type": "nominal"}


def _stacked(data: list[Datum], colours: dict[str, str], unit: str) -> Spec:
    """Bars from left to right, one for each name."""
    return {
        "data": {"values": _without_nothing(data)},
        "width": PLOT_WIDTH,
        "height": {"step": 26},
        "mark": {"type": "bar"},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": _names(data), "title": None,
                  "scale": {"domain": _names(data)}},
            "x": {"field": "value", "type": "quantitative", "title": unit, "axis": {"tickCount": 8}},
            "color": _colours(data, colours),
            "order": {"field": "order", "type": "quantitative"},
            "description": _DESCRIPTION,
        },
    }  # fmt: skip


def _columns(data: list[Datum], axis: Spec) -> Spec:
    """Bars upward: time goes from left to right."""
    return {
        "data": {"values": _without_nothing(data)},
        "width": PLOT_WIDTH,
        "height": 240,
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "name", "type": "ordinal", "sort": _names(data), "axis": axis,
                  "scale": {"domain": _names(data)}},
            "y": {"field": "value", "type": "quantitative", "title": "calls"},
            "color": _colours(data, _OUTCOME_COLOURS),
            "order": {"field": "order", "type": "quantitative"},
            "description": _DESCRIPTION,
        },
    }  # fmt: skip


def _lines(rows: list["Row"], column: str, names: list[str]) -> Spec:
    data = [
        {"day": str(row["day"]), "name": name(row["campaign_ref"]), "value": float(row[column]),
         "text": f"{name(row['campaign_ref'])}, {row['day']}: {share(row[column])}"}
        for row in rows if row[column] is not None
    ]  # fmt: skip
    x = {"field": "day", "type": "temporal", "axis": {"title": None, "format": "%a %d %b", "tickCount": "day",
         **APART}}  # fmt: skip
    y = {"field": "value", "type": "quantitative", "axis": {"format": "%", "title": None}}
    color = {"field": "name", "type": "nominal", "scale": {"domain": names, "scheme": "tableau10"}}
    marks: list[Spec] = [
        {"mark": {"type": "line", "aria": False}},
        {
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
            "encoding": {"description": _DESCRIPTION},
        },
    ]
    return {
        "data": {"values": data},
        "width": PLOT_WIDTH,
        "height": 200,
        "encoding": {"x": x, "y": y, "color": color},
        "layer": marks,
    }


def _panels(bars: Mapping[str, Sequence[tuple[str, Any, ValueFormat]]], formats: dict[str, str]) -> Spec:
    """Side by side, the names on the left only."""
    narrow = PLOT_WIDTH // len(bars) - 24
    panels = []
    for index, (heading, points) in enumerate(bars.items()):
        data = [
            {"name": called, "value": float(number),
             "text": f"{called}: {form(number * 60 if form is seconds else number)} {heading}"}
            for called, number, form in points if number is not None
        ]  # fmt: skip
        names = [*dict.fromkeys(called for called, _, _ in points)]
        axis = {"title": None} if index == 0 else None
        panels.append(
            {
                "data": {"values": data},
                "title": {"text": heading, "anchor": "start", "fontSize": 13, "color": "#2b3640"},
                "width": narrow,
                "height": {"step": 22},
                "mark": {"type": "bar", "color": BLUE},
                "encoding": {
                    "y": {"field": "name", "type": "nominal", "sort": names, "scale": {"domain": names}, "axis": axis},
                    "x": {"field": "value", "type": "quantitative",
                          "axis": {"title": None, "format": formats[heading], "tickCount": 4, **APART}},
                    "description": _DESCRIPTION,
                },
            }
        )  # fmt: skip
    return {"hconcat": panels, "spacing": 20}


def _rates(rows: Sequence["Row"], rates: dict[str, str], called: Callable[["Row"], str]) -> Spec:
    bars = {title: [(called(row), row[column], share) for row in rows] for title, column in rates.items()}
    return _panels(bars, dict.fromkeys(rates, "%"))


def _heat(cells: Sequence[tuple[str, str, Any, ValueFormat]], legend: str) -> Spec:
    data = [
        {"y": y, "x": x, "value": float(number), "text": f"{y}, {x}: {form(number)}"}
        for y, x, number, form in cells if number is not None
    ]  # fmt: skip
    across = sorted({x for _, x, _, _ in cells})
    down = [*dict.fromkeys(y for y, _, _, _ in cells)]
    return {
        "data": {"values": data},
        "width": PLOT_WIDTH,
        "height": {"step": 22},
        "mark": {"type": "rect", "stroke": "white"},
        "encoding": {
            "x": {"field": "x", "type": "ordinal", "sort": across, "axis": {"title": None, "labelAngle": 0,
                  **APART}},
            "y": {"field": "y", "type": "ordinal", "sort": down, "axis": {"title": None}},
            "color": {"field": "value", "type": "quantitative", "scale": {"scheme": "teals", "zero": True},
                      "legend": {"format": legend, "orient": "right", "columns": 1}},
            "description": _DESCRIPTION,
        },
    }  # fmt: skip


def _day_axis() -> Spec:
    return {"title": None, "labelAngle": 0, **APART}


def _colours(data: list[Datum], colours: dict[str, str]) -> Spec:
    there = {each["part"] for each in _without_nothing(data)}
    shown = {part: colour for part, colour in colours.items() if part in there}
    return {"field": "part", "type": "nominal", "scale": {"domain": [*shown], "range": [*shown.values()]}}


def _without_nothing(data: list[Datum]) -> list[Datum]:
    return [each for each in data if each["value"]]


def _names(data: list[Datum]) -> list[str]:
    return [*dict.fromkeys(each["name"] for each in data)]
