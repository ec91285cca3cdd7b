"""Every spelling of a telephone number within other text. Pure.

A text is read as it is, and with one encoding after the other undone, each character with the place where it stands;
what is found goes there. Digits are those of any script; between them may stand whatever is neither digit nor letter;
other digits may be glued to either end, as in the names of recordings. National and international forms share their
last nine digits. All of it takes time in proportion to the text, whatever is in it.
"""

import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

# Of a number with fewer digits no other form is looked for; and with fewer than `FEWEST` it would be found by accident.
SIGNIFICANT, FEWEST = 9, 6
# Before the significant digits: 00, a country's code of three and a zero.
_BEFORE = 6
# Between digits of a number that isn't as long as `SIGNIFICANT`, and before those: so many characters at most.
_MOST_BETWEEN = 8
# Texts are encoded within encoded ones, so deep; %25 for % doesn't count.
_DEPTH = 4

# One character, or one byte of it, by the name of its encoding: URLs, quoted-printable, JSON and other programs', HTML.
_BYTE = "%(?:25)*[0-9A-Fa-f]{2}"
_QUOTED = "=(?:3[Dd])*[2389A-Fa-f][0-9A-Fa-f]"
_ESCAPES = (
    r"(?<!\\)\\++(?:u(?P<pair>[dD][89abAB][0-9a-fA-F]{2}\\++u[dD][c-fC-F][0-9a-fA-F]{2})|u(?P<unit>[0-9a-fA-F]{4})"
    r"|x(?P<hex>[0-9a-fA-F]{2}))"
    r"|&#(?:0*(?P<decimal>[0-9]{1,7})|[xX]0*(?P<hexadecimal>[0-9a-fA-F]{1,6}));"
)
_ENCODED = re.compile(f"(?P<bytes>(?:{_BYTE})+)|{_ESCAPES}")
# Apart from it, since `to=07…` would lose its first digits.
_ENCODED_OR_QUOTED = re.compile(f"(?P<bytes>(?:{_BYTE}|{_QUOTED})+)|{_ESCAPES}")
_ONE_BYTE = re.compile(f"{_BYTE}|{_QUOTED}")
_MAY_BE_QUOTED = re.compile(_QUOTED)

_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_NEITHER = re.compile(r"[\W_]+")
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_PLUS = re.compile("[+\uff0b][\\W_]*$")
# What a switchboard adds to a number; what is longer may be the number itself, behind a prefix. Each part has a bound,
# so that a search takes time in proportion to the text.
_EXTENSION = re.compile(r"(?i)[\s,;]{0,9}(?:ext(?:ension|n)?\b|x|#)[\s.:=]{0,9}[0-9]{0,5}\s{0,9}$")

# Where it isn't known yet that the row is theirs: fewer, by which less is found by accident, in words that Postgres,
# Arrow and Python read alike.
_PERCENT = "(?:%(?:25)*|=(?:3[Dd])*)"
_BETWEEN_ANYWHERE = f"(?:[ \t\u00a0.()/-]|{_PERCENT}(?:20|2[89DdEeFf])){{0,3}}"


class Wanted(NamedTuple):
    """A number, its digits, and those of them that every form of it has."""

    number: str
    whole: str
    core: str


class Reading(NamedTuple):
    """A text, and where each of its characters begins in the one that is read; at last, where that ends."""

    text: str
    begins: Sequence[int]
    encoded: re.Pattern[str]


@lru_cache(256)
def digits(number: str) -> str:
    """The number's digits alone, as ASCII's, without those of an extension."""
    main = _only_digits(_EXTENSION.sub("", number, count=1))
    return main if len(main) >= FEWEST else _only_digits(number)


def significant(number: str) -> str:
    """Its last nine digits; empty if it has fewer."""
    return digits(number)[-SIGNIFICANT:] if len(digits(number)) >= SIGNIFICANT else ""


def plain(text: str) -> str:
    """With ASCII's digits for those of other scripts, one for one."""
    return text if text.isascii() else _OTHER_DIGIT.sub(lambda digit: str(int(digit[0])), text)


def readings(text: str) -> Iterator[Reading]:
    """The text as it is, and with one encoding after the other undone; what may be quoted-printable both ways."""
    first = Reading(plain(text), range(len(text) + 1), _ENCODED)
    yield first
    for encoded in (_ENCODED, _ENCODED_OR_QUOTED) if _MAY_BE_QUOTED.search(text) else (_ENCODED,):
        reading = first._replace(encoded=encoded)
        for _ in range(_DEPTH):
            if (undone := _undone(reading)) is None:
                break
            yield undone
            reading = undone


def spans(number: str, text: str) -> list[tuple[int, int]]:
    """From where to where the number is spelled, in a text of somebody whose it is: in order, and apart. None if the
    number is too short."""
    return [(begin, end) for begin, end, _ in _spans(wanted([number]), text)]


def replaced(numbers: Sequence[Wanted], by: Mapping[str, str], text: str) -> str:
    """The text, with something else for each of the numbers' spellings."""
    parts, at = [], 0
    for begin, end, number in _spans(numbers, text):
        parts += [text[at:begin], by[number]]
        at = end
    return "".join(parts) + text[at:]


def wanted(numbers: Iterable[str]) -> list[Wanted]:
    """What is looked for, the shortest first; nothing of a number that is too short."""
    each = (Wanted(number, digits(number), significant(number) or digits(number)) for number in numbers)
    return sorted((one for one in each if len(one.core) >= FEWEST), key=lambda one: len(one.core))


def _spans(numbers: Sequence[Wanted], text: str) -> list[tuple[int, int, str]]:
    """The text is read once for all numbers. Of spellings that overlap, the first one's."""
    if not numbers or len(text) < len(numbers[0].core):
        return []
    apart: list[tuple[int, int, str]] = []
    for begin, end, number in sorted(span for reading in readings(text) for span in _found(reading, numbers)):
        if apart and begin < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]), apart[-1][2])
        else:
            apart.append((begin, end, number))
    return apart


@lru_cache(256)
def anywhere(number: str) -> str:
    """What is searched for in rows that aren't known to be theirs, for Postgres and Arrow too: the number itself."""
    plus = rf"(?:(?:\+|{_PERCENT}2[Bb]){_BETWEEN_ANYWHERE})?"
    spelled = (f"(?:{_any_script(int(each))}|{_PERCENT}3{each})" for each in digits(number))
    return plus + _BETWEEN_ANYWHERE.join(spelled)


def _only_digits(text: str) -> str:
    return "".join(re.findall("[0-9]", plain(text)))


def _any_script(digit: int) -> str:
    return f"[{''.join(chr(ord(zero) + digit) for zero in _zeros())}]"


@lru_cache(1)
def _zeros() -> list[str]:
    """Of every script, the character for zero; its other digits follow."""
    return [digit for digit in re.findall(r"\d", "".join(map(chr, range(sys.maxunicode)))) if int(digit) == 0]


def _undone(reading: Reading) -> Reading | None:
    """With one encoding undone; None if there is none."""
    text, old, encoded = reading
    parts: list[str] = []
    begins, at = array("q"), 0
    for found in encoded.finditer(text):
        parts.append(text[at : found.start()])
        begins.extend(old[at : found.start()])
        for character, offset in _characters(found):
            parts.append(character)
            begins.append(old[found.start() + offset])
        at = found.end()
    if not at:
        return None
    parts.append(text[at:])
    begins.extend(old[at:])
    return Reading(plain("".join(parts)), begins, encoded)


def _characters(found: re.Match[str]) -> Iterator[tuple[str, int]]:
    """What an encoding means, each character with its offset."""
    if (pair := found["pair"]) is not None:
        code = bytes.fromhex(pair[:4] + pair[-4:]).decode("utf-16-be")
        yield code, 0
    elif found["bytes"] is not None:
        units = [*_ONE_BYTE.finditer(found["bytes"])]
        at = 0
        for character in bytes(int(unit[0][-2:], 16) for unit in units).decode("utf-8", "surrogateescape"):
            yield character, units[at].start()
            at += 1 if character <= "\x7f" else len(character.encode("utf-8", "surrogateescape"))
    elif (number := found["decimal"]) is not None:
        yield chr(min(int(number), sys.maxunicode)), 0
    else:
        number = found["unit"] or found["hex"] or found["hexadecimal"]
        yield chr(min(int(number, 16), sys.maxunicode)), 0


def _found(reading: Reading, numbers: Iterable[Wanted]) -> Iterator[tuple[int, int, str]]:
    """Where the digits of each core are, with those before them that belong to a number; in the text that was read."""
    text, begins, _ = reading
    bare = _NEITHER.sub("", text)
    there = [each for each in numbers if each.core in bare]
    if not there:
        return
    places = [found.start() for found in _LETTER_OR_DIGIT.finditer(text)]
    units = [found.span() for found in re.finditer(f"{_ONE_BYTE.pattern}|{_ESCAPES}", text)]
    for number, whole, core in there:
        at = bare.find(core)
        while at >= 0:
            last = at + len(core) - 1
            gaps = (places[n + 1] - places[n] - 1 for n in range(at, last))
            if len(core) >= SIGNIFICANT or max(gaps) <= _MOST_BETWEEN:
                begin, end = _outside(units, places[at])[0], _outside(units, places[last])[1]
                first = _with_what_is_before(reading, bare, places, units, at, begin, whole)
                yield begins[first], begins[end], number
                at = bare.find(core, last + 1)
            else:
                at = bare.find(core, at + 1)


def _outside(units: Sequence[tuple[int, int]], place: int) -> tuple[int, int]:
    """A character, or all of what encodes it if it's part of that."""
    n = bisect_right(units, (place, sys.maxsize)) - 1
    return units[n] if n >= 0 and place < units[n][1] else (place, place + 1)


def _with_what_is_before(
    reading: Reading,
    bare: str,
    places: Sequence[int],
    units: Sequence[tuple[int, int]],
    at: int,
    begin: int,
    whole: str,
) -> int:
    """Where the number begins whose significant digits are found: with all of its own digits before them, or with
    those of a country's code; and a plus."""
    own = max(len(whole) - SIGNIFICANT, 0)
    has_all = bare[max(at - own, 0) : at] == whole[:own]
    for n in range(at - 1, max(at - (own if has_all else _BEFORE), 0) - 1, -1):
        place = places[n]
        is_one = "0" <= bare[n] <= "9" and _outside(units, place) == (place, place + 1)
        if not is_one or (begin - place > _MOST_BETWEEN + 1 and not has_all):
            break
        begin = place
    front = max(begin - _MOST_BETWEEN - 1, 0)
    if plus := _PLUS.search(reading.text[front:begin]):
        return front + plus.start()
    return begin
