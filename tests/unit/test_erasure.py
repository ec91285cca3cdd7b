"""Who is meant by a number or a contact reference, and what stays as it was."""

import json
import re
from typing import Any
from urllib.parse import unquote

import pytest

from etl.wire.erasure import HASH_PREFIX, Person

KEY = "k" * 32
NUMBER, CONTACT = "0741484437", "M0042"


def by_number(number: str = NUMBER) -> Person:
    return Person(KEY, number=number)


def by_contact(contact: str = CONTACT) -> Person:
    return Person(KEY, contact=contact)


def hashed(value: str) -> str:
    return Person(KEY, number=value).hash


def test_given_the_same_person_then_the_hash_is_the_same_and_needs_the_key() -> None:
    assert by_number().hash == by_number().hash == by_contact(NUMBER).hash
    assert by_number().hash != Person("x" * 32, number=NUMBER).hash
    assert by_number().hash.startswith(HASH_PREFIX)
    assert NUMBER not in by_number().hash


def test_given_a_row_then_the_person_goes_and_its_identity_stays() -> None:
    row = {"number": NUMBER, "contact_ref": CONTACT, "call_ref": "0741", "campaign_ref": "2040", "leg": 1, "uuid": None}
    both = {"number": hashed(NUMBER), "contact_ref": hashed(CONTACT)}
    assert by_number().row(row) == by_contact().row(row) == both
    # and nobody else
    assert by_number().row({**row, "number": "0741484438", "call_ref": "1"}) == {}
    assert by_contact().row({**row, "contact_ref": "M00421", "call_ref": "1"}) == {}
    # once forgotten, there is nothing to do
    assert by_number().row({**row, **both, "call_ref": "1"}) == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"campaign_ref": NUMBER, "contact_ref": CONTACT}, {"campaign_ref": "#", "contact_ref": hashed(CONTACT)}),
        ({"recording_url": f"ftp://pbx/{NUMBER}-88.wav"}, {"recording_url": "ftp://pbx/#-88.wav"}),
        ({"recording_url": f"ftp://pbx/1{NUMBER}.wav", "number": "741"}, {}),
        ({"channel": f"enigma:notifications:campaigns:{NUMBER}"}, {"channel": "enigma:notifications:campaigns:#"}),
        ({"uuid": f"1234567a-9a6f-4e2e-8f51-5a{NUMBER}", "number": "741"}, {}),  # a UUID is nobody
    ],
)
def test_given_a_column_with_the_number_in_it_then_the_number_is_replaced(
    before: dict[str, Any], after: dict[str, str]
) -> None:
    assert by_number().row(before) == {name: value.replace("#", hashed(NUMBER)) for name, value in after.items()}


def test_given_json_then_every_other_token_stays_to_the_last_digit() -> None:
    callees = (
        f'{{"callees": [{{"number": "{NUMBER}", "contact_ref": "{CONTACT}"}}, {{"contact_ref": "M1", "number": 741}}],'
        ' "rate": 0.10000000000000000000001, "call_ref": 741484438, "é\\n": 1e400, "big": 741484, "x": "M00421"}'
    )
    erased = by_number().row({"payload": callees})["payload"]
    assert erased == callees.replace(NUMBER, hashed(NUMBER)).replace(f'"{CONTACT}"', f'"{hashed(CONTACT)}"')
    assert by_contact().row({"payload": callees})["payload"] == erased


def test_given_an_integer_in_json_then_it_becomes_a_string() -> None:
    payload = (
        '{"number": 741484437, "of": {"a": [741484437, 41484437, 20261123741484437.5]}, "dialed_at": 741484437,'
        ' "call_ref": 88741484437}'
    )
    erased = json.loads(by_number("741484437").row({"payload": payload})["payload"])
    gone = hashed("741484437")
    assert erased == {
        "number": gone,
        "of": {"a": [gone, 41484437, f"20261123{gone}.5"]},
        "dialed_at": 741484437,
        "call_ref": hashed("88741484437"),  # whole, so that calls stay apart
    }


def test_given_a_row_of_theirs_then_every_spelling_goes() -> None:
    """Those that were found on 0.1."""
    number = "07009123456"
    urls = (
        "ftp://rec/2026112307009123456.wav",
        "x?to=%2B447009123456",
        "x/0700%39123456",
        "07009 123-456",
        "%2537009123456",
    )
    for url in urls:
        row = {
            "number": number,
            "recording_url": url,
            "call_ref": f"{number}-1",
            "uuid": f"9{number}",
            "extra": json.dumps({"x": url}),
        }
        erased = by_number(number).row(row)
        assert erased.keys() == row.keys(), url
        assert not any(
            "009123456" in re.sub("[^0-9]", "", unquote(unquote(v.replace(erased["number"], ""))))
            for v in erased.values()
        )
        assert erased["call_ref"] == hashed(f"{number}-1")
        # and once more there is nothing to do; but what 0.1 had left of it, goes
        assert by_number(number).row({**row, **erased}) == {}
        assert by_number(number).row({**row, "number": erased["number"]}).keys() == row.keys() - {"number"}


def test_given_other_spellings_too_then_each_is_somebody_of_the_same_row() -> None:
    person = Person(KEY, number="0741484437", also=["+40741484437"])
    assert person.row({"number": "+40741484437", "uuid": "0741484437"}) == {
        "number": hashed("+40741484437"),
        "uuid": hashed("0741484437"),
    }
    assert person.hashes == (hashed("0741484437"), hashed("+40741484437"))


def test_given_a_short_number_then_only_what_is_called_a_number_is_one() -> None:
    row = {"number": "1002", "extension": "1002", "extra": '{"number": 1002, "x": 1002}'}
    assert by_number("1002").row(row) == {
        "number": hashed("1002"),
        "extra": f'{{"number": "{hashed("1002")}", "x": 1002}}',
    }


@pytest.mark.parametrize(
    "raw",
    [
        f'{{"type": "cdr", "payload": {{"number": "{NUMBER}", "contact_ref": "{CONTACT}"}}}}'.encode(),
        b'{"payload": {"number": "\\u0030741484437", "contact_ref": "M\\u0030042", "x": "\\ud800 \\u00e9"}}',
        f'{{"type": "cdr", "payload": {{"contact_ref": "{CONTACT}", "x": "\xff\x00'.encode("latin-1"),  # breaks off
        f'{{"type": "cdr", "payload": {{"x": 1, "number": "{NUMBER}'.encode(),
        f"number={NUMBER}&contact_ref={CONTACT}\xfc".encode("latin-1"),
        b"\xff\xfe tel:" + NUMBER.encode() + b"\x00",
        b'{"x": "\\u0", "y": "\\uzzzz", "number": "' + NUMBER.encode(),  # broken escapes
    ],
)
@pytest.mark.parametrize("person", [by_number(), by_contact()])
def test_given_any_message_then_only_the_persons_bytes_are_gone(raw: bytes, person: Person) -> None:
    def seen(message: bytes) -> bytes:
        return message.replace(b"\\u0030", b"0")

    erased = person.row({"raw": raw}).get("raw", raw)
    asked = person.value.encode()
    assert asked not in seen(erased)
    assert (erased != raw) == (asked in seen(raw))
    back = erased
    for value in (NUMBER, CONTACT):
        back = back.replace(hashed(value).encode(), value.encode())
    assert back == (seen(raw) if erased != raw else raw)
