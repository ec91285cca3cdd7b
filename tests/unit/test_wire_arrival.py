"""Whoever `etl forget` finds in a row is found on arrival as well, though nothing but a hash is known of them."""

import json
import re
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB

from etl.store import forget
from etl.store.tables import audit_events, cdrs
from etl.wire import arrival
from etl.wire.arrival import Forgotten
from etl.wire.cdr import Cdr
from etl.wire.decode import Decoding, SpoolDecoding
from etl.wire.erasure import Person, everybody
from etl.wire.spool import pack_heard

KEY = "k" * 32
NOW = 800_000_000_000_000  # microseconds since 2000
NUMBER, OTHER, CONTACT = "0799123456", "0741484437", "M0042"
PLACES = ("{}", "+{}", "{} ", "ftp://pbx/{}-88.wav", "1{}", "a{}b", "tel:{};x", "+40 {}", "{}{}", "x", "")

texts = st.builds(
    lambda place, value: place.format(value, value),
    st.sampled_from(PLACES),
    st.sampled_from((NUMBER, OTHER, CONTACT, "7")),
)
scalars = texts | st.none() | st.sampled_from((799123456, 7.99123456e8, 1e22, 0.1, True))
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("number", "contact_ref", "x")) | texts, inner, max_size=3)
    ),
    max_leaves=6,
)
payloads = st.fixed_dictionaries(
    {"call_ref": st.sampled_from((1, NUMBER)), "dialed_at": st.just(1_424_379_960)},
    optional={
        **{name: texts | st.none() for name in ("number", "contact_ref", "ref", "dial_number", "extension", "uuid")},
        "recording_url": texts,
        "note": documents,
    },
)
people = st.sampled_from(
    ({"number": NUMBER}, {"number": f"+{NUMBER}"}, {"number": f"+40 {NUMBER}"}, {"number": "799123456"})
) | st.just({"contact": CONTACT})


def decoded(payload: dict[str, Any], type_: str, escaped: bool) -> Decoding:
    raw = json.dumps({"type": type_, "payload": payload})
    if escaped:
        raw = re.sub('"[^"]*"', lambda string: string[0].replace("9", "\\u0039"), raw)
    return Decoding(
        [raw.encode()], source="s", key="l", batch_id=UUID(int=7), captured_at=NOW, latest=NOW, max_message_bytes=10**6
    )


def as_stored(record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in names}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}


@given(payloads, st.sampled_from(("cdr", "status")), people, st.booleans())
def test_given_any_message_then_the_person_is_found_by_the_hash_alone(
    payload: dict[str, Any], type_: str, of: dict[str, str], escaped: bool
) -> None:
    found = decoded(payload, type_, escaped).finish()
    person = Person(KEY, **of)
    forgotten = Forgotten(KEY, {(person.by, person.hash): NOW + arrival.WAITED + 1})
    names = tuple(column.name for column in forget._searched(cdrs if found.cdrs else audit_events))
    before = found.cdrs[0] if found.cdrs else found.events[0]
    after = [*forgotten.calls(lambda: found.cdrs)(), *forgotten.events([(event, False) for event in found.events])][0]

    row = as_stored(before, names)
    assert as_stored(after, names) == row | person.row(row)


def test_given_the_columns_of_tables_then_a_record_has_the_same() -> None:
    for table, names in ((cdrs, arrival._OF_A_CDR), (audit_events, arrival._OF_AN_EVENT)):
        assert sorted(column.name for column in forget._searched(table)) == sorted(names)
        assert {c.name for c in table.c if isinstance(c.type, JSONB)} == {*names} & {"extra", "payload"}


def test_given_nobody_older_then_no_call_is_made_anew() -> None:
    (call,) = decoded({"call_ref": 1, "dialed_at": 1_424_379_960, "number": NUMBER}, "cdr", False).finish().cdrs
    person = Person(KEY, number=NUMBER)
    for at, is_erased in ((call.dialed_at, False), (call.dialed_at + 1, True)):
        (seen,) = Forgotten(KEY, {("number", person.hash): at}).calls(lambda: [call])()
        assert isinstance(seen, Cdr)
        assert (seen is call) == (not is_erased)
        assert seen.number == (person.hash if is_erased else NUMBER)


def test_given_a_message_full_of_digits_then_few_of_them_are_looked_at() -> None:
    """Each takes a hash: those of a megabyte took longer than a lease, for whoever adopted the claim too."""
    row = {"number": None, "extra": json.dumps({"x": "".join(str(n) for n in range(200_000))})}
    assert len(everybody(row)["number"]) < 10_000


def test_given_an_event_heard_in_the_future_then_its_time_may_be_late() -> None:
    """It counts as heard when it was claimed; and it may have waited for that, as an event of a list may."""
    message = json.dumps({"type": "call", "payload": {"ref": "1002", "number": NUMBER}}).encode()
    heard = pack_heard(UUID(int=5).bytes, NOW * 2, b"enigma:notifications:agents:1002", message)
    found = SpoolDecoding([heard], batch_id=UUID(int=7), captured_at=NOW, latest=NOW, max_message_bytes=10_000).finish()
    assert found.misdated_at == {0}
    person = Person(KEY, number=NUMBER)
    for waited, is_erased in ((arrival.WAITED - 1, True), (arrival.WAITED, True), (arrival.WAITED + 1, False)):
        (seen,) = Forgotten(KEY, {("number", person.hash): NOW - waited + 1}).events([(found.events[0], True)])
        assert (NUMBER not in str(seen.payload)) == is_erased
