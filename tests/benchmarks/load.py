"""How fast the loader is, beside the fastest that Postgres can be: `python -m tests.benchmarks.load [--cdrs N]`.

The limit is the same rows replayed as pre-encoded binary COPY, claim by claim, into the same partitioned table. Runs
are interleaved, since the machine's speed changes from minute to minute: the ratios mean something, the rates little.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from etl.devtools.embedded import PrivatePostgres, PrivateRedis
from etl.settings import Source
from tests.world import CAMPAIGNS, DIALED_AT, Archive, cdr, eventually, migrate

BATCH = 5_000
FILL = 10_000  # messages a push


@dataclass
class Bench:
    redis: "redis.Redis"
    archive: Archive
    messages: list[bytes]

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
        """CDRs a second from a full list to all acknowledged, by processes that were up and waiting when it filled."""
        self.empty_tables()
        with self.following(workers):
            self._fill_aside()
            began = time.perf_counter()
            self.redis.rename("full", CAMPAIGNS)
            while self.redis.exists(CAMPAIGNS) or self.redis.exists(f"{{{CAMPAIGNS}}}:claims"):
                time.sleep(0.005)
            return len(self.messages) / (time.perf_counter() - began)

    def memory(self) -> float:
        """The loader's peak resident memory, in MiB, over one load."""
        self.empty_tables()
        self._fill_aside()
        self.redis.rename("full", CAMPAIGNS)
        with self.archive.process("run") as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, _peak_kib(process.pid))
                time.sleep(0.05)
            return peak / 1024

    def at_rest(self, seconds: float) -> float:
        """Share of one core that a waiting loader uses."""
        with self.following(1) as process:
            before = _cpu_seconds(process.pid)
            time.sleep(seconds)
            return (_cpu_seconds(process.pid) - before) / seconds

    def latencies(self, count: int) -> list[float]:
        """Milliseconds from a push to an idle loader until the CDR can be read in Postgres."""
        measured = []
        with self.following(1):
            for number in range(count):
                time.sleep(0.3)  # idle again
                began = time.perf_counter()
                self.redis.lpush(CAMPAIGNS, cdr(f"latency-{number}"))
                while not self.archive.rows("SELECT 1 FROM cdrs WHERE call_ref = %s", f"latency-{number}"):
                    time.sleep(0.001)
                measured.append((time.perf_counter() - began) * 1_000)
        return measured

    @contextmanager
    def following(self, workers: int) -> Iterator["subprocess.Popen[str]"]:
        self.redis.flushall()
        batches = self.archive.value("SELECT count(*) FROM load_batches")
        with self.archive.process("run", "--follow", "--workers", str(workers)) as process:
            self.redis.lpush(CAMPAIGNS, cdr("warm-up"))
            eventually(
                lambda: self.archive.value("SELECT count(*) FROM load_batches") > batches, what="it never started"
            )
            time.sleep(1.0 if workers == 1 else 3.0)  # the other workers start too, and nothing outside tells when
            yield process

    def _fill_aside(self) -> None:
        for first in range(0, len(self.messages), FILL):
            self.redis.lpush("full", *self.messages[first : first + FILL])


def _peak_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_COLUMNS = (
    "dialed_on, source, call_ref, leg, dialed_at, answered_at, connected_at, ended_at, call_time, hold_time, ring_time,"
    " call_dir, extension, number, dial_number, campaign_ref, contact_ref, end_reason, end_code, recording_url, uuid,"
    " extra, batch_id"
)


def _copied(connection: "psycopg.Connection[Any]", batch: object) -> bytes:
    query = f"COPY (SELECT {_COLUMNS} FROM cdrs WHERE batch_id = '{batch}') TO STDOUT (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return b"".join(copy)


@contextmanager
def servers(cdrs: int) -> Iterator[Bench]:
    """Private servers, as they come, and `cdrs` distinct messages of 13 fields."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etl-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)  # Postgres runs as somebody else when we are root
        postgres = stack.enter_context(PrivatePostgres(folder / "pg", {"max_wal_size": "4GB"}))
        server = stack.enter_context(PrivateRedis(folder / "redis"))
        migrate(postgres.url)
        client = redis.Redis.from_url(server.url)
        sources = (Source(key=CAMPAIGNS, source="dialler"),)
        archive = Archive(server.url, postgres.url, client, sources, {"batch_size": BATCH})
        yield Bench(client, stack.enter_context(archive), [_message(number) for number in range(cdrs)])


def _message(number: int) -> bytes:
    return cdr(
        number,
        number=f"07{number:08d}",
        contact_ref=f"M{number:06d}",
        hold_time=4,
        dialed_at=DIALED_AT + number % 9_000,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cdrs", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with servers(arguments.cdrs) as bench:
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
        print(
            f"{arguments.cdrs:,} CDRs of {len(bench.messages[-1])} bytes, claims of {BATCH:,},"
            f" medians of {arguments.runs} interleaved runs"
        )
        limit = statistics.median(rates["limit"])
        for way, measured in rates.items():
            rate = statistics.median(measured)
            each = ", ".join(f"{one:,.0f}" for one in measured)
            print(f"{way:16} {rate:>10,.0f} CDRs/s   {rate / limit:.2f} of the limit   ({each})")
        print(f"peak memory      {bench.memory():>10,.0f} MiB resident, with {arguments.cdrs:,} CDRs waiting")
        print(f"at rest          {bench.at_rest(20):>10.2%} of a core")
        latencies = sorted(bench.latencies(40))
        print(f"one CDR at rest  {latencies[20]:>10.0f} ms to the commit (p50), {latencies[-1]:.0f} ms at the most")


if __name__ == "__main__":
    main()
