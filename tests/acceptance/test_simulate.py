"""`etl simulate`: what it says it pushed is what lies in Redis, and what the loader then finds."""

import json

import pytest

from etl.settings import Source
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive

UNTIL = ("--until", "2024-05-17T12:00:00")


def test_given_a_simulation_then_its_counts_are_those_of_redis_and_of_postgres(archive: Archive) -> None:
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


def test_given_a_list_whose_old_end_is_left_then_messages_are_pushed_at_its_right(archive: Archive) -> None:
    archive.sources = [Source(key="calls", source="dialler", take_from="left")]

    assert archive.run("simulate", "--cdrs", "20", "--rate", "1000", *UNTIL).returncode == 0

    times = [json.loads(raw)["payload"]["dialed_at"] for raw in archive.redis.lrange("calls", 0, -1)]
    assert (len(times), times) == (20, sorted(times))


def test_given_no_list_for_the_messages_then_it_is_a_clear_error(archive: Archive) -> None:
    archive.sources = [Source(key="calls", source="another")]

    result = archive.run("simulate", "--cdrs", "20")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "etl: no source list is configured for messages of dialler\n"


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
def test_given_an_impossible_option_then_one_line_names_it_and_nothing_is_pushed(
    archive: Archive, option: tuple[str, str]
) -> None:
    result = archive.run("simulate", *option)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert option[0] in result.stderr
    assert archive.keys() == set()
