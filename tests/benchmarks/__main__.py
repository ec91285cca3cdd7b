"""`make bench`, or `python -m tests.benchmarks [PART …]`: one table, and the same as JSON in results.json beside this;
then what of the goals is met.

load     the limit, etl with one worker and two, duplicates, both dialects; what each costs of the CPU
steps    where the loader's time goes
recall   what the recall window costs, beside none
rest     memory, a loader with nothing to do, the latency of one CDR
rivals   what one would write or pick instead
growth   the rate beside millions of stored rows
days     the rate when a claim is of many days
export   a day to the lake and its verification, beside COPY
tables   an Iceberg table of ten years
listen   whether the listener keeps up

A lever within a minute: load --cdrs 100000 --only "1 worker" "both dialects"; the limit is always measured beside.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from etl import logs
from tests.benchmarks import export, growth, listen, load, recall, rivals, steps, tables
from tests.benchmarks.figures import Figure, write
from tests.benchmarks.goals import GOALS
from tests.benchmarks.load import Bench, servers
from tests.benchmarks.mixes import BATCH

RESULTS = Path(__file__).with_name("results.json")
REST_SECONDS = 10.0


def main(words: Sequence[str]) -> None:
    arguments = _arguments(words)
    logs.configure(level="warning")
    bench: Bench
    parts: dict[str, Callable[[], list[Figure]]] = {
        "load": lambda: load.measure(bench, arguments.runs, arguments.only),
        "steps": lambda: steps.measure(bench, arguments.runs),
        "recall": lambda: recall.measure(bench, arguments.runs),
        "rest": lambda: load.measure_rest(bench, arguments.latencies, REST_SECONDS),
        "rivals": lambda: rivals.measure(bench, arguments.runs),
        "growth": lambda: growth.measure(bench, arguments.runs, arguments.stored),
        "days": lambda: growth.measure_days(bench, arguments.runs, arguments.days),
        "export": lambda: export.measure(arguments.rows, arguments.runs),
        "tables": lambda: tables.measure(arguments.exported, arguments.runs),
        "listen": lambda: listen.measure(bench, arguments.rate, arguments.seconds),
    }
    figures: list[Figure] = []
    with servers(arguments.cdrs) as bench:
        print(
            f"{arguments.cdrs:,} CDRs of {len(bench.messages[-1])} bytes, claims of {BATCH:,};"
            f" medians of {arguments.runs} interleaved runs, and each of them",
            flush=True,
        )
        for name in arguments.parts or parts:
            with contextlib.redirect_stdout(sys.stderr):  # the table is all there is on stdout
                found = parts[name]()
            for figure in found:
                print(figure.as_line(), flush=True)
            figures += found
        _print_goals(figures)
        command = f"python -m tests.benchmarks {' '.join(words)}" if words else "make bench"
        if arguments.results:
            write(arguments.results, figures, command.partition(" --results")[0], bench.versions)


def _print_goals(figures: Sequence[Figure]) -> None:
    by_name = {(figure.part, figure.name): figure.as_json() for figure in figures}
    for goal in GOALS:
        measured = goal.measured(by_name)
        if measured is not None:
            verdict = "met" if goal.is_met(measured) else "NOT MET"
            print(f"{'goal':9} {goal.what:48} {goal.told(measured):>10} {goal.wanted:22} {verdict}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tests.benchmarks", description=__doc__, formatter_class=formatter)
    names = ["load", "steps", "recall", "rest", "rivals", "growth", "days", "export", "tables", "listen"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all of them if none is named: {', '.join(names)}")
    parser.add_argument("--cdrs", type=int, default=200_000, help="that wait on the list")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="the lines of load that have this in their name")
    parser.add_argument("--latencies", type=int, default=100, help="CDRs that are timed one by one")
    parser.add_argument("--stored", type=int, nargs="*", default=growth.STORED, help="rows that are there already")
    parser.add_argument("--days", type=int, nargs="*", default=growth.DAYS)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the day that is exported")
    parser.add_argument("--exported", type=int, default=3_650, help="days of the Iceberg table")
    parser.add_argument("--rate", type=int, default=20_000, help="PubSub messages a second")
    parser.add_argument("--seconds", type=int, default=30, help="of them")
    parser.add_argument("--results", type=Path, help="where else the JSON goes than beside this file")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.parts) - set(names):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if arguments.results is None and not arguments.only:  # a few lines don't replace the whole
        arguments.results = RESULTS
    return arguments


if __name__ == "__main__":
    main(sys.argv[1:])
