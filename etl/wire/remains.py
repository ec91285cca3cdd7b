"""Whether a text still tells of somebody who was to be forgotten, and how else they are spelled. Pure.

It proves the work of `etl.wire.erasure`, and so knows nothing of its patterns: every encoding of a text is undone, all
but letters and digits is left out, and what remains is looked through for the digits. What it reads is CSV as Postgres
and DuckDB write it, every field quoted but null, piece by piece; most pieces are passed over as a whole.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

# National and international forms of a number share so many digits at their end.
_SHARED = 9
# No number of a telephone is longer; a shorter one than this is looked for in fields of that name alone.
_LONGEST, _FEWEST = 15, 6
# A shorter reference is a word of its own somewhere by accident.
_WORD = 5
# Texts are encoded within encoded ones, so deep.
_DEPTH = 4

_NOT_DIGITS = bytes(each for each in range(256) if chr(each) not in "0123456789")
# From the first backslash of several: else each of them would look at all that follow.
_UNICODE = re.compile(rb"(?<!\\)\\++u([0-9a-fA-F]{4})")
_HALVES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_BYTES = re.compile(rb"(?<!\\)\\++(?:([0-3][0-7]{2})|x([0-9a-fA-F]{2}))")
_ENTITY = re.compile(rb"&#(?:0*([0-9]{1,7})|[xX]0*([0-9a-fA-F]{1,6}));")
# Quoted-printable, but for control characters: in most texts `=0` is none.
_QUOTED = re.compile(rb"=([2389A-Fa-f][0-9A-Fa-f])")
# Short, and with bounds, by which it takes no longer than the text is long.
_EXTENSION = re.compile(r"(?i)[\W_]{0,9}(?:ext(?:ension|n)?\b|x|#)[\W_]{0,9}[0-9]{0,5}\W{0,9}$")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_NO_LETTER = re.compile(r"[\W_]+")
_HASH = re.compile(r"forgotten:[0-9a-f]{16}")
_FIELD = re.compile(rb'(?:"((?:[^"]++|"")*+)")?([,\n])')
_NUMBER = re.compile(r"(?<![0-9])\+?[0-9](?:[ \t\u00a0().\-/]{0,3}[0-9]){8,14}(?![0-9])")

# The value itself, or only its last digits: another spelling, or another person's number.
Kind = Literal["itself", "alike"]


class Hit(NamedTuple):
    """A column of a row that tells of the person; `spellings` are the values by which it would be theirs, if it isn't
    theirs by the one that was asked for."""

    column: str
    kind: Kind
    spellings: tuple[str, ...] = ()


class Sought:
    """People by what they were asked for, to be looked for in one go."""

    def __init__(self, numbers: Iterable[str], contacts: Iterable[str], hashes: Iterable[str]) -> None:
        """`hashes` take the places of the values: a row that has one is theirs."""
        self._numbers, self._contacts, self._hashes = {*numbers}, {*contacts}, {*hashes}
        # With what may be an extension, and without: who can say which of them the number is?
        by_digits = {
            number: {_main(number), _digits(number)} for number in self._numbers if len(_digits(number)) >= _FEWEST
        }
        self._whole = {digits for both in by_digits.values() for digits in both if len(digits) >= _SHARED}
        self._short = {number for number in by_digits if len(_main(number)) < _SHARED}
        self._last = {digits[-_SHARED:] for digits in self._whole}
        self._last_of_contacts = {_digits(each)[-_SHARED:] for each in self._contacts if len(_digits(each)) >= _SHARED}
        of_digits = self._last | self._last_of_contacts | {_digits(each) for each in self._short}
        self._digits = [each.encode() for each in of_digits]
        as_text = self._contacts | (self._numbers - by_digits.keys())
        self._texts = [*map(_bytes, as_text)]
        # Of what CSV or JSON spells otherwise, no piece is passed over.
        self._anywhere = any(re.search(r'[\x00-\x1f"\\%&]|[^\x00-\x7f]', each) for each in as_text)

    def may_be_in(self, piece: bytes) -> bool:
        """False only if nothing of it can be a hit."""
        if self._anywhere:
            return True
        for text in _read(piece):
            if any(each in text for each in self._texts):
                return True
            digits = text.translate(None, _NOT_DIGITS)
            if any(each in digits for each in self._digits):
                return True
        return False

    def hits(self, row: Sequence[tuple[str, str]]) -> list[Hit]:
        """Of a row's columns and their texts."""
        if not self.may_be_in(_bytes("\n".join(text for _, text in row))):
            return []
        is_theirs = any(hashed in text for _, text in row for hashed in self._hashes)
        kinds = [(name, text, self._kind(name, text, is_theirs)) for name, text in row]
        found = [(name, text, kind) for name, text, kind in kinds if kind]
        if not found:
            return []
        will_go = is_theirs or any(self._stands_in(name, text) for name, text in row)
        return [Hit(name, kind, () if will_go else (*self._spellings(name, text),)) for name, text, kind in found]

    def _kind(self, name: str, text: str, is_theirs: bool) -> Kind | None:
        texts = [_HASH.sub("x", each) for each in _texts(text)]
        if self._digits:
            bare = [_NO_LETTER.sub("", each) for each in texts]
            if any(whole in each for whole in self._whole for each in bare):
                return "alike" if not is_theirs and self._is_another_number(text) else "itself"
            if any(last in each for last in self._last for each in bare):
                return "itself" if is_theirs else "alike"
            shorts = [f"(?<![0-9]){re.escape(short)}(?![0-9])" for short in self._short]
            if any(re.search(short, each) for short in shorts for each in texts):
                return "itself"
        fields = [*_fields(name, text)]
        if any(value in self._numbers for named, value in fields if named == "number"):
            return "itself"
        if self._contacts:
            return self._kind_of_contact(fields, texts, is_theirs)
        return None

    def _is_another_number(self, text: str) -> bool:
        """The whole text is: 0700… has 700… in it."""
        return bool(_NUMBER.fullmatch(text)) and _digits(text) not in self._whole

    def _kind_of_contact(self, fields: Sequence[tuple[str, str]], texts: Sequence[str], is_theirs: bool) -> Kind | None:
        of_contacts = [value for named, value in fields if "contact" in named]
        if self._contacts & {*of_contacts}:
            return "itself"
        for contact in self._contacts:
            word = rf"(?<!\w){re.escape(contact)}(?!\w)"
            if is_theirs and len(contact) >= _WORD and any(re.search(word, each) for each in texts):
                return "itself"
            if any(re.search(rf"contact_ref\W{{1,6}}{re.escape(contact)}(?!\w)", each) for each in texts):
                return "itself"
        is_alike = any(_digits(value)[-_SHARED:] in self._last_of_contacts for value in of_contacts)
        return "alike" if is_alike else None

    def _stands_in(self, name: str, text: str) -> bool:
        """As it was asked for, with no digits around it: then the row will lose every spelling."""
        if any(named == "contact_ref" and value in self._contacts for named, value in _fields(name, text)):
            return True
        return any(re.search(f"(?<![0-9]){re.escape(each)}(?![0-9])", text) for each in self._numbers if each)

    def _spellings(self, name: str, text: str) -> Iterator[str]:
        """What else could be asked for, so that the row is theirs."""
        for named, value in _fields(name, text):
            if "contact" in named and _digits(value)[-_SHARED:] in self._last_of_contacts:
                yield value
            is_number = named == "number" and len(_digits(value)) <= _LONGEST
            whole = [value] if is_number and _digits(value)[-_SHARED:] in self._last else []
            for each in whole or self._numbers_in(value):
                if each not in self._numbers:
                    yield each

    def _numbers_in(self, text: str) -> list[str]:
        for each in _texts(text):
            found = [number[0] for number in _NUMBER.finditer(each)]
            if these := [number for number in found if _digits(number)[-_SHARED:] in self._last]:
                return these
        return []


def rows_of(piece: bytes) -> Iterator[list[str]]:
    """The fields of each row of CSV that is whole; null is empty."""
    row = []
    for field in _FIELD.finditer(piece):
        row.append((field[1] or b"").replace(b'""', b'"').decode("utf-8", "surrogateescape"))
        if field[2] == b"\n":
            yield row
            row = []


def end_of_rows(piece: bytes) -> int:
    """Where the last whole row of CSV ends, if it begins with one; 0 if it has none."""
    end = piece.rfind(b"\n")
    while end >= 0 and piece.count(b'"', 0, end) % 2:  # this line break is a field's own
        end = piece.rfind(b"\n", 0, end)
    return end + 1


def _digits(text: str) -> str:
    return re.sub("[^0-9]", "", _OTHER_DIGIT.sub(lambda digit: str(int(digit[0])), text))


def _main(number: str) -> str:
    """Its digits without those of an extension, if that leaves enough."""
    main = _digits(_EXTENSION.sub("", number))
    return main if len(main) >= _FEWEST else _digits(number)


def _texts(text: str) -> list[str]:
    return [each.decode("utf-8", "surrogateescape") for each in _read(_bytes(text))]


def _bytes(text: str) -> bytes:
    """Half a character of JSON's, too."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _read(raw: bytes) -> Iterator[bytes]:
    """A text as it is, and with one encoding after the other undone; quoted-printable too, if it may be that."""
    plain = _with_plain_digits(raw)
    yield plain
    for is_quoted in (False, True) if _QUOTED.search(plain) else (False,):
        text = plain
        for _ in range(_DEPTH):
            before, text = text, _undone(text, is_quoted)
            if text == before:
                break
            yield text


def _undone(text: bytes, is_quoted: bool) -> bytes:
    if is_quoted:
        text = _QUOTED.sub(lambda found: bytes.fromhex(found[1].decode()), text)
    if b"\\" in text:
        text = _UNICODE.sub(lambda found: _character(int(found[1], 16)), text)
        text = _HALVES.sub(lambda found: _joined(found[0]), text)
        text = _BYTES.sub(lambda found: bytes([int(found[1], 8) if found[1] else int(found[2], 16)]), text)
    if b"%" in text:
        text = unquote_to_bytes(text)
    if b"&#" in text:
        text = _ENTITY.sub(lambda found: _character(int(found[1]) if found[1] else int(found[2], 16)), text)
    return _with_plain_digits(text)


def _character(code: int) -> bytes:
    return chr(min(code, 0x10FFFF)).encode("utf-8", "surrogatepass")


def _joined(halves: bytes) -> bytes:
    """A character of 32 bits, which JSON escapes as two of 16."""
    units = halves.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le").encode()


def _with_plain_digits(text: bytes) -> bytes:
    """Every script has digits of its own."""
    if text.isascii():
        return text
    plain = _OTHER_DIGIT.sub(lambda digit: str(int(digit[0])), text.decode("utf-8", "surrogateescape"))
    return plain.encode("utf-8", "surrogateescape")


def _fields(name: str, text: str) -> Iterator[tuple[str, str]]:
    """A column by its name or, if it is JSON, all that stands in it, numbers as their text; keys have no name."""
    try:
        parsed = json.loads(text, parse_int=str, parse_float=str, strict=False) if text[:1] in ("{", "[") else text
    except (ValueError, RecursionError):
        parsed = text
    waiting: list[tuple[str, Any]] = [(name, parsed)]
    while waiting:
        named, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*(("", key) for key in value), *value.items()]
        elif isinstance(value, list):
            waiting += [(named, each) for each in value]
        elif isinstance(value, str):
            yield named, value
