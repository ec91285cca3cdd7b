"""`make proof`: ops/PROOF.md out of what was measured and counted, which is committed beside what made it. README.md's
table is tests/measured.py's.

tests/benchmarks/results.json   make bench
tests/faults/soak.json          make soak
tests/faults/results.json       make faults
tests/fuzz/decoder.json         make fuzz-decoder, which doesn't keep it unless it's told to
"""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.goals import GOALS, Figures, Goal
from tests.benchmarks.load import LIMIT, MACHINES_LIMIT

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "ops" / "PROOF.md"
BENCH, SOAK, FAULTS = TESTS / "benchmarks/results.json", TESTS / "faults/soak.json", TESTS / "faults/results.json"
DECODER = TESTS / "fuzz/decoder.json"
ANY_MOMENT = "any moment"

Json = dict[str, Any]


def page() -> str:
    soak, faults = _read(SOAK), _read(FAULTS)
    lines = [
        *_lost(soak, faults),
        *_alike(_read(DECODER)),
        *_fast(_read(BENCH) if BENCH.exists() else None),
        *_not_claimed(),
        *_again(soak),
    ]
    return "\n".join(lines).rstrip() + "\n"


# -- nothing is lost


def _lost(soak: Json, faults: Json) -> Iterator[str]:
    in_soak, in_tests = sum(soak["faults"].values()), sum(fault["times"] for fault in faults["faults"])
    is_fine = soak["ok"] and not faults["failed"]
    set_backs = soak.get("set_backs", {}).get("made", 0)
    yield from ("# Proof", "")
    yield from _paragraph(
        "What this archive promises, and the figures for it, with the commands that made them. `make proof` writes this"
        " page from the results that are committed beside the programs that made them; no figure on it was typed."
    )
    yield from ("## Nothing is lost, and nothing is there twice" if is_fine else "## SOMETHING IS WRONG", "")
    yield from _paragraph(
        f"**{in_soak + in_tests:,} faults were injected, and {'nothing was' if is_fine else 'SOMETHING WAS'} lost or"
        f" doubled**: {in_soak:,} in a soak of {soak['minutes']:g} minutes, {set_backs:,} of them set-backs of Postgres"
        f" ({soak['date']}, {soak['machine']}),"
        f" {in_tests:,} in the {faults['tests']:,} tests of tests/faults ({faults['date']}, {faults['machine']})."
        " The product has no code for it: tests wrap its public methods from outside, the wires between it and the"
        " stores are cut on the way, and servers and processes are real and get real signals."
    )
    if faults["failed"]:
        yield from _paragraph(f"Tests that FAILED, and count for nothing here: {', '.join(faults['failed'])}.")
    said = soak["said"]
    yield from _paragraph(
        f"In the soak three diallers had {said['calls']:,} calls; Redis confirmed"
        f" {said['messages pushed, and confirmed by Redis']:,} messages about them, and may have got"
        f" {said['pushed again for want of an answer']:,} more, which were pushed again for want of an answer. When all"
        " was quiet, everything that the producers remember was held against Postgres, the books, the lake and Redis:"
    )
    marks = {True: "proved", False: "WRONG", None: "unknown"}
    yield from _table(
        ("proof", "verdict", "found"), [(v["what"], marks[v["ok"]], v["found"]) for v in soak["verdicts"]]
    )
    at_steps = [fault for fault in faults["faults"] if fault["when"] != ANY_MOMENT]
    yield from _paragraph(
        f"At named steps, {sum(fault['times'] for fault in at_steps)} faults, each with a test of what it must leave"
        " behind and of how the next life comes right:"
    )
    yield from _table(("step", "what happened there"), _by_step(at_steps))
    yield from _paragraph("At any moment, in the tests and in the soak:")
    yield from _table(("fault", "times"), _at_any_moment(soak, faults))


def _by_step(faults: Iterable[Json]) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for fault in faults:
        found.setdefault(fault["when"], []).append(f"{fault['what']}, {fault['whom']}: {fault['times']}")
    return [(step.replace("_", " "), "; ".join(each)) for step, each in sorted(found.items())]


def _at_any_moment(soak: Json, faults: Json) -> list[tuple[str, int]]:
    times: Counter[str] = Counter(soak["faults"])
    for fault in faults["faults"]:
        if fault["when"] == ANY_MOMENT:
            times[f"{fault['what']} {fault['whom']}"] += fault["times"]
    return sorted(times.items())


# -- two decoders, one meaning


def _alike(search: Json) -> Iterator[str]:
    is_fine = not search["different"]
    yield from ("## Both decoders read the same" if is_fine else "## THE DECODERS DIFFER", "")
    yield from _paragraph(
        f"**{search['messages']:,} messages, {search['different']:,} differences.** The compiled decoder took"
        f" {search['plain']:,} of them for plain CDRs, and the row of each was, byte for byte, what the Python decoder"
        f" and psycopg make of it; it left the rest to Python, to which {search['cdrs'] - search['plain']:,} of these"
        " are CDRs. They are messages of both dialects, the protocol's, the published dialler's and the fuzzer's, each"
        " changed in a few places: a byte, a field, an escape, a form of a number or a time, the order, a field twice,"
        f" an end too early. `{search['command']}`, {search['date']}, {search['machine']}, {search['seconds']:,} s; the"
        f" library's source is {search['library']}."
    )


# -- how fast


def _fast(results: Json | None) -> Iterator[str]:
    yield from ("## How fast", "")
    if results is None:
        yield from _paragraph("Not measured yet: `make bench`, then `make proof`.")
        return
    figures = {(each["part"], each["name"]): each for each in results["results"]}
    machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in results["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    yield from _paragraph(f"{results['date']}, `{results['command']}`; {machine}; {versions}.")
    yield from _paragraph(
        "The limit is the same rows replayed as one pre-encoded binary COPY into the same partitioned table: no single"
        " session of Postgres can be faster. Every figure is the median of interleaved runs, so that a machine that"
        " slows down slows all of them; the runs stand beside it."
    )
    yield from _table(("goal", "measured", "wanted", "met"), [_judged(goal, goal.measured(figures)) for goal in GOALS])
    yield from _in_the_way(figures, results["machine"])
    yield from _table(("part", "what", "median", "unit", "ratio", "runs"), [_figure(f) for f in figures.values()])


def _in_the_way(figures: Figures, machine: Json) -> Iterator[str]:
    """Where the CPU goes, and what is the most that this machine could do with it."""

    def cpu(way: str) -> dict[str, float]:
        found = {p: figures.get(("cpu", f"{way}: {p}"), {}).get("median") for p in ("loader", "Postgres", "Redis")}
        return {process: median for process, median in found.items() if median}

    one, two, limit = cpu("etl, 1 worker"), cpu("etl, 2 workers"), figures.get(("load", LIMIT), {}).get("median")
    if not (one and two and limit):
        return
    cores = machine["cores"]
    each = ", ".join(f"{process} {median:.2g}" for process, median in one.items())
    most_with_one, most_with_two = 1_000_000 / max(one.values()), cores * 1_000_000 / sum(two.values())
    yield from _paragraph(
        f"What stands in the way: microseconds of CPU a CDR, with one worker, are {each}. A worker is one process,"
        f" whose Python runs on one core at a time: were it never waiting, it would load {most_with_one:,.0f} CDRs/s,"
        f" {most_with_one / limit:.2f} of the limit. With two workers all three together take {sum(two.values()):.2g}"
        f" us, of which {cores} cores can do {most_with_two:,.0f} a second, {most_with_two / limit:.2f} of the limit,"
        " which is a single process of Postgres and needs one core. The steps below are the worker's."
    )
    if machines := figures.get(("load", MACHINES_LIMIT)):
        own = figures[("load", "etl, 2 workers")]["median"] / machines["median"]
        yield from _paragraph(
            f"Two backends that replay at once, each half of the claims, come to {machines['ratio']:.2f} of the limit:"
            f" the machine's own. Two workers reach {own:.2f} of that."
        )
    if again := cpu("etl, 100 % duplicates"):
        told = ", ".join(f"{process} {median:.2g}" for process, median in again.items())
        most = 1_000_000 / (again["loader"] + again["Postgres"])
        yield from _paragraph(
            f"What is loaded again takes {told} us: each row is sent, then found and compared, all in one transaction."
            f" Loader and Postgres take turns at that, with {most:,.0f} CDRs/s ({most / limit:.2f} of the limit) if"
            " nothing of it overlapped."
        )


def _judged(goal: Goal, measured: float | None) -> tuple[str, ...]:
    if measured is None:
        return goal.what, "not measured", goal.wanted, ""
    verdict = "met" if goal.is_met(measured) else f"NOT MET{': ' if goal.why else ''}{goal.why}"
    return goal.what, goal.told(measured), goal.wanted, verdict


def _figure(figure: Json) -> tuple[str, ...]:
    if "median" not in figure:
        return figure["part"], figure["name"], figure.get("note", ""), figure["unit"], "", ""
    ratio = f"{figure['ratio']:.2f} of {figure['of']}" if "ratio" in figure else ""
    runs = ", ".join(map(_number, figure["runs"])) if len(figure["runs"]) > 1 else ""
    return figure["part"], figure["name"], _number(figure["median"]), figure["unit"], ratio, runs


# -- what isn't claimed, and how to see for oneself


def _not_claimed() -> Iterator[str]:
    yield from ("## What isn't claimed", "")
    for text in (
        "**A Redis that forgets.** What Redis confirmed and lost, nobody else has. With `appendonly yes` and"
        " `appendfsync everysec`, the default, a machine that loses power forgets up to a second; a process that is"
        " killed forgets nothing. The soak's Redis has `appendfsync always`, so that whatever is missing is our fault."
        " `etl check` names a Redis that isn't durable.",
        "**A lost disk.** Until a day is in the lake, Postgres' disk has the only copy: back it up. A disk that lies"
        " about fsync isn't tried here, nor is a machine that loses power; processes and servers are killed, the kernel"
        " lives on.",
        "**PubSub.** It's lossy by nature: what nobody heard is gone. Claimed and proved is that every such interval is"
        " a row of `audit_gaps`, and that outside of them nothing is missing.",
        "**Short gaps.** The soak proves that nothing is missing outside of the gaps, not that they are as short"
        " as they could be; how long each kind may be, tests/faults/test_listener.py holds.",
        "**What the dialler never pushed**, or somebody else popped.",
        "**A full disk.** Redis is filled up, and the lake's folders are locked where the soak doesn't run as root. A"
        " Postgres without space is played by a trigger that says so, in a test.",
        "**The same microsecond twice.** A seed repeats messages, faults and times, not the kernel's scheduling.",
    ):
        yield from textwrap.wrap(
            f"- {text}", 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    yield ""


def _again(soak: Json) -> Iterator[str]:
    yield from ("## Again", "")
    yield from _paragraph("On private servers, from a fresh clone; nothing of yours is touched:")
    commands = {
        "make soak": "ten minutes, or MINUTES=45; its report is ops/SOAK.md",
        soak["command"]: "the same messages and faults as above",
        "make faults": "the tests of every step, counted",
        "make fuzz": "five minutes of looking for a message that breaks the decoder",
        "make fuzz-decoder": "ten minutes, or MINUTES=45, of looking for one that the decoders read differently",
        "make bench": "the figures, on a machine with nothing else to do",
        "make proof": "this page again, from their results",
    }
    width = max(map(len, commands))
    yield from (f"    {command:{width}}  # {what}" for command, what in commands.items())


def _read(file: Path) -> Json:
    found: Json = json.loads(file.read_text())
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _paragraph(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)
    yield ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page())
