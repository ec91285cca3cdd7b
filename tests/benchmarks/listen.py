"""Whether the listener keeps up; by itself `python -m tests.benchmarks.listen [--rate N] [--seconds N]`.

One process publishes agents' status changes at a rate, as a dialler would; a real `etl run --follow` listens and loads,
on private servers. Printed are the counts at every station of the way, the listening process's memory at intervals, and
what the processes cost. It measures and asserts nothing; the correctness of the way is the tests'.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from etl import logs
from tests.benchmarks.figures import Figure, memory_mib
from tests.benchmarks.load import Bench, servers
from tests.world import Archive, eventually

AGENTS = 500
GROUP = 100  # messages a pipeline: 5 ms of 20,000/s
SPOOL = "etl:events"
INTERVALS = 12  # lines of the table
PATIENCE_SECONDS = 600.0  # for the rest to be loaded


def publish(url: str, rate: int, seconds: int) -> None:
    """Runs in a process of its own. Prints how many messages it published, how many of them somebody heard, how many
    seconds that took, and how many of the CPU."""
    client = redis.Redis.from_url(url)
    bodies = [
        (
            f"enigma:notifications:agents:{1001 + number % AGENTS}",
            json.dumps(
                {
                    "type": "status",
                    "payload": {
                        "status": ("available", "busy", "wrapup")[number % 3],
                        "campaign_ref": "2040",
                        "ref": str(1001 + number % AGENTS),
                    },
                }
            ),
        )
        for number in range(AGENTS * 3)
    ]
    began, sent, heard = time.monotonic(), 0, 0
    while sent < rate * seconds:
        time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        pipeline = client.pipeline(transaction=False)
        size = min(GROUP, rate * seconds - sent)
        for number in range(sent, sent + size):
            pipeline.publish(*bodies[number % len(bodies)])
        heard += sum(pipeline.execute())
        sent += size
    print(sent, heard, time.monotonic() - began, time.process_time())


@dataclass(frozen=True)
class Counts:
    received: int  # by the listener, as its latest report has it
    dropped: int
    loaded: int
    waiting: int  # on the spool


def counts(archive: Archive) -> Counts:
    sessions = "SELECT coalesce(sum(received), 0)::bigint AS r, coalesce(sum(dropped), 0)::bigint AS d"
    (row,) = archive.rows(f"{sessions} FROM listener_sessions")
    # From the ledger: counting the events themselves would cost more than loading them.
    loaded = archive.value(
        "SELECT coalesce(sum(inserted), 0)::bigint FROM load_batch_days WHERE dataset = 'audit_events'"
    )
    return Counts(row["r"], row["d"], loaded, archive.redis.llen(SPOOL))


@contextmanager
def publishing(url: str, rate: int, seconds: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.benchmarks.listen", "--publish", url]
    arguments = ["--rate", str(rate), "--seconds", str(seconds)]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def following(archive: Archive) -> Iterator["subprocess.Popen[bytes]"]:
    """A real `etl run --follow`, whose log goes nowhere: a pipe that nobody reads would stop it when it's full."""
    command = [sys.executable, "-m", "etl.cli", "run", "--follow"]
    void = subprocess.DEVNULL
    with subprocess.Popen(command, env=archive.environment(), stdout=void, stderr=void) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def measure(bench: Bench, rate: int, seconds: int) -> list[Figure]:
    archive = bench.archive
    bench.empty_tables()  # or the rollup of what other parts left would be in the figures
    with following(archive) as etl:
        eventually(lambda: archive.rows("SELECT 1 FROM listener_sessions"), what="it never listened")
        began_at, began = datetime.now(UTC), time.monotonic()
        before = bench.spent(etl.pid)
        print(f"{'seconds':>8} {'loaded':>12} {'on the spool':>13} {'resident MiB':>13}")
        with publishing(archive.redis_url, rate, seconds) as publisher:
            while publisher.poll() is None:
                time.sleep(seconds / INTERVALS)
                now = counts(archive)
                at, resident = time.monotonic() - began, memory_mib(etl.pid, "VmRSS")
                print(f"{at:>8.0f} {now.loaded:>12,} {now.waiting:>13,} {resident:>13.0f}", flush=True)
            assert publisher.stdout is not None
            words = publisher.stdout.read().split()
        sent, heard, took, publishers_cpu = int(words[0]), int(words[1]), float(words[2]), float(words[3])
        ended = time.monotonic()
        _wait_until_loaded(archive, sent)
        loaded_after = time.monotonic() - ended
        ended_at = datetime.now(UTC)
        elapsed = time.monotonic() - began
        cpu = {name: seconds - before[name] for name, seconds in bench.spent(etl.pid).items()}
        cpu["etl"] = cpu.pop("loader")  # the same process listens
        peak = memory_mib(etl.pid)
        etl.terminate()
        etl.wait(60)
    archive.load()
    _print_result(archive, sent, heard, took, (began_at, ended_at))
    print(f"all loaded      {loaded_after:>12.1f} s after the last was published")
    print(f"peak memory     {peak:>12.0f} MiB resident, of the process that listens and loads")
    for name, seconds_of_cpu in {**cpu, "publisher": publishers_cpu}.items():
        print(f"{name:16}{seconds_of_cpu:>12.1f} s of CPU in {elapsed:.0f} s")
    lost = sent - counts(archive).loaded
    return [
        Figure("listen", f"published for {seconds} s", "messages/s", [sent / took]),
        Figure("listen", "of these not loaded", "messages", [lost]),
        Figure("listen", "listening and loading, peak memory", "MiB", [peak]),
        *(
            Figure("cpu", f"listening and loading: {name}", "us of CPU an event", [seconds_of_cpu / sent * 1e6])
            for name, seconds_of_cpu in cpu.items()
        ),
    ]


def _print_result(archive: Archive, sent: int, heard: int, took: float, period: tuple[datetime, datetime]) -> None:
    total = counts(archive)
    spooled = archive.value("SELECT coalesce(sum(claimed), 0)::bigint FROM load_batches WHERE source_key = %s", SPOOL)
    reports = spooled - total.loaded
    gaps = archive.rows(
        "SELECT * FROM audit_gaps WHERE coalesce(gap_from, '-infinity') < %s AND coalesce(gap_until, 'infinity') > %s",
        period[1],
        period[0],
    )
    print(f"published       {sent:>12,} in {took:.1f} s ({sent / took:,.0f}/s), {heard:,} of them to a listener")
    print(f"received        {total.received:>12,}")
    print(f"spooled         {spooled:>12,} ({reports:,} of them the listener's own reports)")
    print(f"loaded          {total.loaded:>12,}")
    print(f"dropped         {total.dropped:>12,}")
    print(f"gaps            {len(gaps):>12,} {', '.join(str(gap['reason']) for gap in gaps)}")


def _wait_until_loaded(archive: Archive, sent: int) -> None:
    """Until everything is loaded, or, if something was dropped, nothing more comes."""
    deadline, latest, changed = time.monotonic() + PATIENCE_SECONDS, -1, time.monotonic()
    while (loaded := counts(archive).loaded) < sent and time.monotonic() < deadline:
        if loaded != latest:
            latest, changed = loaded, time.monotonic()
        elif time.monotonic() > changed + 15:
            return
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000, help="messages a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--publish", metavar="URL", help=argparse.SUPPRESS)  # the publisher's own call
    arguments = parser.parse_args()
    if arguments.publish:
        publish(arguments.publish, arguments.rate, arguments.seconds)
        return
    logs.configure(level="warning")
    with servers(0) as bench:
        measure(bench, arguments.rate, arguments.seconds)


if __name__ == "__main__":
    main()
