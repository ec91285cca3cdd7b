"""What a message may not be though each of its fields is well-formed: so long a reference that no index takes it, or
numbers that take few bytes and fill a disk when they are written out."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.wire import numbers
from etl.wire.decode import WRITTEN_OUT
from etl.wire.event import Event
from etl.wire.faults import Reason
from etl.wire.references import MOST_BYTES
from tests.broken import GOOD_EVENT, event_having
from tests.wire import ANY_JSON, Json, a_cdr, an_event, decoded, having, reason, write
from tests.world import api_cdr, cdr

# -- references

AGENTS = "enigma:notifications:agents"
# Each reference's field, in a message that has it, and the list it comes on.
FIELDS = [
    *((cdr, name, "enigma:notifications:campaigns") for name in ("call_ref", "contact_ref", "ref", "extension")),
    *((api_cdr, name, "enigma:notifications:cdrs") for name in ("call_ref", "agent", "uuid", "ref")),
]
OF_EVENTS = ("ref", "campaign_ref", "extension", "agent", "call_ref")


def with_reference(make: Any, name: str, value: object, **more: object) -> bytes:
    message: bytes = make(value, **more) if name == "call_ref" else make(1, **{name: value}, **more)
    return message


# Of so many bytes in UTF-8; JSON may spell them with more.
SPELLINGS: dict[str, Callable[[int], Json]] = {
    "ascii": lambda size: "x" * size,
    "two bytes": lambda size: "é" * (size // 2) + "x" * (size % 2),
    "four bytes": lambda size: "\N{GRINNING FACE}" * (size // 4) + "x" * (size % 4),
    "escaped": lambda size: "\t" * size,
    "an integer": lambda size: Decimal("7" * size),
}


@pytest.mark.parametrize("undocumented", [{}, {"x": 1}], ids=["strict", "open"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("make", "name", "key"), FIELDS)
def test_a_reference_of_512_bytes_is_taken_and_none_longer(
    make: Any, name: str, key: str, spelling: str, undocumented: dict[str, int]
) -> None:
    for ascii_only in (True, False):
        fits, too_long = (
            write(json.loads(with_reference(make, name, "VALUE", **undocumented)), ascii_only).replace(
                b'"VALUE"', write(SPELLINGS[spelling](size), ascii_only)
            )
            for size in (MOST_BYTES, MOST_BYTES + 1)
        )
        if (name, spelling) != ("uuid", "an integer"):
            assert str(SPELLINGS[spelling](MOST_BYTES)) in map(str, a_cdr(fits))
            assert reason(too_long, key) == Reason.TOO_LARGE


@pytest.mark.parametrize("name", OF_EVENTS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_reference_of_an_event_is_bounded_too(name: str, spelling: str) -> None:
    fits, too_long = (
        write({"type": "status", "payload": {name: SPELLINGS[spelling](size)}}, ascii_only=False)
        for size in (MOST_BYTES, MOST_BYTES + 1)
    )
    assert str(SPELLINGS[spelling](MOST_BYTES)) in map(str, an_event(fits, AGENTS))
    assert reason(too_long, AGENTS) == Reason.TOO_LARGE


def test_a_reference_in_a_channels_name_is_bounded_too() -> None:
    assert an_event(GOOD_EVENT, f"{AGENTS}:{'é' * 256}").reference == "é" * 256
    assert reason(GOOD_EVENT, f"{AGENTS}:{'é' * 256}x") == Reason.TOO_LARGE


@pytest.mark.parametrize("name", ["number", "dial_number", "recording_url", "end_reason", "call_dir", "x"])
def test_other_texts_may_be_as_long_as_a_message(name: str) -> None:
    assert a_cdr(cdr(1, **{name: "x" * 50_000}))


# -- numbers

NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?[eE][+-]?[0-9]{1,4}", fullmatch=True)
TEXTS = st.text(st.sampled_from('12eE+-.0"\\ é'), max_size=12).map(json.dumps)


@given(st.lists(NUMBERS | TEXTS | st.integers().map(str) | st.just("0.5"), max_size=20))
def test_as_many_characters_are_counted_as_numeric_needs_or_a_few_more(items: list[str]) -> None:
    document = f"[{', '.join(items)}]".encode()
    exponents = [item for item in items if item[0] != '"' and "e" in item.lower()]
    # As numeric's text form is: all digits, and as many decimals as the number came with.
    needed = [len(f"{Decimal(item):.{max(0, -Decimal(item).as_tuple().exponent)}f}") for item in exponents]  # type: ignore[operator]
    counted = numbers.written_out(document)
    assert sum(needed) <= counted
    if all(Decimal(item) for item in exponents):
        assert counted <= sum(needed) + 2 * len(needed)
    glance = document.translate(numbers.ALIKE, numbers.SIGNS).find(numbers.EXPONENT) >= 0
    assert glance or not exponents


MANY = {
    "one by itself": ["1e131071"],
    "the sum": ["1e999"] * 30,
    "small ones": ["1e99"] * 1_000,
    "decimals": ["1e-16383", "1e-999", "1.5E-0999"],
    "a sign": ["-1e+20000"],
    "zeros": ["1e00000020000"],
    "no end": ["1e" + "9" * 5_000],
    "a capital": ["2E20000"],
    "nested": ['{"a": [{"b": 7e20000}]}'],
    "beside a text that looks like the end of one": ['"\\\\"', "1e20000", '"\\""'],
}


@pytest.mark.parametrize("numbers_", MANY.values(), ids=MANY)
def test_numbers_that_fill_a_disk_when_written_out_are_out_of_range(numbers_: list[str]) -> None:
    value = f"[{', '.join(numbers_)}]"
    assert reason(having(value)) == Reason.OUT_OF_RANGE
    assert reason(event_having(value)) == Reason.OUT_OF_RANGE
    assert reason(b'{"n": %b, "type": "status", "payload": {}}' % value.encode()) == Reason.OUT_OF_RANGE


FEW = ["1e16383", "1e-16383", "[1.5e-7, 6.02e23, 5e-324, 1.8e308]", '"1e131071"', '["a\\"", "1e131071"]', "9" * 20_000]


@pytest.mark.parametrize("value", FEW)
def test_numbers_as_programs_write_them_are_stored_as_they_were_sent(value: str) -> None:
    record = a_cdr(having(value))
    assert record.extra is not None
    assert value.encode() in record.extra
    assert value.encode() in an_event(event_having(value)).payload


@pytest.mark.parametrize("value", ["0e99999", "16e00000", "160000000e-7"])
def test_a_number_of_a_column_is_no_matter_of_its_digits(value: str) -> None:
    assert a_cdr(cdr(1, hold_time="N").replace(b'"N"', value.encode())).hold_time in (0, 16)


@given(st.dictionaries(st.text(max_size=3), ANY_JSON | st.lists(NUMBERS.map(Decimal), max_size=60), max_size=4))
def test_whatever_is_taken_is_of_bounded_length_when_written_out(payload: dict[str, Json]) -> None:
    record = decoded(write({"type": "x", "payload": payload}))
    if isinstance(record, Event):
        assert numbers.written_out(record.payload) <= WRITTEN_OUT + 2 * len(record.payload)
    else:
        assert isinstance(record.reason, Reason)  # type: ignore[union-attr]
