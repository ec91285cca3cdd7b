"""A call centre whose agents' states are published all the time, and which knows when each was: the other side of the
audit trail."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from tests.world import Archive

CHANNEL = "enigma:notifications:agents:1002"
PAUSE_SECONDS = 0.005


@dataclass(frozen=True)
class Said:
    """It was published at some moment from `since` to `until`."""

    number: int
    since: datetime
    until: datetime


class Floor:
    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self.said: list[Said] = []

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._speak, args=(done,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def say(self, client: "redis.Redis", count: int, padding: int = 0) -> None:
        for _ in range(count):
            number, since = len(self.said), now()
            body = {"type": "status", "payload": {"status": "busy", "ref": "1002", "n": number, "pad": "x" * padding}}
            with contextlib.suppress(redis.RedisError):  # it may be away, and nobody publishes anything then
                client.publish(CHANNEL, json.dumps(body))
                self.said.append(Said(number, since, now()))

    def _speak(self, done: threading.Event) -> None:
        with redis.Redis.from_url(self._redis_url) as client:
            while not done.wait(PAUSE_SECONDS):
                self.say(client, 1)

    def proven(self, archive: Archive) -> set[int]:
        """The numbers of what was published while a session was proven."""
        sessions = archive.rows("SELECT subscribed_at, proven_until FROM listener_sessions")
        return {
            each.number
            for each in [*self.said]
            if any(each.since >= one["subscribed_at"] and each.until <= one["proven_until"] for one in sessions)
        }

    def assert_recorded(self, archive: Archive) -> None:
        """Once what was published while a session was proven; and nothing twice."""
        numbers = "SELECT (payload->>'n')::int AS n FROM audit_events WHERE channel = %s"
        recorded = [row["n"] for row in archive.rows(numbers, CHANNEL)]
        assert len(set(recorded)) == len(recorded)
        proven = self.proven(archive)
        assert proven
        assert proven - set(recorded) == set()


def gaps(archive: Archive) -> list[dict[str, Any]]:
    """Those between the first session and the end of the last."""
    query = "SELECT * FROM audit_gaps WHERE gap_from IS NOT NULL AND gap_until IS NOT NULL ORDER BY gap_from"
    return archive.rows(query)


def now() -> datetime:
    return datetime.now(UTC)
