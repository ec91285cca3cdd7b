"""The dialler's many spellings of a whole number, read as one integer: docs/protocol.md, "Numbers as text".

Text may have ASCII digits, a sign, leading zeros, a fraction of zeros, and ASCII white space around them. A JSON number
may have any form, if its value is whole. Both are read digit by digit: a float would change some of them.
"""

import re
from functools import lru_cache

# The bounds of Postgres' integer, and the most digits of a number between them.
LEAST, MOST = -(2**31), 2**31 - 1
_MOST_DIGITS = 10
# ASCII's only; `str.strip()` strips more.
WHITE_SPACE = " \t\n\r\f\v"

_TEXT = re.compile(r"([+-]?)([0-9]+)(?:\.0+)?")
_LITERAL = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
# An exponent with more digits exceeds any number of digits that fits into a message.
_EXPONENT_DIGITS = 12
# Hang-up causes are few, and durations repeat. Text longer than _SHORT is rare and not cached.
NUMBERS_CACHED = 8_192
_SHORT = 16  # characters

# `document.translate(ALIKE, SIGNS).find(EXPONENT)`, a glance, finds something in every JSON document that has a number
# with an exponent, and in few others: all digits become 0, and E becomes e. (`in` would take three times as long.)
ALIKE, SIGNS, EXPONENT = bytes.maketrans(b"123456789E", b"000000000e"), b"+-", b"0e0"
# A string, or a number. Possessive: none is looked at twice.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|-?([0-9]++)(?:\.([0-9]++))?+(?:[eE]([-+]?)([0-9]++))?+', re.DOTALL)


def from_text(text: str) -> int | None:
    """None if it's empty. Raises ValueError if it's no whole number, and OverflowError if Postgres' integer can't hold
    it."""
    return _cached_from_text(text) if len(text) <= _SHORT else _from_text(text)


def from_json(number: str) -> int:
    """Of a JSON number, given as it was sent. Raises as `from_text`."""
    found = _LITERAL.fullmatch(number)
    if not found:
        raise ValueError("not a JSON number")
    sign, whole, fraction, exponent_sign, exponent = found.groups(default="")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return 0
    power = int(exponent_sign + (exponent.lstrip("0") or "0")[: _EXPONENT_DIGITS + 1])
    kept = digits.rstrip("0")
    zeros = power - len(fraction) + len(digits) - len(kept)
    if zeros < 0:
        raise ValueError("a number with a fraction")
    return _within_bounds(sign, kept, zeros)


def written_out(document: bytes) -> int:
    """How many characters Postgres needs, at most, for all numbers of a JSON document that came with an exponent: it
    keeps them in few bytes, and shows every digit."""
    return sum(
        _written_out(len(found[1]), len(found[2] or b""), found[3], found[4].lstrip(b"0"))
        for found in _TOKEN.finditer(document)
        if found[4] is not None
    )


def _written_out(digits: int, decimals: int, sign: bytes, exponent: bytes) -> int:
    power = int(sign + (exponent or b"0")[: _EXPONENT_DIGITS + 1])
    return len("-.") + max(digits + power, 1) + max(decimals - power, 0)


def _from_text(text: str) -> int | None:
    if not text:
        return None
    found = _TEXT.fullmatch(text.strip(WHITE_SPACE))
    if not found:
        raise ValueError("not the text of a whole number")
    return _within_bounds(found[1], found[2].lstrip("0") or "0", 0)


_cached_from_text = lru_cache(NUMBERS_CACHED)(_from_text)


def _within_bounds(sign: str, digits: str, zeros: int) -> int:
    if len(digits) + zeros <= _MOST_DIGITS:  # int() refuses thousands of digits
        number = int(sign + digits + "0" * zeros)
        if LEAST <= number <= MOST:
            return number
    raise OverflowError("a number that Postgres' integer can't hold")
