"""A file of names is read as a whole, or each line that is wrong is told by its number."""

import csv
import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import ConfigurationError
from etl.reporting.names import COLUMNS, KINDS, LONGEST, Name, one_spelling, read

HEAD = ",".join(COLUMNS)
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=LONGEST["name"])
FIELD = TEXT.map(str.strip).filter(bool)
SPELLED = TEXT.map(one_spelling).filter(lambda text: 0 < len(text) <= LONGEST["name"])
NAMES = st.lists(
    st.builds(Name, st.sampled_from(KINDS), FIELD, SPELLED, st.none() | SPELLED),
    unique_by=lambda each: (each.kind, each.reference),
)


def written(names: list[Name]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *((each.kind, each.reference, each.name, each.group or "") for each in names)])
    return text.getvalue()


@given(NAMES, st.sampled_from(["", "\ufeff"]), st.sampled_from(["\r\n", "\n"]))
def test_what_is_written_as_csv_is_read_as_it_was(names: list[Name], begin: str, end: str) -> None:
    assert read((begin + written(names).replace("\r\n", end)).encode()) == names


# Of Unicode's separators all but the two that break a line.
SPACES = st.text([chr(n) for n in range(0x10000) if unicodedata.category(chr(n)) == "Zs"], min_size=1, max_size=3)
COMPOSED = st.booleans()


@given(st.lists(st.text("aZ\u00e9\u1e69\ud55c\u05e9\u0301", min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_however_a_name_is_spelled_it_is_one_name(words: list[str], data: st.DataObject) -> None:
    def spelled() -> str:
        composed = data.draw(COMPOSED)
        said = data.draw(SPACES).join(unicodedata.normalize("NFC" if composed else "NFD", word) for word in words)
        return f"{data.draw(SPACES)}{said}{data.draw(SPACES)}"

    one, other = ([*read(f"{HEAD}\nagent,1,{spelled()},{spelled()}\n".encode())] for _ in range(2))
    assert one == other
    (name,) = one
    assert name.name == name.group == unicodedata.normalize("NFC", " ".join(words))


@given(st.binary() | st.text().map(lambda text: f"{HEAD}\n{text}".encode("utf-8", "surrogatepass")))
def test_given_whatever_bytes_then_these_are_names_or_an_error_says_why(content: bytes) -> None:
    told = None
    try:
        names = read(content)
    except ConfigurationError as error:
        told = error
    if told is None:
        assert all(name.kind in KINDS and name.reference and name.name for name in names)
        return
    assert told.code in ("ETL-941", "ETL-942", "ETL-944")
    assert re.search(r"line \d+", told.text)
    assert told.text.replace("\n", "").isprintable()
    assert len(told.text) < 300 * (content.count(b"\n") + content.count(b"\r") + 2)


# A line, and what is said of it.
WRONG = {
    "agnet,1,A,": "kind is agnet, and not one of agent, campaign, number",
    ",1,A,": "kind is empty",
    "agent,,A,": "reference is empty",
    "agent,1, ,": "name is empty",
    "agent,1,A": "3 fields instead of 4",
    "agent,1,A,,": "5 fields instead of 4",
    "agent,1,A\0B,": "name has a line break or another control character in it: A\\x00B",
    'agent,1,"A\nB",': "name has a line break or another control character in it: A\\nB",
    "agent,1,A,\x1b[2J": "group has a line break or another control character",
    "agent,1,A,\x85": "",  # a space, as far as Unicode goes
    f"agent,{'1' * 513},A,": "reference has 513 characters, and may have 512",
    f"agent,1,{'A' * 10_000_000},": "name has 10,000,000 characters, and may have 200",
    'agent,1,"A"B,': "this is what is no CSV",
    "agent,7,A,": "agent 7 is on line 2, too",
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: repr(line[:20]))
def test_given_a_line_that_is_wrong_then_its_number_and_what_is_told(line: str) -> None:
    content = f'{HEAD}\nagent,7,B,\n\n"agent",8,"C ",\n{line}\n{line.replace("7", "8")}\n'.encode()
    if not WRONG[line]:
        assert len(read(f"{HEAD}\n{line}".encode())) == 1
        return
    with pytest.raises(ConfigurationError) as raised:
        read(content)
    told = str(raised.value).splitlines()
    assert told[0] == "ETL-942: nothing was imported, since there are lines to mend"
    assert told[1].startswith("line 5: ")
    assert WRONG[line] in told[1]
    assert len(told) == 3
    assert all(len(each) < 200 for each in told)


def test_given_a_quote_without_an_end_then_its_line_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"line 3: this is what is no CSV"):
        read(f'{HEAD}\nagent,7,B,\nagent,8,"C,\nagent,9,D,\n'.encode())


@pytest.mark.parametrize(
    "head", ["", "kind;reference;name;group", "reference,kind,name,group", '"', "kind,reference,name"]
)
def test_given_another_first_line_then_it_is_told_what_it_must_be(head: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ETL-944: line 1 must be kind,reference,name,group"):
        read(f"{head}\nagent,1,A,\n".encode() if head else b"")


def test_given_latin_1_then_the_line_that_is_not_utf_8_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"ETL-941: line 2 isn't in UTF-8"):
        read(f"{HEAD}\nagent,1,Jos\u00e9,\n".encode("latin-1"))
