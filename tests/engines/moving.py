"""An archive whose table moves: day after day in turn gets a revision in which every call has the next number for its
`call_time`. So a reader's answer tells which revisions it saw, and whether they ever stood in the table together."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from tests.engines.hard import let_readers_in
from tests.lake import CALLS as CDRS
from tests.lake import DAY, lake, on, told
from tests.world import Archive, eventually

DAYS, CALLS = 3, 200
# What readers ask, and what of one day.
QUERY = (
    "SELECT CAST(dialed_on AS string) AS day, count(*), min(call_time), max(call_time)"
    " FROM etl.lake.cdrs GROUP BY dialed_on ORDER BY day"
)
QUERY_OF_A_DAY = (
    f"SELECT '{DAY}', count(*), min(call_time), max(call_time) FROM etl.lake.cdrs WHERE dialed_on = DATE '{DAY}'"
)
# The same without an aggregate, which Spark gives partition by partition.
COLUMNS = ("dialed_on", "call_time")


class Moving:
    """`published` counts the revisions; what any of them made of the table is in the history."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.published = 0
        self._state: tuple[int, ...] = (0,) * DAYS
        self._history = {self._state}
        self._load(range(DAYS), call_time=0)
        let_readers_in(archive)

    def publish(self) -> None:
        """The next day in turn."""
        number = self.published + 1
        day = number % DAYS
        self._state = (*self._state[:day], number, *self._state[day + 1 :])
        self._history.add(self._state)  # before anybody can see it
        self._load([day], call_time=number)
        self.published = number

    def _load(self, days: Sequence[int], call_time: int) -> None:
        for day in days:
            self.archive.push(*(on(day, n, call_time=call_time) for n in range(day * CALLS, (day + 1) * CALLS)))
        self.archive.load()
        with lake(self.archive) as opened:
            for day in days:
                outcome = opened.export(CDRS, DAY + timedelta(days=day), told)
                assert outcome.what == "exported", outcome

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Revision after revision meanwhile. Raises what ended it."""
        stop = threading.Event()

        def go_on() -> None:
            while not stop.is_set():
                self.publish()

        with ThreadPoolExecutor(1, "publish") as pool:
            publishing = pool.submit(go_on)
            self._publishing = publishing
            try:
                yield
            finally:
                stop.set()
            publishing.result()

    def wait_for_all_days(self) -> None:
        """Until each has a later revision than when this was called."""
        later = self.published + DAYS + 1  # the first of them may have begun already
        eventually(lambda: self.published >= later or self._publishing.done(), 600, "nothing is published any more")

    def is_one_state(self, rows: Sequence[Sequence[Any]]) -> bool:
        """Whether an answer to `QUERY` is what the table once was."""
        days = [str(DAY + timedelta(days=day)) for day in range(DAYS)]
        whole = all(count == CALLS and least == most for _, count, least, most in rows)
        return whole and [row[0] for row in rows] == days and tuple(row[2] for row in rows) in self._history

    def is_one_revision(self, rows: Sequence[Sequence[Any]]) -> bool:
        """Whether an answer to `QUERY_OF_A_DAY` is of one revision of it."""
        ((_, count, least, most),) = rows
        return bool(count == CALLS and least == most and least in {state[0] for state in self._history})


def aggregated(rows: Sequence[Sequence[Any]]) -> list[tuple[str, int, int, int]]:
    """`COLUMNS` of every call, as `QUERY` would have answered."""
    days: dict[str, list[int]] = {}
    for day, call_time in rows:
        days.setdefault(str(day), []).append(call_time)
    return [(day, len(found), min(found), max(found)) for day, found in sorted(days.items())]
