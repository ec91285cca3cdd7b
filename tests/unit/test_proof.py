"""ops/PROOF.md is made of results, and of nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import proof


def test_the_page_is_the_one_that_the_results_make() -> None:
    assert proof.PAGE.read_text() == proof.page(), "make proof"


@pytest.mark.parametrize("wrong", [{"ok": False}, {"failed": ["a test"]}])
def test_a_result_that_is_wrong_is_not_called_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    for name in ("SOAK", "FAULTS"):
        file = tmp_path / name
        file.write_text(json.dumps(json.loads(getattr(proof, name).read_text()) | wrong))
        monkeypatch.setattr(proof, name, file)

    assert "SOMETHING IS WRONG" in proof.page()


def test_a_target_is_met_missed_or_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [
        {"part": "load", "name": "etl, 1 worker", "unit": "CDRs/s", "median": 100_000, "runs": [1], "ratio": 0.61},
        {"part": "load", "name": "etl, 2 workers", "unit": "CDRs/s", "median": 120_000, "runs": [1], "ratio": 0.74},
        {"part": "load", "name": "etl, 1 % duplicates", "unit": "CDRs/s", "median": 80_000, "runs": [1], "ratio": 0.5},
    ]
    results = {"date": "", "command": "", "machine": {}, "versions": {}}
    file = tmp_path / "bench"
    file.write_text(json.dumps(results | {"results": [figure | {"of": "the limit"} for figure in figures]}))
    monkeypatch.setattr(proof, "BENCH", file)

    text = proof.page()

    assert "| one worker, to the limit | 0.61 | 0.60 | met |" in text
    assert "| two workers, to the limit | 0.74 | 0.75 | MISSED |" in text
    assert "| 1 % duplicates, to none | 0.80 | 0.75 | met |" in text
    assert "| 100 % duplicates, to the limit | not measured | 0.30 |  |" in text
