"""A whole number in any of the forms that diallers give it is one number, and what is none is kept without losing the
call."""

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.wire import numbers
from etl.wire.cdr import NUMBERS
from etl.wire.faults import Reason
from tests import wire
from tests.broken import INTEGERS, NOT_WHOLE, TOO_LARGE
from tests.wire import (
    LEGS,
    WHOLE,
    Json,
    a_cdr,
    call,
    decoding,
    exactly,
    extra,
    having,
    reason,
    records,
    spellings,
    write,
)
from tests.world import CAMPAIGNS, DIALED_AT, api_cdr, cdr

FIXTURE = Path(__file__).parents[1] / "fixtures/dialler.jsonl"
# The column of each, beside those that are called the same; `ring_time_extension` has none.
OTHER_NAMES = {"isdn_code": "end_code", "hold_time_number": "hold_time", "ring_time_number": "ring_time"}
NAMES = [name for name in NUMBERS if name not in OTHER_NAMES and name != "ring_time_extension"]


def test_the_fields_that_are_tested_are_those_of_the_decoder() -> None:
    assert {*NUMBERS, "call_trail_number"} == {*INTEGERS}
    assert {*NAMES, *OTHER_NAMES, "ring_time_extension"} == {*NUMBERS}


# What the program writes


def test_of_what_the_dialler_wrote_every_cdr_is_one() -> None:
    lines = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
    cdrs = 0
    for line in lines:
        sent = line["raw"].encode()
        out = decoding(sent, key=line.get("list") or line["channel"], latest=datetime(2027, 1, 1, tzinfo=UTC))
        is_cdr = json.loads(sent)["type"] in ("cdr", "call_update", None)
        assert (len(out.cdrs), len(out.events), out.dead) == (is_cdr, not is_cdr, [])
        assert out.set_aside == {}
        assert all(record.extra is None for record in out.cdrs)
        cdrs += is_cdr
    assert (cdrs, len(lines)) == (30, 43)


# One number


@given(
    st.fixed_dictionaries(
        {"call_trail_number": LEGS, "dialed_at": st.integers(DIALED_AT, DIALED_AT + 10**8)},
        optional=dict.fromkeys(NUMBERS, st.none() | WHOLE),
    ),
    st.sampled_from(["cdr", "call_update"]),
    st.data(),
)
def test_a_call_is_the_same_row_however_its_numbers_are_spelled(
    values: dict[str, int | None], dialect: str, data: st.DataObject
) -> None:
    plain, one, other = (
        {name: value if as_it_is else data.draw(spellings(value)) for name, value in values.items()}
        for as_it_is in (True, False, False)
    )
    rows = [a_cdr(call(**fields).replace(b'"cdr"', json.dumps(dialect).encode(), 1)) for fields in (plain, one, other)]
    assert rows[1] == rows[2] == rows[0]


@pytest.mark.parametrize("name", NAMES)
@given(value=WHOLE, data=st.data())
def test_a_number_in_any_form_fills_its_column(name: str, value: int, data: st.DataObject) -> None:
    record = a_cdr(call(**{name: data.draw(spellings(value))}))
    assert (getattr(record, name), record.extra) == (value, None)


@pytest.mark.parametrize(("other", "name"), OTHER_NAMES.items())
@given(value=WHOLE, more=st.integers(0, 1), data=st.data())
def test_two_names_in_two_forms_contradict_each_other_only_by_value(
    other: str, name: str, value: int, more: int, data: st.DataObject
) -> None:
    second = max(value - more, numbers.LEAST)
    record = a_cdr(call(**{name: data.draw(spellings(value)), other: data.draw(spellings(second))}))
    assert (getattr(record, name), extra(record)) == (value, {} if second == value else {other: second})
    assert getattr(a_cdr(call(**{name: "", other: data.draw(spellings(value))})), name) == value


@given(WHOLE, st.data())
def test_a_number_without_a_column_is_kept_as_a_number(value: int, data: st.DataObject) -> None:
    kept = extra(a_cdr(call(ring_time_extension=data.draw(spellings(value)))))
    assert kept == {"ring_time_extension": value}


@given(wire.NUMBERS)
@example(Decimal("1e1"))
@example(Decimal("1e-1"))
@example(Decimal("0e999"))
@example(Decimal("10e-1"))
@example(Decimal("21474836.47e2"))
@example(Decimal("2147483648"))
def test_a_json_number_is_what_arithmetic_says(number: Decimal) -> None:
    exact = Fraction(number)
    for literal in (str(number), f"{number:f}", f"{number:e}"):
        if exact.denominator != 1:
            with pytest.raises(ValueError, match="fraction"):
                numbers.from_json(literal)
        elif not numbers.LEAST <= exact <= numbers.MOST:
            with pytest.raises(OverflowError, match="integer"):
                numbers.from_json(literal)
        else:
            assert numbers.from_json(literal) == exact


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("0e99999999999999999999", 0),
        (f"1{'0' * 5_000}e-5000", 1),
        (f"0.{'0' * 5_000}1e5002", 10),
        (f"16.{'0' * 5_000}", 16),
    ],
)
def test_the_length_of_a_number_says_nothing_about_its_size(literal: str, value: int) -> None:
    assert numbers.from_json(literal) == value
    assert a_cdr(having(literal, "call_time")).call_time == value


def test_text_of_many_zeros_is_a_small_number() -> None:
    assert a_cdr(cdr(1, end_code=f" +{'0' * 5_000}16.{'0' * 5_000} ")) == a_cdr(cdr(1))


# None


@pytest.mark.parametrize("value", NOT_WHOLE, ids=lambda value: value[:30])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_whole_number_is_kept_and_counted(name: str, value: str) -> None:
    out = decoding(having(value, name))

    (record,), told = out.cdrs, OTHER_NAMES.get(name, name)
    assert out.dead == []
    # jsonb writes an exponent's digits out, and may have no room for them: such a number is kept as text.
    has_exponent = value[0] in "-0123456789" and "e" in value.lower()
    assert extra(record) == {name: value if has_exponent else exactly(value)}
    if told in NAMES:
        left = a_cdr(cdr(1, **{name: None}))
        assert record._replace(extra=None) == left
    assert out.set_aside == {name: 1}


@pytest.mark.parametrize(("other", "name"), OTHER_NAMES.items())
def test_what_is_set_aside_leaves_the_column_to_its_other_name(other: str, name: str) -> None:
    for number, text in ((name, other), (other, name)):
        record = a_cdr(call(**{number: "5", text: "many"}))
        assert (getattr(record, name), extra(record)) == (5, {text: "many"})
    out = decoding(call(**{name: "few", other: "many"}))
    assert (getattr(out.cdrs[0], name), extra(out.cdrs[0])) == (None, {name: "few", other: "many"})
    assert out.set_aside == {name: 1, other: 1}


@pytest.mark.parametrize("value", TOO_LARGE, ids=lambda value: value[:30])
@pytest.mark.parametrize("name", INTEGERS)
def test_a_number_beyond_its_column_is_out_of_range_in_any_form(name: str, value: str) -> None:
    out = decoding(having(value, name))
    assert [(letter.reason, letter.detail.partition(": ")[0]) for letter in out.dead] == [(Reason.OUT_OF_RANGE, name)]


@given(st.text(st.sampled_from("0123456789+-.eE_x \t\n\x1f\u00a0\uff11\u0663"), max_size=14), st.sampled_from(NAMES))
def test_no_text_is_another_number_than_the_one_it_spells(text: str, name: str) -> None:
    out = decoding(call(**{name: text}))
    if out.dead:
        assert [letter.reason for letter in out.dead] == [Reason.OUT_OF_RANGE]
        assert abs(Fraction(text.strip())) >= 2**31
    elif (value := getattr(out.cdrs[0], name)) is not None:
        assert Fraction(text.strip()) == value
        assert out.cdrs[0].extra is None
    else:
        assert extra(out.cdrs[0]) == ({name: text} if text else {})


# The count


def test_only_what_became_a_cdr_is_counted_and_once() -> None:
    aside = {"end_code": "NORMAL_CLEARING", "hold_time": Decimal("1.5")}
    broken: list[Json] = [
        call(**aside, call_ref=None),
        call(**aside, dialed_at="yesterday"),
        call(**aside, call_trail_number="x"),
        call(**aside, call_time=10**10),
        call(**aside, x="\0"),
        write({"type": "status", "payload": aside}),
        b"junk",
    ]
    claim = records(*broken, call(**aside), api_cdr(2), cdr(3, end_code="x", more=[1]), cdr(4, end_code="16"))
    assert claim.finish().set_aside == Counter(end_code=2, hold_time=1)
    assert [record.call_ref for record in claim.stream()] == ["1", "2", "3", "4"]
    out = claim.finish()
    assert out.set_aside == Counter(end_code=2, hold_time=1)
    out.refused_at = {out.cdrs_at[0]}
    assert out.set_aside == Counter(end_code=1)


@pytest.mark.parametrize("key", [CAMPAIGNS, "enigma:pbx:cdrs"])
def test_a_leg_or_a_time_that_is_no_number_is_no_call(key: str) -> None:
    for value in (*NOT_WHOLE, "true", "[1]", "{}"):
        assert reason(having(value, "call_trail_number"), key) == Reason.BAD_TYPE
        text = json.loads(value) if value.startswith('"') else ""
        if not (value[0].isdigit() or value[0] == "-" or text == "16.5"):  # as a time it may have a fraction
            assert reason(having(value, "dialed_at"), key) == Reason.BAD_TYPE
