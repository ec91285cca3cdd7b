"""Identifiers that sort by time: UUID version 7 (RFC 9562), whose first 48 bits are Unix milliseconds.

A claim's time is read back out of its batch_id, so that whoever adopts the claim works with the same one.

By the time in its first bits a claim sorts after all earlier ones of its list: where a clock was ahead for a moment, as
if it were made years from now. Such an identifier also carries the time at which it was made, as RFC 9562 allows:

    48 bits   Unix ms by which it sorts       12 bits   drawn, as always
    16 bits   all set, as no other has them   26 bits   Unix minutes, to 2097     20 bits   drawn
"""

import secrets
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Of the last 62 bits: those that say that a time follows, those that have it, and those that are drawn even then.
_CARRIES, _MINUTES, _DRAWN = 2**16 - 1, 26, 20
_MS_PER_MINUTE = 60_000


def uuid7(unix_ms: int, made_ms: int | None = None) -> UUID:
    """Sorts by `unix_ms`. `made_at` tells `made_ms`, to the minute, if it's given."""
    drawn = secrets.randbits(62)
    if made_ms is None:
        while drawn >> _MINUTES + _DRAWN == _CARRIES:
            drawn = secrets.randbits(62)
    else:
        minutes = made_ms // _MS_PER_MINUTE % 2**_MINUTES
        drawn = (_CARRIES << _MINUTES | minutes) << _DRAWN | drawn % 2**_DRAWN
    high = (unix_ms & (2**48 - 1)) << 16 | 0x7000 | secrets.randbits(12)
    return UUID(int=high << 64 | 0b10 << 62 | drawn)


def new_id() -> UUID:
    """A version 7 identifier of this moment, by this host's clock."""
    return uuid7(time.time_ns() // 1_000_000)


def after(identifier: UUID, position: int) -> UUID:
    """A new identifier that sorts just after a version 7 one, and after those made so for a lower `position`, which is
    less than 2^24."""
    later = (identifier.int >> 80 << 12 | identifier.int >> 64 & 0xFFF) + 1
    high = later >> 12 << 16 | 0x7000 | later & 0xFFF
    low = 0b10 << 62 | position << 38 | secrets.randbits(38)
    return UUID(int=high << 64 | low)


def unix_ms_of(identifier: UUID) -> int:
    """The Unix milliseconds of a version 7 identifier."""
    return identifier.int >> 80


def time_of(identifier: UUID) -> datetime:
    """The moment, to the millisecond, by which a version 7 identifier sorts."""
    return _UNIX_EPOCH + timedelta(milliseconds=unix_ms_of(identifier))


def made_at(identifier: UUID) -> datetime:
    """The moment at which it was made: the one that it carries, else the one by which it sorts."""
    drawn = identifier.int & (2**62 - 1)
    if drawn >> _MINUTES + _DRAWN != _CARRIES:
        return time_of(identifier)
    minutes = drawn >> _DRAWN & (2**_MINUTES - 1)
    return _UNIX_EPOCH + timedelta(minutes=minutes)
