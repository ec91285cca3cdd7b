"""How many threads may load, by the file descriptors that this process may have open."""

import os
import resource
from pathlib import Path

from etl import logs

# A connection to Redis to claim by, another to fetch ahead by, and one to Postgres.
PER_THREAD = 3
# The watch, the heartbeat, the listener, scheduled jobs and their pipes, a dozen who scrape, files that are read once.
FOR_ALL_ELSE = 48

log = logs.get()


def affordable(threads: int) -> int:
    """So many of `threads` as there are descriptors for, but one at least; says so if that's less."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return threads
    possible = max(1, min(threads, (limit - _open() - FOR_ALL_ELSE) // PER_THREAD))
    if possible < threads:
        log.warning("few_file_descriptors", limit=limit, threads=possible, wanted=threads)
    return possible


def _open() -> int:
    listing = Path("/dev/fd")
    return len(os.listdir(listing)) if listing.is_dir() else 3
