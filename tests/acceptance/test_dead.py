"""`etl dead`: what an operator sees of the messages that could not be loaded, and how they are put aside."""

import base64
import json

import pytest

from etl.keys import SPOOL
from etl.wire.spool import pack_heard
from tests.store import at_once
from tests.world import CAMPAIGNS, CLICK2DIAL, Archive, cdr

NASTY = b'\x1b]0;owned\x07\x1b[2J{"type": \xff\x00 \xe2\x80\xae}'


@pytest.fixture
def buried(archive: Archive) -> Archive:
    """Three dead letters on two lists, and a neighbour that loaded."""
    archive.push(b"no json", cdr(1), cdr(2, dialed_at=None), key=CAMPAIGNS)
    archive.push(NASTY, key=CLICK2DIAL)
    archive.load()
    return archive


def ids(archive: Archive, **wanted: str) -> list[int]:
    letters = archive.rows("SELECT id, reason FROM dead_letters ORDER BY id")
    return [letter["id"] for letter in letters if letter["reason"] == wanted.get("reason", letter["reason"])]


def test_given_none_then_it_says_so(archive: Archive) -> None:
    result = archive.run("dead", "list")

    assert (result.returncode, result.stdout, result.stderr) == (0, "no dead letters\n", "")


def test_list_tells_reasons_and_counts_and_the_latest_come_first(buried: Archive) -> None:
    result = buried.run("dead", "list")

    assert (result.returncode, result.stderr) == (0, "")
    assert "no json" in result.stdout
    assert result.stdout.endswith("3 in all: 1 missing_field, 1 not_json, 1 not_utf8\n")
    found = json.loads(buried.run("dead", "list", "--json").stdout)
    assert [letter["id"] for letter in found["letters"]] == ids(buried)[::-1]
    assert found["by_reason"] == {"missing_field": 1, "not_json": 1, "not_utf8": 1}
    assert buried.run("dead", "list", "--limit", "2").stdout.endswith("; the latest 2 are shown\n")


@pytest.mark.parametrize(
    ("filters", "reasons"),
    [
        (("--reason", "not_json"), {"not_json"}),
        (("--source", CLICK2DIAL), {"not_utf8"}),
        (("--source", CAMPAIGNS, "--reason", "not_utf8"), set()),
        (("--since", "2000-01-01"), {"missing_field", "not_json", "not_utf8"}),
        (("--until", "2000-01-01"), set()),
    ],
)
def test_filters_leave_out_the_others(buried: Archive, filters: tuple[str, ...], reasons: set[str]) -> None:
    found = json.loads(buried.run("dead", "list", "--json", *filters).stdout)

    assert {letter["reason"] for letter in found["letters"]} == set(found["by_reason"]) == reasons


def test_show_gives_every_byte_and_nothing_that_a_terminal_obeys(buried: Archive) -> None:
    (number,) = ids(buried, reason="not_utf8")

    shown = buried.run("dead", "show", str(number))
    listed = buried.run("dead", "list")

    assert shown.returncode == 0
    for output in (shown.stdout, listed.stdout):
        assert not set(output) & {"\x1b", "\x07", "\x00", "\u202e"}
    assert r"\x1b]0;owned\x07\x1b[2J" in shown.stdout
    assert r"\xff\x00 \u202e}" in shown.stdout
    (letter,) = json.loads(buried.run("dead", "show", str(number), "--json").stdout)["letters"]
    assert base64.b64decode(letter["raw_base64"]) == NASTY


def test_a_letter_that_is_not_there_is_named(buried: Archive) -> None:
    result = buried.run("dead", "show", str(ids(buried)[0]), "999999")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "etl: ETL-402: there is no dead letter 999999\n"


def test_discarded_letters_stay_with_the_reason_why(buried: Archive) -> None:
    first, *_ = ids(buried)
    before = buried.rows("SELECT id, raw, reason, detail FROM dead_letters ORDER BY id")

    dry = buried.run("dead", "discard", "--reason", "not_json", "--because", "a monitor's ping", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "1 would be discarded\n")
    assert buried.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 3
    done = buried.run("dead", "discard", "--reason", "not_json", "--because", "a monitor's ping")
    again = buried.run("dead", "discard", "--reason", "not_json", "--because", "something else")
    by_id = buried.run("dead", "discard", *map(str, ids(buried, reason="not_utf8")), "--because", "noise", "--json")

    assert (done.returncode, done.stdout) == (0, "1 discarded\n")
    assert (again.returncode, again.stdout) == (0, "0 discarded\n")
    assert json.loads(by_id.stdout) == {"discarded": 1, "would_be": 1}
    assert buried.rows("SELECT id, raw, reason, detail FROM dead_letters ORDER BY id") == before
    assert {row["resolution"] for row in buried.rows("SELECT resolution FROM dead_letters")} == {
        "discarded: a monitor's ping",
        "discarded: noise",
        None,
    }
    open_ones = json.loads(buried.run("dead", "list", "--json").stdout)["letters"]
    assert [letter["reason"] for letter in open_ones] == ["missing_field"]
    assert len(json.loads(buried.run("dead", "list", "--all", "--json").stdout)["letters"]) == 3
    assert "discarded: a monitor's ping" in buried.run("dead", "show", str(first)).stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--because", "tidy"), "say which"),
        (("17", "--because", " "), "must say why"),
        (("17",), "--because"),
    ],
)
def test_nothing_is_discarded_by_the_way(buried: Archive, arguments: tuple[str, ...], complaint: str) -> None:
    result = buried.run("dead", "discard", *arguments)

    assert result.returncode == 2
    assert complaint in result.stderr
    assert buried.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 3


def replay(archive: Archive, *arguments: str, **environment: str) -> dict[str, object]:
    result = archive.run("dead", "replay", "--json", *arguments, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def open_reasons(archive: Archive) -> list[str]:
    letters = archive.rows("SELECT reason FROM dead_letters WHERE resolved_at IS NULL ORDER BY reason")
    return [letter["reason"] for letter in letters]


@pytest.fixture
def large(archive: Archive) -> Archive:
    """Calls, an event and junk of two claims that were too large for that time's limit, and one call that wasn't."""
    filling = "x" * 3_000
    archive.push(cdr(1), cdr(2, note=filling), b'{"broken": "' + filling.encode(), key=CAMPAIGNS)
    archive.push(json.dumps({"type": "status", "payload": {"status": "paused", "note": filling}}).encode())
    archive.load(max_message_bytes=1_024)
    archive.push(cdr(3, note=filling), cdr(2, note=filling, call_time=99), key=CAMPAIGNS)
    archive.load(max_message_bytes=1_024)
    assert open_reasons(archive) == ["too_large"] * 5
    return archive


def test_replay_stores_what_it_can_and_the_rest_gets_todays_reason(large: Archive) -> None:
    dry = large.run("dead", "replay", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "5 would be tried\n")
    found = replay(large)

    assert (found["tried"], found["still_dead"], found["unknown"]) == (5, 1, {})
    assert open_reasons(large) == ["not_json"]
    assert [row["call_ref"] for row in large.rows("SELECT call_ref FROM cdrs ORDER BY call_ref")] == ["1", "2", "3"]
    assert large.cdr(2)["call_time"] == 99, "the later message had the last word"
    assert large.value("SELECT call_time FROM cdr_revisions") == 41
    assert large.value("SELECT status FROM audit_events") == "paused"
    replays = large.rows(
        "SELECT * FROM load_batches WHERE batch_id::text IN (SELECT split_part(resolution, ' ', 3) FROM dead_letters)"
    )
    assert sum(row["claimed"] for row in replays) == 4
    large.assert_books_balance()


def test_given_letters_of_an_older_etl_then_a_replay_heals_text_numbers(archive: Archive) -> None:
    local = "2015-02-19 23:06:00"
    letters = (cdr(1, end_code="16"), cdr(2, end_code="17", dialed_at=local), cdr(3, end_code="SIP 486"))
    archive.push(*(b"x" for _ in letters))
    archive.load()
    for position, raw in enumerate(letters):
        as_then = "UPDATE dead_letters SET raw = %s, reason = 'bad_type' WHERE position = %s RETURNING id"
        assert archive.rows(as_then, raw, position)
    archive.sources = [source.model_copy(update={"zone": "Europe/Bucharest"}) for source in archive.sources]

    assert replay(archive)["still_dead"] == 0

    rows = archive.rows("SELECT call_ref, end_code, extra, dialed_at FROM cdrs ORDER BY call_ref")
    assert [(row["call_ref"], row["end_code"], row["extra"]) for row in rows] == [
        ("1", 16, None),
        ("2", 17, None),
        ("3", None, {"end_code": "SIP 486"}),
    ]
    assert len({row["dialed_at"] for row in rows}) == 1
    assert archive.value("SELECT set_aside FROM load_batches WHERE set_aside IS NOT NULL") == {"end_code": 1}


def test_given_nothing_that_can_be_healed_then_the_ledger_is_left_alone(large: Archive) -> None:
    before = large.rows("SELECT * FROM load_batches ORDER BY batch_id")

    found = replay(large, ETL_MAX_MESSAGE_BYTES="1024")

    assert (found["tried"], found["still_dead"]) == (5, 5)
    assert open_reasons(large) == ["too_large"] * 5
    assert large.rows("SELECT * FROM load_batches ORDER BY batch_id") == before


def test_only_what_is_wanted_is_replayed_and_only_once(large: Archive) -> None:
    first, *_ = ids(large)

    assert replay(large, str(first))["tried"] == 1
    assert replay(large, str(first))["tried"] == 0
    assert replay(large, "--source", CLICK2DIAL)["tried"] == 0
    assert len(open_reasons(large)) in (4, 5)


def test_given_two_who_replay_at_once_then_every_letter_takes_effect_once(large: Archive) -> None:
    results = at_once(*[lambda: large.run("dead", "replay", "--json")] * 3)

    assert {result.returncode for result in results} <= {0, 1}
    assert replay(large)["still_dead"] == 1
    assert large.value("SELECT count(*) FROM cdrs") == 3
    assert large.value("SELECT count(*) FROM audit_events") == 1
    large.assert_books_balance()


def test_a_letter_that_came_by_pubsub_becomes_an_event_of_its_channel(archive: Archive) -> None:
    message = json.dumps({"type": "status", "payload": {"status": "busy", "note": "x" * 3_000}}).encode()
    frame = pack_heard(b"0" * 16, 1, b"enigma:notifications:agents:1001", message)
    archive.push(frame, b"no frame at all", key=SPOOL)
    archive.load(max_message_bytes=1_024)

    found = replay(archive)

    assert (found["tried"], found["still_dead"]) == (2, 1)
    (event,) = archive.rows("SELECT * FROM audit_events")
    assert (event["channel"], event["status"], event["origin"]) == (
        "enigma:notifications:agents:1001",
        "busy",
        "pubsub",
    )
    assert open_reasons(archive) == ["not_an_envelope"]
    archive.assert_books_balance()


def test_letters_of_a_list_that_the_settings_name_no_more_are_left_alone(large: Archive) -> None:
    others = json.dumps([{"key": CLICK2DIAL, "source": "click2dial"}])

    found = replay(large, ETL_SOURCES=others)

    assert (found["tried"], found["still_dead"], found["unknown"]) == (5, 0, {CAMPAIGNS: 5})
    assert open_reasons(large) == ["too_large"] * 5
