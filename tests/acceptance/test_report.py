"""`etl report`: figures, whatever they're printed as, are the views'; pages need nobody; names do no harm."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psycopg
import pytest

from etl.cli import main
from etl.reporting.figures import Asked, ask
from etl.reporting.rollup import rollup
from tests.command_line import answered
from tests.store import ROLES, engine
from tests.tools import extra, tool
from tests.workbook import read
from tests.world import DIALED_AT, Archive, cdr

DAY, NEXT = "2015-02-19", "2015-02-20"
PERIOD = ("--from", DAY, "--to", NEXT)
A_DAY = 86_400  # seconds
HOSTILE = "=<script>document.title='mine'</script>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}\n&amp;\"'"
KINDS = ("campaign", "agent", "hours", "reasons")
# Nothing that a page asks for may come from anywhere; nor does Chromium call home meanwhile.
CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--disable-dev-shm-usage", "--enable-logging=stderr"),
)


@pytest.fixture
def calls(archive: Archive) -> Archive:
    """Ten calls on two days, of three campaigns, one of them with the worst of names; and their figures."""
    nobody = {"extension": None, "call_time": 0}
    archive.push(
        call(1, call_time=100, hold_time=4),
        call(2, call_time=50, hold_time=8, contact_ref="M2", extension="1003"),
        call(3, end_reason="busy", end_code=17, contact_ref="M3", **nobody),
        call(4, end_reason="hungup", contact_ref="M4", **nobody),
        call(5, end_reason="timeout", contact_ref="M5", dialed_at=DIALED_AT + 3_600, **nobody),
        call(6, ref="3001", call_dir="inbound", contact_ref="M6", call_time=30),
        call(7, ref=HOSTILE, contact_ref="M7", end_reason=HOSTILE, extension=HOSTILE, answered_at=None),
        call(8, ref=HOSTILE, contact_ref="M8", extension=HOSTILE, call_time=7),
        call(9, dialed_at=DIALED_AT + A_DAY, call_time=20),
        call(10, dialed_at=DIALED_AT + A_DAY, end_reason="failed", contact_ref="M9", **nobody),
    )
    archive.load()
    compute(archive)
    return archive


def call(call_ref: int, **fields: object) -> bytes:
    return cdr(call_ref, **{"hold_time": 0, **fields})


def compute(archive: Archive) -> None:
    with engine(archive.database_url) as connections:
        rollup(connections)


class Done(NamedTuple):
    returncode: object
    stdout: str
    stderr: str


def etl(archive: Archive, *arguments: str) -> Done:
    """The console script, in this process: what takes time is starting one."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    environment = mock.patch.dict(os.environ, archive.environment(), clear=True)
    with environment, mock.patch.object(sys, "argv", ["etl", *arguments]), redirect_stdout(out), redirect_stderr(err):
        with pytest.raises(SystemExit) as ended:
            main()
        out.flush()
        err.flush()
        told = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Done(ended.value.code or 0, *told)


def as_number_or_text(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else str(value)


def report(archive: Archive, *arguments: str) -> dict[str, Any]:
    done = etl(archive, "report", *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


NOT_REPORTED = {"refreshed_at", "waits", "waits_answered", "waits_abandoned", "waits_dropped"}
OF_STATES = ("logged_in_seconds", "available_seconds", "busy_seconds", "wrapup_seconds")


def unknown_is_null(name: str, value: object) -> object:
    """Nobody listened; the views have 0, as ever."""
    return None if name in OF_STATES else value


def test_rows_are_the_views_and_a_total_is_computed_from_sums(calls: Archive) -> None:
    campaigns, agents, hours, reasons = (report(calls, kind, *PERIOD) for kind in KINDS)

    for told, view, key in ((campaigns, "campaign_days", "campaign_ref"), (agents, "agent_days", "extension")):
        of_the_view = calls.rows(f"SELECT * FROM reporting.{view}")
        assert {(row["day"], row[key]): row for row in told["rows"]} == {
            (str(row["day"]), row[key]): {
                name: str(value) if name == "day" else unknown_is_null(name, value)
                for name, value in row.items()
                if name not in NOT_REPORTED
            }
            for row in json.loads(
                json.dumps(of_the_view, default=lambda v: float(v) if hasattr(v, "quantize") else str(v))
            )
        }
    total = campaigns["total"]
    assert (total["attempts"], total["answered"], total["reached_agent"], total["abandoned"]) == (10, 6, 5, 1)
    assert total["answer_seizure_ratio"] == 0.6
    assert total["abandon_rate"] == 0.1667
    assert total["average_talk_seconds"] == round((100 + 50 + 30 + 7 + 20) / 5, 1)
    assert (total["average_hold_seconds"], total["held"]) == (2, 6)
    assert total["unique_contacts"] is None
    assert {each["campaign_ref"]: each["attempts"] for each in campaigns["by_subject"]} == {
        "2040": 7, "3001": 1, HOSTILE: 2,
    }  # fmt: skip
    assert {(row["day"], row["hour"][11:], row["attempts"]) for row in hours["rows"]} == {
        (DAY, "21:00:00+00:00", 7), (DAY, "22:00:00+00:00", 1), (NEXT, "21:00:00+00:00", 2),
    }  # fmt: skip
    assert agents["total"]["calls"] == 5
    assert agents["total"]["average_handle_seconds"] == round((207 + 12) / 5, 1)
    in_table = calls.rows("SELECT end_reason, count(*) AS n FROM cdrs GROUP BY end_reason")
    assert {row["end_reason"]: row["calls"] for row in reasons["rows"]} == {r["end_reason"]: r["n"] for r in in_table}
    assert reasons["total"]["calls"] == 10


def test_campaigns_are_chosen_one_by_one(calls: Archive) -> None:
    told = report(calls, "hours", "--day", DAY, "--campaign", "3001", "--campaign", HOSTILE)

    assert told["total"]["attempts"] == 3
    nothing = report(calls, "campaign", "--day", DAY, "--campaign", "no such")
    assert nothing["rows"] == []
    assert nothing["total"] is None
    assert "the largest first: 2040, " in nothing["notes"][1]


def test_csv_has_rows_only_and_no_formulas(calls: Archive) -> None:
    done = etl(calls, "report", "campaign", *PERIOD, "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert [(row["day"], row["campaign_ref"], row["attempts"]) for row in rows] == [
        (DAY, "2040", "5"), (DAY, "'" + HOSTILE, "2"), (DAY, "3001", "1"), (NEXT, "2040", "2"),
    ]  # fmt: skip


def test_csv_of_campaigns_named_like_formulas_has_none(archive: Archive) -> None:
    """Also behind what a spreadsheet skips, and in a program that was told another separator."""
    formulas = [
        f"{before}{trigger}1+1"
        for before in ("", " ", "\N{NO-BREAK SPACE}", "\n", "\r\n", "\t", '"', '" ', "x;", "x\n", "x\t")
        for trigger in "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"
        "\N{FULLWIDTH COMMERCIAL AT}"
    ]
    archive.push(*(call(number, ref=formula) for number, formula in enumerate(formulas)))
    archive.load()
    compute(archive)

    done = etl(archive, "report", "campaign", "--day", DAY, "--format", "csv")

    names = [row["campaign_ref"] for row in csv.DictReader(io.StringIO(done.stdout, newline=""))]
    assert len(names) == archive.value("SELECT count(DISTINCT campaign_ref) FROM cdrs") > 40
    assert [name for name in names if "'" not in name] == []
    assert re.fullmatch(r'("([^"]|"")*"(,|\r\n))*', done.stdout), "each field is quoted"


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_of_a_workbook_is_what_sql_answered(calls: Archive, kind: str, tmp_path: Path) -> None:
    calls.rows("UPDATE reporting.settings SET zone = 'Asia/Kolkata' RETURNING zone")
    compute(calls)
    file = tmp_path / "report.xlsx"
    done = etl(calls, "report", kind, *PERIOD, "--format", "xlsx", "--output", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with engine(calls.database_url) as connections:
        wanted = ask(connections, Asked(kind, date.fromisoformat(DAY), date.fromisoformat(NEXT)))

    sheets = read(file.read_bytes())

    found = sheets[kind].table()
    assert len(found) == len(wanted.rows) > 0
    for has, row in zip(found, wanted.rows, strict=True):
        by_name = {name.removesuffix(" (Asia/Kolkata)"): value for name, value in has.items()}
        assert by_name.pop("utc_offset", "+05:30") == "+05:30"
        assert by_name.keys() == row.keys()
        for name, value in row.items():
            assert by_name[name] == in_a_cell(value), name
    about = [(each["what"], each["is"]) for each in sheets["about"].table()]
    assert ("zone", "Asia/Kolkata") in about
    assert [text for what, text in about if what == "note"] == report(calls, kind, *PERIOD)["notes"]


def in_a_cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return pytest.approx(float(value), abs=1e-3) if isinstance(value, Decimal | int) else value or None


def test_a_workbook_goes_to_stdout_and_needs_its_library(calls: Archive, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "etl.cli", "report", "campaign", "--day", DAY, "--format", "xlsx"]
    environment = calls.environment()
    done = subprocess.run(command, env=environment, capture_output=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(read(done.stdout)["campaign"].table()) == 3

    (tmp_path / "xlsxwriter.py").write_text("raise ImportError\n")
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
    for package in extra("xlsx"):
        assert (
            f"ETL-011: workbooks need one more library: the extra `xlsx`, which is pip install '{package}'"
            in done.stderr.decode()
        )


def test_a_table_has_bars_and_a_total_and_no_control_characters(calls: Archive) -> None:
    done = calls.run("report", "campaign", *PERIOD)

    assert done.returncode == 0, done.stderr
    assert "Campaigns: Thursday 2015-02-19 to Friday 2015-02-20, UTC time" in done.stdout
    assert re.search(r"2015-02-19 +2040 +5 +█{10} +3 +60.0%", done.stdout)
    assert re.search(r"2015-02-20 +2040 +2 +████ +1 +50.0%", done.stdout)
    assert re.search(r"all +10 +5 +55.6%", done.stdout)
    assert all(character.isprintable() or character == "\n" for character in done.stdout)
    assert r"\x1b[31m\u202e\n" in done.stdout


@pytest.fixture
def chromium(tmp_path: Path) -> list[str]:
    return [tool("chromium"), *CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}"]


def opened(chromium: list[str], page: Path) -> tuple[str, list[str]]:
    """The document as the browser understood it, and what it had to complain of."""
    done = subprocess.run(
        [*chromium, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=200, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_page_opens_from_disk_with_charts_and_without_network(
    calls: Archive, chromium: list[str], tmp_path: Path
) -> None:
    marks = {
        "campaign": "2040: 3 agent, of 7 calls",
        "agent": "1003: 1 calls",
        "hours": "21:00: 5 agent, of 9 calls",
        "reasons": "busy: 1 not answered",
    }
    for kind, mark in marks.items():
        page = tmp_path / f"{kind}.html"
        assert etl(calls, "report", kind, *PERIOD, "--format", "html", "--output", str(page)).returncode == 0
        document, complaints = opened(chromium, page)
        assert complaints == []
        assert f"<title>{mark}</title>" in document
        assert document.count("<figure>") * 2 == document.count("<svg ")  # one for small screens
        assert (
            re.findall(r"""<script|<link|\bsrc=|href=|@import|url\((?!"?'?#)""", document.replace("&quot;", '"')) == []
        )
        # The name is there, and as text: the page's own title is what it should be.
        assert "=&lt;script&gt;document.title='mine'&lt;/script&gt;\\x1b[31m\\u202e" in document or kind == "hours"
        assert re.search(r"<title>(Campaigns|Agents|Hours|Why calls ended): Thursday 2015-02-19 to", document)

    # And if a page did ask for something, we would have known.
    page.write_text(page.read_text().replace("</main>", '<img src="https://example.invalid/a.png"></main>'))
    assert opened(chromium, page)[1] != []


def test_what_keeps_figures_from_being_trusted_is_said(calls: Archive) -> None:
    def notes(kind: str, day: str = DAY) -> str:
        return "\n".join(report(calls, kind, "--day", day)["notes"])

    unknown = "1 calls have dispositions that reporting.end_reasons doesn't know"
    assert notes("campaign") == f"{unknown}, which `etl report reasons` lists"
    assert "nobody listened for 1 d 0 h of 2015-02-19" in notes("agent")
    calls.push(cdr(11), b"junk")
    calls.load()
    assert "more was loaded since the figures were computed, for 2015-02-19: run `etl rollup`" in notes("campaign")
    assert notes("reasons").startswith(f"{unknown}: =<script>")
    assert "\n" not in notes("reasons")
    today = str(datetime.now(UTC).date())
    calls.push(cdr(12, dialed_at=int(datetime.now(UTC).timestamp())))
    calls.load()
    compute(calls)
    said = notes("reasons", today)
    assert "isn't over yet" in said
    assert "1 messages that were received on" in said
    done = etl(calls, "report", "reasons", "--day", today, "--format", "csv")
    assert "etl: 1 messages that were received on" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_durations_that_cannot_be_right_are_counted_and_told(archive: Archive, kind: str, tmp_path: Path) -> None:
    says = "2 calls have a duration that can't be right, below 0 or above a day: it is in no sum and no average"
    command = ("report", kind, "--day", DAY)
    archive.push(call(1), call(2, ref="3001"))
    archive.load()
    compute(archive)
    assert "absurd" not in etl(archive, *command).stdout
    archive.push(call(3, call_time=-1_795_563_614, ref="3001"), call(4, hold_time=86_401))
    archive.load()
    compute(archive)

    shown = " ".join(etl(archive, *command).stdout.split())
    assert says in shown
    assert "absurd" in shown.replace(says, "")
    told = report(archive, *command[1:])
    assert says in told["notes"]
    assert told["total"]["absurd_durations"] == sum(each["absurd_durations"] for each in told["rows"]) == 2
    as_csv = etl(archive, *command, "--format", "csv")
    assert says in as_csv.stderr
    assert sum(int(each["absurd_durations"]) for each in csv.DictReader(io.StringIO(as_csv.stdout))) == 2
    page = tmp_path / "page.html"
    assert etl(archive, *command, "--format", "html", "--output", str(page)).returncode == 0
    assert escape(says) in page.read_text()
    assert "absurd times</th>" in page.read_text()


def test_yesterday_is_by_the_zone_and_nothing_at_all_says_so(archive: Archive) -> None:
    archive.rows("UPDATE reporting.settings SET zone = 'Pacific/Kiritimati' RETURNING zone")
    yesterday = "SELECT ((now() AT TIME ZONE 'Pacific/Kiritimati')::date - 1)::text AS day"
    days = {archive.value(yesterday)}

    done = etl(archive, "report", "campaign")

    days.add(archive.value(yesterday))
    assert done.returncode == 0
    assert any(f"there are no figures of {day}\n" in done.stdout for day in days)
    assert "there are no figures at all: `etl run` loads calls, `etl rollup` computes the figures" in done.stdout
    assert report(archive, "reasons")["from"] in days


def test_an_hour_that_comes_twice_is_told_apart(archive: Archive) -> None:
    archive.rows("UPDATE reporting.settings SET zone = 'Europe/London' RETURNING zone")
    clocks_went_back = int(datetime(2025, 10, 26, 1, tzinfo=UTC).timestamp())
    archive.push(*(cdr(n, dialed_at=clocks_went_back + 1_800 * n) for n in (-1, 0, 1)))
    archive.load()
    compute(archive)

    done = etl(archive, "report", "hours", "--day", "2025-10-26")

    assert re.search(r"01:00 \+0100 +1 .*\n +01:00 \+0000 +2 ", done.stdout)


def test_who_may_only_ask_views_may_have_reports(calls: Archive) -> None:
    with psycopg.connect(calls.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    for role in ("etl_reporting", "etl_loader"):
        with replace(calls, database_url=calls.database_url.replace("postgres@", f"{role}@")) as asking:
            for kind in ("agent", "reasons") if role == "etl_loader" else KINDS:
                assert report(asking, kind, "--day", DAY)["rows"] != []
                assert "<svg" in etl(asking, "report", kind, "--day", DAY, "--format", "html").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["agent", "--campaign", "2040"], "agents' figures aren't kept by campaign"),
        (["hours", "--day", DAY, "--to", NEXT], "either --day or --from and --to"),
        (["hours", "--to", NEXT], "--to needs --from"),
        (["hours", "--from", NEXT, "--to", DAY], "--from must not be later than --to"),
        (["hours", "--from", "2999-01-01"], "--from must not be later than yesterday, "),
        (["campaign", "--output", "report.txt"], "--output is for csv, json, html and xlsx"),
    ],
)
def test_what_makes_no_sense_is_told(archive: Archive, arguments: list[str], says: str) -> None:
    done = answered(archive.environment(), "report", *arguments)

    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize("form", ["html", "xlsx"])
def test_a_page_or_a_workbook_is_not_for_a_terminal(archive: Archive, form: str) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "etl.cli", "report", "hours", "--format", form],
            env=archive.environment(), stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=200, check=False,
        )  # fmt: skip
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2
    assert "--output FILE" in done.stderr


def test_without_the_library_or_the_schema_the_way_out_is_told(
    calls: Archive, empty_database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "vl_convert.py").write_text("raise ImportError\n")
    page = tmp_path / "page.html"

    done = calls.run(
        "report", "campaign", "--day", DAY, "--format", "html", "--output", str(page), PYTHONPATH=str(tmp_path)
    )

    assert (done.returncode, page.exists()) == (2, False)
    for package in extra("report"):
        assert f"'{package}'" in done.stderr
    with replace(calls, database_url=empty_database_url) as empty:
        asked = etl(empty, "report", "campaign")
    assert asked.returncode == 2
    assert "run `etl db upgrade`" in asked.stderr
