"""The dialler's many spellings of a point in time, read as one integer.

Everywhere in this program a time is an integer of microseconds since 2000-01-01T00:00:00Z and a day an integer of days
since 2000-01-01. Postgres stores times and days the same way, so its binary COPY takes the integers as they are; and
the earliest time that the archive accepts is 0.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from etl.wire.faults import Reason, Undecodable
from etl.wire.numbers import WHITE_SPACE

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
UNIX_SECONDS_AT_EPOCH = 946_684_800
MICROSECONDS_PER_SECOND = 1_000_000
MICROSECONDS_PER_DAY = 86_400 * MICROSECONDS_PER_SECOND

# As seconds this is the year 5138, as milliseconds 1973: numbers from here on are milliseconds.
FIRST_MILLISECONDS = 100_000_000_000

_TOO_FAR = "a time is farther away than any call"

# More digits than any Unix time has; the bound spares int() megabytes of them.
_DIGITS = 40
_NUMBER = re.compile(r"([+-]?)([0-9]+)(\.[0-9]+)?")
_DATE_AND_TIME = len("2015-02-19 23:06:00")
_SHORTEST = len("20150219T210600")
_LONGEST = len("2015-02-19T23:06:00.123456789+02:00")  # of a dialler
# What Python's reader of ISO 8601 refuses, in capitals: "2015-02-19 21:06:00 GMT", "2015-02-19T24:00:00Z".
_NAMED_UTC = re.compile(r" ?(?:UTC|GMT|Z)$")
_END_OF_DAY = re.compile(r"([0-9W-]+[T ])24(:?00(?::?00(?:[.,]0+)?)?(?: ?[Z+-].*)?)")

# Calls come in the order of time, so of four times in a message three were read just before, and reading one takes as
# long as decoding all the rest. These are two hours of seconds.
TIMES_CACHED = 8_192

ReadTime = Callable[[int | float | str], int]


def microseconds(value: int | float | str, zone: tzinfo = UTC) -> int:
    """Microseconds since 2000 of epoch seconds, epoch milliseconds, a Ruby time or an ISO 8601 time.

    Accepts integers, floats and texts of them as Unix time. A time without an offset is read by the clocks of `zone`:
    of a time that they show twice the first is meant, and one that they skip is read with the offset before. 24:00:00
    is the midnight at the end of its day. Raises `Undecodable`: bad_type for anything else, out_of_range for a number
    beyond any calendar. Any other check of the range is the caller's.
    """
    return reader_of_times(zone)(value)


@lru_cache(maxsize=64)
def reader_of_times(zone: tzinfo) -> ReadTime:
    """`microseconds` for one zone, with a cache."""

    def read(text: str) -> int:
        return _from_text(text, zone)

    cached = lru_cache(TIMES_CACHED)(read)

    def microseconds(value: int | float | str) -> int:
        if isinstance(value, str):
            return cached(value) if len(value) <= _LONGEST else read(value)
        return _from_unix(value)

    return microseconds


def _from_unix(value: int | float) -> int:
    unit = MICROSECONDS_PER_SECOND if value < FIRST_MILLISECONDS else 1_000
    try:
        return round(value * unit) - UNIX_SECONDS_AT_EPOCH * MICROSECONDS_PER_SECOND
    except OverflowError:  # a float so large that as milliseconds it is none
        raise Undecodable(Reason.OUT_OF_RANGE, _TOO_FAR) from None


def from_datetime(moment: datetime) -> int:
    """Microseconds since 2000 of an aware datetime, exactly."""
    since = moment - EPOCH
    return since.days * MICROSECONDS_PER_DAY + since.seconds * MICROSECONDS_PER_SECOND + since.microseconds


def from_unix_ns(nanoseconds: int) -> int:
    """Microseconds since 2000 of a `time.time_ns()`."""
    return nanoseconds // 1_000 - UNIX_SECONDS_AT_EPOCH * MICROSECONDS_PER_SECOND


def unix_us(moment: int) -> int:
    """Unix microseconds of microseconds since 2000."""
    return moment + UNIX_SECONDS_AT_EPOCH * MICROSECONDS_PER_SECOND


def to_datetime(moment: int) -> datetime:
    """The aware datetime of microseconds since 2000."""
    return EPOCH + timedelta(microseconds=moment)


def _from_text(text: str, zone: tzinfo) -> int:
    try:
        if text[4:5] == "-":  # nearly always
            return _from_date_and_time(text, zone)
    except ValueError:
        pass
    text = text.strip(WHITE_SPACE).upper() if text.isascii() else ""
    if number := _NUMBER.fullmatch(text):
        return _from_unix_text(*number.groups(""))
    text, days = _NAMED_UTC.sub("Z", text), 0
    if end_of_day := _END_OF_DAY.fullmatch(text):
        text, days = f"{end_of_day[1]}00{end_of_day[2]}", 1
    try:
        return _from_date_and_time(text, zone, days)
    except ValueError:
        raise Undecodable(Reason.BAD_TYPE, "a time is neither Unix time, nor ISO 8601, nor as Ruby prints it") from None
    except OverflowError:
        raise Undecodable(Reason.OUT_OF_RANGE, _TOO_FAR) from None


def _from_unix_text(sign: str, whole: str, fraction: str) -> int:
    whole = whole.lstrip("0") or "0"
    if len(whole) > _DIGITS:
        raise Undecodable(Reason.OUT_OF_RANGE, _TOO_FAR)
    # With a fraction as a float, as a JSON number is: so both are the same moment.
    return _from_unix(float(sign + whole + fraction[:_DIGITS]) if fraction else int(sign + whole))


def _from_date_and_time(text: str, zone: tzinfo, days: int = 0) -> int:
    """Raises ValueError for what Python can't read, and OverflowError beyond its calendar."""
    # Ruby prints a space before the offset, and UTC by name: "2015-02-19 23:06:00 +0200", "2015-02-19 21:06:00 UTC"
    if (space := text.find(" ", _DATE_AND_TIME)) > 0:
        offset = text[space + 1 :]
        text = text[:space] + ("Z" if offset == "UTC" else offset)
    if len(text) < _SHORTEST or not ("T" in text or " " in text):
        raise ValueError("a date says too little, with an offset too")
    moment = datetime.fromisoformat(text) + timedelta(days=days)
    return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=zone))
