"""`etl run` as operators and cron run it: a real process, its output, its exit code, and what it leaves behind."""

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from etl.inbox.claims import Source
from etl.store.tables import load_batches
from tests.faults.worker import Worker
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive, api_cdr, cdr, eventually

EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}'
FIGURES = ("claimed", "inserted", "updated", "unchanged", "events", "dead")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def fill(archive: Archive) -> dict[str, dict[str, int]]:
    """Messages of all kinds on all lists; returns the books that loading them must have, by list."""
    archive.push(*(cdr(n) for n in range(30)), cdr(1), EVENT, b"junk")
    archive.push(*(api_cdr(n) for n in range(20)), key=CDRS)
    archive.push(*(cdr(n) for n in range(10)), key=CLICK2DIAL)
    books = {
        CAMPAIGNS: (33, 30, 0, 1, 1, 1),
        CDRS: (20, 0, 20, 0, 0, 0),
        CLICK2DIAL: (10, 10, 0, 0, 0, 0),
    }
    return {key: dict(zip(FIGURES, figures, strict=True)) for key, figures in books.items()}


def added_up(books: dict[str, dict[str, int]]) -> dict[str, int]:
    return {figure: sum(each[figure] for each in books.values()) for figure in FIGURES}


def leave_a_claim(archive: Archive, worker: str, *messages: bytes) -> UUID:
    """What a run of that name leaves behind when it crashes."""
    archive.push(*messages)
    claim = Source(archive.redis, CAMPAIGNS, worker=worker).claim()
    assert claim is not None
    return claim.batch_id


# -- from cron


def test_given_waiting_messages_then_they_are_loaded_and_the_books_printed(archive: Archive) -> None:
    books = fill(archive)

    result = archive.run("run")

    assert (result.returncode, result.stderr) == (0, "")
    for key, figures in {**books, "all": added_up(books)}.items():
        (line,) = [line for line in result.stdout.splitlines() if f"│ {key} " in line]
        assert [int(cell) for cell in line.split("│")[2:-1]] == list(figures.values())
    assert "63 messages in 3 claims" in result.stdout
    assert "1 dead letters" in result.stdout
    assert archive.keys() == set()
    archive.assert_books_balance()


def on_terminal(archive: Archive, *arguments: str, until: Callable[[str], bool] = lambda _: False) -> tuple[str, str]:
    """What a run writes to stdout, a pipe, and to stderr, a terminal, without colours. SIGTERM ends it when `until`."""
    ours, theirs = pty.openpty()
    environment = archive.environment(TERM="xterm", COLUMNS="160")
    command = [sys.executable, "-m", "etl.cli", *arguments]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True)
        os.close(theirs)
        seen, ending = "", False
        try:
            with suppress(OSError):  # a terminal ends with an error when nobody writes to it any more
                while more := terminal.read(65_536):
                    seen += re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", more.decode())
                    if not ending and until(seen):
                        ending = True  # a second signal would cut it short
                        process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate(timeout=200)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, seen
    return printed, seen


@pytest.mark.parametrize("workers", ["1", "2"])
def test_given_a_terminal_then_a_bar_has_what_is_loaded_and_the_rate(archive: Archive, workers: str) -> None:
    archive.push(*(cdr(n) for n in range(1_200)))
    archive.push(b"junk", key=CDRS)

    printed, seen = on_terminal(archive, "run", "--workers", workers)

    assert "0 of 1,201 messages (0/s)" in seen
    assert re.search(r"1,201 of 1,201 messages \([1-9][\d,]*/s\)", seen)
    if workers == "1":  # a claim of junk alone is a warning, which has a line for itself
        assert re.search(r"\r\S+Z \[warning *\] loaded .*", seen)
    assert "1,201 messages in" in printed
    assert "messages (" not in printed


def test_given_json_then_the_terminal_has_no_bar(archive: Archive) -> None:
    archive.push(cdr(1))

    printed, seen = on_terminal(archive, "run", "--json")

    assert json.loads(printed)["total"]["inserted"] == 1
    assert seen == ""


def test_given_follow_then_the_terminal_has_the_log_and_no_bar(archive: Archive) -> None:
    archive.push(cdr(1))

    _, seen = on_terminal(archive, "run", "--follow", until=lambda seen: "loaded" in seen)

    assert "started" in seen
    assert "stopped" in seen
    assert "messages (" not in seen


@pytest.mark.parametrize("workers", ["1", "2"])
def test_given_json_then_stdout_is_one_object_and_nothing_else(archive: Archive, workers: str) -> None:
    books = fill(archive)

    result = archive.run("run", "--json", "--workers", workers)

    told = json.loads(result.stdout)
    assert (result.returncode, result.stderr, result.stdout.count("\n")) == (0, "", 1)
    assert told["total"] == added_up(books)
    if workers == "1":  # two may load the same call's dialects in either order
        assert {key: told["sources"][key] for key in books} == books
    assert (told["claims"], told["claimed_elsewhere"]) == (3, 0)
    assert archive.keys() == set()
    archive.assert_books_balance()


def test_given_a_claim_that_a_crashed_run_left_then_the_next_run_loads_it(archive: Archive) -> None:
    batch_id = leave_a_claim(archive, "test", cdr(1), cdr(2))
    archive.push(cdr(3))

    result = archive.run("run", "--json")

    assert (result.returncode, json.loads(result.stdout)["total"]["inserted"]) == (0, 3)
    assert archive.value("SELECT claimed FROM load_batches WHERE batch_id = %s", batch_id) == 2
    assert archive.keys() == set()
    archive.assert_books_balance()


def test_given_a_claim_of_another_worker_then_it_is_left_and_reported(archive: Archive) -> None:
    leave_a_claim(archive, "somebody-else", cdr(1))
    archive.push(cdr(2))

    result = archive.run("run")

    assert result.returncode == 0
    assert "1 claims are held by other workers" in result.stdout
    assert [row["call_ref"] for row in archive.rows("SELECT call_ref FROM cdrs")] == ["2"]


@pytest.mark.parametrize("options", [[], ["--follow"], ["--follow", "--workers", "2"]])
def test_given_an_empty_database_then_it_says_how_to_make_the_schema(
    archive: Archive, empty_database_url: str, options: list[str]
) -> None:
    archive.push(cdr(1))

    result = archive.run("run", *options, ETL_DATABASE_URL=empty_database_url)

    assert (result.returncode, result.stdout) == (2, "")
    assert "no schema yet: run `etl db upgrade`" in result.stderr
    assert "Traceback" not in result.stderr
    assert archive.redis.llen(CAMPAIGNS) == 1


def test_given_a_table_without_rights_then_one_line_and_nothing_is_lost(archive: Archive) -> None:
    archive.push(cdr(1))
    with psycopg.connect(archive.database_url) as connection:
        connection.execute(f"ALTER TABLE {load_batches.name} RENAME TO moved_away")

    result = archive.run("run", "--json")

    assert result.returncode == 1
    assert json.loads(result.stdout)["broken"][CAMPAIGNS].startswith("ETL-307: Postgres can't do what it was asked: ")
    assert result.stderr.splitlines()[-1].startswith("etl: ETL-407: not every list could be loaded: ")
    assert "Traceback" not in result.stderr
    with psycopg.connect(archive.database_url) as connection:
        connection.execute(f"ALTER TABLE moved_away RENAME TO {load_batches.name}")
    archive.load()
    assert archive.value("SELECT count(*) FROM cdrs") == 1
    archive.assert_books_balance()


# -- as a service


def push_until(done: threading.Event, archive: Archive, numbers: "itertools.count[int]") -> None:
    """A dialler that never stops, and never is more than some claims ahead."""
    while not done.is_set():
        archive.push(*(cdr(n) for n in itertools.islice(numbers, 50)))
        eventually(lambda: done.is_set() or archive.redis.llen(CAMPAIGNS) < 1_000)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 2)])
def test_given_a_signal_amid_the_load_then_exit_0_and_the_rest_comes_next(
    archive: Archive, log: Path, number: signal.Signals, workers: int
) -> None:
    numbers, done = itertools.count(), threading.Event()
    dialler = threading.Thread(target=push_until, args=(done, archive, numbers))
    dialler.start()
    try:
        with Worker(archive, log, "--workers", str(workers), ETL_BATCH_SIZE="100") as follower:
            follower.wait_for("loaded", times=5)
            # Ctrl-C reaches every process of the terminal's foreground group.
            others = follower.loaders() if number == signal.SIGINT else []
            for pid in (follower.pid, *others):
                os.kill(pid, number)
            assert follower.wait() == 0
    finally:
        done.set()
        dialler.join()

    assert "Traceback" not in follower.log()
    archive.load()
    assert archive.value("SELECT count(*) FROM cdrs") == next(numbers)
    assert archive.keys() == set(), "what was in hand was loaded or given back, and this run had it at once"
    archive.assert_books_balance()


def test_given_a_signal_at_rest_then_it_ends_with_0_and_leaves_nothing(archive: Archive, log: Path) -> None:
    with Worker(archive, log) as follower:
        archive.push(cdr(1))
        follower.wait_for("loaded")
        eventually(lambda: archive.keys() == set())
        assert follower.stop() == 0

    assert archive.keys() == set()
    assert len(follower.lines("stopped")) == 1


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def test_given_two_workers_if_one_is_killed_then_another_has_its_name(archive: Archive, log: Path) -> None:
    with Worker(archive, log, "--workers", "2", ETL_BATCH_SIZE="10") as workers:
        workers.wait_for("started", times=2)
        killed, survivor = workers.loaders()

        os.kill(killed, signal.SIGKILL)

        workers.wait_for("started", times=3)
        (death,) = workers.lines("worker_died")
        assert (death["worker"], death["exit_code"]) == ("test-1", -signal.SIGKILL)
        assert (len(workers.loaders()), is_running(survivor)) == (2, True)
        archive.push(*(cdr(n) for n in range(3_000)))
        eventually(lambda: archive.value("SELECT count(*) FROM cdrs") == 3_000)
        assert workers.stop() == 0

    loaded_by = archive.rows("SELECT DISTINCT worker FROM load_batches ORDER BY worker")
    assert [row["worker"] for row in loaded_by] == ["test-1", "test-2"]
    archive.assert_books_balance()


def test_given_a_supervisor_that_is_killed_then_its_workers_end_orderly(archive: Archive, log: Path) -> None:
    with Worker(archive, log, "--workers", "2") as workers:
        workers.wait_for("started", times=2)
        pids = workers.loaders()

        workers.kill()

        eventually(lambda: not any(map(is_running, pids)), what="orphans go on")
        assert len(workers.lines("stopped")) == 2
