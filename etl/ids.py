"""Identifiers that sort by time: UUID version 7 (RFC 9562), whose first 48 bits are Unix milliseconds.

A claim's time is read back out of its batch_id, so that whoever adopts the claim works with the same one.
"""

import secrets
import time
from datetime import UTC, datetime, timedelta
from struct import Struct
from uuid import UUID

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PACK = Struct(">QQ").pack


def uuid7(unix_ms: int) -> UUID:
    bits = secrets.randbits(74)
    high = (unix_ms & (2**48 - 1)) << 16 | 0x7000 | bits >> 62
    low = 0b10 << 62 | bits & (2**62 - 1)
    return UUID(int=high << 64 | low)


def new_id() -> UUID:
    """A version 7 identifier of this moment, by this host's clock."""
    return uuid7(time.time_ns() // 1_000_000)


class Series:
    """Version 7 identifiers for whoever makes thousands a second: those of one moment, or of later ones, sort in the
    order in which they are made. Two series have none in common."""

    def __init__(self) -> None:
        self._number = secrets.randbits(61)  # of the last 62 bits: it counts up from here, and never over

    def next(self, unix_us: int) -> bytes:
        """Of a moment in Unix microseconds, its 16 bytes. What is below a millisecond comes after the version."""
        self._number += 1
        ms, us = divmod(unix_us, 1_000)
        return _PACK((ms & (2**48 - 1)) << 16 | 0x7000 | us, 0b10 << 62 | self._number)


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
    """The moment, to the millisecond, at which a version 7 identifier was made."""
    return _UNIX_EPOCH + timedelta(milliseconds=unix_ms_of(identifier))
