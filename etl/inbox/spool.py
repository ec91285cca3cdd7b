"""The way from the listener to the spool list: a bounded buffer, and the thread that empties it into Redis.

First in, first out: a session's report that has reached the spool proves that everything heard before it has too.
"""

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any

from etl.errors import EtlError
from etl.inbox.connection import Client
from etl.inbox.producer import push
from etl.logs import OutageLog

GROUP_MESSAGES = 2_000
GROUP_BYTES = 1024 * 1024
GROUP_SECONDS = 0.05
# Ten seconds of a very busy dialler, kept while Redis restarts. What comes when it's full is dropped and counted.
CAPACITY_MESSAGES = 200_000
CAPACITY_BYTES = 64 * 1024 * 1024
PUSH_RETRY_SECONDS = 0.5


class Spooler:
    """Buffers what was heard until Redis has it. Call `offer` and `insist` from one thread, `run` in another."""

    def __init__(self, client: Client, key: str, log: Any) -> None:
        self._client = client
        self._key = key
        self._log = log
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closing_at: float | None = None

    def offer(self, records: Sequence[bytes]) -> int:
        """Buffer the records up to the first for which there is no room; gives how many that are."""
        with self._changed:
            fitting = bisect_right([*accumulate(map(len, records), initial=self._bytes)], CAPACITY_BYTES) - 1
            taken = max(0, min(fitting, CAPACITY_MESSAGES - len(self._waiting)))
            self._append(records[:taken])
            return taken

    def insist(self, record: bytes) -> None:
        """Buffer a record even when full: for the few that report what was missed."""
        with self._changed:
            self._append([record])

    def has_room(self) -> bool:
        """At least half of the buffer is free: after an overflow, listening can begin again."""
        with self._changed:
            return len(self._waiting) < CAPACITY_MESSAGES / 2 and self._bytes < CAPACITY_BYTES / 2

    def close(self, seconds: float) -> None:
        """End `run` once everything is in Redis, or after `seconds`."""
        with self._changed:
            self._closing_at = time.monotonic() + seconds
            self._changed.notify()

    def run(self) -> None:
        """Move groups to the spool until closed. While Redis is away or refuses, it retries, and the buffer fills."""
        outages = OutageLog(self._log, "spool_outage_began", "spool_outage_ended")
        while group := self._next_group():
            try:
                push(self._client, self._key, group)
            except EtlError as error:
                outages.failed(error)
                if self._give_up():
                    self._log.error("spool_abandoned", records=len(self._waiting))
                    return
                continue
            outages.succeeded()
            self._remove(group)

    def _append(self, records: Sequence[bytes]) -> None:
        before = len(self._waiting)
        self._waiting.extend(records)
        self._bytes += sum(map(len, records))
        if before == 0 or before < GROUP_MESSAGES <= len(self._waiting):
            self._changed.notify()

    def _next_group(self) -> list[bytes]:
        """The oldest records, once they are GROUP_MESSAGES or GROUP_SECONDS have passed; [] when closed and empty. At
        most GROUP_BYTES, or one record, so that Redis answers within the socket's timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing_at is not None)
            self._changed.wait_for(
                lambda: len(self._waiting) >= GROUP_MESSAGES or self._closing_at is not None, GROUP_SECONDS
            )
            group = [*islice(self._waiting, GROUP_MESSAGES)]
        fitting = bisect_right([*accumulate(map(len, group))], GROUP_BYTES)
        return group[: max(1, fitting)]

    def _remove(self, group: list[bytes]) -> None:
        with self._changed:
            for _ in group:
                self._waiting.popleft()
            self._bytes -= sum(map(len, group))

    def _give_up(self) -> bool:
        with self._changed:
            self._changed.wait(PUSH_RETRY_SECONDS)
            return self._closing_at is not None and time.monotonic() > self._closing_at
