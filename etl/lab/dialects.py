"""The CDRs of a call in the two dialects, as the dialler and Click2Dial write them.

The dialler's are those of the published program (tests/fixtures/dialler.jsonl). Nobody has run Click2Dial: its are
those of its documents. What of it can be loaded isn't known here.
"""

from typing import Any, Literal, NamedTuple

from etl.lab.call_centre import DAY, HOUR, Call, day_of

MessageKind = Literal["campaigns", "cdrs", "pbx", "statuses", "cdr", "pubsub"]
JsonObject = dict[str, Any]

_MINUTES = tuple(f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(24 * 60))
_RAW_DISPOSITIONS = {"busy": "BUSY", "reject": "DONTCALL", "timeout": "NOANSWER", "error": "CONGESTION"}


class Style(NamedTuple):
    """How the dialler writes; see the simulator's Profile, which has the same fields."""

    dialect: Literal["a", "b", "both"]
    legs: bool
    pbx: bool
    as_documented: bool


def renderings(call: Call, style: Style, b_first: bool = False) -> list[tuple[MessageKind, JsonObject]]:
    """Every message about the call, in the order in which they are written, and for which list."""
    if call.source == "click2dial":
        return [("cdr", _click2dial(call))]
    found: list[tuple[MessageKind, JsonObject]] = []
    if style.dialect != "b":
        found.append(("campaigns", _dialect_a(call, style)))
    if style.dialect != "a" and call.leg == 1:
        found.insert(0 if b_first else 1, ("cdrs", _dialect_b(call, style.as_documented)))
    if style.pbx:
        found.append(("pbx", _dialect_a(call, style) | {"type": None}))
    return found


def _dialect_a(call: Call, style: Style) -> JsonObject:
    payload = _client_cdr(call)
    if style.legs:
        payload["call_trail_number"] = call.leg
    if style.as_documented:
        payload |= {"hold_time": call.hold_time, "end_code": call.outcome.end_code}
        payload["contact_ref"] = _as_integer(call.contact_ref)
        payload["ref"] = _documented_ref(call)
        if call.oddity < 0.02:
            _renew(payload, call)
        elif call.oddity < 0.04:
            payload |= _undocumented(call)
    return {"type": "cdr", "payload": payload}


def _click2dial(call: Call) -> JsonObject:
    payload = _client_cdr(call) | {"hold_time": call.hold_time}
    if call.oddity < 0.01:
        _age(payload, call)
    elif call.oddity < 0.02:
        _renew(payload, call)
        payload["call_trail_number"] = 1 + call.uuid % 3
    elif call.oddity < 0.04:
        payload |= _undocumented(call)
    return {"type": "cdr", "payload": payload}


def _client_cdr(call: Call) -> JsonObject:
    code = call.outcome.end_code
    return {
        "extension": call.extension,
        "number": call.number,
        "dial_number": call.campaign.dial_number,
        "recording_url": _recording(call),
        "call_ref": call.call_ref,
        "contact_ref": call.contact_ref,
        "dialed_at": call.dialed_at,
        "call_time": call.call_time,
        "end_reason": call.outcome.end_reason,
        "end_code": None if code is None else f"{code}",
        "call_dir": call.campaign.call_dir,
        "ref": call.campaign.ref,
    }


def _recording(call: Call) -> str | None:
    if call.outcome.connected:
        day = day_of(call.dialed_at).isoformat()
        name = f"dialer-{call.number}-{call.extension}-{day.replace('-', '')}-{_uuid(call)}"
        return f"/recordings/{day.replace('-', '/')}/{name}.WAV"
    # The name of a recording is made of what an agent's call has: nothing is left of it but the end.
    return ".WAV" if call.outcome.answered and call.campaign.call_dir == "outbound" else None


def _uuid(call: Call) -> str:
    return f"{call.uuid >> 96:08x}-{(call.uuid >> 8 * (call.leg - 1)) % 90_000_000}"


def _documented_ref(call: Call) -> str | int | None:
    return _as_integer(call.campaign.ref) if call.campaign.ref == "2043" else call.campaign.ref


def _as_integer(text: str | None) -> str | int | None:
    return int(text) if text and text.isdigit() else text


def _age(payload: JsonObject, call: Call) -> None:
    """As Click2Dial wrote it before 3.0: raw disposition, the client's number for a reference."""
    payload["disposition"] = _RAW_DISPOSITIONS.get(payload.pop("end_reason"), "ANSWER")
    payload["ref"] = payload.pop("number")
    payload["end_code"] = call.outcome.end_code
    del payload["hold_time"]


def _renew(payload: JsonObject, call: Call) -> None:
    """As newer systems write it."""
    payload["clid"] = payload.pop("dial_number")
    payload["isdn_code"] = payload.pop("end_code")
    payload["hold_time_number"] = payload.pop("hold_time")
    payload |= {"ring_time_number": call.ring_time, "call_type": "transfer", "call_trail_ref": f"T-{call.call_ref}"}


def _undocumented(call: Call) -> JsonObject:
    return {"sentiment": {"score": 0.25, "tags": ["é", "x"]}, "retries": call.uuid % 4}


def _dialect_b(call: Call, as_documented: bool) -> JsonObject:
    answered_at = call.dialed_at + call.ring_time
    connected_at = answered_at + call.hold_time
    zone, outcome, milliseconds = call.campaign.zone, call.outcome, call.uuid % 1000
    is_ended = not as_documented or outcome.end_reason != "failed"
    if not as_documented:
        zone, milliseconds = zone.replace(":", ""), 0
    payload = {
        "call_ref": call.call_ref,
        "uuid": _uuid(call),
        "agent": call.extension,
        "recording_location": _recording(call),
        # To the whole second, as in dialect A: a fraction would contradict it.
        "dialed_at": _print_time(call.dialed_at, zone, 0),
        "callee_answered_at": _print_time(answered_at, zone, milliseconds) if outcome.answered else None,
        "agent_answered_at": _print_time(connected_at, zone, milliseconds) if outcome.connected else None,
        "ended_at": _print_time(call.ended_at, zone, milliseconds) if is_ended else None,
        "end_reason": outcome.end_reason,
        "call_dir": call.campaign.call_dir,
    }
    if as_documented:
        payload["ref"] = _documented_ref(call)
    return {"type": "call_update", "payload": payload}


def _print_time(seconds: int, zone: str, milliseconds: int) -> str:
    local = seconds + HOUR * int(zone[:3])
    day, time_of_day = day_of(local).isoformat(), f"{_MINUTES[local % DAY // 60]}:{local % 60:02d}"
    return f"{day}T{time_of_day}.{milliseconds:03d}{zone}" if ":" in zone else f"{day} {time_of_day} {zone}"
