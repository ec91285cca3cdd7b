"""Reads a workbook as its format says, out of the zip's XML: it shares nothing with who wrote it."""

import io
import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET
from zipfile import ZipFile

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_EPOCH = datetime(1899, 12, 30)
_BUILT_IN = {0: "General", 46: "[h]:mm:ss", 49: "@"}
DURATION, SHARE = "[h]:mm:ss", "0.0%"


@dataclass
class Sheet:
    """Cells by row and column, from 0; those that aren't there are empty. Times have no zone, durations are seconds."""

    cells: dict[tuple[int, int], Any] = field(default_factory=dict)
    formats: dict[tuple[int, int], str] = field(default_factory=dict)
    bold: set[tuple[int, int]] = field(default_factory=set)
    xml: str = ""

    def table(self) -> list[dict[str, Any]]:
        """The rows by the names above them."""
        names = {column: text for (row, column), text in self.cells.items() if row == 0}
        last = max((row for row, _ in self.cells), default=0)
        return [{name: self.cells.get((row, at)) for at, name in names.items()} for row in range(1, last + 1)]


def read(content: bytes) -> dict[str, Sheet]:
    """By name, in their order."""
    with ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        parts = {name: archive.read(name) for name in archive.namelist()}
    trees = {name: ET.fromstring(part) for name, part in parts.items() if name.endswith((".xml", ".rels"))}
    texts = [_text(each) for each in trees["xl/sharedStrings.xml"].iter(f"{_MAIN}si")]
    styles = [*_styles(trees["xl/styles.xml"])]
    targets = {each.get("Id"): each.get("Target") for each in trees["xl/_rels/workbook.xml.rels"]}
    found = {}
    for sheet in trees["xl/workbook.xml"].iter(f"{_MAIN}sheet"):
        name = f"xl/{targets[sheet.get(_RELATION)]}"
        found[str(sheet.get("name"))] = _sheet(trees[name], parts[name].decode(), texts, styles)
    return found


def _sheet(tree: ET.Element, xml: str, texts: list[str], styles: list[tuple[str, bool]]) -> Sheet:
    sheet = Sheet(xml=xml)
    for cell in tree.iter(f"{_MAIN}c"):
        place = _place(str(cell.get("r")))
        assert [child.tag for child in cell] == [f"{_MAIN}v"], "a value, and no formula"
        value = str(cell[0].text)
        code, is_bold = styles[int(cell.get("s", "0"))]
        sheet.formats[place] = code
        sheet.bold |= {place} if is_bold else set()
        assert cell.get("t") in (None, "s")
        sheet.cells[place] = texts[int(value)] if cell.get("t") == "s" else _number(float(value), code)
    return sheet


def _number(value: float, code: str) -> object:
    if code == DURATION:
        return round(value * 86_400, 3)
    if not code.startswith("yyyy"):
        return value
    moment = _EPOCH + timedelta(seconds=round(value * 86_400))
    return moment if "hh" in code else date(moment.year, moment.month, moment.day)


def _text(item: ET.Element) -> str:
    runs = "".join(each.text or "" for each in item.iter(f"{_MAIN}t"))
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), runs)


def _styles(tree: ET.Element) -> list[tuple[str, bool]]:
    codes = {int(str(each.get("numFmtId"))): str(each.get("formatCode")) for each in tree.iter(f"{_MAIN}numFmt")}
    fonts = [font.find(f"{_MAIN}b") is not None for font in tree.iter(f"{_MAIN}font")]
    (cells,) = tree.iter(f"{_MAIN}cellXfs")
    return [
        ((_BUILT_IN | codes)[int(str(each.get("numFmtId")))], fonts[int(str(each.get("fontId")))]) for each in cells
    ]


def _place(name: str) -> tuple[int, int]:
    letters, digits = re.fullmatch("([A-Z]+)([0-9]+)", name).groups()  # type: ignore[union-attr]
    column = 0
    for letter in letters:
        column = 26 * column + ord(letter) - ord("A") + 1
    return int(digits) - 1, column - 1
