"""A report's page on paper, and on a telephone: a real Chromium prints and shows it."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from etl.reporting.figures import Asked, Report, ask
from etl.reporting.page import page
from etl.reporting.rollup import rollup
from etl.reporting.shown import columns, title, value
from tests.browser import Picture, browser, resize, screenshot
from tests.paper import Sheet, Tables, sheets, tight
from tests.screenshots import CHROMIUM
from tests.store import engine
from tests.tools import tool
from tests.world import Archive, cdr

KINDS = ("campaign", "agent", "hours", "reasons")
FIRST = date(2015, 2, 1)
MIDNIGHT = 1_422_748_800  # of that day, UTC
DAY = 86_400  # seconds
LONG = "n" * 300
HOSTILE = "=</style><script>document.title='mine'</script>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}\n&amp;\"'"
CAMPAIGNS = ("2040", LONG, HOSTILE)
REASONS = ("callee_hungup", "agent_hungup", "voicemail", "busy", "timeout", "failed", HOSTILE)
SIDE, EDGE = 28.0, 14.0  # points: page.css's margin at the sides, where what lies beyond is cut off; above and below


@pytest.fixture
def chromium(tmp_path: Path) -> list[str]:
    return [tool("chromium"), *CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}"]


def call_centre(archive: Archive, days: int, agents: int) -> None:
    """Each agent has a call a day at least, in and out, at all hours; the worst of names are among them."""
    names = [LONG, HOSTILE, *(str(1000 + number) for number in range(agents - 2))]
    numbers = iter(range(days * agents * 3))
    for day in range(days):
        archive.push(
            *(
                cdr(
                    next(numbers),
                    dialed_at=MIDNIGHT + day * DAY + (place * 7919 + turn * 997) % DAY,
                    ref=CAMPAIGNS[(place + turn) % 3],
                    extension=None if reason in ("busy", "timeout", "failed") else name,
                    end_reason=reason,
                    call_dir="inbound" if (place + day + turn) % 3 == 0 else "outbound",
                    call_time=30 + place % 3000,
                    hold_time=place % 60,
                    contact_ref=f"M{place % 50}",
                )
                for place, name in enumerate(names)
                for turn in range(2)
                for reason in (REASONS[(place + day) % len(REASONS)] if turn else "callee_hungup",)
            )
        )
    archive.load()
    for kind, reference in (("agent", HOSTILE), ("agent", "1000"), ("campaign", CAMPAIGNS[0])):
        name = f"{HOSTILE} {'of a long name ' * 12}"[:200]
        archive.rows(
            "INSERT INTO reporting.names VALUES (%s, %s, %s, %s) RETURNING name", kind, reference, name, "Team"
        )
    with engine(archive.database_url) as connections:
        rollup(connections)


def reports(archive: Archive, days: int) -> Iterator[Report]:
    with engine(archive.database_url) as connections:
        for kind in KINDS:
            yield ask(connections, Asked(kind, FIRST, FIRST + timedelta(days=days - 1)), with_timeline=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("agents", [3, pytest.param(300, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("days", [1, 31])
def test_on_paper_is_every_column_and_row_of_every_table(
    archive: Archive, chromium: list[str], tmp_path: Path, days: int, agents: int
) -> None:
    call_centre(archive, days, agents)
    for found in reports(archive, days):
        file = tmp_path / f"{found.asked.kind}.html"
        file.write_text(page(found))
        tables = Tables(file).found
        assert_has_every_figure(found, tables)

        printed = sheets(chromium, file)

        for heads, rows in tables:
            assert_is_printed(heads, rows, printed)


def assert_has_every_figure(found: Report, tables: list[tuple[list[str], list[list[str]]]]) -> None:
    """Of the first and of the last row, however many tables they are spread over."""
    shown = columns(found)
    assert {column.heading for column in shown} == {head for heads, _ in tables for head in heads}
    for place, row in ((-len(found.rows), found.rows[0]), (-1, found.rows[-1])):
        cells = {head: cell for heads, rows in tables for head, cell in zip(heads, rows[place], strict=True)}
        assert cells == {column.heading: value(row, column, found) for column in shown}


def assert_is_whole(found: Report, printed: list[Sheet]) -> None:
    """Nothing is empty, and nothing lies at or beyond an edge; each page has its number."""
    assert len(printed[0].words) > 30
    for number, sheet in enumerate(printed, 1):
        assert (round(sheet.width), round(sheet.height)) == (842, 595), "A4, landscape"
        assert f"{number}/{len(printed)}" in sheet.tight
        assert tight(f"{title(found)}: {found.asked.first:%A}") in sheet.tight
        assert len(sheet.words) > 10, number
        outside = [
            word
            for word in sheet.words
            if word.left < SIDE
            or word.top < EDGE
            or word.right > sheet.width - SIDE
            or word.bottom > sheet.height - EDGE
        ]
        assert outside == [], number


def assert_is_printed(heads: list[str], rows: list[list[str]], printed: list[Sheet]) -> None:
    """Row by row, in order; and the heads stand on each page that has some of the rows."""
    head, left = tight("".join(heads)), [tight("".join(row)) for row in rows]
    left.reverse()
    for sheet in printed:
        text = sheet.tight
        if (place := text.find(head)) < 0:
            continue
        while left and (at := text.find(left[-1], place)) >= 0:
            place = at + len(left.pop())
    assert left == [], (heads, len(left), re.sub(r"\s+", " ", printed[-1].text)[:300])


# Of each text of a chart that is shown: how large its letters are on the screen, and where.
LETTERS = """[...document.querySelectorAll("svg text")].map(each => {
    const box = each.getBoundingClientRect(), scale = each.getScreenCTM();
    return scale && box.width && getComputedStyle(each).opacity > 0 && each.textContent.trim()
        ? [parseFloat(getComputedStyle(each).fontSize) * Math.hypot(scale.a, scale.b),
           box.left + scrollX, box.top + scrollY, box.right + scrollX, box.bottom + scrollY]
        : null;
}).filter(Boolean)"""
CHARTS = """[...document.querySelectorAll("figure")].map(figure =>
    [...figure.querySelectorAll("svg")].map(each => each.getBoundingClientRect()).filter(each => each.width)
        .map(each => [each.width, each.height]))"""
LEAST_LETTERS = 11.0  # pixels: as in the page's smaller texts
TELEPHONE = 400


@pytest.mark.parametrize("days", [1, pytest.param(31, marks=pytest.mark.nightly)])
def test_on_400_pixels_the_letters_of_every_chart_can_be_read(archive: Archive, tmp_path: Path, days: int) -> None:
    call_centre(archive, days, 40)
    with browser(tmp_path) as tab:
        for found in reports(archive, days):
            file = tmp_path / f"{found.asked.kind}.html"
            file.write_text(page(found))
            figures = file.read_text().count("<figure>")
            resize(tab, TELEPHONE)
            tab.open(file.as_uri())
            assert tab.run("document.documentElement.scrollWidth") <= TELEPHONE
            on_telephone, letters = tab.run(CHARTS), tab.run(LETTERS)
            assert [len(drawn) for drawn in on_telephone] == [1] * figures, "one drawing of each is shown"
            assert len(letters) > 5
            for size, left, _, right, _ in letters:
                assert size >= LEAST_LETTERS
                assert left >= 0
                assert right <= TELEPHONE
            boxes = [box for _, *box in letters]
            assert_is_painted(screenshot(tab, max(box[3] for box in boxes)), boxes)

            resize(tab, 1000)
            on_desk = tab.run(CHARTS)
            assert [len(drawn) for drawn in on_desk] == [1] * figures
            assert all(narrow[0] < broad[0] for [narrow], [broad] in zip(on_telephone, on_desk, strict=True))
            assert min(size for size, *_ in tab.run(LETTERS)) >= 9
    assert tab.complaints() == []


def assert_is_painted(picture: Picture, boxes: list[list[float]]) -> None:
    """Each text stands out from what is around it."""
    for left, top, right, bottom in boxes:
        light = [picture.light(x, y) for y in range(int(top), int(bottom)) for x in range(int(left), int(right))]
        assert max(light) - min(light) > 80, (left, top)
