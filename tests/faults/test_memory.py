"""How much memory is taken at the worst: by a claim that another worker died of, by dead letters of hundreds of MB."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etl.ids import uuid7
from etl.inbox.claims import MAX_CLAIM_BYTES
from etl.inbox.producer import push
from etl.keys import SPOOL
from etl.wire.spool import pack_heard
from tests.benchmarks.figures import memory_mib
from tests.cgroup import limited
from tests.faults.gate import closed_gate
from tests.faults.worker import Worker
from tests.world import CAMPAIGNS, DIALED_AT, Archive, cdr, eventually

MIB = 1024 * 1024
PUSHED = 20_000
NO_LIMIT = {"max_message_bytes": 10 * MIB}

EVENT = b'{"type": "status", "payload": {"ref": "2040", "note": "%b"}}'


def filled(sample: bytes) -> int:
    """So many of these make the largest claim."""
    return MAX_CLAIM_BYTES // len(sample)


def calls() -> list[bytes]:
    return [cdr(n) for n in range(filled(cdr(99_999)))]


def calls_of_many_days() -> list[bytes]:
    sample = cdr(99_999)
    return [cdr(n, dialed_at=DIALED_AT + n % 20 * 86_400) for n in range(filled(sample))]


def calls_that_repeat() -> list[bytes]:
    return [cdr(n % 10_000, call_time=n) for n in range(filled(cdr(99_999)))]


def large_events() -> list[bytes]:
    return [EVENT % (b"x" * 900_000)] * filled(EVENT % (b"x" * 900_000))


def large_junk() -> list[bytes]:
    return [b"{" * 900_000] * filled(b"{" * 900_000)


def small_junk() -> list[bytes]:
    return [b"not json"] * 200_000


def heard() -> list[bytes]:
    return [pack_heard(os.urandom(16), 0, b"enigma:notifications:campaigns:2040", EVENT % (b"x" * 2_000))] * 15_000


def abandon(archive: Archive, key: str, messages: list[bytes]) -> None:
    """As a claim whose worker is gone and whose lease has run out."""
    batch_id = uuid7(time.time_ns() // 1_000_000)
    for first in range(0, len(messages), PUSHED):
        archive.redis.rpush(f"{{{key}}}:claim:{batch_id}", *messages[first : first + PUSHED])
    archive.redis.zadd(f"{{{key}}}:claims", {f"{batch_id}@another": 0})


@pytest.mark.parametrize(
    "messages", [calls, calls_of_many_days, calls_that_repeat, large_events, large_junk, small_junk, heard]
)
def test_a_claim_that_another_died_of_takes_little_memory(own_archive: Archive, log: Path, messages: object) -> None:
    assert callable(messages)
    sent = messages()
    with Worker(own_archive, log) as worker:
        own_archive.push(cdr("first"), b"junk")
        worker.wait_for("loaded")
        idle = memory_mib(worker.pid, "VmRSS")
        abandon(own_archive, SPOOL if messages is heard else CAMPAIGNS, sent)
        eventually(lambda: worker.count("loaded") == 2, seconds=120)
        assert memory_mib(worker.pid, "VmHWM") - idle < 100
        assert worker.lines("loaded")[1]["claimed"] == len(sent)
        assert worker.lines("loaded")[1]["adopted"] is True
    own_archive.assert_books_balance()


def test_a_claim_in_pieces_takes_effect_as_it_would_in_one(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [cdr(n % 7, call_time=n % 11) if n % 5 else EVENT % str(n).encode() for n in range(60)] + [b"junk"] * 3
    calls = "SELECT source, call_ref, call_time FROM cdrs ORDER BY call_ref"
    revisions = "SELECT call_ref, call_time FROM cdr_revisions ORDER BY call_ref, call_time"
    others = "SELECT position, raw FROM dead_letters ORDER BY position"
    books = "SELECT claimed, inserted, updated, unchanged, events, dead FROM load_batches"
    days = "SELECT dataset, day, inserted, updated FROM load_batch_days ORDER BY dataset, day"
    seen = []
    for piece_bytes in (10 * MIB, 1_000, 1):
        for table in ("cdrs", "cdr_revisions", "dead_letters", "audit_events", "load_batches", "load_batch_days"):
            archive.rows(f"WITH gone AS (DELETE FROM {table} RETURNING 1) SELECT count(*) FROM gone")
        monkeypatch.setattr("etl.inbox.claims.PIECE_BYTES", piece_bytes)
        abandon(archive, CAMPAIGNS, messages)
        assert archive.load().claimed == len(messages)
        archive.assert_books_balance()
        seen.append([archive.rows(query) for query in (calls, revisions, others, books, days)])
    assert seen[0] == seen[1] == seen[2]


def test_a_claim_that_is_gone_before_it_is_read_is_nobody_s(archive: Archive, log: Path) -> None:
    """As when a worker sleeps for longer than the lease: another has loaded it."""
    archive.push(cdr(1))
    with Worker(archive, log, mishap="freeze:after_adopt") as worker:
        abandoned = uuid7(time.time_ns() // 1_000_000)
        archive.redis.rpush(f"{{{CAMPAIGNS}}}:claim:{abandoned}", cdr(2))
        archive.redis.zadd(f"{{{CAMPAIGNS}}}:claims", {f"{abandoned}@test": 2**53})
        worker.wait_until_frozen()
        archive.redis.delete(f"{{{CAMPAIGNS}}}:claim:{abandoned}", f"{{{CAMPAIGNS}}}:claims")
        worker.thaw()
        worker.wait_for("lease_lost")
        worker.wait_for("loaded")
    assert archive.value("SELECT array_agg(call_ref) FROM cdrs") == ["1"]
    archive.assert_books_balance()


def bury(archive: Archive, letters: int, each: bytes) -> None:
    archive.more = NO_LIMIT
    for _ in range(letters):
        push_one(archive, each)
        archive.load()
    assert archive.value("SELECT count(*) FROM dead_letters") == letters


def push_one(archive: Archive, message: bytes) -> None:
    push(archive.redis, CAMPAIGNS, [message], "right")


def peak(archive: Archive, output: Path, *arguments: str) -> tuple[float, str]:
    """MiB, and what was printed."""
    most = 0.0
    with output.open("w") as file:
        command = [sys.executable, "-m", "etl.cli", *arguments]
        process = subprocess.Popen(command, env=archive.environment(), stdout=file)
        try:
            while process.poll() is None:
                most = max(most, memory_mib(process.pid))
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    return most, output.read_text()


def test_a_replay_of_many_large_letters_takes_little_memory(own_archive: Archive, tmp_path: Path) -> None:
    bury(own_archive, 1, b"junk")
    few, _ = peak(own_archive, tmp_path / "printed", "dead", "replay", "--json")
    own_archive.rows(_COPIES.replace("<raw>", "convert_to(repeat('{', 5000000), 'UTF8')").replace("<most>", "80"))
    many, out = peak(own_archive, tmp_path / "printed", "dead", "replay", "--json")
    assert json.loads(out)["still_dead"] == 81
    assert many - few < 100


_COPIES = """
    INSERT INTO dead_letters (batch_id, position, source_key, reason, detail, raw, received_at)
    SELECT batch_id, n, source_key, reason, detail, <raw>, received_at
    FROM dead_letters, generate_series(1, <most>) AS n RETURNING 1
"""


def test_a_list_of_huge_letters_fetches_their_beginnings(own_archive: Archive, tmp_path: Path) -> None:
    bury(own_archive, 1, b"junk")
    few, _ = peak(own_archive, tmp_path / "printed", "dead", "list")
    own_archive.rows(_COPIES.replace("<raw>", "convert_to(repeat('{', 100000000), 'UTF8')").replace("<most>", "2"))
    for options in ([], ["--json"]):
        many, out = peak(own_archive, tmp_path / "printed", "dead", "list", *options)
        assert "{{{{{" in out or json.loads(out)["letters"][0]["bytes"] == 100_000_000
        assert many - few < 50


KILLED = "killed by signal 9, probably for want of memory"


def test_workers_that_are_killed_for_memory_load_everything(own_archive: Archive, log: Path) -> None:
    """A batch of the largest messages, decoded by two workers at once, is more than they may have."""
    messages = [EVENT % (str(number).encode() + b"x" * 900_000) for number in range(200)]
    for first in range(0, len(messages), 20):
        own_archive.redis.lpush(CAMPAIGNS, *messages[first : first + 20])

    def is_loaded() -> bool:
        count = own_archive.value("SELECT count(*) FROM audit_events")
        return bool(count == len(messages)) and not own_archive.claims(CAMPAIGNS)

    with limited(300 * MIB) as group:
        while not is_loaded():  # whom the kernel takes is its own affair: a service manager starts all of it again
            with Worker(own_archive, log, "--workers", "2", wrapper=group) as workers:
                eventually(lambda: is_loaded() or workers.process.poll() is not None, seconds=100)
                assert {line.get("cause") for line in workers.lines("worker_died")} <= {KILLED}
    own_archive.assert_books_balance()


def test_workers_killed_amid_adopting_are_told_and_it_is_loaded_once(archive: Archive, log: Path) -> None:
    abandon(archive, CAMPAIGNS, large_events())
    with closed_gate(archive) as gate, Worker(archive, log, "--workers", "2") as workers:
        gate.wait_for(1)
        for pid in workers.loaders():
            os.kill(pid, signal.SIGKILL)
        workers.wait_for("worker_died", times=2)
        gate.open()
        eventually(lambda: archive.value("SELECT count(*) FROM load_batches") == 1)
        eventually(lambda: not archive.claims())
        assert {line["cause"] for line in workers.lines("worker_died")} == {KILLED}
        assert workers.stop() == 0
    assert archive.value("SELECT count(*) FROM audit_events") == len(large_events())
    archive.assert_books_balance()


def test_a_worker_that_was_killed_is_told_with_the_likely_cause(archive: Archive, log: Path) -> None:
    with Worker(archive, log, "--workers", "2") as workers:
        workers.wait_for("started", times=2)
        os.kill(workers.loaders()[0], signal.SIGKILL)
        workers.wait_for("worker_died")
        [died] = workers.lines("worker_died")
        assert (died["exit_code"], died["cause"]) == (-9, KILLED)
