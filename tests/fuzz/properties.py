"""What is true of every message, whatever is in it; for the fuzzer and for the stored corpus alike. Of our own code it
needs `etl.wire` only, and no test tools: the fuzzer's own Python has none."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

from etl.wire.cdr import NUMBERS, Cdr
from etl.wire.decode import Decoded, Decoding, SpoolDecoding
from etl.wire.faults import Reason
from etl.wire.spool import pack_heard

KEYS = ("enigma:notifications:campaigns", "enigma:notifications:cdrs", "enigma:pbx:cdrs")
CHANNEL = b"enigma:notifications:agents:1002"
BATCH = UUID("01970000-0000-7000-8000-000000000042")
CAPTURED_AT = 802_000_000_000_000  # microseconds since 2000: in 2025
LATEST = CAPTURED_AT + 86_400_000_000
LIMIT = 100_000  # bytes
GOOD = b'{"type": "cdr", "payload": {"call_ref": 1, "dialed_at": 1424379960}}'

_INT4 = range(-(2**31), 2**31)
# A whole number in other forms, as JSON: docs/protocol.md, "Numbers as text".
_FORMS: tuple[Callable[[int], str], ...] = (
    lambda number: f'"{number}"',
    lambda number: f'" {number:+05} "',
    lambda number: f'"\\t{number}.0\\n"',
    lambda number: f"{number}.00",
    lambda number: f"{number * 10}e-1",
)
_NEIGHBOURS = [0, 2]  # where the good ones are in a claim of three


def check(raw: bytes) -> None:
    """Raises AssertionError, or whatever the decoder raises, which may be nothing."""
    for key in KEYS:
        records = _of_a_list(key, raw)
        assert records.cdrs_at[:1] + records.cdrs_at[-1:] == _NEIGHBOURS, "a good neighbour is no CDR any more"
        assert _same(records, _of_a_list(key, raw)), "decoded twice, it's something else"
    if records.cdrs_at == [0, 1, 2] and len(raw) < LIMIT // 20:
        _check_forms(json.loads(raw, parse_int=_Integer, parse_float=_Other), records)
    _of_the_spool(raw)
    heard = pack_heard(b"\x42" * 16, CAPTURED_AT, CHANNEL, raw)
    records = _of_the_spool(heard)
    assert not records.sessions, "what was heard is a report of a session"
    assert [letter.raw for letter in records.dead] in ([], [raw]), "a dead letter lacks bytes"


class _Integer(str):
    """The digits of a JSON integer."""


class _Other(str):
    """Any other JSON number, as it was sent."""


def _check_forms(message: dict[str, Any], records: Decoded) -> None:
    """A call stays what it is if its integers come in other forms."""
    names = {*NUMBERS, "call_trail_number"}
    if names.isdisjoint(name for name, value in message["payload"].items() if isinstance(value, _Integer)):
        return
    for form in _FORMS:
        payload = {
            name: _Other(form(int(value))) if name in names and isinstance(value, _Integer) else value
            for name, value in message["payload"].items()
        }
        other = _of_a_list(KEYS[-1], _json({**message, "payload": payload}).encode())
        assert _told(other.cdrs) == _told(records.cdrs), "in another form a number makes another call"
        assert other.set_aside == records.set_aside, "in another form a number is set aside"


def _json(value: Any) -> str:
    """With its numbers as they were sent."""
    if isinstance(value, _Integer | _Other):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return json.dumps(value)


def _told(cdrs: list[Cdr]) -> list[tuple[object, ...]]:
    """The rows; of `extra` what it says, as its white space and escapes were the sender's."""
    return [(cdr._replace(extra=None), json.loads(cdr.extra or b"{}", parse_int=str, parse_float=str)) for cdr in cdrs]


def _of_a_list(key: str, raw: bytes) -> Decoded:
    messages = [GOOD, raw, GOOD]
    records = Decoding(
        messages,
        source="dialler",
        key=key,
        batch_id=BATCH,
        captured_at=CAPTURED_AT,
        latest=LATEST,
        max_message_bytes=LIMIT,
    ).finish()
    _check_records(records, messages)
    assert all(letter.raw == messages[letter.position] for letter in records.dead), "a dead letter lacks bytes"
    return records


def _of_the_spool(raw: bytes) -> Decoded:
    records = SpoolDecoding([raw], batch_id=BATCH, captured_at=0, latest=2**63, max_message_bytes=LIMIT).finish()
    _check_records(records, [raw])
    return records


def _check_records(records: Decoded, messages: list[bytes]) -> None:
    outcomes = [*records.cdrs_at, *records.events_at, *(letter.position for letter in records.dead)]
    assert len(outcomes) + len(records.sessions) == len(messages), "the books don't balance"
    assert len({*outcomes}) == len(outcomes), "one message has two outcomes"
    for row in (*records.cdrs, *records.events):
        _check_loadable(row)
        references = (getattr(row, name, None) or "" for name in _REFERENCES)
        assert all(len(text.encode()) <= 512 for text in references), "a reference that an index may refuse"
    for cdr in records.cdrs:
        moments = (cdr.dialed_at, cdr.answered_at, cdr.connected_at, cdr.ended_at)
        assert all(moment is None or 0 <= moment <= LATEST for moment in moments), "a time without a partition"
        assert cdr.dialed_on == cdr.dialed_at // 86_400_000_000, "a call in another day's partition"
        assert cdr.call_ref, "a call without a reference"
        numbers = (cdr.leg, cdr.call_time, cdr.hold_time, cdr.ring_time, cdr.end_code)
        assert all(number is None or number in _INT4 for number in numbers), "a number without a column"
    assert records.set_aside.keys() <= {*NUMBERS}, "set aside, though it's no number's field"
    assert not records.set_aside or any(cdr.extra for cdr in records.cdrs), "set aside, and kept nowhere"
    for letter in records.dead:
        assert letter.reason in Reason
        assert letter.detail, "a reason without a word"
        assert "\0" not in letter.detail
        letter.detail.encode()


def _check_loadable(row: tuple[object, ...]) -> None:
    """As far as can be told without Postgres: text that it can hold, JSON that is JSON, objects only."""
    for value in row:
        if isinstance(value, str):
            assert "\0" not in value, "a NUL character in a text"
            value.encode()  # UnicodeEncodeError for a lone surrogate
    document = row[_JSON_AT[len(row)]]
    if document is not None:
        assert isinstance(document, bytes)
        numbers: list[Decimal] = []
        json.loads(document, parse_int=float, parse_float=lambda text: numbers.append(Decimal(text)))
        written = sum(max(number.adjusted() + 1, 1, -int(number.as_tuple().exponent)) for number in numbers)
        assert written <= 4 * len(document) + 16_386, "a text that fills a disk"
        parsed = json.loads(document, parse_int=float, parse_constant=_refuse)
        assert isinstance(parsed, dict), "no object"
        assert all("\0" not in text for text in _texts(parsed)), "a NUL character in JSON"


_REFERENCES = ("call_ref", "contact_ref", "campaign_ref", "extension", "uuid", "reference")
# Where CDRs and events have theirs: `extra` and `payload`.
_JSON_AT = {23: 21, 14: 12}


def _texts(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case dict(fields):
                waiting += [*fields, *fields.values()]
            case list(items):
                waiting += items


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


def _same(one: Decoded, other: Decoded) -> bool:
    return (one.cdrs, one.events, one.dead, one.set_aside) == (other.cdrs, other.events, other.dead, other.set_aside)
