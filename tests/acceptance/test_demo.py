"""`etl demo`: the whole story on private servers, twice in a row, with books that add up."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.world import eventually


def surroundings(folder: Path) -> dict[str, str]:
    """A temporary folder of our own, so that nobody's demo is in our way, nor we in theirs."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}
    return ours | {"TMPDIR": str(folder)}


def etl(folder: Path, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "etl.cli", *arguments],
        env=surroundings(folder),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        input=typed,
    )


def page(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def figures(text: str) -> list[int]:
    return [int(figure.replace(",", "")) for figure in re.findall(r"[0-9][0-9,]*", text)]


def rows_of(output: str, heading: str) -> list[list[str]]:
    """Of the table below a heading that ends so."""
    table = output.partition(f"{heading}\n")[2].partition("└")[0]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[0] == "│"]


def assert_an_agents_day(output: str) -> None:
    """From the login to the logout, with time going by; a call is told with its CDR before the agent is busy."""
    rows = rows_of(output, "an agent's day")
    events = [row[3] for row in rows]
    assert events[:5] == ["logging_in", "available", "connected to a call", "busy", "wrapup"]
    assert events[-2:] == ["logging_out", "offline"]
    assert len({row[2] for row in rows}) == 1, "one agent"
    assert len({row[1] for row in rows}) > len(rows) / 2, "not all at once"
    for row in rows:
        assert not row[6] or row[6] == row[1], "heard when the call was connected"
        assert bool(row[5]) == bool(row[6]) == (row[3] == "connected to a call")


def assert_the_lake(output: str) -> None:
    """Every file is what Postgres has, and two engines count in it what was exported."""
    days = re.findall(r"│ cdrs +│ (20..-..-..) │ +1 │ +(\d+) │ +\d+ │", output)
    assert days
    files = len(days) + len(re.findall(r"│ audit_events │ 20..-..-.. │ +1 │", output))
    assert files > len(days)
    assert f"\n{files} files hold exactly what Postgres holds\n" in output
    by_duckdb = rows_of(output, "hive_partitioning = true) GROUP BY day ORDER BY day")
    assert [(day, calls) for day, calls, *_ in by_duckdb] == days
    assert rows_of(output, ".metadata.json')") == by_duckdb, "by Polars, on the table"


def test_given_no_demo_yet_then_psql_says_what_to_run(tmp_path: Path) -> None:
    result = etl(tmp_path, "demo", "--psql")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "etl: ETL-901: there is no demo to look at yet: run `etl demo` first\n"


def test_given_the_demo_twice_then_books_add_up_and_its_advice_works(session_folder: Path) -> None:
    folder = session_folder / "demo"
    folder.mkdir()
    for _ in range(2):
        result = etl(folder, "demo")
        assert (result.returncode, result.stderr) == (0, "")
        pushed = next(line for line in result.stdout.splitlines() if " messages about " in line)
        (books,) = [figures(line) for line in result.stdout.splitlines() if line.startswith("│ all ")]
        claimed, inserted, updated, unchanged, events, dead = books
        messages, calls, *mishaps = figures(pushed)
        (published,) = [figures(line)[0] for line in result.stdout.splitlines() if " lie on a fourth" in line]
        published += 1  # while the real listener was there
        reports = claimed - messages - published  # of the listeners about themselves: on the spool, too
        assert [calls, *mishaps] == [20_000, unchanged, events - published - reports, dead]
        assert 24 <= reports <= 120
        assert len(rows_of(result.stdout, "when nobody listened")) == 1
        assert {float(row[5]) > 0 for row in rows_of(result.stdout, "in which state")} == {True}
        for offered, answered, within, _, longest, hung_up in (
            map(int, row[1:]) for row in rows_of(result.stdout, "how long callers waited")
        ):
            assert (offered, 0 < within < answered, longest > 20, hung_up > 0) == (answered + hung_up, True, True, True)
        assert_an_agents_day(result.stdout)
        assert claimed == inserted + updated + unchanged + events + dead
        assert (inserted, dead > 0, "not_json" in result.stdout) == (20_000, True, True)
        by_day = re.findall(r"(?m)^│ 20..-..-.. │ +(\d+) │ +(\d+) │$", result.stdout)
        assert [ledger for ledger, _ in by_day] == [table for _, table in by_day]
        assert by_day
        assert_the_lake(result.stdout)

    advice = result.stdout.partition("Look further\n")[2].splitlines()
    program, rest = advice[0].split(maxsplit=1)
    assert Path(program).absolute() == Path(sys.executable)  # told as seen from the working folder
    assert rest.startswith("-m etl.cli demo --psql opens psql")
    queries = [line.strip() for line in advice if re.match(r"  \S", line)]
    script = "\n".join(["\\set ON_ERROR_STOP on", *queries, "SELECT count(*) AS calls FROM cdrs;"])
    psql = etl(folder, "demo", "--psql", typed=script)
    assert (psql.returncode, psql.stderr) == (0, "")
    for shown in ("The system that reported the call", "| demo ", "missing_field", "20000"):
        assert shown in psql.stdout

    with subprocess.Popen(
        [sys.executable, "-m", "etl.cli", "demo", "--serve"],
        env=surroundings(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as serving:
        try:
            assert serving.stdout
            address, _, rest = serving.stdout.readline().partition(" ")
            assert rest == "has the demo's days, until Ctrl-C\n"
            eventually(lambda: "Campaigns today" in page(address))
            assert page(f"{address}/campaigns?format=csv").startswith('"day","campaign_ref",')
            serving.send_signal(signal.SIGINT)
            _, errors = serving.communicate(timeout=200)
            assert (serving.returncode, errors) == (0, "")
        finally:
            serving.kill()
