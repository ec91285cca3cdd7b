"""`make proof`: the table of README.md's section "Measured", out of the results that ops/PROOF.md is made of, and of
tests/benchmarks/serving.json. The rest of README.md is typed."""

import json
from collections.abc import Iterator
from pathlib import Path

from tests import proof
from tests.benchmarks.goals import Figures

README = proof.TESTS.parent / "README.md"
SERVING = proof.TESTS / "benchmarks/serving.json"
_HEAD = "| what | figure | where it comes from |\n|---|---|---|\n"


def page() -> str:
    """README.md with the figures of the results."""
    before, head, rest = README.read_text().partition(_HEAD)
    return before + head + "".join(f"| {' | '.join(row)} |\n" for row in _rows()) + rest[rest.index("\n\n") + 1 :]


def _rows() -> Iterator[tuple[str, str, str]]:
    soak, faults = (json.loads(file.read_text()) for file in (proof.SOAK, proof.FAULTS))
    cores, figures = _figures(proof.BENCH)
    injected = sum(soak["faults"].values()) + sum(fault["times"] for fault in faults["faults"])
    lost = "none" if soak["ok"] and not faults["failed"] else "SOME"
    yield (
        "faults injected, messages lost or doubled",
        f"{injected:,}, {lost}",
        f"{soak['minutes']:g} minutes of soak and the tests of tests/faults",
    )
    one, two = _rate(figures, "load", "etl, 1 worker"), _rate(figures, "load", "etl, 2 workers")
    yield "one loader, beside one pre-encoded COPY of the same rows", one, f"`make bench`, {cores} virtual cores"
    yield "two loaders", two, "`make bench`"
    rival = max((figure for (part, _), figure in figures.items() if part == "rivals"), key=lambda f: f.get("median", 0))
    yield f"the fastest rival: {rival['name']}", _rate(figures, "rivals", rival["name"]), "`make bench`"
    p50, p99 = (figures["rest", f"one CDR, push to commit, {which}"]["median"] for which in ("p50", "p99"))
    yield (
        "from a CDR's push to its commit, p50 and p99",
        f"{p50:.0f} ms and {p99:.0f} ms",
        "`make bench`; 200 ms of it are a setting",
    )
    slowest = max(figure["median"] for (part, _), figure in _figures(SERVING)[1].items() if part == "pages")
    yield (
        "the slowest page of the wall, of a day of 100,000 calls",
        f"{slowest:.0f} ms",
        "`python -m tests.benchmarks.serving`",
    )


def _rate(figures: Figures, part: str, name: str) -> str:
    figure = figures[part, name]
    rate = float(f"{figure['median']:.3g}")
    return f"{rate:,.0f} CDRs/s, {figure['ratio']:.2f} of it"


def _figures(file: Path) -> tuple[int, Figures]:
    """The machine's cores, and the figures by part and name."""
    results = json.loads(file.read_text())
    return results["machine"]["cores"], {(each["part"], each["name"]): each for each in results["results"]}


if __name__ == "__main__":
    README.write_text(page())
