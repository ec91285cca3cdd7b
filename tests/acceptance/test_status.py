"""`etl status` as operators and their programs run it: what it prints, and the exit code that they act on."""

import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from etl.inbox.claims import Source
from etl.settings import SourceSettings
from tests.world import CAMPAIGNS, CLICK2DIAL, Archive, cdr, eventually

NOWHERE = "127.0.0.1:1"
NASTY = "\x1b]0;owned\x07[red]"


def until(process: "subprocess.Popen[str]", last: str) -> str:
    """What the process prints, up to a line that begins so."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if line.startswith(last):
            break
    return "".join(lines)


def test_given_work_then_it_is_told_for_people_and_for_programs(archive: Archive) -> None:
    archive.push(*(cdr(n) for n in range(1_198)), *(cdr(n, end_code="SIP 486", hold_time="") for n in "ab"), b"junk")
    archive.load()
    archive.push(b"waiting")
    archive.push(cdr("held"), key=NASTY)
    archive.sources = [*archive.sources, SourceSettings(key=NASTY)]
    claim = Source(archive.redis, NASTY, worker=NASTY).claim()
    assert claim

    as_text = archive.run("status", PYTHONPROFILEIMPORTTIME="1")
    as_json = archive.run("status", "--json")

    assert as_text.returncode == 0
    assert "etl.app.status" in as_text.stderr
    assert "pyarrow" not in as_text.stderr, "nothing opens the lake"
    lines = as_text.stdout.splitlines()
    for words in (
        (CAMPAIGNS, "1", "unknown: it doesn't say"),
        (r"\x1b]0;owned\x07[red]", r"\x1b]0;owned\x07[red]", "1", "left"),
        ("Redis' memory:", "used of", "the backlog isn't growing"),
        ("last minute:", "20.0 messages/s claimed, 20.0 CDRs/s inserted"),
        ("last CDR:", "committed", "ago; the latest call was dialled", "d "),
        ("listener:", "nobody has ever listened"),
        ("gaps:", "1 in the last day, 1 d 0 h in all"),
        ("not_json", "1", "20"),
        ("set aside:", "2 of end_code, in the last day: no whole numbers, kept in extra"),
        ("days:", "no rows in the last 7"),
        ("days to export:", " 1 of cdrs"),
        ("last export:", "never"),
    ):
        assert any(all(word in line for word in words) for line in lines), words
    assert "\x1b" not in as_text.stdout

    assert (as_json.returncode, as_json.stderr, as_json.stdout.count("\n")) == (0, "", 1)
    told = json.loads(as_json.stdout)
    lists = {each["source_key"]: each["waiting_messages"] for each in told["redis"]["lists"]}
    assert (lists[CAMPAIGNS], lists[CLICK2DIAL], lists[NASTY]) == (1, 0, 0)
    (held,) = told["redis"]["claims"]
    assert (held["batch_id"], held["worker"], held["messages"]) == (str(claim.batch_id), NASTY, 1)
    assert (told["redis"]["backlog_grows"], told["redis"]["runway_seconds"]) == (False, None)
    assert [each["letters"] for each in told["postgres"]["open_dead_letters"]] == [1]
    assert told["postgres"]["set_aside"] == {"period_seconds": 86_400, "values": {"end_code": 2}}
    assert told["postgres"]["exports"]["unexported_days"] == {"cdrs": 1, "audit_events": 0}
    assert told["redis_error"] is told["postgres_error"] is None


def test_given_nothing_yet_then_it_says_so_in_words_time_and_again(archive: Archive) -> None:
    with archive.process("status", "--watch") as process:
        blocks = [until(process, "last export:") for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=200)

    assert (process.returncode, complaint) == (0, "")
    for words in (
        "claims in flight: none\n",
        "last CDR:         none\n",
        "no dead letters",
        "days to export:   none\n",
    ):
        assert all(words in block for block in blocks)
    assert "set aside" not in blocks[0]
    assert "\x1b" not in blocks[0]


def test_given_a_store_that_is_away_then_it_says_which_and_exits_with_1(archive: Archive) -> None:
    redis_away = archive.run("status", ETL_REDIS_URL=f"redis://u:hunter2@{NOWHERE}/0")
    postgres_away = archive.run("status", "--json", ETL_DATABASE_URL=f"postgresql://u:hunter2@{NOWHERE}/x")

    assert (redis_away.returncode, redis_away.stderr) == (1, "")
    assert "Redis couldn't be asked: " in redis_away.stdout
    assert "last CDR:" in redis_away.stdout
    assert (postgres_away.returncode, postgres_away.stderr) == (1, "")
    told = json.loads(postgres_away.stdout)
    assert told["postgres"] is None
    assert "refused" in told["postgres_error"]
    assert len(told["redis"]["lists"]) == len(archive.sources) + 1
    assert "hunter2" not in redis_away.stdout + postgres_away.stdout


def test_watching_for_a_program_gives_a_line_each_time_until_ctrl_c(archive: Archive) -> None:
    with archive.process("status", "--watch", "--json") as process:
        assert process.stdout
        first = json.loads(process.stdout.readline())
        archive.push(*[b"x" * 1_000] * 1_000)
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=200)

    assert (process.returncode, complaint) == (0, "")
    assert first["at"] < second["at"]
    assert (first["redis"]["backlog_grows"], second["redis"]["backlog_grows"]) == (None, True)
    assert second["redis"]["runway_seconds"] > 0


def test_watching_on_a_terminal_it_is_drawn_anew_in_its_place_until_ctrl_c(archive: Archive, tmp_path: Path) -> None:
    # Ctrl-C comes while Postgres is away: that is no reason to end, nor to fail.
    away = replace(archive, database_url=f"postgresql://{NOWHERE}/x")
    controller, terminal = pty.openpty()
    seen = b""
    try:
        with (tmp_path / "stderr").open("w+") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "etl.cli", "status", "--watch"],
                env=away.environment(TERM="xterm", COLUMNS="160", LINES="60"),
                stdin=terminal,
                stdout=terminal,
                stderr=stderr,
            )
            try:

                def drawn_twice() -> bool:
                    nonlocal seen
                    seen += os.read(controller, 65_536)
                    return seen.count(b"Postgres couldn't be asked") >= 2

                eventually(drawn_twice)
                process.send_signal(signal.SIGINT)
                assert process.wait(30) == 0
            finally:
                process.kill()
                process.wait()
            stderr.seek(0)
            assert stderr.read() == ""
    finally:
        os.close(terminal)
        os.close(controller)
    assert b"\x1b[1A" in seen, "the cursor goes up to where it was"
