"""Private servers with full lists, and the ways to get them into Postgres: the fastest that Postgres can be, and `etl`.

The limit is the same rows replayed as pre-encoded binary COPY, claim by claim, into the same partitioned table; two
backends at once that share them are the machine's own limit. Runs are interleaved, since the machine's speed changes
from minute to minute: the ratios mean something, the rates little. In every figure of `etl` the bounds of times, the
zone of a list's clock, the look across midnight and the recall window are on.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import redis

from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.settings import SourceSettings
from tests.benchmarks.decoders import is_compiled
from tests.benchmarks.figures import Figure, cpu_seconds, memory_mib, parent_of, ratio
from tests.benchmarks.mixes import BATCH, BY_PYTHON, MIXES, Lists, Mix, around_midnight, messages
from tests.world import CAMPAIGNS, CDRS, Archive, cdr, eventually, migrate

FILL = 10_000  # messages a push
_LOOKS = ("llen", "zcard")  # the last of them was a connection's last command, if its worker waits
LIMIT, MACHINES_LIMIT = "the limit", "the machine's own limit"
SOURCES = tuple(SourceSettings(key=key, source="dialler", zone="Europe/Bucharest") for key in (CAMPAIGNS, CDRS))
# The calls are of 2015: the bound is looked at as it is with the default, and none lies beyond.
OLDEST_DAYS = 36_500

Runs = dict[str, list["Measured"]]


@dataclass(frozen=True)
class Measured:
    """CDRs a second; and microseconds of CPU for each of them, by process."""

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

    def replay(self, claims: Sequence[bytes], backends: int = 1) -> Measured:
        """By so many at once, each its share of the claims."""
        self.empty_tables()
        shares = [claims[first::backends] for first in range(backends)]
        with ExitStack() as stack:
            connections = [
                stack.enter_context(psycopg.connect(self.archive.database_url, autocommit=True)) for _ in shares
            ]
            pool = stack.enter_context(ThreadPoolExecutor(backends))
            before, began = self.spent(), time.perf_counter()
            list(pool.map(_copy, connections, shares))
            return self._measured(len(self.messages), began, before)

    def etl(self, workers: int, lists: Lists | None = None) -> Measured:
        """From full lists to all acknowledged, by processes that were up and waiting when they filled; into tables as
        they are."""
        lists = {CAMPAIGNS: self.messages} if lists is None else lists
        with self.following(workers) as process:
            filling = self._filling(lists)
            before, began = self.spent(process.pid), time.perf_counter()
            filling.execute()
            self._wait_until_empty(lists)
            return self._measured(sum(map(len, lists.values())), began, before, process.pid)

    def load(self, mix: Mix) -> Measured:
        """Into empty tables, but for what the mix wants to be there before."""
        self.empty_tables()
        count = len(self.messages)
        with self.given(**mix.settings), self.somebody_forgotten(mix.forgotten) if mix.forgotten else nullcontext():
            if mix.stored:
                self.etl(1, mix.stored(count))
            return self.etl(mix.workers, mix.lists(count))

    @contextmanager
    def somebody_forgotten(self, day: str) -> Iterator[None]:
        """Someone who never called, on that day; loaders have the key."""
        with tempfile.TemporaryDirectory(prefix="etl-") as folder, self.given(forget_key=_FORGET_KEY):
            words = ("forget", "--number", _STRANGER, "--yes")
            with self.archive.process(*words, ETL_EXPORT_URL=folder) as process:
                said, complaint = process.communicate()
            assert process.returncode == 0, f"{said}\n{complaint}"
            with psycopg.connect(self.archive.database_url, autocommit=True) as connection:
                connection.execute("UPDATE forgotten SET began_at = %s", (day,))
                try:
                    yield
                finally:
                    connection.execute("DELETE FROM forgotten")

    @contextmanager
    def given(self, **more: Any) -> Iterator[None]:
        """With other settings than those of all figures."""
        before = self.archive.more
        self.archive.more = {**before, **more}
        try:
            yield
        finally:
            self.archive.more = before

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
        with self.following(1) as process:
            lists = {CAMPAIGNS: self.messages}
            self._filling(lists).execute()
            self._wait_until_empty(lists)
            return memory_mib(process.pid)

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
        self.flush()
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

    def flush(self) -> None:
        """All of it is gone then: what a thread of Redis still frees would be in figures of memory and CPU."""
        client: Any = self.redis
        client.execute_command("FLUSHALL", "SYNC")

    def fill(self, messages: Sequence[bytes], key: str = CAMPAIGNS) -> None:
        for first in range(0, len(messages), FILL):
            self.redis.lpush(key, *messages[first : first + FILL])

    def _filling(self, lists: Lists) -> Any:
        """A transaction that has all of it ready: executed, it fills them all at once."""
        for key, waiting in lists.items():
            self.fill(waiting, f"full:{key}")
        filling = self.redis.pipeline()
        for key in lists:
            filling.rename(f"full:{key}", key)
        return filling

    def _wait_until_empty(self, lists: Lists) -> None:
        """And all that was claimed of them is acknowledged."""
        left = [*lists, *(f"{{{key}}}:claims" for key in lists)]
        while self.redis.exists(*left):
            time.sleep(0.005)

    def _measured(self, cdrs: int, began: float, before: dict[str, float], loader: int | None = None) -> Measured:
        seconds = time.perf_counter() - began
        after = self.spent(loader)
        return Measured(cdrs / seconds, {name: (after[name] - before[name]) / cdrs * 1e6 for name in before})


# Of the person who was forgotten.
_FORGET_KEY, _STRANGER = "a secret of thirty-two characters", "0799123456"

_COLUMNS = (
    "dialed_on, source, call_ref, leg, dialed_at, answered_at, connected_at, ended_at, call_time, hold_time, ring_time,"
    " call_dir, extension, number, dial_number, campaign_ref, contact_ref, end_reason, end_code, recording_url, uuid,"
    " extra, batch_id"
)


def _copy(connection: "psycopg.Connection[Any]", claims: Sequence[bytes]) -> None:
    """A transaction a claim."""
    for claim in claims:
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY cdrs ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.write(claim)


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
        settings = {"batch_size": BATCH, "oldest_days": OLDEST_DAYS}
        archive = stack.enter_context(Archive(server.url, postgres.url, client, SOURCES, settings))
        versions = {
            "postgresql": archive.value("SHOW server_version"),
            "valkey": client.info("server").get("valkey_version", "unknown"),
            "decoder": "compiled" if is_compiled() else "python",
        }
        yield Bench(client, archive, messages(cdrs), versions)


def measure(bench: Bench, runs: int, only: Sequence[str] = ()) -> list[Figure]:
    """The limits, and each mix of messages beside them: rates and what each costs. `only`: a part of the names of the
    lines that are wanted; the limit is always measured."""
    bench.etl(1, {CAMPAIGNS: around_midnight(BATCH)})  # makes both days' partitions
    bench.empty_tables()
    bench.etl(1)
    claims = bench.encoded_claims()
    ways: dict[str, Callable[[], Measured]] = {
        LIMIT: lambda: bench.replay(claims),
        MACHINES_LIMIT: lambda: bench.replay(claims, backends=2),
        **{mix.name: partial(bench.load, mix) for mix in (*MIXES, *([BY_PYTHON] if is_compiled() else []))},
    }
    wanted = [way for way in ways if way == LIMIT or not only or any(part in way for part in only)]
    measured: Runs = {}
    for _ in range(runs):
        for way in wanted:
            measured.setdefault(way, []).append(ways[way]())
    return figures("load", measured)


def figures(part: str, measured: Runs) -> list[Figure]:
    """Rates beside the limit, then CPU."""
    rates = {way: [run.rate for run in runs] for way, runs in measured.items()}
    limit = rates.get(LIMIT)
    machines = rates.get(MACHINES_LIMIT)
    found = [Figure(part, way, "CDRs/s", runs) for way, runs in rates.items()]
    if limit:
        found = [replace(f, ratio=ratio(f.runs, limit), of=LIMIT) for f in found]
    if machines:
        for line in [line for line in found if "2 workers" in line.name]:
            found.append(
                replace(line, name=f"{line.name}: beside it", ratio=ratio(line.runs, machines), of=MACHINES_LIMIT)
            )
    for way, runs in measured.items():
        for process in runs[0].cpu:
            each = [run.cpu[process] for run in runs]
            found.append(Figure("cpu", f"{way}: {process}", "us of CPU a CDR", each))
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
