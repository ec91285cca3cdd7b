"""A message that is no CDR to one row of `audit_events`.

Whatever the type, known or of tomorrow: the payload is kept whole, and the fields that reports ask for are lifted out of
it where PROTOCOL.md says what they are. A lifted field of an unexpected kind is left in the payload, never an error.
"""

from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid5

import msgspec

from etl.wire.faults import Reason, Undecodable
from etl.wire.times import MICROSECONDS_PER_DAY

Origin = Literal["pubsub", "list"]


class Event(NamedTuple):
    """One row of `audit_events`, in the order of its columns. Times and days are integers, see `etl.wire.times`."""

    captured_on: int
    event_id: bytes
    captured_at: int
    origin: Origin
    channel: str
    kind: str
    reference: str | None
    event_type: str
    status: str | None
    campaign_ref: str | None
    extension: str | None
    call_ref: str | None
    payload: bytes  # JSON
    batch_id: bytes


class _Lifted(msgspec.Struct, gc=False):
    ref: Any = None
    status: Any = None
    campaign_ref: Any = None
    extension: Any = None
    agent: Any = None
    call_ref: Any = None


class _Message(msgspec.Struct, gc=False):
    type: str
    payload: _Lifted


_message = msgspec.json.Decoder(_Message).decode
_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_payload = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class EventDecoder:
    """Decodes the list events of one claim, which share its `batch_id`, its time and where they came from.

    `event_id` is derived from the claim and the position in it: whoever decodes the claim again gets the same id.
    """

    def __init__(self, channel: str, kind: str, reference: str | None, batch_id: UUID, captured_at: int) -> None:
        self._channel = channel
        self._kind = kind
        self._reference = reference
        self._batch_id = batch_id
        self._captured_at = captured_at

    def decode(self, raw: bytes, position: int) -> Event:
        """Raises whatever msgspec raises for a message that is no envelope with an object as payload."""
        message = _message(raw)
        lifted = message.payload
        ref = _reference(lifted.ref)
        is_campaign = self._kind == "campaigns"
        extension = _reference(lifted.extension) or _reference(lifted.agent)
        return Event(
            captured_on=self._captured_at // MICROSECONDS_PER_DAY,
            event_id=uuid5(self._batch_id, str(position)).bytes,
            captured_at=self._captured_at,
            origin="list",
            channel=self._channel,
            kind=self._kind,
            reference=self._reference or ref,
            event_type=message.type,
            status=lifted.status if isinstance(lifted.status, str) else None,
            campaign_ref=_reference(lifted.campaign_ref) or (ref if is_campaign else None),
            extension=extension or (ref if self._kind in _OF_AN_EXTENSION else None),
            call_ref=_reference(lifted.call_ref),
            payload=_whole_payload(raw),
            batch_id=self._batch_id.bytes,
        )


# `ref` is the agent's extension in messages of these types; for campaigns it's the campaign's reference.
_OF_AN_EXTENSION = frozenset({"agents", "inbound"})


def diagnose() -> Undecodable:
    """An event takes any payload, so the only fault that can be left is a number no parser takes."""
    return Undecodable(Reason.OUT_OF_RANGE, "a number is larger than any column holds")


def _reference(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)


def _whole_payload(raw: bytes) -> bytes:
    """The payload's JSON as it was sent; fields that stood beside it in the envelope are kept under `$envelope`."""
    envelope = _envelope(raw)
    payload = bytes(envelope["payload"])
    if len(envelope) > 2:
        beside = {name: value for name, value in envelope.items() if name not in ("type", "payload")}
        return _encode({**_payload(payload), "$envelope": beside})
    return payload
