"""The calls of a selftest: the messages of each, as the published dialler writes them, and the rows they must become.

Both follow from the call's number, so that it takes one number to remember a million calls. The rows are written down
here, not computed by the code under test.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

CAMPAIGNS, CDRS, CLICK2DIAL = "enigma:notifications:campaigns", "enigma:notifications:cdrs", "enigma:notifications:cdr"
CHANNEL = "enigma:notifications:agents:1002"

LATE_DAYS = 4  # before today: the older ones are pruned while late CDRs still come for them
_DAY = 86_400  # seconds
_DISPOSITIONS = (("hungup", 16), ("callee_hungup", 16), ("busy", 17), ("timeout", 18))

# As Postgres and DuckDB are asked for them: times in microseconds since 1970, JSON as text.
CDR_COLUMNS = (
    "source", "call_ref", "leg", "dialed_on", "dialed_at", "answered_at", "connected_at", "ended_at", "call_time",
    "hold_time", "ring_time", "call_dir", "extension", "number", "dial_number", "campaign_ref", "contact_ref",
    "end_reason", "end_code", "recording_url", "uuid", "extra",
)  # fmt: skip
CDR_TIMES = ("dialed_at", "answered_at", "connected_at", "ended_at")


class CallMessage(NamedTuple):
    """A message of a call, sent `after` so many further calls: the other dialect, a completion, a correction."""

    key: str
    raw: bytes
    after: int


Fields = dict[str, Any]


@dataclass(frozen=True)
class KnownCall:
    """Call number `number` of a selftest with this seed, which began on `today` (UTC)."""

    number: int
    seed: int
    today: date

    @property
    def identity(self) -> tuple[str, str]:
        return self.source, str(self.number)

    @property
    def source(self) -> str:
        return "click2dial" if self.number % 10 == 9 else "dialler"

    @property
    def is_corrected(self) -> bool:
        """It is sent twice, and the second message contradicts the first."""
        return self._shape == "corrected"

    @property
    def is_transferred(self) -> bool:
        """A further leg of it is sent in dialect A."""
        return self._has_legs and (self._dice >> 10) % 4 == 0

    def messages(self) -> Iterator[CallMessage]:
        """All its messages, the first of which is sent at once."""
        key, lag = (CLICK2DIAL if self.source == "click2dial" else CAMPAIGNS), self._dice % 400
        first = self._client_cdr()
        match self._shape:
            case "completed":
                known = {name: value for name, value in first.items() if name not in ("hold_time", "recording_url")}
                yield CallMessage(key, _cdr(known), 0)
                yield CallMessage(key, _cdr(first), lag)
            case "corrected":
                yield CallMessage(key, _cdr(first), 0)
                yield CallMessage(key, _cdr(first | self._correction), lag)
            case "both" if self._dice % 2:
                yield CallMessage(CDRS, self._api_cdr(), 0)
                yield CallMessage(key, _cdr(first), lag)
            case "both":
                yield CallMessage(key, _cdr(first), 0)
                yield CallMessage(CDRS, self._api_cdr(), lag)
            case _:
                yield CallMessage(key, _cdr(first), 0)
        if self.is_transferred:
            yield CallMessage(key, _cdr(self._further_leg), lag // 2)

    def legs(self) -> dict[int, list[Fields]]:
        """By leg, the rows of which one must be stored; no leg and leg 1 are the first, which is stored as 0."""
        if not self.is_transferred:
            return {0: self._first_rows()}
        fields = self._further_leg
        row: Fields = dict.fromkeys(CDR_COLUMNS) | {name: fields[name] for name in CDR_COLUMNS if name in fields}
        day = datetime.fromtimestamp(fields["dialed_at"], UTC).date()
        row |= {"source": self.source, "call_ref": str(self.number), "leg": 2, "dialed_on": day}
        return {0: self._first_rows(), 2: [row | {"dialed_at": fields["dialed_at"] * 1_000_000}]}

    def _first_rows(self) -> list[Fields]:
        """Two if it's corrected: which of them a worker loads last isn't known."""
        both = self._shape == "both"
        answered, connected, ended = self._moments
        row: Fields = {
            "source": self.source,
            "call_ref": str(self.number),
            "leg": 0,
            "dialed_on": self.dialed_on,
            "dialed_at": self.dialed_at * 1_000_000,
            "answered_at": answered if both else None,
            "connected_at": connected if both else None,
            "ended_at": ended if both else None,
            "ring_time": None,
            "uuid": self._uuid if both else None,
            "campaign_ref": self._campaign,
            "extra": {"note": {"of": [self.number, "é"]}} if self._is_noted else None,
        }
        fields = self._client_cdr()
        row |= {name: fields[name] for name in CDR_COLUMNS if name not in row}
        return [row, row | self._correction] if self.is_corrected else [row]

    @property
    def dialed_on(self) -> date:
        """Mostly yesterday; a share of the CDRs is late."""
        return self.today - timedelta(days=1 + (self._dice >> 12) % LATE_DAYS * (self._dice % 3 == 0))

    @property
    def dialed_at(self) -> int:
        """Unix time."""
        midnight = datetime(self.dialed_on.year, self.dialed_on.month, self.dialed_on.day, tzinfo=UTC)
        return int(midnight.timestamp()) + (self._dice >> 20) % _DAY

    @property
    def _dice(self) -> int:
        """Thirty-two pseudorandom bits, the same for the same call."""
        bits = (self.number * 0x9E37_79B9_7F4A_7C15 + self.seed * 0xBF58_476D_1CE4_E5B9) & (2**64 - 1)
        bits = (bits ^ bits >> 30) * 0x94D0_49BB_1331_11EB & (2**64 - 1)
        return bits >> 32

    @property
    def _shape(self) -> str:
        share = (self._dice >> 4) % 100
        if share < 20:
            return "completed"
        if share < 40:
            return "corrected"
        return "both" if share < 65 and self.source == "dialler" else "plain"

    @property
    def _has_legs(self) -> bool:
        """Its system numbers the legs of a call, in dialect A only."""
        return self.source == "dialler" and (self._dice >> 8) % 4 == 0

    @property
    def _is_noted(self) -> bool:
        return self._dice % 16 == 0

    @property
    def _correction(self) -> Fields:
        return {"call_time": self._dice % 600 + 1_000, "end_reason": "agent_hungup"}

    @property
    def _campaign(self) -> str:
        return "click-dial" if self.source == "click2dial" else str(2040 + self._dice % 7)

    @property
    def _uuid(self) -> str:
        return f"0f0b2d3e-{self.number}"

    @property
    def _moments(self) -> tuple[int, int, int]:
        """Microseconds since 1970 at which the callee answered, an agent was connected, and the call ended."""
        answered = self.dialed_at * 1_000_000 + 12_000_000
        return answered, answered + 3_000_000, answered + 63_000_000

    def _client_cdr(self) -> Fields:
        """Dialect A, by the names of our columns; `_cdr` renames those that the message calls otherwise."""
        dice = self._dice
        reason, code = _DISPOSITIONS[dice % len(_DISPOSITIONS)]
        fields = {
            "call_ref": self.number,
            "dialed_at": self.dialed_at,
            "extension": str(1000 + dice % 50),
            "number": f"07{dice:010d}",
            "dial_number": "0126543210",
            "contact_ref": f"M{self.number}",
            "call_time": dice % 600,
            "hold_time": dice % 60,
            "end_reason": reason,
            "end_code": code,
            "call_dir": "inbound" if dice % 5 == 0 else "outbound",
            "recording_url": f"/recordings/dialer-07{dice:010d}-{1000 + dice % 50}-{self._uuid}.WAV",
            "campaign_ref": self._campaign,
        }
        fields |= {"call_trail_number": 1} if self._has_legs else {}
        return fields | ({"note": {"of": [self.number, "é"]}} if self._is_noted else {})

    @property
    def _further_leg(self) -> Fields:
        """Dialect A, after the call was transferred to somebody else."""
        first = {name: value for name, value in self._client_cdr().items() if name != "note"}
        later = {"dialed_at": self.dialed_at + 100, "extension": "9001", "call_time": self._dice % 90}
        return first | later | {"call_trail_number": 2, "recording_url": None}

    def _api_cdr(self) -> bytes:
        """Dialect B."""
        fields = self._client_cdr()
        answered, connected, ended = map(_printed, self._moments)
        payload = {
            "call_ref": self.number,
            "uuid": self._uuid,
            "agent": fields["extension"],
            "recording_location": fields["recording_url"],
            "dialed_at": _printed(self.dialed_at * 1_000_000),
            "callee_answered_at": answered,
            "agent_answered_at": connected,
            "ended_at": ended,
            "end_reason": fields["end_reason"],
            "call_dir": fields["call_dir"],
        }
        return _message("call_update", payload)


def _cdr(fields: Fields) -> bytes:
    payload = {"ref" if name == "campaign_ref" else name: value for name, value in fields.items()}
    return _message("cdr", payload | {"end_code": f"{fields['end_code']}"})


def _message(sub_type: str, payload: Mapping[str, Any]) -> bytes:
    envelope = {"type": sub_type, "payload": payload}
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()


def _printed(microseconds: int) -> str:
    """As Ruby prints a time."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S +0000")


def event_message(serial: str) -> bytes:
    """A message that is no CDR; `serial` is its own."""
    return _message("status", {"status": "busy", "ref": "1002", "serial": serial})


def serial_of(raw: bytes) -> str | None:
    """The serial of a message that `event_message` made; None of any other."""
    _, found, rest = raw.partition(b'"serial":"')
    return rest.partition(b'"')[0].decode() if found else None


def undecodable(serial: str) -> tuple[str, bytes]:
    """The reason why it can't be decoded, and the message."""
    name = serial.encode()
    breakages = (
        ("not_json", b'{"type": "cdr", "payload": {"call_ref": "' + name),
        ("not_utf8", b'{"type": "cdr", "payload": {"call_ref": "\xff' + name + b'", "dialed_at": 1}}'),
        ("not_an_envelope", b'["' + name + b'"]'),
        ("missing_field", b'{"type": "cdr", "payload": {"contact_ref": "' + name + b'"}}'),
        ("out_of_range", b'{"type": "cdr", "payload": {"call_ref": "' + name + b'", "dialed_at": 1}}'),
    )
    return breakages[sum(name) % len(breakages)]
