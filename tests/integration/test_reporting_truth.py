"""Every figure of every view against the simulator's truth: both dialects, duplicates, corrections, late CDRs, broken
messages, a stretch that nobody heard; loaded in rounds, with a rollup after each, in several time zones."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest

from etl.app import database
from etl.ids import uuid7
from etl.lab import call_centre, simulator
from etl.lab.agents import Notice
from etl.lab.dialects import renderings
from etl.lab.simulator import Profile
from etl.wire.spool import Session, pack_heard, pack_session
from etl.wire.times import from_datetime
from tests.lake import SPOOL
from tests.reporting import (
    ANSWERED,
    MINUTE,
    Call,
    Change,
    Gap,
    Preview,
    State,
    asked,
    assert_equal,
    day_of,
    expected,
    figures,
    history_of,
    hour_of,
    states_of,
)
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive

LISTS = {"campaigns": CAMPAIGNS, "statuses": CAMPAIGNS, "cdrs": CDRS, "cdr": CLICK2DIAL}
ROUNDS = 3
LOST, CORRECTED = 40, 25  # every so manieth call: its CDR never comes, it is corrected


@dataclass(frozen=True)
class Story:
    profile: Profile
    zone: str


AT_EIGHT = datetime(2024, 5, 17, 20, tzinfo=UTC)
STORIES = [
    Story(Profile(cdrs=700, until=AT_EIGHT, days=2, dialect="both", seed=11), "UTC"),
    # the clock goes forward, then back
    Story(Profile(cdrs=500, until=datetime(2024, 4, 1, 3, tzinfo=UTC), days=2, dialect="a"), "Europe/London"),
    Story(Profile(cdrs=500, until=datetime(2024, 10, 28, 1, tzinfo=UTC), days=2, dialect="both"), "Europe/London"),
    Story(Profile(cdrs=500, until=AT_EIGHT, days=2, dialect="b"), "Asia/Kolkata"),
    Story(Profile(cdrs=500, until=datetime(2024, 5, 17, 6, tzinfo=UTC), days=2, dialect="both"), "America/Los_Angeles"),
    Story(Profile(cdrs=500, until=AT_EIGHT, days=2, dialect="both", as_documented=True), "Australia/Lord_Howe"),
]


@dataclass
class World:
    """What is true, and what of it was told."""

    archive: Archive
    profile: Profile
    zone: ZoneInfo
    calls: dict[tuple[str, str], call_centre.Call] = field(default_factory=dict)  # those that were told of
    notices: list[tuple[int, Notice]] = field(default_factory=list)  # heard, with a number that is the event's id
    gaps: list[Gap] = field(default_factory=list)
    broken: int = 0
    listed: int = 0  # events on lists

    @property
    def records(self) -> list[Call]:
        return [told(call, self.profile) for call in self.calls.values()]

    @property
    def states(self) -> list[State]:
        return states_of((change(notice) for _, notice in self.notices if is_status(notice)), self.gaps)

    @property
    def previews(self) -> list[Preview]:
        return [
            (at(notice.at), str(notice.ref), callee["contact_ref"] or callee["number"])
            for _, notice in self.notices
            if notice.sub_type == "dial_preview"
            for callee in notice.payload["callees"]
        ]

    def connections(self) -> dict[str, datetime]:
        """Call references and when their connection was heard."""
        return {
            str(notice.payload["call_ref"]): at(notice.at) for _, notice in self.notices if notice.sub_type == "call"
        }


@pytest.fixture(params=STORIES, ids=lambda story: f"{story.zone}, {story.profile.until:%B}, {story.profile.dialect}")
def world(request: pytest.FixtureRequest, archive: Archive) -> World:
    story: Story = request.param
    more = {"duplicates": 0.05, "broken": 0.01, "events": 0.01, "late": 0.08, "pubsub": True}
    profile = Profile(**{**{name: getattr(story.profile, name) for name in Profile.__dataclass_fields__}, **more})
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", story.zone)
    world = World(archive, profile, ZoneInfo(story.zone))
    tell(world)
    return world


def tell(world: World) -> None:
    """The dialler's stream and the listener's spool, in rounds; then the corrections."""
    archive, profile = world.archive, world.profile
    until, length = int(profile.until.timestamp()), profile.days * 86_400
    middle = until - length // 2
    # Nobody hears anything for half an hour in the middle of it all, nor after its end.
    heard_from, deaf_from, deaf_until, heard_until = until - 6 * 86_400, middle, middle + 1_800, until + 7_200
    world.gaps = [
        (datetime.min.replace(tzinfo=UTC), at(heard_from)),
        (at(deaf_from), at(deaf_until)),
        (at(heard_until), datetime.max.replace(tzinfo=UTC)),
    ]
    sessions = [session(heard_from, deaf_from), session(deaf_until, heard_until)]
    happenings = list(simulator.truth(profile))
    calls = [each for each in happenings if isinstance(each, call_centre.Call)]
    lost = {("dialler", str(call.call_ref)) for call in calls[::LOST] if call.outcome.connected}
    notices = iter([each for each in happenings if isinstance(each, Notice)])
    stream: list[tuple[str, bytes]] = []
    for number, message in enumerate(simulator.messages(profile)):
        world.broken += message.truth.startswith("broken")
        world.listed += message.truth == "event"
        if message.kind != "pubsub":
            if message.identity not in lost:
                stream.append((LISTS[message.kind], message.body))
            continue
        notice = next(notices)
        if deaf_from <= notice.at < deaf_until or notice.at >= heard_until:
            continue
        world.notices.append((number, notice))
        captured = from_datetime(at(notice.at))
        stream.append((SPOOL, pack_heard(UUID(int=number).bytes, captured, message.channel.encode(), message.body)))
    told_of = [call for call in calls if (call.source, str(call.call_ref)) not in lost]
    world.calls = {(call.source, str(call.call_ref)): call for call in told_of}

    archive.push(*(pack_session(each) for each in sessions), key=SPOOL)
    size = len(stream) // ROUNDS + 1
    for begin in range(0, len(stream), size):
        bodies: defaultdict[str, list[bytes]] = defaultdict(list)
        for key, body in stream[begin : begin + size]:
            bodies[key].append(body)
        for key, some in bodies.items():
            archive.push(*some, key=key)
        archive.load()
        rollup(archive)

    for call in told_of[::CORRECTED]:
        if call.outcome.connected and call.source == "dialler":
            better = call._replace(
                call_time=call.call_time + 100,
                extension="9999",
                outcome=call.outcome._replace(end_reason="hungup", end_code=16),
            )
            world.calls[call.source, str(call.call_ref)] = better
            for kind, envelope in renderings(better, profile.style):
                archive.push(json.dumps(envelope).encode(), key=LISTS[kind])
    archive.load()
    rollup(archive)


def rollup(archive: Archive, everything: bool = False) -> list[date]:
    return database.rollup(archive.settings(), everything, lambda _: None)


def session(begin: int, end: int) -> Session:
    since, until = from_datetime(at(begin)), from_datetime(at(end))
    return Session(uuid7(begin * 1_000), "w", since, until, 0, 0, 0, ended_at=until, reason="stopped")


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def is_status(notice: Notice) -> bool:
    return (notice.kind, notice.sub_type) == ("agents", "status")


def change(notice: Notice) -> Change:
    campaign = notice.payload.get("campaign_ref")
    return Change(str(notice.ref), at(notice.at), notice.payload["status"], campaign)


def told(call: call_centre.Call, profile: Profile) -> Call:
    """What the messages of this call say, all taken together. What they leave out isn't known."""
    clicked = call.source == "click2dial"
    in_a, in_b = clicked or profile.dialect != "b", not clicked and profile.dialect != "a"
    by_documents = clicked or profile.as_documented
    is_old = clicked and call.oddity < 0.01
    is_new = in_a and by_documents and not is_old and call.oddity < 0.02
    leg = 1 + call.uuid % 3 if is_new and clicked else 0
    end_reason = call.outcome.end_reason
    if is_old:
        end_reason = {"busy": "busy", "reject": "reject", "timeout": "timeout", "error": "error"}.get(
            end_reason, "hungup"
        )
    hold = call.hold_time if (in_a and by_documents and not is_old) or (in_b and call.outcome.connected) else None
    given_up = (
        in_b and call.outcome.answered and not call.outcome.connected
    )  # then B has when it was, and when it ended
    return Call(
        source=call.source,
        call_ref=str(call.call_ref),
        leg=leg if leg > 1 else 0,
        dialed_at=at(call.dialed_at),
        campaign=call.campaign.ref if in_a or by_documents else None,
        contact_ref=call.contact_ref if in_a else None,
        extension=call.extension,
        number=call.number if in_a else None,
        end_reason=end_reason,
        has_answered_at=in_b and call.outcome.answered,
        ring=call.ring_time if is_new or (in_b and call.outcome.answered) else None,
        hold=hold,
        talk=call.call_time if in_a or call.outcome.connected else None,
        call_dir=call.campaign.call_dir,
        wait=call.hold_time if given_up else hold,
    )


def test_what_is_told_is_what_the_views_show(world: World) -> None:
    """One test, since telling the story takes longer than asking about it."""
    assert world.archive.value("SELECT count(*) FROM dead_letters") == world.broken
    calls_are_right(world)
    wanted = expected(world.records, world.states, datetime.now(UTC), world.zone, world.previews)
    assert_equal(figures(world.archive), wanted)
    rollup(world.archive, everything=True)
    assert_equal(figures(world.archive), wanted)
    states_are_right(world)
    history_is_right(world)
    the_audit_is_right(world)
    what_does_not_match_is_told(world)
    the_books_are_right(world)


def calls_are_right(world: World) -> None:
    found = asked(world.archive, "calls", ("source", "call_ref", "leg"))
    assert len(found) == len(world.calls)
    reasons = {row["end_reason"]: row for row in world.archive.rows("SELECT * FROM reporting.end_reasons")}
    for call in world.records:
        row = found[call.source, call.call_ref, call.leg]
        wanted = {
            "day": day_of(call.dialed_at, world.zone),
            "hour": hour_of(call.dialed_at, world.zone),
            "dialed_on": call.dialed_at.date(),
            "dialed_at": call.dialed_at,
            "campaign_ref": call.campaign,
            "contact_ref": call.contact_ref,
            "extension": call.extension,
            "number": call.number,
            "end_reason": call.end_reason,
            "disposition": reasons[call.end_reason]["meaning"] if call.end_reason in reasons else None,
            "answered": call.answered,
            "reached_agent": call.reached_agent,
            "abandoned": call.abandoned,
            "voicemail": call.end_reason == "voicemail",
            "ring_seconds": call.ring,
            "hold_seconds": call.hold,
            "talk_seconds": call.talk,
        }
        assert {name: row[name] for name in wanted} == wanted
    assert {call.end_reason for call in world.records} >= ANSWERED | {"busy", "timeout", "reject", "error"}


def states_are_right(world: World) -> None:
    rows = world.archive.rows("SELECT * FROM reporting.agent_states")
    found = sorted(
        (
            r["day"],
            r["extension"],
            r["state_from"],
            r["status"],
            r["campaign_ref"] or "",
            r["state_until"],
            r["closed_by"],
        )
        for r in rows
    )
    wanted = sorted(
        (
            day_of(s.change.at, world.zone),
            s.change.extension,
            s.change.at,
            s.change.status,
            s.change.campaign or "",
            s.until,
            s.closed_by,
        )
        for s in world.states
    )
    assert found == wanted
    assert {state.closed_by for state in world.states} >= {"status", "gap"}


def history_is_right(world: World) -> None:
    found = asked(world.archive, "contact_history", ("contact_ref", "attempt"))
    wanted = history_of(world.records)
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        assert {name: found[key][name] for name in row} == row
    if world.profile.dialect != "b":
        assert any(row["since_previous"] for row in wanted.values())


def the_audit_is_right(world: World) -> None:
    found = asked(world.archive, "call_audit", ("source", "call_ref", "leg"))
    heard, states = world.connections(), defaultdict(list)
    for state in world.states:
        states[state.change.extension].append(state)
    assert len(found) == len(world.calls)
    for call in world.records:
        row = found[call.source, call.call_ref, call.leg]
        told_at = heard.get(call.call_ref)
        events = [] if told_at is None else [("agents", "call", told_at)]
        assert [(e["kind"], e["event_type"], moment(e["captured_at"])) for e in row["events"] or []] == events
        around = [
            (state.change.status, state.change.at)
            for state in states[call.extension or ""]
            if state.change.at < end_of(row, call) + MINUTE
            and (state.until is None or state.until > call.dialed_at - MINUTE)
        ]
        assert [(s["status"], moment(s["from"])) for s in row["agent_states"] or []] == around
    assert any(row["agent_states"] for row in found.values())


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def end_of(row: dict[str, Any], call: Call) -> datetime:
    ended: datetime | None = row["ended_at"]
    return ended or call.ended_at


def what_does_not_match_is_told(world: World) -> None:
    heard, known = world.connections(), {call.call_ref: call for call in world.records}
    wanted = {("CDR", ref, told_at) for ref, told_at in heard.items() if ref not in known}
    connected = {row["call_ref"]: row for row in world.archive.rows("SELECT * FROM cdrs")}
    for call in world.records:
        if call.reached_agent and call.source == "dialler" and call.call_ref not in heard:
            row = connected[call.call_ref]
            end = row["connected_at"] or row["ended_at"] or call.ended_at
            if not any(until > call.dialed_at and begin < end + MINUTE for begin, until in world.gaps):
                wanted.add(("event", call.call_ref, call.dialed_at))
    rows = world.archive.rows("SELECT * FROM reporting.unmatched_calls")
    assert {(row["lacks"], row["call_ref"], row["at"]) for row in rows} == wanted
    assert all(row["day"] == day_of(row["at"], world.zone) for row in rows)
    assert {lacks for lacks, *_ in wanted} == {"CDR", "event"}


def the_books_are_right(world: World) -> None:
    found = {row["day"]: row for row in world.archive.rows("SELECT * FROM reporting.load_days")}
    calls, events = defaultdict[date, int](int), defaultdict[date, int](int)
    for call in world.records:
        calls[call.dialed_at.date()] += 1
    for _, notice in world.notices:
        events[at(notice.at).date()] += 1
    today = datetime.now(UTC).date()
    for day, row in found.items():
        assert row["cdrs"] == calls[day]
        assert row["events"] == (world.listed if day == today else events[day])
        assert row["dead_letters"] == (world.broken if day == today else 0)
        start, end = at_midnight(day), at_midnight(day + timedelta(days=1))
        deaf = [min(until, end, datetime.now(UTC)) - max(begin, start) for begin, until in world.gaps]
        deaf_seconds = sum(max(0, span.total_seconds()) for span in deaf)
        assert float(row["gap_seconds"]) == pytest.approx(deaf_seconds, abs=5)
        assert row["figures_current"]
        assert row["trusted"] == (deaf_seconds == 0 and day != today)
        assert row["exported_revision"] is None
    assert {*calls, *events} <= {*found}
    assert any(row["trusted"] for row in found.values())


def at_midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def test_a_database_that_knows_no_such_zone_refuses_it(archive: Archive) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        archive.rows("UPDATE reporting.settings SET zone = 'Europe/Atlantis' RETURNING zone")
