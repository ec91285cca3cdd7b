"""What a report's charts are in Vega-Lite: bars, columns, lines, panels and heat maps, of data with a name, a value and
a text each. Which charts a report has is in `charts`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from etl.reporting.shown import label, seconds, share

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

Spec = dict[str, Any]
Datum = dict[str, Any]
ValueFormat = Callable[[Any], str]  # a value → its text

Parts = Iterator[tuple[str, str, Spec]]

PLOT_WIDTH = 940  # of a chart's plot, in pixels
APART: Spec = {"labelOverlap": "parity", "labelSeparation": 6}  # labels that would touch are left out
# Distinguishable also for those who don't see red and green alike.
GREEN, BLUE, AMBER, VIOLET, RED = "#1b7f79", "#2f6db3", "#e0912f", "#7b68a6", "#c0453b"
GREY, LIGHT, PALE = "#8a97a6", "#bcc6d0", "#e3e7eb"
_DESCRIPTION: Spec = {"field": "text", "type": "nominal"}


def stacked(data: list[Datum], colours: dict[str, str], unit: str) -> Spec:
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


def columns(data: list[Datum], colours: dict[str, str], axis: Spec) -> Spec:
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
            "color": _colours(data, colours),
            "order": {"field": "order", "type": "quantitative"},
            "description": _DESCRIPTION,
        },
    }  # fmt: skip


def lines(rows: list["Row"], column: str, names: list[str], aim: Decimal | None) -> Spec:
    data = [
        {"day": str(row["day"]), "name": label(row), "value": float(row[column]),
         "text": f"{label(row)}, {row['day']}: {share(row[column])}"}
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
    base = {"x": x, "y": y, "color": color}
    layer = [{**mark, "encoding": {**base, **mark.get("encoding", {})}} for mark in marks]
    return {"data": {"values": data}, "width": PLOT_WIDTH, "height": 200, "layer": [*layer, *_mark(aim, "y")]}


def _mark(aim: Decimal | None, axis: str) -> list[Spec]:
    """A line where the target is, if there is one."""
    if aim is None:
        return []
    data = {"values": [{"target": float(aim), "text": f"target {share(aim)}"}]}
    where = {axis: {"field": "target", "type": "quantitative"}, "description": _DESCRIPTION}
    return [{"data": data, "mark": {"type": "rule", "color": RED, "strokeDash": [6, 4], "size": 2}, "encoding": where}]


def aim_said(found: "Report", *columns: str) -> str:
    """What the dashed lines are, for a caption."""
    aims = [found.target(column) for column in columns]
    return ". Dashed: the target, " + ", ".join(share(aim) for aim in aims if aim is not None) if any(aims) else ""


def panels(
    bars: Mapping[str, Sequence[tuple[str, Any, ValueFormat]]], formats: dict[str, str], aims: Mapping[str, Decimal]
) -> Spec:
    """Side by side, the names on the left only; with a line at the target of each that has one."""
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
                "title": {"text": heading, "anchor": "start", "fontSize": 13, "color": "#2b3640"},
                "width": narrow,
                "height": {"step": 22},
                "layer": [
                    {
                        "data": {"values": data},
                        "mark": {"type": "bar", "color": BLUE},
                        "encoding": {
                            "y": {"field": "name", "type": "nominal", "sort": names, "scale": {"domain": names},
                                  "axis": axis},
                            "x": {"field": "value", "type": "quantitative",
                                  "axis": {"title": None, "format": formats[heading], "tickCount": 4, **APART}},
                            "description": _DESCRIPTION,
                        },
                    },
                    *_mark(aims.get(heading), "x"),
                ],
            }
        )  # fmt: skip
    return {"hconcat": panels, "spacing": 20}


def rates(
    found: "Report", rows: Sequence["Row"], rates: dict[str, str], caption: str, called: Callable[["Row"], str]
) -> Parts:
    """Of those rates that any of the rows has; none if there are none."""
    told = {title: column for title, column in rates.items() if any(row[column] is not None for row in rows)}
    bars = {title: [(called(row), row[column], share) for row in rows] for title, column in told.items()}
    aims = {title: aim for title, column in told.items() if (aim := found.target(column)) is not None}
    if bars:
        yield "Rates", caption + aim_said(found, *told.values()), panels(bars, dict.fromkeys(told, "%"), aims)


def heat(cells: Sequence[tuple[str, str, Any, ValueFormat]], legend: str) -> Spec:
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


def day_axis() -> Spec:
    return {"title": None, "labelAngle": 0, **APART}


def _colours(data: list[Datum], colours: dict[str, str]) -> Spec:
    there = {each["part"] for each in _without_nothing(data)}
    shown = {part: colour for part, colour in colours.items() if part in there}
    return {"field": "part", "type": "nominal", "scale": {"domain": [*shown], "range": [*shown.values()]}}


def _without_nothing(data: list[Datum]) -> list[Datum]:
    return [each for each in data if each["value"]]


def _names(data: list[Datum]) -> list[str]:
    return [*dict.fromkeys(each["name"] for each in data)]
