"""A clock that can be set, for a server or program of ours alone: libfaketime, from Debian's package `faketime`.

Only what tells the time of day is set. The monotonic clock goes on, as it does on a host whose clock is set.
"""

import os
from contextlib import suppress
from pathlib import Path

LIBRARIES = "/usr/lib/*/faketime/libfaketime.so.1"
# Reading the file at every look at the clock would cost more than the look.
READ_EVERY_SECONDS = 1
# A step is seen so late: libfaketime counts whole seconds, and reads the file when more than so many are over.
SEEN_WITHIN_SECONDS = READ_EVERY_SECONDS + 1


class Clock:
    """Processes that are started with its `environment` go by it; where there is no `library`, by the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.step(0)

    @staticmethod
    def library() -> Path | None:
        """None where libfaketime isn't installed."""
        return next(iter(sorted(Path("/").glob(LIBRARIES.lstrip("/")))), None)

    @property
    def command(self) -> list[str]:
        """Before that of a server. By then it's the server's own user who makes what libfaketime shares."""
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in self.environment.items())]

    @property
    def environment(self) -> dict[str, str]:
        library = self.library()
        if library is None:
            return {}
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(READ_EVERY_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def tidy(self) -> None:
        """Remove what killed processes, of whatever program, left in /dev/shm."""
        for file in Path("/dev/shm").glob("*faketime_s*m_*"):  # noqa: S108 (libfaketime's own place)
            pid = file.name.rpartition("_")[2]
            if pid.isdecimal() and not Path("/proc", pid).exists():
                with suppress(OSError):  # somebody else's
                    file.unlink()

    def step(self, seconds: float) -> None:
        """Set it so far ahead of the machine's, or behind. Seen within `SEEN_WITHIN_SECONDS`."""
        fresh = self._file.with_suffix(".fresh")
        fresh.write_text(f"{seconds:+f}\n")
        fresh.chmod(0o644)  # Postgres may be another user
        os.replace(fresh, self._file)
