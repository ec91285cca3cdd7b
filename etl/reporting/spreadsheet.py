"""CSV that no spreadsheet runs: a text that it would take for a formula begins with an apostrophe, and every field is
quoted. What begins a formula is by OWASP's list ("CSV injection"), and whatever programs are known to read as the same.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from etl.reporting.figures import column_names

if TYPE_CHECKING:
    from etl.reporting.figures import Report

# As normalized, so that full-width and small forms are among them; of the minus sign that isn't so.
_TRIGGERS = frozenset("=+-@\N{MINUS SIGN}")
_CONTROLS = ("\t", "\r", "\n")
# Where another cell may begin for a program that was told another separator, or takes quotes for text.
_SEPARATORS = re.compile("([,;|\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029])")


def csv_of(found: "Report") -> str:
    """A report's rows only: a total among them would be summed once more."""
    names = column_names(found.asked)
    return to_csv(names, [[row[name] for name in names] for row in found.rows])


def to_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A line of names and one for each row, in RFC 4180's form; null is an empty field, a time ISO 8601."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(names)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def harmless(text: str) -> str:
    """The text with an apostrophe before whatever may begin a formula in it, at its start or behind a separator; and
    before a control character at its start. Any other is as it was."""
    said = "".join(f"'{part}" if _begins_formula(part) else part for part in _SEPARATORS.split(text))
    return f"'{said}" if said.startswith(_CONTROLS) else said


def _begins_formula(text: str) -> bool:
    """Spaces, quotes, and what isn't seen may stand before it."""
    for character in text:
        if unicodedata.normalize("NFKC", character) in _TRIGGERS:
            return True
        if character != '"' and unicodedata.category(character)[0] not in "ZC":
            return False
    return False


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return harmless(value) if isinstance(value, str) else value
