"""Maps of the hours by weekday, or of at most a week, by day: calls, and rates with a scale of their own."""

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

from etl.reporting import specs
from etl.reporting.shown import count, hour, share
from etl.reporting.specs import MANY, SHARES, Parts

if TYPE_CHECKING:
    from etl.reporting.figures import Report, Row

FEW = 10  # calls: a rate of fewer means nothing
WEEK = 7
# Heading → what part of what, as sums of the view's columns, and what the latter are.
RATES = {
    "Answered of dialled (ASR)": ("outbound_answered", "outbound_attempts", "dialled calls"),
    "Abandoned of live answers": ("outbound_dropped", "outbound_live", "live answers"),
    "Service level": ("answered_in_time", "waits_known", "calls whose wait is known"),
}
_Cells = dict[tuple[str, str], list["Row"]]


def maps(found: "Report") -> Parts:
    days = (found.asked.last - found.asked.first).days + 1
    by = "day" if days <= WEEK else "weekday"
    cells = _cells(found, by)
    yield (
        f"Calls, by {by} and hour",
        "The darker, the more" + ("" if by == "day" else ". On average, of the days that have figures"),
        specs.heat([*_calls(found, cells)], MANY, lambda number: f"{number:,.0f}"),
    )
    for heading, (part, whole, base) in RATES.items():
        rates = [(*key, _rate(rows, part, whole), share) for key, rows in cells.items()]
        if any(rate is not None for _, _, rate, _ in rates):
            yield (
                f"{heading}, by {by} and hour",
                f"The darker, the more, on a scale of its own. Hours of fewer than {FEW} {base} are left white",
                specs.heat(rates, SHARES, lambda number: f"{number:.0%}"),
            )


def _cells(found: "Report", by: str) -> _Cells:
    """The rows of each day or weekday, from Monday, and hour."""
    ordered = found.rows if by == "day" else sorted(found.rows, key=lambda row: row["day"].weekday())
    apart = len({row["hour"].utcoffset() for row in found.rows}) > 1 and by == "day"
    cells: _Cells = {}
    for row in ordered:
        called = f"{row['day']:%a} {row['day']}" if by == "day" else f"{row['day']:%A}"
        at = hour(row["hour"], found) if apart else f"{row['hour']:%H:%M}"
        cells.setdefault((called, at), []).append(row)
    return cells


def _calls(found: "Report", cells: _Cells) -> Iterable[tuple[str, str, Decimal, specs.ValueFormat]]:
    """A day's average. Of a day without any figures nothing is known, so it isn't among those it is of."""
    days: dict[int, int] = {}
    for day in {row["day"] for row in found.rows}:
        days[day.weekday()] = days.get(day.weekday(), 0) + 1
    for (called, at), rows in cells.items():
        of = days[rows[0]["day"].weekday()]
        calls = Decimal(sum(row["attempts"] for row in rows)) / of
        yield called, at, calls, count if of == 1 else lambda number: f"{number:,.1f} calls a day"


def _rate(rows: Iterable["Row"], part: str, whole: str) -> Decimal | None:
    """None if anything of it isn't known, or of few."""
    of = [(row[part], row[whole]) for row in rows]
    if any(each is None for pair in of for each in pair):
        return None
    calls = sum(pair[1] for pair in of)
    return Decimal(sum(pair[0] for pair in of)) / Decimal(calls) if calls >= FEW else None
