"""That the benchmark still measures: a little of what it does to the loader. Its figures are nobody's here."""

import json
from pathlib import Path

import pytest

from etl.reporting.web.app import KINDS
from tests.benchmarks import serving
from tests.benchmarks.__main__ import main
from tests.benchmarks.load import LIMIT, MACHINES_LIMIT
from tests.benchmarks.mixes import MIXES


@pytest.mark.nightly
@pytest.mark.timeout(300)  # a dozen times the processes start
def test_the_benchmark_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    little = ["--cdrs", "2000", "--runs", "1", "--stored", "2000"]

    main(["load", "rivals", "growth", *little, "--results", str(results)])

    told = json.loads(results.read_text())
    by_name = {(each["part"], each["name"]): each for each in told["results"]}
    assert all(each["median"] > 0 for each in told["results"] if each["part"] != "cpu" and "note" not in each)
    assert by_name["load", LIMIT]["ratio"] == 1
    assert {"load", "cpu", "rivals", "growth"} == {part for part, _ in by_name}
    assert {LIMIT, MACHINES_LIMIT, *(mix.name for mix in MIXES)} <= {name for part, name in by_name if part == "load"}
    assert "goal      100 % duplicates, to the limit" in capsys.readouterr().out
    assert told["machine"]["cores"] > 0
    assert told["versions"]["postgresql"]


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_the_benchmark_of_the_wall_asks_every_page_and_looks(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    little = ["--calls", "400", "--times", "2", "--cdrs", "2000", "--clients", "2", "--runs", "1"]

    serving.main([*little, "--results", str(results)])

    told = json.loads(results.read_text())["results"]
    pages = {each["name"] for each in told if each["part"] == "pages"}
    assert pages == {"/", *KINDS, "/agent/1000"}
    assert all(each["median"] > 0 for each in told)
    assert [each["ratio"] for each in told if each["name"] == "nobody looks"] == [1]
