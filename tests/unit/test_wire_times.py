"""Every spelling of a moment that a dialler has, and where the range of acceptable times ends."""

import re
import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etl.wire.cdr import Cdr
from etl.wire.faults import Reason
from etl.wire.times import EPOCH, FIRST_MILLISECONDS, UNIX_SECONDS_AT_EPOCH, from_datetime, microseconds, to_datetime
from tests.wire import (
    LATEST,
    TO_THE_MILLISECOND,
    TO_THE_SECOND,
    Spelled,
    a_cdr,
    decoding,
    having,
    reason,
    records,
    times,
)
from tests.world import api_cdr, cdr

EVENING = datetime(2015, 2, 19, 21, 6, tzinfo=UTC)
MIDNIGHT = datetime(2015, 2, 20, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def read(text: float | str) -> datetime:
    return EPOCH + microseconds(text) * MICROSECOND


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        # Unix time
        (1_424_379_960, EVENING),
        (1_424_379_960.0, EVENING),
        (1_424_379_960.354, EVENING + timedelta(milliseconds=354)),
        ("1424379960", EVENING),
        ("1424379960.354", EVENING + timedelta(milliseconds=354)),
        (1_424_379_960_354, EVENING + timedelta(milliseconds=354)),
        ("1424379960354", EVENING + timedelta(milliseconds=354)),
        (1_424_379_960_354.0, EVENING + timedelta(milliseconds=354)),
        # Ruby
        ("2015-02-19 23:06:00 +0200", EVENING),
        ("2015-02-19 16:06:00 -0500", EVENING),
        ("2015-02-20 02:51:00 +0545", EVENING),
        ("2015-02-19 21:06:00 +0000", EVENING),
        ("2015-02-19 21:06:00 UTC", EVENING),
        ("2015-02-19 23:06:00.354 +0200", EVENING + timedelta(milliseconds=354)),
        # ISO 8601
        ("2015-02-19T23:06:00.354+02:00", EVENING + timedelta(milliseconds=354)),
        ("2015-02-19T23:06:00+02:00", EVENING),
        ("2015-02-19T21:06:00Z", EVENING),
        ("2015-02-19T21:06:00.000001Z", EVENING + MICROSECOND),
        ("2015-02-20T11:06:00+14:00", EVENING),
        ("2015-02-19T23:06+02:00", EVENING),
        ("20150219T210600Z", EVENING),
        # Numbers as text
        (" 1424379960 ", EVENING),
        ("\t+1424379960.354\r\n", EVENING + timedelta(milliseconds=354)),
        ("001424379960", EVENING),
        ("1424379960.0", EVENING),
        ("0" * 5_000 + "1424379960", EVENING),
        ("1424379960." + "0" * 5_000, EVENING),
        # Small letters, the name of UTC, white space
        ("2015-02-19t21:06:00z", EVENING),
        ("2015-02-19t23:06:00.354+02:00", EVENING + timedelta(milliseconds=354)),
        ("20150219t210600z", EVENING),
        ("2015-02-19 21:06:00 GMT", EVENING),
        ("2015-02-19 21:06:00 utc", EVENING),
        ("2015-02-19T21:06:00.000UTC", EVENING),
        ("2015-02-19 21:06:00gmt", EVENING),
        ("2015-02-19 21:06:00 Z", EVENING),
        (" 2015-02-19 23:06:00 +0200\n", EVENING),
        # The end of a day
        ("2015-02-19T24:00:00Z", MIDNIGHT),
        ("2015-02-20 24:00:00 +1300", MIDNIGHT + timedelta(hours=11)),
        ("2015-02-19 24:00:00 UTC", MIDNIGHT),
        ("2015-02-19 24:00:00", MIDNIGHT),
        ("2015-02-19T24:00:00.000+00:00", MIDNIGHT),
        ("2015-02-19t24:00z", MIDNIGHT),
        ("20150219T240000Z", MIDNIGHT),
        ("2015-12-31T24:00:00Z", datetime(2016, 1, 1, tzinfo=UTC)),
        ("2016-02-28 24:00:00 UTC", datetime(2016, 2, 29, tzinfo=UTC)),
        # Without an offset it's UTC, if nobody says otherwise
        ("2015-02-19T21:06:00", EVENING),
        ("2015-02-19 21:06:00", EVENING),
        ("2015-02-19 21:06:00.5", EVENING + timedelta(milliseconds=500)),
    ],
)
def test_a_time_is_the_moment_it_spells(text: float | str, moment: datetime) -> None:
    assert read(text) == moment


@given(times())
def test_any_moment_in_any_spelling_and_any_zone_is_that_moment(spelled: Spelled) -> None:
    assert read(spelled.text) == spelled.moment


def test_the_spellings_that_are_tested_are_those_of_the_protocol() -> None:
    zoned = EVENING.astimezone(datetime.fromisoformat("2015-02-19T00:00+02:00").tzinfo)
    assert {spell(zoned) for spell in (TO_THE_SECOND | TO_THE_MILLISECOND).values()} >= {
        1_424_379_960,
        "1424379960",
        1_424_379_960_000,
        "2015-02-19 23:06:00 +0200",
        "2015-02-19 21:06:00 UTC",
        "2015-02-19T23:06:00.000+02:00",
    }


def test_from_10_to_the_11_on_a_number_counts_milliseconds() -> None:
    assert read(99_999_999_999) == datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)
    assert read(100_000_000_000) == datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)
    assert read("99999999999") == read(99_999_999_999.0) == read(99_999_999_999)
    assert read("100000000000") == read(100_000_000_000.0) == read(100_000_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        " ",
        "-",
        "1e9",
        "0x54e650f8",
        "٣٣٣٣٣٣٣٣٣٣",
        "1,424,379,960",
        "1_424_379_960",
        "1424379960\N{NO-BREAK SPACE}",
        "14243799\N{FULLWIDTH DIGIT SIX}0",
        "+-1424379960",
        "+",
        "1424379960.",
        "0" * 5_000 + "x",
        "2015-02-19",
        "2015-02-19+02:00",
        "2015-W08-4",
        "23:06:00",
        "2015-02-19T",
        "2015-02-19T23",
        "2015-02-30 23:06:00 +0200",
        "2015-02-19 25:06:00 +0200",
        "2015-02-19 23:06:00 +2400",
        "2015-02-19T23:06:00-24:00",
        "2015-02-19 23:06:00 CET",
        "2015-02-19 23:06:00 UTC+2",
        "2015-02-19 23:06:00 +0200 UTC",
        "2015-02-19T24:00:01Z",
        "2015-02-19T24:01:00Z",
        "2015-02-19T24:00:00.001Z",
        "2015-02-19T24:30Z",
        "2015-02-19T24",
        "2015-02-30T24:00:00Z",
        "2015-02-19T10:00:00 24:00",
        "2015-02-19\N{LATIN SMALL LETTER LONG S}21:06:00 +0000",
        "2015-02-19 23:06:00 +0200 (CEST)",
        "19/02/2015 23:06:00",
        "Thu Feb 19 23:06:00 2015",
        "10000-02-19 23:06:00 +0200",
        "2015-02-19 23:06:00 \N{GRINNING FACE}",
        "2015-02-19\n23:06:00\n+0200" * 1_000,
    ],
)
def test_text_that_spells_no_moment_is_of_the_wrong_kind(text: str) -> None:
    assert reason(cdr(1, dialed_at=text)) == Reason.BAD_TYPE
    assert reason(api_cdr(1, ended_at=text)) == Reason.BAD_TYPE


@pytest.mark.parametrize("name", ["dialed_at", "callee_answered_at", "agent_answered_at", "ended_at"])
class TestTheRangeOfTimes:
    """[2000-01-01, claim + 1 day], for all times of a CDR."""

    @pytest.mark.parametrize("moment", [EPOCH, EPOCH + MICROSECOND, LATEST - MICROSECOND, LATEST])
    def test_a_time_at_its_bounds_is_accepted(self, name: str, moment: datetime) -> None:
        record = a_cdr(api_cdr(1, **{name: moment.isoformat()}))
        column = {"callee_answered_at": "answered_at", "agent_answered_at": "connected_at"}.get(name, name)
        assert getattr(record, column) == from_datetime(moment)

    @pytest.mark.parametrize(
        "value",
        [
            f'"{EPOCH - MICROSECOND}"',
            f'"{LATEST + MICROSECOND}"',
            '"1999-12-31 23:59:59 +0000"',
            '"2000-01-01 00:59:59 +0100"',
            '"0001-01-01T00:00:00+14:00"',
            '"9999-12-31T23:59:59-14:00"',
            "0",
            "-1",
            "946684799",
            "946684799.999",
            "946684799999",
            "8600000000",
            "-100000000000000",
            "1.7e308",
            "-1.7e308",
            "1e400",
            "-1e400",
            '"-1"',
            '"8600000000"',
            f'"{"9" * 40}"',
            pytest.param(f'"{"9" * 41}"', id="41 digits as text"),
            pytest.param(f'" -{"9" * 5_000}.5"', id="5000 digits as text"),
            '"+99999999999999"',
            '"9999-12-31T24:00:00Z"',
            pytest.param("9" * 40, id="40 digits"),
            pytest.param("9" * 4_300, id="4300 digits"),
            pytest.param("9" * 5_000, id="5000 digits"),
            pytest.param("-" + "9" * 5_000, id="5000 digits, negative"),
        ],
    )
    def test_a_time_beyond_its_bounds_is_out_of_range(self, name: str, value: str) -> None:
        assert reason(having(value, name, api_cdr(1))) == Reason.OUT_OF_RANGE

    @pytest.mark.parametrize("value", [True, False, [], {}, [1_424_379_960]])
    def test_a_time_of_another_kind_is_of_the_wrong_type(self, name: str, value: object) -> None:
        assert reason(api_cdr(1, **{name: value})) == Reason.BAD_TYPE


def test_epoch_seconds_at_the_bounds() -> None:
    assert a_cdr(cdr(1, dialed_at=946_684_800)).dialed_at == 0
    assert a_cdr(cdr(1, dialed_at=946_684_800_000)).dialed_at == 0
    latest = int(LATEST.timestamp())
    assert a_cdr(cdr(1, dialed_at=latest)).dialed_at == from_datetime(LATEST)
    assert reason(cdr(1, dialed_at=latest + 1)) == Reason.OUT_OF_RANGE
    assert reason(cdr(1, dialed_at=latest * 1_000 + 1)) == Reason.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("spelled", "day"),
    [
        ("2015-02-20T00:00:00Z", date(2015, 2, 20)),
        ("2015-02-20T23:59:59.999999Z", date(2015, 2, 20)),
        ("2015-02-19 23:59:59 -0500", date(2015, 2, 20)),
        ("2015-02-20 00:00:00 +0100", date(2015, 2, 19)),
    ],
)
def test_the_day_of_a_call_is_its_utc_day(spelled: str, day: date) -> None:
    assert a_cdr(cdr(1, dialed_at=spelled)).dialed_on == (day - date(2000, 1, 1)).days


def test_a_time_without_offset_is_utc_wherever_we_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        assert read("2015-02-19 21:06:00") == read("1424379960") == EVENING
    time.tzset()


# The zone of a clock that writes no offset

BUCHAREST, APIA = ZoneInfo("Europe/Bucharest"), ZoneInfo("Pacific/Apia")


@pytest.mark.parametrize(
    ("text", "zone", "moment"),
    [
        ("2015-02-19 23:06:00", BUCHAREST, EVENING),
        ("2015-02-19t23:06:00.354", BUCHAREST, EVENING + timedelta(milliseconds=354)),
        ("2015-07-01 00:00:00", BUCHAREST, datetime(2015, 6, 30, 21, tzinfo=UTC)),
        ("2015-02-19 24:00:00", BUCHAREST, datetime(2015, 2, 19, 22, tzinfo=UTC)),
        # Its clock shows 3:00 to 4:00 twice on 25 October: the first time is meant, which is still summer time.
        ("2015-10-25 02:59:59", BUCHAREST, datetime(2015, 10, 24, 23, 59, 59, tzinfo=UTC)),
        ("2015-10-25 03:30:00", BUCHAREST, datetime(2015, 10, 25, 0, 30, tzinfo=UTC)),
        ("2015-10-25 04:00:00", BUCHAREST, datetime(2015, 10, 25, 2, tzinfo=UTC)),
        # It shows 3:00 to 4:00 never on 29 March: read with the offset before, which is winter time.
        ("2015-03-29 02:59:59", BUCHAREST, datetime(2015, 3, 29, 0, 59, 59, tzinfo=UTC)),
        ("2015-03-29 03:30:00", BUCHAREST, datetime(2015, 3, 29, 1, 30, tzinfo=UTC)),
        ("2015-03-29 04:00:00", BUCHAREST, datetime(2015, 3, 29, 1, tzinfo=UTC)),
        # Samoa had no 30 December in 2011.
        ("2011-12-30 12:00:00", APIA, datetime(2011, 12, 30, 22, tzinfo=UTC)),
        ("2011-12-29 24:00:00", APIA, datetime(2011, 12, 30, 10, tzinfo=UTC)),
    ],
)
def test_a_time_without_offset_is_read_by_the_clocks_of_its_zone(text: str, zone: ZoneInfo, moment: datetime) -> None:
    assert EPOCH + microseconds(text, zone) * MICROSECOND == moment
    record = decoding(cdr(1, dialed_at=text), zone=zone).cdrs[0]
    assert record.dialed_at == from_datetime(moment)


@given(times(), st.sampled_from(["Europe/Bucharest", "Pacific/Apia", "America/St_Johns", "UTC"]))
def test_who_writes_an_offset_or_unix_time_needs_no_zone(spelled: Spelled, zone: str) -> None:
    assume(not isinstance(spelled.text, str) or not re.fullmatch(r"[0-9-]+[T ][0-9:.]+", spelled.text))
    assert EPOCH + microseconds(spelled.text, ZoneInfo(zone)) * MICROSECOND == spelled.moment


def test_what_was_read_in_one_zone_is_not_remembered_for_another() -> None:
    text = "2015-02-19 23:06:00"
    for _ in range(2):
        assert [microseconds(text, zone) - microseconds(text) for zone in (BUCHAREST, UTC)] == [-7_200_000_000, 0]


@given(st.datetimes(), st.sampled_from(["Europe/Bucharest", "Africa/Monrovia", "Asia/Kathmandu"]))
def test_any_time_without_offset_is_some_moment_in_any_zone(local: datetime, zone: str) -> None:
    away = microseconds(local.isoformat(), ZoneInfo(zone)) - microseconds(local.isoformat())
    assert abs(away) < 86_400_000_000


SECOND = 1_000_000  # microseconds


@given(
    st.integers(0, 10**15),
    st.integers(0, 10**15),
    st.sampled_from(["oldest", "latest", "milliseconds", "zero"]),
    st.integers(-3, 3),
)
def test_a_number_is_within_the_bounds_if_its_text_is(oldest: int, latest: int, near: str, seconds: int) -> None:
    """Numbers are compared as they are sent; any other spelling is read first."""
    milliseconds = SECOND * (FIRST_MILLISECONDS - UNIX_SECONDS_AT_EPOCH)
    bound = {"oldest": oldest, "latest": latest, "milliseconds": milliseconds, "zero": 0}[near]
    unix = bound // SECOND + UNIX_SECONDS_AT_EPOCH + seconds

    def outcome(dialed_at: int | str) -> tuple[list[Cdr], list[tuple[Reason, str]]]:
        claim = records(cdr(1, dialed_at=dialed_at), latest=to_datetime(latest)).not_before(oldest).finish()
        return claim.cdrs, [(dead.reason, dead.detail) for dead in claim.dead]

    assert outcome(unix) == outcome(str(unix))
    if unix < FIRST_MILLISECONDS:
        assert bool(outcome(unix)[0]) == (oldest <= (unix - UNIX_SECONDS_AT_EPOCH) * SECOND <= latest)
