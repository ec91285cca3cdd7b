"""Messages like a dialler's, each changed in a few places, so that some stay plain CDRs, and others nearly are."""

import json
import random
from collections.abc import Callable, Sequence

from tests.fuzz.corpus import everything

# A field of the payload: its name and its value, both as JSON.
Field = tuple[str, str]

_A = [
    *("extension", "number", "dial_number", "recording_url", "call_ref", "contact_ref", "dialed_at", "call_time"),
    *("hold_time", "end_reason", "end_code", "call_dir", "ref"),
]
_B = [
    *("call_ref", "uuid", "agent", "recording_location", "dialed_at", "callee_answered_at", "agent_answered_at"),
    *("ended_at", "end_reason", "call_dir"),
]
_NEWER = [
    *("clid", "isdn_code", "hold_time_number", "ring_time_number", "ring_time", "call_trail_number", "disposition"),
    *("call_type", "call_trail_ref", "ring_time_extension"),
]
_TIMES = {"dialed_at", "callee_answered_at", "agent_answered_at", "ended_at"}
_NUMBERS = {
    *("call_time", "hold_time", "ring_time", "end_code", "isdn_code", "hold_time_number", "ring_time_number"),
    *("call_trail_number", "ring_time_extension"),
}
_TEXTS = {"recording_url", "recording_location", "end_reason", "call_dir", "uuid", "disposition"}
_UNKNOWN = ["sentiment", "retries", "x", "é", "Call_ref", "$envelope", "call_ref ", "type"]

_NOW = 1_748_779_800
_NUMBER_FORMS: Sequence[Callable[[int], str]] = (
    str,
    lambda n: f'"{n}"',
    lambda n: f'" {n} "',
    lambda n: f'"{n:+d}"',
    lambda n: f'"{n:+05d}"',
    lambda n: f'"00{abs(n)}"',
    lambda n: f'"{n}.0"',
    lambda n: f'"{n}.00"',
    lambda n: f"{n}.0",
    lambda n: f"{n}e0",
    lambda n: f'"{n}.5"',
    lambda n: f'"\\t{n}\\n"',
    lambda n: f'"\\u00a0{n}"',
    lambda n: f'"{n}x"',
)
_EDGES = [0, 1, -1, 16, 999, 1000, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 10**17, 10**18, 10**19, 10**40]
_RAW = ["null", "true", "false", '""', '" "', "{}", "[]", '"0"', "-0", '"-0"', "00", "1.5", "1e400", '"\\u0000"', "1E5"]
_TEXT_VALUES = [
    "ANSWER",
    "BUSY",
    "hungup",
    "outbound",
    "",
    "ftp://pbx/88.wav",
    "éà",
    "🎧",
    'a"b',
    "a\\b",
    "\x7f",
    "\u2028",
]
_FRACTIONS = [*[""] * 40, ".354", ".1", ".123456", ".000", ".1234567", ",5", "."]
_OFFSETS = [*["Z", " UTC", "+02:00", " +0200"] * 8, "-0730", "", " Z", " GMT", "UTC", "+02", "-00:00", " ", "z"]
_UNKNOWN_VALUES = [
    '"x"',
    "3",
    "0.25",
    '{"a": [1, "é"]}',
    "[]",
    "null",
    "true",
    '"\\u0000"',
    '"\\ud800"',
    "1e5",
    "[[1]]",
    "-",
]


class Messages:
    """An endless, repeatable stream of messages."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._corpus = everything()
        self._calls = 0

    def next(self) -> bytes:
        dice = self._dice
        raw = dice.choice(self._corpus) if dice.random() < 0.05 else self._message()
        return self._damaged(raw) if dice.random() < 0.2 else raw

    def _message(self) -> bytes:
        dice = self._dice
        fields = self._fields()
        for _ in range(dice.choice((0, 0, 0, 1, 1, 1, 2, 3))):
            fields = dice.choice(_CHANGES)(self, fields)
        kind = dice.choice(('"cdr"', '"call_update"', "null")) if dice.random() < 0.98 else '"status"'
        around = [("type", kind), ("payload", self._object([(f'"{name}"', value) for name, value in fields]))]
        if dice.random() < 0.1:
            around.reverse()
        if dice.random() < 0.02:
            around.insert(dice.randrange(3), dice.choice((("type", "null"), ("v", "1"), ("payload", "{}"))))
        if dice.random() < 0.02:
            del around[dice.randrange(2)]
        return self._object([(f'"{name}"', value) for name, value in around]).encode("utf-8", "surrogatepass")

    def _object(self, fields: Sequence[Field]) -> str:
        comma, colon = self._dice.choice(((",", ":"), (", ", ": "), (" ,\n\t", "\r: ")))
        blank = self._dice.choice(("", "", " ", "\n"))
        return "{" + blank + comma.join(f"{name}{colon}{value}" for name, value in fields) + blank + "}"

    def _fields(self) -> list[Field]:
        dice = self._dice
        names = list(dice.choice((_A, _A, _B)))
        if dice.random() < 0.2:
            names += dice.sample(_NEWER, dice.randrange(1, 4))
        self._calls += 1
        return [(name, self._value(name)) for name in names]

    def _value(self, name: str) -> str:
        dice = self._dice
        if name == "call_ref":
            return dice.choice((str(self._calls), f'"{self._calls}"', f'"call-{self._calls}"'))
        if name in _TIMES:
            return self._time()
        if dice.random() < 0.08 and name != "call_trail_number":
            return "null"
        if name in _NUMBERS:
            number = dice.choice((0, 1, 2, 16, 17, 41, dice.randrange(5000)))
            return dice.choice((str(number), f'"{number}"'))
        if name in _TEXTS or dice.random() < 0.8:
            return json.dumps(dice.choice(_TEXT_VALUES), ensure_ascii=dice.random() < 0.3)
        return str(dice.randrange(10**6))

    def _time(self) -> str:
        dice = self._dice
        moment = _NOW - dice.randrange(400 * 86_400)
        if dice.random() < 0.6:
            return str(moment)
        return json.dumps(self._spelled(moment))

    def _spelled(self, moment: int) -> str:
        dice = self._dice
        if dice.random() < 0.05:  # a midnight and its neighbours
            moment = moment - moment % 86_400 + dice.randrange(-12, 13)
        if dice.random() < 0.15:
            return dice.choice((str(moment), f"{moment}000", f" {moment} ", f"+{moment}", f"{moment}.5", f"{moment}.0"))
        day, second = divmod(moment, 86_400)
        year, month, date = _date(day)
        separator = dice.choice("TTTTTTTTTT          t_")
        fraction = dice.choice(_FRACTIONS)
        offset = dice.choice(
            ("Z", " UTC", "+02:00", " +0200", "-0730", "", " Z", " GMT", "UTC", "+02", "-00:00", " ", "z")
        )
        hour = second // 3600 if dice.random() < 0.98 else 24
        text = f"{year:04}-{month:02}-{date:02}{separator}{hour:02}:{second // 60 % 60:02}:{second % 60:02}"
        return text + fraction + offset

    # What is done to the fields of a message

    def _another_value(self, fields: list[Field]) -> list[Field]:
        dice = self._dice
        index = dice.randrange(len(fields))
        name = fields[index][0]
        if name in _TIMES:
            value = dice.choice((self._time(), self._time(), str(dice.choice(_EDGES)), dice.choice(_RAW)))
        elif name in _NUMBERS:
            form = dice.choice(_NUMBER_FORMS)
            value = dice.choice((form(dice.choice((1, 16, 300))), form(dice.choice(_EDGES)), dice.choice(_RAW)))
        else:
            value = dice.choice((self._value(name), dice.choice(_RAW), json.dumps("x" * dice.choice((511, 512, 513)))))
        return [*fields[:index], (name, value), *fields[index + 1 :]]

    def _swapped(self, fields: list[Field]) -> list[Field]:
        one, other = (self._dice.randrange(len(fields)) for _ in range(2))
        fields = [*fields]
        fields[one], fields[other] = (fields[one][0], fields[other][1]), (fields[other][0], fields[one][1])
        return fields

    def _shuffled(self, fields: list[Field]) -> list[Field]:
        return self._dice.sample(fields, len(fields))

    def _twice(self, fields: list[Field]) -> list[Field]:
        return [*fields, self._dice.choice(fields)]

    def _without(self, fields: list[Field]) -> list[Field]:
        index = self._dice.randrange(len(fields))
        return [*fields[:index], *fields[index + 1 :]] or fields

    def _with_another_name(self, fields: list[Field]) -> list[Field]:
        """A field's other name beside it, with an equal or another value."""
        names = {
            "extension": "agent",
            "recording_url": "recording_location",
            "dial_number": "clid",
            "end_code": "isdn_code",
            "hold_time": "hold_time_number",
            "ring_time": "ring_time_number",
        }
        known = [(names[name], value) for name, value in fields if name in names]
        if not known:
            return fields
        name, value = self._dice.choice(known)
        forms = (value, value, f'"{value}"' if value.isdigit() else value, self._value(name))
        return [*fields, (name, self._dice.choice(forms))]

    def _with_unknown(self, fields: list[Field]) -> list[Field]:
        dice = self._dice
        index = dice.randrange(len(fields) + 1)
        return [*fields[:index], (dice.choice(_UNKNOWN), dice.choice(_UNKNOWN_VALUES)), *fields[index:]]

    def _escaped(self, fields: list[Field]) -> list[Field]:
        """A character of a text, or of a name, as an escape."""
        dice = self._dice
        index = dice.randrange(len(fields))
        name, value = fields[index]
        if dice.random() < 0.1:
            at = dice.randrange(len(name))
            name = f"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}"
        elif value.startswith('"') and len(value) > 2 and "\\" not in value:
            at = dice.randrange(1, len(value) - 1)
            simple = ["\\/", "\\n", "\\t", "\\\\", '\\"', "\\b", "\\f", "\\r", "\\x", "\\u0001", "\\ud83d\\ude00"]
            simple += ["\\ud83d", "\\ude00", "\\u0000", "\\u00e9", "\\u00E9", "\\u20ac", "\\u12", "\\\\u0000"]
            if ord(value[at]) < 0x10000:
                simple += [f"\\u{ord(value[at]):04x}"] * 10
            value = value[:at] + dice.choice(simple) + value[at + 1 :]
        return [*fields[:index], (name, value), *fields[index + 1 :]]

    # What is done to its bytes

    def _damaged(self, raw: bytes) -> bytes:
        dice = self._dice
        if not raw:
            return raw
        at, other = dice.randrange(len(raw)), dice.randrange(len(raw))
        before, here, behind = raw[:at], raw[at], raw[at + 1 :]
        pieces = (b" ", b"\n", b",", b'"', b"\\", b"0", b"}", b"\xc3", b"\x00", bytes([dice.randrange(256)]))
        return dice.choice(
            (
                before,
                before + behind,
                before + dice.choice(pieces) + raw[at:],
                before + dice.choice(pieces) + behind,
                before + raw[other : other + dice.randrange(20)] + raw[at:],
                before + bytes([here ^ 1 << dice.randrange(8)]) + behind,
            )
        )


_CHANGES = (
    Messages._another_value,
    Messages._another_value,
    Messages._another_value,
    Messages._escaped,
    Messages._shuffled,
    Messages._swapped,
    Messages._twice,
    Messages._without,
    Messages._with_another_name,
    Messages._with_another_name,
    Messages._with_unknown,
)


def _date(day: int) -> tuple[int, int, int]:
    """Of a day since 1970. By itself: what is compared shouldn't make the texts."""
    year = 1970
    while day >= (length := 366 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 365):
        day, year = day - length, year + 1
    months = [31, length - 337, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    for month, days in enumerate(months, 1):
        if day < days:
            return year, month, day + 1
        day -= days
    raise AssertionError("a year has twelve months")
