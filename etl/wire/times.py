"""The dialler's many spellings of a point in time, brought to one integer.

Everywhere in this program a time is an integer of microseconds since 2000-01-01T00:00:00Z and a day an integer of days
since 2000-01-01. Postgres counts the same way inside, so that its binary COPY takes the integers as they are; and the
earliest time that the archive accepts is simply 0.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from etl.wire.faults import Reason, Undecodable

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
UNIX_SECONDS_AT_EPOCH = 946_684_800
MICROSECONDS_PER_SECOND = 1_000_000
MICROSECONDS_PER_DAY = 86_400 * MICROSECONDS_PER_SECOND

# Seconds pass 10^11 in the year 5138, milliseconds passed it in 1973: a number this large counts milliseconds.
FIRST_MILLISECONDS = 100_000_000_000

# Longer than any number of seconds that a dialler could mean; a bound keeps int() away from megabytes of digits.
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
_DATE_AND_TIME = len("2015-02-19 23:06:00")
_SHORTEST = len("20150219T210600")
_LONGEST = len("2015-02-19T23:06:00.123456789+02:00")  # that a dialler writes

# Calls come in the order of time, and one's end is the next one's beginning: of four times in a message three were seen
# just before, and reading one takes as long as decoding all the rest. These are two hours of seconds.
REMEMBERED = 8_192


def microseconds(value: int | float | str) -> int:
    """Microseconds since 2000 of epoch seconds, epoch milliseconds, a Ruby time or an ISO 8601 time.

    Accepts integers, floats and strings of digits as Unix time; a time without offset is UTC. Raises `Undecodable`
    (bad_type) for anything else. The range is the caller's to check.
    """
    if isinstance(value, str):
        if value[4:5] == "-" or not _NUMBER.fullmatch(value):
            return _remembered(value) if len(value) <= _LONGEST else _from_text(value)
        value = float(value) if "." in value else int(value)
    unit = MICROSECONDS_PER_SECOND if value < FIRST_MILLISECONDS else 1_000
    try:
        return round(value * unit) - UNIX_SECONDS_AT_EPOCH * MICROSECONDS_PER_SECOND
    except OverflowError:  # a float so large that as milliseconds it is none
        raise Undecodable(Reason.OUT_OF_RANGE, "a time is infinitely far away") from None


def from_datetime(moment: datetime) -> int:
    """Microseconds since 2000 of an aware datetime, exactly."""
    since = moment - EPOCH
    return since.days * MICROSECONDS_PER_DAY + since.seconds * MICROSECONDS_PER_SECOND + since.microseconds


def from_unix_ns(nanoseconds: int) -> int:
    """Microseconds since 2000 of what `time.time_ns()` says."""
    return nanoseconds // 1_000 - UNIX_SECONDS_AT_EPOCH * MICROSECONDS_PER_SECOND


def to_datetime(moment: int) -> datetime:
    """The aware datetime of microseconds since 2000."""
    return EPOCH + timedelta(microseconds=moment)


def _from_text(text: str) -> int:
    try:
        # Ruby prints a space before the offset, and UTC by name: "2015-02-19 23:06:00 +0200", "2015-02-19 21:06:00 UTC"
        if (space := text.find(" ", _DATE_AND_TIME)) > 0:
            offset = text[space + 1 :]
            text = text[:space] + ("Z" if offset == "UTC" else offset)
        if len(text) < _SHORTEST or not ("T" in text or " " in text):
            raise ValueError("a date says too little, with an offset too")
        moment = datetime.fromisoformat(text)
        return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except ValueError:
        raise Undecodable(Reason.BAD_TYPE, "a time is neither Unix time, nor ISO 8601, nor as Ruby prints it") from None


_remembered = lru_cache(REMEMBERED)(_from_text)
