"""The entries of the spool list, as the listener writes them and the loader reads them: a line, then the message.

    heard <event_id, hex> <captured_at> <channel, percent-encoded>\\n<the message, byte for byte>
    session <JSON>\\n

The line has what only the listener knows. `captured_at` and the session's times are microseconds since 2000, see
`etl.wire.times`.

During an upgrade two releases read each other's lines. A session's JSON may get new fields, which older releases
ignore; a `heard` line must keep its three words: with a fourth it's a dead letter for 0.1. So it doesn't name the Redis
server; that is the server of its claim, which the ledger has by batch_id.
"""

from binascii import hexlify, unhexlify
from typing import Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes
from uuid import UUID

import msgspec

from etl.wire.channels import once_a_channel
from etl.wire.faults import Reason, Undecodable
from etl.wire.times import MICROSECONDS_PER_DAY

GapReason = Literal["stopped", "connection lost", "probe lost", "overflow"]  # those that 0.1 can read
NotPermitted = Literal["not permitted"]


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A PubSub message. A channel that Postgres couldn't store (no UTF-8, or a NUL) stays percent-encoded."""

    event_id: bytes
    captured_at: int
    channel: str
    message: bytes


class Session(msgspec.Struct, frozen=True):
    """A period in which one listener was subscribed, proven to have heard everything from `subscribed_at` to
    `proven_until`. Reported repeatedly while it lasts; `ended_at` and `reason` come with the last report. `server` is
    the Redis server's name, `patterns` what is subscribed to there; a listener of 0.1 reports neither.

    `not_permitted`: there was no subscription, since a right is missing. It stands beside a reason that 0.1 knows."""

    session_id: UUID
    listener: str
    subscribed_at: int
    proven_until: int
    received: int
    ignored: int
    dropped: int
    ended_at: int | None = None
    reason: GapReason | None = None
    server: str | None = None
    patterns: tuple[str, ...] | None = None
    not_permitted: bool = False

    @property
    def gap_reason(self) -> GapReason | NotPermitted | None:
        return "not permitted" if self.not_permitted else self.reason


# Far above any listener's clock and counters, and within what Postgres can store.
_LATEST = 100 * 366 * MICROSECONDS_PER_DAY
_MOST = 2**62
_EVENT_ID_BYTES = 16
_HEARD, _SESSION = b"heard ", b"session "

_encode_session = msgspec.json.Encoder().encode
_decode_session = msgspec.json.Decoder(Session).decode


def pack_heard(event_id: bytes, captured_at: int, channel: bytes, message: bytes) -> bytes:
    return b"heard %b %d %b\n%b" % (hexlify(event_id), captured_at, _quoted(channel), message)


def pack_session(session: Session) -> bytes:
    return b"session %b\n" % _encode_session(session)


def unpack(raw: bytes) -> Heard | Session:
    """Raises `Undecodable` (not_an_envelope) for what no listener wrote."""
    line, _, message = raw.partition(b"\n")
    try:
        if line.startswith(_HEARD):
            _, event_id, captured_at, channel = line.split(b" ")
            heard = Heard(unhexlify(event_id), int(captured_at), _channel(channel), message)
            if len(heard.event_id) == _EVENT_ID_BYTES and 0 <= heard.captured_at < _LATEST:
                return heard
        elif line.startswith(_SESSION) and not message:
            session = _decode_session(line.removeprefix(_SESSION))
            if _is_sane(session):
                return session
    except (ValueError, RecursionError, msgspec.MsgspecError):
        pass
    raise Undecodable(Reason.NOT_AN_ENVELOPE, "not written by a listener")


def _is_sane(session: Session) -> bool:
    times = (session.subscribed_at, session.proven_until, session.ended_at or 0)
    counts = (session.received, session.ignored, session.dropped)
    return (
        all(0 <= time < _LATEST for time in times)
        and all(0 <= count < _MOST for count in counts)
        and session.listener.isprintable()
        and (session.server or "").isprintable()
        and "\0" not in "".join(session.patterns or ())
        and (session.server is None) == (session.patterns is None)
    )


@once_a_channel
def _quoted(channel: bytes) -> bytes:
    return quote_from_bytes(channel, safe=":/").encode()


@once_a_channel
def _channel(quoted: bytes) -> str:
    try:
        channel = unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError:
        return quoted.decode()
    return quoted.decode() if "\0" in channel else channel
