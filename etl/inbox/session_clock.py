"""The time of a listener's session: from Redis' TIME at its start, and onward by the monotonic clock. So nobody who
sets this host's clock, before or meanwhile, makes a proof of what wasn't heard.
"""

import time

from etl.errors import ConfigurationError
from etl.inbox.connection import Client, translated
from etl.wire.times import from_unix_ns

# The host's clock may part so far from its own pace. Beyond that it was set, or the host slept and its monotonic clock
# with it; then nobody knows what time it is, nor what was missed.
PARTED_SECONDS = 2.0


class SessionClock:
    """Raises `Outage` if Redis can't be asked. `is_vouched` is false if this user may not use TIME: then the session
    starts with the host's time."""

    def __init__(self, client: Client) -> None:
        self.is_vouched = True
        try:
            with translated():
                seconds, micros = client.time()
            began = (seconds * 1_000_000 + micros) * 1_000
        except ConfigurationError:
            self.is_vouched = False
            began = time.time_ns()
        # After the answer, which took its time: rather too early than too late, as a proof.
        self._ahead = began - time.monotonic_ns()
        self._host_ahead = time.time() - time.monotonic()

    def now(self) -> int:
        """Microseconds since 2000."""
        return from_unix_ns(self._ahead + time.monotonic_ns())

    def parted_seconds(self) -> float:
        """How far the host's clock has parted from its own pace since the start."""
        return time.time() - time.monotonic() - self._host_ahead

    def was_set(self) -> bool:
        return abs(self.parted_seconds()) > PARTED_SECONDS
