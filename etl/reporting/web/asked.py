"""What somebody asks for by an address: the days, the campaigns, the form. Whatever can't be is refused by its name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from etl.reporting.figures import Asked
from etl.text import printable

MOST_DAYS = 366
MOST_CAMPAIGNS = 20
LONGEST = 512  # characters of a reference
YEARS = range(1970, 9_000)  # so that neither Python nor Postgres runs out of days nearby
FORMS = ("html", "csv")
_DAY = timedelta(days=1)


class Refused(Exception):
    """Why it can't be, in a sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Days that aren't said are None; `form` is html or csv."""

    kind: str
    first: date | None
    last: date | None
    campaigns: tuple[str, ...]
    form: str

    def asked(self, yesterday: date) -> Asked:
        """Yesterday, if no day is said. Raises `Refused`."""
        last = self.last or max(yesterday, self.first or yesterday)
        first = self.first or last
        if first > last:
            raise Refused(f"from, {first}, is later than to, {last}")
        if last - first >= MOST_DAYS * _DAY:
            raise Refused(f"from {first} to {last} are more than {MOST_DAYS} days")
        return Asked(self.kind, first, last, self.campaigns)


def wanted(kind: str, query: QueryParams) -> Wanted:
    """Fields that are empty weren't filled in. Raises `Refused`."""
    known = {"from", "to", "format", *(() if kind == "agent" else ("campaign",))}
    if unknown := sorted(set(query) - known):
        raise Refused(f"{printable(unknown[0])} is nothing that can be asked for here: {', '.join(sorted(known))}")
    given = {name: [value for value in query.getlist(name) if value] for name in known}
    if several := [name for name in ("from", "to", "format") if len(given[name]) > 1]:
        raise Refused(f"{several[0]} is given more than once")
    form = (given["format"] or ["html"])[0]
    if form not in FORMS:
        raise Refused(f"format must be one of {', '.join(FORMS)}")
    return Wanted(kind, _day("from", given), _day("to", given), _references(given.get("campaign", [])), form)


def query_of(asked: Asked, **more: str) -> str:
    """The part of an address behind the question mark that asks for the same."""
    fields: list[tuple[str, Any]] = [("from", asked.first), ("to", asked.last)]
    fields += [("campaign", campaign) for campaign in asked.campaigns]
    return urlencode([*fields, *more.items()])


def is_reference(text: str) -> bool:
    return 0 < len(text) <= LONGEST and "\0" not in text


def _references(given: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(given))
    if len(found) > MOST_CAMPAIGNS:
        raise Refused(f"no more than {MOST_CAMPAIGNS} campaigns can be asked for")
    if not all(map(is_reference, found)):
        raise Refused("campaign is no reference that a campaign can have")
    return found


def _day(name: str, given: Mapping[str, list[str]]) -> date | None:
    if not given[name]:
        return None
    text = given[name][0]
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise Refused(f"{name} is no day like 2026-11-22") from None
    if day.year not in YEARS:
        raise Refused(f"{name} is a day of no year from {YEARS.start} to {YEARS.stop - 1}")
    return day
