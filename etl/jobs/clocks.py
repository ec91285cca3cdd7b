"""Whether this host's clock can be believed: Redis' and Postgres' tell. By the host's, times of calls are refused that
lie in the future: with a clock that is two days slow that's every call. And scheduled jobs have their "today" from it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etl.errors import EtlError, WrongClock

# Time zones and summer time are whole hours; below that a clock is merely bad, and `etl check` tells of it.
WRONG_SECONDS = 3_600.0
# So often the stores are asked, and at once when the host's clock was set meanwhile, by so much.
ASK_EVERY_SECONDS = 60.0
SET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ahead:
    """By how many seconds the stores' clocks are ahead of this host's; below zero, behind."""

    redis: float
    postgres: float

    @property
    def is_host_wrong(self) -> bool:
        """Both differ from the host, and not from each other."""
        apart = abs(self.redis - self.postgres) > WRONG_SECONDS
        return not apart and min(abs(self.redis), abs(self.postgres)) > WRONG_SECONDS

    def told(self) -> str | None:
        """What is wrong, in a line; None if nothing is."""
        if self.is_host_wrong:
            return f"this host's clock is {_by(-self.redis)} Redis' and Postgres', which agree: set it"
        stores = {"Redis": self.redis, "Postgres": self.postgres}
        wrong = {name: ahead for name, ahead in stores.items() if abs(ahead) > WRONG_SECONDS}
        return "; ".join(f"the clock of {name} is {_by(ahead)} this host's" for name, ahead in wrong.items()) or None


def _by(ahead: float) -> str:
    return f"{abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'}"


def compared(redis: Callable[[], float], postgres: Callable[[], float]) -> Ahead:
    """Each gives the Unix time of its server, and may raise `Outage`. A clock that is set between the two questions is
    compared as it was before: else only one would seem to differ."""
    beside_pace = time.time() - time.monotonic()
    return Ahead(*(ask() - beside_pace - time.monotonic() for ask in (redis, postgres)))


class Clocks:
    """Of one process. Safe to use from several threads: at worst all ask."""

    def __init__(self, postgres: Callable[[], float], log: Any) -> None:
        """`postgres`, like each `redis` below, gives the Unix time of its server, and may raise `EtlError`."""
        self._postgres = postgres
        self._log = log
        self._asked_at = 0.0
        self._set = 0.0  # what the host's clock and its pace differed by then
        self._said: str | None = None
        self._fine = False

    def check(self, redis: Callable[[], float]) -> None:
        """Raises `WrongClock` while the host's clock is wrong, and what asking raises. Where only a store's is, that is
        logged once."""
        now, is_set = time.monotonic(), time.time() - time.monotonic()
        if self._fine and now < self._asked_at + ASK_EVERY_SECONDS and abs(is_set - self._set) < SET_SECONDS:
            return
        self._fine = False
        ahead = compared(redis, self._postgres)
        told = ahead.told()
        if ahead.is_host_wrong:
            raise WrongClock("ETL-420", str(told))
        if told and told != self._said:
            self._log.warning("clocks_differ", error=told)
        self._said = told
        self._asked_at, self._set, self._fine = now, is_set, True

    def check_without_redis(self, redis: Callable[[], float]) -> None:
        """As `check`, for work that needs no Redis: if it can't be asked, Postgres' word alone is enough to wait."""
        try:
            self.check(redis)
        except WrongClock:
            raise
        except EtlError:
            ahead = self._postgres() - time.time()
            if abs(ahead) > WRONG_SECONDS:
                told = f"this host's clock is {_by(-ahead)} Postgres', and Redis can't be asked: set it"
                raise WrongClock("ETL-420", told) from None
