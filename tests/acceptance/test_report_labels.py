"""Two campaigns or agents may be called the same; on every chart they are two all the same."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.reporting.charts import parts
from etl.reporting.figures import Asked, Report, Row, ask
from etl.reporting.names import Name, keep
from etl.reporting.shown import label
from tests.acceptance.test_report_charts import DAY, FIRST, NOON, drawn, inbound, loaded
from tests.store import engine
from tests.wall import said, session
from tests.world import Archive

KINDS = ("campaign", "agent", "hours", "reasons")
THREE = ("1", "2", "3")
# What there is of a chart beside its geometry.
WORDS = {"labelExpr", "description", "text"}
CALLED = [
    *("a", "a (b)", "b", "b (a)", "a (b) (b)", "(none)", "", "\\n", "\n", "\\u2028", "\u2028", "'];x", "[0]", "0", "1"),
    *("__proto__", "length", '"', "\\", "\U0001f600", "e\u0301", "\u00e9", "</text>"),
]


@pytest.fixture
def reports(archive: Archive) -> list[Report]:
    """Of every kind, of one day and of two: three campaigns, three agents, and three reasons."""
    noon = datetime.fromtimestamp(NOON, UTC)
    reasons = ("busy", "callee_hungup", "timeout")
    minutes = [noon + timedelta(minutes=10 * number) for number in range(3)]
    states = [
        said(who, status, at)
        for who in THREE
        for status, at in zip(("available", "busy", "offline"), minutes, strict=True)
    ]
    archive.push(session(noon - timedelta(hours=20), noon, ended=noon + timedelta(hours=1)), *states, key="etl:events")
    each = [
        {"dialed_at": NOON + day * DAY, "ref": who, "extension": who, "end_reason": reason}
        for day in (0, 1)
        for number, (who, reason) in enumerate(zip(THREE, reasons, strict=True))
        for _ in range(12 - number)
    ]
    loaded(archive, *each, *(inbound(5, who) | {"ref": who} for who in THREE))
    with engine(archive.database_url) as connections:
        return [
            ask(connections, Asked(kind, FIRST, FIRST + timedelta(days=days)), with_timeline=True)
            for kind in KINDS
            for days in (0, 1)
        ]


def renamed(found: Report, names: Mapping[str, tuple[str | None, str | None]]) -> Report:
    """The same of others: reference → reference and name. Reasons have no names."""
    reasons = {row["end_reason"]: place for place, row in enumerate(found.rows) if "end_reason" in row}

    def named(row: Row) -> Row:
        made = dict(row)
        for kind, column in (("agent", "extension"), ("campaign", "campaign_ref")):
            if row.get(column) is not None:
                made[column], made[f"{kind}_name"] = names[row[column]]
        if row.get("end_reason") is not None:
            made["end_reason"], _ = names[THREE[reasons[row["end_reason"]]]]
        return made

    told = found.timeline
    if told:
        states, calls = (
            [each._replace(extension=names[each.extension][0] or "") for each in some]
            for some in (told.states, told.calls)
        )
        told = told._replace(states=states, calls=calls)
    rows, sums = ([named(row) for row in some] for some in (found.rows, found.by_subject))
    return replace(found, rows=rows, by_subject=sums, timeline=told)


def without_words(spec: object) -> object:
    if isinstance(spec, dict):
        return {name: without_words(value) for name, value in spec.items() if name not in WORDS}
    return [without_words(each) for each in spec] if isinstance(spec, list) else spec


def lists(spec: object) -> Iterator[list[str]]:
    """Of what each axis and legend calls its places."""
    for name, value in spec.items() if isinstance(spec, dict) else enumerate(spec) if isinstance(spec, list) else ():
        if name == "labelExpr":
            yield json.loads(value.removesuffix("[datum.value]"))
        else:
            yield from lists(value)


def test_whatever_rows_are_called_each_has_its_own_place(reports: list[Report]) -> None:
    plain = [[*parts(renamed(found, {who: (who, None) for who in THREE}))] for found in reports]
    assert sum(map(len, plain)) > 20
    text = st.sampled_from(CALLED)
    odd = st.tuples(*(st.tuples(text, st.none() | text.filter(bool)) for _ in THREE))

    @given(odd.filter(lambda each: len({reference for reference, _ in each}) == len(THREE)))
    def draw(named: tuple[tuple[str, str | None], ...]) -> None:
        for found, before in zip(reports, plain, strict=True):
            again = renamed(found, dict(zip(THREE, named, strict=True)))
            made = [*parts(again)]
            assert [without_words(spec) for *_, spec in made] == [without_words(spec) for *_, spec in before]
            if found.asked.kind in ("campaign", "agent"):
                wanted = [*map(label, again.by_subject or again.rows)]
                several = [each for *_, spec in made for each in lists(spec) if len(each) == len(THREE)]
                assert several
                assert all(sorted(each) == sorted(wanted) for each in several)

    draw()


def test_given_one_campaign_called_as_another_then_both_are_drawn(archive: Archive) -> None:
    odd = "Spring (2040)"
    calls = [{"dialed_at": NOON + day * DAY, "ref": ref} for day in (0, 1) for ref in (odd, "2040", "2040")]
    loaded(archive, *calls)
    with engine(archive.database_url) as connections:
        keep(connections, [Name("campaign", "2040", "Spring", None)])
        one, two = (ask(connections, Asked("campaign", FIRST, FIRST + timedelta(days=days))) for days in (0, 1))
    for found, ends in ((one, (1, 2)), (two, (2, 4))):
        for heading, chart in drawn(found).items():
            for svg in (chart.svg, chart.narrow):
                labels = len(re.findall(r">Spring \(2040\)<", svg))
                assert (labels > 0, labels % 2) == (heading != "Calls a day", 0), heading
        chart = drawn(found)["What came of the calls"]
        for svg in (chart.svg, chart.narrow):
            said_ = re.findall(r"<title>Spring \(2040\): (\d+) agent, of (\d+) calls", svg)
            assert sorted(said_) == [(str(end), str(end)) for end in ends]
