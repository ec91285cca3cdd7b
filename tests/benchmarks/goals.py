"""What the bench's figures are to come to, and why one doesn't. The bench and ops/PROOF.md print them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[tuple[str, str], Mapping[str, Any]]  # as they are in the JSON, by part and name


@dataclass(frozen=True)
class Goal:
    """For a figure's ratio if there is a `least`, for its median if there is a `most`."""

    what: str
    part: str
    name: str
    least: float | None = None
    most: float | None = None
    of: str | None = None  # another figure of that part to take the ratio to, instead of the figure's own
    why: str = ""  # what stands in the way while it isn't met: a sentence's end, for PROOF.md

    def measured(self, figures: Figures) -> float | None:
        """None: it wasn't."""
        figure = figures.get((self.part, self.name), {})
        if self.most is not None:
            return figure.get("median")
        if self.of is None:
            return figure.get("ratio")
        other = figures.get((self.part, self.of), {}).get("median")
        return figure["median"] / other if other and "median" in figure else None

    def is_met(self, measured: float) -> bool:
        return measured <= self.most if self.most is not None else measured >= (self.least or 0)

    @property
    def wanted(self) -> str:
        return f"at most {self.most:g} us" if self.most is not None else f"at least {self.least:.2f}"

    def told(self, measured: float) -> str:
        return f"{measured:.3g} us" if self.most is not None else f"{measured:.2f}"


GOALS = (
    Goal(
        "one worker, to the limit",
        "load",
        "etl, 1 worker",
        0.80,
        why="Redis and the loader share the two cores with Postgres, whose limit has them to itself",
    ),
    Goal(
        "two workers, to the limit",
        "load",
        "etl, 2 workers",
        0.95,
        why="Redis and two loaders share the two cores with Postgres, whose limit has them to itself",
    ),
    Goal("both dialects of each call, to the limit", "load", "etl, both dialects of each call", 0.70),
    Goal("100 % duplicates, to the limit", "load", "etl, 100 % duplicates", 0.50),
    Goal(
        "stored calls, completed, to the limit",
        "load",
        "etl, stored calls completed from a second list",
        0.30,
        why="a completed call is an UPDATE of an indexed day, not HOT in a full page: 15 to 17 us of Postgres, "
        "whatever the statement, beside 5 for an inserted one",
    ),
    Goal("1 % duplicates, to none", "load", "etl, 1 % duplicates", 0.75, of="etl, 1 worker"),
    Goal(
        "20 million rows stored, to none",
        "growth",
        "20,000,000 rows stored",
        0.90,
        why="a run lasts 1.3 s, and runs differ more than that from one another: four others, one after the other, "
        "were at 1.01, 0.89, 0.90 and 1.14, with as much of Postgres' CPU for a row as beside none, 6 us",
    ),
    Goal(
        "the loader's CPU for a CDR",
        "cpu",
        "etl, 1 worker: loader",
        most=2.0,
        why="the compiled decoder takes 0.9 us here, where the prototype's core takes 0.8; the rest is taking the "
        "claim from Redis, and handing it to libpq",
    ),
    Goal(
        "listener's and loader's CPU for an event",
        "cpu",
        "listening and loading: etl",
        most=14.0,
        why="each event passes through Redis twice and becomes a row in Python",
    ),
)
