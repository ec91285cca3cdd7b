"""What the tests of `etl.wire` share: a message in, what became of it out; and the messages that hypothesis makes up.

Made-up payloads keep to docs/protocol.md as far as their documented fields go. Times come as `Spelled`, so that a test
knows what they mean without asking the code it tests; numbers in undocumented fields are `Decimal`, so that none is
rounded.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from etl.wire.cdr import Cdr
from etl.wire.decode import Decoded, Decoding
from etl.wire.event import Event
from etl.wire.faults import DeadLetter, Reason
from etl.wire.times import from_datetime
from tests.world import CAMPAIGNS, DIALED_AT, cdr

Json = Any
Record = Cdr | Event | DeadLetter

BATCH = UUID("01970000-0000-7000-8000-000000000042")
CLAIMED_AT = datetime(2025, 6, 1, 12, 30, tzinfo=UTC)
LATEST = CLAIMED_AT + timedelta(days=1)
LIMIT = 100_000  # bytes


# One message in, what became of it out


def records(
    *messages: bytes,
    key: str = CAMPAIGNS,
    batch_id: UUID = BATCH,
    limit: int = LIMIT,
    zone: tzinfo = UTC,
    latest: datetime = LATEST,
) -> Decoding:
    return Decoding(
        messages,
        source="dialler",
        key=key,
        batch_id=batch_id,
        captured_at=from_datetime(CLAIMED_AT),
        latest=from_datetime(latest),
        max_message_bytes=limit,
        zone=zone,
    )


def decoding(*messages: bytes, **more: Any) -> Decoded:
    return records(*messages, **more).finish()


def decoded(message: bytes, key: str = CAMPAIGNS, limit: int = LIMIT) -> Record:
    out = decoding(message, key=key, limit=limit)
    found: list[Record] = [*out.cdrs, *out.events, *out.dead]
    assert len(found) == 1
    return found[0]


def a_cdr(message: bytes) -> Cdr:
    record = decoded(message)
    assert isinstance(record, Cdr), record
    return record


def an_event(message: bytes, key: str = CAMPAIGNS) -> Event:
    record = decoded(message, key)
    assert isinstance(record, Event), record
    return record


def reason(message: bytes, key: str = CAMPAIGNS, limit: int = LIMIT) -> Reason:
    """Why it's a dead letter, which has the message byte for byte."""
    record = decoded(message, key, limit)
    assert isinstance(record, DeadLetter), record
    assert record.raw == message
    return record.reason


def extra(record: Cdr) -> Json:
    return {} if record.extra is None else exactly(record.extra)


# Messages


def call(**fields: Json) -> bytes:
    """A client CDR of nothing but what it must have, and `fields`."""
    return write({"type": "cdr", "payload": {"call_ref": 1, "dialed_at": DIALED_AT, **fields}})


def having(value: str, name: str = "x", message: bytes = cdr(1)) -> bytes:
    """The message with one more field in its payload, the last one, of this very JSON."""
    assert message.endswith(b"}}")
    return message[:-2] + f", {json.dumps(name)}: {value}}}}}".encode()


# JSON without losing a digit


def exactly(text: str | bytes) -> Json:
    """JSON with its numbers as `Decimal`, in a form in which true isn't 1."""
    return typed(json.loads(text, parse_int=Decimal, parse_float=Decimal))


def typed(value: Json) -> Json:
    """As `exactly` reads it; Python finds true equal to 1, which JSON doesn't."""
    if isinstance(value, Number):
        return None if value.value is None else Decimal(value.value)
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return ("bool", value) if isinstance(value, bool) else value


def write(value: Json, ascii_only: bool = True) -> bytes:
    """JSON with every digit of a `Decimal`."""
    if isinstance(value, Number):
        return value.json.encode()
    if isinstance(value, Spelled):
        return write(value.text, ascii_only)
    if isinstance(value, Decimal):
        return str(value).encode()
    if isinstance(value, dict):
        pairs = (write(name, ascii_only) + b": " + write(item, ascii_only) for name, item in value.items())
        return b"{" + b", ".join(pairs) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(write(item, ascii_only) for item in value) + b"]"
    return json.dumps(value, ensure_ascii=ascii_only).encode()


# Whatever a dialler may send


@dataclass(frozen=True)
class Spelled:
    """A moment as the dialler spells it, and what it means."""

    text: int | float | str
    moment: datetime


@dataclass(frozen=True)
class Number:
    """A whole number as a dialler spells it in JSON, and which one it is; None if it's none."""

    json: str
    value: int | None


BLANKS = st.text(" \t\n\r\f\v", max_size=2)


@st.composite
def spellings(draw: st.DrawFn, value: int | None) -> Number:
    """Of one number all the forms that docs/protocol.md knows."""
    zeros = draw(st.integers(0, 3))
    if value is None:
        return Number(draw(st.sampled_from(["null", '""'])), None)
    if draw(st.booleans()):
        sign = "-" if value < 0 else draw(st.sampled_from(["", "+"] if value else ["", "+", "-"]))
        fraction = draw(st.sampled_from(["", ".0", ".000"]))
        text = f"{draw(BLANKS)}{sign}{'0' * zeros}{abs(value)}{fraction}{draw(BLANKS)}"
        return Number(json.dumps(text), value)
    literals = [str(value), f"{value}.0", f"{value}.{'0' * zeros}0", f"{value}E+0", f"{value * 10**zeros}e-{zeros}"]
    literals += [f"{value // 10}e1"] if value % 10 == 0 else [f"{value}e000"]
    return Number(draw(st.sampled_from(literals)), value)


def texts(max_size: int = 20) -> st.SearchStrategy[str]:
    """Any characters that Postgres can hold."""
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=max_size)


SHORT = texts(max_size=8)
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True).map(Decimal)
ANY_JSON: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.integers(-(2**70), 2**70).map(Decimal) | texts(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(SHORT, values, max_size=4),
    max_leaves=8,
)

WHOLE = st.integers(-300, 300) | st.integers(-(2**31), 2**31 - 1)
SECONDS = (st.none() | WHOLE).flatmap(spellings)
NUMBER_FIELD = SECONDS | st.sampled_from(["NORMAL_CLEARING", "16.5", "1e1", "0x10", "NaN", " ", Decimal("16.50")])
LEGS = st.none() | st.integers(1, 3) | st.integers(1, 2**31 - 1)
REFERENCES = st.integers(-(10**25), 10**25) | texts()
ANY_DAY = st.dates(date(2000, 1, 1), date(2025, 5, 31))
FEW_DAYS = st.sampled_from([date(2024, month, 1) for month in (2, 3, 11)])  # every one costs a test a partition


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


Spelling = Callable[[datetime], int | float | str]  # of a moment in the time zone of the dialler
TO_THE_SECOND: dict[str, Spelling] = {
    "seconds": lambda moment: _milliseconds(moment) // 1000,
    "seconds as digits": lambda moment: str(_milliseconds(moment) // 1000),
    "Ruby": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S %z"),
    "Ruby in UTC": lambda moment: moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
}
TO_THE_MILLISECOND: dict[str, Spelling] = {
    "milliseconds": _milliseconds,
    "milliseconds as digits": lambda moment: str(_milliseconds(moment)),
    "float": lambda moment: _milliseconds(moment) / 1000,
    "decimal digits": lambda moment: f"{_milliseconds(moment) // 1000}.{_milliseconds(moment) % 1000:03}",
    "ISO": lambda moment: moment.isoformat(timespec="milliseconds"),
    "ISO, Z": lambda moment: moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z",
    "ISO, no offset": lambda moment: moment.astimezone(UTC).replace(tzinfo=None).isoformat(),
    "space, no offset": lambda moment: moment.astimezone(UTC).replace(tzinfo=None).isoformat(" "),
}
ZONES = st.integers(-14 * 4, 14 * 4).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))


@st.composite
def times(draw: st.DrawFn, days: st.SearchStrategy[date] = ANY_DAY) -> Spelled:
    """A moment before `LATEST`, exact to what its spelling can say."""
    day = draw(days)
    since_midnight = timedelta(milliseconds=draw(st.integers(0, 86_399_999)))
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + since_midnight
    name, spell = draw(st.sampled_from([*TO_THE_SECOND.items(), *TO_THE_MILLISECOND.items()]))
    if name in TO_THE_SECOND:
        moment = moment.replace(microsecond=0)
    return Spelled(spell(moment.astimezone(draw(ZONES))), moment)


def _payloads(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Json]]:
    fields = st.fixed_dictionaries(required, optional=optional)
    undocumented = st.dictionaries(texts(8).filter(lambda name: name not in DOCUMENTED), ANY_JSON, max_size=3)
    return st.tuples(fields, undocumented).map(lambda both: {**both[0], **both[1]})


_CALL = {
    "call_ref": st.integers(-(10**25), 10**25) | texts().filter(bool),
    "dialed_at": times(FEW_DAYS),
}
_A = {
    "extension": st.none() | texts(),
    "number": texts(),
    "dial_number": texts(),
    "recording_url": st.none() | texts(),
    "contact_ref": st.none() | REFERENCES,
    "call_time": NUMBER_FIELD,
    "hold_time": NUMBER_FIELD,
    "ring_time": NUMBER_FIELD,
    "end_reason": texts(),
    "end_code": NUMBER_FIELD,
    "call_dir": st.sampled_from(("outbound", "inbound")),
    "ref": REFERENCES,
    "clid": texts(),
    "call_type": st.sampled_from(("inbound", "outbound", "internal", "transfer-blind")),
    "call_trail_ref": st.none() | REFERENCES,
    "call_trail_number": LEGS.flatmap(spellings),
    "isdn_code": NUMBER_FIELD,
    "ring_time_extension": NUMBER_FIELD,
    "ring_time_number": NUMBER_FIELD,
    "hold_time_number": NUMBER_FIELD,
    "disposition": st.sampled_from(("ANSWER", "CANCEL", "BUSY", "DONTCALL", "NOANSWER", "TORTURE", "what ever")),
}
_B = {
    "uuid": texts(),
    "agent": st.none() | REFERENCES,
    "recording_location": st.none() | texts(),
    "callee_answered_at": st.none() | times(),
    "agent_answered_at": st.none() | times(),
    "ended_at": st.none() | times(),
    "end_reason": texts(),
    "call_dir": st.sampled_from(("outbound", "inbound")),
    "ref": REFERENCES,
}
DOCUMENTED = frozenset({*_CALL, *_A, *_B})

PAYLOADS_A = _payloads(_CALL, _A)
PAYLOADS_B = _payloads(_CALL, _B)
