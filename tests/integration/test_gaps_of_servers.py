"""Gaps of several Redis servers and patterns: the view `audit_gaps` against the same said in Python, second by second;
two servers that really are there; and a server that is retired."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.app.database import gaps, rollup
from etl.ids import uuid7
from etl.lab.servers.private import PrivateRedis
from etl.store.sessions import deaf_seconds
from etl.wire.spool import GapReason, Session, pack_heard, pack_session
from etl.wire.times import from_datetime
from tests.budget import examples
from tests.world import CAMPAIGNS, Archive, cdr, eventually

# Of hours of this day; "now" is long after it.
DAY = datetime(2026, 3, 1, tzinfo=UTC)
UPGRADED = 6
LAST = 12
NOW = 10_000  # what goes on; an hour that isn't of the day

SERVERS = ("one:8001/0", "two:6379/2")
PATTERNS = ("a:*", "a:b:*", "a:b:c", "a*", "*", "b?", "a:b:*x", "b\\*", "a:[b]*", "*b")
REASONS = ("stopped", "connection lost", "probe lost", "overflow")

Gap = tuple[int | None, int | None, str, str | None, tuple[str, ...] | None]


@dataclass(frozen=True)
class Said:
    """A session as it was reported; `proven` is NOW for one that is on."""

    number: int
    begin: int
    proven: int
    reason: str | None
    server: str | None = None
    patterns: tuple[str, ...] | None = None

    @property
    def goes_on(self) -> bool:
        return self.proven == NOW and self.reason is None


@st.composite
def said(draw: st.DrawFn) -> list[Said]:
    sessions = []
    for number in range(draw(st.integers(0, 7))):
        begin = draw(st.integers(0, LAST))
        proven = draw(st.integers(begin, LAST) | st.just(NOW))
        server = draw(st.sampled_from((None, *SERVERS)))
        patterns = draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True))
        sessions.append(
            Said(
                number,
                begin,
                proven,
                draw(st.sampled_from((None, *REASONS))),
                server,
                tuple(patterns) if server else None,
            )
        )
    return sessions


retirements = st.sets(st.tuples(st.sampled_from(SERVERS), st.integers(UPGRADED + 1, LAST)), max_size=3)


def covers(heard: str, expected: str) -> bool:
    """Whether whatever `expected` matches is matched by `heard`: known for the same pattern, and for a plain prefix."""
    if heard == expected:
        return True
    return re.fullmatch(r"[^*?\[\\]*\*", heard) is not None and expected.startswith(heard[:-1])


def told(sessions: Sequence[Said], retired: Iterable[tuple[str, int]]) -> set[Gap]:
    """What the view must show, by going through the hours."""
    if not sessions:
        return {(None, None, "never started", None, None)}
    named = [each for each in sessions if each.server]
    if not named:
        return {(*gap, None, None) for gap in between(sessions, None, None)}
    found = defaultdict(set)
    for server in {str(each.server) for each in named}:
        cuts = sorted(at for name, at in retired if name == server)
        for since, until in zip((None, *cuts), (*cuts, None), strict=True):
            own = [cut for each in named if each.server == server and (cut := within(each, since, until))]
            for pattern in {pattern for each in own for pattern in each.patterns or ()}:
                heard = [each for each in own if any(covers(q, pattern) for q in each.patterns or ())]
                nameless = [cut for each in sessions if not each.server and (cut := of_0_1(each, since, until))]
                for gap in between(heard + nameless, since, until):
                    found[gap, server].add(pattern)
    return {(*gap, server, tuple(sorted(patterns))) for (gap, server), patterns in found.items()}


def within(session: Said, since: int | None, until: int | None) -> Said | None:
    """The session cut to an era; None if nothing of it lies there. One that ended when the era began was before it."""
    begin, proven = max(session.begin, since or 0), min(session.proven, until or NOW)
    if until is not None and session.begin >= until:
        return None
    if since is not None and session.begin < since and session.proven <= since:
        return None
    return replace(session, begin=begin, proven=proven)


def of_0_1(session: Said, since: int | None, until: int | None) -> Said | None:
    """A nameless session ends with the upgrade, and not for its own reason then."""
    if session.begin >= UPGRADED:
        return None
    if session.proven > UPGRADED:
        session = replace(session, proven=UPGRADED, reason="stopped")
    elif session.reason is None:
        session = replace(session, reason="stopped")
    return within(session, since, until)


def between(
    sessions: Sequence[Said], since: int | None, until: int | None
) -> Iterator[tuple[int | None, int | None, str]]:
    """The gaps of one thing that is to be heard. Each hour is two cells, its beginning and what follows."""
    heard: set[int] = set()
    for each in sessions:
        heard.update(range(2 * each.begin, 2 * min(each.proven, LAST + 1) + 1))
    ordered = sorted(heard)
    if since is None:
        yield None, ordered[0] // 2, "never started"
    for cell, following in pairwise(ordered):
        if following > cell + 1:
            yield cell // 2, following // 2, why(sessions, cell // 2)
    end = max(each.proven for each in sessions)
    is_on = any(each.proven == NOW and each.goes_on for each in sessions) or (
        until is not None and any(each.goes_on for each in sessions)
    )
    if not is_on and (until is None or end < until):
        yield end, until, why(sessions, end)


def why(sessions: Sequence[Said], end: int) -> str:
    """The reason of the one that began last, of those that ended there."""
    last = max((each for each in sessions if each.proven == end), key=lambda each: (each.begin, each.number))
    return last.reason or "stopped"


@pytest.fixture
def database(database_url: str) -> Iterator["psycopg.Connection[Any]"]:
    """One whose upgrade was at a certain hour of the day."""
    with psycopg.connect(database_url) as connection:
        ((definition,),) = connection.execute("SELECT pg_get_viewdef('audit_gaps'::regclass)").fetchall()
        upgraded = f"'{hour(UPGRADED).isoformat()}'::timestamp with time zone"
        moved, moments = re.subn(r"'20[^']+'::timestamp with time zone", upgraded, definition)
        assert moments == 1
        connection.execute(f"CREATE OR REPLACE VIEW audit_gaps AS {moved}")
        connection.commit()
        yield connection
        connection.rollback()


def hour(number: int) -> datetime:
    return DAY + timedelta(hours=number)


def shown(
    connection: "psycopg.Connection[Any]", sessions: Sequence[Said], retired: Iterable[tuple[str, int]]
) -> set[Gap]:
    """What the view shows of them; they are gone again afterwards."""
    ((now,),) = connection.execute("SELECT now()").fetchall()

    def moment(number: int) -> datetime:
        return now if number == NOW else hour(number)

    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO listener_sessions VALUES (%s, 'w', %s, %s, 0, 0, 0, %s, %s, %s, %s, %s)",
            [
                (
                    UUID(int=each.number),
                    moment(each.begin),
                    moment(each.proven),
                    moment(each.proven) if each.reason else None,
                    each.reason,
                    UUID(int=0),
                    each.server,
                    list(each.patterns) if each.patterns else None,
                )
                for each in sessions
            ],
        )
        cursor.executemany(
            "INSERT INTO retired_servers VALUES (%s, %s)", [(server, hour(number)) for server, number in retired]
        )
    rows = connection.execute("SELECT gap_from, gap_until, reason, server, patterns FROM audit_gaps").fetchall()
    connection.rollback()
    assert len(rows) == len({tuple(map(str, row)) for row in rows}), "each is shown once"

    def number(at: datetime | None) -> int | None:
        if at is None:
            return None
        return NOW if at == now else round((at - DAY).total_seconds()) // 3600

    return {
        (number(a), number(b), reason, server, patterns and tuple(patterns)) for a, b, reason, server, patterns in rows
    }


@pytest.mark.hypothesis
def test_the_view_shows_what_going_through_the_hours_shows(database: "psycopg.Connection[Any]") -> None:
    @settings(max_examples=examples(3))
    @given(said(), retirements)
    def agree(sessions: list[Said], retired: set[tuple[str, int]]) -> None:
        assert shown(database, sessions, retired) == told(sessions, retired)

    agree()


# Two servers that are there


@contextmanager
def second(archive: Archive, folder: Path, **more: Any) -> Iterator[tuple[PrivateRedis, Archive]]:
    """Another Redis, and the service that brings what it has into the same archive."""
    with PrivateRedis(folder / "two") as server, redis.Redis.from_url(server.url) as client:
        settings = {"worker_name": "second", "redis_name": "two", **more}
        with Archive(server.url, archive.database_url, client, more=settings) as two:
            yield server, two


def heard(archive: Archive, server: str) -> Any:
    """Until when it's proven that somebody listened there."""
    return archive.value("SELECT max(proven_until) FROM listener_sessions WHERE server = %s", server)


def test_if_one_of_two_servers_is_deaf_the_other_does_not_cover_for_it(archive: Archive, tmp_path: Path) -> None:
    first = replace_more(archive, worker_name="first", redis_name="one")
    with (
        second(archive, tmp_path) as (server, two),
        first.process("run", "--follow", "--no-schedule") as one_etl,
        two.process("run", "--follow", "--no-schedule") as two_etl,
    ):
        eventually(lambda: heard(archive, "one") and heard(archive, "two"), what="they don't both listen")
        server.kill()
        server.start()
        eventually(lambda: archive.value("SELECT count(*) FROM listener_sessions WHERE server = 'two'") == 2)
        still_on = "SELECT count(*) FROM listener_sessions WHERE server = 'one' AND ended_at IS NULL"
        assert archive.value(still_on) == 1
        between = "SELECT server, reason, patterns FROM audit_gaps WHERE gap_from IS NOT NULL AND gap_until IS NOT NULL"
        assert archive.rows(between) == [
            {"server": "two", "reason": "connection lost", "patterns": ["enigma:notifications:*"]}
        ]
        status = json.loads(two.run("status", "--json").stdout)["postgres"]
        for process in (one_etl, two_etl):
            process.terminate()
            assert process.wait(40) == 0
    assert {each["server"] for each in status["listeners"]} == {"one", "two"}
    assert set(status["listener_gaps"]["seconds_of_servers"]) == {"one", "two"}  # never started, before
    rows = archive.rows("SELECT DISTINCT worker, server FROM load_batches ORDER BY worker")
    assert rows == [{"worker": "first", "server": "one"}, {"worker": "second", "server": "two"}]


def replace_more(archive: Archive, **more: Any) -> Archive:
    other = replace(archive, more={**archive.more, **more})
    other._connection = archive._connection
    return other


# What reports make of it


def report(archive: Archive, *sessions: tuple[str | None, Sequence[str], float, float, GapReason | None]) -> None:
    """Sessions by server, patterns and hours of the day, as loaders bring them in."""
    frames = [
        Session(
            uuid5(UUID(int=0), f"{server} {patterns} {begin}"),
            "w",
            at(begin),
            at(end),
            received=0,
            ignored=0,
            dropped=0,
            ended_at=at(end) if reason else None,
            reason=reason,
            server=server,
            patterns=tuple(patterns) if server else None,
        )
        for server, patterns, begin, end, reason in sessions
    ]
    archive.redis.lpush("etl:events", *map(pack_session, frames))
    archive.load()


def at(hours: float) -> int:
    return from_datetime(DAY + timedelta(hours=hours))


def gap_seconds(archive: Archive) -> int:
    archive.push(cdr(1, dialed_at=int(DAY.timestamp())))
    archive.load()
    return int(archive.value("SELECT gap_seconds FROM reporting.load_days WHERE day = %s", DAY.date()))


def test_a_days_gaps_are_added_by_server_and_not_by_pattern(archive: Archive) -> None:
    report(
        archive,
        ("one", ["a:*", "b:*"], -1, 10, "stopped"),
        ("one", ["a:*"], 10, 11, "overflow"),
        ("one", ["a:*", "b:*"], 12, 30, "stopped"),  # deaf from 10 to 12, on b:* all that time
        ("two", ["a:*"], -1, 10, "stopped"),
        ("two", ["a:*"], 11.5, 23, "stopped"),  # deaf from 10 to 11.5 and from 23 on
    )

    assert gap_seconds(archive) == 3600 * (2 + 1.5 + 1)
    found = gaps(archive.settings(), DAY, DAY + timedelta(days=1))
    assert deaf_seconds(found) == {"one": 7200.0, "two": 9000.0}


def test_a_gap_whose_beginning_is_yet_to_come_is_no_error(archive: Archive) -> None:
    """By a listener whose clock runs ahead."""
    hours = (datetime.now(UTC) - DAY) / timedelta(hours=1)
    report(archive, ("one", ["a:*"], -1, hours + 2, "stopped"))

    assert gap_seconds(archive) == 0


@pytest.mark.parametrize(
    ("server", "pattern", "closed_by"),
    [
        ("one", "enigma:notifications:*", "gap"),
        ("one", "enigma:notifications:agents:*", "gap"),
        ("one", "enigma:notifications:agents:?001", "gap"),
        ("one", "enigma:not*", "gap"),
        ("one", "*", "gap"),
        ("one", "[e]nigma:*", "gap"),
        ("one", "enigma:notifications:campaigns:*", "status"),
        ("one", "enigma:notifications:agentsandmore", "status"),
        ("two", "enigma:notifications:*", "status"),
    ],
)
def test_a_gap_ends_the_states_of_those_whom_it_may_have_hidden(
    archive: Archive, server: str, pattern: str, closed_by: str
) -> None:
    """`one` tells of the agents, and is heard all day, but for what else it's subscribed to."""
    all_day = ["enigma:notifications:agents:1*"]
    report(
        archive,
        ("one", all_day, -1, 40, "stopped"),
        (server, [pattern], -1, 10, "stopped"),
        (server, [pattern], 12, 40, "stopped"),
    )
    for number, (hours, state) in enumerate([(9, "available"), (13, "busy")]):
        message = json.dumps({"type": "status", "payload": {"status": state, "ref": "1001"}}).encode()
        frame = pack_heard(uuid7(number).bytes, at(hours), b"enigma:notifications:agents:1001", message)
        archive.redis.lpush("etl:events", frame)
    archive.load(redis_name="one")
    rollup(archive.settings(), False, lambda _: None)

    states = archive.rows("SELECT status, closed_by, state_until FROM reporting.agent_states ORDER BY state_from")

    assert states[0]["closed_by"] == closed_by
    assert states[0]["state_until"] == hour(10 if closed_by == "gap" else 13)


# Sessions of 0.1 beside ours


def test_a_session_that_0_1_brought_in_gets_its_server_by_the_next_one(archive: Archive) -> None:
    report(archive, ("one", ["a:*"], 1, 2, None))
    archive.rows("UPDATE listener_sessions SET server = NULL, patterns = NULL RETURNING 1")  # as 0.1 leaves them

    report(archive, ("one", ["a:*"], 1, 3, "stopped"))

    (row,) = archive.rows("SELECT server, patterns, proven_until FROM listener_sessions")
    assert row == {"server": "one", "patterns": ["a:*"], "proven_until": hour(3)}


# Servers that are retired


def test_a_retired_server_has_an_end_and_may_begin_anew(archive: Archive) -> None:
    report(archive, ("one", ["a:*"], 1, 2, "stopped"), ("two", ["a:*"], 1, 2, "stopped"))

    retired = archive.run("gaps", "--retire", "two", "--json")

    assert (retired.returncode, retired.stderr) == (0, "")
    told = json.loads(retired.stdout)
    retired_at = datetime.fromisoformat(told["retired_at"])
    assert told["server"] == "two"
    last = "SELECT gap_until FROM audit_gaps WHERE server = %s AND gap_from IS NOT NULL"
    assert archive.value(last, "two") == retired_at
    assert archive.value(last, "one") is None
    listeners = json.loads(archive.run("status", "--json").stdout)["postgres"]["listeners"]
    assert [each["server"] for each in listeners] == ["one"]
    hours, moment = (retired_at - DAY) / timedelta(hours=1), timedelta(milliseconds=10)
    each = moment / timedelta(hours=1)
    report(archive, *[("two", ["b:*"], hours + n * each, hours + (n + 1) * each, "stopped") for n in (1, 3)])
    anew = archive.rows("SELECT * FROM audit_gaps WHERE server = 'two' AND patterns = '{b:*}' ORDER BY gap_from")
    assert len(anew) == 2
    assert abs(anew[0]["gap_until"] - anew[0]["gap_from"] - moment) < moment / 10
    assert anew[1]["gap_until"] is None


def test_a_server_that_nobody_knows_is_not_retired(archive: Archive) -> None:
    nobody = archive.run("gaps", "--retire", "three")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr == "etl: ETL-403: no listener ever named its server 'three'; known: none\n"
    report(archive, ("one", ["a:*"], 1, 2, "stopped"), ("two", ["a:*"], 1, 2, "stopped"))

    wrong = archive.run("gaps", "--retire", "three")

    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "etl: ETL-403: no listener ever named its server 'three'; known: one, two\n"
    assert archive.value("SELECT count(*) FROM retired_servers") == 0


def test_patterns_that_were_narrowed_are_an_open_gap(archive: Archive) -> None:
    now = (datetime.now(UTC) - DAY) / timedelta(hours=1)
    report(archive, ("one", ["a:*", "b:*"], 1, 2, "stopped"), ("one", ["a:*"], 3, now, None))

    (open_gap,) = archive.rows("SELECT * FROM audit_gaps WHERE gap_until IS NULL")

    assert (open_gap["gap_from"], open_gap["server"], open_gap["patterns"]) == (hour(2), "one", ["b:*"])
    shown = archive.run("gaps", "--since", "2026-03-01", "--until", "2026-03-02").stdout
    assert re.search("stopped +│ one +│ a:[*] b:[*]", shown) is None, "they were deaf at other times"
    assert re.search("stopped +│ one +│ b:[*]", shown)
    assert archive.run("gaps", "--retire", "one").returncode == 0
    assert archive.value("SELECT count(*) FROM audit_gaps WHERE gap_until IS NULL") == 0


# Dead letters


def test_letters_of_another_server_are_not_replayed_with_our_decoders(archive: Archive, tmp_path: Path) -> None:
    filling = "x" * 3_000
    with second(archive, tmp_path) as (_, two):
        for each in (archive, two):
            each.push(cdr(1, note=filling))
            each.load(max_message_bytes=1_024)
        letters = json.loads(archive.run("dead", "list", "--json").stdout)["letters"]
        ours = archive.settings().server
        assert {letter["server"] for letter in letters} == {ours, "two"}
        for letter in letters:
            assert f"server     {letter['server']}\n" in archive.run("dead", "show", str(letter["id"])).stdout

        mine = archive.run("dead", "replay")

        assert (mine.returncode, mine.stderr) == (0, "")
        assert mine.stdout == (
            "2 tried: 1 are stored now, 0 are still dead\n"
            f"1 came from {CAMPAIGNS} of two, which these settings don't load: left alone\n"
        )
        theirs = json.loads(two.run("dead", "replay", "--json").stdout)
        assert (theirs["tried"], theirs["books"]["claimed"], theirs["unknown"]) == (1, 1, {})
    replays = "SELECT server FROM load_batches WHERE dead = 0 ORDER BY committed_at"
    assert [row["server"] for row in archive.rows(replays)] == [ours, "two"]


def test_letters_of_0_1_are_anybodys(archive: Archive) -> None:
    archive.push(cdr(1, note="x" * 3_000))
    archive.load(max_message_bytes=1_024)
    archive.rows("UPDATE dead_letters SET server = NULL RETURNING 1")

    assert archive.run("dead", "replay").stdout == "1 tried: 1 are stored now, 0 are still dead\n"
