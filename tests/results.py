"""A run's results in a file, for what isn't run with every change: `make nightly` writes them to be committed."""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from etl import __version__
from etl.lab.selftest.report import machine


class Results:
    """A plugin of the process that collects the reports."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._began = time.monotonic()
        self._tests: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that failed at any step has failed."""
        if self._tests.get(report.nodeid) != "failed" and (report.when == "call" or not report.passed):
            self._tests[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        page = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "version": __version__,
            "machine": machine(),
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "outcomes": Counter(self._tests.values()),
            "failed": sorted(test for test, outcome in self._tests.items() if outcome == "failed"),
        }
        self._file.write_text(json.dumps(page, indent=1) + "\n")
