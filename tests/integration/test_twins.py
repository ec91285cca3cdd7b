"""Calls that look like one call in two rows are told: by `reporting.twins`, `reporting.load_days`, reports and `etl
reconcile`. What isn't one call in two rows, is not."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from etl.reporting.rollup import rollup
from tests.integration.test_reporting_views import ANY_PARTITION
from tests.lake import DAY, export_and_prune, load, on, restore, with_lake
from tests.rows import BEGIN, ONLY_A, ONLY_B, row, store
from tests.store import engine
from tests.world import CDRS, Archive, api_cdr, cdr

MIDNIGHT = datetime(2015, 2, 20, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
BOTH: Mapping[str, Any] = {**ONLY_A, **ONLY_B}
DIALECTS = {"a": ONLY_A, "b": ONLY_B, "both": BOTH}


@pytest.fixture
def database(archive: Archive) -> Iterator[sa.Engine]:
    with engine(archive.database_url) as opened:
        yield opened


def kinds(archive: Archive) -> list[tuple[str, date, str]]:
    rows = archive.rows("SELECT call_ref, day, kind FROM reporting.twins ORDER BY call_ref, day, kind")
    return [(each["call_ref"], each["day"], each["kind"]) for each in rows]


def test_what_0_1_made_of_a_call_with_a_leg_is_told(archive: Archive) -> None:
    """A with leg 1, B with none: whichever of them has more by now."""
    for number, (first, second) in enumerate(product(DIALECTS.values(), repeat=2)):
        store(archive, row(number, leg=0, **first), row(number, leg=1, **second))

    assert kinds(archive) == [(str(number), DAY, "leg") for number in range(9)]
    (told,) = archive.rows("SELECT * FROM reporting.twins WHERE call_ref = '0'")
    assert [told[f"first_{name}"] for name in ("dialed_on", "leg", "dialed_at")] == [DAY, 0, BEGIN]
    assert [told[f"second_{name}"] for name in ("dialed_on", "leg", "dialed_at")] == [DAY, 1, BEGIN]


def test_the_legs_of_a_transfer_are_no_twins(archive: Archive) -> None:
    for dialect, about in DIALECTS.items():
        store(archive, *(row(f"all {dialect}", leg=leg, **about) for leg in (0, 2, 3)))
    store(archive, row("b came once", **BOTH), *(row("b came once", leg=leg, **ONLY_A) for leg in (2, 3)))
    assert kinds(archive) == []

    store(archive, row("b beside a", **ONLY_B), row("b beside a", leg=2, **ONLY_A))
    assert kinds(archive) == [("b beside a", DAY, "leg")]


def test_a_call_on_two_days_is_told_if_a_dialect_lacks(archive: Archive) -> None:
    wanted = []
    for before, after in product(DIALECTS, repeat=2):
        name = f"{before} {after}"
        store(archive, row(name, MIDNIGHT - SECOND, **DIALECTS[before]), row(name, MIDNIGHT, **DIALECTS[after]))
        if before != after:
            wanted.append((name, DAY, "day"))
    assert kinds(archive) == wanted
    assert len(wanted) == 6


@pytest.mark.parametrize(
    ("apart", "legs", "is_told"),
    [
        (14 * HOUR, (0, 0), True),
        (14 * HOUR + SECOND, (0, 0), False),
        (SECOND, (0, 1), True),
        (SECOND, (1, 0), True),
        (SECOND, (2, 2), True),
        (SECOND, (1, 2), False),
        (SECOND, (2, 3), False),
    ],
)
def test_twins_of_two_days_are_near_and_of_one_leg(
    archive: Archive, apart: timedelta, legs: tuple[int, int], is_told: bool
) -> None:
    """Whichever came under which day: nothing says that it is that of dialed_at."""
    early, late = MIDNIGHT - apart / 2, MIDNIGHT + apart / 2
    for number, (first, second) in enumerate([(early, late), (late, early)], 1):
        before = row(number, first, legs[0], **ONLY_A) | {"dialed_on": DAY}
        store(archive, before, row(number, second, legs[1], **ONLY_B) | {"dialed_on": NEXT})
    assert kinds(archive) == ([("1", DAY, "day"), ("2", DAY, "day")] if is_told else [])


def test_other_calls_and_days_that_are_no_neighbours_are_no_twins(archive: Archive) -> None:
    store(archive, row(1, MIDNIGHT - SECOND, **ONLY_A), row(2, MIDNIGHT, **ONLY_B))
    store(archive, row(3, **ONLY_A), row(3, source="click2dial", leg=1, **ONLY_A))
    store(archive, row(4, **ONLY_A), row(4, BEGIN + 2 * timedelta(days=1), **ONLY_B))
    assert kinds(archive) == []


@pytest.mark.parametrize("dialect", ["a", "b"])
def test_given_one_dialect_only_then_nothing_is_a_twin(archive: Archive, database: sa.Engine, dialect: str) -> None:
    """References that come again every day, on both sides of midnight, with legs of transfers."""
    moments = [MIDNIGHT + timedelta(days=n) + offset * SECOND for n in range(3) for offset in (-1, 1)]
    store(archive, *(row(ref, at, leg, **DIALECTS[dialect]) for ref, at in enumerate(moments) for leg in (0, 2)))
    store(archive, *(row("again", MIDNIGHT + timedelta(hours=n), **DIALECTS[dialect]) for n in (-20, -1 - 24, 1, 30)))
    assert kinds(archive) == []
    rollup(database)
    assert {each["twins"] for each in archive.rows("SELECT twins FROM reporting.load_days")} == {0}


# -- against a plain computation


def test_the_view_lists_what_a_plain_computation_finds(archive: Archive) -> None:
    dice = Random(5)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(1_200):
        at = MIDNIGHT + timedelta(days=dice.choice([-1, 0, 1, 2]), seconds=dice.choice([-1, 0, 30_000, 50_000, 80_000]))
        about = dice.choice([*DIALECTS.values(), {}, {"answered_at": at}, {"ended_at": at, "end_code": 0}])
        new = row(dice.randrange(90), at, dice.choice([0, 0, 0, 1, 2]), **about)
        rows[new["dialed_on"], new["call_ref"], new["leg"]] = new
    store(archive, *rows.values())

    found = archive.rows("SELECT * FROM reporting.twins")
    key = ("call_ref", "first_dialed_on", "first_leg", "second_dialed_on", "second_leg")
    told = {tuple(each[name] for name in key) for each in found}
    wanted = {
        (a["call_ref"], a["dialed_on"], a["leg"], b["dialed_on"], b["leg"])
        for a, b in combinations(sorted(rows.values(), key=lambda each: (each["dialed_on"], each["leg"])), 2)
        if a["call_ref"] == b["call_ref"] and are_twins(a, b)
    }
    assert told == wanted
    assert len(found) == len(wanted) > 100
    assert all(each["day"] == each["first_dialed_on"] for each in found)


def are_twins(a: dict[str, Any], b: dict[str, Any]) -> bool:
    of_a, of_b = dialects(a), dialects(b)
    if a["dialed_on"] == b["dialed_on"]:
        return {a["leg"], b["leg"]} == {0, 1} or (len(of_a) == len(of_b) == 1 and of_a != of_b)
    near = abs(a["dialed_at"] - b["dialed_at"]) <= 14 * HOUR and b["dialed_on"] - a["dialed_on"] == timedelta(days=1)
    return near and (a["leg"] or 1) == (b["leg"] or 1) and 1 in (len(of_a), len(of_b)) and of_a != of_b


def dialects(call: dict[str, Any]) -> set[str]:
    if not any(call.get(name) for name in ("uuid", "answered_at", "connected_at", "ended_at")):
        return {"a"}
    only_a = ("number", "dial_number", "call_time", "hold_time", "ring_time", "contact_ref", "end_code")
    return {"b", "a"} if any(call.get(name) is not None for name in only_a) else {"b"}


# -- days that only the lake has


def test_a_call_whose_twin_may_be_in_the_lake_is_told(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1, dialed_at=int(MIDNIGHT.timestamp()) - 1), on(2, "other"))
    store(archive, row("before", MIDNIGHT + SECOND, **ONLY_B))
    export_and_prune(archive)
    late = {
        "near": (MIDNIGHT, ONLY_B),
        "still near": (MIDNIGHT + 10 * SECOND, ONLY_A),
        "under the other day": (MIDNIGHT - 3 * SECOND, ONLY_A),
        "too far": (MIDNIGHT + 11 * SECOND, ONLY_B),
        "complete": (MIDNIGHT, BOTH),
        "at the other end": (MIDNIGHT + timedelta(days=1) - SECOND, ONLY_B),
    }
    store(archive, *(row(name, at, **about) | {"dialed_on": NEXT} for name, (at, about) in late.items()))

    wanted = [(name, NEXT, "day in the lake") for name in ("near", "still near", "under the other day")]
    assert kinds(archive) == wanted
    found = archive.rows("SELECT * FROM reporting.twins")
    assert {each[f"second_{name}"] for each in found for name in ("dialed_on", "leg", "dialed_at")} == {None}
    restore(archive)
    assert kinds(archive) == []


# -- costs


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_a_question_of_a_day_is_asked_of_it_and_its_neighbours(archive: Archive, zone: str) -> None:
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", zone)
    store(archive, *(row(n, BEGIN + timedelta(days=n)) for n in range(-9, 10)))

    plan = archive.rows(f"EXPLAIN SELECT count(*) FROM reporting.twins WHERE day = '{DAY}'")
    days = {name for line in plan for value in line.values() for name in ANY_PARTITION.findall(value)}
    assert days == {f"{DAY:%Y%m%d}", f"{NEXT:%Y%m%d}"}
    books = archive.rows("EXPLAIN SELECT day, twins FROM reporting.load_days")
    assert not ANY_PARTITION.search(str(books))


# -- what is kept


def kept(archive: Archive) -> dict[date, int | None]:
    return {each["day"]: each["twins"] for each in archive.rows("SELECT day, twins FROM reporting.load_days")}


def test_load_days_has_what_the_last_whole_rollup_counted(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1), cdr(2), on(3, 3))
    later = DAY + timedelta(days=3)
    assert kept(archive) == {DAY: None, later: None}
    rollup(database, since=datetime.now(UTC) - HOUR)
    assert kept(archive) == {DAY: None, later: None}, "what is done every ten minutes must be quick"
    assert rollup(database) == []
    assert kept(archive) == {DAY: 0, later: 0}

    store(archive, row(1, leg=1, **ONLY_A), row(2, leg=1, **ONLY_A))
    assert kept(archive) == {DAY: 0, later: 0}
    assert rollup(database) == [DAY]
    assert kept(archive) == {DAY: 2, later: 0}

    archive.rows("DELETE FROM cdrs WHERE leg = 1 AND call_ref = '1' RETURNING 1")  # united, which the ledger knows
    store(archive, row(4))
    rollup(database)
    assert kept(archive) == {DAY: 1, later: 0}


def test_a_row_of_the_next_day_makes_a_twin_of_this_one(archive: Archive, database: sa.Engine) -> None:
    store(archive, row(1, MIDNIGHT - SECOND, **ONLY_A), row("any", MIDNIGHT))
    rollup(database)
    assert kept(archive) == {DAY: 0, NEXT: 0}
    store(archive, row(1, MIDNIGHT, **ONLY_B))
    assert rollup(database) == [NEXT]
    assert kept(archive) == {DAY: 1, NEXT: 0}


def test_after_a_rollup_of_0_1_twins_are_counted_anew(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1))
    rollup(database)
    store(archive, row(1, leg=1, **ONLY_A))
    archive.rows("UPDATE reporting.rolled_up SET entries = 2, refreshed_at = now() WHERE dataset = 'cdrs' RETURNING 1")
    assert rollup(database) == []
    assert kept(archive) == {DAY: 1}


def test_a_forgotten_day_keeps_its_number_of_twins(archive: Archive, database: sa.Engine, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1))
    store(archive, row(1, leg=1, **ONLY_A))
    rollup(database)
    export_and_prune(archive)
    rollup(database, everything=True)
    load(archive, cdr(2))
    store(archive, row(2, leg=1, **ONLY_A))  # late, and not all that there is of the day
    rollup(database)
    assert kept(archive) == {DAY: 1}


# -- commands


def test_reconcile_and_reports_tell_of_twins(archive: Archive, database: sa.Engine, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1), on(1, 2))
    load(archive, api_cdr(1), key=CDRS)
    silent = archive.run("reconcile")
    assert (silent.returncode, "two rows" in silent.stdout) == (0, False)
    store(archive, row(1, leg=1, **ONLY_A))
    rollup(database)

    told = archive.run("reconcile", "--json")
    assert [(day["day"], day["twins"]) for day in json.loads(told.stdout)["days"]] == [(str(DAY), 1), (str(NEXT), 0)]
    shown = archive.run("reconcile")
    assert (told.returncode, shown.returncode) == (0, 0)
    assert "1 calls look like one call in two rows, and are counted twice" in " ".join(shown.stdout.split())
    assert "`etl reconcile --unite` unites" in " ".join(shown.stdout.split())
    report = archive.run("report", "campaign", "--day", str(DAY), "--format", "json")
    notes = json.loads(report.stdout)["notes"]
    assert f"1 calls of {DAY} look like one call in two rows, and are counted twice: see `etl reconcile`" in notes

    export_and_prune(archive)
    told = archive.run("reconcile", "--json")
    assert [day["twins"] for day in json.loads(told.stdout)["days"]] == [None, 0], "of the lake nobody knows"
