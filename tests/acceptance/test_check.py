"""`etl check` as operators and unit files run it: what it prints, and the exit code that they act on."""

import json
from pathlib import Path

import pytest

from tests.lake import with_lake
from tests.world import Archive

NOWHERE = "127.0.0.1:1"
PASSWORD = "hunter2"
VERDICTS = {"fine", "warning", "wrong", "unknown"}


@pytest.fixture
def checked(archive: Archive, tmp_path: Path) -> Archive:
    return with_lake(archive, tmp_path / "lake")


def test_given_nothing_wrong_then_exit_0_and_a_line_for_each_finding(checked: Archive) -> None:
    as_text, as_json = checked.run("check"), checked.run("check", "--json")

    assert (as_text.returncode, as_text.stderr) == (0, "")
    assert (as_json.returncode, as_json.stderr, as_json.stdout.count("\n")) == (0, "", 1)
    told = json.loads(as_json.stdout)
    assert told["wrong"] == 0
    assert {finding["verdict"] for finding in told["findings"]} <= VERDICTS - {"wrong"}
    lines = as_text.stdout.splitlines()
    assert len(lines) == len(told["findings"])
    for finding, line in zip(told["findings"], lines, strict=True):
        assert line.split()[0] == finding["verdict"]
        assert f" {finding['about']}: " in line


def test_given_faults_then_exit_1_and_a_line_with_a_way_out_for_each(checked: Archive, empty_database_url: str) -> None:
    planted = {"ETL_REDIS_URL": f"redis://u:{PASSWORD}@{NOWHERE}/0", "ETL_DATABASE_URL": empty_database_url}

    as_text, as_json = checked.run("check", **planted), checked.run("check", "--json", **planted)

    assert (as_text.returncode, as_text.stderr) == (1, "")
    assert (as_json.returncode, as_json.stderr) == (1, "")
    told = json.loads(as_json.stdout)
    wrong = [finding for finding in told["findings"] if finding["verdict"] == "wrong"]
    assert [finding["about"] for finding in wrong] == ["Redis", "Postgres schema"]
    assert told["wrong"] == 2
    assert [line for line in as_text.stdout.splitlines() if line.startswith("wrong")] == [
        f"{'wrong':<8} {finding['about']}: {finding['code']}: {finding['says']} → {finding['advice']}"
        for finding in wrong
    ]
    assert "run `etl db upgrade`" in as_text.stdout
    assert PASSWORD not in as_text.stdout + as_json.stdout


def test_given_wrong_settings_then_it_exits_with_2_before_it_looks(checked: Archive) -> None:
    for name, value in (
        ("ETL_EXPORT_URL", "ftp://lake"),
        ("ETL_REDIS_URL", "redis://h/0?x=1"),
        ("ETL_BATCH_SIZE", "0"),
    ):
        result = checked.run("check", **{name: value})

        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith("etl: ")
