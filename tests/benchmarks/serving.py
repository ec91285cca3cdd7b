"""How fast the wall answers, and what browsers that look at it cost the loader: `python -m tests.benchmarks.serving`.

`pages`: each page of the wall, on a day of `--calls` calls, asked `--times` times when it's warm; wanted: below 300 ms.
`looking`: the loader's rate while `--clients` ask for today every five seconds, beside that while nobody does, in turn,
since the machine's speed changes from minute to minute: the ratio means something, the rates little.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import psycopg

from etl import logs
from etl.app.database import rollup
from etl.reporting.web.app import KINDS
from tests.benchmarks.figures import Figure, ratio, write
from tests.benchmarks.load import Bench, servers
from tests.store import ROLES
from tests.wall import Answer, Served, at_noon, listened, load_and_listen, said, served
from tests.world import Archive, cdr

RESULTS = Path(__file__).with_suffix(".json")
WANTED_MS = 300
AGENTS, CAMPAIGNS = 200, 20
# A status of an agent for so many calls.
CALLS_PER_STATUS = 4
PUSHED = 5_000  # messages at a time
EVERY_SECONDS = 5.0
REASONS = ["callee_hungup", "agent_hungup", "busy", "timeout", "voicemail"]
STATUSES = ["available", "busy", "wrapup"]


def fill(archive: Archive, calls: int) -> None:
    """Half a day until now, outbound and inbound, and the statuses of its agents; the figures are kept."""
    now = at_noon(archive)
    begin = now - timedelta(hours=12)
    for number in range(0, calls, PUSHED):
        some = range(number, min(number + PUSHED, calls))
        archive.push(*(_call(each, begin + timedelta(hours=12) * each / calls, calls // 12) for each in some))
        statuses = (each for each in some if each % CALLS_PER_STATUS == 0)
        archive.push(
            *(_status(each, begin + timedelta(hours=12) * each / calls) for each in statuses), key="etl:events"
        )
        archive.load()
    archive.push(listened(now), key="etl:events")
    load_and_listen(archive)
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    rollup(archive.settings(), False, lambda _: None)
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute("VACUUM (ANALYZE)")


def _call(number: int, at: datetime, contacts: int) -> bytes:
    answered = number % 5 < 2
    return cdr(
        7_000_000_000 + number,
        dialed_at=int(at.timestamp()),
        ref=str(2_000 + number * 17 % CAMPAIGNS),
        call_dir="inbound" if number * 17 % CAMPAIGNS < CAMPAIGNS // 4 else "outbound",
        extension=str(1_000 + number * 31 % AGENTS) if answered else None,
        number=f"07{number * 7919 % 100_000_000:08}",
        contact_ref=f"M{number * 7919 % max(1, contacts)}",
        end_reason=REASONS[number % 5],
        hold_time=number % 61,
        call_time=number * 7919 % 300 if answered else 0,
    )


def _status(number: int, at: datetime) -> bytes:
    step = number // CALLS_PER_STATUS
    return said(str(1_000 + step % AGENTS), STATUSES[step // AGENTS % 3], at, campaign_ref="2000")


# -- pages


def measure_pages(archive: Archive, wall: Served, times: int) -> list[Figure]:
    day = archive.value("SELECT (now() AT TIME ZONE zone)::date FROM reporting.settings")
    days = f"?from={day}&to={day}"
    found = []
    for path in ("/", *(kind + days for kind in KINDS), f"/agent/1000{days}"):
        asked(wall, path)
        took = [asked(wall, path) for _ in range(times)]
        note = f"worst {max(took):.0f} ms; wanted: less than {WANTED_MS}"
        found.append(Figure("pages", path.partition("?")[0], "ms", took, note=note))
    return found


def asked(wall: Served, path: str) -> float:
    """Milliseconds until it's there, whole. Raises if there's no such page, or if it says that it can't be asked."""
    began = time.perf_counter()
    answer = wall.ask(path)
    took = (time.perf_counter() - began) * 1_000
    _assert_told(path, answer)
    return took


def _assert_told(path: str, answer: Answer) -> None:
    if answer.status != 200 or "nothing of today is known" in answer.body:
        raise RuntimeError(f"{path}: {answer.status}, {answer.text[:200]}")


# -- looking


def measure_looking(bench: Bench, wall: Served, clients: int, runs: int) -> list[Figure]:
    """What is loaded is of other days than the one that is looked at, which stays as large as it is."""
    alone, watched = "nobody looks", f"{clients} browsers look"
    rates: dict[str, list[float]] = {alone: [], watched: []}
    for _ in range(runs):
        for name, measured in rates.items():
            _forget_loaded(bench.archive)
            with looking(wall, clients if name == watched else 0) as looks:
                measured.append(bench.etl(1).rate)
            print(f"{name}: {measured[-1]:,.0f} CDRs/s, {len(looks)} looks", flush=True)
    return [Figure("looking", name, "CDRs/s", each, ratio(each, rates[alone]), alone) for name, each in rates.items()]


def _forget_loaded(archive: Archive) -> None:
    """The bench's own calls, which are of 2015, so that each run inserts them."""
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no trigger keeps what was there
        connection.execute("DELETE FROM cdrs WHERE dialed_on < '2016-01-01'")
        connection.execute("VACUUM cdrs")
        connection.execute("CHECKPOINT")


@contextlib.contextmanager
def looking(wall: Served, clients: int) -> Iterator[list[float]]:
    """So many ask for today as their pages do, each at its own time. Gives what each answer took, in milliseconds."""
    done, looks, failures = threading.Event(), list[float](), list[Exception]()

    def look(number: int) -> None:
        wait = EVERY_SECONDS * number / clients
        try:
            while not done.wait(wait):
                looks.append(asked(wall, "/"))
                wait = EVERY_SECONDS
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield looks
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("tests.benchmarks.serving", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, help="of the day that is looked at")
    parser.add_argument("--times", type=int, default=20, help="that each page is asked for")
    parser.add_argument("--cdrs", type=int, default=500_000, help="that are loaded meanwhile")
    parser.add_argument("--clients", type=int, default=20, help="that look meanwhile")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(words)
    logs.configure(level="warning")
    with servers(arguments.cdrs) as bench, tempfile.TemporaryDirectory(prefix="etl-") as folder:
        fill(bench.archive, arguments.calls)
        url = bench.archive.database_url.replace("postgres@", "etl_reporting@")
        with served(bench.archive, Path(folder) / "log", ETL_WEB_DATABASE_URL=url) as wall:
            print(f"a day of {arguments.calls:,} calls; medians of {arguments.times}, and each of them", flush=True)
            figures = measure_pages(bench.archive, wall, arguments.times)
            figures += measure_looking(bench, wall, arguments.clients, arguments.runs)
        for figure in figures:
            print(figure.as_line() + (f"  {figure.note}" if figure.note else ""))
        slow = [each.name for each in figures if each.part == "pages" and statistics.median(each.runs) >= WANTED_MS]
        print(f"slower than wanted: {', '.join(slow) or 'none'}")
        command = f"python -m tests.benchmarks.serving {' '.join(words or ())}".strip()
        write(arguments.results, figures, command, bench.versions)


if __name__ == "__main__":
    main()
