"""A CDR message, in either dialect, to one row of `cdrs`.

The strict decoder knows every documented field with its types and refuses all else; nearly every message passes it in
one call. A payload with undocumented fields, or with a number that must be read digit by digit, is read again to keep
what was sent; one with a broken field is read a third time to name the field. Of a field that stands there twice the
last value counts, as with other JSON parsers. Facts: docs/protocol.md, "CDR, dialect A", "CDR,
dialect B", "Numbers as text", "Dispositions".
"""

from datetime import UTC, tzinfo
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from msgspec.structs import astuple

from etl.wire import numbers, references
from etl.wire.envelope import Envelope
from etl.wire.faults import Reason, Undecodable
from etl.wire.times import (
    FIRST_MILLISECONDS,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    UNIX_SECONDS_AT_EPOCH,
    reader_of_times,
)

CDR_TYPES = ("cdr", "call_update", None)
# Microseconds. The dialects take a call's time from two programs of the dialler: they were seen a second apart, never
# ten. Within as much of a midnight they may date one call on two days.
TOLERANCE = 10 * MICROSECONDS_PER_SECOND

# The decoder checks the bounds of JSON integers; `etl.wire.numbers` reads all other spellings.
Number = Annotated[int, Meta(ge=numbers.LEAST, le=numbers.MOST)] | float | str
Leg = Annotated[int, Meta(ge=1, le=numbers.MOST)] | float | str
Time = int | float | str
Reference = int | str

# The raw dispositions of old systems, as an end_reason. ANSWER and CANCEL leave open who hung up.
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
    call_time: Number | None = None
    hold_time: Number | None = None
    ring_time: Number | None = None
    end_reason: str | None = None
    end_code: Number | None = None
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
    isdn_code: Number | None = None
    hold_time_number: Number | None = None
    ring_time_number: Number | None = None
    call_trail_number: Leg | None = None
    disposition: str | None = None
    # documented, but without a column: kept in `extra`, where null and absent differ
    call_type: Reference | UnsetType | None = UNSET
    call_trail_ref: Reference | UnsetType | None = UNSET
    ring_time_extension: Number | UnsetType | None = UNSET


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
# The fields whose values can be set aside in `extra`.
NUMBERS = tuple(
    field.name for field in msgspec.structs.fields(_Payload) if field.type in (Number | None, Number | UnsetType | None)
)
# Hang-up causes and most durations, in their commonest spelling as text.
_few_digits = {str(number): number for number in range(1, 1_000)}.get
# Bytes of a message or payload without which no reference in it is too long.
_LONG = references.MOST_BYTES
_TOO_OLD = "dialed_at lies more than ETL_OLDEST_DAYS before the claiming: `etl dead replay --any-day` loads it"
_NOT_WHOLE = "expected a whole number"

Extra = dict[str, Any]
T = TypeVar("T")


class CdrDecoder:
    """Decodes the CDRs of one claim, which share `source`, `batch_id`, `latest` (the last acceptable time) and `zone`
    (that of times without an offset)."""

    def __init__(self, source: str, batch_id: bytes, latest: int, zone: tzinfo = UTC) -> None:
        self._source = source
        self._batch_id = batch_id
        self._latest = latest
        # The bounds again, as Unix seconds: nearly every time is a number between them.
        self._last_second = min(latest // MICROSECONDS_PER_SECOND + UNIX_SECONDS_AT_EPOCH, FIRST_MILLISECONDS - 1)
        self.not_before(0)
        self._read_time = reader_of_times(zone)
        # Of the message that `open` read last: values that fit no column, as they were sent.
        self.set_aside: Extra = {}

    def not_before(self, oldest: int) -> None:
        """Calls that were dialled before this time, in microseconds since 2000, are refused."""
        self._oldest = oldest
        self._first_second = -(-oldest // MICROSECONDS_PER_SECOND) + UNIX_SECONDS_AT_EPOCH

    def strict(self, raw: bytes) -> Cdr:
        """A CDR with documented fields only and nothing to set aside. Raises `Undecodable`, or what msgspec raises, for
        any other message."""
        row = self.row(_strict(raw).payload, None, None)
        # Else no field of it is longer; and of long messages, nearly all are so by their URL.
        if len(raw) > _LONG and len(raw) - len(row.recording_url or "") > _LONG:
            _check_references(row)
        return row

    def open(self, message: Envelope) -> Cdr:
        """A CDR that may have undocumented fields, or values to set aside: both go to `extra`, their JSON as it was
        sent. Raises as `strict`."""
        self.set_aside = {}
        sent = message.fields()
        extra = {name: value for name, value in sent.items() if name not in _KNOWN}
        row = self.row(_open(message.payload), extra, sent)
        if len(message.payload) > _LONG:
            _check_references(row)
        return row

    def row(self, payload: _Payload, extra: Extra | None, sent: Extra | None) -> Cdr:
        """The only place where fields become columns; `extra` collects what has no column or contradicts one. `sent`
        has the payload's fields as they were sent; without it, nothing can be set aside."""
        # fmt: off
        (  # all fields at once, in their order above: one by one they take as long as the decoding
            call_ref, dialed_at, extension, number, dial_number, recording_url, contact_ref, call_time, hold_time,
            ring_time, end_reason, end_code, call_dir, campaign_ref,
            uuid, agent, recording_location, answered_at, connected_at, ended_at,
            clid, isdn_code, hold_number, ring_number, leg, disposition, call_type, call_trail_ref, ring_extension,
        ) = astuple(payload)
        # fmt: on
        if (not call_ref or not dialed_at) and (call_ref in _ABSENT or dialed_at in _ABSENT):
            name = "call_ref" if call_ref in _ABSENT else "dialed_at"
            raise Undecodable(Reason.MISSING_FIELD, f"{name} is missing, null or empty")
        dialed_at = (
            (dialed_at - UNIX_SECONDS_AT_EPOCH) * MICROSECONDS_PER_SECOND
            if dialed_at.__class__ is int and self._first_second <= dialed_at <= self._last_second
            else self._time("dialed_at", dialed_at, self._oldest)
        )
        read = self._read_number
        if end_code.__class__ is not int and end_code is not None:  # the dialler sends it as text, mostly
            end_code = _few_digits(end_code) or read("end_code", end_code, sent)
        call_time = call_time if call_time.__class__ is int or call_time is None else read("call_time", call_time, sent)
        hold_time = hold_time if hold_time is None or hold_time.__class__ is int else read("hold_time", hold_time, sent)
        ring_time = ring_time if ring_time is None or ring_time.__class__ is int else read("ring_time", ring_time, sent)
        if agent is not None:
            extension, extra = _either(extension, "agent", agent, extra)
        if recording_location is not None:
            recording_url, extra = _either(recording_url, "recording_location", recording_location, extra)
        if clid is not None:
            dial_number, extra = _either(dial_number, "clid", clid, extra)
        if isdn_code is not None:
            other = isdn_code if isdn_code.__class__ is int else read("isdn_code", isdn_code, sent)
            end_code, extra = _either(end_code, "isdn_code", other, extra)
        if hold_number is not None:
            other = hold_number if hold_number.__class__ is int else read("hold_time_number", hold_number, sent)
            hold_time, extra = _either(hold_time, "hold_time_number", other, extra)
        if ring_number is not None:
            other = ring_number if ring_number.__class__ is int else read("ring_time_number", ring_number, sent)
            ring_time, extra = _either(ring_time, "ring_time_number", other, extra)
        if disposition is not None:
            # Several raw dispositions mean the same today, so the raw one is kept beside its meaning.
            extra = {**(extra or {}), "disposition": disposition}
            end_reason = DISPOSITIONS.get(disposition, disposition) if end_reason is None else end_reason
        if call_type is not UNSET:
            extra = {**(extra or {}), "call_type": call_type}
        if call_trail_ref is not UNSET:
            extra = {**(extra or {}), "call_trail_ref": call_trail_ref}
        if ring_extension is not UNSET:
            extra = {**(extra or {}), "ring_time_extension": read("ring_time_extension", ring_extension, sent)}
        # `Cdr(…)` itself, and a function for what is nearly always text, would take half as long again.
        # fmt: off
        return _new(Cdr, (
            dialed_at // MICROSECONDS_PER_DAY,
            self._source,
            str(call_ref) if call_ref.__class__ is int else call_ref,
            0 if leg is None else self._leg(leg, sent) if leg.__class__ is not int else leg if leg > 1 else 0,
            dialed_at,
            None if answered_at is None else self._time("callee_answered_at", answered_at),
            None if connected_at is None else self._time("agent_answered_at", connected_at),
            None if ended_at is None else self._time("ended_at", ended_at),
            call_time, hold_time, ring_time, call_dir,
            str(extension) if extension.__class__ is int else extension,
            str(number) if number.__class__ is int else number,
            str(dial_number) if dial_number.__class__ is int else dial_number,
            str(campaign_ref) if campaign_ref.__class__ is int else campaign_ref,
            str(contact_ref) if contact_ref.__class__ is int else contact_ref,
            end_reason, end_code, recording_url, uuid,
            None if extra is None else _encode(extra) if sent is None else self._with_set_aside(extra),
            self._batch_id,
        ))
        # fmt: on

    def _time(self, name: str, value: Time, oldest: int = 0) -> int:
        """Raises `Undecodable` for a time outside [2000-01-01, latest], or before `oldest`."""
        if value.__class__ is int and value < FIRST_MILLISECONDS:  # nearly always
            moment = (value - UNIX_SECONDS_AT_EPOCH) * MICROSECONDS_PER_SECOND
        else:
            moment = self._read_time(value)
        if not oldest <= moment <= self._latest:
            says = _TOO_OLD if 0 <= moment < oldest else f"{name} lies before the year 2000 or more than a day ahead"
            raise Undecodable(Reason.OUT_OF_RANGE, says)
        return moment

    def _read_number(self, name: str, value: int | float | str | None, sent: Extra | None) -> int | None:
        """The field's number. None if it's empty, or if its value is no whole number and is set aside. Raises
        `Undecodable` if that can't be set aside, or if the number is too large."""
        try:
            return _whole(name, value, sent)
        except ValueError:
            if sent is None:
                raise Undecodable(Reason.BAD_TYPE, f"{name}: {_NOT_WHOLE}") from None
            self.set_aside[name] = _kept(sent[name])
            return None

    def _leg(self, value: float | str, sent: Extra | None) -> int:
        """The leg; 0 is the first. Raises `Undecodable` if it's no positive whole number."""
        try:
            leg = _whole("call_trail_number", value, sent)
        except ValueError:
            raise Undecodable(Reason.BAD_TYPE, f"call_trail_number: {_NOT_WHOLE}") from None
        if leg is not None and leg < 1:
            raise Undecodable(Reason.OUT_OF_RANGE, "call_trail_number: expected 1 or more")
        return 0 if leg is None or leg == 1 else leg

    def _with_set_aside(self, extra: Extra) -> bytes | None:
        everything = extra | self.set_aside
        return _encode(everything) if everything else None


def _check_references(row: Cdr) -> None:
    """Raises `Undecodable` for one that is too long."""
    references.check(
        (
            ("call_ref", row.call_ref),
            ("extension", row.extension),
            ("ref", row.campaign_ref),
            ("contact_ref", row.contact_ref),
            ("uuid", row.uuid),
        )
    )


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
    """Whether it's a number where one is expected, so that only its size can be wrong."""
    if value[0] not in b"-0123456789":
        return False
    try:
        msgspec.json.decode(b"1" if value.removeprefix(b"-").isdigit() else b"1.5", type=expected)
    except msgspec.ValidationError:
        return False
    return True


def _either(value: T | None, other_name: str, other: T | None, extra: Extra | None) -> tuple[T | None, Extra | None]:
    """A column that two fields name: the first one with a value wins, and a second that differs is kept in `extra`."""
    if value is None or other is None or str(value) == str(other):
        return other if value is None else value, extra
    return value, {**(extra or {}), other_name: other}


def _kept(sent: Raw) -> Raw | str:
    """As it was sent; but a number with an exponent as text, since Postgres would write out all its digits."""
    text = bytes(sent).decode()
    return text if text[0] in "-0123456789" and "e" in text.lower() else sent


def _whole(name: str, value: int | float | str | None, sent: Extra | None) -> int | None:
    """The value's number; None if it's empty or null. Raises ValueError if it's no whole number, and `Undecodable` if
    it's too large."""
    try:
        if isinstance(value, str):
            return numbers.from_text(value)
        if not isinstance(value, float):
            return value
        if sent is None:
            raise ValueError("a float may be another number than the one that was sent")
        return numbers.from_json(bytes(sent[name]).decode())
    except OverflowError as error:
        raise Undecodable(Reason.OUT_OF_RANGE, f"{name}: {error}") from None
