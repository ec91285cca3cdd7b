"""Whatever is on the list: each message becomes one CDR, one event, or one dead letter with its reason and its bytes.

The tenth reason, refused_by_database, is Postgres' to find: see tests/integration/test_wire_roundtrip.py.
"""

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.wire.envelope import MAX_DEPTH
from etl.wire.faults import Reason
from tests.broken import BROKEN, GOOD_EVENT, INTEGERS, REFERENCES, TEXTS, event_having
from tests.wire import Json, call, decoded, decoding, having, reason
from tests.world import DIALED_AT, api_cdr, cdr


@pytest.mark.parametrize(
    ("message", "why"),
    [
        pytest.param(message, why, id=f"{why}: {name}")
        for why, messages in BROKEN.items()
        for name, message in messages.items()
    ],
)
def test_a_broken_message_is_one_dead_letter_and_its_neighbours_load(message: bytes, why: Reason) -> None:
    good, good_event = cdr(7), GOOD_EVENT
    out = decoding(good, message, good_event, message)

    assert [(dead.position, dead.reason, dead.raw) for dead in out.dead] == [(1, why, message), (3, why, message)]
    assert all(dead.detail.isprintable() and 0 < len(dead.detail) < 200 for dead in out.dead)
    assert not any(re.search(r"\b(\w+) \1\b", dead.detail) for dead in out.dead), "a word stands there twice"
    assert (out.cdrs, out.cdrs_at) == (decoding(good).cdrs, [0])
    assert [record.payload for record in out.events] == [record.payload for record in decoding(good_event).events]
    assert out.events_at == [2]


def test_the_reasons_are_those_that_operators_know() -> None:
    assert [str(why) for why in Reason] == [
        "not_json",
        "not_utf8",
        "not_an_envelope",
        "missing_field",
        "bad_type",
        "out_of_range",
        "nul_character",
        "too_large",
        "too_deep",
        "refused_by_database",
    ]
    assert {*Reason} - {*BROKEN} == {Reason.TOO_LARGE, Reason.REFUSED_BY_DATABASE}


@pytest.mark.parametrize("name", [*INTEGERS, *TEXTS, *REFERENCES])
def test_the_detail_names_the_broken_field_and_not_its_value(name: str) -> None:
    (dead,) = decoding(call(**{name: {"secret": 1}})).dead
    assert dead.detail.startswith(f"{name}: ")
    assert "secret" not in dead.detail


# Limits, to the byte and to the level


@pytest.mark.parametrize(
    "message",
    [cdr(1), cdr(1, x=1), cdr(1, contact_ref="\\"), api_cdr(1), GOOD_EVENT, cdr(1, contact_ref="é" * 1_000)],
    ids=["a CDR", "a CDR with a field more", "a CDR with a backslash", "dialect B", "an event", "a long CDR"],
)
def test_a_message_may_be_as_large_as_the_limit_and_not_a_byte_larger(message: bytes) -> None:
    assert decoded(message, limit=len(message)) == decoded(message)
    assert reason(message, limit=len(message) - 1) == Reason.TOO_LARGE
    assert reason(message + b" ", limit=len(message)) == Reason.TOO_LARGE


def test_what_is_too_large_is_not_even_looked_at() -> None:
    assert reason(b"\xff" * 1_001, limit=1_000) == Reason.TOO_LARGE


@pytest.mark.parametrize("make", [having, event_having])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_a_message_may_be_as_deep_as_the_limit_and_not_a_level_deeper(
    make: Callable[[str], bytes], opened: str, closed: str
) -> None:
    for deepest, too_deep in ((MAX_DEPTH - 2, False), (MAX_DEPTH - 1, True)):  # envelope and payload are two levels
        message = make(opened * deepest + "1" + closed * deepest)
        with_brackets_elsewhere = having('"' + "[{" * 100 + '"', "y", message)
        for one in (message, with_brackets_elsewhere):
            assert [dead.reason for dead in decoding(one).dead] == [Reason.TOO_DEEP] * too_deep


def test_many_brackets_side_by_side_or_in_a_string_are_not_deep() -> None:
    callees = [{"number": "07", "contact_ref": "M1"}] * 1_000
    brackets = "[{" * 10_000
    assert not decoding(event_having(json.dumps(callees)), cdr(1, x=brackets), cdr(1, number=brackets)).dead


# Anything at all


def becomes_one_thing_each(messages: list[bytes]) -> None:
    out = decoding(*messages, limit=2_000)
    assert len(out.cdrs) == len(out.cdrs_at)
    assert len(out.events) == len(out.events_at)
    assert sorted([*out.cdrs_at, *out.events_at, *(dead.position for dead in out.dead)]) == [*range(len(messages))]
    for dead in out.dead:
        assert dead.raw == messages[dead.position]
        assert dead.detail.isprintable()


HOSTILE_TEXT = st.text(st.characters(), max_size=10) | st.sampled_from(["\0", "\ud800", "\\u0000", "9" * 30])
HOSTILE_JSON: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | HOSTILE_TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(HOSTILE_TEXT, values, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*INTEGERS, *TEXTS, *REFERENCES, "dialed_at", "ended_at", "status", "x", "$envelope"])
TYPES = st.sampled_from(["cdr", "call_update", None, "status", "call"])


@given(st.lists(st.binary() | HOSTILE_JSON.map(lambda value: json.dumps(value).encode()), max_size=8))
@example([b"\xff", b"", b"[" * 3_000, b"[" * 1_500, b'{"type":"cdr","payload":{"call_ref":1,"dialed_at":1e999}}'])
def test_any_bytes_and_any_json_become_one_thing_each(messages: list[bytes]) -> None:
    becomes_one_thing_each(messages)


@given(st.fixed_dictionaries({}, optional={"type": TYPES | HOSTILE_JSON, "payload": HOSTILE_JSON, "x": HOSTILE_JSON}))
def test_any_json_as_part_of_an_envelope_becomes_one_thing(message: Json) -> None:
    becomes_one_thing_each([json.dumps(message).encode()])


@given(TYPES, st.dictionaries(NAMES | HOSTILE_TEXT, HOSTILE_JSON, max_size=4))
def test_any_json_in_any_field_becomes_one_thing(message_type: str | None, fields: Json) -> None:
    payload = {"call_ref": 1, "dialed_at": DIALED_AT, **fields}
    becomes_one_thing_each([json.dumps({"type": message_type, "payload": payload}).encode()])


PIECES = [b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"-", b"e9", b"\0", b"null", b"\xeb"]


@given(
    st.sampled_from([cdr(1), api_cdr(1), cdr(1, x=[{"a": "é"}]), GOOD_EVENT]),
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=3) | st.sampled_from(PIECES)),
        min_size=1,
        max_size=4,
    ),
)
def test_a_damaged_message_becomes_one_thing(message: bytes, damages: list[tuple[float, int, bytes]]) -> None:
    for place, length, piece in damages:
        at = int(place * len(message))
        message = message[:at] + piece + message[at + length :]
    becomes_one_thing_each([message])
