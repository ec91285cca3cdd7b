"""The kept figures are those that a plain computation finds, whatever came late, was corrected, was pruned, came back,
or happened while they were computed. How right the figures are in themselves is in test_reporting_truth."""

import json
import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
import sqlalchemy as sa

from etl.reporting import rollup as figures_of
from etl.reporting.rollup import rollup
from etl.wire.spool import pack_heard, pack_session
from etl.wire.times import from_datetime
from tests.integration.test_reporting_truth import session
from tests.lake import DAY, SPOOL, export, export_and_prune, load, on, prune, with_lake
from tests.reporting import ANSWERED, Call, Change, Preview, assert_equal, expected, figures, states_of
from tests.store import at_once, engine
from tests.world import Archive, api_cdr, cdr, eventually

pytestmark = pytest.mark.versions

MIDNIGHT = datetime(2015, 2, 19, tzinfo=UTC)
REASONS = [
    "hungup",
    "callee_hungup",
    "busy",
    "timeout",
    "voicemail",
    "odd",
    "machine_left_message",
    "Answer Machine",
    None,
]
FAR = datetime.max.replace(tzinfo=UTC)


@pytest.fixture
def database(archive: Archive) -> Iterator[sa.Engine]:
    with engine(archive.database_url) as opened:
        yield opened


def in_zone(archive: Archive, zone: str) -> None:
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", zone)


def status(number: int, extension: str, at: datetime, what: str) -> bytes:
    message = json.dumps({"type": "status", "payload": {"status": what, "campaign_ref": "2040"}}).encode()
    channel = f"enigma:notifications:agents:{extension}".encode()
    return pack_heard(UUID(int=number).bytes, from_datetime(at), channel, message)


def listened(archive: Archive, *stretches: tuple[float, float]) -> None:
    """Hours from `MIDNIGHT` in which somebody did."""
    base = int(MIDNIGHT.timestamp())
    load(
        archive,
        *(pack_session(session(base + int(a * 3_600), base + int(b * 3_600))) for a, b in stretches),
        key=SPOOL,
    )


# -- the plain computation


def plain(archive: Archive) -> dict[str, Any]:
    """From the archive's own rows, all at once."""
    zone = ZoneInfo(archive.value("SELECT zone FROM reporting.settings"))
    changes = archive.rows(
        "SELECT * FROM audit_events WHERE kind = 'agents' AND event_type = 'status' ORDER BY captured_at, event_id"
    )
    gaps = archive.rows("SELECT * FROM audit_gaps")
    states = states_of(
        (Change(row["extension"], row["captured_at"], row["status"]) for row in changes),
        [(gap["gap_from"] or MIDNIGHT - timedelta(days=999), gap["gap_until"] or FAR) for gap in gaps],
    )
    calls = [call(row) for row in archive.rows("SELECT * FROM cdrs")]
    return expected(calls, states, datetime.now(UTC), zone, previews(archive))


def previews(archive: Archive) -> list[Preview]:
    return [
        (row["captured_at"], row["campaign_ref"], callee.get("contact_ref") or callee["number"])
        for row in archive.rows("SELECT * FROM audit_events WHERE event_type = 'dial_preview'")
        if isinstance(row["payload"]["callees"], list)
        for callee in row["payload"]["callees"]
    ]


def call(row: dict[str, Any]) -> Call:
    moments = [
        row[name] and row[name].replace(microsecond=0)
        for name in ("dialed_at", "answered_at", "connected_at", "ended_at")
    ]
    sent = [row[name] for name in ("ring_time", "hold_time", "call_time")]
    between = [None if None in (a, b) else int((b - a).total_seconds()) for a, b in pairwise(moments)]
    ring, hold, talk = (
        next((length for length in both if is_sane(length)), None) for both in zip(sent, between, strict=True)
    )
    reached = row["end_reason"] in ANSWERED or row["answered_at"] is not None
    first_told = [a if a is not None else b for a, b in zip(sent, between, strict=True)]
    return Call(
        **{
            name: row[name] for name in ("source", "call_ref", "leg", "dialed_at", "contact_ref", "extension", "number")
        },
        campaign=row["campaign_ref"],
        end_reason=row["end_reason"],
        has_answered_at=row["answered_at"] is not None,
        ring=ring,
        hold=hold,
        talk=talk,
        call_dir=row["call_dir"],
        wait=hold if hold is not None or (reached and row["extension"]) else given_up(moments),
        absurd=sum(length is not None and not is_sane(length) for length in first_told),
    )


def given_up(moments: list[datetime | None]) -> int | None:
    """How long after the answer it ended."""
    _, answered_at, _, ended_at = moments
    length = int((ended_at - answered_at).total_seconds()) if answered_at and ended_at else None
    return length if is_sane(length) else None


def is_sane(length: int | None) -> bool:
    """A day has 86,400 seconds."""
    return length is not None and 0 <= length <= 86_400


def assert_kept_is_plain(archive: Archive) -> None:
    assert_equal(figures(archive), plain(archive))


def assert_days_have_the_views_states(archive: Archive) -> None:
    for first in (DAY + timedelta(days=n) for n in range(-1, 6)):
        for last in (first, first + timedelta(days=2)):
            of_view = (
                f"SELECT s::text FROM reporting.agent_states s WHERE day BETWEEN '{first}' AND '{last}' ORDER BY 1"
            )
            of_function = f"SELECT s::text FROM reporting.agent_states_between('{first}', '{last}') s ORDER BY 1"
            assert archive.rows(of_function) == archive.rows(of_view), (first, last)


# -- rounds of random news


@pytest.mark.parametrize("seed", range(2))
def test_after_any_news_the_kept_figures_are_the_plain_ones(
    archive: Archive, database: sa.Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = Random(seed)
    listened(archive, (-200, 20), (21, 60), (60.5, 200))
    zones = ["UTC", "America/Los_Angeles", "Asia/Kolkata", "America/Los_Angeles", "Europe/London"]
    for number, zone in enumerate(zones):
        in_zone(archive, zone)
        monkeypatch.setattr(figures_of, "_STRETCH_DAYS", 1 + number % 3)
        for key, messages in news(dice, number * 1_000).items():
            load(archive, *messages, key=key)
        since = datetime.now(UTC) - timedelta(hours=1) if number % 2 else None  # all of it was committed within that
        days = rollup(database, since=since)
        assert days == sorted(set(days))
        assert_kept_is_plain(archive)
        assert_days_have_the_views_states(archive)
    assert archive.value("SELECT bool_and(figures_current) FROM reporting.load_days")
    settled = archive.value("SELECT count(*) FROM reporting.rolled_up")
    assert rollup(database) == []
    assert archive.value("SELECT count(*) FROM reporting.rolled_up") == settled


def news(dice: Random, first: int) -> dict[str, list[bytes]]:
    """Calls of four days in both dialects, many of which were there before and say something else now; and what their
    agents did, some of which comes late."""
    calls: dict[str, list[bytes]] = {"enigma:notifications:campaigns": [], "enigma:notifications:cdrs": []}
    for _ in range(60):
        ref = dice.randrange(80)
        dialed_at = MIDNIGHT + timedelta(seconds=Random(ref).randrange(4 * 86_400))  # a call stays on its day
        agent, reason = dice.choice(["1", "2", None]), dice.choice(REASONS)
        about: dict[str, object] = {"end_reason": reason, "ref": dice.choice(["2040", "2041", None])}
        about["call_dir"] = dice.choice(["outbound", "outbound", "inbound", "inbound", None, "internal"])
        if dice.random() < 0.6:
            more = {"contact_ref": dice.choice(["M1", "M2", "", None]), "call_time": seconds(dice)}
            more |= {"hold_time": seconds(dice), "ring_time_number": seconds(dice)}
            more |= {
                "extension": agent,
                "dialed_at": int(dialed_at.timestamp()),
                "number": dice.choice(["07", "08", ""]),
            }
            calls["enigma:notifications:campaigns"].append(cdr(ref, **about, **more))
        else:
            times = [(dialed_at + timedelta(seconds=n + dice.random() + wrong(dice))).isoformat() for n in (9, 11, 70)]
            names = ("callee_answered_at", "agent_answered_at", "ended_at")
            known = {name: time if dice.random() < 0.7 else None for name, time in zip(names, times, strict=True)}
            more = {"agent": agent, "dialed_at": dialed_at.isoformat(), **known}
            calls["enigma:notifications:cdrs"].append(api_cdr(ref, **about, **more))
    states = ["logging_in", "available", "busy", "wrapup", "available", "logging_out", "offline"]
    heard = [
        status(
            first + number,
            dice.choice(["1", "1", "1", "2", "3"]),
            MIDNIGHT + timedelta(seconds=dice.randrange(4 * 86_400)),
            dice.choice(states),
        )
        for number in range(12)
    ]
    heard += [preview(dice, first + number) for number in range(12, 18)]
    return {**calls, SPOOL: heard}


def preview(dice: Random, number: int) -> bytes:
    callees = [{"contact_ref": dice.choice(["M1", "M2", "M3", "", None]), "number": "07"} for _ in range(3)]
    payload = {"callees": dice.choice([callees, callees, [], "none"]), "ref": dice.choice(["2040", "2041", "2042"])}
    at = MIDNIGHT + timedelta(seconds=dice.randrange(4 * 86_400))
    message = json.dumps({"type": "dial_preview", "payload": payload}).encode()
    channel = f"enigma:notifications:campaigns:{payload['ref']}".encode()
    return pack_heard(UUID(int=number).bytes, from_datetime(at), channel, message)


def seconds(dice: Random) -> int | None:
    """Of a call, or of a dialler whose clock was set, or that noted no beginning."""
    odd = [None, -1, 0, 86_399, 86_400, 86_401, -1_795_563_614, 2**31 - 1, -(2**31)]
    return dice.randrange(90) if dice.random() < 0.7 else dice.choice(odd)


def wrong(dice: Random) -> int:
    """By how many seconds a moment is."""
    return 0 if dice.random() < 0.8 else dice.choice([-30, -86_400, 86_330, 86_400, -400_000_000, 2_000_000_000])


# -- agents' time


def hours_of(archive: Archive) -> dict[date, tuple[int, int]]:
    """Logged in, in hours, and unclosed states, by day."""
    rows = archive.rows("SELECT * FROM reporting.agent_days ORDER BY day")
    return {row["day"]: (round(row["logged_in_seconds"] / 3_600), row["unclosed"]) for row in rows}


def test_an_agent_who_never_logged_out_loses_what_was_counted(archive: Archive, database: sa.Engine) -> None:
    """What was told on Thursday is closed by a login on Sunday: the days in between are other days' figures."""
    listened(archive, (0, 100))
    load(archive, status(1, "1002", MIDNIGHT + timedelta(hours=12), "available"), key=SPOOL)
    rollup(database)
    assert hours_of(archive) == {DAY: (12, 0), DAY + timedelta(days=1): (24, 0)}, "as far as anybody knows"

    load(archive, status(2, "1002", MIDNIGHT + timedelta(days=3, hours=9), "logging_in"), key=SPOOL)
    rollup(database)
    assert hours_of(archive) == {DAY: (0, 1), DAY + timedelta(days=3): (15, 0), DAY + timedelta(days=4): (4, 0)}
    assert_kept_is_plain(archive)


def test_a_state_that_lasts_counts_until_now(archive: Archive, database: sa.Engine) -> None:
    now = datetime.now(UTC)
    # It's noon, so that no midnight lies in these three hours.
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", f"Etc/GMT{now.hour - 12:+d}")
    running = session(int(now.timestamp()) - 9_000, int(now.timestamp()) + 5)
    load(archive, pack_session(running), status(1, "1002", now - timedelta(hours=2), "available"), key=SPOOL)
    archive.rows("UPDATE listener_sessions SET ended_at = NULL, reason = NULL RETURNING session_id")

    first = rollup(database)
    (state,) = archive.rows("SELECT state_until, closed_by FROM reporting.agent_states")
    assert (state["state_until"], state["closed_by"]) == (None, "open")
    counted = "SELECT sum(available_seconds) FROM reporting.agent_days"
    before = archive.value(counted)
    assert before == pytest.approx(7_200, abs=30)

    # an hour later nothing has been said, and it still lasts
    archive.rows("UPDATE reporting.status_changes SET at = at - interval '1 hour' RETURNING at")
    archive.rows("UPDATE listener_sessions SET subscribed_at = subscribed_at - interval '1 hour' RETURNING session_id")
    assert {*rollup(database)} <= {*first, first[0] - timedelta(days=1)}
    assert archive.value(counted) == pytest.approx(10_800, abs=30)


# -- what happens meanwhile


def attempts(archive: Archive) -> dict[date, int]:
    return {row["day"]: row["attempts"] for row in archive.rows("SELECT * FROM reporting.campaign_days")}


def test_killed_in_the_middle_it_is_done_again(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1), on(1, 2))
    rollup(database)
    load(archive, cdr(3), on(1, 4))
    with psycopg.connect(archive.database_url) as other, archive.process("rollup") as process:
        # campaigns are done by then, and agents are next
        other.execute("LOCK TABLE reporting.agent_call_figures IN EXCLUSIVE MODE")
        waits = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'reporting.agent_call_figures'::regclass"
        )
        eventually(lambda: archive.value(waits), what="it never came there")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert attempts(archive) == {DAY: 1, DAY + timedelta(days=1): 1}

    assert rollup(database) == [DAY, DAY + timedelta(days=1)]
    assert attempts(archive) == {DAY: 2, DAY + timedelta(days=1): 2}
    assert_kept_is_plain(archive)


def test_two_at_once_do_what_one_does(archive: Archive, database: sa.Engine) -> None:
    load(archive, *(on(n % 5, n) for n in range(40)))
    done = at_once(*[partial(rollup, database)] * 3)
    assert [DAY + timedelta(days=n) for n in range(5)] in done
    assert_kept_is_plain(archive)
    assert rollup(database) == []


def test_what_commits_meanwhile_is_not_forgotten(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1))
    rollup(database, progress=lambda _: load(archive, cdr(2)))
    assert attempts(archive) == {DAY: 1}
    assert archive.value("SELECT figures_current FROM reporting.load_days WHERE cdrs > 0") is False
    rollup(database)
    assert attempts(archive) == {DAY: 2}


def test_with_since_only_what_was_committed_lately_is_looked_at(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1))
    assert rollup(database, since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert rollup(database, since=datetime.now(UTC) - timedelta(hours=1)) == [DAY]


# -- days that only the lake has


def test_a_forgotten_day_keeps_its_figures_until_the_lake_brings_it_back(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1), cdr(2))
    rollup(database)
    export_and_prune(archive)
    assert rollup(database, everything=True) == []
    assert attempts(archive) == {DAY: 2}
    books = "SELECT * FROM reporting.load_days WHERE cdrs > 0"
    assert [archive.rows(books)[0][name] for name in ("dropped", "export_current", "figures_current")] == [True] * 3

    load(archive, cdr(3), cdr(1, call_time=99))  # late, and waiting for the rest of their day
    assert rollup(database) == []
    assert attempts(archive) == {DAY: 2}
    assert [archive.rows(books)[0][name] for name in ("export_current", "figures_current", "trusted")] == [False] * 3

    assert export(archive).what == "exported"
    assert rollup(database) == [DAY]
    assert attempts(archive) == {DAY: 3}
    assert_kept_is_plain(archive)
    assert prune(archive).what == "dropped"
    assert rollup(database) == []
    assert attempts(archive) == {DAY: 3}


def test_a_business_day_partly_on_a_dropped_day_keeps_its_figures(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    with_lake(archive, tmp_path / "lake")
    in_zone(archive, "Asia/Kolkata")
    # 21:06 UTC is 02:36 of the next day
    load(archive, cdr(1), cdr(2, dialed_at=int(MIDNIGHT.timestamp()) + 90_000), on(1, 3))
    rollup(database)
    before = {DAY + timedelta(days=1): 2, DAY + timedelta(days=2): 1}
    assert attempts(archive) == before
    export_and_prune(archive)

    load(archive, on(1, 4))
    assert rollup(database) == [DAY + timedelta(days=2)]
    assert attempts(archive) == {**before, DAY + timedelta(days=2): 2}


def test_a_day_that_is_pruned_while_figures_are_computed_keeps_them(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    with_lake(archive, tmp_path / "lake")
    later = DAY + timedelta(days=1)
    load(archive, cdr(1), on(1, 2))
    rollup(database)

    def told(day: date) -> None:
        if day == DAY:
            export_and_prune(archive, later)

    assert rollup(database, everything=True, progress=told) == [DAY]
    assert attempts(archive) == {DAY: 1, later: 1}


# -- the command


def test_the_command_tells_which_days_it_computed(archive: Archive) -> None:
    load(archive, cdr(1), on(2, 2))
    days = [str(DAY), str(DAY + timedelta(days=2))]

    assert json.loads(archive.run("rollup", "--json").stdout) == {"days": days}
    assert archive.run("rollup").stdout == "nothing to do\n"
    again = archive.run("rollup", "--all")
    assert again.stdout == f"figures computed for 2 business days: {days[0]} to {days[1]}\n"
    in_zone(archive, "Asia/Kolkata")
    assert json.loads(archive.run("rollup", "--json").stdout)["days"] == [
        *(str(DAY + timedelta(days=n)) for n in range(4))
    ]
