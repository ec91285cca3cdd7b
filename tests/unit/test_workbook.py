"""A report's workbook, read by who shares nothing with its writer: texts stay texts, numbers are numbers, what isn't
known is empty, and what a sheet can't hold is said."""

import re
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.errors import ConfigurationError
from etl.reporting import workbook
from etl.reporting.asks import ASKS
from etl.reporting.figures import Asked, Report, column_names
from etl.reporting.workbook import MOST_ROWS, MOST_UNITS, to_xlsx
from tests.workbook import DURATION, SHARE, Sheet, read

DAY = date(2026, 11, 22)
HOSTILE = (
    *(
        "=cmd|' /C calc'!A0",
        "+441632960123",
        "-1",
        "@SUM(A1)",
        "{=1}",
        "\t=1",
        "0044",
        "00123.50",
        "1e5",
        "TRUE",
        "#N/A",
    ),
    *("https://example.invalid", "mailto:x", "internal:campaign!A1", "<script>", "&amp;", "]]>", "'quoted", " spaces "),
    *("<r>", "</r>", "<r><t>&x</r", "_x0041_", "_x005F_x0041_", "\x00\x01\x1b[31m\x7f\x85", "\ufffe\uffff", "a\r\nb"),
    *("\N{RIGHT-TO-LEFT OVERRIDE}cba", "Zoë 😀", "2026-11-22", "12:30", "1/2", "10%"),
)
TEXTS = st.lists(st.sampled_from([*HOSTILE, "x", "7"]), min_size=1, max_size=4).map("".join) | st.text(min_size=1)


def report(kind: str, rows: list[dict[str, Any]], zone: str = "UTC") -> Report:
    """Whatever else a report has is empty."""
    known: dict[str, Any] = {
        "asked": Asked(kind, DAY, DAY + timedelta(days=1)),
        "zone": zone,
        "now": datetime(2026, 11, 26, tzinfo=UTC),
        "rows": rows,
        "by_subject": [],
        "books": [],
        "campaigns_there": [],
        "comments": {},
    }
    values: dict[str, Any] = {each.name: known.get(each.name) for each in fields(Report)}
    return Report(**values)


def row(kind: str, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(column_names(Asked(kind, DAY, DAY))) | {"day": DAY} | values


def sheet_of(found: Report) -> Sheet:
    return read(to_xlsx(found))[found.asked.kind]


def test_every_kind_has_a_sheet_of_its_name_with_the_columns_of_csv() -> None:
    for kind in ASKS:
        for rows in ([], [row(kind)]):
            found = report(kind, rows)
            sheets = read(to_xlsx(found))
            assert [*sheets] == [kind, "about"]
            names = [text.removesuffix(" (UTC)") for (line, _), text in sheets[kind].cells.items() if line == 0]
            assert [name for name in names if name != "utc_offset"] == [*column_names(found.asked)]


@given(TEXTS, TEXTS)
@example("<r><t>x</t></r>", "<r></x></r>")
def test_a_text_is_the_same_text_whatever_it_looks_like(one: str, other: str) -> None:
    rows = [row("campaign", campaign_ref=one), row("campaign", campaign_ref=other)]
    sheet = sheet_of(report("campaign", rows))

    for place, text in enumerate((one, other), 1):
        if re.search("^<r>(.|\n)*</r>$|_x[0-9A-Fa-f]{4}_x", text):  # which the library would take for XML, or an escape
            assert sheet.cells[place, 1].replace("'", "") == text.replace("'", "")
        else:
            assert sheet.cells[place, 1] == text
        assert sheet.formats[place, 1] == "@"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_zone_and_a_campaign_that_was_asked_for_do_no_harm_either(text: str) -> None:
    found = report("hours", [row("hours", hour=datetime(2026, 11, 22, 9, tzinfo=UTC))], zone=text)

    sheets = read(to_xlsx(found))
    assert f"hour ({text})" in [name.replace("_'x", "_x") for name in sheets["hours"].table()[0]]
    assert text in [each["is"].replace("_'x", "_x") for each in sheets["about"].table() if each["what"] == "zone"]


def test_numbers_are_numbers_with_the_format_of_what_they_are() -> None:
    values = {
        "attempts": 7,
        "abandon_rate": Decimal("0.1667"),
        "talk_seconds": Decimal(100_000),
        "average_hold_seconds": 1.5,
    }
    sheet = sheet_of(report("campaign", [row("campaign", campaign_ref="2040", **values)]))

    names = {name: column for (line, column), name in sheet.cells.items() if line == 0}
    assert {name: sheet.cells[1, names[name]] for name in values} == {
        "attempts": 7, "abandon_rate": pytest.approx(0.1667), "talk_seconds": 100_000, "average_hold_seconds": 1.5,
    }  # fmt: skip
    formats = [sheet.formats[1, names[name]] for name in ("day", *values)]
    assert formats == ["yyyy-mm-dd", "General", SHARE, DURATION, DURATION]
    assert sheet.cells[1, names["day"]] == DAY


def test_what_is_not_known_is_an_empty_cell_and_no_zero() -> None:
    sheet = sheet_of(report("agent", [row("agent", extension="1001", calls=0)]))

    assert {place: value for place, value in sheet.cells.items() if place[0] == 1} == {
        (1, 0): DAY,
        (1, 1): "1001",
        (1, 2): 0,
    }


def test_an_hour_that_comes_twice_has_its_offsets_beside_it() -> None:
    summer, winter = (timezone(timedelta(hours=hours)) for hours in (1, 0))
    hours = [datetime(2025, 10, 26, 1, tzinfo=summer), datetime(2025, 10, 26, 1, tzinfo=winter)]
    sheet = sheet_of(report("hours", [row("hours", hour=hour) for hour in hours], zone="Europe/London"))

    found = [(each["hour (Europe/London)"], each["utc_offset"]) for each in sheet.table()]
    assert found == [(datetime(2025, 10, 26, 1), "+01:00"), (datetime(2025, 10, 26, 1), "+00:00")]


def test_the_names_stay_in_sight_and_can_be_filtered() -> None:
    rows = [row("campaign", campaign_ref="a campaign of thirty characters", attempts=1)] * 3
    sheet = sheet_of(report("campaign", rows))

    assert '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>' in sheet.xml
    columns = len(column_names(Asked("campaign", DAY, DAY)))
    assert sheet.bold == {(0, column) for column in range(columns)}
    assert '<autoFilter ref="A1:' in sheet.xml
    assert '<col min="2" max="2" width="32.7109375" customWidth="1"/>' in sheet.xml


@pytest.mark.parametrize("character", ["x", "😀", "\x01"])
def test_a_text_too_long_for_a_cell_is_cut_and_that_is_said(character: str) -> None:
    longest = character * (MOST_UNITS // (2 if character == "😀" else 1))
    sheets = read(to_xlsx(report("campaign", [row("campaign", campaign_ref=longest)])))
    assert sheets["campaign"].cells[1, 1] == longest
    assert "note" not in {each["what"] for each in sheets["about"].table()}

    sheets = read(to_xlsx(report("campaign", [row("campaign", campaign_ref=longest + "y" * 2)])))
    text = sheets["campaign"].cells[1, 1]
    assert len(text.encode("utf-16-le")) <= 2 * MOST_UNITS
    assert text.endswith(f"{character} … (cut: {len(longest) + 2:,} characters)")
    assert {"what": "note", "is": "1 texts are longer than a cell may be, and end where it says so"} in sheets[
        "about"
    ].table()


def test_more_rows_than_a_sheet_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"1,048,575 rows, and this report has 1,048,576: ask for fewer days"):
        to_xlsx(report("campaign", [row("campaign")] * (MOST_ROWS + 1)))
    monkeypatch.setattr(workbook, "MOST_ROWS", 3)
    assert len(sheet_of(report("campaign", [row("campaign")] * 3)).table()) == 3


def test_the_same_figures_make_the_same_bytes() -> None:
    rows = [row("campaign", campaign_ref=text, attempts=number) for number, text in enumerate(HOSTILE)]

    assert to_xlsx(report("campaign", rows)) == to_xlsx(report("campaign", [*rows]))
