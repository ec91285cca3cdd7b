"""The compiled decoder gives the rows of the Python decoder, or gives nothing; `make fuzz-decoder` looks further."""

import struct
from array import array
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, timedelta, tzinfo
from functools import partial
from zoneinfo import ZoneInfo

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.store import merge
from etl.wire import packed as module
from etl.wire.cdr import DISPOSITIONS, TOLERANCE
from etl.wire.packed import GAINED, REST, ROW, SAME, Packed, packer, why_none
from tests.fuzz import corpus
from tests.fuzz.mutations import Messages
from tests.packing import LATEST, LIMIT, Rows, alone, check_alone, packer_of, plain_rows
from tests.store import at_once
from tests.wire import PAYLOADS_A, PAYLOADS_B, write
from tests.world import DIALED_AT, api_cdr, cdr

pytestmark = pytest.mark.skipif(why_none() is not None, reason=f"no compiled decoder: {why_none()}")

_rows = Rows()
_MIDNIGHT = 1_424_390_400  # 2015-02-20T00:00:00Z


def pack(*messages: bytes, zone: tzinfo = UTC, oldest: int = 0) -> Packed:
    found = packer()
    assert found
    return packer_of(found, oldest, zone).pack(messages)


def is_plain(message: bytes, zone: tzinfo = UTC) -> bool:
    """And then it's the row of the Python decoder."""
    return check_alone(pack(message, zone=zone), plain_rows([message], zone=zone).get(0), _rows)


# -- which messages are plain


@given(st.one_of(PAYLOADS_A, PAYLOADS_B), st.sampled_from(["cdr", "call_update", None]), st.booleans())
def test_given_any_payload_then_its_row_is_pythons_or_there_is_none(
    payload: dict[str, object], kind: str | None, ascii_only: bool
) -> None:
    is_plain(write({"type": kind, "payload": payload}, ascii_only))


@pytest.mark.parametrize("zone", [UTC, ZoneInfo("Europe/Bucharest")], ids=str)
@pytest.mark.parametrize("oldest", [0, 790_000_000_000_000])
def test_given_mutated_messages_then_none_has_another_row_than_pythons(zone: tzinfo, oldest: int) -> None:
    stream = Messages(seed=22)
    messages = [stream.next() for _ in range(3_000)]
    found = packer()
    assert found

    plain = Counter(alone(packer_of(found, oldest, zone), messages, oldest, zone, _rows))

    assert plain[True] > 200


def test_given_what_the_dialler_wrote_then_all_of_its_cdrs_are_plain() -> None:
    messages = corpus.dialler()
    cdrs = plain_rows(messages)

    assert len(cdrs) >= 10
    assert [position for position, message in enumerate(messages) if is_plain(message)] == [*cdrs]


@pytest.mark.parametrize(
    "value", ["16", '"16"', '" 16 "', '"+16"', '"0016"', '"16.0"', '"-16"', '""', "null", '"\\t16\\n"']
)
def test_given_a_number_in_any_form_then_it_is_plain(value: str) -> None:
    assert is_plain(f'{{"type":"cdr","payload":{{"call_ref":1,"dialed_at":{DIALED_AT},"end_code":{value}}}}}'.encode())


@pytest.mark.parametrize(
    "value",
    [
        *(DIALED_AT, DIALED_AT * 1000 + 354, str(DIALED_AT), f" {DIALED_AT}000 ", "2015-02-19 23:06:00 +0200"),
        *("2015-02-19 21:06:00 UTC", "2015-02-19T23:06:00.354+02:00", "2015-02-19T21:06:00Z", "2015-02-19 21:06:00"),
    ],
)
def test_given_a_time_in_any_form_then_it_is_plain(value: int | str) -> None:
    assert is_plain(api_cdr(1, dialed_at=value, ended_at=value))


def test_given_no_offset_then_it_is_plain_where_the_zone_is_utc() -> None:
    message = api_cdr(1, dialed_at="2015-02-19 21:06:00")

    assert is_plain(message)
    assert not is_plain(message, ZoneInfo("Europe/Bucharest"))


@pytest.mark.parametrize("name", [*DISPOSITIONS, "SOMETHING"])
def test_given_what_has_no_column_then_extra_is_pythons(name: str) -> None:
    assert is_plain(
        cdr(1, end_reason=None, disposition=name, call_type=None, call_trail_ref=7, ring_time_extension="3")
    )
    assert is_plain(cdr(1, agent=5, isdn_code="17", note={"é": [1, 0.25, None]}, other='a/"b\\', disposition="a\n"))


@pytest.mark.parametrize(
    "message",
    [
        cdr(1, end_code="NORMAL_CLEARING"),
        cdr(1, end_code=16.0),
        cdr(1, call_time=2**31),
        cdr("x" * 513),
        cdr(1, uuid="é" * 257),
        cdr(""),
        cdr(1, dialed_at=None),
        cdr(1, dialed_at=946_684_799),
        cdr(1, dialed_at=LATEST // 1_000_000 + 946_684_801),
        cdr(1, call_trail_number=0),
        cdr(1, end_reason="a\0b"),
        cdr(1, note="a\0b"),
        cdr(1, note=1e30),
        cdr(1).replace(b'"ref"', b'"number"'),
        cdr(1).replace(b"}}", b'}, "v": 1}'),
        cdr(1).replace(b'"cdr"', b'"status"'),
        cdr(1) + b"x",
        cdr(1)[:-1],
        cdr(1, extension="\ud800"),
        cdr(1, number="x").replace(b'"x"', b'"\xff"'),
        cdr(1, number="x" * LIMIT),
        b"",
        b"{}",
        b"[" * 1000,
    ],
    ids=lambda message: message[-60:].decode(errors="replace").encode("unicode_escape").decode(),
)
def test_given_what_is_not_plain_then_it_is_left_to_python(message: bytes) -> None:
    assert not is_plain(message)


@pytest.mark.parametrize("apart", [-11, -10, 0, 10, 11])
def test_given_a_call_near_midnight_then_it_is_left_to_python(apart: int) -> None:
    assert is_plain(cdr(1, dialed_at=_MIDNIGHT + apart)) == (abs(apart) > 10)


def test_the_tolerance_is_the_one_of_merging() -> None:
    assert timedelta(microseconds=TOLERANCE) == merge.TOLERANCE


# -- a claim


def test_given_a_claim_then_each_message_is_told_what_became_of_it() -> None:
    other_call = api_cdr(2, dialed_at="2015-02-19 21:06:01 UTC")
    packed = pack(cdr(1), b"", other_call, api_cdr(1), cdr(1), cdr(2, call_time=None), cdr(2, call_time=None))

    assert [*packed.became] == [ROW, REST, ROW, GAINED, SAME, GAINED, SAME]
    assert [*packed.into] == [0, -1, 2, 0, 0, 2, 2]
    time = (DIALED_AT - 946_684_800) * 1_000_000
    assert [*packed.dialed_at] == [time, 0, time + 1_000_000, *[time] * 4]
    first, end = packed.ends[0], packed.ends[-1]
    assert [*packed.ends] == [first, first, *[end] * 5]
    assert len(packed.rows) == end > first > 0


@pytest.mark.parametrize("at", range(3))
def test_given_a_contradiction_then_all_messages_of_the_call_are_left(at: int) -> None:
    messages = [cdr(1), cdr(1, hold_time=3), cdr(1)]
    messages[at] = cdr(1, call_time=42)
    packed = pack(*messages, cdr(2))

    assert [*packed.became] == [REST, REST, REST, ROW]
    assert [*packed.into] == [-1, -1, -1, 3]
    assert bytes(packed.rows) == _rows.written(plain_rows([cdr(2)])[0])


def test_given_two_with_extra_then_they_are_left_unless_it_is_the_same() -> None:
    assert [*pack(cdr(1, note=1), cdr(1, note=2)).became] == [REST, REST]
    assert [*pack(cdr(1, note=1), api_cdr(1), cdr(1, note=1)).became] == [ROW, GAINED, SAME]


def test_given_no_message_then_nothing_is_packed() -> None:
    assert pack() == (b"", (), b"", (), ())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([cdr(1), api_cdr(1), cdr(2)]), max_size=20))
def test_given_any_claim_then_the_rows_fit_and_end_where_they_are_said_to(messages: list[bytes]) -> None:
    packed = pack(*messages)

    starts = [0, *packed.ends][: len(messages)]
    for start, end, became in zip(starts, packed.ends, packed.became, strict=True):
        assert (end > start) == (became == ROW)
        assert end == start or struct.unpack(">h", packed.rows[start : start + 2]) == (23,)


# -- what must not happen


@pytest.mark.parametrize("size", [1, 100, 250, 300])
def test_given_a_buffer_that_is_too_small_then_it_is_left_to_python(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    around = bytearray(b"\xaa" * 1_000)
    monkeypatch.setattr(module, "_buffer", lambda _: around[:size])

    with structlog.testing.capture_logs() as lines:
        packed = pack(cdr(1), cdr(2))

    assert packed == (b"", array("q", [0, 0]), bytes([REST, REST]), array("q", [-1, -1]), array("q", [0, 0]))
    assert [(line["event"], line["result"]) for line in lines] == [("decoder_failed", -1)]


def test_given_lengths_of_other_messages_then_it_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    class Growing(list[bytes]):
        """Its messages are other ones when their lengths are asked for."""

        reads = 0

        def __iter__(self) -> Iterator[bytes]:
            self.reads += 1
            return iter([cdr(1)] if self.reads == 1 else [cdr(1) + b" "])

    found = packer()
    assert found
    with structlog.testing.capture_logs() as lines:
        assert packer_of(found).pack(Growing([b""])).became == bytes([REST])
    assert [(line["event"], line["result"]) for line in lines] == [("decoder_failed", -2)]


def test_given_threads_then_each_packs_its_own_claims() -> None:
    claims = [[cdr(f"{thread}-{number}") for number in range(500 + 100 * thread)] for thread in range(4)]
    expected = [pack(*claim) for claim in claims]

    def again(thread: int) -> list[Packed]:
        return [pack(*claims[(thread + turn) % 4]) for turn in range(8)]

    for thread, results in enumerate(at_once(*(partial(again, thread) for thread in range(4)))):
        assert results == [expected[(thread + turn) % 4] for turn in range(8)]
