"""When a claim was taken, if its own time can't be true.

It has that from Redis, later than every earlier claim's of its list: one moment of a clock that was years ahead, and
all later claims of the list are of those years. In that order they stay; but by such a time events would have days that
are no days yet, and calls would be too old for `ETL_OLDEST_DAYS`. Neither Redis' clock nor this host's can say what
time it was: one by one they are set. Postgres' clock, which says which days may be, says it; unless this host's is as
far ahead of it as the claim. Then nobody knows which of them is wrong, and the claim waits.

    by Postgres' clock      the claim is      and this host's clock is      so the claim counts as taken
                            before 2000                                     now
                            past, or now                                    when its id says
                            a day ahead       at most a day ahead           now
                            a day ahead       a day ahead                   when its id says, if that day may be
                                                                            (Postgres' clock is two days behind);
                                                                            else it waits: ETL-926

A host whose clock alone is wrong loads nothing, see `etl.jobs.clocks`. Nothing here has to be the same at each attempt:
what was committed is known by the claim's id, and a message that is claimed again by its number in the list.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from etl import logs
from etl.store.partitions import DAYS_AHEAD, clocks_disagree
from etl.wire.times import EPOCH

# Clocks of Redis and Postgres may differ so far, as a dialler's may from a claim's: of what is later by both there is a
# partition.
APART = timedelta(days=1)

log = logs.get()


class ClaimTimes:
    """Of one process. Safe to use from several threads: at worst a line is logged twice."""

    def __init__(self, here: Callable[[], datetime]) -> None:
        """`here` tells this host's time."""
        self._here = here
        self._told: set[str] = set()

    def of(self, source_key: str, claimed_at: datetime, now: datetime) -> datetime:
        """When a claim of this list counts as taken, that was by its id at `claimed_at`, while it's `now` by Postgres.
        Raises `Outage` while nobody can say."""
        if EPOCH <= claimed_at <= now + APART:
            return claimed_at
        here = self._here()
        if claimed_at > now and here > now + APART:
            if claimed_at.date() <= now.date() + timedelta(days=DAYS_AHEAD):
                return claimed_at
            raise clocks_disagree(
                f"a claim of {source_key} was taken at {claimed_at:%Y-%m-%d %H:%M} by its id, by this host it's"
                f" {here:%Y-%m-%d %H:%M}, and by Postgres {now:%Y-%m-%d %H:%M}, all UTC"
            )
        if source_key not in self._told:
            self._told.add(source_key)
            log.warning("claims_misdated", source_key=source_key, claimed_at=str(claimed_at), now=str(now))
        return now
