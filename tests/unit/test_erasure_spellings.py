"""Whatever a row of somebody who is forgotten spells their number with, nobody finds it there afterwards.

The witness knows nothing of how it's erased: it undoes every encoding, and looks for the digits.
"""

import json
import re
import unicodedata
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.wire import spellings
from etl.wire.erasure import Person, everybody, hash_of
from etl.wire.remains import Sought
from tests.spelled import ABROAD, ANOTHER, DIGITS, NUMBER, SPELLED, ZEROS, read

KEY = "k" * 32

WAYS = (
    *(
        lambda digit, way=way: way.format(ord(digit))
        for way in ("%{:02x}", "%{:02X}", "%25{:02x}", "&#{};", "&#x{:x};", "={:02X}", "&#000000000{};")
    ),
    *(lambda digit, zero=zero: chr(ord(zero) + int(digit)) for zero in ZEROS),
    *(lambda digit, zero=zero: quote(chr(ord(zero) + int(digit))) for zero in ZEROS),
)
# Whatever Unicode has for spaces, dashes and marks.
MARKS = [chr(code) for code in range(0x3000) if unicodedata.category(chr(code))[0] in "ZPS" and chr(code) not in "%&="]
between = st.just("") | st.text(st.sampled_from(MARKS), max_size=4) | st.sampled_from((" ", "-", ".", "%20", "%5F"))


@st.composite
def spelled(draw: st.DrawFn) -> str:
    text = ""
    for each in draw(st.sampled_from((NUMBER, ABROAD, "00447009123456", "009123456", "7009123456"))):
        coded = draw(st.sampled_from(WAYS))(each) if each != "+" and draw(st.integers(0, 5)) == 0 else each
        text += coded + (draw(between) if draw(st.integers(0, 4)) == 0 else "")
    before = draw(st.sampled_from(("", "20261123", "ftp://rec/20261123", "tel:", "a", "/0/")))
    return before + text.rstrip(" -.") + draw(st.sampled_from(("", ".wav", "99", "-88", "x")))


@st.composite
def documents(draw: st.DrawFn) -> Any:
    leaves = spelled() | st.sampled_from((7009123456, 2026112307009123456, 0.5, ANOTHER))
    return draw(st.recursive(leaves, lambda e: st.lists(e, max_size=2) | st.dictionaries(spelled(), e, max_size=2)))


TEXTS = ("recording_url", "uuid", "call_ref", "campaign_ref", "dial_number", "extension", "end_reason", "channel")


@given(
    st.fixed_dictionaries({}, optional={name: spelled() for name in TEXTS}),
    st.none() | documents(),
    st.booleans(),
    st.sampled_from((NUMBER, ABROAD)),
)
def test_given_any_spelling_in_a_row_of_theirs_then_none_is_left(
    row: dict[str, str], document: Any, escape: bool, number: str
) -> None:
    def escaped(text: str) -> str:
        return re.sub('"[^"]*"', lambda string: string[0].replace("9", "\\u0039"), text) if escape else text

    extra = escaped(json.dumps({"x": document}, ensure_ascii=not escape))
    raw = escaped(json.dumps({"payload": {**row, "number": number, "note": document}}, ensure_ascii=not escape))
    for each in ({**row, "number": number, "extra": extra}, {"raw": raw.encode(), "detail": ""}):
        person = Person(KEY, number=number)
        erased = {**each, **person.row(each)}
        left = {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in erased.items()}
        assert DIGITS not in re.sub("[^0-9A-Za-z#]", "", read(" # ".join(left.values()))), left
        assert person.row(erased) == {}
        if document is not None:
            assert json.loads(left["extra"] if "extra" in left else left["raw"])


@given(st.dictionaries(st.sampled_from(TEXTS), st.text(st.sampled_from("0123456789 +-.%/a"))), st.booleans())
def test_given_anybody_else_then_no_digit_of_theirs_goes(row: dict[str, str], has_one: bool) -> None:
    row = {name: value for name, value in row.items() if DIGITS not in read(value)}
    assert Person(KEY, number=NUMBER).row({**row, "number": ANOTHER if has_one else None}) == {}


@pytest.mark.parametrize("form", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-16"])
@pytest.mark.parametrize("whole", [True, False])
def test_given_a_message_in_another_encoding_then_none_is_left(form: str, whole: bool) -> None:
    """With a mark of its byte order and without, and also if it's no JSON, or cut off within a character."""
    for each in SPELLED:
        text = json.dumps({"payload": {"number": NUMBER, "note": each, each: [each]}}, ensure_ascii=False)
        raw = text.encode(form) if whole else f"{text[:-2]}x".encode(form)[:-1]
        erased = Person(KEY, number=NUMBER).row({"raw": raw})["raw"]
        assert DIGITS not in read(erased.decode(form, "replace")), each
        assert raw[:6] == erased[:6]
        assert everybody({"raw": raw})["number"] >= {NUMBER}


@pytest.mark.parametrize("extension", [" ext 12", " x12", "x 12", ";ext=12", "#12", " Ext. 12", ", extension 12"])
def test_given_an_extension_then_the_number_goes_without_it_too(extension: str) -> None:
    asked = f"07009 123456{extension}"
    for each in SPELLED:
        erased = Person(KEY, number=asked).row({"number": asked, "recording_url": each, "uuid": f"{each}{extension}"})
        assert DIGITS not in read(" # ".join(erased.values())), each
    assert Sought([asked], [], []).hits([("number", NUMBER)])[0].kind == "itself"


@pytest.mark.parametrize("prefix", ["100200#", "0049 x ", "77ext", "123456#"])
def test_given_a_number_behind_a_prefix_then_it_is_no_extension(prefix: str) -> None:
    asked = f"{prefix}{NUMBER}"
    row = {"number": asked, "recording_url": f"rec/2026-{NUMBER}-0.wav", "call_ref": f"{prefix.strip('#')}777"}
    erased = {**row, **Person(KEY, number=asked).row(row)}
    assert NUMBER not in " ".join(erased.values())
    assert "forgotten" not in erased["call_ref"]
    assert Sought([asked], [], []).hits([("recording_url", row["recording_url"])])


LENGTH = 1_000_000
LONG = {
    each: (each * LENGTH)[:LENGTH]
    for each in (
        *("7", NUMBER, DIGITS, "-", "7-", "7 ", "+", " ", "%", "%25", "%30", "%E0%A5%A6", "%E0%A5", "=", "=3D", "=30"),
        *("\\", "\\u", "\\u0030", "\\ud835\\udfce", "&#48;", "&#0", "&", '"', '\\"', "{", "\uff17", "00912345 "),
        *(f"{NUMBER[:-1]} ", f"+{NUMBER}", "ext ", "7,"),
    )
}


def test_given_thousands_of_numbers_beside_a_contact_then_all_go() -> None:
    """What looks for each of them in each text takes most of an hour."""
    numbers = [f"07{number:08}" for number in range(0, 5_000 * 7_919, 7_919)]
    callees = [{"contact_ref": "M0001", "number": number, "name": "who"} for number in numbers]
    person = Person(KEY, contact="M0001")

    erased = person.row({"payload": json.dumps({"callees": callees}), "raw": json.dumps(callees).encode()})

    for text in (erased["payload"], erased["raw"].decode()):
        assert not any(number in text for number in numbers)
        assert text.count(hash_of(KEY, numbers[-1])) == 1


# Of those that have been slow, one of each cause; the others take minutes of CPU.
SLOW = ("7", "%25", "\\")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("each", [pytest.param(e, marks=() if e in SLOW else pytest.mark.nightly) for e in LONG])
def test_given_a_long_text_of_one_kind_then_its_cost_is_bounded(each: str) -> None:
    """What takes more than time in proportion to its length takes hours for a megabyte."""
    text = LONG[each]
    person, sought = Person(KEY, number=NUMBER), Sought([NUMBER], [], [])
    spellings.spans(NUMBER, text)
    sought.hits([("raw", text)])
    everybody({"raw": text.encode()})
    for row in ({"raw": f"{text} {NUMBER}".encode()}, {"extra": json.dumps({"x": text}), "number": None}):
        erased = {**row, **person.row(row)}
        said = erased["raw"].decode() if "raw" in erased else erased["extra"]
        assert NUMBER not in str(said)
    for number in (f"12{text}y", f"{NUMBER}{text}", f"{text}#{text}"):  # nobody bounds the number itself
        person.row({"number": number, "raw": text[:1_000].encode()})
        everybody({"number": number})
        Sought([number], [], [])
