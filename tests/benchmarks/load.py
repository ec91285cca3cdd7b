"""Private servers with a full list, and the ways to get it into Postgres: the fastest that Postgres can be, and `etl`.

The limit is the same rows replayed as pre-encoded binary COPY, claim by claim, into the same partitioned table. Runs
are interleaved, since the machine's speed changes from minute to minute: the ratios mean something, the rates little.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import redis

from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.settings import SourceSettings
from tests.benchmarks.figures import Figure, cpu_seconds, memory_mib, parent_of, ratio
from tests.world import CAMPAIGNS, DIALED_AT, Archive, api_cdr, cdr, eventually, migrate

BATCH = 5_000
FILL = 10_000  # messages a push
_LOOKS = ("llen", "zcard")  # the last of them was a connection's last command, if its worker waits
LIMIT = "the limit"

Runs = dict[str, list["Measured"]]


@dataclass(frozen=True)
class Measured:
    """CDRs a second; and seconds of CPU for a million of them, by process."""

    rate: float
    cpu: dict[str, float] = field(default_factory=dict)


@dataclass
class Bench:
    redis: "redis.Redis"
    archive: Archive
    messages: list[bytes]
    versions: dict[str, str]

    def empty_tables(self) -> None:
        with psycopg.connect(self.archive.database_url, autocommit=True) as connection:
            connection.execute("TRUNCATE cdrs, load_batches, load_batch_days, dead_letters, cdr_revisions")
            connection.execute("CHECKPOINT")

    def encoded_claims(self) -> list[bytes]:
        """What Postgres itself writes for the loaded rows: one binary COPY a claim."""
        with psycopg.connect(self.archive.database_url) as connection:
            batches = connection.execute("SELECT DISTINCT batch_id FROM cdrs").fetchall()
            return [_copied(connection, batch) for (batch,) in batches]

    def replay(self, claims: list[bytes]) -> Measured:
        self.empty_tables()
        with psycopg.connect(self.archive.database_url) as connection:
            before, began = self.spent(), time.perf_counter()
            for claim in claims:
                with (
                    connection.cursor() as cursor,
                    cursor.copy(f"COPY cdrs ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
                ):
                    copy.write(claim)
                connection.commit()
            return self._measured(len(self.messages), began, before)

    def etl(self, workers: int, messages: Sequence[bytes] | None = None) -> Measured:
        """From a full list to all acknowledged, by processes that were up and waiting when it filled; into tables as
        they are."""
        messages = self.messages if messages is None else messages
        with self.following(workers) as process:
            self.fill(messages, "full")
            before, began = self.spent(process.pid), time.perf_counter()
            self.redis.rename("full", CAMPAIGNS)
            while self.redis.exists(CAMPAIGNS) or self.redis.exists(f"{{{CAMPAIGNS}}}:claims"):
                time.sleep(0.005)
            return self._measured(len(messages), began, before, process.pid)

    def spent(self, loader: int | None = None) -> dict[str, float]:
        """Seconds of CPU so far, by process."""
        backend = self.archive.value("SELECT pg_backend_pid()")
        of_redis: Any = self.redis.info("cpu")
        spent = {
            "Postgres": cpu_seconds(parent_of(backend)),
            "Redis": of_redis["used_cpu_user"] + of_redis["used_cpu_sys"],
        }
        return spent if loader is None else {"loader": cpu_seconds(loader), **spent}

    def memory(self) -> float:
        """The loader's peak resident memory, in MiB, over one load."""
        self.empty_tables()
        self.fill(self.messages)
        with self.archive.process("run") as process:
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, memory_mib(process.pid))
                time.sleep(0.05)
            return peak

    def at_rest(self, seconds: float) -> float:
        """Per cent of one core that a waiting loader uses."""
        with self.following(1) as process:
            before = cpu_seconds(process.pid)
            time.sleep(seconds)
            return (cpu_seconds(process.pid) - before) / seconds * 100

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
        """`etl run --follow`, when each of its workers has loaded something or waits."""
        self.redis.flushall()
        batches = self.archive.value("SELECT count(*) FROM load_batches")
        with self.archive.process("run", "--follow", "--no-listen", "--workers", str(workers)) as process:
            self.redis.lpush(CAMPAIGNS, cdr("warm-up"))
            eventually(
                lambda: self.archive.value("SELECT count(*) FROM load_batches") > batches, what="it never started"
            )
            eventually(self._waiting(workers), what="not all of its workers started")
            yield process

    def _waiting(self, workers: int) -> Callable[[], bool]:
        """All of them look what waits on the lists."""
        clients: Any = self.redis
        return lambda: sum(each["cmd"] in _LOOKS for each in clients.client_list()) >= workers

    def fill(self, messages: Sequence[bytes], key: str = CAMPAIGNS) -> None:
        for first in range(0, len(messages), FILL):
            self.redis.lpush(key, *messages[first : first + FILL])

    def _measured(self, cdrs: int, began: float, before: dict[str, float], loader: int | None = None) -> Measured:
        seconds = time.perf_counter() - began
        after = self.spent(loader)
        return Measured(cdrs / seconds, {name: (after[name] - before[name]) / cdrs * 1e6 for name in before})


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
        client: Any = redis.Redis.from_url(server.url)
        sources = (SourceSettings(key=CAMPAIGNS, source="dialler"),)
        archive = stack.enter_context(Archive(server.url, postgres.url, client, sources, {"batch_size": BATCH}))
        versions = {
            "postgresql": archive.value("SHOW server_version"),
            "valkey": client.info("server").get("valkey_version", "unknown"),
        }
        yield Bench(client, archive, messages(cdrs), versions)


def messages(count: int, first: int = 0, days: int = 1) -> list[bytes]:
    """Client CDRs (dialect A) of different calls, all their documented fields set; of so many days in turn."""
    return [cdr(number, **_fields(number, days)) for number in range(first, first + count)]


def api_messages(count: int) -> list[bytes]:
    """API CDRs (dialect B) of different calls."""
    return [_api_message(number) for number in range(count)]


def program_messages(count: int) -> list[bytes]:
    """Client CDRs as the published program writes them: the hang-up cause is text."""
    return [cdr(number, **_fields(number, 1), end_code="16") for number in range(count)]


def in_both_dialects(count: int) -> list[bytes]:
    """So many messages: each call twice, the second time in the other dialect."""
    found = []
    for number in range(count // 2):
        fields = _fields(number, 1)
        found += [cdr(number, **fields), _api_message(number)]
    return found


def _api_message(number: int) -> bytes:
    at = _fields(number, 1)["dialed_at"]
    names = {"dialed_at": 0, "callee_answered_at": 12, "agent_answered_at": 15, "ended_at": 15 + number % 300}
    return api_cdr(number, **{name: _as_ruby_prints(at + seconds) for name, seconds in names.items()})


def _as_ruby_prints(unix: int) -> str:
    return datetime.fromtimestamp(unix, timezone(timedelta(hours=2))).strftime("%Y-%m-%d %H:%M:%S %z")


def repeating(messages: Sequence[bytes], every: int = 100) -> list[bytes]:
    """The same, but every so many-th is one that was sent two claims ago, or at the very start."""
    return [messages[max(0, n - 2 * BATCH)] if n % every == every - 1 else m for n, m in enumerate(messages)]


def _fields(number: int, days: int) -> dict[str, Any]:
    return {
        "number": f"07{number:08d}",
        "contact_ref": f"M{number:06d}",
        "hold_time": 4,
        "dialed_at": DIALED_AT + number % 9_000 - number % days * 86_400,
    }


def measure(bench: Bench, runs: int) -> list[Figure]:
    """The limit, one worker and two, duplicates, dialects: rates and what each costs."""
    bench.etl(1)
    claims = bench.encoded_claims()
    ways: dict[str, Callable[[], Measured]] = {
        LIMIT: lambda: bench.replay(claims),
        "etl, 1 worker": lambda: bench.etl(1),
        "etl, 2 workers": lambda: bench.etl(2),
        "etl, 1 % duplicates": lambda: bench.etl(1, repeating(bench.messages)),
        "etl, numbers as text": lambda: bench.etl(1, program_messages(len(bench.messages))),
        "etl, dialect B": lambda: bench.etl(1, api_messages(len(bench.messages))),
        "etl, both dialects of each call": lambda: bench.etl(1, in_both_dialects(len(bench.messages))),
    }
    measured: Runs = {}
    for _ in range(runs):
        for way, run in ways.items():
            bench.empty_tables()
            measured.setdefault(way, []).append(run())
            if way == "etl, 1 worker":  # the same list once more
                measured.setdefault("etl, 100 % duplicates", []).append(bench.etl(1))
    return figures("load", measured)


def figures(part: str, measured: Runs) -> list[Figure]:
    """Rates beside the limit, then CPU."""
    rates = {way: [run.rate for run in runs] for way, runs in measured.items()}
    limit = rates.get(LIMIT)
    found = [Figure(part, way, "CDRs/s", runs) for way, runs in rates.items()]
    if limit:
        found = [replace(f, ratio=ratio(f.runs, limit), of=LIMIT) for f in found]
    for way, runs in measured.items():
        for process in runs[0].cpu:
            each = [run.cpu[process] for run in runs]
            found.append(Figure("cpu", f"{way}: {process}", "s per million CDRs", each))
    return found


def measure_rest(bench: Bench, latencies: int, seconds: float) -> list[Figure]:
    """Memory, a loader with nothing to do, and one CDR that finds it so."""
    peak = bench.memory()
    resting = bench.at_rest(seconds)
    sorted_ms = sorted(bench.latencies(latencies))
    p50, p99 = sorted_ms[len(sorted_ms) // 2], sorted_ms[len(sorted_ms) * 99 // 100]
    return [
        Figure("rest", "etl, 1 worker, peak memory under a backlog", "MiB", [peak]),
        Figure("rest", "etl, 1 worker, nothing to do", "% of a core", [resting]),
        Figure("rest", "one CDR, push to commit, p50", "ms", [p50]),
        Figure("rest", "one CDR, push to commit, p99", "ms", [p99]),
    ]
