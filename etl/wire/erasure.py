"""Erasing a person from a row: puts a keyed hash in place of their number and contact reference. Pure; used on rows of
Postgres and of files alike, so that both agree on who is meant.

A person is given by one value, exactly as it's stored: `074…` and `+4474…` are two numbers; or by several.

- By number: that number, and the contact references that stand beside it.
- By contact: that contact reference, and the numbers that stand beside it.

"Beside" is the same row, or the same object within JSON. A row is theirs

- that has the contact reference as a `contact_ref`, be it a column or a field of JSON at any depth;
- that has the number as a `number`, or, if it has six digits or more, wherever it stands with no digit before or after:
  Click2Dial's campaign, the name of a recording, a channel, a key or an integer of JSON. A shorter one would match
  by accident;
- that has no number at all, and theirs, of nine digits or more, in any spelling;
- from which they were erased before.

Out of such a row goes every spelling of these values, see `etl.wire.spellings`: of a reference of five characters or
more wherever it stands as a word. Of the row's identity `source` and the times stay. A `call_ref` in which the number
is becomes the hash of the whole, so that calls stay apart, and events find them.
"""

import hmac
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache, partial
from itertools import islice
from typing import Any
from urllib.parse import quote

from etl.wire import spellings

HASH_PREFIX = "forgotten:"
# Of the hash, hexadecimal: among a million people, two share one with a chance of 1 in 37 million.
_LENGTH = 16
# Hashes kept: the dialler's own numbers and a campaign's callees come again and again.
_HASHES = 16_384
# Columns, and fields of JSON, that never contain a person, whatever they look like.
KEPT = frozenset({"source", "origin", "batch_id", "event_id"})
_KEPT_FIELDS = frozenset({"dialed_at"})
JSON = frozenset({"extra", "payload"})
# A number with fewer digits is replaced only where the field is called `number`.
_DIGITS = 6
# No number of a telephone is longer: so large an exponent needn't be written out.
_EXPONENT = 15
# Click2Dial before 3.0 has the client's number in place of a campaign, and no `number`.
_NUMBER_FOR_CAMPAIGN = re.compile(r"\+?[0-9]{6,}")

# Where anything else may tell of somebody: a recording's name, a message that is no JSON.
_ANY_NUMBER = re.compile(r"\+?(?<![0-9])[0-9]{6,}")
_ANY_SPACED_NUMBER = re.compile(r"\+?(?<![0-9])[0-9][0-9 ()./-]{4,}[0-9]")
_ANY_CONTACT = re.compile(r"\bcontact_ref\W{1,6}(\w+)")

# What no number of a telephone exceeds, in digits.
_LONGEST = 15
# So many are looked at of one row: far more than its recording's name has. A message full of digits would take minutes.
_MOST_GLUED = 5_000
_GLUED = re.compile(r"\+?[0-9]{9,15}")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])[ \t\u00a0.()/-]{1,3}(?=[0-9])")
# A shorter reference is a word of its own somewhere by accident.
_WORD = 5
# Of what stands beside theirs in a row, so many values are looked for within texts; more go only where they are the
# whole of a field. No call has as many, and a message with thousands would take hours.
_MOST_BESIDE = 200

# The tokens of JSON that can contain a person's values. A string is a key if a colon follows. One that never ends is
# one as well: else each of its quotes would be tried for a beginning, up to the end.
_TOKEN = re.compile(
    r'"(?P<string>(?:[^"\\]++|\\.|\\\Z)*+)(?P<end>"(?P<colon>\s*:)?|\Z)|(?P<bare>-?[0-9][0-9.eE+-]*)',
    re.DOTALL,
)
# Hashes and UUIDs are passed over: they may contain any digits.
_NOBODY = f"{HASH_PREFIX}[0-9a-f]{{{_LENGTH}}}|[0-9a-fA-F]{{8}}(?:-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}"
_HASHED = re.compile(f"({HASH_PREFIX}[0-9a-f]{{{_LENGTH}}})")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


@lru_cache(_HASHES)
def _hash(key: str, value: str) -> str:
    return HASH_PREFIX + hmac.digest(key.encode(), value.encode("utf-8", "surrogatepass"), "sha256").hex()[:_LENGTH]


class Person:
    """The person to forget, and the key of the hashes."""

    def __init__(
        self, key: str, number: str | None = None, contact: str | None = None, also: Iterable[str] = ()
    ) -> None:
        """Give exactly one of `number` and `contact`, not empty; `also` has other values of the same kind."""
        self._key = key
        self.by = "number" if contact is None else "contact"
        self.value = (number if contact is None else contact) or ""
        self.values = (self.value, *(each for each in dict.fromkeys(also) if each != self.value))
        self.hashes = tuple(map(self._hash, self.values))
        may_be_glued = [value for value in self.values if self.by == "number" and _GLUED.fullmatch(value)]
        # Where it may be in a row without a number, for Postgres, Arrow and us alike; empty if nowhere.
        self.glued = "|".join(map(spellings.anywhere, may_be_glued))
        self._glued = [re.compile(spellings.anywhere(value)) for value in may_be_glued]
        # Of who is asked for by contact: the numbers of telephones that stood beside it, in all rows until now.
        self.beside: set[str] = set()

    @property
    def hash(self) -> str:
        """The hash of the given value."""
        return self._hash(self.value)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that must change, with their new values; empty if the person isn't in the row. JSON is given as
        text, a message as bytes."""
        beside = [row, *(each for name, value in row.items() for each in _objects_in(name, value))]
        names = self._names(beside)
        erased = {name: names.column(name, value) for name, value in row.items() if name not in KEPT}
        if all(value == row[name] for name, value in erased.items()) and not self._is_theirs(row, beside):
            return {}
        names.is_thorough = True
        if self.by == "contact":
            self.beside |= {each for each in names.numbers if sum(c.isdigit() for c in each) >= _DIGITS}
        erased = {name: names.column(name, value) for name, value in erased.items()}
        return {name: value for name, value in erased.items() if value != row[name]}

    def whole(self, text: str) -> str:
        """The hash of a text that belongs to no row, like a campaign's name, in which their number is in any spelling,
        or one that is `beside`; else the text."""
        numbers = self.values if self.by == "number" else self.beside
        is_theirs = text in numbers or any(spellings.spans(each, text) for each in islice(numbers, _MOST_BESIDE))
        return self._hash(text) if is_theirs and not _HASHED.fullmatch(text) else text

    def _is_theirs(self, row: Mapping[str, Any], beside: Iterable[Mapping[str, Any]]) -> bool:
        """Though no value of theirs stands there by itself."""
        text = _text_of(row)
        if any(hash_ in text for hash_ in self.hashes):
            return True
        return bool(self._glued) and not any(map(_numbers, beside)) and any(p.search(text) for p in self._glued)

    def _hash(self, value: str) -> str:
        return _hash(self._key, value)

    def _names(self, beside: Iterable[Mapping[str, Any]]) -> "_Names":
        asked = {*self.values}
        numbers, contacts = (asked, set()) if self.by == "number" else (set(), asked)
        for each in beside:
            if self.by == "number" and asked & _numbers(each):
                contacts = contacts | _texts(each, "contact_ref")
            elif self.by == "contact" and asked & _texts(each, "contact_ref"):
                numbers = numbers | _numbers(each)
        return _Names(self._key, self._hashed(numbers), self._hashed(contacts))

    def _hashed(self, values: Iterable[str]) -> dict[str, str]:
        """Their hashes, first those that were asked for."""
        return {each: self._hash(each) for each in sorted(values, key=lambda value: (value not in self.values, value))}


def hash_of(key: str, value: str) -> str:
    """What takes the value's place."""
    return _hash(key, value)


def hashes(key: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of everybody in a row: what they could be asked for by (number or contact), its hash and value. JSON is given
    as text, and a message as bytes."""
    for subject, values in everybody(row).items():
        for value in values:
            yield subject, _hash(key, value), value


def everybody(row: Mapping[str, Any]) -> dict[str, set[str]]:
    """Whatever may be somebody's number or contact in a row, which is as for `hashes`."""
    numbers: set[str] = set()
    contacts: set[str] = set()
    for each in [row, *(found for name, value in row.items() for found in _objects_in(name, value))]:
        numbers |= _numbers(each)
        contacts |= _texts(each, "contact_ref")
    has_number = bool(numbers)
    text = _text_of(row)
    found = {*_ANY_NUMBER.findall(text), *_ANY_SPACED_NUMBER.findall(text)}
    numbers |= found
    numbers |= {each[1:] for each in found if each[0] == "+"}
    if "contact_ref" in text:
        contacts |= {*_ANY_CONTACT.findall(text)}
    if not has_number:
        numbers |= {*islice(_glued(text), _MOST_GLUED)}
    return {"number": numbers, "contact": contacts}


def _glued(text: str) -> Iterator[str]:
    """Whatever may be a number of nine digits or more, spelled in any way, other digits before or after it."""
    text = "\n".join(reading.text for reading in spellings.readings(text))
    for run in re.findall("[0-9]{9,}", _BETWEEN_DIGITS.sub("", text)):
        for begin in range(len(run) - spellings.SIGNIFICANT + 1):
            for end in range(begin + spellings.SIGNIFICANT, min(begin + _LONGEST, len(run)) + 1):
                yield run[begin:end]
                yield f"+{run[begin:end]}"


def mark(key: str) -> str:
    """What tells one key from another, and nothing of either."""
    return hmac.digest(key.encode(), b"the mark of this key", "sha256").hex()[:_LENGTH]


@dataclass(slots=True)
class _Names:
    """The values to be replaced in a row, by their hashes; every spelling with `is_thorough`, if the row is theirs."""

    key: str
    numbers: dict[str, str]
    contacts: dict[str, str]
    anywhere: re.Pattern[str] | None = None
    is_thorough: bool = False
    spelled: list[spellings.Wanted] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spelled = spellings.wanted(number for number, _ in self._some(self.numbers))
        long = [re.escape(n) for n, _ in self._some(self.numbers) if sum(c.isdigit() for c in n) >= _DIGITS]
        if long:
            among = "|".join(sorted(long, key=len, reverse=True))
            self.anywhere = re.compile(f"{_NOBODY}|(?<![0-9])(?:{among})(?![0-9])")

    def column(self, name: str, value: Any) -> Any:
        if isinstance(value, bytes):
            return self._message(value)
        if not isinstance(value, str):
            return value
        return self._json(value) if name in JSON else self._text(name, value)

    def _whole(self, name: str, text: str) -> str | None:
        """The hash that replaces the whole value, because of the field's name; or None."""
        if name == "contact_ref":
            return self.contacts.get(text)
        if name == "call_ref":
            return _hash(self.key, text) if self._spelled_in(text) != text else text
        return self.numbers.get(text) if name == "number" else None

    def _text(self, name: str, text: str) -> str:
        return self._whole(name, text) or self._within(text)

    def _within(self, text: str) -> str:
        if self.is_thorough:
            return self._spelled_in(text)
        if self.anywhere is None:
            return text
        return self.anywhere.sub(lambda found: self.numbers.get(found[0], found[0]), text)

    def _spelled_in(self, text: str) -> str:
        """Without any spelling, which only a row of theirs may lose."""
        if not self.is_thorough:
            return text
        text = _but_hashes(partial(spellings.replaced, self.spelled, self.numbers), text)
        for contact, hashed in self._some(self.contacts):
            if len(contact) >= _WORD:
                text = _but_hashes(partial(_word(contact).sub, hashed), text)
        return text

    def _some(self, values: dict[str, str]) -> Iterable[tuple[str, str]]:
        return islice(values.items(), _MOST_BESIDE)

    def _json(self, text: str, mark: str = '"') -> str:
        """Replaces token by token, so that all other tokens stay exactly as they are. A number becomes a string in
        `mark`s."""
        key = ""

        def erased(token: re.Match[str]) -> str:
            nonlocal key
            string, bare, end = token["string"], token["bare"], token["end"]
            if token["colon"]:
                key = _plain(string)
                return f'"{self._string("", string)}{end}'
            if key in _KEPT_FIELDS:
                return token[0]
            return f'"{self._string(key, string)}{end}' if bare is None else self._bare(key, bare, mark)

        return _TOKEN.sub(erased, text)

    def _string(self, key: str, string: str) -> str:
        """A string as JSON spells it; found also where it's spelled with escapes."""
        if not string:
            return string
        value = _value(string)
        if whole := self._whole(key, value):
            return string if whole == value else whole
        plain = _plain(string)
        within = self._within(plain)
        return string if within == plain else within

    def _bare(self, key: str, bare: str, mark: str) -> str:
        """A number of JSON."""
        written = _written_out(bare)
        is_one = self.is_thorough or written in self.numbers or written in self.contacts
        hashed = self._text(key, written) if is_one else bare
        if hashed == written:
            return bare
        return f"{mark}{hashed}{mark}"

    def _message(self, raw: bytes) -> bytes:
        """A whole message. Of one that is no JSON, what can be found without parsing it."""
        text, encoded = _decoded(raw)
        is_json = _parsed(text.removeprefix("\ufeff")) is not None
        erased = self._json(text, '"' if is_json else "")
        if not is_json:
            erased = self._within(erased)
            for name, hashes in (("contact_ref", self.contacts), ("number", self.numbers)):
                for value, hashed in self._some(hashes):
                    named = rf"(\b{name}\W{{1,6}}){re.escape(value)}(?!\w)"
                    erased = re.sub(named, lambda found, hashed=hashed: found[1] + hashed, erased)  # type: ignore[misc]
        return encoded(erased) if erased != text else raw


def _text_of(row: Mapping[str, Any]) -> str:
    """All that its columns say, but those that are kept."""
    return "\n".join(text for name, value in row.items() if name not in KEPT for text in _strings_in(name, value))


@lru_cache(256)
def _word(value: str) -> re.Pattern[str]:
    """The value standing by itself, perhaps percent-encoded."""
    return re.compile(
        rf"(?:(?<![0-9A-Za-z_])|(?<=%[0-9A-Fa-f]{{2}}))(?:{re.escape(value)}|{re.escape(quote(value))})(?!\w)"
    )


def _but_hashes(replaced: Callable[[str], str], text: str) -> str:
    """The text, changed but within hashes: they may have any digits."""
    parts = _HASHED.split(text)
    return "".join(part if at % 2 else replaced(part) for at, part in enumerate(parts))


def in_json(value: str) -> str:
    """The value as it stands within JSON in Postgres and in our files."""
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _decoded(raw: bytes) -> tuple[str, Callable[[str], bytes]]:
    """A message as text, and what makes bytes of that again: UTF-16 if one byte of each two is mostly zero, as in
    ASCII's characters there, with its mark before it or not; else UTF-8."""
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    some, many = len(raw) // 16, len(raw) // 4
    if odd > (some if raw.startswith(b"\xff\xfe") else many) and even < many:
        form = "utf-16-le"
    elif even > (some if raw.startswith(b"\xfe\xff") else many) and odd < many:
        form = "utf-16-be"
    else:
        return raw.decode("utf-8", "surrogateescape"), lambda text: text.encode("utf-8", "surrogateescape")
    whole = len(raw) // 2 * 2  # it may have been cut off
    try:
        text = raw[:whole].decode(form, "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape"), lambda text: text.encode("utf-8", "surrogateescape")
    return text, lambda text: text.encode(form, "surrogatepass") + raw[whole:]


def _objects_in(name: str, value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, bytes):
        yield from _objects(_parsed(_decoded(value)[0].removeprefix("\ufeff")))
    elif name in JSON and isinstance(value, str):
        yield from _objects(_parsed(value))


def _strings_in(name: str, value: Any) -> Iterator[str]:
    """Every text of a column; of JSON as it's written, and as it's meant."""
    text = _decoded(value)[0].removeprefix("\ufeff") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        return
    yield text
    if "\\" in text or "e" in text.lower():  # else all that is meant stands there
        waiting = [_parsed(text)] if name in JSON or isinstance(value, bytes) else []
        while waiting:
            each = waiting.pop()
            if isinstance(each, str):
                yield each
            elif isinstance(each, dict):
                waiting += [*each, *each.values()]
            elif isinstance(each, list):
                waiting += each


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _parsed(text: str) -> Any:
    """The parsed JSON, numbers as text; None if it's no JSON."""
    try:
        return json.loads(text, parse_int=str, parse_float=_written_out)
    except (ValueError, RecursionError):
        return None


def _written_out(number: str) -> str:
    """A number of JSON as Postgres writes it, if that isn't long."""
    mantissa, _, exponent = number.lower().partition("e")
    if not exponent or len(exponent) > len("+15") or abs(int(exponent)) > _EXPONENT:
        return number
    return format(Decimal(mantissa).scaleb(int(exponent)), "f")


def _texts(fields: Mapping[str, Any], *names: str) -> set[str]:
    """Those that aren't empty and aren't hashes already."""
    values = (fields.get(name) for name in names)
    return {value for value in values if isinstance(value, str) and value and not value.startswith(HASH_PREFIX)}


def _numbers(fields: Mapping[str, Any]) -> set[str]:
    if numbers := _texts(fields, "number"):
        return numbers
    return {each for each in _texts(fields, "campaign_ref", "ref") if _NUMBER_FOR_CAMPAIGN.fullmatch(each)}


def _value(string: str) -> str:
    try:
        return str(json.loads(f'"{string}"', strict=False))
    except ValueError:
        return string


def _plain(string: str) -> str:
    """Without the escapes of what a number may be spelled with."""

    def character(escape: re.Match[str]) -> str:
        if len(escape[1]) > 1:
            plain = chr(int(escape[1][1:], 16))
            is_plain = plain not in '"\\' and unicodedata.category(plain) not in ("Cc", "Cs")
            return plain if is_plain else escape[0]
        return "/" if escape[1] == "/" else escape[0]

    return _ESCAPE.sub(character, string) if "\\" in string else string
