"""The ways by which a claim gets into `cdrs`: a quicker one that brings it in leaves what the careful one would have
left, in rows, versions and books; and it's planned for the same whatever Postgres knows of the day."""

import itertools
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from etl.store import classify
from etl.store import writer as writing
from etl.store.ledger import Books
from etl.store.rows import Way
from etl.store.writer import Batch, Writer
from etl.wire.packed import Packed, Packer, packer
from tests.budget import examples
from tests.store import at_once, batch, engine, write
from tests.world import CAMPAIGNS, DIALED_AT, Archive, api_cdr, cdr, eventually

pytestmark = pytest.mark.versions

_systems = itertools.count(1)
_MIDNIGHT = 1_424_390_400  # of the day after DIALED_AT's
_VALUES = "call_ref, leg, dialed_on, dialed_at, answered_at, ended_at, call_time, end_code, number, campaign_ref, extra"


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    """Of few calls, and mostly saying what the others say; some near midnight, some that aren't plain."""
    plain = draw(st.sampled_from([True, True, True, False]))
    payload: dict[str, Any] = {
        "call_ref": draw(st.integers(1, 4)),
        "dialed_at": draw(st.sampled_from([DIALED_AT] * 6 + [DIALED_AT + 3, DIALED_AT + 60, _MIDNIGHT - 1, _MIDNIGHT])),
        "call_time": draw(st.sampled_from([None, None, 41, "41", 42])),
        "number": draw(st.sampled_from([None, "0741484437", "0741484437", "0741484438"])),
        "ended_at": draw(st.sampled_from([None, "2015-02-19 23:06:56 +0200", "2015-02-19T23:06:56.5+02:00"])),
        "ref": draw(st.sampled_from([None, "2040"])),
    }
    if not plain:
        payload |= draw(st.sampled_from([{"end_code": "16x"}, {"note": {"a": None}}, {"note": 1}, {"call_time": 41.0}]))
    return json.dumps({"type": "cdr", "payload": payload}).encode()


_claims = st.lists(st.lists(_messages() | st.just(b"junk"), min_size=1, max_size=6), min_size=1, max_size=3)


@given(_claims)
@settings(
    max_examples=examples(2),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
)
def test_given_claims_then_each_way_leaves_what_the_careful_one_does(
    archive: Archive, writer: Writer, claims: list[list[bytes]]
) -> None:
    left = []
    for way in Way:
        system = f"system-{next(_systems)}"
        books = [_written(writer, batch(messages, source=system), way) for messages in claims]
        left.append((books, _stored(archive, "cdrs", system), _stored(archive, "cdr_revisions", system)))

    for quicker in left[:-1]:
        assert quicker == left[-1]


def _written(writer: Writer, claim: Batch, way: Way) -> Books | None:
    def write_(taken: Any, dated: Batch, way: Way) -> Books:
        return writing._write(taken, dated, lambda: None, way)

    return writer._persist(claim, write_, way=way)


def _stored(archive: Archive, table: str, system: str) -> list[Any]:
    order = "call_ref, leg, dialed_on, extra::text, call_time, number, dialed_at, answered_at, ended_at"
    return archive.rows(f"SELECT {_VALUES} FROM {table} WHERE source = %s ORDER BY {order}", system)


def test_given_a_days_statistics_of_one_call_then_no_call_reads_the_day(archive: Archive, writer: Writer) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        write(writer, cdr("the only one"))
        connection.execute("ANALYZE cdrs")
        calls = [cdr(n, hold_time=None) for n in range(2_000)]
        write(writer, *calls)
        read = "SELECT sum(seq_tup_read) + sum(idx_tup_fetch) FROM pg_stat_user_tables WHERE relname ~ '^cdrs_2'"
        writer._repeating.add(CAMPAIGNS)

        before = _settled(archive, read)
        assert write(writer, *calls) == Books(claimed=2_000, unchanged=2_000)
        writer._repeating.add(CAMPAIGNS)
        assert write(writer, *(cdr(n, hold_time=4) for n in range(2_000))) == Books(claimed=2_000, updated=2_000)
        assert _settled(archive, read) - before < 20_000


def _settled(archive: Archive, figure: str) -> int:
    """Statistics are told by a session when it has been idle for a while."""
    latest: list[int] = []

    def is_settled() -> bool:
        latest.append(archive.value(figure))
        return len(latest) > 5 and len({*latest[-5:]}) == 1

    eventually(is_settled)
    return latest[-1]


@pytest.mark.parametrize("after", ["_classify", "_insert"])
def test_given_another_who_stores_the_calls_meanwhile_then_we_look_again(
    archive: Archive, database_url: str, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Between the look at what is stored and what is done then, another worker brings the other dialect."""
    with engine(database_url) as ours, engine(database_url) as theirs:
        # Of the first 50 calls we say more; the others are new, and once we inserted them nobody else can.
        others = range(25, 100) if after == "_classify" else range(25, 50)
        write(Writer(theirs), *(cdr(n, hold_time=None) for n in range(50)))
        do = getattr(classify._Claim, after)
        done: list[str] = []

        def do_and_let_others(*arguments: Any) -> Any:
            result = do(*arguments)
            if not done:
                done.append(after)
                write(Writer(theirs), *(api_cdr(n) for n in others))
            return result

        monkeypatch.setattr(classify._Claim, after, do_and_let_others)
        writer = Writer(ours)
        writer._repeating.add(CAMPAIGNS)
        books = write(writer, *(cdr(n, hold_time=4) for n in range(100)))

    assert books is not None
    assert books.claimed == 100 == books.inserted + books.updated
    assert archive.value("SELECT count(*) FROM cdrs WHERE hold_time = 4") == 100
    assert archive.value("SELECT count(*) FROM cdrs WHERE uuid IS NOT NULL") == len(others)
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    archive.assert_books_balance()


@pytest.mark.skipif(packer() is None, reason="there is no compiled decoder here: cargo is missing")
def test_given_a_call_packed_and_not_packed_then_its_messages_are_in_order(archive: Archive, writer: Writer) -> None:
    """The second says what no column can have, so Python decodes it; and it contradicts the first."""
    assert write(writer, cdr(7)) == Books(claimed=1, inserted=1)
    claim = [cdr(1, call_time=1), cdr(1, call_time=2, end_code="16x"), cdr(2), cdr(1, call_time=3), cdr(7)]

    assert write(writer, *claim) == Books(claimed=5, inserted=2, updated=2, unchanged=1)

    assert archive.cdr(1)["call_time"] == 3
    assert archive.rows("SELECT call_time FROM cdr_revisions ORDER BY 1") == [{"call_time": 1}, {"call_time": 2}]
    archive.assert_books_balance()


@pytest.mark.skipif(packer() is None, reason="there is no compiled decoder here: cargo is missing")
def test_given_a_decoder_that_fails_then_python_decodes_the_claim(
    archive: Archive, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(writer, cdr(1))

    def pack(_: Packer, messages: Sequence[bytes]) -> Packed:
        nothing = [0] * len(messages)
        return Packed(b"", nothing, bytes(nothing), [-1] * len(messages), nothing)

    monkeypatch.setattr(Packer, "pack", pack)

    assert write(writer, cdr(1), cdr(2), api_cdr(2)) == Books(claimed=3, inserted=1, updated=1, unchanged=1)
    archive.assert_books_balance()


def test_given_both_dialects_of_stored_calls_then_each_message_is_counted(archive: Archive, writer: Writer) -> None:
    """They are joined only where the call isn't stored: of these, both said something new."""
    write(writer, *(cdr(n, hold_time=None, number=None) for n in range(10)))
    both = [message for n in range(20) for message in (cdr(n, hold_time=4), api_cdr(n))]

    assert write(writer, *both) == Books(claimed=40, inserted=10, updated=30)

    assert archive.value("SELECT count(*) FROM cdrs WHERE hold_time = 4 AND uuid IS NOT NULL") == 20
    archive.assert_books_balance()


def test_given_workers_that_complete_each_others_calls_then_none_is_lost(archive: Archive, database_url: str) -> None:
    claims = [[dialect(n) for n in range(first, first + 500)] for first in (0, 250, 500) for dialect in (cdr, api_cdr)]
    with engine(database_url) as connections:
        write(Writer(connections), cdr("the day's partition"))
        at_once(*(partial(Writer(connections).write, batch(claim)) for claim in claims))

    assert archive.value("SELECT count(*) FROM cdrs WHERE uuid IS NOT NULL AND number IS NOT NULL") == 1_000
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    archive.assert_books_balance()
