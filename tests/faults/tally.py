"""What these tests did to processes, wires and servers, counted where it's done. With `--tally FILE` the faults of the
tests that passed are written there, for ops/PROOF.md."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etl.lab.proxy import Proxy
from etl.lab.selftest.report import machine
from etl.lab.servers.private import PrivatePostgres, PrivateRedis

Fault = tuple[str, str, str]  # what was done, to whom, and when

AT_ANY_MOMENT = "any moment"
PROPERTY = "faults"  # of a test's report
_HARMS: dict[tuple[type, str], tuple[str, ...]] = {
    (PrivateRedis, "redis"): ("kill", "stop", "freeze"),
    (PrivatePostgres, "postgres"): ("kill", "stop", "freeze"),
    (Proxy, "wire"): ("part", "blackhole"),
}
_WORDS = {"part": "cut", "blackhole": "silence"}

_suffered: Counter[Fault] = Counter()  # by the test that runs


def note(what: str, whom: str, when: str = AT_ANY_MOMENT) -> None:
    _suffered[what, whom, when] += 1


@contextmanager
def counting(test: pytest.Item, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From here to the end of the test; its report gets the sum."""
    _suffered.clear()
    for (owner, whom), names in _HARMS.items():
        for name in names:
            monkeypatch.setattr(owner, name, _noted(getattr(owner, name), _WORDS.get(name, name), whom))
    yield
    test.user_properties.append((PROPERTY, [[*fault, n] for fault, n in sorted(_suffered.items())]))


def _noted(harm: Callable[[Any], None], what: str, whom: str) -> Callable[[Any], None]:
    def noted(victim: Any) -> None:
        note(what, whom)
        harm(victim)

    return noted


class Book:
    """A plugin of the process that collects the reports."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed: set[str] = set()
        self._of_tests: dict[str, list[Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        for name, faults in report.user_properties:
            if name == PROPERTY:
                self._of_tests[report.nodeid] = faults  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        total: Counter[Fault] = Counter()
        for test, faults in self._of_tests.items():
            for what, whom, when, times in faults if test not in self._failed else []:
                total[what, whom, when] += times
        page = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "tests": len(self._of_tests),
            "failed": sorted(self._failed & self._of_tests.keys()),
            "faults": [
                dict(zip(("what", "whom", "when", "times"), (*fault, total[fault]), strict=True))
                for fault in sorted(total)
            ],
        }
        self._file.write_text(json.dumps(page, indent=1) + "\n")
