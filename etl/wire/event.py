"""A message that is no CDR to one row of `audit_events`.

Whatever its type, even an unknown one: the payload is kept whole, and the fields that reports need become columns where
docs/protocol.md defines them. A field of an unexpected kind stays in the payload only; that is no error.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid5

import msgspec

from etl.wire import references
from etl.wire.channels import once_a_channel
from etl.wire.envelope import Envelope, kind_and_reference
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


class Told(NamedTuple):
    """What an event says, whenever it was told: the columns of `Event` between its time and its claim."""

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


# `ref` is the agent's extension in messages of these types; for campaigns it's the campaign's reference.
_OF_AN_EXTENSION = frozenset({"agents", "inbound"})

# Columns that are in an index, of this table or of the figures.
_REFERENCES = ("reference", "campaign_ref", "extension", "call_ref")
# Bytes of a payload, and characters of a channel, without which none of them is too long.
_LONG, _SURELY_SHORT = references.MOST_BYTES, references.MOST_BYTES // 4


class Lifted(msgspec.Struct, gc=False):
    """The fields of a payload that become columns; None is one that's absent, null or of another kind."""

    ref: str | int | None = None
    status: str | int | None = None
    campaign_ref: str | int | None = None
    extension: str | int | None = None
    agent: str | int | None = None
    call_ref: str | int | None = None


_lifted = msgspec.json.Decoder(Lifted).decode
_text_or_integer = msgspec.json.Decoder(str | int).decode
_encode = msgspec.json.Encoder().encode


class Place(NamedTuple):
    """Where an event was told: the channel or list, and what its name says."""

    origin: Origin
    channel: str
    kind: str
    reference: str | None


@once_a_channel
def heard_on(channel: str) -> Place:
    return Place("pubsub", channel, *kind_and_reference(channel))


def told(message: Envelope, place: Place) -> Told:
    """Raises what msgspec raises if the payload is no object."""
    try:
        lifted = _lifted(message.payload)
    except msgspec.ValidationError:
        lifted = lifted_by_name(message.fields())
    origin, channel, kind, reference = place
    about = reference or _text(lifted.ref)
    return Told(
        origin,
        channel,
        kind,
        about,
        "null" if message.type is None else message.type,
        lifted.status if isinstance(lifted.status, str) else None,
        _text(lifted.campaign_ref) or (about if kind == "campaigns" else None),
        _text(lifted.extension) or _text(lifted.agent) or (about if kind in _OF_AN_EXTENSION else None),
        _text(lifted.call_ref),
        _encode(message.fields()) if message.beside else bytes(message.payload),
    )


def event(what: Told, event_id: bytes, captured_at: int, batch_id: bytes) -> Event:
    return Event(captured_at // MICROSECONDS_PER_DAY, event_id, captured_at, *what, batch_id)


def check_references(what: Told) -> None:
    """Raises `Undecodable` for one that is too long."""
    if len(what.payload) > _LONG or len(what.channel) > _SURELY_SHORT:
        references.check((name, getattr(what, name)) for name in _REFERENCES)


class ListEvents:
    """Makes events of one claim of a list, whose messages share `batch_id`, time and origin.

    `event_id` is derived from the claim and the position in it: whoever decodes the claim again gets the same id.
    """

    def __init__(self, channel: str, batch_id: UUID, captured_at: int) -> None:
        self._batch_id = batch_id
        self._captured_at = captured_at
        self._place = Place("list", channel, *kind_and_reference(channel))

    def told(self, message: Envelope) -> Told:
        """Raises as `told` does."""
        return told(message, self._place)

    def event(self, what: Told, position: int) -> Event:
        event_id = uuid5(self._batch_id, str(position)).bytes
        return event(what, event_id, self._captured_at, self._batch_id.bytes)


def lifted_by_name(fields: Mapping[str, Any]) -> Lifted:
    """One after the other: a field of another kind doesn't hide those that are of theirs."""
    found = {}
    for name in Lifted.__struct_fields__:
        with suppress(msgspec.ValidationError):
            if name in fields:
                found[name] = _text_or_integer(fields[name])
    return Lifted(**found)


def _text(value: str | int | None) -> str | None:
    return str(value) if isinstance(value, int) else value
