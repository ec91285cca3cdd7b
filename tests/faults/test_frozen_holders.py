"""Whoever freezes at any statement of any command, with whatever locks it holds by then: loading goes on, of the same
day too (promise 10); and what the frozen one had begun is done wholly, later, or not at all (promises 2 and 3)."""

import os
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import structlog

from etl.app.load import follow
from etl.app.sources import tallies_of
from tests.faults import tally
from tests.faults.sleepers import NEVER, Sleepers
from tests.lake import DAY, export, export_and_prune, load, on, with_lake
from tests.store import ROLES
from tests.world import Archive, eventually

# Each command that takes locks which loaders want, or may some day: of one day, or one person, or one letter.
COMMANDS = {
    "restore": "restore --day {day}",
    "export": "export --day {day}",
    "prune": "prune --keep-days 1 --dataset cdrs",
    "forget": "forget --contact C{number} --yes",
    "replay": "dead replay",
    "rollup": "rollup --all",
    "unite": "reconcile --unite --from {day} --to {day}",
}
# What they hold while they may freeze, loaders don't want.
HARMLESS = {"export", "rollup"}
KEY = {"ETL_FORGET_KEY": "k" * 32}
# Every so many statements; `make nightly` takes each.
STRIDE = int(os.environ.get("FROZEN_STRIDE", "7"))
FAR = 2_000  # days


@pytest.fixture
def place(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """With a net that needn't be waited for."""
    monkeypatch.setattr("etl.store.merge.WAIT_MS", 200)
    monkeypatch.setattr("etl.store.frozen.SECONDS", 0.3)
    execute(archive, "ALTER FUNCTION make_partition(text, date) SET lock_timeout = '200ms'")
    return with_lake(archive, tmp_path / "lake")


def execute(archive: Archive, statement: str) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(statement.encode())


def prepare(archive: Archive, command: str, number: int) -> list[str]:
    """A day for the command to work on; returns its arguments."""
    day = DAY + timedelta(days=number)
    load(archive, *(on(number, ref, contact_ref=f"C{number}") for ref in ("1", "2")))
    if command == "restore":
        export_and_prune(archive, day)
    elif command in ("prune", "forget"):
        assert export(archive, day).what == "exported"
    elif command == "replay":
        archive.push(on(number, "healed", padding="x" * 2_000))
        assert archive.load(max_message_bytes=1_500).dead == 1
    elif command == "unite":
        execute(archive, f"UPDATE cdrs SET leg = 1 WHERE dialed_on = '{day}'")
    return COMMANDS[command].format(day=day, number=number).split()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", COMMANDS)
def test_whoever_freezes_at_any_statement_stops_no_list(place: Archive, sleepers: Sleepers, command: str) -> None:
    arguments = prepare(place, command, 0)
    code, steps = sleepers.end(sleepers.start(place, NEVER, *arguments, steps="statements", **KEY))
    assert code == 0, sleepers.log()
    ended = 0
    for step in range(1, steps + 1, STRIDE):
        tally.note("freeze", f"etl {arguments[0]}", f"statement {step}")
        arguments = prepare(place, command, step)
        sleeper = sleepers.start(place, step, *arguments, steps="statements", **KEY)
        of_the_day = [on(step, ref, contact_ref=f"C{step}", note="late") for ref in ("1", "late", "healed")]
        place.push(*of_the_day, on(FAR + step, "of another day"))

        with structlog.testing.capture_logs() as logged:
            books = place.load(worker_name="other")
        assert (books.claimed, books.dead) == (4, 0), (step, sleepers.log())
        ended += [line["event"] for line in logged].count("frozen_session_ended")

        sleepers.end(sleeper)
        assert "Traceback" not in sleepers.log()
        again = place.run(*arguments, **KEY)
        assert again.returncode == 0, (step, again.stdout, again.stderr)
    assert ended > 0 or command in HARMLESS
    assert place.run("reconcile").returncode == 0


def test_given_a_frozen_one_that_may_not_be_ended_then_other_days_go_on(
    place: Archive, sleepers: Sleepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore of the superuser's, whom a loader may neither end nor look at; both days are of one list."""
    monkeypatch.setattr("etl.app.load.log", structlog.get_logger())
    execute(place, ROLES)
    _, last = sleepers.end(sleepers.start(place, NEVER, *prepare(place, "restore", 0), steps="statements"))
    sleeper = sleepers.start(place, last, *prepare(place, "restore", 1), steps="statements")
    loader = replace(place, database_url=place.database_url.replace("postgres@", "etl_loader@"))
    settings = loader.settings(lease_seconds=10, batch_size=1)
    stop = threading.Event()

    def days() -> set[object]:
        return {row["dialed_on"] for row in place.rows("SELECT dialed_on FROM cdrs WHERE extra ? 'note'")}

    with structlog.testing.capture_logs() as logged:
        place.push(on(1, "1", note="late"))
        thread = threading.Thread(target=lambda: follow(settings, stop, tallies_of(settings), False, False))
        thread.start()
        try:
            eventually(lambda: "claim_put_off" in {line["event"] for line in logged})
            place.push(on(FAR, "1", note="another day's"))
            eventually(lambda: days() == {DAY + timedelta(days=FAR)})
            eventually(lambda: "session_in_the_way" in {line["event"] for line in logged})
            sleepers.end(sleeper)
            eventually(lambda: days() == {DAY + timedelta(days=FAR), DAY + timedelta(days=1)})
        finally:
            stop.set()
            thread.join()
    (told,) = [line for line in logged if line["event"] == "session_in_the_way"]
    assert (told["role"], "pg_signal_backend" in told["error"]) == ("postgres", True)
    assert "frozen_session_ended" not in {line["event"] for line in logged}
    assert {"outage_began", "outage_ended"} <= {line["event"] for line in logged}
    place.assert_books_balance()
