"""What tells of somebody is found in whatever spelling, wherever it stands; and nobody else is taken for them."""

import csv
import io
import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.wire.remains import Hit, Sought, end_of_rows, rows_of
from tests.spelled import ABROAD, ANOTHER, NUMBER, SPELLED

HASH = "forgotten:0123456789abcdef"
SOUGHT = Sought([NUMBER], [], [HASH])


def as_csv(*rows: Sequence[str]) -> bytes:
    """Every field quoted, as Postgres and DuckDB write it."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def octal(text: str) -> str:
    """As Postgres shows bytes by `encode(…, 'escape')`."""
    plain = text.replace("\\", "\\\\").encode()
    return "".join(chr(each) if each < 128 else f"\\{each:03o}" for each in plain)


# A spelling in a text, in JSON at some depth, as a key, with escapes, in a message of bytes.
PLACES: dict[str, Callable[[str], str]] = {
    "text": "a text with {} in it".format,
    "json": lambda each: json.dumps({"a": [{"caller": each}]}, ensure_ascii=False),
    "json key": lambda each: json.dumps({each: 1}, ensure_ascii=False),
    "escapes": lambda each: json.dumps({"caller": each}, ensure_ascii=False).replace("9", "\\u0039"),
    "escaped twice": lambda each: json.dumps(json.dumps({"caller": each})),
    "entities": lambda each: each.replace("0", "&#48;").replace("7", "&#x37;"),
    "bytes": octal,
    "message": lambda each: octal(json.dumps({"caller": each}, ensure_ascii=False).replace("9", "\\u0039")),
}


@pytest.mark.parametrize("place", PLACES)
def test_given_any_spelling_in_any_place_then_it_is_found(place: str) -> None:
    for spelling in SPELLED:
        text = PLACES[place](spelling)
        assert SOUGHT.may_be_in(as_csv(["1", text])), spelling
        assert [hit.column for hit in SOUGHT.hits([("key", "1"), ("column", text)])] == ["column"], spelling


@pytest.mark.parametrize(
    "text",
    [
        ANOTHER,
        "ftp://pbx/2015/02/19/88.wav",
        HASH,
        "forgotten:0091234560000000",  # any digits may be in a hash
        "0700 and 912 and 3456",
        json.dumps({"a": 700, "b": 9123456}),
        '{"number": "\\ud800"}',
        "\udcff",
        "",
    ],
)
def test_given_nothing_of_them_then_nothing_is_found(text: str) -> None:
    assert SOUGHT.hits([("number", text)]) == []


def test_given_the_last_nine_digits_then_another_spelling_is_proposed() -> None:
    row = [
        ("number", ABROAD),
        ("recording_url", f"a{ABROAD[1:]}99"),
        ("x", json.dumps({"caller": "0044 700-912 3456"})),
    ]
    assert SOUGHT.hits(row) == [
        Hit("number", "alike", (ABROAD,)),
        Hit("recording_url", "alike"),  # between other digits there is no telling where it begins
        Hit("x", "alike", ("0044 700-912 3456",)),
    ]
    # in a row that is theirs every spelling has to be gone, and none is to be asked for
    assert [hit.kind for hit in SOUGHT.hits([*row, ("contact_ref", HASH)])] == ["itself"] * 3
    assert [hit.spellings for hit in SOUGHT.hits([*row, ("ref", NUMBER)])] == [()] * 4


def test_given_a_longer_number_with_theirs_at_its_end_then_it_is_alike() -> None:
    assert Sought(["7009123456"], [], []).hits([("number", NUMBER)]) == [Hit("number", "alike", (NUMBER,))]


def test_given_the_value_itself_spelled_otherwise_then_it_is_proposed() -> None:
    """As a number it's another one for who erases: without its spelling nothing makes the row theirs."""
    assert SOUGHT.hits([("number", "0700 912 3456")]) == [Hit("number", "itself", ("0700 912 3456",))]


@pytest.mark.parametrize(("number", "found"), [("1234567", 3), ("12345", 1), ("anonymous", 1)])
def test_given_a_short_number_then_only_the_whole_of_it_counts(number: str, found: int) -> None:
    other = json.dumps({"a": {"other": number}})
    row = [("number", number), ("y", f"a {number} b"), ("z", other), ("x", f"x{number}0")]
    assert [hit.column for hit in Sought([number], [], []).hits(row)] == ["number", "y", "z"][:found]
    assert Sought([number], [], []).may_be_in(as_csv([text for _, text in row]))


def test_given_a_contact_then_fields_of_contacts_tell_and_their_rows() -> None:
    sought = Sought([], ["M0042"], [HASH])
    assert [hit.column for hit in sought.hits([("contact_ref", "M0042"), ("extension", "M0042")])] == ["contact_ref"]
    assert [hit.column for hit in sought.hits([("raw", json.dumps({"x": [{"contact_ref": "M0042"}]}))])] == ["raw"]
    assert [hit.column for hit in sought.hits([("raw", "broken contact_ref => M0042,")])] == ["raw"]
    assert sought.hits([("extension", "M0042"), ("contact_ref", "M00421")]) == []
    assert [hit.column for hit in sought.hits([("number", HASH), ("note", "of M0042.")])] == ["note"]
    assert sought.may_be_in(as_csv(["x", "M0042"]))
    alike = Sought([], [NUMBER], [])
    assert alike.hits([("contact_ref", ABROAD), ("number", ABROAD)]) == [Hit("contact_ref", "alike", (ABROAD,))]


TEXTS = st.one_of(
    st.sampled_from(SPELLED),
    st.sampled_from(SPELLED).map(lambda each: json.dumps({"a": each})),
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\r")),
    st.text(alphabet='"\n,\\%0719'),
)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), st.integers(0, 400))
def test_csv_is_cut_between_rows_and_no_piece_with_a_hit_is_passed_over(rows: list[tuple[str, str]], at: int) -> None:
    whole = as_csv(*rows)
    assert [tuple(row) for row in rows_of(whole)] == rows
    end = end_of_rows(whole[:at])
    first, second = whole[:end], whole[end:]
    assert [tuple(row) for piece in (first, second) for row in rows_of(piece)] == rows
    hit = [row for row in rows_of(first) if SOUGHT.hits([*enumerated(row)])]
    assert not hit or SOUGHT.may_be_in(first)


def enumerated(row: Sequence[str]) -> Sequence[tuple[str, str]]:
    return [(str(number), text) for number, text in enumerate(row)]
