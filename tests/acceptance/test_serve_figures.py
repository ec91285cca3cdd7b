"""The wall's pages of figures: the same as `etl report`'s, and a clear word about whatever can't be asked."""

import asyncio
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.app.database import rollup
from etl.reporting.web import shared
from etl.reporting.web.app import KINDS, MOST_ASKING, MOST_ROWS
from etl.reporting.web.asked import MOST_CAMPAIGNS
from etl.reporting.web.shared import Full, Gate
from tests.wall import PROMISED, Answer, at_noon, listened, load_and_listen, said, served
from tests.world import DIALED_AT, Archive, api_cdr, cdr

DAY = "2015-02-19"
DAYS = f"from={DAY}&to=2015-02-20"
BAD = '"><script>alert(1)</script>/../é%\u202e'
# What can't be asked, and what is said of it.
REFUSED = {
    "from=today": "from is no day",
    "to=2015-02-30": "to is no day",
    "from=0001-01-01": "from is a day of no year",
    "to=9999-12-31": "to is a day of no year",
    f"from=2015-02-20&to={DAY}": "is later than",
    f"from=2014-01-01&to={DAY}": "more than 366 days",
    f"from={DAY}&from={DAY}": "from is given more than once",
    "format=xml": "format must be one of",
    "format=csv&format=html": "format is given more than once",
    "days=3": "days is nothing that can be asked for here",
}
OF_CAMPAIGNS = {
    "campaign=%00": "campaign is no reference",
    "campaign=" + "x" * 513: "campaign is no reference",
    "&".join(f"campaign={n}" for n in range(MOST_CAMPAIGNS + 1)): "no more than 20 campaigns",
}


@pytest.fixture
def calls(archive: Archive) -> Archive:
    archive.push(
        *(cdr(n, extension=str(1000 + n % 3), ref=str(2040 + n % 2)) for n in range(7)), cdr(7, extension=None)
    )
    archive.push(cdr(8, extension=BAD, ref=BAD), cdr(9, dialed_at=DIALED_AT + 86_400), api_cdr(1), b"junk")
    archive.load()
    rollup(archive.settings(), False, lambda _: None)
    return archive


@pytest.mark.parametrize("path", KINDS)
def test_the_csv_of_a_page_is_that_of_the_report(calls: Archive, tmp_path: Path, path: str) -> None:
    with served(calls, tmp_path / "log") as wall:
        for first, last in ((DAY, DAY), (DAY, "2015-02-20"), ("2016-01-01", "2016-01-01")):
            printed = calls.run("report", KINDS[path], "--from", first, "--to", last, "--format", "csv").stdout
            found = wall.ask(f"{path}?from={first}&to={last}&format=csv")
            assert (found.status, found.headers["content-type"]) == (200, "text/csv; charset=utf-8")
            assert found.body.replace("\r\n", "\n") == printed
            assert found.headers["content-disposition"].startswith('attachment; filename="')
            assert PROMISED.items() <= found.headers.items()


def cells(page: Answer) -> set[str]:
    return {
        unescape(re.sub("<[^>]*>", "", each)).strip() for each in re.findall(r"<t[dh][ >].*?</t[dh]>", page.body, re.S)
    }


@pytest.mark.parametrize("path", KINDS)
def test_a_page_has_what_the_report_prints(calls: Archive, tmp_path: Path, path: str) -> None:
    with served(calls, tmp_path / "log") as wall:
        page = wall.ask(f"{path}?{DAYS}")
        assert page.status == 200
        printed = calls.run("report", KINDS[path], "--from", DAY, "--to", "2015-02-20").stdout
        words = {
            word for line in printed.splitlines()[3:] if "Note" not in line for word in re.split(r"  +", line.strip())
        }
        figures = {word for word in words if re.fullmatch(r"[\d,.:%]+", word)}
        assert figures
        assert figures <= cells(page)
        noted = calls.run("report", KINDS[path], "--from", DAY, "--to", "2015-02-20", "--format", "json").stdout
        assert [note for note in json.loads(noted)["notes"] if note not in page.text] == []
        assert "<script>alert" not in page.body
        assert "\u202e" not in page.body
        link = unescape(re.search(r'href="([^"]*)" download', page.body).group(1))  # type: ignore[union-attr]
        assert wall.ask(link).headers["content-type"] == "text/csv; charset=utf-8"


def test_given_a_campaign_then_only_its_calls_are_shown(calls: Archive, tmp_path: Path) -> None:
    with served(calls, tmp_path / "log") as wall:
        for campaigns in (["2040"], ["2041"], ["2040", "2041"], [BAD], ["none such"]):
            asked = urlencode([("campaign", each) for each in campaigns])
            page = wall.ask(f"/campaigns?{DAYS}&{asked}")
            assert page.status == 200
            assert ("2041" in cells(page)) == ("2041" in campaigns)
        assert "for such a campaign" in page.text


def test_an_agents_page_is_where_the_link_leads(calls: Archive, tmp_path: Path) -> None:
    with served(calls, tmp_path / "log") as wall:
        page = wall.ask(f"/agents?{DAYS}")
        links = [unescape(link) for link in re.findall(r'href="(/agent/[^"]*)"', page.body)]
        assert {f"/agent/{each}?{DAYS}" for each in ("1001", quote(BAD, safe=""))} < set(links)
        for link in links:
            own = wall.ask(link)
            assert own.status == 200
            assert "<script>alert" not in own.body
            assert len(re.findall("<tr>", own.body)) - 1 in (1, 2), "its days"
        own = wall.ask(f"/agent/1001?{DAYS}")
        assert not {"1000", "1002"} & cells(own)
        assert [line.split(",")[1] for line in wall.ask(f"/agent/1001?{DAYS}&format=csv").body.splitlines()[1:]] == [
            '"1001"'
        ]
        assert wall.ask(f"/agent/none?{DAYS}").status == 200
        assert wall.ask("/agent/").status == wall.ask("/agent/%00").status == wall.ask("/agent").status == 404


def test_from_the_wall_an_agents_name_leads_to_the_days_figures(archive: Archive, tmp_path: Path) -> None:
    now = at_noon(archive)
    archive.push(listened(now), said("10/02", "busy", now), key="etl:events")
    load_and_listen(archive)
    with served(archive, tmp_path / "log") as wall:
        [link] = re.findall(r'href="(/agent/[^"]*)"', wall.ask("/").body)
        assert link.startswith("/agent/10%2F02?from=")
        assert "Agent 10/02" in wall.ask(unescape(link)).text


def test_what_cannot_be_asked_is_refused_by_its_name(calls: Archive, tmp_path: Path) -> None:
    with served(calls, tmp_path / "log") as wall:
        for path in KINDS:
            for query, what in {**REFUSED, **(OF_CAMPAIGNS if path != "/agents" else {})}.items():
                answer = wall.ask(f"{path}?{query}")
                assert (answer.status, what in answer.text) == (400, True), (path, query, answer.text)
                assert PROMISED.items() <= answer.headers.items()
        assert "campaign is nothing that can be asked for here" in wall.ask("/agents?campaign=1").text
        assert len(wall.log.read_text().splitlines()) == 1, wall.log.read_text()


def test_given_any_query_then_it_is_answered_and_nothing_logged(calls: Archive, tmp_path: Path) -> None:
    names = st.sampled_from(["from", "to", "campaign", "format"]) | st.text(max_size=3)
    values = st.sampled_from([DAY, "", "csv", "2015-W08-1", "\0", "-1"]) | st.dates().map(str) | st.text(max_size=8)
    with served(calls, tmp_path / "log") as wall:

        @given(st.sampled_from([*KINDS, "/agent/1001"]), st.lists(st.tuples(names, values), max_size=4))
        def ask(path: str, fields: list[tuple[str, str]]) -> None:
            assert wall.ask(f"{path}?{urlencode(fields, errors='surrogatepass')}").status in (200, 400)

        ask()
        assert len(wall.log.read_text().splitlines()) == 1, wall.log.read_text()


def test_given_too_many_rows_then_fewer_days_are_asked_for(calls: Archive, tmp_path: Path) -> None:
    """As many as may be take no more memory than the wall has in Kubernetes, three times at once."""
    campaigns = 100
    days = MOST_ROWS // campaigns - 2  # beside them are the totals
    names = ", ".join(
        str(row["attname"])
        for row in calls.rows(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'reporting.campaign_figures'::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('day', 'campaign_ref')"
            " AND attidentity = '' AND attgenerated = ''"
        )
    )
    calls.rows(f"""
        INSERT INTO reporting.campaign_figures (day, campaign_ref, {names})
        SELECT date '2014-01-01' + d, 'c' || k, {names}
        FROM (SELECT * FROM reporting.campaign_figures WHERE hour IS NULL AND campaign_ref = '2040' LIMIT 1) one,
            generate_series(0, {days + 1}) d, generate_series(1, {campaigns}) k
        RETURNING 1""")
    first = date(2014, 1, 1)
    with served(calls, tmp_path / "log") as wall:
        asked = f"/campaigns?from={first}&to={first + timedelta(days=days - 1)}"
        with ThreadPoolExecutor(MOST_ASKING) as asking:
            answers = [*asking.map(wall.ask, [asked, asked + "&format=csv", asked + "&format=csv"])]
        assert [answer.status for answer in answers] == [200] * MOST_ASKING
        assert len(answers[1].body.splitlines()) == 1 + days * campaigns
        assert wall.ask(f"/chart/1/broad{asked}").status == 200
        most = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{wall.process.pid}/status").read_text())
        assert most
        assert int(most[1]) < 384 * 1024, "its limit in ops/kubernetes"
        for form in ("html", "csv"):
            refused = wall.ask(f"/campaigns?from={first}&to={first + timedelta(days=days + 1)}&format={form}")
            assert (refused.status, "ask for fewer days" in refused.text) == (400, True)


def test_given_a_locked_table_then_the_answer_says_so_soon(calls: Archive, tmp_path: Path) -> None:
    with served(calls, tmp_path / "log") as wall, psycopg.connect(calls.database_url) as other:
        other.execute("LOCK TABLE cdrs, reporting.campaign_figures")
        for path in ("/campaigns", "/reasons"):
            answer = wall.ask(f"{path}?{DAYS}")
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert "Postgres can't be asked: ETL-3" in answer.text
        assert "nothing of today is known" in wall.ask("/").text
        other.rollback()
        assert wall.ask(f"/campaigns?{DAYS}").status == 200


def test_given_an_answer_that_never_comes_then_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(shared, "ANSWER_SECONDS", 0.01)
    go = threading.Event()

    async def ask() -> None:
        gate = Gate(1)
        for _ in range(2):  # the second isn't let in
            with pytest.raises(Full):
                await gate.through("x", lambda: go.wait(60))
        go.set()
        monkeypatch.setattr(shared, "PATIENCE_SECONDS", 60)
        monkeypatch.setattr(shared, "ANSWER_SECONDS", 60)
        assert await gate.through("x", go.is_set), "there is room again"

    asyncio.run(ask())


def test_given_many_who_ask_then_a_few_get_through_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PATIENCE_SECONDS", 0.01)
    go = threading.Event()

    async def ask() -> tuple[int, int]:
        gate = Gate(MOST_ASKING)
        first = [asyncio.create_task(gate.through("x", lambda: go.wait(60))) for _ in range(MOST_ASKING)]
        await asyncio.sleep(0)
        others = await asyncio.gather(*(gate.through("x", go.is_set) for _ in range(50)), return_exceptions=True)
        go.set()
        through = await asyncio.gather(*first)
        assert await gate.through("x", go.is_set), "there is room again"
        return sum(isinstance(each, Full) for each in others), sum(through)

    assert asyncio.run(ask()) == (50, MOST_ASKING)
