"""What a report's charts say, beside what Python counts of the same calls; and who can tell their colours apart."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html import unescape
from itertools import combinations
from typing import Any

import pytest

from etl.reporting import specs, waits
from etl.reporting.charts import AGENT_TIMES, ON_A_TIMELINE, OUTCOME_COLOURS, Chart, charts
from etl.reporting.figures import Asked, Report, ask
from etl.reporting.rollup import rollup
from tests.store import engine
from tests.wall import said as said_by
from tests.wall import session
from tests.world import Archive, cdr

FIRST = date(2015, 2, 2)  # a Monday
NOON = int(datetime(2015, 2, 2, 12, tzinfo=UTC).timestamp())
HOSTILE = "=</title><script>document.title='mine'</script>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}\n&amp;\"'"
HOUR, DAY = 3_600, 86_400  # seconds
FEW = 10  # calls; a rate of fewer isn't drawn
PALETTE = {
    name: getattr(specs, name)
    for name in ("GREEN", "BLUE", "AMBER", "VIOLET", "RED", "GREY", "LIGHT", "PALE", "UNHEARD")
}
# WCAG 2.2: of graphics, and of text.
OF_GRAPHICS, OF_TEXT = 3.0, 4.5


def loaded(archive: Archive, *calls: dict[str, Any]) -> None:
    archive.push(*(cdr(number, **call) for number, call in enumerate(calls)))
    archive.load()
    with engine(archive.database_url) as connections:
        rollup(connections)


def report(archive: Archive, kind: str, days: int) -> Report:
    with engine(archive.database_url) as connections:
        return ask(connections, Asked(kind, FIRST, FIRST + timedelta(days=days - 1)))


def drawn(found: Report) -> dict[str, Chart]:
    return {chart.heading: chart for chart in charts(found)}


def said(chart: Chart) -> dict[str, str]:
    """What its marks say, by what they are of; on a telephone it's the same."""
    broad, narrow = (
        dict(unescape(text).rsplit(": ", 1) for text in re.findall(r"<title>(.*?)</title>", svg))
        for svg in (chart.svg, chart.narrow)
    )
    assert broad == narrow
    return broad


def inbound(wait: int | None, agent: str | None) -> dict[str, Any]:
    talk = {"call_time": 60} if agent else {"call_time": 0}
    return {"call_dir": "inbound", "extension": agent, "hold_time": wait, "dialed_at": NOON, **talk}


@pytest.mark.parametrize("kind", ["campaign", "hours"])
def test_waits_are_counted_by_length_and_who_gave_up(archive: Archive, kind: str) -> None:
    answered = [*range(0, 140, 3), 300, 301, 5_000]
    gave_up = [0, 5, 6, 20, 21, 299, 301]
    calls = [inbound(wait, "1001") for wait in answered] + [inbound(wait, None) for wait in gave_up]
    loaded(archive, *calls, inbound(None, "1001"), {"dialed_at": NOON})

    chart = drawn(report(archive, kind, 1))["How long callers waited"]

    total = len(answered) + len(gave_up)
    assert f": {total} offered calls; of 1 others it isn't known. In time is up to 20 s" in chart.caption
    ends = [5, 10, 20, 30, 60, 120, 300]
    wanted = {}
    for low, end in zip([-1, *ends], [*ends, 10**9], strict=True):
        called = f"{low + 1} to {end} s" if end <= 300 else "above 300 s"
        for part, some in (("an agent answered", answered), ("gave up", gave_up)):
            if number := sum(low < wait <= end for wait in some):
                wanted[called, part] = str(number)
    assert {(called, text.split(" ", 1)[1]): text.split(" ")[0] for called, text in each_part(chart)} == wanted


def each_part(chart: Chart) -> list[tuple[str, str]]:
    found = [unescape(text).rsplit(": ", 1) for text in re.findall(r"<title>(.*?)</title>", chart.svg)]
    return [(called, text) for called, text in found]


def test_without_a_known_wait_there_is_no_chart_of_waits(archive: Archive) -> None:
    loaded(archive, inbound(None, "1001"), {"dialed_at": NOON})

    assert "How long callers waited" not in drawn(report(archive, "hours", 1))


DAYS = 17


@pytest.fixture
def fortnight(archive: Archive) -> tuple[Archive, Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    """And three days: two weekdays come three times. Calls and answers by day and hour; on one day there was none."""
    dialled: Counter[tuple[int, int]] = Counter()
    answers: Counter[tuple[int, int]] = Counter()
    calls = []
    for day in range(DAYS):
        for hour in range(0, 24, 5):
            for number in range((day * 7 + hour) % 13 if day != 3 else 0):
                answered = (day + hour + number) % 3 == 0
                dialled[day, hour] += 1
                answers[day, hour] += answered
                at = NOON + day * DAY + (hour - 12) * HOUR + number
                how = {} if answered else {"end_reason": "busy", "extension": None, "call_time": 0}
                calls.append({"dialed_at": at, **how})
    loaded(archive, *calls)
    return archive, dialled, answers


def test_hours_by_weekday_are_averages_and_rates_of_sums(
    fortnight: tuple[Archive, Counter[tuple[int, int]], Counter[tuple[int, int]]],
) -> None:
    archive, dialled, answers = fortnight

    found = drawn(report(archive, "hours", DAYS))

    days = defaultdict(set)
    for day, _ in dialled:
        days[day % 7].add(day)
    sums: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for (day, hour), number in dialled.items():
        sums[day % 7, hour][0] += number
        sums[day % 7, hour][1] += answers[day, hour]
    called = {key: f"{FIRST + timedelta(days=key[0]):%A}, {key[1]:02}:00" for key in sums}
    calls, rates = (
        said(found["Calls, by weekday and hour"]),
        said(found["Answered of dialled (ASR), by weekday and hour"]),
    )
    assert calls.keys() == set(called.values())
    for key, (number, _) in sums.items():
        assert float(calls[called[key]].split()[0]) == pytest.approx(number / len(days[key[0]]), abs=0.051)
    assert {key: float(rate.removesuffix("%")) for key, rate in rates.items()} == {
        called[key]: pytest.approx(100 * part / number, abs=0.051)
        for key, (number, part) in sums.items()
        if number >= FEW
    }


def test_a_rate_that_is_not_known_of_one_day_has_no_cell(
    fortnight: tuple[Archive, Counter[tuple[int, int]], Counter[tuple[int, int]]],
) -> None:
    found = report(fortnight[0], "hours", DAYS)
    name = "Answered of dialled (ASR), by weekday and hour"
    before = said(drawn(found)[name])
    (cell, *_) = [each for each in before if each.startswith("Monday")]
    # As figures of an older etl are.
    at = cell.removeprefix("Monday, ")
    (place, *_) = [
        place for place, row in enumerate(found.rows) if row["day"].weekday() == 0 and f"{row['hour']:%H:%M}" == at
    ]
    rows = [*found.rows]
    rows[place] = {**rows[place], "outbound_attempts": None, "outbound_answered": None}

    after = said(drawn(replace(found, rows=rows))[name])

    assert before.keys() - after.keys() == {cell}


def test_a_week_or_less_is_shown_day_by_day(archive: Archive) -> None:
    loaded(archive, {"dialed_at": NOON}, *({"dialed_at": NOON + DAY} for _ in range(12)))

    found = drawn(report(archive, "hours", 7))

    assert said(found["Calls, by day and hour"]) == {"Mon 2015-02-02, 12:00": "1", "Tue 2015-02-03, 12:00": "12"}
    assert said(found["Answered of dialled (ASR), by day and hour"]) == {"Tue 2015-02-03, 12:00": "100.0%"}


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2, of colours written #rrggbb."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    lights = sorted((light(one), light(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("name", PALETTE)
def test_every_colour_stands_out_from_paper_and_its_pattern(name: str) -> None:
    assert contrast(PALETTE[name], "#ffffff") >= OF_GRAPHICS


@pytest.mark.parametrize(
    "colours",
    [
        [*OUTCOME_COLOURS.values()],
        [colour for _, colour in AGENT_TIMES.values()],
        [*ON_A_TIMELINE.values()],
        [*waits.COLOURS.values()],
        [specs.GREEN, specs.GREY],
    ],
)
def test_parts_of_a_bar_are_told_apart_without_any_colour(colours: list[str]) -> None:
    for one, other in combinations(colours, 2):
        assert specs.PATTERNS.get(one) != specs.PATTERNS.get(other) or contrast(one, other) >= OF_GRAPHICS


def test_lines_are_told_apart_without_any_colour() -> None:
    for kinds in (specs.SHAPES, specs.DASHES, specs.COLOURS_OF_LINES):
        assert len({str(kind) for kind in kinds}) == len(kinds) == 6


@pytest.mark.parametrize("ends", [specs.MANY, specs.SHARES])
def test_a_number_can_be_read_in_every_cell(ends: tuple[str, str]) -> None:
    cells: list[specs.Cell] = [(0, part, part, str) for part in range(101)]

    data = specs.heat(cells, ["Monday"], [*map(str, range(101))], ends, str)["data"]["values"]

    low, high = ([int(end[at : at + 2], 16) for at in (1, 3, 5)] for end in ends)
    for part, each in enumerate(data):
        behind = "#" + "".join(f"{round(a + (b - a) * part / 100):02x}" for a, b in zip(low, high, strict=True))
        assert contrast(each["ink"], behind) >= OF_TEXT
    assert contrast(*ends) >= OF_TEXT


def test_patterns_are_each_drawing_s_own(archive: Archive) -> None:
    reasons = [(ref, reason) for ref in "ab" for reason in ("hungup", "busy", "failed", "reject")]
    loaded(archive, *({"dialed_at": NOON, "end_reason": why, "ref": ref, "extension": None} for ref, why in reasons))
    for days in (1, 2):
        ids: list[str] = []
        for chart in charts(report(archive, "campaign", days)):
            for svg in (chart.svg, chart.narrow):
                own = re.findall(r'\bid="([^"]+)"', svg)
                assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(own)
                ids += own
        assert len(ids) == len(set(ids)) > 4


def test_each_line_has_its_name_in_the_legend(archive: Archive) -> None:
    loaded(archive, *({"dialed_at": NOON + day * DAY, "ref": ref} for day in (0, 1) for ref in ("first", "second")))

    chart = drawn(report(archive, "campaign", 2))["Answered, of dialled (ASR)"]

    for svg in (chart.svg, chart.narrow):
        assert {">first<", ">second<"} <= set(re.findall(r">[a-z]+<", svg))


TIMELINE = "From hour to hour"


def timeline(archive: Archive) -> tuple[dict[str, Chart], Report]:
    with engine(archive.database_url) as connections:
        found = ask(connections, Asked("agent", FIRST, FIRST), with_timeline=True)
    return drawn(found), found


def test_a_timeline_has_states_calls_and_when_nobody_listened(archive: Archive) -> None:
    archive.rows("UPDATE reporting.settings SET zone = 'Europe/Berlin' RETURNING zone")
    noon = datetime.fromtimestamp(NOON, UTC)
    minutes = [noon + timedelta(minutes=number) for number in range(121)]
    archive.push(
        session(noon - timedelta(hours=20), minutes[60], ended=minutes[60]),
        session(minutes[90], minutes[120], ended=minutes[120]),
        said_by("1001", "available", noon - timedelta(hours=14)),
        said_by("1001", "busy", minutes[10]),
        said_by("1001", "wrapup", minutes[20]),
        said_by("1001", "available", minutes[30]),
        said_by("1001", HOSTILE, minutes[95]),
        said_by("1001", "offline", minutes[100]),
        said_by("1002", "busy", minutes[15]),
        said_by("1002", "logging_in", minutes[40]),
        said_by("1002", "offline", minutes[41]),
        key="etl:events",
    )
    call = {"extension": "1001", "hold_time": 30, "call_time": 240}
    nobody_knows_how_long = {**call, "extension": HOSTILE, "dialed_at": NOON, "call_time": None}
    loaded(archive, {**call, "dialed_at": NOON + 600}, nobody_knows_how_long)

    charts_of, found = timeline(archive)

    texts = [unescape(text) for text in re.findall(r"<title>(.*?)</title>", charts_of[TIMELINE].svg)]
    assert sorted(text for text in texts if "1001" in text) == [
        "1001: available from 13:30:00 to 14:00:00",
        "1001: available from 23:00:00 to 13:10:00",
        "1001: busy from 13:10:00 to 13:20:00",
        "1001: calls from 13:10:30 to 13:14:30",
        "1001: other states from 14:35:00 to 14:40:00",
        "1001: wrap-up from 13:20:00 to 13:30:00",
    ]
    assert not [text for text in texts if "1002: busy" in text], "its end isn't known"
    assert any(text.endswith("calls from 13:00:30 to ?") for text in texts)
    assert "nobody listened from 14:00:00 to 14:30:00" in texts
    assert found.timeline is not None
    assert found.timeline.hours == 24
    began = next(span for span in found.timeline.states if "23:00:00" in span.text)
    assert began.begin == 0, "what is before the day is cut off"
    assert began.end == pytest.approx(13 + 10 / 60)
    for svg in (charts_of[TIMELINE].svg, charts_of[TIMELINE].narrow):
        assert re.search(r'id="[cn]\d+-59636e"', svg), "gaps are hatched"


def test_a_day_of_which_nothing_is_known_has_no_timeline(archive: Archive) -> None:
    assert timeline(archive)[0] == {}
    loaded(archive, {"dialed_at": NOON}, {"dialed_at": NOON + DAY})
    with engine(archive.database_url) as connections:
        several = ask(connections, Asked("agent", FIRST, FIRST + timedelta(days=1)), with_timeline=True)
    assert several.timeline is None
    assert TIMELINE not in drawn(report(archive, "agent", 1)), "nobody asked for it"


def test_a_day_of_25_hours_has_all_of_them_on_its_timeline(archive: Archive) -> None:
    archive.rows("UPDATE reporting.settings SET zone = 'Europe/London' RETURNING zone")
    day = date(2014, 10, 26)
    last = datetime(2014, 10, 26, 23, 30, tzinfo=UTC)
    loaded(archive, {"dialed_at": int(last.timestamp()), "hold_time": 0, "call_time": 60})
    with engine(archive.database_url) as connections:
        found = ask(connections, Asked("agent", day, day), with_timeline=True)

    assert found.timeline is not None
    assert found.timeline.hours == 25
    assert found.timeline.calls[0].begin == 24.5
