"""What every message has in common: its key, its envelope, and the ways in which it can be broken.

Decoding is optimistic: the typed decoders of `cdr` and `event` accept or refuse at the speed of C. Only a message that
they refuse is examined here, slowly, to find the reason for its dead letter.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
from msgspec import Raw

from etl.wire.faults import Reason, Undecodable

# The types that docs/protocol.md lists; documents write some in the singular.
_KINDS = {"campaign": "campaigns", "agent": "agents", "cdr": "cdrs", "dialer": "dialers"}
KNOWN_KINDS = frozenset({"campaigns", "agents", "cdrs", "dialers", "inbound", "c2d"})
_DEFAULT_BASE = "enigma:notifications:"

# Deeper than any dialler nests, less than any parser's stack: the same result on every machine.
MAX_DEPTH = 128

_BACKSLASH = ord("\\")
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A message split into its parts, which are JSON as it was sent."""

    type: str | None
    payload: Raw
    beside: dict[str, Raw]  # undocumented fields

    def fields(self) -> dict[str, Any]:
        """The payload's fields by name, and under `$envelope` those that stood beside the payload.

        Raises what msgspec raises if the payload is no object.
        """
        fields: dict[str, Any] = _object(self.payload)
        if self.beside:
            name = "$envelope"
            while name in fields:
                name = f"${name}"
            fields[name] = self.beside
        return fields


_object = msgspec.json.Decoder(dict[str, Raw]).decode
_type = msgspec.json.Decoder(str | None).decode


class _JustType(msgspec.Struct, gc=False):
    type: str | None


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: str | None
    payload: Raw


_just_type = msgspec.json.Decoder(_JustType).decode
_plain = msgspec.json.Decoder(_Plain).decode


def split(raw: bytes) -> Envelope:
    """Raises `Undecodable`, or what msgspec raises, for anything but an object with a type and a payload."""
    try:
        plain = _plain(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # something beside them, or a fault
        return split_by_name(raw)
    return Envelope(plain.type, plain.payload, {})


def split_by_name(raw: bytes) -> Envelope:
    """What `split` means: slower, and of every message the same."""
    fields = _object(raw)
    if not fields.keys() >= {"type", "payload"}:
        raise Undecodable(Reason.NOT_AN_ENVELOPE, "expected an object with `type` and `payload`")
    return Envelope(_type(fields.pop("type")), fields.pop("payload"), fields)


def type_of(raw: bytes) -> str | None:
    """The envelope's type; None if it's null, or if this is no envelope."""
    try:
        return _just_type(raw).type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def kind_and_reference(key: str) -> tuple[str, str | None]:
    """The type and the reference in a list's key or a channel's name, the type in the plural.

    `enigma:notifications:agent:1002` gives ("agents", "1002"). The base is configurable in the dialler, so outside the
    documented base the first part that names a known type counts, and else the last part. `dialers` has no reference:
    with anything after it, it's part of a base, such as `dialer:notifications:cdrs`.
    """
    parts = key.removeprefix(_DEFAULT_BASE).split(":")
    kinds = [_KINDS.get(part, part) for part in parts]
    if key.startswith(_DEFAULT_BASE):
        at = 0
    else:
        last = len(parts) - 1
        at = next((i for i, kind in enumerate(kinds[:-1]) if kind in KNOWN_KINDS and kind != "dialers"), last)
    return kinds[at], ":".join(parts[at + 1 :]) or None


def check_storable(raw: bytes) -> None:
    """Raises `Undecodable` for what a JSON parser lets through and the archive can't keep.

    Only for bytes that were already found to be JSON: not UTF-8 in a skipped value, a NUL character, absurd nesting.
    """
    if not raw.isascii():
        _as_text(raw)
    if _BACKSLASH in raw and b"\\u0000" in raw and _NUL_ESCAPE.search(raw):
        raise Undecodable(Reason.NUL_CHARACTER, "a NUL character, which Postgres can't hold")
    if len(raw) > 2 * MAX_DEPTH and raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(_as_json(_as_text(raw)))


def check(raw: bytes) -> None:
    """Raises `Undecodable` for every fault outside the payload's own fields. Slow."""
    value = _as_json(_as_text(raw))
    _check_depth(value)
    _check_characters(value)
    fields = dict(zip(value[::2], value[1::2], strict=True)) if _is_object(value) else {}
    if not fields.keys() >= {"type", "payload"}:
        raise Undecodable(Reason.NOT_AN_ENVELOPE, "expected an object with `type` and `payload`")
    if not isinstance(fields["type"], str | None):
        raise Undecodable(Reason.NOT_AN_ENVELOPE, "expected a `type` that is a string or null")
    if not _is_object(fields["payload"]):
        raise Undecodable(Reason.NOT_AN_ENVELOPE, "expected a `payload` that is an object")


def _as_text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from None


def _as_json(text: str) -> Any:
    """Arrays are lists; objects are tuples of names and values in turn, with those that a later one overrides."""
    try:
        # int() refuses thousands of digits, and these numbers aren't used.
        return json.loads(text, parse_constant=_no_constant, parse_int=float, object_pairs_hook=_flat)
    except RecursionError:
        raise Undecodable(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}") from None
    except json.JSONDecodeError as error:
        raise Undecodable(Reason.NOT_JSON, f"{error.msg.removesuffix(' at')} at character {error.pos}") from None


def _no_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _flat(pairs: list[tuple[str, Any]]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(pairs))


def _is_object(value: Any) -> bool:
    return isinstance(value, tuple)


def _check_depth(value: Any) -> None:
    for depth, _ in enumerate(_levels(value)):
        if depth > MAX_DEPTH:
            raise Undecodable(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")


def _check_characters(value: Any) -> None:
    for level in _levels(value):
        for item in level:
            if isinstance(item, str) and ("\x00" in item or _SURROGATE.search(item)):
                raise Undecodable(Reason.NUL_CHARACTER, "a NUL character or a lone surrogate")


def _levels(value: Any) -> Iterator[list[Any]]:
    """The value, then its children, then theirs, and so on: without recursion, however deep it is."""
    level = [value]
    while level:
        yield level
        level = [child for item in level if isinstance(item, list | tuple) for child in item]
