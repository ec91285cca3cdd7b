"""Durations that can't be right, below 0 or above a day: cdrs keep them as they were sent, and nothing counts them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from etl.reporting.rollup import rollup
from etl.wire.spool import pack_session
from tests.integration.test_reporting_rollup import assert_kept_is_plain, status
from tests.integration.test_reporting_truth import session
from tests.lake import SPOOL, load
from tests.rows import BEGIN, row, store
from tests.store import engine
from tests.world import DIALED_AT, Archive, cdr

A_DAY = 86_400  # seconds
NEVER_BEGUN = -1_795_563_614  # minus a Unix time
SENT = [None, NEVER_BEGUN, -(2**31), -1, 0, 1, 77, A_DAY - 1, A_DAY, A_DAY + 1, 2**31 - 1]
MOMENTS = ["dialed_at", "answered_at", "connected_at", "ended_at"]
SECONDS = {"ring_seconds": "ring_time", "hold_seconds": "hold_time", "talk_seconds": "call_time"}
# Before the archive's first day, and long after its last one: further apart than an integer has seconds.
OFFSETS = [*(timedelta(seconds=n) for n in (-A_DAY, -1, 0, 0.4, 5, 60, A_DAY, A_DAY + 1)), timedelta(days=-5_000)]
FAR = datetime(9999, 12, 31, tzinfo=UTC)


@pytest.fixture
def database(archive: Archive) -> Iterator[sa.Engine]:
    with engine(archive.database_url) as opened:
        yield opened


def odd_calls(number: int) -> list[dict[str, Any]]:
    """Any of these seconds beside any of these moments, of one dialect or of both."""
    dice = Random(number)
    found = []
    for call_ref in range(number):
        columns: dict[str, Any] = {"contact_ref": f"M{call_ref % 50}"}
        if dice.random() < 0.8:
            columns |= {name: dice.choice(SENT) for name in SECONDS.values()}
        moment = last = BEGIN + timedelta(seconds=dice.random())
        for name in MOMENTS[1:] if dice.random() < 0.7 else []:
            columns[name] = dice.choice([None, FAR, *(last + each for each in OFFSETS)])
            last = columns[name] if columns[name] not in (None, FAR) else last
        found.append(row(call_ref, moment, **columns))
    return found


def lengths(call: dict[str, Any]) -> tuple[list[int | None], int]:
    """Ring, hold and talk as they may be counted, and how many of them are absurd as sent."""
    counted: list[int | None] = []
    absurd = 0
    for name, (begin, end) in zip(SECONDS.values(), pairwise(MOMENTS), strict=True):
        sent: list[int | None] = [call.get(name)]
        if call.get(begin) and call.get(end):
            sent.append(int((call[end].replace(microsecond=0) - call[begin].replace(microsecond=0)).total_seconds()))
        told = [seconds for seconds in sent if seconds is not None]
        counted.append(next((seconds for seconds in told if 0 <= seconds <= A_DAY), None))
        absurd += bool(told) and not 0 <= told[0] <= A_DAY
    return counted, absurd


def test_no_view_shows_a_duration_that_cannot_be(archive: Archive, database: sa.Engine) -> None:
    calls = {call["call_ref"]: call for call in odd_calls(600)}
    store(archive, *calls.values())

    asked = "SELECT * FROM reporting."
    for view in ("calls", "calls_unmasked", "call_audit"):
        for found in archive.rows(f"{asked}{view}"):
            counted, absurd = lengths(calls[found["call_ref"]])
            assert [found[name] for name in SECONDS] == counted
            assert found.get("absurd_durations", absurd) == absurd
    for found in archive.rows(f"{asked}contact_history"):
        assert found["talk_seconds"] == lengths(calls[found["call_ref"]])[0][2]
    kept = archive.rows("SELECT call_ref, ring_time, hold_time, call_time FROM cdrs")
    assert all(found[name] == calls[found["call_ref"]].get(name) for found in kept for name in SECONDS.values())
    rollup(database)
    assert_kept_is_plain(archive)
    told = archive.value("SELECT absurd_durations FROM reporting.campaign_days")
    assert told == sum(lengths(call)[1] > 0 for call in calls.values()) > 100


def test_an_average_is_of_the_calls_whose_duration_is_known(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1, call_time=100, hold_time=10), cdr(2, call_time=NEVER_BEGUN, hold_time=20))
    load(archive, cdr(3, call_time=200, hold_time=-1), cdr(4, call_time=300, hold_time=A_DAY + 1))
    rollup(database)

    (campaign,) = archive.rows("SELECT * FROM reporting.campaign_days")
    assert (campaign["talk_seconds"], campaign["talked"], campaign["average_talk_seconds"]) == (600, 3, 200)
    assert (campaign["hold_seconds"], campaign["held"], campaign["average_hold_seconds"]) == (30, 2, 15)
    (agent,) = archive.rows("SELECT * FROM reporting.agent_days")
    assert (agent["talk_seconds"], agent["hold_seconds"], agent["average_handle_seconds"]) == (600, 30, 215)
    assert campaign["absurd_durations"] == agent["absurd_durations"] == 3
    assert archive.cdr(2)["call_time"] == NEVER_BEGUN


ABSURD: list[dict[str, Any]] = [
    {"call_time": 2**31 - 1},
    {"call_time": NEVER_BEGUN},
    {"hold_time": 2**31 - 1, "ring_time": 2**31 - 1},
    {"uuid": "b", "ended_at": FAR},
    {"uuid": "b", "ended_at": BEGIN - timedelta(days=900)},
    {"uuid": "b", "connected_at": FAR},
    {"uuid": "b", "connected_at": BEGIN - timedelta(days=900)},
]


def test_a_call_is_looked_for_in_the_trail_when_it_was(archive: Archive) -> None:
    """Somebody listened from an hour before these calls to an hour after; the agent was busy all the while."""
    load(archive, pack_session(session(DIALED_AT - 3_600, DIALED_AT + 3_600)), key=SPOOL)
    load(archive, status(1, "1002", BEGIN - timedelta(minutes=9), "busy"), key=SPOOL)
    load(archive, status(2, "1002", BEGIN + timedelta(minutes=9), "available"), key=SPOOL)
    store(archive, *(row(number, **columns) for number, columns in enumerate(ABSURD)))
    with engine(archive.database_url) as connections:
        rollup(connections)

    unheard = archive.rows("SELECT call_ref, lacks FROM reporting.unmatched_calls ORDER BY call_ref")
    assert unheard == [{"call_ref": str(number), "lacks": "event"} for number in range(len(ABSURD))]
    audited = archive.rows("SELECT agent_states FROM reporting.call_audit")
    assert [[state["status"] for state in each["agent_states"]] for each in audited] == [["busy"]] * len(ABSURD)
