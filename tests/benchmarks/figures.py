"""What was measured, as one table and as JSON; and what processes cost, as the kernel counts it."""

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("enigma-etl", "psycopg", "redis", "msgspec", "sqlalchemy", "pyarrow", "duckdb", "polars")


@dataclass(frozen=True)
class Figure:
    """One line of the table. `ratio` is to `of`, measured in the same rounds; `note` says why there's no number."""

    part: str
    name: str
    unit: str
    runs: Sequence[float] = ()
    ratio: float | None = None
    of: str | None = None
    note: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.runs) if self.runs else None

    def as_line(self) -> str:
        if self.median is None:
            return f"{self.part:9} {self.name:48} {self.note}"
        line = f"{self.part:9} {self.name:48} {_number(self.median):>10} {self.unit:22}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} of {self.of}"
        each = f"({', '.join(map(_number, self.runs))})" if len(self.runs) > 1 else ""
        return f"{line} {ratio:34} {each}".rstrip()

    def as_json(self) -> dict[str, object]:
        median = self.median if self.median is None else float(f"{self.median:.4g}")
        fields = {
            "part": self.part,
            "name": self.name,
            "unit": self.unit,
            "median": median,
            "runs": [float(f"{run:.4g}") for run in self.runs],
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "of": self.of,
            "note": self.note,
        }
        return {name: value for name, value in fields.items() if value is not None}


def ratio(runs: Sequence[float], to: Sequence[float]) -> float:
    """Of the medians."""
    return statistics.median(runs) / statistics.median(to)


def write(path: Path, figures: Iterable[Figure], command: str, servers: dict[str, str]) -> None:
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "machine": _machine(),
        "versions": {"python": platform.python_version(), **servers, **_libraries()},
        "results": [figure.as_json() for figure in figures],
    }
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, and all its children and theirs, those that have ended too."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    family: set[int] = set()
    youngest = {pid}
    while youngest:
        family |= youngest
        youngest = {child for child, (parent, _) in parents.items() if parent in youngest}
    return sum(parents[member][1] for member in family if member in parents) / os.sysconf("SC_CLK_TCK")


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def memory_mib(pid: int, name: str = "VmHWM") -> float:
    """What a process had in memory at its peak, or has (VmRSS); 0 if it's gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name)), 0.0)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the name, from the state on; none if it's gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _machine() -> dict[str, object]:
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
    }


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
