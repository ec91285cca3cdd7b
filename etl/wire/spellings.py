"""Every spelling of a telephone number within other text, as patterns. Pure.

Digits may be encoded, more than once too, of full width, Arabic or Persian; between them may stand what people and
programs put there; other digits may be glued to either end, as in the names of recordings. National and international
forms share their last nine digits.
"""

import re
from functools import lru_cache

# Of a number with fewer digits no other form is looked for; and with fewer than `FEWEST` it would be found by accident.
SIGNIFICANT, FEWEST = 9, 6
# Before the significant digits: 00, a country's code of three and a zero.
_BEFORE = 6

_PERCENT = "%(?:25)*"
_WIDE = f"{_PERCENT}[Ee][Ff]{_PERCENT}[Bb][Cc]{_PERCENT}"
_PLUS = (
    rf"(?:[+\uff0b]|{_PERCENT}2[Bb]|{_WIDE}8[Bb]"
    r"|\\+u(?:002[Bb]|[Ff]{2}0[Bb])|&#(?:0*43|[xX]0*2[Bb]);)"
)
_ZEROS = (0xFF10, 0x660, 0x6F0)  # of the digits that aren't ASCII's
_OTHERS = "".join(f"{chr(zero)}-{chr(zero + 9)}" for zero in _ZEROS)
# Whatever is neither a digit nor a letter; also as bytes of UTF-8, encoded one by one.
_BETWEEN = (
    rf"(?:[^0-9A-Za-z%{_OTHERS}]|\\+[nrtbf]"
    rf"|{_PERCENT}(?:0[9ADad]|2[0-9A-Fa-f]|3[A-Fa-f]|[46]0|[57][B-Fb-f]|[89A-Ea-e][0-9A-Fa-f])){{0,8}}"
)
# Part of what JSON escapes is no digit before the number.
_NOT_ESCAPED = "".join(rf"(?<!\\u{'.' * digits})" for digits in range(4))
# Where it isn't known yet that the row is theirs: fewer, by which less is found by accident, in words that Postgres,
# Arrow and Python read alike.
_BETWEEN_ANYWHERE = f"(?:[ \t\u00a0.()/-]|{_PERCENT}(?:20|2[89DdEeFf])){{0,3}}"


def digits(number: str) -> str:
    """The number's digits alone."""
    return "".join(re.findall("[0-9]", number))


def significant(number: str) -> str:
    """Its last nine digits; empty if it has fewer."""
    return digits(number)[-SIGNIFICANT:] if len(digits(number)) >= SIGNIFICANT else ""


@lru_cache(256)
def patterns(number: str) -> tuple[re.Pattern[str], ...]:
    """One after the other, what is to be searched for in a row of theirs: the number itself, and then its other forms.
    None if the number is too short."""
    if len(digits(number)) < FEWEST:
        return ()
    itself = re.compile(f"{_NOT_ESCAPED}(?:{_PLUS}{_BETWEEN})?{_spelled(digits(number))}")
    if not (last := significant(number)):
        return (itself,)
    before = f"{_NOT_ESCAPED}(?:{_PLUS}{_BETWEEN})?(?:{_digit('0-9')}{_BETWEEN}){{0,{_BEFORE}}}"
    return itself, re.compile(f"{before}{_spelled(last)}")


def anywhere(number: str) -> str:
    """What is searched for in rows that aren't known to be theirs, for Postgres and Arrow too: the number itself."""
    plus = rf"(?:(?:\+|{_PERCENT}2[Bb]){_BETWEEN_ANYWHERE})?"
    spelled = (f"(?:{each}|{chr(0xFF10 + int(each))}|{_PERCENT}3{each})" for each in digits(number))
    return plus + _BETWEEN_ANYWHERE.join(spelled)


def _spelled(of: str) -> str:
    return _BETWEEN.join(map(_digit, of))


def _digit(which: str) -> str:
    """A digit, or one of 0-9, in each way that it's written or encoded."""
    first, last = which[0], which[-1]
    others = "".join(f"{chr(zero + int(first))}-{chr(zero + int(last))}" for zero in _ZEROS)
    by_number = "|".join(str(48 + each) for each in range(int(first), int(last) + 1))
    return (
        rf"(?:[{which}{others}]|{_PERCENT}3[{which}]|{_WIDE}9[{which}]"
        rf"|\\+u(?:003|[Ff]{{2}}1|066|06[Ff])[{which}]|&#(?:0*(?:{by_number})|[xX]0*3[{which}]);)"
    )
