"""A CDR message, in either dialect, to one row of `cdrs`.

The strict decoder knows every documented field with its type and refuses all else; nearly every message passes it in
one call. A payload with fields that nobody documented is read again to keep those, and one with a broken field is read
a third time to say which. A field that is there twice counts once, with its last value, as JSON parsers everywhere have
it. Facts: PROTOCOL.md, "CDR, dialect A", "CDR, dialect B", "Dispositions".
"""

from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from msgspec.structs import astuple

from etl.wire.envelope import Envelope
from etl.wire.faults import Reason, Undecodable
from etl.wire.times import (
    FIRST_MILLISECONDS,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    UNIX_SECONDS_AT_EPOCH,
    microseconds,
)

CDR_TYPES = ("cdr", "call_update", None)

# Both bounds of Postgres' integer, checked by the decoder.
Int4 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Leg = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Time = int | float | str
Reference = int | str

# What the raw disposition of old systems says in today's words. ANSWER and CANCEL leave open who hung up.
DISPOSITIONS = {
    "ANSWER": "hungup",
    "CANCEL": "hungup",
    "BUSY": "busy",
    "DONTCALL": "reject",
    "NOANSWER": "timeout",
    "CONGESTION": "error",
    "CHANUNAVAIL": "error",
    "TORTURE": "error",
    "INVALIDARGS": "failed",
}


class Cdr(NamedTuple):
    """One row of `cdrs`, in the order of its columns. Times and days are integers, see `etl.wire.times`."""

    dialed_on: int
    source: str
    call_ref: str
    leg: int
    dialed_at: int
    answered_at: int | None
    connected_at: int | None
    ended_at: int | None
    call_time: int | None
    hold_time: int | None
    ring_time: int | None
    call_dir: str | None
    extension: str | None
    number: str | None
    dial_number: str | None
    campaign_ref: str | None
    contact_ref: str | None
    end_reason: str | None
    end_code: int | None
    recording_url: str | None
    uuid: str | None
    extra: bytes | None  # JSON
    batch_id: bytes


class _Payload(msgspec.Struct, gc=False):
    """Every documented field of both dialects. Defaults to None, since null and absent mean the same here."""

    call_ref: Reference | None = None
    dialed_at: Time | None = None
    extension: Reference | None = None
    number: Reference | None = None
    dial_number: Reference | None = None
    recording_url: str | None = None
    contact_ref: Reference | None = None
    call_time: Int4 | None = None
    hold_time: Int4 | None = None
    ring_time: Int4 | None = None
    end_reason: str | None = None
    end_code: Int4 | None = None
    call_dir: str | None = None
    ref: Reference | None = None
    # dialect B
    uuid: str | None = None
    agent: Reference | None = None
    recording_location: str | None = None
    callee_answered_at: Time | None = None
    agent_answered_at: Time | None = None
    ended_at: Time | None = None
    # newer and older names of the same things
    clid: Reference | None = None
    isdn_code: Int4 | None = None
    hold_time_number: Int4 | None = None
    ring_time_number: Int4 | None = None
    call_trail_number: Leg | None = None
    disposition: str | None = None
    # documented, but without a column: kept in `extra`, where null and absent differ
    call_type: Reference | UnsetType | None = UNSET
    call_trail_ref: Reference | UnsetType | None = UNSET
    ring_time_extension: Int4 | UnsetType | None = UNSET


class _StrictPayload(_Payload, forbid_unknown_fields=True, gc=False):
    pass


class _Strict(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: Literal["cdr", "call_update"] | None
    payload: _StrictPayload


_strict = msgspec.json.Decoder(_Strict).decode
_open = msgspec.json.Decoder(_Payload).decode
_encode = msgspec.json.Encoder().encode
_new = tuple.__new__
_KNOWN = frozenset(_Payload.__struct_fields__)
_ABSENT = (None, "")

Extra = dict[str, Any]
T = TypeVar("T")


class CdrDecoder:
    """Decodes the CDRs of one claim, which share `source`, `batch_id` and `latest` (the last acceptable time)."""

    def __init__(self, source: str, batch_id: bytes, latest: int) -> None:
        self._source = source
        self._batch_id = batch_id
        self._latest = latest

    def strict(self, raw: bytes) -> Cdr:
        """A CDR of documented fields only. Raises `Undecodable`, or whatever msgspec raises, for any other message."""
        return self.row(_strict(raw).payload, None)

    def open(self, message: Envelope) -> Cdr:
        """A CDR with fields that nobody documented: they go to `extra`, their JSON as it was. Raises as `strict`."""
        extra = {name: value for name, value in message.fields().items() if name not in _KNOWN}
        return self.row(_open(message.payload), extra)

    def row(self, payload: _Payload, extra: Extra | None) -> Cdr:
        """The one place where fields become columns; `extra` collects what has no column or contradicts one."""
        # fmt: off
        (  # all fields at once, in their order above: one by one they take as long as the decoding
            call_ref, dialed_at, extension, number, dial_number, recording_url, contact_ref, call_time, hold_time,
            ring_time, end_reason, end_code, call_dir, campaign_ref,
            uuid, agent, recording_location, answered_at, connected_at, ended_at,
            clid, isdn_code, hold_time_number, ring_time_number, leg, disposition,
            call_type, call_trail_ref, ring_time_extension,
        ) = astuple(payload)
        # fmt: on
        if call_ref in _ABSENT:
            raise Undecodable(Reason.MISSING_FIELD, "call_ref is missing, null or empty")
        if dialed_at in _ABSENT:
            raise Undecodable(Reason.MISSING_FIELD, "dialed_at is missing, null or empty")
        dialed_at = self._time("dialed_at", dialed_at)
        if agent is not None:
            extension, extra = _either(extension, "agent", agent, extra)
        if recording_location is not None:
            recording_url, extra = _either(recording_url, "recording_location", recording_location, extra)
        if clid is not None:
            dial_number, extra = _either(dial_number, "clid", clid, extra)
        if isdn_code is not None:
            end_code, extra = _either(end_code, "isdn_code", isdn_code, extra)
        if hold_time_number is not None:
            hold_time, extra = _either(hold_time, "hold_time_number", hold_time_number, extra)
        if ring_time_number is not None:
            ring_time, extra = _either(ring_time, "ring_time_number", ring_time_number, extra)
        if disposition is not None:
            # Several raw dispositions mean the same today, so the raw one is kept beside its meaning.
            extra = {**(extra or {}), "disposition": disposition}
            end_reason = DISPOSITIONS.get(disposition, disposition) if end_reason is None else end_reason
        if call_type is not UNSET:
            extra = {**(extra or {}), "call_type": call_type}
        if call_trail_ref is not UNSET:
            extra = {**(extra or {}), "call_trail_ref": call_trail_ref}
        if ring_time_extension is not UNSET:
            extra = {**(extra or {}), "ring_time_extension": ring_time_extension}
        # `Cdr(…)` itself, and a function for what is nearly always text, would take half as long again.
        return _new(
            Cdr,
            (
                dialed_at // MICROSECONDS_PER_DAY,
                self._source,
                str(call_ref) if call_ref.__class__ is int else call_ref,
                leg or 0,
                dialed_at,
                None if answered_at is None else self._time("callee_answered_at", answered_at),
                None if connected_at is None else self._time("agent_answered_at", connected_at),
                None if ended_at is None else self._time("ended_at", ended_at),
                call_time,
                hold_time,
                ring_time,
                call_dir,
                str(extension) if extension.__class__ is int else extension,
                str(number) if number.__class__ is int else number,
                str(dial_number) if dial_number.__class__ is int else dial_number,
                str(campaign_ref) if campaign_ref.__class__ is int else campaign_ref,
                str(contact_ref) if contact_ref.__class__ is int else contact_ref,
                end_reason,
                end_code,
                recording_url,
                uuid,
                _encode(extra) if extra else None,
                self._batch_id,
            ),
        )

    def _time(self, name: str, value: Time) -> int:
        """Raises `Undecodable` for a time outside [2000-01-01, latest]."""
        if value.__class__ is int and value < FIRST_MILLISECONDS:  # nearly always
            moment = (value - UNIX_SECONDS_AT_EPOCH) * MICROSECONDS_PER_SECOND
        else:
            moment = microseconds(value)
        if not 0 <= moment <= self._latest:
            raise Undecodable(Reason.OUT_OF_RANGE, f"{name} lies before the year 2000 or more than a day ahead")
        return moment


def check_fields(payload: Raw) -> None:
    """Raises `Undecodable` for the first documented field, in their order above, whose value is not of its kind."""
    values = msgspec.json.decode(payload, type=dict[str, Raw])
    for field in msgspec.structs.fields(_Payload):
        if field.name in values:
            _check_field(field.name, bytes(values[field.name]), field.type)


def _check_field(name: str, value: bytes, expected: Any) -> None:
    try:
        msgspec.json.decode(value, type=expected)
    except msgspec.ValidationError as error:
        reason = Reason.OUT_OF_RANGE if _is_number_for(expected, value) else Reason.BAD_TYPE
        raise Undecodable(reason, f"{name}: {error}") from None


def _is_number_for(expected: Any, value: bytes) -> bool:
    """A number of the kind that is expected, whole or not; so only its size can be wrong."""
    if value[0] not in b"-0123456789":
        return False
    try:
        msgspec.json.decode(b"1" if value.removeprefix(b"-").isdigit() else b"1.5", type=expected)
    except msgspec.ValidationError:
        return False
    return True


def _either(value: T | None, other_name: str, other: T, extra: Extra | None) -> tuple[T | None, Extra | None]:
    """A column that two fields name: the first one with a value wins, and a second that differs is kept in `extra`."""
    if value is None or str(value) == str(other):
        return other if value is None else value, extra
    return value, {**(extra or {}), other_name: other}
