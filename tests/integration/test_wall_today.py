"""Today's figures on the wall, beside what was pushed; and that many who look cost one look."""

import asyncio
import json
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from etl import logs
from etl.app.database import rollup
from etl.app.serving import reading
from etl.errors import EtlError, Outage
from etl.ids import new_id
from etl.logs import OutageLog
from etl.reporting.figures import Asked, ask
from etl.reporting.today import OVER_LONG, Agent, Direction, Today, Wall
from etl.reporting.web import pages, shared
from etl.reporting.web.shared import Shared
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests.store import ROLES
from tests.wall import at_noon, listened, load_and_listen, said, session
from tests.world import Archive, api_cdr, cdr

OUTBOUND = {"call_dir": "outbound"}
INBOUND = {"call_dir": "inbound", "ref": "3001"}
NO_AGENT = {"extension": None}


def looked(archive: Archive, times: int = 1) -> Today:
    with reading(archive.settings()) as engine:
        wall = Wall(engine)
        for _ in range(times - 1):
            wall.look()
        return wall.look()


def agents(today: Today) -> dict[str, Agent]:
    return {agent.extension: agent for agent in today.agents}


def test_calls_count_by_campaign_and_direction_and_machines_apart(archive: Archive) -> None:
    now = at_noon(archive)
    calls: list[dict[str, Any]] = [
        {},
        {},
        NO_AGENT,
        {"end_reason": "busy", "end_code": 17, **NO_AGENT},
        {"end_reason": "voicemail"},
        {"end_reason": "voicemail", **NO_AGENT},
        {"end_reason": "machine_left_message", **NO_AGENT},
        {"end_reason": "who knows what", **NO_AGENT},  # a person or a machine
        INBOUND,
        {**INBOUND, "end_reason": "busy", "end_code": 17, **NO_AGENT},  # never in the queue
        {**INBOUND, **NO_AGENT},
        {"call_dir": "sideways"},
        {"dialed_at": int((now - timedelta(days=1)).timestamp())},
    ]
    archive.push(*(cdr(n, **{"dialed_at": int(now.timestamp()), **call}) for n, call in enumerate(calls)))
    archive.load()
    today = looked(archive)
    by_name = {each.campaign_ref: each for each in today.campaigns}
    assert by_name["2040"].outbound == Direction(calls=8, live=3, reached_agent=2, no_agent=1)
    assert by_name["3001"].inbound == Direction(calls=3, live=2, reached_agent=1, no_agent=1)
    assert (by_name["2040"].other, today.total.other) == (1, 1)
    assert today.total.outbound == by_name["2040"].outbound
    assert today.last_dialed_at == now
    assert "1 calls are neither outbound nor inbound, and in no column" in pages.notes(today)


def test_answered_by_nobody_knows_whom_is_in_a_note(archive: Archive) -> None:
    now = at_noon(archive)
    answered = f"{now:%Y-%m-%d %H:%M:%S} +0000"
    times = {"dialed_at": answered, "callee_answered_at": answered, "agent_answered_at": None, "ended_at": answered}
    archive.push(api_cdr(1, **times, agent=None, end_reason="who knows what"))
    archive.load()
    today = looked(archive)
    assert today.total.outbound == Direction(calls=1, unclear=1)
    assert pages.notes(today)[-1].startswith(
        "1 dialled calls were answered without an agent, by whom their disposition"
    )


def test_an_agents_state_is_the_one_that_was_heard_last(archive: Archive) -> None:
    now = at_noon(archive)
    archive.push(
        listened(now),
        said("1", "available", now - timedelta(minutes=3)),
        said("1", "busy", now - timedelta(minutes=2), campaign_ref="2040"),
        said("2", "wrapup", now - timedelta(hours=20)),
        said("3", "busy", now - timedelta(minutes=2)),
        said("3", "offline", now - timedelta(minutes=1)),
        said("4", "available", now - timedelta(days=5)),
        key="etl:events",
    )
    load_and_listen(archive)
    today = looked(archive)
    assert agents(today) == {
        "1": Agent("1", "busy", "2040", now - timedelta(minutes=2)),
        "2": Agent("2", "wrapup", None, now - timedelta(hours=20)),
    }
    assert today.gone == 1
    assert {row["extension"]: row["over_long"] for row in pages.agents(today)} == {"2": True, "1": False}


DEFAULTS = {"logging_in": 120, "available": 3_600, "busy": 3_600, "wrapup": 300, "logging_out": 120}


@pytest.mark.parametrize("seconds", [None, 90])
@pytest.mark.parametrize("status", OVER_LONG)
def test_a_state_is_over_long_from_its_bound_on(archive: Archive, status: str, seconds: int | None) -> None:
    now = at_noon(archive)
    if seconds:
        archive.rows(f"UPDATE reporting.settings SET over_long_{status}_seconds = %s RETURNING zone", seconds)
    bound = timedelta(seconds=seconds or DEFAULTS[status])
    archive.push(
        listened(now),
        said("1", status, now - bound - timedelta(seconds=1)),
        said("2", status, now - bound + timedelta(minutes=1)),
        key="etl:events",
    )
    load_and_listen(archive)
    today = looked(archive)
    rows = pages.agents(today)
    assert [(row["extension"], row["over_long"]) for row in rows] == [("1", True), ("2", False)]
    assert f"{pages.STATES[status]} above {pages.lasted(bound.total_seconds())}" in pages.over_long(today)
    archive.rows(f"UPDATE reporting.settings SET over_long_{status}_seconds = NULL RETURNING zone")
    never = looked(archive)
    assert not any(row["over_long"] for row in pages.agents(never))
    assert f"{pages.STATES[status]} above" not in pages.over_long(never)


def test_what_comes_later_is_seen_by_whoever_looked_before(archive: Archive) -> None:
    now = at_noon(archive)
    archive.push(
        listened(now), *(said(str(n), "available", now - timedelta(hours=1)) for n in (1, 2)), key="etl:events"
    )
    load_and_listen(archive)
    with reading(archive.settings()) as engine:
        wall = Wall(engine)
        assert {name: agent.status for name, agent in agents(wall.look()).items()} == {
            "1": "available",
            "2": "available",
        }
        archive.push(said("2", "busy", now - timedelta(minutes=1)), said("3", "busy", now), key="etl:events")
        load_and_listen(archive)
        found = {name: agent.status for name, agent in agents(wall.look()).items()}
    assert found == {"1": "available", "2": "busy", "3": "busy"}


def test_after_a_gap_a_state_is_not_known_until_it_is_heard(archive: Archive) -> None:
    now = at_noon(archive)
    begin, end = now - timedelta(hours=2), now - timedelta(hours=1)
    archive.push(
        session(now - timedelta(days=3), begin, begin),
        session(end, now + timedelta(hours=1)),
        said("1", "available", begin - timedelta(minutes=5)),
        said("2", "available", end + timedelta(minutes=5)),
        key="etl:events",
    )
    load_and_listen(archive)
    today = looked(archive)
    assert {name: agent.unheard_from for name, agent in agents(today).items()} == {"1": begin, "2": None}
    assert today.unheard_seconds == 3_600
    assert pages.notes(today)[0] == "nobody listened for 1 h 0 min of today: states are missing"


def test_given_nobody_listens_any_more_then_no_state_is_known(archive: Archive) -> None:
    now = at_noon(archive)
    end = now - timedelta(hours=1)
    archive.push(session(now - timedelta(days=3), end, end), said("1", "busy", end), key="etl:events")
    archive.load()
    today = looked(archive)
    assert today.nobody_listens_since is not None
    assert today.nobody_listens_since.begin == end
    assert "nothing was loaded of a listener since" in pages.notes(today)[0]
    assert not pages.agents(today)[0]["over_long"]
    assert agents(today)["1"].unheard_from == end


def test_agents_of_unknown_state_are_counted_apart(archive: Archive) -> None:
    now = at_noon(archive)
    begin, end = now - timedelta(hours=2), now - timedelta(hours=1)
    without_status = json.dumps({"type": "status", "payload": {"ref": "3"}}).encode()
    at = from_datetime(now - timedelta(minutes=1))
    archive.push(
        session(now - timedelta(days=3), begin, begin),
        session(end, now + timedelta(hours=1)),
        *(said(str(n), "busy", begin - timedelta(minutes=5)) for n in range(10, 50)),
        said("1", "available", end + timedelta(minutes=5)),
        said("2", "offline", end + timedelta(minutes=5)),
        pack_heard(new_id().bytes, at, b"enigma:notifications:agents:3", without_status),
        key="etl:events",
    )
    load_and_listen(archive)
    today = looked(archive)
    assert pages.logged_in(today) == "1, and 41 not known"
    assert {row["status"] for row in pages.agents(today) if row["extension"] == "3"} == {"not known"}


@pytest.mark.parametrize(("heard_since", "said_of_it"), [(3, "0"), (0.5, "not known")])
def test_given_no_agent_then_zero_only_if_all_was_heard(archive: Archive, heard_since: float, said_of_it: str) -> None:
    now = at_noon(archive)
    archive.push(session(now - timedelta(days=heard_since), now), key="etl:events")
    load_and_listen(archive)
    today = looked(archive)
    assert pages.logged_in(today) == said_of_it
    values = {"path": "/", "refresh": 5, "error": None, "age": 0, "notes": [], "agents": [], "waiting": None}
    page = pages.environment().get_template("today.html").render(today=today, **values)
    assert ("nobody is logged in" in page, "nobody was heard of yet" in page) == (said_of_it == "0", said_of_it != "0")


def test_etl_reporting_is_enough_and_nobody_may_write(archive: Archive) -> None:
    now = at_noon(archive)
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    archive.push(listened(now), said("1", "busy", now), key="etl:events")
    archive.push(cdr(1, dialed_at=int(now.timestamp())), b"junk")
    load_and_listen(archive)
    url = archive.database_url.replace("postgres@", "etl_reporting@")
    with reading(archive.settings(web_database_url=url)) as engine:
        today = Wall(engine).look()
    assert (today.total.outbound.calls, len(today.agents)) == (1, 1)
    received = f"1 messages that were received on the UTC day {now.date()} are dead letters, and may be calls"
    assert any(note.startswith(received) for note in pages.notes(today))
    with (
        reading(archive.settings()) as engine,
        pytest.raises(EtlError, match="read-only"),
        engine.begin() as connection,
    ):
        connection.execute(sa.text("DELETE FROM cdrs"))


def test_given_a_day_of_dead_letters_only_then_they_are_no_zero(archive: Archive) -> None:
    now = at_noon(archive)
    archive.push(cdr(1, dialed_at=int(now.timestamp()) - 5 * 86_400), *[b'{"broken'] * 25)
    archive.load()
    today = looked(archive)
    assert {book.dead_letters for book in today.books} == {None}
    said = f"nothing of the UTC day {now.date()} was loaded, so how many of its messages are dead letters isn't known"
    assert any(note.startswith(said) for note in pages.notes(today))


def test_only_utc_days_of_the_business_day_count_dead_letters(archive: Archive) -> None:
    now = at_noon(archive)
    begin = now - timedelta(hours=12, minutes=now.minute, seconds=now.second)
    days = sorted({begin.date(), now.date()})
    around = [days[0] - timedelta(days=1), *days, days[-1] + timedelta(days=1)]
    archive.push(*(cdr(n, dialed_at=int(now.timestamp()) + (n - 2) * 86_400) for n in range(4)))
    archive.push(*[b"junk"] * len(around))
    archive.load()
    with psycopg.connect(archive.database_url, autocommit=True) as owner:
        owner.execute("SET session_replication_role = replica")  # the archive itself rewrites nothing
        for day, letter in zip(around, owner.execute("SELECT id FROM dead_letters").fetchall(), strict=True):
            owner.execute("UPDATE dead_letters SET received_at = %s WHERE id = %s", (f"{day} 12:00+00", letter[0]))
    today = looked(archive)
    assert [book.day for book in today.books] == days
    assert [book.dead_letters for book in today.books] == [1] * len(days)
    assert sum("are dead letters, and may be calls" in note for note in pages.notes(today)) == len(days)


def test_however_many_ask_one_at_a_time_looks() -> None:
    go, looks = threading.Event(), []

    def look() -> int:
        go.wait(60)
        looks.append(threading.current_thread().name)
        return len(looks)

    async def ask() -> list[int | None]:
        shared = Shared("wall", look, OutageLog(logs.get(), "wall_outage_began", "wall_outage_ended"))
        waiting = [asyncio.create_task(shared.get()) for _ in range(50)]
        await asyncio.sleep(0)
        go.set()
        return [seen.found if (seen := await each) else None for each in waiting]

    assert asyncio.run(ask()) == [1] * 50
    assert looks == ["wall"]


def test_a_look_that_fails_is_shared_and_a_bug_is_raised() -> None:
    async def ask(error: Exception) -> object:
        def look() -> int:
            raise error

        shared = Shared("wall", look, OutageLog(logs.get(), "wall_outage_began", "wall_outage_ended"))
        return await shared.get()

    outage = Outage("ETL-301", "away")
    seen: Any = asyncio.run(ask(outage))
    assert (seen.found, seen.error) == (None, outage)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask(ZeroDivisionError()))


def test_given_an_outage_then_the_last_look_is_kept_until_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "GOOD_SECONDS", 0)
    monkeypatch.setattr(shared, "GOOD_TIMES", 0)
    outage, looks = Outage("ETL-301", "a lock"), iter([7])

    def look() -> int:
        for each in looks:
            return each
        raise outage

    async def ask() -> list[Any]:
        last = Shared("wall", look, OutageLog(logs.get(), "wall_outage_began", "wall_outage_ended"))
        seen = [await last.get(), await last.get()]
        monkeypatch.setattr(shared, "STALE_SECONDS", -1)
        return [*seen, await last.get()]

    first, second, third = asyncio.run(ask())
    assert (first.found, first.error) == (7, None)
    assert (second.found, second.error) == (7, outage)
    assert second.seconds >= first.seconds
    assert third is None or third.found is None


def test_given_an_outage_then_the_age_of_what_is_shown_is_said(archive: Archive) -> None:
    at_noon(archive)
    values = {"path": "/", "refresh": 5, "age": 4.0, "notes": [], "agents": [], "waiting": None, "error": "a lock"}
    page = pages.environment().get_template("today.html").render(today=looked(archive), **values)
    assert "Postgres can't be asked, so what is shown is 0:00:04 old: a lock" in page
    assert "nothing of today is known" not in page


def test_the_clock_on_the_wall_is_the_zones(archive: Archive) -> None:
    at_noon(archive)
    today = looked(archive)
    assert today.on_the_clock(today.now).hour == 12
    assert today.zone.startswith("Etc/GMT")


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(minutes=30), timedelta(hours=-1)])
def test_given_a_clock_that_was_set_then_earlier_moments_are_right(archive: Archive, ahead: timedelta) -> None:
    """Half an hour ago, by a zone that is made for it."""
    now = datetime.now(UTC).replace(microsecond=0)
    set_at = now - timedelta(minutes=30)
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", zone_set(set_at, ahead))
    moments = {str(number): now - timedelta(minutes=number) for number in range(0, 90, 7)}
    archive.push(listened(now), *(said(agent, "busy", moment) for agent, moment in moments.items()), key="etl:events")
    archive.push(cdr(1, dialed_at=int(now.timestamp())))
    load_and_listen(archive)
    today = looked(archive)
    clock = {each["extension"]: each["since"] for each in pages.agents(today)}
    offsets = (max(ahead, -ahead), timedelta(0)) if ahead < timedelta(0) else (timedelta(0), ahead)
    assert clock == {agent: f"{moment + offsets[moment >= set_at]:%H:%M:%S}" for agent, moment in moments.items()}


def zone_set(at: datetime, ahead: timedelta) -> str:
    """A zone of POSIX, that is at UTC but for half a year: then it's ahead. That begins at the moment, or ends if
    `ahead` is below 0."""
    begins = ahead > timedelta(0)
    by = ahead if begins else -ahead
    shown = at if begins else at + by  # by the clock that is to be set
    day = shown.timetuple().tm_yday - 1
    here, elsewhere = f"{day}/{shown:%H:%M:%S}", f"{(day + 180) % 365}/0"
    first, last = (here, elsewhere) if begins else (elsewhere, here)
    return f"AAA0BBB-{by // timedelta(hours=1):02}:{by // timedelta(minutes=1) % 60:02},{first},{last}"


def queue(archive: Archive, at: datetime, *waits: int | None, agent: str | None = "1002", first: int = 0) -> None:
    """Offered calls that came in then, each after its wait."""
    for number, wait in enumerate(waits, first):
        told = {} if wait is None else {"hold_time": wait}
        archive.push(cdr(number, dialed_at=int(at.timestamp()), extension=agent, **INBOUND, **told))


def test_service_level_and_abandons_are_those_of_the_report(archive: Archive) -> None:
    now = at_noon(archive)
    queue(archive, now, 4, 20, 21, 60, None)
    queue(archive, now, 3, 90, agent=None, first=10)
    archive.push(
        *(cdr(n, dialed_at=int(now.timestamp()), extension=who) for n, who in ((20, "1"), (21, "1"), (22, None)))
    )
    archive.load()
    today = looked(archive)
    assert today.total.rates == {
        "outbound_abandon_rate": (1, 3),
        "inbound_abandon_rate": (2, 7),
        "service_level": (2, 6),
    }
    assert "how long 1 of 7 offered calls waited isn't known: they are in no service level" in pages.notes(today)
    rollup(archive.settings(), False, lambda _: None)
    with reading(archive.settings()) as engine:
        reported = ask(engine, Asked("campaign", today.day, today.day)).total
    assert reported is not None
    for figure, share in today.total.rates.items():
        assert share is not None
        assert reported[figure] == round(Decimal(share[0]) / share[1], 4), figure
    archive.rows("UPDATE reporting.settings SET service_level_seconds = 60 RETURNING zone")
    assert looked(archive).total.rates["service_level"] == (4, 6)


def test_a_service_level_without_known_waits_is_not_known(archive: Archive) -> None:
    now = at_noon(archive)
    assert pages.rate(looked(archive).total.rates["service_level"]) == "\N{EN DASH}", "of no calls there is none"
    queue(archive, now, None, None)
    archive.load()
    today = looked(archive)
    assert today.total.rates["service_level"] is None
    assert pages.rate(today.total.rates["service_level"]) == "not known"


def test_a_figure_stands_beside_its_target_and_last_weeks(archive: Archive) -> None:
    now = at_noon(archive)
    week_ago = now - timedelta(days=7)
    hour = week_ago - timedelta(hours=1)
    queue(archive, now, 4, 5, 6, 70)
    queue(archive, hour, 4, 70, first=10)
    queue(archive, hour + timedelta(hours=3), 70, 70, first=20)  # later than now
    archive.load()
    today = looked(archive)
    (unknown,) = pages.beside(today, "service_level")
    until = f"last week until {today.last_week.until:%H:%M}"
    assert unknown == ("before", f"{until}: not known"), "no figures of that day are kept yet"
    rollup(archive.settings(), False, lambda _: None)
    for aim, text in ((None, None), ("0.8", ("missed", "target at least 80.0%, missed"))):
        archive.rows("UPDATE reporting.settings SET target_service_level = %s RETURNING zone", aim)
        *target, before = pages.beside(looked(archive), "service_level")
        assert target == ([text] if text else [])
        assert before[1].endswith(": 50.0%")


@pytest.mark.parametrize("figure", ["service_level", "inbound_abandon_rate", "outbound_abandon_rate"])
def test_a_target_is_met_up_to_its_bound(archive: Archive, figure: str) -> None:
    now = at_noon(archive)
    at = int(now.timestamp())
    queue(archive, now, 4, 70)
    queue(archive, now, 70, 80, agent=None, first=10)
    archive.push(*(cdr(n, dialed_at=at, extension="1" if n % 4 else None) for n in range(20, 24)))
    archive.load()
    least = figure == "service_level"
    for aim, is_met in (("0.24", least), ("0.25", least or figure[0] == "o"), ("0.26", figure[0] == "o")):
        archive.rows(f"UPDATE reporting.settings SET target_{figure} = %s RETURNING zone", aim)
        ((kind, text), _) = pages.beside(looked(archive), figure)
        assert kind == ("met" if is_met else "missed"), aim
        assert text == f"target at {'least' if least else 'most'} {Decimal(aim):.1%}, {kind}"
    archive.rows("UPDATE cdrs SET dialed_at = dialed_at - interval '1 day', call_dir = 'internal' RETURNING 1")
    assert pages.beside(looked(archive), figure)[0] == ("met", f"target at {'least' if least else 'most'} 26.0%")
