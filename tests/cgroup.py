"""A group of processes that together may have so much memory: who takes more is killed, as in a container. Needs root,
and a kernel that lets it."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")
EMPTY_WITHIN_SECONDS = 60.0


@contextlib.contextmanager
def limited(most_bytes: int) -> Iterator[tuple[str, ...]]:
    """The command that runs the one behind it in the group."""
    old = (ROOT / "memory").is_dir()
    group = (ROOT / "memory" if old else ROOT) / f"etl-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group of processes can be made here: {error}")
    try:
        limits = group / ("memory.limit_in_bytes" if old else "memory.max")
        if not limits.exists():
            pytest.skip("the memory of a group of processes can't be limited here")
        limits.write_text(str(most_bytes))
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            with contextlib.suppress(OSError):
                (group / swap).write_text(str(most_bytes if old else 0))
        yield "/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Its processes may take a moment to go."""
    deadline = time.monotonic() + EMPTY_WITHIN_SECONDS
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
