"""What was sent can be told from what is stored, through Redis, the loader and Postgres; and what can't be stored is a
dead letter that takes nothing else with it."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from etl.settings import SourceSettings
from etl.wire.cdr import DISPOSITIONS
from tests.broken import BROKEN, GOOD_EVENT
from tests.budget import examples
from tests.wire import (
    ANY_JSON,
    PAYLOADS_A,
    PAYLOADS_B,
    Json,
    Number,
    Spelled,
    call,
    exactly,
    having,
    texts,
    typed,
    write,
)
from tests.world import DIALED_AT, Archive, api_cdr, cdr

# Which column tells what of a documented field; those that aren't here have none.
COLUMNS = {
    "call_ref": "call_ref",
    "dialed_at": "dialed_at",
    "extension": "extension",
    "agent": "extension",
    "number": "number",
    "dial_number": "dial_number",
    "clid": "dial_number",
    "recording_url": "recording_url",
    "recording_location": "recording_url",
    "contact_ref": "contact_ref",
    "call_time": "call_time",
    "hold_time": "hold_time",
    "hold_time_number": "hold_time",
    "ring_time": "ring_time",
    "ring_time_number": "ring_time",
    "end_reason": "end_reason",
    "disposition": "end_reason",
    "end_code": "end_code",
    "isdn_code": "end_code",
    "call_dir": "call_dir",
    "ref": "campaign_ref",
    "call_trail_number": "leg",
    "uuid": "uuid",
    "callee_answered_at": "answered_at",
    "agent_answered_at": "connected_at",
    "ended_at": "ended_at",
}
NUMBERS = {"call_time", "hold_time", "ring_time", "end_code", "leg"}

_serial = itertools.count()
# Every example of a test goes through stores of the same test: a source of its own keeps them apart. A failing example
# is shown as it was found: to shrink it through the stores would take minutes.
through_the_stores = settings(
    max_examples=examples(0.5),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)


def load(archive: Archive, *messages: bytes, kind: str = "campaigns") -> str:
    """Load them in one claim, from a list of their own. Gives the name of its system, which is the CDRs' `source`."""
    system = f"system-{next(_serial)}"
    key = f"{system}:{kind}"
    archive.sources = [SourceSettings(key=key, source=system)]
    archive.push(*messages, key=key)
    books = archive.load()
    assert books.claimed == len(messages)
    return system


def stored(archive: Archive, system: str) -> list[dict[str, Any]]:
    """The CDRs of a system; `extra` with every digit."""
    columns = ", ".join(sorted({*COLUMNS.values()}))
    rows = archive.rows(f"SELECT {columns}, dialed_on, extra::text FROM cdrs WHERE source = %s", system)
    return [{**row, "extra": exactly(row["extra"] or "{}")} for row in rows]


def dead_letters(archive: Archive, system: str) -> list[tuple[str, bytes]]:
    rows = archive.rows(
        "SELECT reason, raw FROM dead_letters WHERE source_key LIKE %s ORDER BY position", f"{system}:%"
    )
    return [(row["reason"], row["raw"]) for row in rows]


def meaning(name: str, value: Json) -> object:
    """What the column of this field says about it."""
    if isinstance(value, Spelled):
        return value.moment
    if isinstance(value, Number):
        return 0 if name == "call_trail_number" and value.value == 1 else value.value
    if name == "disposition":
        return DISPOSITIONS.get(value, value)
    return value if COLUMNS[name] in NUMBERS else str(value)


def assert_nothing_lost(payload: dict[str, Json], row: dict[str, Any]) -> None:
    for name, value in payload.items():
        if name in row["extra"]:
            assert row["extra"][name] == typed(value), name
        else:
            # A documented null says as much as an absent field.
            assert name in COLUMNS, name
            assert value is None or meaning(name, value) in (None, row[COLUMNS[name]]), name


def assert_nothing_invented(payload: dict[str, Json], row: dict[str, Any]) -> None:
    said = {(COLUMNS[name], meaning(name, value)) for name, value in payload.items() if name in COLUMNS}
    told = {(column, row[column]) for column in COLUMNS.values() if row[column] is not None}
    assert told - {("leg", 0)} <= said
    assert row["extra"].keys() <= payload.keys()
    assert row["dialed_on"] == row["dialed_at"].astimezone(UTC).date()


CALLS = st.tuples(st.sampled_from(["cdr", None]), PAYLOADS_A) | st.tuples(st.just("call_update"), PAYLOADS_B)
SOME_CALLS = st.lists(CALLS, min_size=1, max_size=8, unique_by=lambda call: str(call[1]["call_ref"]))


@through_the_stores
@given(SOME_CALLS, st.booleans(), st.booleans())
def test_any_cdr_that_the_protocol_allows_can_be_rebuilt_from_its_row(
    archive: Archive, calls: list[tuple[str | None, dict[str, Json]]], ascii_only: bool, resent: bool
) -> None:
    messages = [write({"type": dialect, "payload": payload}, ascii_only) for dialect, payload in calls]
    # A claim that has a call twice goes another way through the writer.
    system = load(archive, *messages, *messages[:resent])

    assert dead_letters(archive, system) == []
    rows = {row["call_ref"]: row for row in stored(archive, system)}
    assert len(rows) == len(calls)
    for _dialect, payload in calls:
        row = rows[str(payload["call_ref"])]
        assert_nothing_lost(payload, row)
        assert_nothing_invented(payload, row)


@through_the_stores
@given(st.lists(st.tuples(texts(), st.dictionaries(texts(8), ANY_JSON, max_size=3)), min_size=1, max_size=8))
def test_any_event_can_be_rebuilt_from_its_row(archive: Archive, events: list[tuple[str, dict[str, Json]]]) -> None:
    said = {f"{n} {event_type}": payload for n, (event_type, payload) in enumerate(events)}
    messages = [write({"type": event_type, "payload": payload}) for event_type, payload in said.items()]
    system = load(archive, *messages, kind="agents")

    assert dead_letters(archive, system) == []
    query = "SELECT event_type, payload::text FROM audit_events WHERE channel = %s"
    rows = archive.rows(query, f"{system}:agents")
    assert {row["event_type"]: exactly(row["payload"]) for row in rows} == typed(said)


ODD = {
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "beyond the basic plane": "\N{GRINNING FACE}\U00010000\U0010ffff",
    "characters that are none": "\ufffe\uffff\ufdd0\U0001fffe\U0010fffe",
    "private ones, a mark, a replacement": "\ue000\ufeff\ufffd",
    "right to left, combined": "\u202eabc\u0301\u200d\u2028",
    "quotes and escapes": "'\"\\\\u0000\\x00$$;--\\.\\N",
    "blanks": " \t\r\n\v\f\N{NO-BREAK SPACE}",
    "very long": "é" * 200_000,
}


@pytest.mark.parametrize("ascii_only", [True, False])
def test_odd_characters_pass_through_every_field(archive: Archive, ascii_only: bool) -> None:
    references = ["contact_ref", "ref", "extension", "uuid"]
    names = [*references, "number", "dial_number", "recording_url", "end_reason", "call_dir"]
    # A reference is part of an index, which takes less than a page of it.
    short = {name: text[:256] for name, text in ODD.items()}
    fields = {
        name: dict.fromkeys(names, text) | dict.fromkeys(references, short[name]) | {"x": [text], text: text}
        for name, text in ODD.items()
    }
    calls = [{"call_ref": name, "dialed_at": DIALED_AT, **odd} for name, odd in fields.items()]
    calls += [{"call_ref": text, "dialed_at": DIALED_AT} for text in short.values()]
    messages = [write({"type": "cdr", "payload": payload}, ascii_only) for payload in calls]
    events = [
        write({"type": text, "payload": {"status": text, "ref": short[name], text: [text]}})
        for name, text in ODD.items()
    ]
    archive.more = {"max_message_bytes": 64 * 1024 * 1024}
    system = load(archive, *messages, *events)

    assert dead_letters(archive, system) == []
    rows = {row["call_ref"]: row for row in stored(archive, system)}
    for payload in calls:
        row = rows[payload["call_ref"]]
        assert {name: row[name] for name in names if name != "ref"} == {n: payload.get(n) for n in names if n != "ref"}
        assert row["campaign_ref"] == payload.get("ref")
        assert row["extra"] == {name: value for name, value in payload.items() if name not in COLUMNS}
    statuses = archive.rows("SELECT status, event_type, reference FROM audit_events")
    expected = sorted((text, text, short[name]) for name, text in ODD.items())
    assert sorted(map(tuple, (row.values() for row in statuses))) == expected


@pytest.mark.parametrize(
    "number",
    ["1e400", "-1e16383", "1e-16383", "0.1000000000000000055", pytest.param("9" * 131_072, id="131072 digits")],
)
def test_a_number_that_numeric_holds_is_stored_exactly(archive: Archive, number: str) -> None:
    system = load(archive, having(number), having(number, message=GOOD_EVENT))

    assert dead_letters(archive, system) == []
    (row,) = stored(archive, system)
    assert row["extra"] == {"x": Decimal(number)}
    assert exactly(archive.value("SELECT payload::text FROM audit_events"))["x"] == Decimal(number)


def test_what_only_postgres_refuses_is_a_dead_letter_its_neighbours_load(archive: Archive) -> None:
    refused = [
        having("[0." + "1" * 16_384 + "]", message=call(call_ref="b")),
        having("-" + "9" * 131_073, message=call(call_ref="c")),
        having("9" * 131_073, message=GOOD_EVENT),
    ]
    neighbours = [cdr("d"), GOOD_EVENT, cdr("e", x=1)]
    mixed = [message for pair in itertools.zip_longest(refused, neighbours) for message in pair if message]
    system = load(archive, *mixed)

    assert sorted(dead_letters(archive, system)) == sorted(("refused_by_database", message) for message in refused)
    assert {row["call_ref"] for row in stored(archive, system)} == {"d", "e"}
    assert archive.value("SELECT count(*) FROM audit_events") == 1
    archive.assert_books_balance()


def test_broken_messages_of_every_kind_in_one_claim_stop_nothing(archive: Archive) -> None:
    broken = [(str(why), message) for why, messages in BROKEN.items() for message in messages.values()]
    calls = [cdr(f"good-{n}") for n in range(len(broken))]
    too_large = b'"' + b"x" * archive.settings().max_message_bytes + b'"'
    messages = [message for pair in zip(calls, (message for _, message in broken), strict=True) for message in pair]
    system = load(archive, *messages, too_large, GOOD_EVENT)

    assert dead_letters(archive, system) == [*broken, ("too_large", too_large)]
    assert len(stored(archive, system)) == len(calls)
    assert archive.value("SELECT count(*) FROM audit_events") == 1
    archive.assert_books_balance()


def test_a_call_of_tomorrow_loads_and_one_of_the_day_after_does_not(archive: Archive) -> None:
    now = datetime.now(UTC)
    near, far = now + timedelta(hours=23), now + timedelta(hours=25)
    too_far = [cdr("far", dialed_at=int(far.timestamp())), api_cdr("far too", ended_at=far.isoformat())]
    system = load(archive, cdr("near", dialed_at=near.timestamp()), api_cdr("near too", ended_at=str(near)), *too_far)

    assert {row["call_ref"] for row in stored(archive, system)} == {"near", "near too"}
    assert dead_letters(archive, system) == [("out_of_range", message) for message in too_far]


def test_a_dead_letter_has_every_byte(archive: Archive) -> None:
    every_byte = bytes(range(256)) * 3
    not_utf16 = json.dumps({"type": "cdr"}).encode("utf-16")
    system = load(archive, every_byte, b"", not_utf16)

    assert [raw for _, raw in dead_letters(archive, system)] == [every_byte, b"", not_utf16]
