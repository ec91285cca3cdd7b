"""Many source lists and a few threads: one looks which lists have something waiting, the others load these, a claim
each in turn.

A list that has more goes to the end of the queue, so none starves behind a busy one. Only while nobody else waits does
a thread stay with its list, and fetch ahead; and if there's an idle one it helps, as another worker would: Postgres
copies one claim while another is committed. A list that is broken, or whose Redis is away, rests, and has no thread
meanwhile; who has a claim in hand waits for Postgres, which is away for all.
"""

import threading
import time
from collections.abc import Sequence
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any

from etl.errors import EtlError, Outage
from etl.inbox.watch import Answer, Watch
from etl.jobs.fetcher import Fetcher
from etl.jobs.linger import Lingering
from etl.jobs.loader import Loader
from etl.jobs.patience import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Stopped
from etl.logs import OutageLog

# How often all lists are looked at, and whenever one of them is due; of a Redis that is away, less often.
LOOK_SECONDS = 0.2
LOOK_IN_VAIN_SECONDS = 1.0
# How often it's looked whether there are claims that somebody may have abandoned.
CLAIMS_SECONDS = 1.0
# How late, at worst, a thread without work sees the stop signal.
STOP_POLL_SECONDS = 0.5
# More of them share one interpreter, and load no faster.
THREADS = 4
# Of each list: the first, and one that helps.
LOADERS = 2


class _State(Enum):
    AT_REST = 1
    QUEUED = 2
    IN_HAND = 3


class _Told:
    """What is told of a list, whichever of its loaders met it."""

    def __init__(self, log: Any) -> None:
        self.outage = OutageLog(log, "outage_began", "outage_ended")
        self.broken = OutageLog(log, "list_broken", "list_mended")


class _Turn:
    """One loader's place in the rotation. `helper` is that of the list's second one, which has none itself."""

    def __init__(self, loader: Loader, linger_seconds: float, told: _Told, helper: "_Turn | None" = None) -> None:
        self.loader = loader
        self.helper = helper
        self.state = _State.AT_REST
        self.lingering = Lingering(linger_seconds)
        self.resting_until = float("-inf")
        self._pause = FIRST_PAUSE_SECONDS
        self._told = told
        self._is_out = self._is_broken = False

    def is_due(self, waiting: Answer, claims: Answer, batch_size: int, asked_at: float) -> bool:
        now = time.monotonic()
        if isinstance(waiting, Outage) or now < self.resting_until:
            return False
        if waiting == 0:
            self.lingering.saw_none(asked_at)
        elif not isinstance(waiting, int):
            return True  # an error that the loader will meet, and tell
        elif waiting >= batch_size or now >= self.lingering.due_at:
            return True
        return self.loader.is_recovering() or (claims != 0 and self.loader.is_to_adopt())

    @property
    def may_help(self) -> bool:
        return self.state is _State.AT_REST and time.monotonic() >= self.resting_until

    @property
    def has_left(self) -> bool:
        """A claim that it loaded and didn't acknowledge, or fetched and didn't load; or it told that it can't load."""
        left = self._is_out or self._is_broken or self.loader.is_recovering() or self.loader.has_ahead
        return self.state is _State.AT_REST and left

    def rest(self, error: EtlError) -> None:
        """Until the next try; the pauses grow. What is no `Outage` is an answer: the list is broken."""
        if isinstance(error, Outage):
            self.loader.finish_fetching()
            self._told.outage.failed(error)
            self._is_out = True
        else:
            self.loader.is_broken(error)
            self._is_over()
            self._told.broken.failed(error)
            self._is_broken = True
        self.resting_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def went_well(self) -> None:
        if self._is_broken:
            self.loader.is_mended()
            self._told.broken.succeeded()
            self._is_broken = False
        self._is_over()
        self._pause = FIRST_PAUSE_SECONDS

    def _is_over(self) -> None:
        if self._is_out:
            self._told.outage.succeeded()
            self._is_out = False


class Pool:
    """Loads the lists of `loaders`, in so many `threads` that call `load`, while one more calls `watch`. `helpers` and
    `watching` have the same lists in the same order. A claim of less than `batch_size` waits `linger_seconds` for more,
    and longer if it follows another."""

    def __init__(
        self,
        loaders: Sequence[Loader],
        helpers: Sequence[Loader],
        watching: Watch,
        *,
        threads: int,
        batch_size: int,
        linger_seconds: float,
        log: Any,
    ) -> None:
        self._threads = threads
        told = [_Told(log.bind(source_key=loader.key)) for loader in loaders]
        self._turns = [
            _Turn(loader, linger_seconds, of_list, _Turn(helper, linger_seconds, of_list))
            for loader, helper, of_list in zip(loaders, helpers, told, strict=True)
        ]
        self._all_turns = [each for turn in self._turns for each in (turn, turn.helper) if each]
        self._watching = watching
        self._batch_size = batch_size
        self._queue: SimpleQueue[_Turn] = SimpleQueue()
        self._claims: list[Answer] = [0] * len(loaders)
        self._claims_at = float("-inf")
        self._calling = threading.Lock()
        self._outage = OutageLog(log, "outage_began", "outage_ended")

    def watch(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        while not stop.is_set():
            stop.wait(self._look())

    def load(self, stop: threading.Event) -> None:
        """Until `stop` is set; then finish or give back the claims in hand. Raises no `EtlError`."""
        fetcher = Fetcher(f"fetch for {threading.current_thread().name}")
        try:
            while not stop.is_set():
                try:
                    turn = self._queue.get(timeout=STOP_POLL_SECONDS)
                except Empty:
                    continue
                self._take_turn(turn, fetcher, stop)
        except Stopped:
            pass
        finally:
            fetcher.close()

    def _look(self) -> float:
        """Returns in how many seconds to look again."""
        asked_at = time.monotonic()
        waiting = self._watching.waiting()
        if time.monotonic() >= self._claims_at:
            self._claims = self._watching.claims()
            self._claims_at = time.monotonic() + CLAIMS_SECONDS
        next_look = asked_at + LOOK_SECONDS
        for each in self._all_turns:
            if each.state is not _State.IN_HAND:
                each.loader.beat()
        for turn, messages, claims in zip(self._turns, waiting, self._claims, strict=True):
            if turn.helper and turn.helper.has_left and not isinstance(messages, Outage):
                self._call(turn.helper)
            if turn.state is not _State.AT_REST:
                continue
            if turn.is_due(messages, claims, self._batch_size, asked_at):
                self._enqueue(turn)
            elif messages:
                next_look = min(next_look, max(turn.lingering.due_at, turn.resting_until))
        away = next((answer for answer in waiting if isinstance(answer, Outage)), None)
        if away:
            self._outage.failed(away)
            return LOOK_IN_VAIN_SECONDS
        self._outage.succeeded()
        return max(0.0, next_look - time.monotonic())

    def _enqueue(self, turn: _Turn) -> None:
        turn.state = _State.QUEUED
        self._queue.put(turn)

    def _call(self, helper: _Turn) -> None:
        """The thread that watches may call it, and that of the first loader."""
        with self._calling:
            if helper.may_help:
                self._enqueue(helper)

    def _take_turn(self, turn: _Turn, fetcher: Fetcher, stop: threading.Event) -> None:
        turn.state = _State.IN_HAND
        turn.loader.beat()
        try:
            has_more = self._load(turn, fetcher, stop)
        except EtlError as error:
            turn.rest(error)
            has_more = False
        except BaseException:
            turn.loader.give_back_ahead()
            raise
        if has_more and turn.helper:
            self._enqueue(turn)
        else:
            turn.state = _State.AT_REST

    def _load(self, turn: _Turn, fetcher: Fetcher, stop: threading.Event) -> bool:
        """Whether the list has more. What was fetched ahead is loaded in the same turn."""
        loader = turn.loader
        while True:
            # What was fetched ahead, was so before; and what came since may have waited as long.
            began = None if loader.has_ahead else time.monotonic()
            books = loader.run_once(None if self._others_wait() else fetcher)
            turn.went_well()
            has_more = books is not None and books.claimed >= self._batch_size
            if began is not None and not has_more:
                turn.lingering.saw_none(began) if books is None else turn.lingering.claimed(began)
            if stop.is_set():
                loader.give_back_ahead()
                return False
            # One thread is left for a list that has little: it isn't to wait for claims of those that have much.
            if has_more and turn.helper and self._busy() < self._threads - 1:
                self._call(turn.helper)
            if not loader.has_ahead and (self._others_wait() or not has_more):
                return has_more

    def _others_wait(self) -> bool:
        """There are lists for which no thread is left."""
        return self._busy() > self._threads

    def _busy(self) -> int:
        """Threads that have a list, or are to take one."""
        return self._queue.qsize() + sum(turn.state is _State.IN_HAND for turn in self._all_turns)
