"""The way from the listener's ears to the spool list: a bounded buffer, and the thread that empties it into Redis.

What is put in goes out in its order. So a session's report that has reached the spool proves that everything heard
before it has, too.
"""

import threading
import time
from collections import deque
from itertools import islice
from typing import Any

from etl.errors import EtlError, Outage
from etl.inbox.connection import Client
from etl.inbox.producer import push

GROUP_MESSAGES = 500
GROUP_BYTES = 1024 * 1024
GROUP_SECONDS = 0.05
# Ten seconds of a very busy dialler, held while Redis restarts; beyond, the newest are dropped and counted.
CAPACITY_MESSAGES = 200_000
CAPACITY_BYTES = 64 * 1024 * 1024
RETRY_SECONDS = 0.5


class Spooler:
    """Holds what was heard until Redis has it. `offer` and `insist` from one thread, `run` in another."""

    def __init__(self, client: Client, key: str, log: Any) -> None:
        self._client = client
        self._key = key
        self._log = log
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._failure: EtlError | None = None

    def offer(self, record: bytes) -> bool:
        """Take a record, unless the buffer is full."""
        with self._changed:
            if len(self._waiting) >= CAPACITY_MESSAGES or self._bytes + len(record) > CAPACITY_BYTES:
                return False
            self._append(record)
            return True

    def insist(self, record: bytes) -> None:
        """Take a record in any case: for the few that say what was missed."""
        with self._changed:
            self._append(record)

    def has_room(self) -> bool:
        """The buffer is half empty again: after an overflow, listening is worth while."""
        with self._changed:
            return len(self._waiting) < CAPACITY_MESSAGES / 2 and self._bytes < CAPACITY_BYTES / 2

    def check(self) -> None:
        """Raises `ConfigurationError` if that has ended `run`: nothing reaches the spool any more."""
        if self._failure is not None:
            raise self._failure

    def close(self, seconds: float) -> None:
        """Let `run` end when everything is in Redis, or after `seconds`."""
        with self._changed:
            self._closing_at = time.monotonic() + seconds
            self._changed.notify()

    def run(self) -> None:
        """Move groups to the spool until closed. While Redis is away it waits, and the buffer fills."""
        outage_began: float | None = None
        while group := self._next_group():
            try:
                push(self._client, self._key, group)
            except Outage as outage:
                if outage_began is None:
                    outage_began = time.monotonic()
                    self._log.warning("spool_outage_began", error=outage.text, code=outage.code)
                if self._give_up():
                    self._log.error("spool_abandoned", records=len(self._waiting))
                    return
                continue
            except EtlError as failure:
                self._failure = failure
                return
            if outage_began is not None:
                self._log.warning("spool_outage_ended", seconds=round(time.monotonic() - outage_began, 1))
                outage_began = None
            self._forget(group)

    def _append(self, record: bytes) -> None:
        self._waiting.append(record)
        self._bytes += len(record)
        if len(self._waiting) in (1, GROUP_MESSAGES):
            self._changed.notify()

    def _next_group(self) -> list[bytes]:
        """The oldest records, once there are enough of them or the first has waited long enough; [] when closed and
        empty. Few enough bytes that Redis can answer within a socket's timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing_at is not None)
            self._changed.wait_for(
                lambda: len(self._waiting) >= GROUP_MESSAGES or self._closing_at is not None, GROUP_SECONDS
            )
            group: list[bytes] = []
            size = 0
            for record in islice(self._waiting, GROUP_MESSAGES):
                size += len(record)
                if size > GROUP_BYTES and group:
                    break
                group.append(record)
            return group

    def _forget(self, group: list[bytes]) -> None:
        with self._changed:
            for record in group:
                self._waiting.popleft()
                self._bytes -= len(record)

    def _give_up(self) -> bool:
        with self._changed:
            self._changed.wait(RETRY_SECONDS)
            return self._closing_at is not None and time.monotonic() > self._closing_at
