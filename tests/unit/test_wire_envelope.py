"""The fast way of reading what was heard says of every message what its definition says, field by field: whichever of
the two a message goes, and whatever is broken in it."""

import json
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.wire import decode, envelope, event
from etl.wire.channels import REMEMBERED
from etl.wire.decode import Decoded, SpoolDecoding
from etl.wire.faults import Undecodable
from etl.wire.spool import pack_heard
from etl.wire.times import MICROSECONDS_PER_DAY
from tests.broken import BROKEN
from tests.fuzz import corpus
from tests.wire import ANY_JSON, LIMIT, REFERENCES, texts, write

REFUSALS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Undecodable)
CHANNEL = b"enigma:notifications:agents:1002"

LIFTED = st.sampled_from(event.Lifted.__struct_fields__)
PAYLOADS = st.dictionaries(LIFTED | texts(6), REFERENCES | ANY_JSON, max_size=6)
ENVELOPES = st.builds(
    lambda beside, parts: write({**beside, **parts}),
    st.just({}) | st.dictionaries(texts(6), ANY_JSON, max_size=2),
    st.fixed_dictionaries({"type": st.none() | texts(6) | ANY_JSON, "payload": PAYLOADS | ANY_JSON}),
)
# What a message may be broken by, or look another way with.
FRAGMENTS = st.sampled_from(
    [
        *(b'"type":', b'"payload":', b'"ref":7,', b'"ref":"\\u00e9",', b'"agent":[],', b'"typ\\u0065":"x",', b'"x":1,'),
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b'"',
            b"\\",
            b"\\u0000",
            b"\\ud800",
            b"\\/",
            b"\xff",
            b"\xc3\xa9",
            b"\0",
            b"\n",
        ),
        *(b"1e9", b"1.0", b"-0", b"01", b"9" * 40, b"null", b"true", b"[" * 200, b"]" * 200, b"NaN"),
    ]
)


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    raw = draw(ENVELOPES | st.sampled_from(corpus.everything()))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        cut = draw(st.integers(0, 3))
        raw = raw[:at] + draw(FRAGMENTS | st.binary(max_size=2)) + raw[at + cut :]
    return raw


def split(raw: bytes, way: Any) -> Any:
    try:
        message: envelope.Envelope = way(raw)
    except REFUSALS:
        return None
    return message.type, bytes(message.payload), {name: bytes(value) for name, value in message.beside.items()}


def decoded(raw: bytes) -> Decoded:
    entry = pack_heard(bytes(16), 1, CHANNEL, raw)
    return SpoolDecoding([entry], batch_id=UUID(int=1), captured_at=1, latest=2, max_message_bytes=LIMIT).finish()


def by_definition(raw: bytes) -> Decoded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_told_again", decode._told)  # nothing that is remembered
        patch.setattr(envelope, "split", envelope.split_by_name)
        patch.setattr(event, "_lifted", lambda payload: event.lifted_by_name(msgspec.json.decode(payload, type=_NAMED)))
        return decoded(raw)


_NAMED = dict[str, msgspec.Raw]


def test_given_a_message_again_then_only_its_meaning_is_remembered() -> None:
    raw = b'{"type":"status","payload":{"status":"busy","ref":"1002"}}'
    heard = [(1, b"enigma:notifications:agents:1002"), (MICROSECONDS_PER_DAY, b"enigma:notifications:campaigns:7")]
    rows = [
        SpoolDecoding(
            [pack_heard(bytes([n] * 16), at, channel, raw)],
            batch_id=UUID(int=n),
            captured_at=at,
            latest=at,
            max_message_bytes=LIMIT,
        )
        .finish()
        .events[0]
        for n, (at, channel) in enumerate(heard * 2)
    ]
    for n, row in enumerate(rows):
        at, channel = (heard * 2)[n]
        assert (row.event_id, row.captured_at, row.batch_id) == (bytes([n] * 16), at, UUID(int=n).bytes)
        assert (row.captured_on, row.channel) == (at // MICROSECONDS_PER_DAY, channel.decode())
        assert (row.kind, row.reference) == (("agents", "1002"), ("campaigns", "7"))[n % 2]


def test_given_another_limit_then_a_remembered_message_is_too_large() -> None:
    raw = b'{"type":"status","payload":{"status":"away","ref":"1002"}}'
    entry = pack_heard(bytes(16), 1, CHANNEL, raw)
    for limit, dead in ((LIMIT, 0), (len(raw) - 1, 1)):
        records = SpoolDecoding([entry], batch_id=UUID(int=1), captured_at=1, latest=2, max_message_bytes=limit)
        assert len(records.finish().dead) == dead


def test_given_endless_other_messages_then_few_are_remembered() -> None:
    for number in range(REMEMBERED + 10):
        decoded(b'{"type":"status","payload":{"ref":"%d"}}' % number)
    kept = decode._told_again.cache_info().currsize
    decoded(b'{"type":"status","payload":{"ref":"%s"}}' % (b"x" * 256))
    assert kept == decode._told_again.cache_info().currsize == REMEMBERED


def test_given_every_stored_and_broken_message_then_both_ways_say_the_same() -> None:
    broken = [raw for those in BROKEN.values() for raw in those.values()]
    assert len(broken) > 50
    for raw in [*corpus.everything(), *broken]:
        assert split(raw, envelope.split) == split(raw, envelope.split_by_name)
        assert decoded(raw) == by_definition(raw)


@given(altered())
def test_given_any_message_altered_anyhow_then_both_ways_say_the_same(raw: bytes) -> None:
    assert split(raw, envelope.split) == split(raw, envelope.split_by_name)
    assert decoded(raw) == by_definition(raw)


@given(PAYLOADS)
def test_given_a_field_of_another_kind_then_it_hides_no_other(payload: Any) -> None:
    raw = write(payload)
    fields = msgspec.json.decode(raw, type=_NAMED)
    lifted = event.lifted_by_name(fields)
    for name in event.Lifted.__struct_fields__:
        told = json.loads(bytes(fields[name])) if name in fields else None
        whole = isinstance(told, str) or (isinstance(told, int) and not isinstance(told, bool))
        assert getattr(lifted, name) == (told if whole else None)
