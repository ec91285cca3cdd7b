"""Figures by the trade's definitions: the documentation's examples come out as they do by hand, totals over days and
campaigns are those of all their calls, and what nobody knows is never a number."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from etl.reporting.charts import RATES
from etl.reporting.figures import Asked, Report, ask
from etl.reporting.page import page
from etl.reporting.rollup import rollup
from etl.reporting.shown import COLUMNS, NOT_KNOWN, notes, share, target, value
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests import reporting
from tests.integration.test_reporting_rollup import MIDNIGHT, REASONS, call, listened, status
from tests.lake import DAY, SPOOL, load
from tests.store import engine
from tests.world import Archive, cdr

pytestmark = pytest.mark.versions

PAGE = (Path(__file__).parents[2] / "docs/reports.md").read_text()
Table = list[dict[str, str]]


@pytest.fixture
def database(archive: Archive) -> Iterator[sa.Engine]:
    with engine(archive.database_url) as opened:
        yield opened


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


# -- by hand

EXAMPLES = {
    part.split("\n", 1)[0]: part
    for part in re.split(r"\n### ", PAGE.partition("## Three examples, by hand")[2].partition("\n## ")[0])[1:]
}
OPERATORS = {
    ast.Add: Fraction.__add__,
    ast.Sub: Fraction.__sub__,
    ast.Mult: Fraction.__mul__,
    ast.Div: Fraction.__truediv__,
}


def tables(text: str) -> list[Table]:
    """Each as rows by its heads."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        heads, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines())
        found.append([dict(zip(heads, row, strict=True)) for row in rows])
    return found


def worked_out(text: str) -> Fraction:
    """Of numbers, brackets and + - * /."""

    def of(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](of(node.left), of(node.right))
        assert isinstance(node, ast.Constant)
        return Fraction(str(node.value))

    return of(ast.parse(text, mode="eval").body)


def tell(archive: Archive, text: str, direction: str, calls: Table) -> None:
    for row in calls:
        numbers = {name: int(row[name]) for name in ("hold_time", "call_time")}
        about = {"contact_ref": row["contact_ref"], "end_reason": row["end_reason"], "call_dir": direction}
        load(archive, cdr(row["call_ref"], extension=row["extension"] or None, **about, **numbers))
    if previewed := re.search(r"Previewed: `(.+?)`", text):
        callees = [{"contact_ref": contact, "number": "07"} for contact in previewed[1].split()]
        message = json.dumps({"type": "dial_preview", "payload": {"callees": callees, "ref": "2040"}}).encode()
        channel = b"enigma:notifications:campaigns:2040"
        load(archive, pack_heard(UUID(int=1).bytes, from_datetime(MIDNIGHT), channel, message), key=SPOOL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_come_out_as_they_do_by_hand(archive: Archive, database: sa.Engine, example: str) -> None:
    text = EXAMPLES[example]
    direction = re.search(r"Calls of 2015-02-19, (\w+):", text)
    view = re.search(r"In `(reporting\.\w+)`", text)
    calls, *told, figures = tables(text)
    assert direction
    assert view
    assert len(figures) >= 7
    listened(archive, (0, 24))
    tell(archive, text, direction[1], calls)
    for number, row in enumerate(told[0] if told else (), 100):
        moment = datetime.fromisoformat(f"{DAY}T{row['at']}+00:00")
        load(archive, status(number, "1001", moment, row["status"]), key=SPOOL)

    rollup(database)

    (found,) = archive.rows(f"SELECT * FROM {view[1]}")
    for row in figures:
        is_ = Decimal(row["is"])
        by_hand = worked_out(row["by hand"])
        rounded = (Decimal(by_hand.numerator) / by_hand.denominator).quantize(Decimal(row["is"]), ROUND_HALF_UP)
        assert (rounded, found[row["figure"]]) == (is_, is_), row


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3


# -- totals


def random_calls(dice: Random, count: int) -> Iterator[bytes]:
    for number in range(count):
        at = MIDNIGHT + timedelta(seconds=dice.randrange(3 * 86_400))
        yield cdr(
            number,
            dialed_at=seconds(at),
            ref=dice.choice(["2040", "2041", "3001"]),
            call_dir=dice.choice(["outbound", "inbound", "inbound", "internal"]),
            end_reason=dice.choice(REASONS),
            extension=dice.choice(["1", "2", None]),
            contact_ref=dice.choice(["M1", "M2", "M3", "", None]),
            hold_time=dice.choice([None, 3, 5, 6, 19, 20, 21, dice.randrange(300)]),
        )


@pytest.mark.parametrize(("in_time", "short"), [(20, 5), (0, 0), (35, 19)])
def test_totals_are_those_of_all_their_calls(
    archive: Archive, database: sa.Engine, monkeypatch: pytest.MonkeyPatch, in_time: int, short: int
) -> None:
    load(archive, *random_calls(Random(in_time), 300))
    rollup(database)
    # At once, without another rollup.
    archive.rows(
        "UPDATE reporting.settings SET service_level_seconds = %s, short_abandon_seconds = %s RETURNING 1",
        in_time,
        short,
    )
    monkeypatch.setattr(reporting, "IN_TIME", in_time)
    monkeypatch.setattr(reporting, "SHORT", short)
    calls = [call(row) for row in archive.rows("SELECT * FROM cdrs")]
    last = DAY + timedelta(days=2)
    campaigns, hours = (ask(database, Asked(kind, DAY, last)) for kind in ("campaign", "hours"))

    for found in (campaigns, hours):
        assert found.total is not None
        assert_same(found.total, calls)
        for row in found.rows:
            assert_same(row, [each for each in calls if is_of(each, row)])
    assert len(hours.rows) > 40
    assert len(campaigns.by_subject) == 3
    for row in campaigns.by_subject:
        assert_same(row, [each for each in calls if each.campaign == row["campaign_ref"]])


def is_of(one: reporting.Call, row: dict[str, Any]) -> bool:
    if "hour" in row:
        return bool(one.dialed_at.replace(minute=0, second=0) == row["hour"])
    return bool((one.dialed_at.date(), one.campaign) == (row["day"], row["campaign_ref"]))


def assert_same(row: dict[str, Any], calls: list[reporting.Call]) -> None:
    wanted = reporting.outbound(calls) | reporting.inbound(calls)
    there = {name: wanted[name] for name in wanted if name in row and row.get(name) is not None}
    assert {name: row[name] for name in there} == there
    # What sums don't give is null, and so is what there's none of.
    missing = {name for name in wanted if name in row and row[name] is None and wanted[name] is not None}
    assert missing <= {name for name in wanted if "contact" in name}


# -- what nobody knows


def shown(found: Report, row: dict[str, Any]) -> dict[str, str]:
    return {column.name: value(row, column, found) for column in COLUMNS[found.asked.kind]}


def test_the_time_of_agents_nobody_heard_of_is_not_known(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1, extension="1001"), cdr(2, extension="1002"))
    listened(archive, (0, 24))
    for number, (hour, what) in enumerate([(9, "available"), (10, "busy"), (11, "offline")]):
        load(archive, status(number, "1002", MIDNIGHT + timedelta(hours=hour), what), key=SPOOL)
    rollup(database)

    found = ask(database, Asked("agent", DAY, DAY))

    rows = {row["extension"]: row for row in found.rows}
    for name in ("logged_in_seconds", "available_seconds", "busy_seconds", "wrapup_seconds", "occupancy"):
        assert rows["1001"][name] is None
        assert shown(found, rows["1001"])[name] == NOT_KNOWN
    assert (rows["1002"]["logged_in_seconds"], rows["1002"]["wrapup_seconds"]) == (7_200, 0)
    assert found.total is not None
    assert (found.total["logged_in_seconds"], found.total["aht_of"]) == (7_200, "talk + hold")
    assert any("1 of 2 agents' days have no state that is known" in note for note in notes(found))


def test_figures_of_an_etl_before_are_not_known_and_no_zero(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1), cdr(2, dialed_at=seconds(MIDNIGHT + timedelta(days=1))))
    rollup(database)
    new = [
        row["attname"]
        for row in archive.rows(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'reporting.campaign_figures'::regclass"
            " AND (attname ~ '^(inbound|outbound|waits)' OR attname = 'unknown_dispositions')"
        )
    ]
    assert len(new) >= 17
    nothing = ", ".join(f"{name} = NULL" for name in new)
    archive.rows(f"UPDATE reporting.campaign_figures SET {nothing} WHERE day = '{DAY}' RETURNING 1")

    of_both = ask(database, Asked("campaign", DAY, DAY + timedelta(days=1)))

    assert of_both.total is not None
    assert (of_both.total["attempts"], of_both.total["outbound_attempts"]) == (2, None)
    old, new_ = sorted(of_both.rows, key=lambda row: str(row["day"]))
    named = [column for column in COLUMNS["campaign"] if column.side]
    assert {old[column.name] for column in named} == {None}
    said = shown(of_both, old)
    assert {said[column.name] for column in named} == {NOT_KNOWN}
    assert new_["outbound_attempts"] == 1
    assert any("`etl rollup --all`" in note for note in notes(of_both))


def test_without_previews_the_list_penetration_is_not_known(archive: Archive, database: sa.Engine) -> None:
    load(archive, cdr(1))
    rollup(database)

    found = ask(database, Asked("campaign", DAY, DAY))

    assert shown(found, found.rows[0])["list_penetration"] == NOT_KNOWN


# -- last week, targets


def test_last_weeks_same_days_stand_beside(archive: Archive, database: sa.Engine) -> None:
    for weeks, calls in ((0, 1), (1, 2), (2, 4)):
        moment = MIDNIGHT - timedelta(days=7 * weeks)
        load(archive, *(cdr(10 * weeks + n, dialed_at=seconds(moment)) for n in range(calls)))
    rollup(database)
    for days, weeks, calls in ((1, 1, 2), (7, 1, 2), (8, 2, 6)):
        found = ask(database, Asked("campaign", DAY, DAY + timedelta(days=days - 1)))
        before = found.last_week
        assert before.first == DAY - timedelta(days=7 * weeks)
        assert before.last - before.first == timedelta(days=days - 1)
        assert before.total is not None
        assert before.total["attempts"] == calls
    assert ask(database, Asked("reasons", DAY - timedelta(days=14), DAY - timedelta(days=14))).last_week.total is None


@pytest.mark.parametrize(
    ("setting", "aim", "figure", "said"),
    [
        ("target_outbound_abandon_rate", "0.03", "outbound_abandon_rate", ("target at most 3.0%, missed", False)),
        ("target_outbound_abandon_rate", "0.5", "outbound_abandon_rate", ("target at most 50.0%, met", True)),
        ("target_service_level", "0.8", "service_level", ("target at least 80.0%, missed", False)),
        ("target_service_level", "0.5", "service_level", ("target at least 50.0%, met", True)),
        ("target_speed_of_answer", "2", "average_speed_of_answer", ("target at most 0:02, missed", False)),
        ("target_inbound_abandon_rate", "0", "inbound_abandon_rate", ("target at most 0.0%, met", True)),
        (None, None, "service_level", None),
    ],
)
def test_a_target_is_said_to_be_met_or_missed(
    archive: Archive,
    database: sa.Engine,
    setting: str | None,
    aim: str | None,
    figure: str,
    said: tuple[str, bool] | None,
) -> None:
    load(archive, cdr(1), cdr(2, extension=None))
    load(archive, *(cdr(10 + n, ref="3001", call_dir="inbound", hold_time=hold) for n, hold in enumerate((3, 30))))
    rollup(database)
    if setting:
        archive.rows(f"UPDATE reporting.settings SET {setting} = {aim} RETURNING 1")

    found = ask(database, Asked("campaign", DAY, DAY))

    (column,) = (each for each in COLUMNS["campaign"] if each.name == figure)
    assert target(column, found) == said
    html = page(found)
    assert (said is None) == ("target" not in html.replace("Target:", ""))
    if said:
        assert f'<dd class="{"met" if said[1] else "missed"}">{said[0]}</dd>' in html
    if said and aim and figure in RATES.values():
        assert f"<title>target {share(Decimal(aim))}</title>" in html
        assert "Dashed: the target" in html


@pytest.mark.parametrize(
    "nonsense", ["target_service_level = 80", "short_abandon_seconds = -1", "service_level_seconds = NULL"]
)
def test_settings_that_cannot_be_are_refused(archive: Archive, nonsense: str) -> None:
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        archive.rows(f"UPDATE reporting.settings SET {nonsense} RETURNING 1")


# -- machines and dispositions


def test_dispositions_that_say_machine_are_machines_others_are_not(archive: Archive, database: sa.Engine) -> None:
    machines = ["voicemail", "machine_left_message", "ANSWERING MACHINE", "Voice-Mail", "answerphone"]
    others = ["callee_hungup", "enihcam", "wrong_party", "amd?"]
    reasons = [*machines, *others]
    load(archive, *(cdr(number, end_reason=reason) for number, reason in enumerate(reasons)))
    found = {row["end_reason"]: row for row in archive.rows("SELECT * FROM reporting.calls")}
    assert [reason for reason in reasons if found[reason]["machine"]] == machines
    assert [reason for reason in reasons if not found[reason]["outcome_known"]] == others[1:]

    archive.rows(
        "INSERT INTO reporting.end_reasons VALUES ('wrong_party', true, 'Not who was wanted', 'agent') RETURNING 1"
    )
    archive.rows("INSERT INTO reporting.end_reasons VALUES ('amd?', true, 'A machine', 'dialler', true) RETURNING 1")
    rollup(database, everything=True)
    (row,) = archive.rows("SELECT * FROM reporting.campaign_days")
    assert (row["outbound_machines"], row["unknown_dispositions"]) == (len(machines) + 1, 1)
    report = ask(database, Asked("reasons", DAY, DAY))
    assert any(others[1] in note for note in notes(report))


def test_a_preview_that_is_no_list_costs_no_other_figure(archive: Archive, database: sa.Engine) -> None:
    listened(archive, (0, 24))
    load(archive, cdr(1), cdr(2, ref="2041"))
    bodies: list[dict[str, object]] = [
        {"callees": "none"},
        {},
        {"callees": [1, None, "x", {"number": ""}, {"contact_ref": "M1"}]},
        {"callees": []},
    ]
    for number, body in enumerate(bodies):
        message = json.dumps({"type": "dial_preview", "payload": {**body, "ref": "2040"}}).encode()
        event = pack_heard(
            UUID(int=number).bytes, from_datetime(MIDNIGHT), b"enigma:notifications:campaigns:2040", message
        )
        load(archive, event, key=SPOOL)
    load(archive, status(9, "1001", MIDNIGHT + timedelta(hours=1), "busy"), key=SPOOL)

    rollup(database)

    found = {row["campaign_ref"]: row for row in archive.rows("SELECT * FROM reporting.campaign_days")}
    assert (found["2040"]["contacts_previewed"], found["2041"]["contacts_previewed"]) == (1, None)
    assert archive.value("SELECT count(*) FROM reporting.status_changes") == 1
