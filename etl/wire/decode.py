"""A claim's messages, in order, to what becomes of each: CDR, event or dead letter. Nothing that a dialler, or anyone
else with a Redis client, can put on a list makes this raise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from etl.wire import cdr, envelope, event
from etl.wire.cdr import Cdr, CdrDecoder
from etl.wire.event import Event, EventDecoder
from etl.wire.faults import DeadLetter, Reason, Undecodable

_NOT_AS_EXPECTED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Undecodable)


@dataclass(slots=True)
class Decoded:
    """What a claim's messages are. The `…_at` lists give each record's position in the claim."""

    cdrs: list[Cdr] = field(default_factory=list)
    cdrs_at: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    events_at: list[int] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


def decode(
    messages: Sequence[bytes],
    *,
    source: str,
    key: str,
    batch_id: UUID,
    captured_at: int,
    latest: int,
    max_message_bytes: int,
) -> Decoded:
    """`captured_at` is the claim's time, `latest` the last acceptable time of a call, both in microseconds since 2000.

    The same claim decodes to the same records, ids included, however often and by whomever it's done.
    """
    kind, reference = envelope.kind_and_reference(key)
    cdrs = CdrDecoder(source, batch_id.bytes, latest)
    events = EventDecoder(key, kind, reference, batch_id, captured_at)
    out = Decoded()
    for position, raw in enumerate(messages):
        # A backslash is the only way to a character that Postgres can't hold: such messages take the careful way.
        try:
            if b"\\" not in raw and len(raw) <= max_message_bytes:
                out.cdrs.append(cdrs.strict(raw))
                out.cdrs_at.append(position)
                continue
        except _NOT_AS_EXPECTED:
            pass
        try:
            record = _carefully(raw, position, cdrs, events, max_message_bytes)
        except Undecodable as fault:
            out.dead.append(DeadLetter(position, fault.reason, fault.detail, raw))
        else:
            if isinstance(record, Cdr):
                out.cdrs.append(record)
                out.cdrs_at.append(position)
            else:
                out.events.append(record)
                out.events_at.append(position)
    return out


def _carefully(raw: bytes, position: int, cdrs: CdrDecoder, events: EventDecoder, max_bytes: int) -> Cdr | Event:
    if len(raw) > max_bytes:
        raise Undecodable(Reason.TOO_LARGE, f"{len(raw)} bytes, and the limit is {max_bytes}")
    try:
        is_cdr = _type(raw).type in cdr.CDR_TYPES
        record = cdrs.open(raw) if is_cdr else events.decode(raw, position)
    except _NOT_AS_EXPECTED:
        raise _diagnose(raw, cdrs) from None
    envelope.check_storable(raw)
    return record


def _diagnose(raw: bytes, cdrs: CdrDecoder) -> Undecodable:
    try:
        kind, payload = envelope.parse(raw)
    except Undecodable as fault:
        return fault
    return cdr.diagnose(payload, cdrs) if kind in cdr.CDR_TYPES else event.diagnose()


class _Type(msgspec.Struct, gc=False):
    type: str | None


_type = msgspec.json.Decoder(_Type).decode
