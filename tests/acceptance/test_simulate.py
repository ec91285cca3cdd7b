"""`etl simulate`: what it says it pushed is what lies in Redis, and what the loader then finds."""

import json
import re
from typing import Literal

import pytest

from etl.settings import SourceSettings
from tests.command_line import answered
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive, eventually

UNTIL = ("--until", "2024-05-17T12:00:00")


def test_given_a_simulation_then_redis_and_postgres_count_the_same(archive: Archive) -> None:
    shares = ("--duplicates", "0.1", "--broken", "0.02", "--late", "0.1", "--days", "3", "--dialect", "both")

    simulated = archive.run("simulate", "--cdrs", "2000", *shares, *UNTIL, "--json")

    assert (simulated.returncode, simulated.stderr) == (0, "")
    tally = json.loads(simulated.stdout)
    broken = sum(tally["broken"].values())
    assert tally["messages"] == sum(archive.redis.llen(key) for key in (CAMPAIGNS, CDRS, CLICK2DIAL))
    assert (tally["calls"], tally["duplicates"] > 100, broken > 20) == (2_000, True, True)

    books = archive.load()
    assert (books.claimed, books.inserted, books.dead) == (tally["messages"], 2_000, broken)
    # Of each call the other dialect completes the row; a repetition does nothing.
    assert books.updated + books.unchanged == tally["messages"] - broken - 2_000
    assert books.unchanged == tally["duplicates"]
    by_reason = archive.rows("SELECT reason, count(*) AS n FROM dead_letters GROUP BY reason")
    assert {row["reason"]: row["n"] for row in by_reason} == tally["broken"]
    by_day = "SELECT source, dialed_on::text AS day, count(*) AS n FROM cdrs GROUP BY source, dialed_on"
    assert tally["days"] == {
        source: {row["day"]: row["n"] for row in archive.rows(by_day) if row["source"] == source}
        for source in ("dialler", "click2dial")
    }
    archive.assert_books_balance()


def test_given_the_same_seed_then_the_bytes_are_the_same_and_otherwise_not(archive: Archive) -> None:
    def pushed(seed: str) -> list[bytes]:
        archive.redis.flushall()
        result = archive.run("simulate", "--cdrs", "50", "--seed", seed, *UNTIL)
        assert result.returncode == 0
        assert result.stdout.startswith("pushed 50 messages: 50 calls, 0 duplicates, 0 broken")
        return archive.redis.lrange(CAMPAIGNS, 0, -1)  # type: ignore[return-value]

    first = pushed("1")
    assert (pushed("1") == first, pushed("2") == first) == (True, False)


def test_given_a_list_taken_from_the_left_then_messages_go_to_its_right(archive: Archive) -> None:
    ends: tuple[Literal["left", "right"], ...] = ("left", "right")
    for old_end in ends:
        archive.sources = [SourceSettings(key=f"from {old_end}", source="dialler", take_from=old_end)]
        assert archive.run("simulate", "--cdrs", "20", "--rate", "1000", *UNTIL).returncode == 0

    from_left, from_right = (archive.redis.lrange(f"from {old_end}", 0, -1) for old_end in ends)
    assert (len(from_left), from_left) == (20, from_right[::-1])


def test_given_a_listener_then_simulated_events_are_in_the_audit_trail(
    archive: Archive,
) -> None:
    with archive.process("run", "--follow") as listener:
        eventually(lambda: archive.rows("SELECT 1 FROM listener_sessions"), what="it never listened")
        simulated = archive.run("simulate", "--cdrs", "500", "--pubsub", *UNTIL, "--json")
        assert (simulated.returncode, simulated.stderr) == (0, "")
        published = json.loads(simulated.stdout)["published"]
        count = "SELECT count(*) FROM audit_events WHERE origin = 'pubsub'"
        eventually(lambda: archive.value(count) >= sum(published.values()), what="events are missing")
        eventually(lambda: archive.value("SELECT count(*) FROM cdrs") == 500)
        listener.terminate()
        assert listener.wait(30) == 0
    archive.load()

    by_kind = "SELECT kind || '/' || event_type AS what, count(*) AS n FROM audit_events GROUP BY kind, event_type"
    assert {row["what"]: row["n"] for row in archive.rows(by_kind)} == published
    # Of every connection there is the CDR, and of every CDR with one of the dialler's agents a connection.
    unmatched = """
        SELECT call_ref, extension, campaign_ref, connection.told, cdr.told
        FROM (SELECT *, true AS told FROM audit_events WHERE event_type = 'call') AS connection
        FULL JOIN (SELECT *, true AS told FROM cdrs WHERE source = 'dialler' AND extension IS NOT NULL) AS cdr
            USING (call_ref, extension, campaign_ref)
        WHERE connection.told IS NULL OR cdr.told IS NULL
    """
    assert archive.rows(unmatched) == []
    archive.assert_books_balance()


def test_given_events_to_publish_then_kinds_are_shown_and_no_list_has_any(archive: Archive) -> None:
    result = archive.run("simulate", "--cdrs", "50", "--pubsub", *UNTIL)

    assert result.returncode == 0
    pushed, published = result.stdout.splitlines()
    assert pushed == "pushed 50 messages: 50 calls, 0 duplicates, 0 broken"
    told = re.fullmatch(r"published (\d+) events: (.*)", published)
    assert told
    kinds = {kind: int(count) for count, kind in (each.split(" ") for each in told[2].split(", "))}
    assert int(told[1]) == sum(kinds.values())
    assert {"agents/status", "agents/call", "campaigns/status", "campaigns/dial_preview"} <= kinds.keys()
    assert sum(archive.redis.llen(key) for key in (CAMPAIGNS, CLICK2DIAL)) == 50


def test_given_no_list_for_the_messages_then_it_is_a_clear_error(archive: Archive) -> None:
    archive.sources = [SourceSettings(key="calls", source="another")]

    result = archive.run("simulate", "--cdrs", "20")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "etl: ETL-905: no source list is configured for messages of dialler\n"


@pytest.mark.parametrize(
    "option",
    [
        ("--cdrs", "-1"),
        ("--rate", "0"),
        ("--duplicates", "1.5"),
        ("--broken", "-0.1"),
        ("--days", "0"),
        ("--dialect", "c"),
        ("--seed", "x"),
        ("--until", "yesterday"),
    ],
)
def test_given_an_impossible_option_then_it_is_named_and_nothing_pushed(
    archive: Archive, option: tuple[str, str]
) -> None:
    result = answered(archive.environment(), "simulate", *option)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert option[0] in result.stderr
    assert archive.keys() == set()
