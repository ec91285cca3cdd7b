"""That the benchmark still measures: a little of everything that it does to the loader. Its figures are nobody's here."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.load import LIMIT


def test_the_benchmark_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    little = ["--cdrs", "2000", "--runs", "1", "--stored", "2000", "--days", "1", "3"]

    main(["load", "rivals", "growth", "days", *little, "--results", str(results)])

    told = json.loads(results.read_text())
    by_name = {(each["part"], each["name"]): each for each in told["results"]}
    assert all(each["median"] > 0 for each in told["results"] if each["part"] != "cpu" and "note" not in each)
    assert by_name["load", LIMIT]["ratio"] == 1
    assert {"load", "cpu", "rivals", "growth", "days"} == {part for part, _ in by_name}
    assert all(name in capsys.readouterr().out for name in ["100 % duplicates"])
    assert told["machine"]["cores"] > 0
    assert told["versions"]["postgresql"]
