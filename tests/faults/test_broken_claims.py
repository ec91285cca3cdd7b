"""Lists that are broken while claims of theirs wait to be adopted or rescued, or are in somebody's hand: they rest, and
once mended each claim is loaded once (promise 10)."""

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from etl.inbox.claims import Source
from etl.inbox.connection import connect
from etl.keys import SPOOL
from etl.lab.servers.private import PrivateRedis
from etl.settings import SourceSettings
from tests.faults.gate import closed_gate
from tests.faults.test_broken_lists import KEYS, QUICK, Fault, allow
from tests.faults.worker import Worker
from tests.redis_versions import server_of
from tests.world import Archive, cdr, eventually

SERVERS = ("valkey", "redis 7.0")
WHOLE = "whole"
CALLS = 3
OFTEN = {**QUICK, "etl.jobs.loader.ADOPT_EVERY_SECONDS": 0.5, "etl.jobs.loader.RESCUE_EVERY_SECONDS": 1.0}
# In which state the claims are that its worker left.
STATES = ("abandoned", "our own", "orphaned", "nameless")


@dataclass(frozen=True)
class Case:
    state: str
    fault: Fault

    @property
    def key(self) -> str:
        return self.fault.source

    def leave(self, client: Any) -> None:
        """A claim of all its calls."""
        client.lpush(self.key, *calls(self.key))
        worker = "test" if self.state == "our own" else "another"
        lease_ms = 60_000 if self.state == "our own" else 0
        claim = Source(client, self.key, worker=worker, lease_ms=lease_ms).claim()
        assert claim
        if self.state in ("orphaned", "nameless"):
            client.delete(f"{{{self.key}}}:claims")
        if self.state == "nameless":
            client.rename(f"{{{self.key}}}:claim:{claim.batch_id}", f"{{{self.key}}}:claim:nobody")


def calls(key: str) -> list[bytes]:
    return [cdr(f"{key}-{number}") for number in range(CALLS)]


def cases() -> Iterator[Case]:
    for number, (state, (pattern, right)) in enumerate(itertools.product(STATES, KEYS.items())):
        wrong = "string" if right == "zset" else "hash"
        yield Case(state, Fault(f"calls-{number}", pattern.format(key=f"calls-{number}"), wrong))


CASES = list(cases())


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with server_of(request.param, tmp_path_factory.mktemp("redis")) as private:
        yield private


@pytest.fixture
def many(server: PrivateRedis, database_url: str) -> Iterator[Archive]:
    with redis.Redis(port=server.port, protocol=2, driver_info=None) as client:
        client.flushall()
        lists = [
            SourceSettings(key=key, source=key, forward_to=f"{{{key}}}:forward")
            for key in [*(case.key for case in CASES), WHOLE]
        ]
        with Archive(server.url, database_url, client, lists) as archive:
            yield archive


def loaded(archive: Archive) -> dict[str, int]:
    rows = archive.rows("SELECT source, count(*) AS n FROM cdrs GROUP BY source")
    return {row["source"]: row["n"] for row in rows}


def test_given_claims_of_broken_lists_if_mended_then_each_is_loaded_once(many: Archive, log: Path) -> None:
    with connect(many.redis_url) as client:
        for case in CASES:
            case.leave(client)
    for case in CASES:
        case.fault.strike(many.redis)
        if case.fault.key != case.key:  # another waits, so that it's seen that the list is broken
            many.push(cdr(f"{case.key}-last"), key=case.key)
    with Worker(many, log, "--no-schedule", constants=OFTEN) as worker:
        many.push(*calls(WHOLE), key=WHOLE)
        eventually(lambda: loaded(many).get(WHOLE) == CALLS)
        eventually(lambda: {line["source_key"] for line in worker.lines("list_broken")} == {c.key for c in CASES})
        for case in CASES:
            case.fault.mend(many.redis)
        more = {case.key: CALLS + (case.fault.key != case.key) for case in CASES}
        eventually(lambda: loaded(many) == {**more, WHOLE: CALLS})
        eventually(lambda: not any(many.claims(case.key) for case in CASES))
        assert worker.stop() == 0
    assert many.value("SELECT sum(claimed) FROM load_batches") == sum(more.values()) + CALLS
    many.assert_books_balance()


@pytest.mark.parametrize("state", ["abandoned", "nameless"])
@pytest.mark.parametrize("pattern", KEYS)
def test_given_a_list_struck_while_its_claim_is_adopted_then_once(
    many: Archive, log: Path, state: str, pattern: str
) -> None:
    (case,) = (each for each in CASES if each.state == state and each.fault.key == pattern.format(key=each.key))
    many.sources = [each for each in many.sources if each.key in (case.key, WHOLE)]
    with connect(many.redis_url) as client:
        case.leave(client)
    with Worker(many, log, "--no-schedule", constants=OFTEN) as worker, closed_gate(many) as gate:
        gate.wait_for(1)
        case.fault.strike(many.redis)
        if case.fault.key != case.key:
            many.push(cdr(f"{case.key}-last"), key=case.key)
        gate.open()
        worker.wait_for("list_broken")
        many.push(*calls(WHOLE), key=WHOLE)
        eventually(lambda: loaded(many).get(WHOLE) == CALLS)
        case.fault.mend(many.redis)
        count = CALLS + (case.fault.key != case.key)
        eventually(lambda: loaded(many).get(case.key) == count)
        eventually(lambda: not many.claims(case.key))
        assert worker.stop() == 0
    assert many.value("SELECT sum(claimed) FROM load_batches") == count + CALLS
    many.assert_books_balance()


@pytest.mark.parametrize("state", STATES)
def test_given_a_claim_that_may_not_be_adopted_if_granted_then_once(
    many: Archive, server: PrivateRedis, log: Path, state: str
) -> None:
    case = next(each for each in CASES if each.state == state)
    many.sources = [each for each in many.sources if each.key in (case.key, WHOLE)]
    with connect(many.redis_url) as client:
        case.leave(client)
    granted = [
        each for key in (case.key, WHOLE, SPOOL) for each in (f"~{key}", f"~{{{key}}}:last", f"~{{{key}}}:forward")
    ]
    granted += [f"~{{{WHOLE}}}:*", f"~{{{SPOOL}}}:*"]
    allow(many.redis, *granted)
    try:
        many.redis_url = f"redis://loader:hunter2@127.0.0.1:{server.port}/0"
        with Worker(many, log, "--no-schedule", constants=OFTEN) as worker:
            many.push(*calls(WHOLE), key=WHOLE)
            many.push(cdr(f"{case.key}-last"), key=case.key)
            eventually(lambda: loaded(many) == {WHOLE: CALLS})
            worker.wait_for("list_broken")
            allow(many.redis, "allkeys")
            eventually(lambda: loaded(many) == {WHOLE: CALLS, case.key: CALLS + 1})
            eventually(lambda: not many.claims(case.key))
            assert worker.stop() == 0
    finally:
        many.redis.acl_deluser("loader")
    many.assert_books_balance()


def test_given_broken_lists_then_a_stop_signal_still_ends_it(many: Archive, log: Path) -> None:
    """More of them than threads, each with a claim that can't be given back."""
    some = CASES[: 2 * len(KEYS)]
    with closed_gate(many), Worker(many, log, "--no-schedule", constants=OFTEN) as worker:
        for case in some:
            many.push(*calls(case.key), key=case.key)
        eventually(lambda: any(many.claims(case.key) for case in some))
        for case in some:
            case.fault.strike(many.redis)
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait() == 0
    for case in some:
        case.fault.mend(many.redis)
    many.load()
    assert sum(loaded(many).values()) == CALLS * len(some)
    many.assert_books_balance()
