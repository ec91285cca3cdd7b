"""A report as a workbook for Excel and its like: a sheet with the rows, as in CSV, and one that says what they are of.

Excel has no time zones: its times are the zone's own, with the zone in the column's name and the offset from UTC in a
column beside. Durations and shares are numbers with a format. A text is a text, whatever it looks like: no formula, no
number, no link. What isn't known is an empty cell. The same figures make the same bytes.
"""

import io
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.errors import ConfigurationError
from etl.reporting.figures import column_names
from etl.reporting.shown import COLUMNS, as_of, notes, period, title

if TYPE_CHECKING:
    from etl.reporting.figures import Report

MOST_ROWS = 1_048_576 - 1  # of a sheet, below the names
MOST_UNITS = 32_767  # of a cell's text, in UTF-16
DAY_SECONDS = 86_400  # a duration is a part of a day
# Characters: what is longer is read in the cell itself.
WIDEST, NARROWEST = 60, 8
# What XlsxWriter would make something else of: it takes what begins and ends so for XML of its own, and of two escapes
# that share an underscore it sees the first.
_AS_XML = re.compile("<r>.*</r>", re.DOTALL)
_ESCAPES = re.compile("(?<=_x[0-9A-Fa-f]{4}_)(?=x[0-9A-Fa-f]{4}_)")
_MADE = datetime(2000, 1, 1)  # that the bytes don't depend on the clock

FORMATS = {
    "date": "yyyy-mm-dd",
    "time": "yyyy-mm-dd hh:mm",
    "duration": "[h]:mm:ss",
    "share": "0.0%",
    "text": "@",
    "number": "General",
}
_SHOWN = {
    column.name: {"share": "share", "seconds": "duration", "length": "duration"}.get(column.what)
    for columns in COLUMNS.values()
    for column in columns
}


class Column(NamedTuple):
    name: str  # in the report's rows; of an offset, that of the time
    heading: str
    what: str  # of FORMATS; an offset is a text


def to_xlsx(found: "Report") -> bytes:
    """Raises `ConfigurationError` if the library isn't installed, or if a sheet has no room for so many rows."""
    if len(found.rows) > MOST_ROWS:
        raise ConfigurationError(
            "ETL-012",
            f"a sheet has room for {MOST_ROWS:,} rows, and this report has {len(found.rows):,}: ask for fewer days, or"
            " take csv",
        )
    content = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_numbers": False, "strings_to_urls": False}
    with _library().Workbook(content, options) as book:
        book.set_properties({"title": f"{title(found)}: {period(found)}"[:255], "created": _MADE})
        sheet = _Sheet(book, found.asked.kind)
        columns = [*_columns(found)]
        sheet.names([column.heading for column in columns])
        for row in found.rows:
            sheet.add([(_value(column, row[column.name]), column.what) for column in columns])
        sheet.finish()
        _tell(_Sheet(book, "about"), found, sheet.cut)
    return content.getvalue()


def _library() -> Any:
    try:
        import xlsxwriter
    except ImportError:
        raise ConfigurationError(
            "ETL-011", "workbooks need one more library: the extra `xlsx`, which is pip install 'XlsxWriter>=3.3,<4'"
        ) from None
    return xlsxwriter


def _columns(found: "Report") -> Iterator[Column]:
    """As in CSV; a time is followed by its offset, since an hour may come twice in a day."""
    for name in column_names(found.asked):
        values = [row[name] for row in found.rows if row[name] is not None]
        if name == "hour" or (values and isinstance(values[0], datetime)):  # of no rows, too
            yield Column(name, f"{name} ({found.zone})", "time")
            yield Column(name, "utc_offset", "offset")
        else:
            yield Column(name, name, _what(name, values))


def _what(name: str, values: Sequence[object]) -> str:
    """By the values; what a number is, by the column."""
    if all(isinstance(value, int | float | Decimal) for value in values):
        by_name = (
            "duration" if name.endswith("_seconds") else "share" if name.endswith(("_rate", "_ratio")) else "number"
        )
        return _SHOWN.get(name) or by_name
    return "date" if all(isinstance(value, date) for value in values) else "text"


def _value(column: Column, value: object) -> object:
    if column.what == "offset" and isinstance(value, datetime):
        return value.isoformat()[-len("+00:00") :]
    if column.what == "duration" and isinstance(value, int | float | Decimal):
        return float(value) / DAY_SECONDS
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def _tell(about: "_Sheet", found: "Report", cut: int) -> None:
    lines = [
        ("report", title(found)),
        ("days", period(found)),
        ("zone", found.zone),
        ("figures", as_of(found) or "counted from the calls"),
        *(("note", note) for note in notes(found)),
        *([("note", f"{cut:,} texts are longer than a cell may be, and end where it says so")] if cut else []),
    ]
    about.names(["what", "is"])
    for line in lines:
        about.add([(text, "text") for text in line])
    about.finish()


class _Sheet:
    """Written from top to bottom."""

    def __init__(self, book: Any, name: str) -> None:
        self._sheet = book.add_worksheet(name)
        self._bold = book.add_format({"bold": True, "bottom": 1})
        self._formats = {what: book.add_format({"num_format": code}) for what, code in FORMATS.items()}
        self._rows = 0
        self._widths: list[int] = []
        self.cut = 0  # texts that were too long

    def names(self, headings: Sequence[str]) -> None:
        self._widths = [len(heading) + 3 for heading in headings]  # and the filter's button
        for place, heading in enumerate(headings):
            self._sheet.write_string(0, place, self._text(heading), self._bold)
        self._sheet.freeze_panes(1, 0)

    def add(self, cells: Sequence[tuple[object, str]]) -> None:
        self._rows += 1
        for place, (value, what) in enumerate(cells):
            if value is None or value == "":
                continue
            style = self._formats.get(what, self._formats["text"])
            if isinstance(value, datetime | date):
                self._sheet.write_datetime(self._rows, place, value, style)
            elif isinstance(value, int | float | Decimal):  # a boolean is one, too: 0 and 1 can be added up
                self._sheet.write_number(self._rows, place, float(value), style)
            else:
                self._sheet.write_string(self._rows, place, self._text(str(value)), style)
            self._widths[place] = max(self._widths[place], _width(value, what))

    def finish(self) -> None:
        last = max(len(self._widths) - 1, 0)
        self._sheet.autofilter(0, 0, self._rows, last)
        # References of digits stay texts: no green corner asks whether they should be numbers.
        self._sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{MOST_ROWS + 1}"})
        for place, width in enumerate(self._widths):
            self._sheet.set_column(place, place, min(max(width, NARROWEST), WIDEST))

    def _text(self, text: str) -> str:
        """As a cell can hold it, with an apostrophe, as in CSV, where the library would change it."""
        text = _ESCAPES.sub("'", f"'{text}" if _AS_XML.fullmatch(text) else text)
        if _units(text) <= MOST_UNITS:
            return text
        self.cut += 1
        mark = f" … (cut: {len(text):,} characters)"
        kept = text.encode("utf-16-le")[: 2 * (MOST_UNITS - _units(mark))]
        return kept.decode("utf-16-le", "ignore") + mark


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _width(value: object, what: str) -> int:
    """Characters, about."""
    if what in ("date", "time"):
        return len(FORMATS[what])
    if what == "duration":
        return len("000:00:00")
    return len("100.0%") if what == "share" else len(str(value)) + 1
