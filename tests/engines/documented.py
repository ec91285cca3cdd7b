"""What docs/lake.md tells to type, as a reader would copy it: each engine's blocks of Python, run as programs of their
own, with a lake and an archive in the places that the document names."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.engines.hard import catalog_uri, metadata_location
from tests.lake import DAY, folder
from tests.world import Archive

DOCUMENT = Path(__file__).parents[2] / "docs/lake.md"
# Those that CI doesn't have: `make engines` runs them.
NEED_MORE = ("DuckDB's Iceberg extension", "Spark")


def snippets() -> dict[str, str]:
    """By the heading above each; of several below the same heading, the others are called so with ", 2" and so on."""
    found: dict[str, str] = {}
    text = DOCUMENT.read_text()
    for section in re.finditer(r"^###? (.+)\n((?:(?!##).*\n)*)", text, re.MULTILINE):
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", section[2], re.MULTILINE | re.DOTALL), 1):
            found[section[1] if number == 1 else f"{section[1]}, {number}"] = code
    return found


def places(archive: Archive) -> dict[str, str]:
    """What stands in the document, and what is there instead."""
    return {
        "postgresql+psycopg://etl_reporting:secret@db/archive?options=-csearch_path%3Diceberg": catalog_uri(archive),
        "METADATA_LOCATION": metadata_location(archive),
        "/lake/": f"{folder(archive)}/",
        "2026-11-22": DAY.isoformat(),
        "2026, 11, 22": f"{DAY.year}, {DAY.month}, {DAY.day}",
    }


def told(
    code: str, python: Path | str, here: Mapping[str, str], more: Mapping[str, str] | None = None
) -> list[tuple[int, int]]:
    """The lines of two whole numbers that it prints, with what is here in the place of what is written. Raises
    `AssertionError` if it fails."""
    for written, instead in here.items():
        code = code.replace(written, instead)
    environment = {**os.environ, "TZ": "UTC", "SPARK_LOCAL_IP": "127.0.0.1", **(more or {})}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:  # PySpark wants a file, and no "-c"
        program.write(code)
        program.flush()
        command = [python, program.name]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{code}\n{found.stderr[-4_000:]}"
    lines = (re.fullmatch(r"[\[(]*(\d+)[, ]+(\d+)[\])]*", line) for line in found.stdout.splitlines())
    return [(int(line[1]), int(line[2])) for line in lines if line]
