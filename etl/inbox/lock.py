"""A lock in Redis with a lease: one holder at a time."""

import time

from etl.inbox.connection import Client
from etl.inbox.scripts import Script
from etl.inbox.wrong_type import naming_wrong_types

# So much further Redis' clock went than ours between two looks: it was set, or the answer was late, which does no harm.
JUMP_SECONDS = 1.0


class Lock:
    """`is_held` reads the clock, not Redis: it becomes false before another process can acquire the lock."""

    def __init__(self, client: Client, key: str, holder: str, lease_seconds: float) -> None:
        self._acquire = Script(client, "acquire")
        self._release = Script(client, "release")
        self._client = client
        self._key = key
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._held_until = 0.0
        self._ahead: float | None = None  # of Redis' clock to our monotonic one, when another held it last
        self.is_doubtful = False

    def acquire(self) -> bool:
        """Acquire or renew; False if another process holds it. Raises `Outage`.

        `is_doubtful` then tells that Redis' clock was set forward since another held it: its lease ended before its
        time, and it finds that out when it next renews it.
        """
        asked_at = time.monotonic()
        with naming_wrong_types(self._client, string=(self._key,)):
            granted, unix_ms = self._acquire(keys=[self._key], args=[self._holder, int(self._lease_seconds * 1_000)])
        self._held_until = asked_at + self._lease_seconds if granted else 0.0
        ahead = unix_ms / 1_000 - asked_at
        self.is_doubtful = bool(granted) and self._ahead is not None and ahead - self._ahead > JUMP_SECONDS
        self._ahead = None if granted else ahead
        return bool(granted)

    def holder(self) -> bytes | None:
        """Who holds it, by Redis. Raises `Outage`."""
        with naming_wrong_types(self._client, string=(self._key,)):
            found: bytes | None = self._client.get(self._key)  # type: ignore[assignment]
            return found

    def is_held(self) -> bool:
        return time.monotonic() < self._held_until

    def release(self) -> None:
        """Raises `Outage`; then the lease runs out by itself."""
        self._held_until = 0.0
        with naming_wrong_types(self._client, string=(self._key,)):
            self._release(keys=[self._key], args=[self._holder])
