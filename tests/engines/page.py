"""ops/ENGINES.md, out of what the engines answered."""

import os
import platform
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.engines import spark
from tests.engines.moving import CALLS, DAYS
from tests.engines.queries import Tally

PAGE = Path(__file__).parents[2] / "ops/ENGINES.md"
PLACES = {"files": "plain files", "table": "Iceberg table", "calls": "as docs/lake.md calls it"}


@dataclass(frozen=True)
class Read:
    """What an engine's answers are, to psql's, by where it read: `equal`, or what is wrong."""

    engine: str
    version: str
    answers: Mapping[str, str]

    @property
    def is_fine(self) -> bool:
        return set(self.answers.values()) == {"equal"}


def is_fine(reads: Sequence[Read], tallies: Mapping[str, Tally]) -> bool:
    return all(each.is_fine for each in reads) and all(each.is_fine for each in tallies.values())


def write(reads: Sequence[Read], tallies: Mapping[str, Tally]) -> None:
    PAGE.write_text("\n".join(_lines(reads, tallies)).rstrip() + "\n")


def _lines(reads: Sequence[Read], tallies: Mapping[str, Tally]) -> Iterator[str]:
    fine = is_fine(reads, tallies)
    jars = ", ".join(f"{name} {number}" for name, number in spark.jar_versions().items())
    yield from ("# Engines" if fine else "# Engines: SOMETHING IS WRONG", "")
    yield from _paragraph(
        "What engines that know nothing of etl read in its lake. `make engines` made this page on"
        f" {datetime.now(UTC):%Y-%m-%d}; nothing on it was typed. {platform.system()} {platform.machine()},"
        f" {len(os.sched_getaffinity(0))} cores; etl {version('enigma-etl')}, PyIceberg {version('pyiceberg')}, Python"
        f" {platform.python_version()}; Java {spark.java_version()} with {jars}. How each is called:"
        " [docs/lake.md](../docs/lake.md#each-engines-call)."
    )
    yield from ("## The same answers", "")
    yield from _paragraph(
        "Two days of calls, one of them in its second revision, with emoji, quotes, line ends, both directions of"
        " writing, texts that look like nothing, and nothings. Each engine was asked for the figures of each day, for"
        " all the texts of one day, and for the calls of one text; psql was asked the same of Postgres."
    )
    yield from _table(
        ("engine", "version", *PLACES.values()),
        [(each.engine, each.version, *(each.answers.get(place, "") for place in PLACES)) for each in reads],
    )
    yield from ("## The table while it moves", "")
    yield from _paragraph(
        "Spark as a standalone master and a worker, two processes, with a driver, a third, reads through its JDBC"
        " catalog, as etl_reporting, the tables of the archive's own Postgres, while revision after revision is"
        f" exported of {DAYS} days of {CALLS} calls each. A query is mixed if its answer is of no state that the table"
        " was ever in; it was under way if every day got another revision between its planning, or its first row, and"
        " its last."
    )
    yield from _table(
        ("the lake", "queries", "failed", "mixed", "under way", "revisions published meanwhile", "seconds"),
        [
            (where, t.asked, len(t.failed), len(t.mixed), t.under_way, t.published, f"{t.seconds:.0f}")
            for where, t in tallies.items()
        ],
    )
    for where, tally in tallies.items():
        for wrong in (*tally.failed, *tally.mixed):
            yield from _paragraph(f"{where}: {wrong}")


def _paragraph(text: str) -> Iterator[str]:
    yield from (*textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False), "")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)
    yield ""
