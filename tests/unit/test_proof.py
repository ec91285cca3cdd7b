"""ops/PROOF.md and the table in README.md are made of results, and of nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import measured, proof
from tests.benchmarks.goals import GOALS


def test_the_page_is_the_one_that_the_results_make() -> None:
    assert proof.PAGE.read_text() == proof.page(), "make proof"


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    assert measured.README.read_text() == measured.page(), "make proof"


@pytest.mark.parametrize("wrong", [{"ok": False}, {"failed": ["a test"]}])
def test_a_result_that_is_wrong_is_not_called_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    for name in ("SOAK", "FAULTS"):
        file = tmp_path / name
        file.write_text(json.dumps(json.loads(getattr(proof, name).read_text()) | wrong))
        monkeypatch.setattr(proof, name, file)

    assert "SOMETHING IS WRONG" in proof.page()


def test_a_goal_is_met_or_not_or_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [
        {"part": "load", "name": "etl, 1 worker", "unit": "CDRs/s", "median": 100_000, "runs": [1], "ratio": 0.81},
        {"part": "load", "name": "etl, 2 workers", "unit": "CDRs/s", "median": 120_000, "runs": [1], "ratio": 0.94},
        {"part": "load", "name": "etl, 1 % duplicates", "unit": "CDRs/s", "median": 80_000, "runs": [1], "ratio": 0.5},
        {"part": "cpu", "name": "etl, 1 worker: loader", "unit": "us of CPU a CDR", "median": 1.94, "runs": [1]},
    ]
    results = {"date": "", "command": "", "machine": {}, "versions": {}}
    file = tmp_path / "bench"
    file.write_text(json.dumps(results | {"results": [figure | {"of": "the limit"} for figure in figures]}))
    monkeypatch.setattr(proof, "BENCH", file)
    two = [replace(goal, why="Redis") if goal.name == "etl, 2 workers" else goal for goal in GOALS]
    monkeypatch.setattr(proof, "GOALS", two)

    text = proof.page()

    assert "| one worker, to the limit | 0.81 | at least 0.80 | met |" in text
    assert "| two workers, to the limit | 0.94 | at least 0.95 | NOT MET: Redis |" in text
    assert "| 1 % duplicates, to none | 0.80 | at least 0.75 | met |" in text
    assert "| the loader's CPU for a CDR | 1.94 us | at most 2 us | met |" in text
    assert "| 100 % duplicates, to the limit | not measured | at least 0.50 |  |" in text
