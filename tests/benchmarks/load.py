"""How fast the loader is, beside the fastest that Postgres can be: `python -m tests.benchmarks.load [--cdrs N]`.

The limit is the same rows replayed as pre-encoded binary COPY, claim by claim, into the same partitioned table. Runs are
interleaved, since the machine's speed changes from minute to minute: the ratios mean something, the rates little.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from etl.devtools.embedded import PrivatePostgres, PrivateRedis
from etl.settings import Source
from tests.world import CAMPAIGNS, Archive, cdr, eventually, migrate

BATCH = 5_000
FILL = 10_000  # messages a push


@dataclass
class Bench:
    postgres: PrivatePostgres
    redis: "redis.Redis"
    archive: Archive
    messages: list[bytes]

    def fill(self) -> None:
        self.redis.flushall()
        for first in range(0, len(self.messages), FILL):
            self.redis.lpush(CAMPAIGNS, *self.messages[first : first + FILL])

    def empty_tables(self) -> None:
        with psycopg.connect(self.archive.database_url, autocommit=True) as connection:
            connection.execute("TRUNCATE cdrs, load_batches, load_batch_days, dead_letters, cdr_revisions")
            connection.execute("CHECKPOINT")

    def encoded_claims(self) -> list[bytes]:
        """What Postgres itself writes for the loaded rows: one binary COPY a claim."""
        with psycopg.connect(self.archive.database_url) as connection:
            batches = connection.execute("SELECT DISTINCT batch_id FROM cdrs").fetchall()
            return [_copied(connection, batch) for (batch,) in batches]

    def replay(self, claims: list[bytes]) -> float:
        self.empty_tables()
        with psycopg.connect(self.archive.database_url) as connection:
            began = time.perf_counter()
            for claim in claims:
                with (
                    connection.cursor() as cursor,
                    cursor.copy(f"COPY cdrs ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
                ):
                    copy.write(claim)
                connection.commit()
            return len(self.messages) / (time.perf_counter() - began)

    def etl(self, workers: int) -> float:
        """From a full list to all acknowledged, by real processes that are up and waiting when the list fills."""
        self.empty_tables()
        self.redis.flushall()
        with self.archive.process("run", "--follow", "--workers", str(workers)):
            self.redis.lpush(CAMPAIGNS, cdr("warm-up"))
            eventually(
                lambda: self.archive.value("SELECT count(*) FROM load_batches") == 1, what="the loader never started"
            )
            if workers > 1:
                time.sleep(3)  # the others start at the same time, and nothing outside tells when they are up
            self._fill_aside()
            began = time.perf_counter()
            self.redis.rename("full", CAMPAIGNS)
            while self.redis.exists(CAMPAIGNS) or self.redis.exists(f"{{{CAMPAIGNS}}}:claims"):
                time.sleep(0.005)
            return len(self.messages) / (time.perf_counter() - began)

    def _fill_aside(self) -> None:
        for first in range(0, len(self.messages), FILL):
            self.redis.lpush("full", *self.messages[first : first + FILL])


_COLUMNS = (
    "dialed_on, source, call_ref, leg, dialed_at, answered_at, connected_at, ended_at, call_time, hold_time, ring_time,"
    " call_dir, extension, number, dial_number, campaign_ref, contact_ref, end_reason, end_code, recording_url, uuid,"
    " extra, batch_id"
)


def _copied(connection: "psycopg.Connection[Any]", batch: object) -> bytes:
    query = f"COPY (SELECT {_COLUMNS} FROM cdrs WHERE batch_id = '{batch}') TO STDOUT (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return b"".join(copy)


def _servers(folder: Path, cdrs: int) -> Iterator[Bench]:
    with PrivatePostgres(folder / "pg", {"max_wal_size": "4GB"}) as postgres, PrivateRedis(folder / "redis") as server:
        migrate(postgres.url)
        client = redis.Redis.from_url(server.url)
        sources = (Source(key=CAMPAIGNS, source="dialler"),)
        messages = [
            cdr(n, number=f"07{n:08d}", contact_ref=f"M{n:06d}", hold_time=4, dialed_at=1_424_379_960 + n % 9_000)
            for n in range(cdrs)
        ]
        with Archive(server.url, postgres.url, client, sources, {"batch_size": BATCH}) as archive:
            yield Bench(postgres, client, archive, messages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cdrs", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etl-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # Postgres runs as somebody else when we are root
        for bench in _servers(Path(folder), arguments.cdrs):
            bench.etl(1)
            claims = bench.encoded_claims()
            ways: dict[str, Callable[[], float]] = {
                "limit": lambda: bench.replay(claims),
                "etl, 1 worker": lambda: bench.etl(1),
                "etl, 2 workers": lambda: bench.etl(2),
            }
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(arguments.runs):
                for way, run in ways.items():
                    rates[way].append(run())
            limit = statistics.median(rates["limit"])
            print(
                f"{arguments.cdrs:,} CDRs of {len(bench.messages[-1])} bytes, claims of {BATCH:,}, medians of {arguments.runs} interleaved runs"
            )
            for way, measured in rates.items():
                rate = statistics.median(measured)
                print(
                    f"{way:16} {rate:>10,.0f} CDRs/s   {rate / limit:.2f} of the limit   ({', '.join(f'{r:,.0f}' for r in measured)})"
                )


if __name__ == "__main__":
    main()
