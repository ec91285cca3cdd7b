"""Draws a chart by Vega-Lite into SVG that needs no script: it opens in a mail, on paper, and for a screen reader: each
mark has a description, which is its tooltip too.
"""

import json
import re
import xml.etree.ElementTree as ET

from etl.errors import ConfigurationError
from etl.reporting.specs import PATTERNS, Spec

_SVG = "http://www.w3.org/2000/svg"
_BEYOND = re.compile("[\U00010000-\U0010ffff]")
CONFIG: Spec = {
    "font": "Arial, Helvetica, sans-serif",
    "background": "transparent",
    "padding": {"left": 48, "right": 16, "top": 4, "bottom": 4},  # the browser's letters may be wider than measured
    "view": {"stroke": None},
    "axis": {"labelColor": "#44515e", "titleColor": "#44515e", "titleFontWeight": "normal", "labelFontSize": 12,
             "titleFontSize": 12, "gridColor": "#e6eaee", "domainColor": "#9aa6b2", "tickColor": "#9aa6b2",
             "labelLimit": 200},
    "legend": {"labelColor": "#2b3640", "labelFontSize": 12, "title": None, "orient": "top", "symbolType": "square",
               "columns": 7, "columnPadding": 28, "labelLimit": 240},
    "header": {"labelColor": "#2b3640", "labelFontSize": 13, "labelFontWeight": "bold", "title": None},
}  # fmt: skip
# For a telephone: the letters have the same size, and names have less room.
NARROW: Spec = {
    **CONFIG,
    "padding": {"left": 20, "right": 14, "top": 4, "bottom": 4},
    "axis": {**CONFIG["axis"], "labelLimit": 96},
    "legend": {**CONFIG["legend"], "columns": 2, "columnPadding": 12, "labelLimit": 110},
}


def can_draw() -> bool:
    """Whether the library that draws is installed."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def drawn(spec: Spec, config: Spec, heading: str, ids: str) -> str:
    """SVG. Its own names begin with `ids`, so that none is another chart's, which may not be shown.

    Raises `ConfigurationError` if the library that draws isn't installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise ConfigurationError(
            "ETL-005",
            "charts need one more library: the extra `report`, which is pip install 'vl-convert-python>=1.9,<2'",
        ) from None
    # Where it shortens a name, the library cuts what takes two units of UTF-16 in halves, and ends with an error.
    plain = json.loads(_BEYOND.sub("\ufffd", json.dumps({**spec, "config": config}, ensure_ascii=False)))
    # The library may not fetch anything.
    text = vl_convert.vegalite_to_svg(plain, allowed_base_urls=[])
    ET.register_namespace("", _SVG)
    root = ET.fromstring(text)  # noqa: S314  # the library's own
    root.set("role", "graphics-document")
    root.set("aria-label", heading)
    for element in root.iter():
        for name, value in element.items():
            element.set(name, f"{ids}-{value}" if name == "id" else value.replace("url(#", f"url(#{ids}-"))
        if element.get("role") == "graphics-symbol" and element.get("aria-roledescription") not in ("axis", "legend"):
            ET.SubElement(element, f"{{{_SVG}}}title").text = element.get("aria-label")
    _pattern(root, ids)
    return ET.tostring(root, encoding="unicode")


def _pattern(root: ET.Element, ids: str) -> None:
    """Colours that have a pattern are drawn with it, in the legend too."""
    used = {}
    for element in root.iter():
        if (strokes := PATTERNS.get(colour := element.get("fill", ""))) and element.get("opacity") != "0":
            used[colour] = strokes
            element.set("fill", f"url(#{_name(ids, colour)})")
    defined = ET.Element(f"{{{_SVG}}}defs")
    for colour, strokes in used.items():
        size = {"width": "8", "height": "8"}
        pattern = ET.SubElement(
            defined, f"{{{_SVG}}}pattern", {"id": _name(ids, colour), "patternUnits": "userSpaceOnUse", **size}
        )
        ET.SubElement(pattern, f"{{{_SVG}}}rect", {"fill": colour, **size})
        ET.SubElement(pattern, f"{{{_SVG}}}path", {"d": strokes, "stroke": "#ffffff", "stroke-width": "1.2"})
    root.insert(0, defined)


def _name(ids: str, colour: str) -> str:
    return f"{ids}-{colour.removeprefix('#')}"
