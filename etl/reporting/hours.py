"""Maps of the hours by weekday, or of at most a week, by day: calls, and rates with a scale of their own."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.reporting import specs
from etl.reporting.shown import count, share
from etl.reporting.specs import MANY, SHARES, Parts

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

FEW = 10  # calls: a rate of fewer means nothing
WEEK = 7
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Heading → what part of what, as sums of the view's columns, and what the latter are.
RATES = {
    "Answered of dialled (ASR)": ("outbound_answered", "outbound_attempts", "dialled calls"),
    "Abandoned of live answers": ("outbound_dropped", "outbound_live", "live answers"),
    "Service level": ("answered_in_time", "waits_known", "calls whose wait is known"),
}


class Clock(NamedTuple):
    """What the clock shows when an hour begins. If it shows that twice on a day, `earlier` is by how much it's before
    UTC, so that the first of the two comes first."""

    shows: time
    earlier: timedelta | None = None


_Cells = dict[tuple[Any, Clock], list["Row"]]  # of a map: by day or weekday, and by hour


def clocks(rows: Sequence["Row"], apart: bool) -> Callable[["Row"], Clock]:
    """What the hour of a row is known by; if they are to stand apart, each of two that look the same on a day."""
    seen: dict[tuple[date, time], set[timedelta | None]] = {}
    for row in rows:
        seen.setdefault((row["day"], row["hour"].time()), set()).add(row["hour"].utcoffset())
    twice = {shows for (_, shows), offsets in seen.items() if len(offsets) > 1 and apart}

    def clock(row: "Row") -> Clock:
        hour: datetime = row["hour"]
        offset = hour.utcoffset()
        return Clock(hour.time(), -offset if offset is not None and hour.time() in twice else None)

    return clock


def called(clock: Clock) -> str:
    """With the UTC offset, if the hour comes twice."""
    if clock.earlier is None:
        return f"{clock.shows:%H:%M}"
    return f"{clock.shows.replace(tzinfo=timezone(-clock.earlier)):%H:%M %z}"


def maps(found: "Report") -> Parts:
    days = (found.asked.last - found.asked.first).days + 1
    by = "day" if days <= WEEK else "weekday"
    cells = _cells(found, by)
    down, across = [*dict.fromkeys(row for row, _ in cells)], sorted({clock for _, clock in cells})
    names = [WEEKDAYS[each] if by == "weekday" else f"{each:%a} {each}" for each in down], [*map(called, across)]

    def placed(numbers: Mapping[tuple[Any, Clock], Any], form: Callable[..., specs.ValueFormat]) -> list[specs.Cell]:
        rows, columns = ({key: place for place, key in enumerate(keys)} for keys in (down, across))
        return [(rows[row], columns[clock], number, form(row)) for (row, clock), number in numbers.items()]

    of = _days(found, by)
    calls = {key: Decimal(sum(row["attempts"] for row in rows)) / of[key[0]] for key, rows in cells.items()}
    yield (
        f"Calls, by {by} and hour",
        "The darker, the more" + ("" if by == "day" else ". On average, of the days that have figures"),
        specs.heat(
            placed(calls, lambda row: count if of[row] == 1 else lambda number: f"{number:,.1f} calls a day"),
            *names,
            MANY,
            lambda number: f"{number:,.0f}",
        ),
    )
    for heading, (part, whole, base) in RATES.items():
        rates = {key: _rate(rows, part, whole) for key, rows in cells.items()}
        if any(rate is not None for rate in rates.values()):
            yield (
                f"{heading}, by {by} and hour",
                f"The darker, the more, on a scale of its own. Hours of fewer than {FEW} {base} are left white",
                specs.heat(placed(rates, lambda _: share), *names, SHARES, lambda number: f"{number:.0%}"),
            )


def _cells(found: "Report", by: str) -> _Cells:
    """The rows of each day, or weekday from Monday, and hour."""
    clock = clocks(found.rows, apart=by == "day")
    cells: _Cells = {}
    for row in sorted(found.rows, key=lambda row: _of(row["day"], by)):
        cells.setdefault((_of(row["day"], by), clock(row)), []).append(row)
    return cells


def _of(day: date, by: str) -> Any:
    return day if by == "day" else day.weekday()


def _days(found: "Report", by: str) -> Counter[Any]:
    """Of how many days an average is. Of a day without any figures nothing is known, so it isn't among them."""
    return Counter(_of(day, by) for day in {row["day"] for row in found.rows})


def _rate(rows: Iterable["Row"], part: str, whole: str) -> Decimal | None:
    """None if anything of it isn't known, or of few."""
    of = [(row[part], row[whole]) for row in rows]
    if any(each is None for pair in of for each in pair):
        return None
    calls = sum(pair[1] for pair in of)
    return Decimal(sum(pair[0] for pair in of)) / Decimal(calls) if calls >= FEW else None
