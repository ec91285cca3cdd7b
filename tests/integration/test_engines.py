"""The lake by engines that know nothing of etl, each in a process of its own: on the plain files and on the Iceberg
table they answer what psql does, hard texts, nothings and a day of two revisions included. So do docs/lake.md's calls.
"""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from etl.lab.servers.private import PrivatePostgres
from tests.engines import documented
from tests.engines.hard import FROM_PIP, ask, by_psql, fill, job, metadata_location
from tests.lake import DAY, revisions, with_lake
from tests.tools import tool
from tests.world import Archive

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lake(archive: Archive, tmp_path: Path) -> Archive:
    with_lake(archive, tmp_path / "lake")
    archive.more = {**archive.more, "lake_table": "iceberg"}
    fill(archive)
    assert len(revisions(archive, DAY)) == 2
    leave_uncommitted(archive)
    return archive


def leave_uncommitted(archive: Archive) -> None:
    """Metadata as of an exporter that died before the pointer moved: of another snapshot, under a higher number."""
    current = Path(metadata_location(archive).removeprefix("file://"))
    metadata = json.loads(current.read_text())
    first = metadata["snapshots"][0]["snapshot-id"]
    assert first != metadata["current-snapshot-id"]
    metadata["current-snapshot-id"] = metadata["refs"]["main"]["snapshot-id"] = first
    current.with_name(f"09999-{uuid4()}.metadata.json").write_text(json.dumps(metadata))


def test_given_hard_days_then_every_engine_answers_as_psql_does(lake: Archive, postgres: PrivatePostgres) -> None:
    expected = by_psql(lake, postgres)
    assert [day for day, *_ in expected["days"]] == ["2015-02-19", "2015-02-20"]
    assert expected["found"] > 10

    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(FROM_PIP, pool.map(lambda more: ask(job(lake, **more)), FROM_PIP.values()), strict=True))

    for name, found in answers.items():
        for place in ("files", "table"):
            for question, answer in expected.items():
                assert found[place][question] == answer, f"{name} on the {place}: {question}"


def test_given_the_calls_of_the_document_then_each_tells_a_day_as_sql_does(lake: Archive) -> None:
    day = lake.rows("SELECT count(*) AS calls, sum(call_time) AS seconds FROM cdrs WHERE dialed_on = %s", DAY)[0]
    snippets = {name: code for name, code in documented.snippets().items() if name not in documented.NEED_MORE}
    assert len(snippets) >= 7

    with ThreadPoolExecutor(2) as pool:
        told = pool.map(lambda code: documented.told(code, sys.executable, documented.places(lake)), snippets.values())
        figures = dict(zip(snippets, told, strict=True))

    for name, found in figures.items():
        assert found, name
        assert set(found) == {(day["calls"], day["seconds"])}, name


def test_given_no_java_then_make_engines_says_what_it_needs(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.made").touch()

    made = subprocess.run(
        [tool("make"), ".venv/.has-engines"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr.startswith("make engines runs Spark, and lacks 'java': it needs Java 17 or newer, and Maven\n")
