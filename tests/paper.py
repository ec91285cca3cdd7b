"""What a page's tables say, and what of them is on paper: the PDF of a real Chromium, read by poppler's pdftotext."""

import re
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from tests.tools import tool

# A page never waits for another program here: a machine on which others work is slow.
SECONDS = 280
_WORDS = "{http://www.w3.org/1999/xhtml}"


class Word(NamedTuple):
    """Where it is, in points from the page's upper left corner."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


class Sheet(NamedTuple):
    """A page of the PDF; its text is in the order in which it was drawn."""

    width: float
    height: float
    words: list[Word]
    text: str

    @property
    def tight(self) -> str:
        """Without spaces: a line may be broken anywhere."""
        return tight(self.text)


def tight(text: str) -> str:
    return re.sub(r"\s+", "", text)


def sheets(options: list[str], page: Path) -> list[Sheet]:
    """Prints it as a browser would that adds nothing of its own. `options` are Chromium's."""
    pdftotext, pdf = tool("pdftotext"), page.with_suffix(".pdf")
    command = [*options, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)

    def read(option: str) -> str:
        command = [pdftotext, option, "-enc", "UTF-8", str(pdf), "-"]
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout.decode()

    texts = read("-raw").split("\f")[:-1]
    # What XML can't hold is in no name here: names are escaped before they reach a page.
    found = ET.fromstring(read("-bbox")).findall(f".//{_WORDS}page")
    return [
        Sheet(float(each.attrib["width"]), float(each.attrib["height"]), _words(each), text)
        for each, text in zip(found, texts, strict=True)
    ]


def _words(page: ET.Element) -> list[Word]:
    return [
        Word(word.text or "", *(float(word.attrib[name]) for name in ("xMin", "yMin", "xMax", "yMax")))
        for word in page.iter(f"{_WORDS}word")
    ]


class Tables(HTMLParser):
    """The tables of a page: `found` has for each its heads and its rows, cell by cell."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[list[str], list[list[str]]]] = []
        self._cell: str | None = None
        self._heads = False
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.found.append(([], []))
        elif tag in ("thead", "tbody"):
            self._heads = tag == "thead"
        elif tag == "tr" and not self._heads:
            self.found[-1][1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            (self.found[-1][0] if self._heads else self.found[-1][1][-1]).append(self._cell)
            self._cell = None
