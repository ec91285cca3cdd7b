"""What the simulated dialler publishes fits its CDRs: no agent in two calls, nobody busy without a call, nothing before
its beginning. That the bytes follow from the profile, and what the CDRs look like, is in test_simulator."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from etl.lab.call_centre import Call
from etl.lab.simulator import Message, Profile, messages, play
from etl.lab.simulator import truth as happenings

UNTIL = datetime(2024, 5, 17, 20, 0, tzinfo=UTC)
LIVELY = Profile(cdrs=4_000, until=UNTIL, seed=3, days=2, dialect="both", duplicates=0.03, late=0.05, pubsub=True)
# Enough calls that most agents are wanted again at once.
CROWDED = Profile(cdrs=6_000, until=UNTIL, seed=4, click2dial=0.2, late=0.2, pubsub=True)

FIELDS = {
    "agents/status": ({"status", "ref"}, {"campaign_ref"}),
    "agents/call": ({"call_ref", "agent", "contact_ref", "number", "campaign_ref", "ref"}, set()),
    "agents/stats": ({"timers", "counters", "ref"}, set()),
    "campaigns/status": ({"status", "ref"}, set()),
    "campaigns/dial_preview": ({"callees", "ref"}, set()),
    "campaigns/stats": ({"timers", "counters", "ref"}, {"gauges"}),
    "dialers/status": ({"status"}, set()),
}
# What an agent's status may be followed by; None is who has never been seen.
AGENT: dict[str | None, set[str]] = {
    None: {"logging_in"},
    "logging_in": {"available"},
    "available": {"busy", "logging_out"},
    "busy": {"wrapup"},
    "wrapup": {"available"},
    "logging_out": {"offline"},
    "offline": {"logging_in"},
}


class Event(NamedTuple):
    position: int
    truth: str
    payload: dict[str, Any]


def payload(message: Message) -> dict[str, Any]:
    inner = json.loads(message.body)["payload"]
    assert isinstance(inner, dict)
    return inner


def published(profile: Profile) -> list[Event]:
    stream = enumerate(messages(profile))
    return [Event(at, message.truth, payload(message)) for at, message in stream if message.kind == "pubsub"]


def dialler_cdrs(profile: Profile) -> dict[int, tuple[int, dict[str, Any]]]:
    """Of every call of the dialler: where its dialect A stands in the stream, and its payload."""
    found = {}
    for at, message in enumerate(messages(profile)):
        if message.kind == "campaigns" and message.truth == "cdr":
            found[payload(message)["call_ref"]] = (at, payload(message))
    return found


@pytest.mark.parametrize("profile", [LIVELY, CROWDED], ids=["lively", "crowded"])
def test_no_agent_is_in_two_calls_at_once(profile: Profile) -> None:
    """By the times that the dialler knows: dialect A tells neither the ringing nor the waiting."""
    talks: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for call in happenings(profile):
        if isinstance(call, Call) and call.extension is not None and call.call_time:
            talks[call.extension].append((call.ended_at - call.call_time, call.ended_at))
    assert sum(map(len, talks.values())) > 1_000
    assert max(map(len, talks.values())) > 20, "few agents take many calls"
    for of_agent in talks.values():
        for (_, ends), (begins, _) in pairwise(sorted(of_agent)):
            assert ends <= begins


def test_the_agents_exact_times_in_dialect_b_never_overlap_either() -> None:
    talks: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
    for message in messages(replace(CROWDED, dialect="b", click2dial=0.0)):
        if message.kind != "cdrs":
            continue
        cdr = payload(message)
        if cdr["agent"] is not None:
            begins, ends = (_moment(cdr[name]) for name in ("agent_answered_at", "ended_at"))
            talks[cdr["agent"]].append((begins, ends))
    for of_agent in talks.values():
        for (_, ends), (begins, _) in pairwise(sorted(of_agent)):
            assert ends < begins, "there is a wrap-up between two calls"


def _moment(text: str) -> datetime:
    form = "%Y-%m-%dT%H:%M:%S.%f%z" if "T" in text else "%Y-%m-%d %H:%M:%S %z"
    return datetime.strptime(text, form).replace(microsecond=0)


@pytest.mark.parametrize("profile", [LIVELY, CROWDED], ids=["lively", "crowded"])
def test_agents_log_in_take_calls_wrap_up_and_go_home(profile: Profile) -> None:
    before: dict[str, str] = {}
    campaign: dict[str, object] = {}
    connection: dict[str, object] = {}
    seen: Counter[str] = Counter()
    for _, truth, event in published(profile):
        agent = event.get("ref", "")
        if truth == "agents/call":
            assert before[agent] == "available", "the connection is told just before the agent is busy"
            assert agent not in connection
            connection[agent] = event["campaign_ref"]
        elif truth == "agents/status":
            status = event["status"]
            assert status in AGENT[before.get(agent)]
            if status == "busy":
                assert connection.pop(agent) == campaign[agent]
                assert "campaign_ref" not in event, "the program doesn't say it again"
            if status == "available" and before[agent] == "logging_in":
                campaign[agent] = event["campaign_ref"]
            if event.get("campaign_ref") is not None:
                assert event["campaign_ref"] == campaign[agent], "an agent stays with one campaign until the logout"
            before[agent] = status
            seen[status] += 1
    assert set(before.values()) == {"offline"}, "in the end everybody has gone home"
    assert connection == {}
    assert seen.keys() == {status for status in AGENT if status}


def test_every_call_with_an_agent_and_no_other_is_connected_before_its_cdr() -> None:
    connections: dict[int, Event] = {}
    for event in published(LIVELY):
        if event.truth == "agents/call":
            assert connections.setdefault(event.payload["call_ref"], event) is event, "connected twice"
    told, untold = 0, 0
    for call_ref, (position, cdr) in dialler_cdrs(LIVELY).items():
        if cdr["extension"] is None:
            assert call_ref not in connections
        elif call_ref in connections:
            connected = connections.pop(call_ref)
            assert connected.position < position
            assert (connected.payload["agent"], connected.payload["ref"]) == (cdr["extension"], cdr["extension"])
            assert [connected.payload[name] for name in ("contact_ref", "number", "campaign_ref")] == [
                cdr[name] for name in ("contact_ref", "number", "ref")
            ]
            told += 1
        else:
            untold += 1
    assert connections == {}
    # The late ones: Redis was away when they were published.
    assert untold == pytest.approx(0.05 * (told + untold), rel=0.4)
    on_time = replace(LIVELY, late=0.0)
    with_agent = {call_ref for call_ref, (_, cdr) in dialler_cdrs(on_time).items() if cdr["extension"] is not None}
    assert with_agent == {e.payload["call_ref"] for e in published(on_time) if e.truth == "agents/call"}


def test_campaigns_start_before_their_first_cdr_and_stop_after_their_last() -> None:
    statuses: dict[object, list[tuple[str, int]]] = defaultdict(list)
    for position, truth, event in published(LIVELY):
        if truth == "campaigns/status":
            statuses[event["ref"]].append((event["status"], position))
    cdrs = dialler_cdrs(LIVELY).values()
    assert statuses.keys() == {cdr["ref"] for _, cdr in cdrs}
    for ref, told in statuses.items():
        course = ["initialized", "started", "stopping", "stopped"]
        outbound = {cdr["call_dir"] for _, cdr in cdrs if cdr["ref"] == ref} == {"outbound"}
        assert [status for status, _ in told] == course + ["completed"] * outbound
        positions = dict(told)
        assert positions["started"] < min(position for position, cdr in cdrs if cdr["ref"] == ref)


def test_the_dialler_starts_first_and_is_stopped_last() -> None:
    events = published(LIVELY)
    statuses = [(at, event.payload["status"]) for at, event in enumerate(events) if event.truth == "dialers/status"]
    assert [status for _, status in statuses] == ["started", "stopping", "stopped"]
    assert (statuses[0][0], statuses[-1][0]) == (0, len(events) - 1)


def test_payloads_have_the_documented_fields_on_their_references_channel() -> None:
    seen = set()
    for message in messages(LIVELY):
        if message.kind != "pubsub":
            assert message.channel == ""
            continue
        event = payload(message)
        required, optional = FIELDS[message.truth]
        assert required <= event.keys() <= required | optional
        kind, sub_type = message.truth.split("/")
        assert json.loads(message.body)["type"] == sub_type
        reference = "" if kind == "dialers" else f":{event['ref']}"
        assert message.channel == f"enigma:notifications:{kind}{reference}"
        seen.add(message.truth)
    assert seen == FIELDS.keys()


def test_statistics_add_up_to_the_cdrs() -> None:
    on_time = replace(LIVELY, late=0.0)
    latest: dict[object, dict[str, Any]] = {}
    of_agents = 0
    for _, truth, event in published(on_time):
        if truth == "campaigns/stats":
            latest[event["ref"]] = event
        if truth == "agents/stats":
            of_agents += 1
            assert min(event["timers"].values()) >= 0
    cdrs = [cdr for _, cdr in dialler_cdrs(on_time).values()]
    assert of_agents == sum(cdr["extension"] is not None for cdr in cdrs)
    for ref, stats in latest.items():
        own = [cdr for cdr in cdrs if cdr["ref"] == ref]
        counters = stats["counters"]
        assert counters["total_calls"] == len(own)
        assert counters["total_inbound"] + counters["total_outbound"] == len(own)
        fates = ("answered", "unanswered", "dropped", "rejected", "failed")
        assert sum(counters[fate] for fate in fates) == len(own)
        assert counters["answered"] == sum(cdr["extension"] is not None for cdr in own)
        assert [counters[name] for name in ("active", "available", "busy", "wrapup")] == [0, 0, 0, 0]
        assert stats["timers"]["talk_time"] == sum(cdr["call_time"] for cdr in own)


def test_the_tally_of_what_is_published_equals_an_independent_count() -> None:
    heard: list[Message] = []
    tally = play(LIVELY, lambda kind, bodies: None, publish=heard.extend)
    assert heard == [message for message in messages(LIVELY) if message.kind == "pubsub"]
    kinds = Counter(f"{message.channel.split(':')[2]}/{json.loads(message.body)['type']}" for message in heard)
    assert tally.published == kinds
    tally.published.clear()
    assert tally == play(replace(LIVELY, pubsub=False), lambda kind, bodies: None)


def test_played_without_listener_a_connection_is_published_before_its_cdr() -> None:
    connected: set[int] = set()

    def publish(notices: list[Message]) -> None:
        for notice in notices:
            envelope = json.loads(notice.body)
            if envelope["type"] == "call":
                connected.add(envelope["payload"]["call_ref"])

    def push(kind: str, bodies: list[bytes]) -> None:
        for body in bodies if kind == "campaigns" else []:
            cdr = json.loads(body)["payload"]
            assert cdr["extension"] is None or cdr["call_ref"] in connected

    play(replace(LIVELY, late=0.0), push, publish=publish)
    assert connected
