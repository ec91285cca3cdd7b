"""Identifiers that sort by time."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.ids import Series, after, time_of, uuid7

LAST_MS = 2**48 - 1


@pytest.mark.parametrize("unix_ms", [0, 1, 1_424_379_960_000, 253_402_300_799_999])
def test_an_identifier_is_a_uuid_of_version_7_and_tells_its_time(unix_ms: int) -> None:
    identifiers = [uuid7(unix_ms) for _ in range(200)]

    for identifier in identifiers:
        assert (identifier.version, identifier.variant) == (7, RFC_4122)
        assert time_of(identifier) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
        assert UUID(str(identifier)) == identifier
    assert len(set(identifiers)) == 200


def test_the_time_is_where_rfc_9562_has_it() -> None:
    example = UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")  # from its appendix A.6

    assert time_of(example) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    assert uuid7(1_645_557_742_000).bytes[:6] == example.bytes[:6]


def test_every_other_bit_is_drawn_anew() -> None:
    """The version's and the variant's six bits are the same in all; each of the 74 others is 0 in some, 1 in some."""
    numbers = [uuid7(0).int for _ in range(500)]

    ever_set = ever_unset = 0
    for number in numbers:
        ever_set |= number
        ever_unset |= ~number
    assert (ever_set & ever_unset & (2**128 - 1)).bit_count() == 74


def test_identifiers_sort_by_their_time_as_numbers_and_as_text() -> None:
    times = [0, 1, 255, 256, 65_536, 2**32, 1_424_379_960_000, 1_424_379_960_001, LAST_MS]

    identifiers = [uuid7(unix_ms) for unix_ms in times]

    assert sorted(identifiers) == identifiers
    assert sorted(identifiers, key=str) == identifiers


def test_what_comes_after_an_identifier_sorts_just_after_it() -> None:
    for unix_ms in (1_424_379_960_000, 2**47):
        for identifier in [uuid7(unix_ms) for _ in range(300)]:
            later = [after(identifier, position) for position in (0, 1, 2, 1_000, 100_000) for _ in range(2)]

            assert identifier < min(later)
            assert max(later) < uuid7(unix_ms + 2)
            assert later[::2] == sorted(later[::2]), "by position"
            assert len(set(later)) == len(later)
            assert {(each.version, each.variant) for each in later} == {(7, RFC_4122)}


def test_after_the_last_of_a_millisecond_comes_the_next_millisecond() -> None:
    last = UUID(int=uuid7(1_424_379_960_000).int | 0xFFF << 64)

    assert time_of(after(last, 0)) == time_of(last) + timedelta(milliseconds=1)


@given(st.lists(st.integers(0, 2**48 * 1_000 - 1), min_size=1, max_size=20).map(sorted))
def test_a_series_sorts_in_its_order_and_by_its_times(moments: list[int]) -> None:
    one, other = Series(), Series()
    identifiers = [one.next(unix_us) for unix_us in moments]
    assert sorted(identifiers) == identifiers
    assert {(each.version, each.variant) for each in map(UUID, map(bytes.hex, identifiers))} == {(7, RFC_4122)}
    assert [int.from_bytes(each[:6]) for each in identifiers] == [unix_us // 1_000 for unix_us in moments]
    assert len({*identifiers, *(other.next(unix_us) for unix_us in moments)}) == 2 * len(moments)


def test_a_series_begins_anywhere_and_has_an_identifier_for_any_clock() -> None:
    ends = [int.from_bytes(Series().next(moment)[8:]) for moment in (-1, 0, 2**80) for _ in range(100)]
    assert len({end >> 32 for end in ends}) == len(ends)
