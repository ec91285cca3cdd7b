"""Gaps and islands: from the sessions that were reported, when nobody was proven to listen, and why."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from etl.app import database
from etl.ids import new_id, uuid7
from etl.store import schema
from etl.wire.spool import GapReason, Session, pack_session
from etl.wire.times import from_datetime
from tests.integration.test_figures_upgrade import upgrade as upgrade_to
from tests.store import engine
from tests.world import Archive

# All sessions of a test began on this day; only some last until now.
DAY = datetime(2026, 3, 1, tzinfo=UTC)

Gap = tuple[int | None, int | None, str]  # from, until: seconds of the day


def session(
    begin: int,
    proven: int,
    reason: GapReason | None = "stopped",
    *,
    name: str = "w",
    session_id: UUID | None = None,
    received: int = 0,
) -> Session:
    """By seconds of `DAY`. Without a reason it hasn't ended, or was killed."""
    return Session(
        session_id or new_id(),
        name,
        at(begin),
        at(proven),
        received=received,
        ignored=0,
        dropped=0,
        ended_at=at(proven + 1) if reason else None,
        reason=reason,
    )


def at(second: float) -> int:
    return from_datetime(DAY + timedelta(seconds=second))


def report(archive: Archive, *sessions: Session) -> None:
    archive.redis.lpush("etl:events", *map(pack_session, sessions))
    archive.load()


def second(moment: datetime | None) -> int | None:
    return None if moment is None else round((moment - DAY).total_seconds())


def gaps(archive: Archive) -> list[Gap]:
    rows = archive.rows("SELECT * FROM audit_gaps ORDER BY gap_from NULLS FIRST, gap_until")
    return [(second(row["gap_from"]), second(row["gap_until"]), row["reason"]) for row in rows]


def test_without_any_session_it_was_never_started(archive: Archive) -> None:
    assert gaps(archive) == [(None, None, "never started")]


@pytest.mark.parametrize("reason", ["stopped", "connection lost", "probe lost", "overflow"])
def test_a_gap_has_the_reason_of_the_session_before(archive: Archive, reason: GapReason) -> None:
    report(archive, session(100, 200, reason), session(260, 300, "stopped"))
    assert gaps(archive) == [(None, 100, "never started"), (200, 260, reason), (300, None, "stopped")]


def test_a_session_that_was_killed_stopped(archive: Archive) -> None:
    report(archive, session(100, 200, None), session(260, 300, None))
    assert gaps(archive) == [(None, 100, "never started"), (200, 260, "stopped"), (300, None, "stopped")]


@pytest.mark.parametrize(
    ("sessions", "between"),
    [
        # one within another, and of another host: the gap is where the longer one ends
        ([(100, 500, "probe lost"), (200, 300, "overflow"), (600, 700, "stopped")], [(500, 600, "probe lost")]),
        # they overlap
        ([(100, 300, "overflow"), (200, 400, "probe lost"), (500, 600, "stopped")], [(400, 500, "probe lost")]),
        # the next begins in the very moment
        ([(100, 300, "overflow"), (300, 400, "stopped")], []),
        # the stand-by's clock is behind: it began before the other ended, and no gap is negative
        ([(100, 300, "stopped"), (298, 400, "stopped")], []),
        ([(100, 300, "stopped"), (298, 299, "overflow"), (310, 400, "stopped")], [(300, 310, "stopped")]),
        # one that was never proven beyond its beginning
        (
            [(100, 300, "overflow"), (350, 350, "probe lost"), (400, 500, "stopped")],
            [(300, 350, "overflow"), (350, 400, "probe lost")],
        ),
        # two that began at once
        ([(100, 300, "overflow"), (100, 200, "stopped"), (400, 500, "stopped")], [(300, 400, "overflow")]),
    ],
)
def test_gaps_lie_between_islands(
    archive: Archive, sessions: Sequence[tuple[int, int, GapReason]], between: list[Gap]
) -> None:
    report(archive, *(session(begin, proven, reason) for begin, proven, reason in sessions))
    found = gaps(archive)
    assert found[0] == (None, 100, "never started")
    assert found[1:-1] == between
    assert found[-1][:2] == (max(proven for _, proven, _ in sessions), None)


def test_while_a_session_goes_on_there_is_no_open_gap(archive: Archive) -> None:
    now = round((datetime.now(UTC) - DAY).total_seconds())
    report(archive, session(100, 200, "overflow"), session(300, now, None))
    assert gaps(archive) == [(None, 100, "never started"), (200, 300, "overflow")]


def test_a_session_that_has_just_ended_leaves_an_open_gap_at_once(archive: Archive) -> None:
    now = round((datetime.now(UTC) - DAY).total_seconds())
    report(archive, session(100, now, "stopped"))
    assert gaps(archive) == [(None, 100, "never started"), (now, None, "stopped")]


def test_one_whose_clock_is_behind_is_listening_all_the_same(archive: Archive) -> None:
    now = round((datetime.now(UTC) - DAY).total_seconds())
    report(archive, session(100, now, "stopped"), session(now - 3, now - 2, None))
    assert gaps(archive) == [(None, 100, "never started")]


def test_reports_may_come_in_any_order_and_again(archive: Archive) -> None:
    one = uuid7(1)
    early = session(100, 110, None, session_id=one, received=1)
    later = session(100, 150, None, session_id=one, received=5)
    last = session(100, 200, "probe lost", session_id=one, received=9)
    for reports in ((later, early), (last,), (early, later, last), (later,), (early,)):
        report(archive, *reports)
    (row,) = archive.rows("SELECT * FROM listener_sessions")
    assert (row["received"], row["reason"]) == (9, "probe lost")
    assert gaps(archive) == [(None, 100, "never started"), (200, None, "probe lost")]
    archive.assert_books_balance()


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (0, 600, [(0, 100, "never started"), (200, 300, "overflow"), (400, 600, "stopped")]),
        (250, 280, [(250, 280, "overflow")]),
        (150, 250, [(200, 250, "overflow")]),
        (100, 200, []),
        (200, 300, [(200, 300, "overflow")]),
        (500, 600, [(500, 600, "stopped")]),
    ],
)
def test_gaps_are_cut_to_the_period(archive: Archive, since: int, until: int, expected: list[Gap]) -> None:
    report(archive, session(100, 200, "overflow"), session(300, 400, "stopped"))
    found = database.gaps(archive.settings(), DAY + timedelta(seconds=since), DAY + timedelta(seconds=until))
    assert [(second(gap.gap_from), second(gap.gap_until), gap.reason) for gap in found] == expected


def test_etl_gaps_prints_them_for_people_and_for_programs(archive: Archive) -> None:
    report(archive, session(100, 200, "overflow"), session(300, 400, "stopped"))
    period = ("--since", "2026-03-01T00:02:30", "--until", "2026-03-01T00:06:00")
    assert printed(archive, *period) == {
        "since": "2026-03-01T00:02:30+00:00",
        "until": "2026-03-01T00:06:00+00:00",
        "gaps": [
            {
                "from": "2026-03-01T00:03:20+00:00",
                "until": "2026-03-01T00:05:00+00:00",
                "seconds": 100.0,
                "reason": "overflow",
                "server": None,
                "patterns": None,
            }
        ],
    }
    shown = archive.run("gaps", *period).stdout
    assert "2026-03-01 00:03:20" in shown
    assert "100.0" in shown
    assert "overflow" in shown


def printed(archive: Archive, *arguments: str) -> Any:
    result = archive.run("gaps", "--json", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_etl_gaps_of_an_archive_without_a_listener_is_the_whole_period(archive: Archive) -> None:
    (gap,) = printed(archive)["gaps"]
    assert (gap["seconds"], gap["reason"]) == (86_400.0, "never started")


def test_etl_gaps_refuses_a_period_that_ends_before_it_begins(archive: Archive) -> None:
    result = archive.run("gaps", "--since", "2026-03-02", "--until", "2026-03-01")
    assert result.returncode == 2
    assert "must be earlier than --until" in result.stderr


def test_given_a_proof_from_the_future_then_an_upgrade_holds_it_back(empty_database_url: str) -> None:
    """As 0.1 stored it."""
    with engine(empty_database_url) as connections:
        upgrade_to(connections, "0011")
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            batch_id = new_id()
            connection.execute(
                "INSERT INTO load_batches (batch_id, worker, source_key, claimed_at, committed_at, claimed, inserted,"
                " updated, unchanged, events, dead) VALUES (%s, 'w', 'etl:events', %s, %s, 1, 0, 0, 0, 1, 0)",
                [batch_id, DAY + timedelta(seconds=99), DAY + timedelta(seconds=100)],
            )
            connection.execute(
                "INSERT INTO listener_sessions (session_id, listener, subscribed_at, proven_until, received, ignored,"
                " dropped, batch_id) VALUES (%s, 'w', %s, now() + interval '1 day', 0, 0, 0, %s)",
                [new_id(), DAY, batch_id],
            )
            assert connection.execute("SELECT FROM audit_gaps WHERE gap_from IS NOT NULL").fetchall() == []
            schema.upgrade(connections)
            found = connection.execute("SELECT gap_from, gap_until FROM audit_gaps WHERE gap_from IS NOT NULL")
            assert found.fetchall() == [(DAY + timedelta(seconds=100), None)]
