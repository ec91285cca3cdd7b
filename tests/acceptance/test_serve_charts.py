"""Charts on the wall's pages: pictures that a browser shows, of whatever names; and pages without them."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from html import unescape
from pathlib import Path

import pytest

from etl.app.database import rollup
from etl.reporting.figures import Asked, ask
from etl.reporting.web.app import KINDS
from etl.reporting.web.asked import Refused
from etl.reporting.web.figures import of_agent
from etl.reporting.web.pictures import MOST_SPANS, Pictures
from tests.acceptance.test_serve_browser import BAD, FIELDS, LONG, PAGES, address, day_of
from tests.browser import browser, resize
from tests.store import engine
from tests.wall import PROMISED, Answer, Served, at_noon, listened, load_and_listen, said, served
from tests.world import Archive, cdr

OF_DAYS = [*PAGES[1:], "/agent/none"]
# None of them fetches or runs anything.
DRAWN = {
    "svg",
    "g",
    "path",
    "text",
    "tspan",
    "title",
    "defs",
    "clipPath",
    "rect",
    "line",
    "pattern",
    "linearGradient",
    "stop",
}
NOT_THERE = [
    *(
        "/chart/99/broad/hours",
        "/chart/0/wide/hours",
        "/chart/-1/broad/hours",
        "/chart/x/broad/hours",
        "/chart/0/broad/",
    ),
    *("/chart/0/broad/nothing", "/chart/0/broad/agent/", "/chart/0/broad/agent/%00", "/chart/0/broad/agent/none"),
]
SHOWN = "[...document.querySelectorAll('img.chart')].map(each => [each.complete, each.naturalWidth, each.alt])"
# Those that aren't near the screen aren't fetched before it comes to them.
ALL_SHOWN = """Promise.all([...document.querySelectorAll('img.chart')].map(each => {
    each.loading = "eager";
    return each.decode();
})).then(() => true)"""


@pytest.fixture
def hostile(archive: Archive) -> Archive:
    """Names that are programs in every field, of calls in and out of two days, and of agents' states."""
    now = at_noon(archive)
    for day in (0, 1):
        at = int((now - timedelta(days=day)).timestamp())
        inbound = {"call_dir": "inbound", "hold_time": 9, "ref": BAD, "extension": BAD}
        archive.push(*(cdr(f"{day}-{n}", dialed_at=at, **{name: BAD}) for n, name in enumerate(FIELDS)))
        archive.push(
            cdr(f"{BAD}{day}", dialed_at=at), *(cdr(f"in-{day}-{n}", dialed_at=at, **inbound) for n in range(12))
        )
        archive.push(cdr(f"long-{day}", dialed_at=at, **dict.fromkeys(("ref", "extension", "end_reason"), LONG)))
    states = [
        said(who, status, now - timedelta(minutes=minutes), campaign_ref=who)
        for who in ("1002", BAD, LONG)
        for status, minutes in (("busy", 60), (BAD, 30), ("wrapup", 20))
    ]
    archive.push(listened(now), *states, key="etl:events")
    load_and_listen(archive)
    insert = "INSERT INTO reporting.names (kind, reference, name) VALUES (%s, %s, %s) RETURNING 1"
    for kind, reference in (("campaign", "2040"), ("agent", "1002")):
        archive.rows(insert, kind, reference, BAD)
    rollup(archive.settings(), False, lambda _: None)
    return archive


def days(archive: Archive) -> tuple[str, str]:
    """Today, and it with yesterday."""
    today = day_of(archive)
    yesterday = archive.value("SELECT (now() AT TIME ZONE zone)::date - 1 FROM reporting.settings")
    return today, re.sub("from=[0-9-]+", f"from={yesterday}", today)


def charts(page: Answer) -> list[tuple[str, str]]:
    """The addresses of each, of both widths."""
    found = re.findall(r'<source [^>]*srcset="([^"]*)">\s*<img class="chart" src="([^"]*)"', page.body)
    return [(unescape(broad), unescape(narrow)) for narrow, broad in found]


def fetched(wall: Served, path: str) -> Answer:
    answer = wall.ask(path)
    assert (answer.status, answer.headers["content-type"]) == (200, "image/svg+xml"), path
    assert PROMISED.items() <= answer.headers.items()
    return answer


def test_each_page_has_its_charts_as_pictures_without_any_program(hostile: Archive, tmp_path: Path) -> None:
    seen = {}
    with served(hostile, tmp_path / "log") as wall:
        for path in OF_DAYS:
            for asked in days(hostile):
                listed = charts(wall.ask(path + asked))
                seen[path, asked] = len(listed)
                for address_ in (each for both in listed for each in both):
                    root = ET.fromstring(fetched(wall, address_).body)
                    assert root.tag == "{http://www.w3.org/2000/svg}svg"
                    for element in root.iter():
                        assert element.tag.rpartition("}")[2] in DRAWN, element.tag
                        assert not [name for name in element.attrib if re.search("^on|href|style", name)]
        today, both = days(hostile)
        timeline = wall.ask(f"/chart/0/broad/agent/1002{today}").body
        assert len(wall.log.read_text().splitlines()) == 1, wall.log.read_text()
    assert {path for (path, _), number in seen.items() if number} == {*KINDS, "/agent/1002"}
    assert (seen["/agent/1002", today], seen["/agent/1002", both]) == (1, 0), "a timeline is of one day"
    assert seen["/hours", both] >= 4
    assert "(1002): busy from " in timeline


def test_a_picture_is_the_same_whoever_was_asked_before(hostile: Archive, tmp_path: Path) -> None:
    today, _ = days(hostile)
    pages = [f"/campaigns{today}", f"/hours{today}"]  # a state that has no end yet is longer every time
    with served(hostile, tmp_path / "log") as wall:
        before = {each: fetched(wall, each).body for page in pages for both in charts(wall.ask(page)) for each in both}
        for bad in NOT_THERE:
            assert wall.ask(bad + today).status == 404, bad
        assert wall.ask("/chart/0/broad/hours?from=never").status == 400
    with served(hostile, tmp_path / "log2") as wall:
        for each, body in before.items():
            assert fetched(wall, each).body == body


def test_given_more_than_can_be_drawn_then_it_is_refused(hostile: Archive, tmp_path: Path) -> None:
    """As of a dialler that has gone mad."""
    day = date.fromisoformat(day_of(hostile).partition("to=")[2])
    with engine(hostile.database_url) as connections:
        asked = Asked("agent", day, day)
        found = of_agent(ask(connections, asked, with_timeline=True, agent="1002"), "1002")
    assert found.timeline is not None
    (span, *_) = found.timeline.states
    for number in (MOST_SPANS - len(found.timeline.calls) - len(found.timeline.gaps), MOST_SPANS + 1):
        many = replace(found, timeline=found.timeline._replace(states=[span] * number))
        pictures = Pictures()
        if number <= MOST_SPANS:
            assert pictures.picture(asked, "1002", 0, "broad", partial(replace, many))
            continue
        with pytest.raises(Refused, match="more than 10,000 states and calls"):
            pictures.picture(asked, "1002", 0, "broad", partial(replace, many))


def test_without_the_library_pages_have_no_charts(hostile: Archive, tmp_path: Path) -> None:
    (tmp_path / "vl_convert.py").write_text("raise ImportError\n")
    today, _ = days(hostile)
    with served(hostile, tmp_path / "log", PYTHONPATH=str(tmp_path)) as wall:
        for path in OF_DAYS:
            page = wall.ask(path + today)
            assert (page.status, "<img" in page.body, charts(page)) == (200, False, []), path
        missing = wall.ask(f"/chart/0/broad/hours{today}")
        assert (missing.status, "the extra `report`" in missing.text) == (503, True)


def test_given_a_token_then_only_who_has_it_sees_a_picture(hostile: Archive, tmp_path: Path) -> None:
    today, _ = days(hostile)
    with served(hostile, tmp_path / "log", ETL_WEB_TOKEN="correct-horse-battery") as wall:
        assert wall.ask(f"/chart/0/broad/hours{today}").status == 401


@pytest.mark.parametrize("width", [1000, pytest.param(400, marks=pytest.mark.nightly)])
def test_a_browser_shows_every_picture_and_runs_nothing(hostile: Archive, tmp_path: Path, width: int) -> None:
    today, both = days(hostile)
    with browser(tmp_path) as tab, served(hostile, tmp_path / "log") as wall:
        resize(tab, width)
        for path in OF_DAYS:
            for asked in (today, both):
                tab.open(address(wall, path + asked))
                assert tab.run(ALL_SHOWN), path
                for complete, wide, alt in tab.run(SHOWN):
                    assert (complete, wide > 0, bool(alt.strip())) == (True, True, True), path
                assert tab.run("document.documentElement.scrollWidth") <= width, path
                assert tab.run("typeof owned") == "undefined", path
                own = tab.run("[...document.querySelectorAll('img.chart')].map(each => each.currentSrc)")
                assert all(f"/{'broad' if width > 760 else 'narrow'}/" in each for each in own)
        for each in own[:1]:
            tab.open(each)
            assert tab.run("typeof owned") == "undefined"
    assert tab.complaints() == []
