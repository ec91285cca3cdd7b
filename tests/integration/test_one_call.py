"""One call, one row: whatever the spelling of its messages, their order, and how they come to claims and workers."""

import itertools
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.ids import new_id
from etl.store.ledger import Books
from etl.store.writer import Writer
from tests.budget import examples
from tests.store import at_once, batch, engine, write
from tests.world import DIALED_AT, Archive, cdr

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dialler.jsonl"
MIDNIGHT = datetime(2015, 2, 20, tzinfo=UTC)

numbers = itertools.count(1)

# -- any messages of one call that don't contradict each other

NUMBERS = {"call_time": 41, "hold_time": 0, "ring_time": -3, "end_code": 16}
OTHER_NAMES = {"hold_time": "hold_time_number", "ring_time": "ring_time_number", "end_code": "isdn_code"}
TEXTS_A = {
    "extension": "1002",
    "number": "0741484437",
    "dial_number": "0126543210",
    "recording_url": "/recordings/88.WAV",
    "contact_ref": "M0042",
    "end_reason": "callee_hungup",
    "call_dir": "outbound",
    "ref": "2040",
}
TEXTS_B = {"uuid": "0f0b2d3e-37513063", "agent": "1002", "recording_location": "/recordings/88.WAV"}
MOMENTS_B = ("callee_answered_at", "agent_answered_at", "ended_at")


class Sent(NamedTuple):
    """A message, and the columns that it has a value for."""

    message: dict[str, Any]
    columns: dict[str, Any]


def spellings(number: int) -> list[Any]:
    text = str(number)
    sign, digits = ("-", text[1:]) if number < 0 else ("+", text)
    return [
        number,
        text,
        f" {text} ",
        f"{sign}{digits}",
        f"{'-' if number < 0 else ''}00{digits}",
        float(number),
        f"{text}.0",
    ]


@st.composite
def moments(draw: st.DrawFn, base: datetime) -> tuple[datetime, Any]:
    """At most ten seconds after the base, and as it's spelt."""
    moment = base + timedelta(seconds=draw(st.integers(0, 9)), milliseconds=draw(st.sampled_from([0, 250, 500])))
    zone = (moment + timedelta(hours=2)).replace(tzinfo=None)
    spelt: list[Any] = [f"{zone.isoformat()}+02:00", moment.isoformat().replace("+00:00", "Z")]
    if moment.microsecond == 0:
        unix = int(moment.timestamp())
        spelt += [unix, str(unix), f" {unix} ", f"{zone:%Y-%m-%d %H:%M:%S} +0200", f"{moment:%Y-%m-%d %H:%M:%S} UTC"]
    return moment, draw(st.sampled_from(spelt))


@st.composite
def messages(draw: st.DrawFn, base: datetime) -> Sent:
    dialect = draw(st.sampled_from("AB"))
    moment, spelt = draw(moments(base))
    payload: dict[str, Any] = {"call_ref": None, "dialed_at": spelt}
    columns: dict[str, Any] = {"dialed_at": moment}
    renamed = {"agent": "extension", "recording_location": "recording_url", "ref": "campaign_ref"}
    for name, value in (TEXTS_A if dialect == "A" else TEXTS_B).items():
        if draw(st.booleans()):
            payload[name] = value
            columns[renamed.get(name, name)] = value
        elif draw(st.booleans()):
            payload[name] = None
    if dialect == "A":
        for name, number in NUMBERS.items():
            if draw(st.booleans()):
                payload[draw(st.sampled_from([name, OTHER_NAMES.get(name, name)]))] = draw(
                    st.sampled_from(spellings(number))
                )
                columns[name] = number
            elif draw(st.booleans()):
                payload[name] = draw(st.sampled_from(["", None]))
        if draw(st.booleans()):
            payload["call_trail_number"] = draw(st.sampled_from([1, "1", "01", 1.0, None, ""]))
    else:
        for name, column in zip(MOMENTS_B, ("answered_at", "connected_at", "ended_at"), strict=True):
            if draw(st.booleans()):
                at = base + timedelta(seconds=60)
                fraction = draw(st.sampled_from([0, 354]))
                payload[name] = (at + timedelta(milliseconds=fraction)).isoformat()
                columns[column] = max(columns.get(column, at), at + timedelta(milliseconds=fraction))
    if draw(st.booleans()):
        payload["note"] = "x"
    return Sent({"type": "cdr" if dialect == "A" else "call_update", "payload": payload}, columns)


@st.composite
def calls(draw: st.DrawFn) -> list[Sent]:
    base = draw(st.sampled_from([MIDNIGHT - timedelta(hours=3), *(MIDNIGHT - timedelta(seconds=s) for s in (1, 5, 9))]))
    return draw(st.lists(messages(base), min_size=1, max_size=6))


def truth(sent: list[Sent]) -> dict[str, Any]:
    """What the row must be, by all messages together."""
    columns: dict[str, Any] = {}
    for each in sent:
        for name, value in each.columns.items():
            known = columns.get(name, value)
            columns[name] = max(known, value) if name in ("answered_at", "connected_at", "ended_at") else value
    dialed = [each.columns["dialed_at"] for each in sent]
    columns["dialed_at"] = min(dialed, key=lambda at: (at.replace(microsecond=0), at.microsecond == 0, at))
    columns["extra"] = {"note": "x"} if any("note" in each.message["payload"] for each in sent) else None
    return columns


@settings(
    max_examples=examples(0.8), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
)
@given(sent=calls(), seed=st.integers(0, 10_000))
def test_given_any_messages_of_a_call_then_its_row_is_the_same(
    archive: Archive, writer: Writer, sent: list[Sent], seed: int
) -> None:
    call_ref, dice = f"call {next(numbers)}", random.Random(seed)
    raw = [json.dumps({**s.message, "payload": {**s.message["payload"], "call_ref": call_ref}}).encode() for s in sent]
    dice.shuffle(raw)
    cuts = sorted(dice.choices(range(len(raw) + 1), k=2))
    claims = [batch(some, new_id()) for some in (raw[: cuts[0]], raw[cuts[0] : cuts[1]], raw[cuts[1] :]) if some]
    dice.shuffle(claims)

    books = sum(filter(None, map(writer.write, claims)), Books())

    (row,) = archive.rows("SELECT * FROM cdrs WHERE call_ref = %s", call_ref)
    expected = truth(sent)
    assert {name: row[name] for name in expected} == expected
    assert row["leg"] == 0
    assert all(row[name] is None for name in row.keys() - expected.keys() - ALWAYS)
    assert archive.value("SELECT count(*) FROM cdr_revisions WHERE call_ref = %s", call_ref) == 0
    assert (books.claimed, books.inserted, books.dead) == (len(raw), 1, 0)


ALWAYS = {"dialed_on", "source", "call_ref", "leg", "batch_id", "loaded_at"}


# -- what the published dialler wrote


def lists() -> dict[tuple[str, str], list[bytes]]:
    """The lists of its two servers, and what it pushed onto them, in order."""
    found: dict[tuple[str, str], list[bytes]] = {}
    for line in FIXTURE.read_text().splitlines():
        each = json.loads(line)
        if "list" in each:
            found.setdefault((each["redis"], each["list"]), []).append(each["raw"].encode())
    return found


@pytest.mark.parametrize("seed", range(12))
def test_given_the_diallers_messages_in_any_order_then_ten_calls_ten_rows(
    archive: Archive, database_url: str, seed: int
) -> None:
    dice, everything = random.Random(seed), lists()
    claims = []
    for messages_of_one in everything.values():
        shuffled = dice.sample(messages_of_one, len(messages_of_one))
        cut = dice.randint(0, len(shuffled))
        claims += [some for some in (shuffled[:cut], shuffled[cut:]) if some]
    dice.shuffle(claims)
    batches = [batch(some, new_id()) for some in claims]
    dice.shuffle(batches)

    with engine(database_url) as one, engine(database_url) as other:
        workers = [Writer(one), Writer(other)]

        def load(number: int) -> Books:
            return sum(filter(None, [workers[number].write(each) for each in batches[number::2]]), Books())

        books = sum(at_once(partial(load, 0), partial(load, 1)), Books())

    call_refs = [row["call_ref"] for row in archive.rows("SELECT call_ref FROM cdrs ORDER BY 1")]
    assert call_refs == [str(n) for n in range(1001, 1011)]
    both = "SELECT count(*) FROM cdrs WHERE uuid IS NOT NULL AND number IS NOT NULL AND leg = 0"
    assert archive.value(both) == 10
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0
    pushed = [json.loads(raw) for some in everything.values() for raw in some]
    statuses = [each for each in pushed if each["type"] not in ("cdr", "call_update", None)]
    assert books == replace(books, claimed=len(pushed), inserted=10, events=len(statuses), dead=0)
    assert archive.value("SELECT count(*) FROM audit_events") == len(statuses)
    archive.assert_books_balance()


def test_given_a_dead_correction_of_its_claim_if_replayed_then_it_counts(archive: Archive) -> None:
    """A letter counts as before its whole claim, also before what lay in front of it on the list."""
    archive.push(cdr(1, end_reason="timeout", call_time=0, end_code=None))
    archive.push(b'{"type": "cdr", "payload": 5}')
    archive.load()
    correction = cdr(1, end_reason="agent_hungup", call_time=77, end_code="16")
    archive.rows("UPDATE dead_letters SET raw = %s RETURNING 1", correction)  # as 0.1 buried it

    assert "1 are stored now" in archive.run("dead", "replay").stdout

    assert archive.cdr(1)["end_reason"] == "agent_hungup"


@pytest.mark.parametrize("number", ["1e-20000", "1e-999999"])
def test_given_a_tiny_fraction_then_the_call_is_kept(archive: Archive, writer: Writer, number: str) -> None:
    """PROTOCOL: a JSON number with a fraction isn't worth losing a call. jsonb has no room for this one."""
    write(
        writer, b'{"type":"cdr","payload":{"call_ref":"1","dialed_at":%d,"end_code":%s}}' % (DIALED_AT, number.encode())
    )
    assert archive.value("SELECT count(*) FROM cdrs") == 1
