"""Days of 23 and 25 hours, and zones that aren't whole hours from UTC: pages, charts and CSV count each hour once."""

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from html import unescape
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from etl.reporting.figures import Asked, Report, ask
from etl.reporting.shown import COLUMNS, value
from etl.reporting.spreadsheet import csv_of
from tests.acceptance.test_report_charts import drawn, loaded, said
from tests.store import engine
from tests.wall import served
from tests.world import Archive

EVERY = timedelta(minutes=15)
DAYS = {
    ("Europe/Berlin", date(2015, 3, 29)): 23.0,
    ("Europe/Berlin", date(2015, 10, 25)): 25.0,
    ("Australia/Adelaide", date(2015, 10, 4)): 23.0,
    ("Australia/Adelaide", date(2015, 4, 5)): 25.0,
    ("Australia/Lord_Howe", date(2015, 10, 4)): 23.5,
    ("Australia/Lord_Howe", date(2015, 4, 5)): 24.5,
    ("Asia/Kolkata", date(2015, 6, 1)): 24.0,
}


@dataclass
class Played:
    """A call every quarter of an hour of three days, the one in the middle being that on which clocks are set."""

    archive: Archive
    zone: ZoneInfo
    day: date

    def moments(self, day: date) -> list[datetime]:
        begin, end = (
            datetime(each.year, each.month, each.day, tzinfo=self.zone).astimezone(UTC)
            for each in (day, day + timedelta(days=1))
        )
        return [begin + number * EVERY for number in range((end - begin) // EVERY)]

    def hours(self, day: date) -> Counter[datetime]:
        """How many calls there were since the clock showed the hour."""
        return Counter(moment - timedelta(minutes=moment.astimezone(self.zone).minute) for moment in self.moments(day))

    def clock(self, hour: datetime, offset: bool) -> str:
        return f"{hour.astimezone(self.zone):%H:%M %z}" if offset else f"{hour.astimezone(self.zone):%H:%M}"

    def looks(self, day: date) -> Counter[str]:
        return Counter(self.clock(hour, False) for hour in self.hours(day))

    def report(self, first: date, last: date) -> Report:
        with engine(self.archive.database_url) as connections:
            return ask(connections, Asked("hours", first, last))


@pytest.fixture(params=DAYS, ids=lambda param: f"{param[0]} {param[1]}")
def played(archive: Archive, request: pytest.FixtureRequest) -> Played:
    name, day = request.param
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", name)
    made = Played(archive, ZoneInfo(name), day)
    days = [day + timedelta(days=number) for number in (-1, 0, 1)]
    assert len(made.moments(day)) * EVERY / timedelta(hours=1) == DAYS[request.param]
    loaded(archive, *({"dialed_at": int(at.timestamp())} for each in days for at in made.moments(each)))
    return made


def test_each_hour_of_the_day_counts_its_calls_once(played: Played, tmp_path: Path) -> None:
    wanted = played.hours(played.day)
    offset = len({hour.astimezone(played.zone).utcoffset() for hour in wanted}) > 1
    found = played.report(played.day, played.day)
    assert {row["hour"].astimezone(UTC): row["attempts"] for row in found.rows} == wanted
    assert {row["hour"].utcoffset() for row in found.rows} == {
        hour.astimezone(played.zone).utcoffset() for hour in wanted
    }
    (column,) = [each for each in COLUMNS["hours"] if each.name == "hour"]
    clocks = [value(row, column, found) for row in found.rows]
    assert clocks == [played.clock(hour, offset) for hour in sorted(wanted)]
    with served(played.archive, tmp_path / "log") as wall:
        asked = f"/hours?from={played.day}&to={played.day}"
        for text in (csv_of(found), wall.ask(f"{asked}&format=csv").body):
            rows = csv.DictReader(io.StringIO(text, newline=""))
            assert {datetime.fromisoformat(row["hour"]): int(row["attempts"]) for row in rows} == wanted
        heads = re.findall(r'<th scope="row"[^>]*>\s*(\S.*?)\s*</th>', wall.ask(asked).body, re.S)
        assert [unescape(head) for head in heads if head != "all"] == clocks


def test_each_hour_of_the_day_has_one_bar(played: Played) -> None:
    looks = played.looks(played.day)
    chart = drawn(played.report(played.day, played.day))["Calls by hour of the day"]
    assert said(chart) == {
        played.clock(hour, looks[played.clock(hour, False)] > 1): f"{number} agent, of {number} calls"
        for hour, number in played.hours(played.day).items()
    }


def test_a_map_by_day_has_hours_that_come_twice_apart(played: Played) -> None:
    days = [played.day + timedelta(days=number) for number in (-1, 0, 1)]
    twice = {clock for clock, times in played.looks(played.day).items() if times > 1}
    chart = drawn(played.report(days[0], days[-1]))["Calls, by day and hour"]
    assert said(chart) == {
        f"{day:%a} {day}, {played.clock(hour, played.clock(hour, False) in twice)}": str(number)
        for day in days
        for hour, number in played.hours(day).items()
    }
    assert len(twice) == (DAYS[str(played.zone), played.day] == 25)


def test_days_together_are_counted_by_what_the_clock_shows(played: Played) -> None:
    days = [played.day + timedelta(days=number) for number in (-1, 0, 1)]
    sums: Counter[str] = Counter()
    for day in days:
        for hour, number in played.hours(day).items():
            sums[played.clock(hour, False)] += number
    chart = drawn(played.report(days[0], days[-1]))["Calls by hour of the day"]
    assert said(chart) == {clock: f"{number} agent, of {number} calls" for clock, number in sums.items()}
