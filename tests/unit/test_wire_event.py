"""What is no CDR becomes an event: its payload whole, and lifted out of it what docs/protocol.md says it is about."""

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.wire.envelope import kind_and_reference
from etl.wire.event import Event
from etl.wire.times import from_datetime
from tests.wire import ANY_JSON, BATCH, CLAIMED_AT, Json, an_event, decoding, exactly, records, texts, typed, write
from tests.world import CAMPAIGNS, cdr

AGENTS, INBOUND = "enigma:notifications:agents", "enigma:notifications:inbound"


def event(event_type: str, payload: Json, **beside: Json) -> bytes:
    return write({"type": event_type, "payload": payload, **beside})


def lifted(record: Event) -> dict[str, str]:
    names = ("reference", "status", "campaign_ref", "extension", "call_ref")
    return {name: value for name in names if (value := getattr(record, name)) is not None}


# Every documented type


@pytest.mark.parametrize("status", ["started", "stopping", "stopped", "completed", "initialized", "of tomorrow"])
def test_a_campaign_s_status(status: str) -> None:
    record = an_event(event("status", {"status": status, "ref": "2040"}))
    assert (record.kind, record.event_type) == ("campaigns", "status")
    assert lifted(record) == {"reference": "2040", "status": status, "campaign_ref": "2040"}


@pytest.mark.parametrize("status", ["logging_in", "available", "busy", "wrapup", "logging_out", "offline"])
def test_an_agent_s_status(status: str) -> None:
    record = an_event(event("status", {"status": status, "campaign_ref": 2040, "ref": "1002"}), AGENTS)
    assert (record.kind, record.event_type) == ("agents", "status")
    assert lifted(record) == {"reference": "1002", "status": status, "campaign_ref": "2040", "extension": "1002"}


@pytest.mark.parametrize("campaign", [{}, {"campaign_ref": None}])
def test_an_agent_may_be_in_no_campaign(campaign: Json) -> None:
    record = an_event(event("status", {"status": "offline", "ref": "1002", **campaign}), AGENTS)
    assert lifted(record) == {"reference": "1002", "status": "offline", "extension": "1002"}


def test_an_agent_connection() -> None:
    payload = {
        "call_ref": 88,
        "agent": "1002",
        "contact_ref": "M0042",
        "number": "0741484437",
        "campaign_ref": "2040",
        "ref": "1002",
    }
    record = an_event(event("call", payload), AGENTS)
    assert (record.kind, record.event_type) == ("agents", "call")
    assert lifted(record) == {"reference": "1002", "campaign_ref": "2040", "extension": "1002", "call_ref": "88"}


def test_an_inbound_call() -> None:
    payload = {"call_ref": "in-3", "ref": "200", "number": "0825550000", "contact_ref": "", "campaign_ref": "inbound"}
    record = an_event(event("call", payload), INBOUND)
    assert (record.kind, record.event_type) == ("inbound", "call")
    assert lifted(record) == {"reference": "200", "campaign_ref": "inbound", "extension": "200", "call_ref": "in-3"}


@pytest.mark.parametrize(
    ("key", "event_type", "payload", "about"),
    [
        (CAMPAIGNS, "dial_preview", {"callees": [{"number": "07", "contact_ref": "M1"}], "ref": 2040}, "campaign_ref"),
        (CAMPAIGNS, "dial_preview", {"callees": [], "ref": "2040"}, "campaign_ref"),
        (CAMPAIGNS, "queue_calls", {"rate": Decimal("1.5"), "ref": "2040"}, "campaign_ref"),
        (
            CAMPAIGNS,
            "stats",
            {
                "timers": {"ring_time": 1, "hold_time": 2, "talk_time": 3},
                "counters": {"answered": 4, "busy": 0},
                "gauges": {"callees_remaining": 5},
                "ref": "2040",
            },
            "campaign_ref",
        ),
        (CAMPAIGNS, "stats", {"ref": "2040"}, "campaign_ref"),
        (AGENTS, "stats", {"timers": {"talk_time": 1}, "counters": {"calls": 2}, "ref": 2040}, "extension"),
        (CAMPAIGNS, "nobody documented this", {"ref": "2040", "status": ["x"]}, "campaign_ref"),
        ("enigma:notifications:c2d", "nobody documented this", {"ref": "2040"}, None),
    ],
)
def test_other_events_tell_what_they_are_about(key: str, event_type: str, payload: Json, about: str | None) -> None:
    record = an_event(event(event_type, payload), key)
    assert record.event_type == event_type
    assert lifted(record) == {"reference": "2040", **({about: "2040"} if about else {})}
    assert exactly(record.payload) == typed(payload)


def test_what_an_event_has_beside_its_content() -> None:
    record = an_event(event("status", {"status": "started"}))
    assert (record.captured_at, record.captured_on) == (from_datetime(CLAIMED_AT), 9_283)  # days since 2000
    assert (record.origin, record.channel, record.batch_id) == ("list", CAMPAIGNS, BATCH.bytes)


# What is lifted, and what isn't


def test_more_exact_names_come_first() -> None:
    payload = {"ref": "1", "campaign_ref": "2", "extension": "3", "agent": "4"}
    assert lifted(an_event(event("x", payload))) == {"reference": "1", "campaign_ref": "2", "extension": "3"}
    assert lifted(an_event(event("x", payload), AGENTS)) == {"reference": "1", "campaign_ref": "2", "extension": "3"}
    assert lifted(an_event(event("x", {"ref": "1", "agent": "4"}), AGENTS)) == {"reference": "1", "extension": "4"}


def test_the_reference_in_the_key_comes_before_the_one_in_the_payload() -> None:
    assert an_event(event("status", {"ref": 7}), "enigma:notifications:campaigns:2040").reference == "2040"
    assert an_event(event("status", {}), "enigma:notifications:agents:1002:x").reference == "1002:x"


@pytest.mark.parametrize("name", ["ref", "status", "campaign_ref", "extension", "agent", "call_ref"])
@pytest.mark.parametrize(
    "value",
    [
        "null",
        "true",
        "1.5",
        "1e400",
        "[]",
        '{"a": 1}',
        pytest.param("9" * 5_000, id="5000 digits"),
        pytest.param("[" * 100 + "]" * 100, id="deep"),
    ],
)
def test_a_field_of_an_unexpected_kind_is_in_the_payload_only(name: str, value: str) -> None:
    record = an_event(event("x", {name: "VALUE"}).replace(b'"VALUE"', value.encode()))
    assert lifted(record) == {}
    assert exactly(record.payload) == {name: exactly(value)}


def test_a_status_is_text() -> None:
    record = an_event(event("status", {"status": 5}))
    assert (record.status, exactly(record.payload)) == (None, {"status": 5})


# The payload, whole


@given(st.dictionaries(texts(8), ANY_JSON, max_size=4), texts(), st.booleans())
def test_any_payload_is_kept_as_it_was_sent(payload: dict[str, Json], event_type: str, ascii_only: bool) -> None:
    event_type += "!"  # neither cdr nor call_update
    record = an_event(write({"type": event_type, "payload": payload}, ascii_only))
    assert (record.event_type, exactly(record.payload)) == (event_type, typed(payload))

    beside = an_event(write({"x": [1], "payload": payload, "type": event_type}, ascii_only))
    (kept,) = (name for name in exactly(beside.payload) if name not in payload)
    assert exactly(beside.payload) == {**typed(payload), kept: {"x": [1]}}
    assert beside._replace(payload=b"") == record._replace(payload=b"")


def test_no_digit_of_a_payload_is_lost() -> None:
    payload = b'{"a": 0.1000000000000000055, "b": 1e400, "c": 1.0, "d": ' + b"9" * 5_000 + b"}"
    assert an_event(b'{"type":"x","payload":' + payload + b"}").payload == payload
    assert exactly(an_event(b'{"type":"x","payload":' + payload + b',"e":1.0}').payload) == {
        **exactly(payload),
        "$envelope": {"e": Decimal("1.0")},
    }


def test_of_a_type_or_payload_that_is_there_twice_the_last_one_counts() -> None:
    record = an_event(b'{"type":5,"payload":[],"type":"x","payload":{"ref":1,"ref":2}}')
    assert (record.event_type, record.reference) == ("x", "2")


# Keys


@pytest.mark.parametrize(
    ("key", "kind", "reference"),
    [
        ("enigma:notifications:campaigns", "campaigns", None),
        ("enigma:notifications:campaign", "campaigns", None),
        ("enigma:notifications:campaigns:2040", "campaigns", "2040"),
        ("enigma:notifications:agents", "agents", None),
        ("enigma:notifications:agent:1002", "agents", "1002"),
        ("enigma:notifications:agents:10:02", "agents", "10:02"),
        ("enigma:notifications:cdrs", "cdrs", None),
        ("enigma:notifications:cdr", "cdrs", None),
        ("enigma:notifications:inbound:200", "inbound", "200"),
        ("enigma:notifications:c2d", "c2d", None),
        ("enigma:notifications:dialers", "dialers", None),
        ("enigma:notifications:dialer", "dialers", None),
        ("pbx:two:dialer", "dialers", None),
        ("dialer:notifications:cdrs", "cdrs", None),
        ("dialer:agent:1002", "agents", "1002"),
        ("enigma:notifications:weather:agents", "weather", "agents"),
        ("enigma:pbx:cdrs", "cdrs", None),
        ("dialler:two:agent:1002", "agents", "1002"),
        ("{dialler}:campaigns:2040", "campaigns", "2040"),
        ("dialler:weather", "weather", None),
        ("agents", "agents", None),
        ("enigma:notifications", "notifications", None),
        ("Zoë's list", "Zoë's list", None),
    ],
)
def test_a_key_names_the_type_and_the_reference(key: str, kind: str, reference: str | None) -> None:
    assert kind_and_reference(key) == (kind, reference)
    record = an_event(event("status", {}), key)
    assert (record.kind, record.reference, record.channel) == (kind, reference, key)


@given(st.text())
def test_any_key_names_some_type(key: str) -> None:
    kind, reference = kind_and_reference(key)
    assert isinstance(kind, str)
    assert reference != ""


# Who decodes a claim again finds the same events


MESSAGES = [event("status", {"status": "started"}), cdr(1), event("status", {"status": "started"}), b"broken"]


def test_a_claim_that_is_decoded_again_gives_the_same_events() -> None:
    assert decoding(*MESSAGES).events == decoding(*MESSAGES).events


def test_each_event_has_an_id_of_its_own() -> None:
    ids = [record.event_id for record in decoding(*MESSAGES).events]
    elsewhere = [record.event_id for record in decoding(*MESSAGES, batch_id=UUID(int=BATCH.int + 1)).events]
    assert len({*ids, *elsewhere}) == 4
    assert {len(event_id) for event_id in ids} == {16}


def test_the_id_depends_on_the_place_in_the_claim_only() -> None:
    others = [cdr(2), b"", event("x", {})]
    assert decoding(*MESSAGES[:2], MESSAGES[2]).events[-1] == decoding(*others[:2], MESSAGES[2]).events[-1]


# A claim is decoded as it is read


def test_records_know_their_place_in_the_claim() -> None:
    out = decoding(*MESSAGES)
    assert (out.cdrs_at, out.events_at, [dead.position for dead in out.dead]) == ([1], [0, 2], [3])


def test_a_stream_that_was_abandoned_is_read_again_from_the_start() -> None:
    messages = [cdr(1), MESSAGES[0], cdr(2, note="x"), b"broken", cdr(3)]
    claim = records(*messages)
    assert [next(claim.stream()).call_ref for _ in range(2)] == ["1", "1"]
    halfway = claim.stream()
    assert [next(halfway).call_ref, next(halfway).call_ref] == ["1", "2"]
    del halfway
    assert [record.call_ref for record in claim.stream()] == ["1", "2", "3"]
    assert [record.call_ref for record in claim.stream()] == ["1", "2", "3"]
    out = claim.finish()
    assert out.cdrs == decoding(*messages).cdrs
    assert (out.cdrs_at, out.events_at, [dead.position for dead in out.dead]) == ([0, 2, 4], [1], [3])
