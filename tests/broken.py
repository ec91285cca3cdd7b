"""Broken messages, by the reason that must be written beside them: for the tests of `etl.wire` and of the loader.

The tenth reason, refused_by_database, is Postgres' to find.
"""

import json

from etl.wire.faults import Reason
from tests.wire import call, having
from tests.world import api_cdr, cdr

GOOD_EVENT = b'{"type":"status","payload":{"status":"started","ref":"2040"}}'


def event_having(value: str, name: str = "x") -> bytes:
    return having(value, name, GOOD_EVENT)


def beside(value: bytes) -> bytes:
    return GOOD_EVENT.replace(b"{", b'{"beside":' + value + b",", 1)


DEEP = {
    "10000 arrays": "[" * 10_000 + "]" * 10_000,
    "10000 objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "500 arrays": "[" * 500 + "]" * 500,  # which a parser still takes
}

BROKEN: dict[Reason, dict[str, bytes]] = {
    Reason.NOT_JSON: {
        "nothing": b"",
        "white space": b" \r\n\t",
        "prose": b"the dialler says hello",
        "cut off": cdr(1)[:-1],
        "cut off in a string": cdr(1)[:40],
        "cut off in an escape": b'{"type":"cdr","payload":{"x":"\\u00',
        "one byte too many": cdr(1) + b"}",
        "two messages": cdr(1) + b"\n" + cdr(2),
        "a NUL byte at the end": cdr(1) + b"\0",
        "a NUL byte in a string": cdr(1).replace(b"M0042", b"M\x000042"),
        "a NUL byte in a skipped string": having('"VALUE"').replace(b"VALUE", b"\0"),
        "a control character in a string": cdr(1).replace(b"M0042", b"M\x1f"),
        "a line break in a skipped string": having('"VALUE"').replace(b"VALUE", b"a\nb"),
        "a comma at the end": having("[1,]"),
        "a number with a leading zero": having("01"),
        "a number without an integer part": event_having(".5"),
        "a plus": having("+1"),
        "not a number": having("NaN"),
        "infinity": event_having("Infinity"),
        "minus infinity as a time": cdr(1, dialed_at="TIME").replace(b'"TIME"', b"-Infinity"),
        "single quotes": b"{'type': 'status', 'payload': {}}",
        "names without quotes": b'{type: "status", payload: {}}',
        "a comment": GOOD_EVENT + b"// hi",
        "an escape of its own": having('"\\x00"'),
        "an escape that is none": having('"\\u00g0"'),
        "a byte order mark": b"\xef\xbb\xbf" + cdr(1),
        "Python": repr(json.loads(cdr(1, extension=None))).encode(),
    },
    Reason.NOT_UTF8: {
        "Latin-1 in a documented field": cdr(1).replace(b"M0042", "Zoë".encode("latin-1")),
        "Latin-1 in a number's field": cdr(1, call_time="VALUE").replace(b"VALUE", b"\xeb"),
        "Latin-1 in a field nobody documented": having('"VALUE"').replace(b"VALUE", b"\xeb"),
        "Latin-1 in a nested value": having('[{"a": ["VALUE"]}]').replace(b"VALUE", b"\xeb"),
        "Latin-1 in a name": having("1", "NAME").replace(b"NAME", b"\xeb"),
        "Latin-1 in a nested name": having('{"NAME": 1}').replace(b"NAME", b"\xeb"),
        "Latin-1 in an event": event_having('"VALUE"').replace(b"VALUE", b"\xeb"),
        "Latin-1 in a lifted field": event_having('"VALUE"', "ref").replace(b"VALUE", b"\xeb"),
        "Latin-1 in the type": GOOD_EVENT.replace(b"status", b"\xeb", 1),
        "Latin-1 beside the payload": beside(b'"\xeb"'),
        "a NUL in two bytes": cdr(1).replace(b"M0042", b"\xc0\x80"),
        "a surrogate in three bytes": having('"VALUE"').replace(b"VALUE", b"\xed\xa0\x80"),
        "a character cut in half": cdr(1).replace(b"M0042", b"\xf0\x9f\x98"),
        "UTF-16": cdr(1).decode().encode("utf-16"),
        "noise": bytes(range(128, 256)),
    },
    Reason.NOT_AN_ENVELOPE: {
        "null": b"null",
        "a boolean": b"true",
        "a number": b"42",
        "a huge number": b"9" * 5_000,
        "a string": b'"cdr"',
        "an array": b"[" + cdr(1) + b"]",
        "an empty object": b"{}",
        "a payload alone": json.dumps(json.loads(cdr(1))["payload"]).encode(),
        "no type": b'{"payload":{"call_ref":1}}',
        "no payload": b'{"type":"cdr"}',
        "a number for a type": b'{"type":5,"payload":{}}',
        "an object for a type": b'{"type":{},"payload":{}}',
        "true for a type": b'{"type":true,"payload":{}}',
        "null for a payload": b'{"type":"cdr","payload":null}',
        "an array for a payload": b'{"type":"status","payload":[]}',
        "a string for a payload": b'{"type":"status","payload":"{}"}',
        "a CDR in a string": json.dumps({"type": "cdr", "payload": "{}"}).encode(),
    },
    Reason.MISSING_FIELD: {
        "no call_ref": b'{"type":"cdr","payload":{"dialed_at":1424379960}}',
        "call_ref null": call(call_ref=None),
        "call_ref empty": call(call_ref=""),
        "no call_ref in dialect B": api_cdr(1).replace(b'"call_ref"', b'"call_reference"'),
        "no dialed_at": b'{"type":"cdr","payload":{"call_ref":1}}',
        "dialed_at null": call(dialed_at=None),
        "dialed_at empty": call(dialed_at=""),
        "dialed_at null in dialect B": api_cdr(1, dialed_at=None),
        "nothing at all": b'{"type":"call_update","payload":{}}',
        "an event without a type": b'{"type":null,"payload":{"status":"started","ref":"2040"}}',
    },
    Reason.NUL_CHARACTER: {
        "in a documented field": cdr(1, contact_ref="a\0b"),
        "in the call's reference": cdr("\0"),
        "in a time": cdr(1, dialed_at="1424379960\0"),
        "in a number's field": cdr(1, call_time="\0"),
        "in a field nobody documented": cdr(1, x="\0"),
        "in a nested value": cdr(1, x=[{"a": ["\0"]}]),
        "in a name": cdr(1, **{"x\0": 1}),
        "in a documented name": cdr(1, **{"call_ref\0": 1}),
        "in a nested name": cdr(1, x=[{"a\0": 1}]),
        "after a backslash": cdr(1, x="\\\0"),
        "after three backslashes": cdr(1, contact_ref="\\\\\\\0"),
        "in an event": event_having('"\\u0000"'),
        "in a lifted field": event_having('"\\u0000"', "ref"),
        "in an event's name": event_having("1", "\0"),
        "in an event's nested name": event_having('{"a": {"\\u0000": 1}}'),
        "in the type": GOOD_EVENT.replace(b"status", b"\\u0000", 1),
        "beside the payload": beside(b'"\\u0000"'),
        "in a name beside the payload": GOOD_EVENT.replace(b"{", b'{"\\u0000":1,', 1),
        "half a pair in a documented field": cdr(1, contact_ref="\ud83d"),
        "half a pair at the end of a name": cdr(1, **{"x\ud83d": 1}),
        "the other half": cdr(1, x="\ude00"),
        "the halves the wrong way round": cdr(1, x="\ude00\ud83d"),
        "half a pair before an escape": cdr(1, x="\ud83d\n"),
        "half a pair before a letter": cdr(1, x="\ud83da"),
        "half a pair and two halves": cdr(1, x="\ud83d\ud83d\ude00"),
        "half a pair in capitals": having('"\\uDBFF"'),
        "half a pair in a nested name": cdr(1, x={"a": {"\udfff": 1}}),
        "half a pair in an event": event_having('"\\udc00"'),
        "half a pair in a lifted field": event_having('"\\udc00"', "ref"),
        "half a pair in an event's name": event_having("1", "\ud83d"),
        "half a pair in the type": GOOD_EVENT.replace(b"status", b"\\ud83d", 1),
        "half a pair beside the payload": beside(b'["\\ud83d"]'),
        "in a field that is there again": having("1", message=cdr(1, x="\0")),
        "half a pair in a field that is there again": having("1", message=cdr(1, x="\ud83d")),
        "half a pair in an event's field that is there again": having("1", message=event_having('"\\ud83d"')),
        "in a CDR that has other faults too": call(call_ref=None, x="\0"),
    },
    Reason.TOO_DEEP: {
        f"{shape} {where}": message
        for shape, deep in DEEP.items()
        for where, message in {
            "alone": deep.encode(),
            "in a documented field": having(deep, "contact_ref", call()),
            "in a number's field": having(deep, "call_time", call()),
            "in a time": having(deep, "ended_at", call()),
            "in a field nobody documented": having(deep),
            "in dialect B": having(deep, message=api_cdr(1)),
            "in an event": event_having(deep),
            "in a lifted field": event_having(deep, "ref"),
            "for a payload": b'{"type":"status","payload":' + deep.encode() + b"}",
            "for a type": b'{"type":' + deep.encode() + b',"payload":{}}',
            "beside a payload": beside(deep.encode()),
            "in a field that is there again": having("1", message=having(deep)),
        }.items()
    },
}

INTEGERS = ["call_time", "hold_time", "ring_time", "end_code", "isdn_code", "hold_time_number", "ring_time_number"]
INTEGERS += ["ring_time_extension", "call_trail_number"]
TEXTS = ["recording_url", "end_reason", "call_dir", "uuid", "recording_location", "disposition"]
REFERENCES = ["call_ref", "contact_ref", "ref", "extension", "agent", "number", "dial_number", "clid"]
REFERENCES += ["call_type", "call_trail_ref"]

# What is no whole number, though it is text or a number: it's set aside where a call can do without it.
NOT_WHOLE_TEXTS = ["NORMAL_CLEARING", "16.5", "16.", ".5", "1e1", "1E1", "1e400", "0x10", "0b1", "1_000", "1,000"]
NOT_WHOLE_TEXTS += ["NaN", "Infinity", "-", "+", "+-1", "--1", ".", " ", "1 6", "16 s", "16\x1f", "true", "null"]
NOT_WHOLE_TEXTS += ["\N{FULLWIDTH DIGIT ONE}6", "\N{ARABIC-INDIC DIGIT THREE}", "\N{SUPERSCRIPT TWO}", "\u20281"]
NOT_WHOLE_TEXTS += ["16\N{NO-BREAK SPACE}", "0" * 5_000 + "x"]
NOT_WHOLE_NUMBERS = ["16.5", "-0.5", "1e-1", "1e-400", "16.00000000000000000001", f"1.{'0' * 5_000}1"]
NOT_WHOLE = [*NOT_WHOLE_NUMBERS, *map(json.dumps, NOT_WHOLE_TEXTS)]
# Beyond Postgres' integer, in whatever form.
TOO_LARGE = f"2147483648 -2147483649 2147483648.0 {2**63} {'9' * 5_000} -{'9' * 30} 1e10 -1E10 1e400".split()
TOO_LARGE += ["99999999999.0", "1e99999999999999999999", f"1{'0' * 5_000}e-4980"]
TOO_LARGE += map(json.dumps, ["2147483648", " -2147483649 ", "+99999999999", "9" * 5_000, "99999999999.0"])

WRONG_ANYWHERE = ["true", "false", "[]", "{}", "1.5", "-0.0", "1e2"]
WRONG = [
    *[(name, value) for name in INTEGERS for value in ("true", "false", "[]", "{}", "[16]")],
    *[("call_trail_number", value) for value in NOT_WHOLE],
    *[(name, value) for name in TEXTS for value in (*WRONG_ANYWHERE, "0", "5")],
    *[(name, value) for name in REFERENCES for value in WRONG_ANYWHERE],
]
BEYOND = [
    *[(name, value) for name in INTEGERS for value in TOO_LARGE],
    *[(name, "9" * 5_000) for name in REFERENCES],
    *[("call_trail_number", value) for value in ("0", "-1", '"0"', '" -1 "', "0.0", "-1e0", '"00"')],
]
BROKEN[Reason.BAD_TYPE] = {f"{name} {value[:30]}": having(value, name) for name, value in WRONG}
BROKEN[Reason.BAD_TYPE]["a documented field twice, once broken"] = having('"07"', "number", having("{}", "number"))
BROKEN[Reason.OUT_OF_RANGE] = {f"{name} {value[:30]}": having(value, name) for name, value in BEYOND}
