"""What the compiled decoder joins is what merging the same messages one after the other makes of them: the rows, and
what the books say."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from msgspec import MsgspecError

from etl.store.merge import Merged, merge_cdrs
from etl.store.writer import Writer
from etl.wire import envelope
from etl.wire.cdr import Cdr, CdrDecoder
from etl.wire.faults import Undecodable
from etl.wire.packed import GAINED, REST, ROW, SAME, Packed, Packer, packer, why_none
from tests.budget import examples
from tests.packing import BATCH, LATEST, LIMIT
from tests.store import engine, write
from tests.world import DIALED_AT, cdr

pytestmark = pytest.mark.skipif(why_none() is not None, reason=f"no compiled decoder: {why_none()}")

_COLUMNS = ", ".join(Cdr._fields)
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_systems = itertools.count(1)

# -- messages of a few calls: mostly one message says what the other does, or says nothing

_SECOND = "2015-02-19 23:06:0{} +0200"
_FRACTION = "2015-02-19T23:06:0{}.250+02:00"
# Of one moment mostly; some are only exact to the second, and some contradict it.
_moments = st.sampled_from(
    (DIALED_AT,) * 4
    + (_FRACTION.format(0),) * 3
    + (_SECOND.format(0), _SECOND.format(1), DIALED_AT + 9, DIALED_AT + 12, f"{DIALED_AT}500")
)
_later = st.sampled_from(
    (None,) * 4
    + (_SECOND.format(7),) * 4
    + (_FRACTION.format(7),) * 4
    + (DIALED_AT + 7, f"{DIALED_AT + 7}000", _SECOND.format(8), f"{DIALED_AT + 7}500")
)


def _mostly(*values: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([values[0]] * 12 + [None] * 6 + [*values])


_FIELDS = {
    "dialed_at": _moments,
    "callee_answered_at": _later,
    "ended_at": _later,
    "call_time": _mostly(41, "41", " 41 ", 42),
    "end_code": _mostly("16", 16, "16.0", ""),
    "isdn_code": _mostly(16, 17),
    "extension": _mostly("1002", 1002, ""),
    "agent": _mostly("1002", 1002, "1003"),
    "number": _mostly("0741484437", ""),
    "recording_url": _mostly("/88.WAV", "\\/88.WAV"),
    "ref": _mostly("2040", 2040),
    "uuid": _mostly("2b1cc7c0", "x"),
    "call_trail_number": st.sampled_from([None, None, 1, 1, "1", "1", 2]),
    "call_type": _mostly("outbound"),
    "note": st.sampled_from([1, {"a": [None]}]),
}


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    names = draw(st.sets(st.sampled_from([name for name in _FIELDS if name not in ("note", "call_type")])))
    names |= {"note"} if draw(st.integers(0, 5)) == 0 else set()
    names |= {"call_type"} if draw(st.integers(0, 5)) == 0 else set()
    payload = {"call_ref": draw(st.sampled_from([1] * 6 + ["1", 2])), "dialed_at": DIALED_AT}
    payload |= {name: draw(_FIELDS[name]) for name in sorted(names)}
    return json.dumps({"type": draw(st.sampled_from(["cdr", "call_update", None])), "payload": payload}).encode()


# -- and both ways into a table


@pytest.fixture(scope="module")
def packed_by() -> type[Packer]:
    found = packer()
    assert found
    return found


@pytest.fixture
def connection(writer: Writer, database_url: str) -> Iterator[sa.Connection]:
    write(writer, cdr("of the day"))  # which makes its partition
    with engine(database_url) as pool, pool.connect() as connection:
        yield connection
        connection.rollback()


@st.composite
def _claims(draw: st.DrawFn) -> list[bytes]:
    """Some messages come again, word for word."""
    messages = draw(st.lists(_messages(), min_size=2, max_size=4))
    return messages + draw(st.lists(st.sampled_from(messages), max_size=3))


@given(_claims())
@example([cdr(1), cdr(1)])
@example([cdr(1, ended_at=_FRACTION.format(7))] * 3)
@example([cdr(1, ended_at=_FRACTION.format(7)), cdr(1, hold_time=1, ended_at=_FRACTION.format(7))])
@example([cdr(1, note=1), cdr(1, extension=None), cdr(1, note=1)])
@example([cdr(1, extension=None), cdr(1, note=1), cdr(1, note=2)])
@settings(
    max_examples=examples(3),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
def test_given_messages_of_a_call_then_they_are_joined_as_merging_would(
    connection: sa.Connection, packed_by: type[Packer], messages: list[bytes]
) -> None:
    system = f"system-{next(_systems)}"
    packed = packed_by(system, BATCH.bytes, 0, LATEST, LIMIT, UTC).pack(messages)
    rows = _decoded(system, messages)

    with connection.begin_nested() as savepoint:
        joined = [row for row, became in zip(rows, packed.became, strict=True) if row and became != REST]
        merged = merge_cdrs(connection, joined)
        assert _books(packed) == _counted(merged, len(joined))
        assert _revised(connection, system) == set()
        _copy(connection, packed)
        assert _differing(connection, system) == []
        savepoint.rollback()

    with connection.begin_nested() as savepoint:
        merge_cdrs(connection, [row for row in rows if row])
        contradicted = _revised(connection, system)
        savepoint.rollback()
    for call in {_call(row) for row in rows if row}:
        became = {packed.became[i] for i, row in enumerate(rows) if row and _call(row) == call}
        with_extra = {row.extra for row in rows if row and row.extra and _call(row) == call}
        if call in contradicted or len(with_extra) > 1:
            assert became == {REST}, "joined, though not all of its messages agree"
        else:
            assert REST not in became, "not joined, though all of its messages agree"


def _decoded(system: str, messages: Sequence[bytes]) -> list[Cdr | None]:
    """By message; None for the few that no compiled decoder may take."""
    decoder = CdrDecoder(system, BATCH.bytes, LATEST)
    rows: list[Cdr | None] = []
    for message in messages:
        try:
            rows.append(decoder.strict(message))
        except (MsgspecError, Undecodable):
            rows.append(decoder.open(envelope.split(message)))
    return rows


def _call(row: Cdr) -> tuple[str, int]:
    return row.call_ref, row.leg


def _books(packed: Packed) -> tuple[int, int, int]:
    counts = Counter(packed.became)
    return counts[ROW], counts[GAINED], counts[SAME]


def _counted(merged: Merged, messages: int) -> tuple[int, int, int]:
    inserted, updated = merged.inserted.total(), merged.updated.total()
    return inserted, updated, messages - inserted - updated


def _revised(connection: sa.Connection, system: str) -> set[tuple[str, int]]:
    found = connection.execute(sa.text("SELECT call_ref, leg FROM cdr_revisions WHERE source = :s"), {"s": system})
    return {(row.call_ref, row.leg) for row in found}


def _copy(connection: sa.Connection, packed: Packed) -> None:
    connection.execute(sa.text("CREATE TEMPORARY TABLE packed (LIKE cdrs INCLUDING DEFAULTS)"))
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY packed ({_COLUMNS}) FROM STDIN (FORMAT BINARY)".encode()) as copy,
    ):
        copy.write(_HEADER + bytes(packed.rows) + _TRAILER)


def _differing(connection: sa.Connection, system: str) -> list[Any]:
    of_both = [f"SELECT {_COLUMNS} FROM cdrs WHERE source = :s", f"SELECT {_COLUMNS} FROM packed"]
    queries = [" EXCEPT ALL ".join(f"({query})" for query in pair) for pair in (of_both, of_both[::-1])]
    return [tuple(row) for query in queries for row in connection.execute(sa.text(query), {"s": system})]
