"""Whether the loader stays as fast as the archive grows, and when a backlog is of many days.

The grown archive is a database of its own beside the empty one, on the same server, and the two are loaded in turn: so
their ratio is of the archive, not of the minute. Its rows lie on twenty days; the calls that are loaded belong to one
of them, as today's do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from tests.benchmarks.figures import Figure, ratio
from tests.benchmarks.load import Bench
from tests.benchmarks.mixes import messages
from tests.world import CAMPAIGNS, migrate

STORED = (5_000_000, 20_000_000)
DAYS = (1, 30, 365)
STORED_ON = 20  # days
PORTION = 1_000_000
_FIRST_DAY = "2015-01-31"  # nineteen days before that of the messages

_PARTITIONS = f"SELECT make_partition('cdrs', DATE '{_FIRST_DAY}' + n) FROM generate_series(0, {STORED_ON - 1}) AS n"
# As the loader writes them: a portion after the other, each of all days.
_STORE = f"""
INSERT INTO cdrs (dialed_on, source, call_ref, leg, dialed_at, call_time, hold_time, call_dir, extension, number,
    dial_number, campaign_ref, contact_ref, end_reason, end_code, recording_url, batch_id)
SELECT DATE '{_FIRST_DAY}' + n % {STORED_ON}, 'dialler', '7' || lpad(n::text, 9, '0'), 0,
    timestamptz '{_FIRST_DAY} 00:00+00' + make_interval(days => n % {STORED_ON}, secs => n % 86400),
    n % 300, n % 11, 'outbound', (1000 + n % 200)::text, '07' || n, '0126543210', (2000 + n % 20)::text,
    'M' || n, 'callee_hungup', 16, 'ftp://pbx/2015/02/19/88.wav', '01a20000-0000-7000-8000-000000000000'
FROM generate_series(%(first)s, %(first)s + %(count)s - 1) AS n
"""


def measure(bench: Bench, runs: int, stored: Sequence[int]) -> list[Figure]:
    """The rate at each size beside that at zero."""
    found, there, fresh = [], 0, len(bench.messages)
    with _beside(bench, "grown") as grown:
        _execute(grown, _PARTITIONS)
        for size in sorted(stored):
            for first in range(there, size, PORTION):
                _execute(grown, _STORE, {"first": first, "count": min(PORTION, size - first)})
            _execute(grown, "VACUUM (ANALYZE) cdrs")
            _execute(grown, "CHECKPOINT")
            there = max(there, size)
            small: list[float] = []
            large: list[float] = []
            for _ in range(runs):
                bench.empty_tables()
                small.append(bench.etl(1).rate)
                large.append(grown.etl(1, {CAMPAIGNS: messages(len(bench.messages), first=fresh)}).rate)
                fresh += len(bench.messages)
            name = f"{size:,} rows stored"
            found.append(Figure("growth", name, "CDRs/s", large, ratio(large, small), "the empty archive beside it"))
    return found


def measure_days(bench: Bench, runs: int, days: Sequence[int]) -> list[Figure]:
    """The rate when each claim has calls of so many days."""
    lists = {n: messages(len(bench.messages), days=n) for n in days}
    rates: dict[int, list[float]] = {n: [] for n in days}
    with _beside(bench, "days") as other:
        other.etl(1, {CAMPAIGNS: lists[max(days)][: 2 * max(days)]})  # makes the partitions
        for _ in range(runs):
            for n in days:
                other.empty_tables()
                rates[n].append(other.etl(1, {CAMPAIGNS: lists[n]}).rate)
    first = rates[days[0]]
    return [
        Figure("days", f"each claim of {n} day{'s' * (n > 1)}", "CDRs/s", each, ratio(each, first), "the first")
        for n, each in rates.items()
    ]


@contextmanager
def _beside(bench: Bench, name: str) -> Iterator[Bench]:
    """Another archive on the same servers."""
    _execute(bench, f"CREATE DATABASE {name}")
    url = bench.archive.database_url.replace("/postgres?", f"/{name}?")
    migrate(url)
    with replace(bench.archive, database_url=url) as archive:
        yield replace(bench, archive=archive)
    _execute(bench, f"DROP DATABASE {name}")


def _execute(bench: Bench, statement: str, parameters: dict[str, int] | None = None) -> None:
    with psycopg.connect(bench.archive.database_url, autocommit=True) as connection:
        if parameters:
            statement = statement.replace(" % ", " %% ")
        connection.execute(statement, parameters)
