"""A CDR of either dialect, of any age, to its row: every field in its column, and what has no column in `extra`."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.wire.cdr import DISPOSITIONS, Cdr
from etl.wire.times import EPOCH, from_datetime
from tests.wire import (
    ANY_JSON,
    BATCH,
    PAYLOADS_A,
    PAYLOADS_B,
    Json,
    a_cdr,
    call,
    decoded,
    exactly,
    extra,
    having,
    typed,
    write,
)
from tests.world import CDRS, CLICK2DIAL, DIALED_AT, api_cdr, cdr

DAY = (DIALED_AT - int(EPOCH.timestamp())) // 86_400
MOMENT = (DIALED_AT - int(EPOCH.timestamp())) * 1_000_000


# The two dialects


def test_a_client_cdr_fills_its_columns() -> None:
    assert a_cdr(cdr(88, hold_time=7)) == Cdr(
        dialed_on=DAY,
        source="dialler",
        call_ref="88",
        leg=0,
        dialed_at=MOMENT,
        answered_at=None,
        connected_at=None,
        ended_at=None,
        call_time=41,
        hold_time=7,
        ring_time=None,
        call_dir="outbound",
        extension="1002",
        number="0741484437",
        dial_number="0126543210",
        campaign_ref="2040",
        contact_ref="M0042",
        end_reason="callee_hungup",
        end_code=16,
        recording_url="ftp://pbx/2015/02/19/88.wav",
        uuid=None,
        extra=None,
        batch_id=BATCH.bytes,
    )


def test_an_api_cdr_fills_its_columns() -> None:
    assert a_cdr(api_cdr(88, ref=2040)) == Cdr(
        dialed_on=DAY,
        source="dialler",
        call_ref="88",
        leg=0,
        dialed_at=MOMENT,
        answered_at=MOMENT + 12_000_000,
        connected_at=MOMENT + 15_000_000,
        ended_at=MOMENT + 56_000_000,
        call_time=None,
        hold_time=None,
        ring_time=None,
        call_dir="outbound",
        extension="1002",
        number=None,
        dial_number=None,
        campaign_ref="2040",
        contact_ref=None,
        end_reason="callee_hungup",
        end_code=None,
        recording_url="ftp://pbx/2015/02/19/88.wav",
        uuid="2b1cc7c0-9a6f-4e2e-8f51-5a3f7e0b2a11",
        extra=None,
        batch_id=BATCH.bytes,
    )


def test_the_least_that_a_cdr_has_is_a_call_ref_and_a_time() -> None:
    record = a_cdr(call())
    assert (record.call_ref, record.dialed_at, record.leg, record.extra) == ("1", MOMENT, 0, None)
    assert [name for name, value in record._asdict().items() if value is not None] == [
        *("dialed_on", "source", "call_ref", "leg", "dialed_at", "batch_id")
    ]


@pytest.mark.parametrize("message_type", ["cdr", "call_update", None])
@pytest.mark.parametrize("message", [cdr(88), api_cdr(88)])
def test_each_dialect_is_understood_under_each_type(message_type: str | None, message: bytes) -> None:
    body = json.loads(message)
    assert a_cdr(json.dumps({**body, "type": message_type}).encode()) == a_cdr(message)


@pytest.mark.parametrize("key", [CDRS, CLICK2DIAL, "enigma:pbx:cdrs", "enigma:notifications:agents:1002"])
def test_a_cdr_is_a_cdr_on_any_list(key: str) -> None:
    assert decoded(cdr(88), key) == a_cdr(cdr(88))


# References


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("call_ref", "call_ref"),
        ("contact_ref", "contact_ref"),
        ("ref", "campaign_ref"),
        ("extension", "extension"),
        ("agent", "extension"),
        ("number", "number"),
        ("dial_number", "dial_number"),
        ("clid", "dial_number"),
    ],
)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1002, "1002"),
        ("1002", "1002"),
        ("00090", "00090"),
        (0, "0"),
        (-1, "-1"),
        (2**64, "18446744073709551616"),
        (Decimal("9" * 512), "9" * 512),
        ("click-dial", "click-dial"),
        (" ", " "),
        ("Zoë \N{GRINNING FACE}", "Zoë \N{GRINNING FACE}"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_reference_is_the_same_as_an_integer_and_as_a_string(field: str, column: str, value: Json, text: str) -> None:
    assert getattr(a_cdr(call(**{field: value})), column) == text


@pytest.mark.parametrize("field", ["contact_ref", "number", "extension", "recording_url", "end_reason", "call_dir"])
def test_empty_and_null_are_two_things(field: str) -> None:
    assert getattr(a_cdr(call(**{field: ""})), field) == ""
    assert getattr(a_cdr(call(**{field: None})), field) is None
    assert getattr(a_cdr(call()), field) is None


def test_a_callee_who_hung_up_in_the_queue_has_no_extension() -> None:
    assert a_cdr(cdr(88, extension=None, call_time=0)).extension is None
    assert a_cdr(api_cdr(88, agent=None, agent_answered_at=None)).extension is None


def test_the_times_of_what_did_not_happen_are_null() -> None:
    record = a_cdr(api_cdr(88, callee_answered_at=None, agent_answered_at=None, ended_at=None))
    assert (record.answered_at, record.connected_at, record.ended_at) == (None, None, None)


@pytest.mark.parametrize("field", ["call_time", "hold_time", "end_code", "ring_time"])
@pytest.mark.parametrize("value", [-(2**31), -1, 0, 2**31 - 1])
def test_an_integer_fills_its_column_to_the_brim(field: str, value: int) -> None:
    assert getattr(a_cdr(call(**{field: value})), field) == value


# Dispositions


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        ("ANSWER", "hungup"),
        ("CANCEL", "hungup"),
        ("BUSY", "busy"),
        ("DONTCALL", "reject"),
        ("NOANSWER", "timeout"),
        ("CONGESTION", "error"),
        ("CHANUNAVAIL", "error"),
        ("TORTURE", "error"),
        ("INVALIDARGS", "failed"),
        ("something new", "something new"),
        ("timeout", "timeout"),
        ("", ""),
    ],
)
def test_an_old_disposition_gets_its_meaning_and_is_kept(raw: str, meaning: str) -> None:
    record = a_cdr(call(disposition=raw))
    assert (record.end_reason, extra(record)) == (meaning, {"disposition": raw})


def test_all_old_dispositions_were_tested() -> None:
    assert len(DISPOSITIONS) == 9


@pytest.mark.parametrize("end_reason", ["callee_hungup", "voicemail", "", "a reason of tomorrow", "NOANSWER"])
def test_an_end_reason_is_kept_whatever_it_says(end_reason: str) -> None:
    assert a_cdr(call(end_reason=end_reason)).end_reason == end_reason
    record = a_cdr(call(end_reason=end_reason, disposition="BUSY"))
    assert (record.end_reason, extra(record)) == (end_reason, {"disposition": "BUSY"})


def test_a_null_disposition_says_nothing() -> None:
    record = a_cdr(call(disposition=None, end_reason="busy"))
    assert (record.end_reason, record.extra) == ("busy", None)


# Other names of the same things

OTHER_NAMES = [
    ("agent", "extension", "extension", "1003", "1002"),
    ("recording_location", "recording_url", "recording_url", "ftp://b", "ftp://a"),
    ("clid", "dial_number", "dial_number", "0126", "0125"),
    ("isdn_code", "end_code", "end_code", 17, 16),
    ("hold_time_number", "hold_time", "hold_time", 8, 7),
    ("ring_time_number", "ring_time", "ring_time", 10, 9),
]


@pytest.mark.parametrize(("other", "field", "column", "value", "_value"), OTHER_NAMES)
def test_another_name_fills_the_same_column(other: str, field: str, column: str, value: Json, _value: Json) -> None:
    for message in (call(**{other: value}), call(**{other: value, field: None}), call(**{other: value, field: value})):
        record = a_cdr(message)
        assert (getattr(record, column), record.extra) == (value, None)


@pytest.mark.parametrize(("other", "field", "column", "value", "first"), OTHER_NAMES)
def test_if_both_names_are_there_the_first_counts_the_other_is_kept(
    other: str, field: str, column: str, value: Json, first: Json
) -> None:
    for message in (call(**{other: value, field: first}), call(**{field: first, other: value})):
        record = a_cdr(message)
        assert (getattr(record, column), extra(record)) == (first, {other: value})


@pytest.mark.parametrize(("other", "field", "column", "_value", "first"), OTHER_NAMES)
def test_the_other_name_says_nothing_if_it_is_null(
    other: str, field: str, column: str, _value: Json, first: Json
) -> None:
    record = a_cdr(call(**{other: None, field: first}))
    assert (getattr(record, column), record.extra) == (first, None)


def test_a_reference_that_both_names_spell_differently_is_one_value() -> None:
    record = a_cdr(call(extension="1002", agent=1002))
    assert (record.extension, record.extra) == ("1002", None)


def test_the_leg_of_a_transferred_call() -> None:
    assert a_cdr(call(call_trail_number=2)).leg == 2
    assert a_cdr(call(call_trail_number=2**31 - 1)).leg == 2**31 - 1


def test_no_leg_and_leg_1_are_the_first_one() -> None:
    for first in (None, "", 1, "1", " +01.0 ", Decimal("1.0")):
        assert a_cdr(cdr(1, call_trail_number="LEG").replace(b'"LEG"', write(first))) == a_cdr(cdr(1))


# What has no column


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("call_type", ["transfer-blind", "", 3, None]),
        ("call_trail_ref", ["T-9", 9, None, Decimal("9" * 30)]),
        ("ring_time_extension", [12, 0, None]),
    ],
)
def test_documented_fields_without_a_column_are_kept_as_they_came(field: str, values: list[Json]) -> None:
    for value in values:
        assert extra(a_cdr(call(**{field: value}))) == {field: value}


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "1",
        "1.0",
        "-0.5e-10",
        "1e400",
        "-1e-400",
        "0.1000000000000000055",
        "123456789012345678901234567890.123456789",
        "18446744073709551616",
        pytest.param("9" * 5_000, id="5000 digits"),
        "true",
        "false",
        "null",
        '""',
        '"1"',
        '"\\u00e9\\ud83d\\ude00\\n\\/\\\\"',
        '"é\N{GRINNING FACE}\x7f\x80\ufffe\uffff\U0010ffff"',
        "[]",
        "{}",
        '[1, [true, null], {"a": {"": [1.10]}}]',
        " [ 1\t,\r\n2 ] ",
        "[" * 100 + "]" * 100,
    ],
)
def test_a_field_that_nobody_documented_is_kept_with_its_json_type(value: str) -> None:
    record = a_cdr(having(value, "sentiment"))
    assert record.extra is not None
    assert exactly(record.extra) == {"sentiment": exactly(value)}
    assert json.loads(record.extra, parse_float=str, parse_int=str) == {
        "sentiment": json.loads(value, parse_float=str, parse_int=str)
    }


@pytest.mark.parametrize("name", ["", " ", "Call_ref", "$envelope", "answered_at", "leg", "é\N{GRINNING FACE}", '"\\'])
def test_a_field_may_have_any_name(name: str) -> None:
    assert extra(a_cdr(call(**{name: "x"}))) == {name: "x"}


def test_of_a_field_that_is_there_twice_the_last_one_counts() -> None:
    twice = call(x=1, call_time=2).replace(b'"x": 1', b'"x": 1, "x": [2], "call_time": 1')
    record = a_cdr(twice)
    assert (record.call_time, extra(record)) == (2, {"x": [2]})


def test_fields_beside_the_payload_are_kept_apart() -> None:
    payload = {"call_ref": 1, "dialed_at": DIALED_AT}
    message = {"id": Decimal("1.50"), "type": "cdr", "payload": payload, "at": None}
    assert extra(a_cdr(write(message))) == {"$envelope": {"id": Decimal("1.50"), "at": None}}


def test_fields_beside_the_payload_push_nothing_out() -> None:
    payload = {"call_ref": 1, "dialed_at": DIALED_AT, "$envelope": 1, "$$envelope": 2}
    kept = extra(a_cdr(write({"type": "cdr", "payload": payload, "call_ref": 3})))
    assert kept == {"$envelope": 1, "$$envelope": 2, "$$$envelope": {"call_ref": 3}}


# Both ways to read a message


def test_escaped_text_is_read_in_full() -> None:
    escaped = cdr(1, contact_ref="Zoë").replace(b"/", b"\\/").replace(b'"number"', b'"\\u006eumber"')
    assert a_cdr(escaped) == a_cdr(cdr(1, contact_ref="Zoë"))


def test_a_backslash_before_u0000_is_no_nul() -> None:
    assert a_cdr(cdr(1, contact_ref="\\u0000")).contact_ref == "\\u0000"
    assert extra(a_cdr(cdr(1, note=["\\u0000", "\\\\u0000"]))) == {"note": ["\\u0000", "\\\\u0000"]}


@given(PAYLOADS_A | PAYLOADS_B, st.sampled_from(["cdr", "call_update", None]), ANY_JSON, st.booleans())
def test_a_field_that_nobody_documented_changes_no_column(
    payload: dict[str, Json], message_type: str | None, value: Json, ascii_only: bool
) -> None:
    without = a_cdr(write({"type": message_type, "payload": payload}, ascii_only))
    inside = a_cdr(write({"type": message_type, "payload": {**payload, "undocumented": value}}, ascii_only))
    beside = a_cdr(write({"type": message_type, "undocumented": value, "payload": payload}, ascii_only))

    assert inside._replace(extra=None) == beside._replace(extra=None) == without._replace(extra=None)
    assert extra(inside) == {**extra(without), "undocumented": typed(value)}
    assert extra(beside) == {**extra(without), "$envelope": {"undocumented": typed(value)}}


@given(PAYLOADS_A | PAYLOADS_B)
def test_escaping_changes_nothing(payload: dict[str, Json]) -> None:
    message = {"type": "cdr", "payload": payload}
    escaped, plain = a_cdr(write(message, ascii_only=True)), a_cdr(write(message, ascii_only=False))
    assert escaped._replace(extra=None) == plain._replace(extra=None)
    assert extra(escaped) == extra(plain)


def test_a_call_is_the_same_in_both_dialects() -> None:
    client, api = a_cdr(cdr(88)), a_cdr(api_cdr(88))
    both = [name for name in Cdr._fields if None not in (getattr(client, name), getattr(api, name))]
    assert {"call_ref", "dialed_at", "extension", "recording_url", "end_reason", "call_dir"} <= {*both}
    assert [getattr(client, name) for name in both] == [getattr(api, name) for name in both]
    assert from_datetime(EPOCH) == 0
