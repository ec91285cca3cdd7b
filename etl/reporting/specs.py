"""What a report's charts are in Vega-Lite: bars, columns, lines, panels and heat maps, of data with a place, a value
and a text each. Which charts a report has is in `charts`.

A place is a number: of a row, a column or a line, among those of its chart. What it's called is beside it and nothing
more, since two may be called the same.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from etl.reporting.shown import seconds, share

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

Spec = dict[str, Any]
Datum = dict[str, Any]
ValueFormat = Callable[[Any], str]  # a value → its text
Cell = tuple[int, int, Any, ValueFormat]  # of a heat map: its places down and across, and its value

Parts = Iterator[tuple[str, str, Spec]]

PLOT_WIDTH = 860  # of a chart's plot, in pixels
NARROW_WIDTH = 205  # of one on a screen of 400 pixels, beside its names
SLANTING = 10  # so many names of columns fit below a narrow chart
APART: Spec = {"labelOverlap": "parity", "labelSeparation": 6}  # labels that would touch are left out
# Each stands out from paper, by 3 to 1 as WCAG asks of graphics; whoever doesn't see colours, or has them printed grey,
# tells them apart by their patterns.
GREEN, BLUE, AMBER, VIOLET, RED = "#1b7f79", "#2f6db3", "#b06a0c", "#7b68a6", "#b23a30"
GREY, LIGHT, PALE = "#66727f", "#75889b", "#8a8f96"
BLACK, UNHEARD = "#000000", "#59636e"  # of calls on a timeline, and of when nobody listened
# Colour → the strokes that are drawn on it in white, in a square of 8 by 8. GREEN and BLUE have none.
PATTERNS = {
    AMBER: "M0 8L8 0M-2 2L2 -2M6 10L10 6",
    VIOLET: "M0 0L8 8M-2 6L2 10M6 -2L10 2",
    RED: "M0 0L8 8M0 8L8 0",
    GREY: "M0 4H8",
    LIGHT: "M4 0V8",
    PALE: "M2 2H3M6 6H7",
    UNHEARD: "M0 8L8 0M-2 2L2 -2M6 10L10 6M-1 8L8 -1M0 9L9 0M-2 3L3 -2M-2 1L1 -2M6 9L9 6M7 10L10 7M-1 7L7 -1M1 9L9 1",
}
# From few to many: of numbers, and of shares, which have a scale of their own.
MANY, SHARES = ("#e3f1f0", "#0a4f4a"), ("#fcefdb", "#6b3a06")
COLOURS_OF_LINES = [GREEN, AMBER, BLUE, RED, VIOLET, GREY]
# Of lines, which cross: their points and strokes differ, too.
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [12, 3], [1, 3]]
_DESCRIPTION: Spec = {"field": "text", "type": "nominal"}


def stacked(data: list[Datum], names: Sequence[str], colours: dict[str, str], unit: str) -> Spec:
    """Bars from left to right, one for each name."""
    return {
        "data": {"values": _without_nothing(data)},
        "width": PLOT_WIDTH,
        "height": {"step": 26},
        "mark": {"type": "bar", "stroke": "white", "strokeWidth": 1},
        "encoding": {
            "y": {**_placed("nominal", names), "axis": _called(names)},
            "x": {"field": "value", "type": "quantitative", "title": unit, "axis": {"tickCount": 8}},
            "color": _colours(data, colours),
            "order": {"field": "order", "type": "quantitative"},
            "description": _DESCRIPTION,
        },
    }  # fmt: skip


def columns(data: list[Datum], names: Sequence[str], colours: dict[str, str]) -> Spec:
    """Bars upward: time goes from left to right."""
    return {
        "data": {"values": _without_nothing(data)},
        "width": PLOT_WIDTH,
        "height": 240,
        "mark": {"type": "bar", "stroke": "white", "strokeWidth": 1},
        "encoding": {
            "x": {**_placed("ordinal", names), "axis": {**_called(names), "labelAngle": 0, **APART}},
            "y": {"field": "value", "type": "quantitative", "title": "calls"},
            "color": _colours(data, colours),
            "order": {"field": "order", "type": "quantitative"},
            "description": _DESCRIPTION,
        },
    }  # fmt: skip


def lines(of: Sequence[tuple[str, Sequence["Row"]]], column: str, aim: Decimal | None) -> Spec:
    """One for each name, of its days."""
    data = [
        {"day": str(row["day"]), "place": place, "value": float(row[column]),
         "text": f"{called}, {row['day']}: {share(row[column])}"}
        for place, (called, rows) in enumerate(of) for row in rows if row[column] is not None
    ]  # fmt: skip
    names = [called for called, _ in of]
    x = {"field": "day", "type": "temporal", "axis": {"title": None, "format": "%a %d %b", "tickCount": "day",
         **APART}}  # fmt: skip
    y = {"field": "value", "type": "quantitative", "axis": {"format": "%", "title": None}}
    color, shape, dash = (_told_by(looks, names) for looks in (COLOURS_OF_LINES, SHAPES, DASHES))
    marks: list[Spec] = [
        {"mark": {"type": "line", "aria": False}, "encoding": {"strokeDash": dash}},
        {
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
            "encoding": {"description": _DESCRIPTION, "shape": shape},
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
    bars: Mapping[str, Sequence[tuple[Any, ValueFormat]]],
    names: Sequence[str],
    formats: dict[str, str],
    aims: Mapping[str, Decimal],
) -> Spec:
    """Side by side, each with a bar for each name, the names on the left only; with a line at the target of each that
    has one."""
    narrow = PLOT_WIDTH // len(bars) - 24
    panels = []
    for index, (heading, points) in enumerate(bars.items()):
        data = [
            {"place": place, "value": float(number),
             "text": f"{names[place]}: {form(number * 60 if form is seconds else number)} {heading}"}
            for place, (number, form) in enumerate(points) if number is not None
        ]  # fmt: skip
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
                            "y": {**_placed("nominal", names), "axis": _called(names) if index == 0 else None},
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
    bars = {title: [(row[column], share) for row in rows] for title, column in told.items()}
    aims = {title: aim for title, column in told.items() if (aim := found.target(column)) is not None}
    if bars:
        spec = panels(bars, [*map(called, rows)], dict.fromkeys(told, "%"), aims)
        yield "Rates", caption + aim_said(found, *told.values()), spec


def heat(
    cells: Sequence[Cell], down: Sequence[str], across: Sequence[str], colours: tuple[str, str], brief: ValueFormat
) -> Spec:
    """What isn't known has no cell. Numbers are from 0 up; shares have the whole scale for what there is of them.

    `down` and `across` are what rows and columns are called; `brief` is the text in a cell, if all have room for it.
    """
    told = [cell for cell in cells if cell[2] is not None]
    most = max(float(number) for _, _, number, _ in told)
    least = min(float(number) for _, _, number, _ in told) if colours == SHARES else 0.0
    domain = [least, most] if most > least else [0.0, most or 1.0]
    data: list[Datum] = [
        {"place": y, "x": x, "value": float(number), "text": f"{down[y]}, {across[x]}: {form(number)}",
         "brief": brief(number),
         "ink": ink(_between(colours, (float(number) - domain[0]) / (domain[1] - domain[0])))}
        for y, x, number, form in told
    ]  # fmt: skip
    legend = {"format": "%" if colours == SHARES else ",d", "orient": "right", "columns": 1, "tickCount": 4}
    cell: Spec = {
        "mark": {"type": "rect", "stroke": "white"},
        "encoding": {
            "color": {"field": "value", "type": "quantitative", "scale": {"range": [*colours], "domain": domain},
                      "legend": legend},
            "description": _DESCRIPTION,
        },
    }  # fmt: skip
    fits = max(len(each["brief"]) for each in data) * 8 <= PLOT_WIDTH / len(across)
    said: Spec = {
        "mark": {"type": "text", "fontSize": 12, "aria": False},
        "encoding": {"text": {"field": "brief"}, "color": {"field": "ink", "type": "nominal", "scale": None}},
    }
    return {
        "data": {"values": data},
        "width": PLOT_WIDTH,
        "height": {"step": 22},
        "encoding": {
            "x": {**_placed("ordinal", across, "x"), "axis": {**_called(across), "labelAngle": 0, **APART}},
            "y": {**_placed("ordinal", down), "axis": _called(down)},
        },
        "layer": [cell, said] if fits else [cell],
        "resolve": {"scale": {"color": "independent"}},  # the letters' colours have none
    }


def _between(colours: tuple[str, str], part: float) -> str:
    """As the scale has it: each channel in proportion."""
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours]
    return "#" + "".join(f"{round(low + (high - low) * part):02x}" for low, high in zip(*ends, strict=True))


def ink(colour: str) -> str:
    """Black or white, whichever can be read on it."""
    return max(("#000000", "#ffffff"), key=lambda letters: contrast(letters, colour))


def contrast(one: str, other: str) -> float:
    """From 1 to 21, as WCAG 2.2 has it. Colours are written #rrggbb."""
    lights = []
    for colour in (one, other):
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def spans(
    names: list[str], data: list[Datum], gaps: list[Datum], colours: dict[str, str], call: str, hours: float
) -> Spec:
    """From left to right over the day; gaps are behind all rows, and calls are thin, before the states."""
    x = {"field": "begin", "type": "quantitative", "title": "hours",
         "scale": {"domain": [0, hours], "nice": False}, "axis": {"tickCount": 12, **APART}}  # fmt: skip
    y = {**_placed("nominal", names), "axis": _called(names)}
    base = {"x": x, "x2": {"field": "end"}, "color": _colours_of([*data, *gaps], colours), "description": _DESCRIPTION}
    states, calls = ([each for each in data if (each["part"] == call) == is_call] for is_call in (False, True))
    # A call of a second is seen, too.
    drawn = [
        ({"type": "rect"}, gaps, base),
        ({"type": "bar", "size": 16}, states, {**base, "y": y}),
        ({"type": "bar", "size": 5, "stroke": "black", "strokeWidth": 0.8}, calls, {**base, "y": y}),
    ]
    layers = [
        {"data": {"values": values}, "mark": mark, "encoding": encoding} for mark, values, encoding in drawn if values
    ]
    return {"width": PLOT_WIDTH, "height": {"step": 26}, "layer": layers}


def narrow(spec: Spec) -> Spec:
    """The same for a telephone: panels one below the other, each with its names, fewer ticks, and no text in cells."""
    if "hconcat" in spec:
        axis = spec["hconcat"][0]["layer"][0]["encoding"]["y"]["axis"]
        return {"vconcat": [narrow(_named(panel, axis)) for panel in spec["hconcat"]], "spacing": 20}
    made: Spec = {**_fewer_ticks(spec), "width": NARROW_WIDTH}
    if "layer" in made:
        layers = [each for each in made["layer"] if each["mark"]["type"] != "text"]
        made["layer"] = [_scale_above(_fewer_ticks(each)) for each in layers]
    return made


def _scale_above(layer: Spec) -> Spec:
    """A scale of colours is above the chart: there's no room beside it."""
    color = layer.get("encoding", {}).get("color", {})
    if (color.get("legend") or {}).get("orient") != "right":
        return layer
    legend = {**color["legend"], "orient": "top", "gradientLength": NARROW_WIDTH}
    return {**layer, "encoding": {**layer["encoding"], "color": {**color, "legend": legend}}}


def _named(panel: Spec, axis: Spec) -> Spec:
    """With the names at its left, which among panels side by side the first one only has."""
    first, *others = panel["layer"]
    y = {**first["encoding"]["y"], "axis": axis}
    return {**panel, "layer": [{**first, "encoding": {**first["encoding"], "y": y}}, *others]}


def _fewer_ticks(spec: Spec) -> Spec:
    """And names of a few columns slanting, so that none is left out."""
    encoding = dict(spec.get("encoding", {}))
    x = encoding.get("x", {})
    if x.get("type") == "quantitative" and x.get("axis"):
        encoding["x"] = {**x, "axis": {**x["axis"], "tickCount": 3, **APART}}
    elif x.get("type") == "ordinal" and len(x["scale"]["domain"]) <= SLANTING:
        encoding["x"] = {**x, "axis": {**x["axis"], "labelAngle": -50, "labelOverlap": False}}
    return {**spec, "encoding": encoding} if encoding else spec


def _placed(kind: str, names: Sequence[str], field: str = "place") -> Spec:
    """Where each is, the first one first, whether or not there's anything of it."""
    return {"field": field, "type": kind, "sort": None, "scale": {"domain": [*range(len(names))]}}


def _called(names: Sequence[str]) -> Spec:
    """Of an axis or a legend: what is written at each place, and said of all of them."""
    return {
        "title": None,
        "labelExpr": f"{json.dumps(names, ensure_ascii=False)}[datum.value]",
        "description": f"{len(names)} names: {', '.join(names)}",
    }


def _told_by(looks: Sequence[Any], names: Sequence[str]) -> Spec:
    """Of lines: how each one looks, with its name in the legend."""
    placed = _placed("nominal", names)
    return {**placed, "scale": {**placed["scale"], "range": [*looks][: len(names)]}, "legend": _called(names)}


def _colours(data: list[Datum], colours: dict[str, str]) -> Spec:
    return _colours_of(_without_nothing(data), colours)


def _colours_of(data: list[Datum], colours: dict[str, str]) -> Spec:
    there = {each["part"] for each in data}
    shown = {part: colour for part, colour in colours.items() if part in there}
    return {"field": "part", "type": "nominal", "scale": {"domain": [*shown], "range": [*shown.values()]}}


def _without_nothing(data: list[Datum]) -> list[Datum]:
    return [each for each in data if each["value"]]
