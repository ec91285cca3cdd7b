"""No program finds a formula in a CSV of ours, whatever separator and quoting it was told; and texts stay texts."""

import csv
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.reporting.spreadsheet import harmless, to_csv

# By OWASP: "CSV injection".
TRIGGERS = "=+-@\uff1d\uff0b\uff0d\uff20"
BEFORE = (
    *("", " ", "   ", "\t", "\r", "\n", "\r\n", "\v", "\x00", "\x1f", "\x85", '"', '""', " \n "),
    *("\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}", "\N{ZERO WIDTH SPACE}", "\ufeff", "\N{RIGHT-TO-LEFT OVERRIDE}"),
    *("\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}", "x,", "x;", "x|", "x\t", "x\n", "x\r", 'x,"', 'x"; "'),
)
TEXTS = st.lists(st.sampled_from([*TRIGGERS, *BEFORE, "x", "1", "'", "cmd|' /C calc'!A0"]), max_size=8).map("".join)
SKIPPED = re.compile('[\\s"\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*')


def is_formula(cell: str) -> bool:
    return SKIPPED.sub("", cell, count=1)[:1] in {*TRIGGERS, "\N{MINUS SIGN}"}


def as_cells(text: str, separator: str) -> list[str]:
    """As read by who heeds quotes, and by who doesn't."""
    heeding = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    naive = [cell for line in text.splitlines() for cell in line.split(separator)]
    return [cell for row in heeding for cell in row] + naive


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
@example(rows=[(f"{before}{trigger}1", "x") for before in BEFORE for trigger in TRIGGERS])
def test_no_reader_finds_a_formula_whatever_its_separator(separator: str, rows: list[tuple[str, str]]) -> None:
    assert [cell for cell in as_cells(to_csv(["a", "b"], rows), separator) if is_formula(cell)] == []


@given(st.text(), st.text())
def test_every_field_is_quoted_and_only_apostrophes_are_added(one: str, other: str) -> None:
    text = to_csv(["a", "b"], [(one, other), (None, 1)])

    assert re.fullmatch(r'("([^"]|"")*"(,|\r\n))*', text)
    _, (first, second), last = csv.reader(io.StringIO(text, newline=""))
    assert (first.replace("'", ""), second.replace("'", "")) == (one.replace("'", ""), other.replace("'", ""))
    assert last == ["", "1"]


@pytest.mark.parametrize("text", ["", "2040", "Sales - north", "a+b@c", "x=1", "O'Neill", 'the "best"', "a, b", "1;2"])
def test_an_innocent_text_is_as_it_was(text: str) -> None:
    assert harmless(text) == text
