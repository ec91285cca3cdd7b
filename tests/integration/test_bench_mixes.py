"""What the bench loads is what its lines say: plain CDRs, none of them refused."""

from collections import Counter

import pytest

from tests.benchmarks.load import OLDEST_DAYS, SOURCES, servers
from tests.benchmarks.mixes import MIXES, Mix, around_midnight, of_the_dialler
from tests.world import CAMPAIGNS, CDRS, Archive

COUNT = 396  # twelve times 33 messages


@pytest.fixture
def archive(archive: Archive) -> Archive:
    archive.sources, archive.more = SOURCES, {"oldest_days": OLDEST_DAYS}
    return archive


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_given_a_mix_of_the_bench_then_all_of_it_is_stored(archive: Archive, mix: Mix) -> None:
    for make in filter(None, (mix.stored, mix.lists)):
        lists = make(COUNT)
        for key, messages in lists.items():
            archive.push(*messages, key=key)
        books = archive.load()
        assert books.claimed == books.inserted + books.updated + books.unchanged == sum(map(len, lists.values()))

    archive.assert_books_balance()
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0


def test_given_the_diallers_mix_then_a_call_is_on_both_lists() -> None:
    lists = of_the_dialler(COUNT)

    a, b = (Counter(lists[key]) for key in (CAMPAIGNS, CDRS))

    assert len(a) == len(b) == COUNT // 2 - COUNT // 2 // 33
    assert sum(a.values()) == sum(b.values()) == COUNT // 2
    assert b'"end_code":"16"' in next(iter(a))


def test_given_calls_around_a_midnight_then_they_are_of_two_days(archive: Archive) -> None:
    archive.push(*around_midnight(9_000))
    archive.load()
    query = "SELECT count(*) AS n FROM cdrs GROUP BY dialed_on ORDER BY dialed_on"
    assert [row["n"] for row in archive.rows(query)] == [4_500, 4_500]


def test_given_the_bench_then_bounds_zone_and_recall_are_on() -> None:
    with servers(0) as bench:
        settings = bench.archive.settings()
        environment = bench.archive.environment()

    assert settings.oldest_days > 0
    assert settings.recall_hours > 0
    assert {source.zone for source in settings.sources} == {"Europe/Bucharest"}
    assert environment["ETL_OLDEST_DAYS"] == str(settings.oldest_days)
    assert "ETL_RECALL_HOURS" not in environment
