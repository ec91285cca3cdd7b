"""Fifty queries by Spark while revision after revision is published: what became of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.engines.moving import COLUMNS, QUERY, QUERY_OF_A_DAY, Moving, aggregated
from tests.engines.spark import Session, SparkError

QUERIES = 50


@dataclass
class Tally:
    """`under_way` queries had every day replaced between their beginning and their end."""

    asked: int = 0
    under_way: int = 0
    published: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    @property
    def is_fine(self) -> bool:
        return self.asked == QUERIES and not self.failed and not self.mixed


def ask_while_it_moves(session: Session, moving: Moving) -> Tally:
    """In turn: at once; of one day; planned, and carried out later; begun, and read to its end later."""
    tally = Tally()
    began, before = time.perf_counter(), moving.published
    ways: tuple[Callable[[Session, Moving, Tally], str], ...] = (_at_once, _of_a_day, _planned, _begun)
    with moving.moving():
        for number in range(QUERIES):
            try:
                if wrong := ways[number % len(ways)](session, moving, tally):
                    tally.mixed.append(wrong)
            except SparkError as error:
                tally.failed.append(str(error))
            tally.asked += 1
    tally.published, tally.seconds = moving.published - before, time.perf_counter() - began
    return tally


def _at_once(session: Session, moving: Moving, _: Tally) -> str:
    rows = session.do("query", sql=QUERY)
    return "" if moving.is_one_state(rows) else f"at once: {rows}"


def _of_a_day(session: Session, moving: Moving, _: Tally) -> str:
    rows = session.do("query", sql=QUERY_OF_A_DAY)
    return "" if moving.is_one_revision(rows) else f"of a day: {rows}"


def _planned(session: Session, moving: Moving, tally: Tally) -> str:
    session.do("plan", sql=QUERY)
    moving.wait_for_all_days()
    rows = session.do("finish")
    tally.under_way += 1
    return "" if moving.is_one_state(rows) else f"planned: {rows}"


def _begun(session: Session, moving: Moving, tally: Tally) -> str:
    session.do("begin", columns=COLUMNS)
    moving.wait_for_all_days()
    rows = aggregated(session.do("finish"))
    tally.under_way += 1
    return "" if moving.is_one_state(rows) else f"begun: {rows}"
