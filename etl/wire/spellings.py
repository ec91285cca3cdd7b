"""Every spelling of a telephone number within other text, as patterns. Pure.

Digits may be percent-encoded, more than once too, or of full width; between them may stand what people and programs put
there; other digits may be glued to either end, as in the names of recordings. National and international forms share
their last nine digits.
"""

import re
from functools import lru_cache

# Of a number with fewer digits no other form is looked for; and with fewer than `FEWEST` it would be found by accident.
SIGNIFICANT, FEWEST = 9, 6
# Before the significant digits: 00, a country's code of three and a zero.
_BEFORE = 6

_PLUS = r"(?:\+|%(?:25)*2[Bb])"
_DIGIT = "(?:[0-9\uff10-\uff19]|%(?:25)*3[0-9])"
# As bytes of UTF-8 are encoded one by one: a space, hyphen, point, stroke or bracket.
_BETWEEN = "(?:[ \t\u00a0.()/-]|%(?:25)*(?:20|2[89DdEeFf])){0,3}"


def digits(number: str) -> str:
    """The number's digits alone."""
    return "".join(re.findall("[0-9]", number))


def significant(number: str) -> str:
    """Its last nine digits; empty if it has fewer."""
    return digits(number)[-SIGNIFICANT:] if len(digits(number)) >= SIGNIFICANT else ""


@lru_cache(256)
def patterns(number: str) -> tuple[re.Pattern[str], ...]:
    """One after the other, what is to be searched for: the number itself, and then its other forms. None if the number
    is too short."""
    if len(digits(number)) < FEWEST:
        return ()
    itself = re.compile(f"(?:{_PLUS}{_BETWEEN})?{_spelled(digits(number))}")
    if not (last := significant(number)):
        return (itself,)
    before = f"(?:{_PLUS}{_BETWEEN})?(?:{_DIGIT}{_BETWEEN}){{0,{_BEFORE}}}"
    return itself, re.compile(f"{before}{_spelled(last)}")


def _spelled(of: str) -> str:
    return _BETWEEN.join(f"(?:{each}|{chr(0xFF10 + int(each))}|%(?:25)*3{each})" for each in of)
