"""`etl selftest`: real processes and servers are killed, frozen and cut off for a while, and the proof is printed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.lab.proxy import Proxy
from etl.lab.selftest.processes import Program
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.world import CAMPAIGNS, Archive, eventually

PATIENT = 400.0  # seconds: a set-back may take two minutes on a busy machine until all is there again


def selftest(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}
    return subprocess.run(
        [sys.executable, "-m", "etl.cli", "selftest", *arguments],
        env=environment | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENT,
        check=False,
    )


@pytest.mark.timeout(PATIENT + 60)
def test_given_faults_of_many_kinds_then_nothing_is_lost_in_the_report(
    session_folder: Path,
) -> None:
    folder = session_folder / "selftest"
    folder.mkdir()
    folder.chmod(0o755)
    page = folder / "report.md"

    result = selftest(folder, "--minutes", "0.2", "--seed", "97", "--report", str(page), "--json")

    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    told = json.loads(result.stdout)
    assert (told["ok"], told["seed"], told["folder"]) == (True, 97, None)
    assert sum(told["faults"].values()) >= 5
    assert len({fault.split()[0] for fault in told["faults"]}) >= 3
    assert told["said"]["calls"] > 500
    assert all(verdict["ok"] for verdict in told["verdicts"] if "memory" not in verdict["what"])
    assert len(told["verdicts"]) >= 16
    assert told["set_backs"]["made"] >= told["set_backs"]["to_tell"] == told["set_backs"]["told"]
    assert {"loader-0", "listener-0"} <= {each["name"] for each in told["memory"]}
    text = page.read_text()
    assert text.startswith("# Nothing was lost, and nothing is there twice\n")
    assert "etl selftest --minutes 0.2 --seed 97" in text
    assert [path.name for path in folder.iterdir()] == ["report.md"]


@pytest.fixture
def test_instances(session_folder: Path) -> Iterator[tuple[PrivateRedis, str]]:
    """A Redis and a Postgres as somebody may lend them: empty, and reached by TCP."""
    with (
        PrivatePostgres(session_folder / "lent-pg", {"fsync": "off"}) as postgres,
        PrivateRedis(session_folder / "lent-redis") as redis,
        Proxy(postgres.socket) as wire,
    ):
        yield redis, f"postgresql://postgres@127.0.0.1:{wire.port}/postgres"


@pytest.mark.nightly
def test_servers_that_are_lent_are_cut_off_and_never_harmed(
    session_folder: Path, test_instances: tuple[PrivateRedis, str]
) -> None:
    redis, database_url = test_instances
    folder = session_folder / "lent"
    folder.mkdir()
    lent = ("--redis-url", redis.url, "--database-url", database_url)
    pid = redis.pid

    result = selftest(folder, "--minutes", "0.2", "--seed", "97", "--json", *lent)

    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    told = json.loads(result.stdout)
    assert {fault.split(maxsplit=1)[1] for fault in told["faults"]}.isdisjoint({"redis", "postgres"})
    assert told["said"]["calls"] > 500
    assert redis.pid == pid
    # What they have now is somebody's.
    again = selftest(folder, *lent)
    assert (again.returncode, again.stdout) == (2, "")
    assert "isn't empty" in again.stderr


def test_given_servers_with_data_or_only_one_then_none_is_touched(archive: Archive) -> None:
    archive.push(b"somebody's")
    lent = ("--json", "--redis-url", archive.redis_url, "--database-url", "postgresql://127.0.0.1:1/etl")

    full, one = archive.run("selftest", *lent), archive.run("selftest", *lent[:3])

    assert (full.returncode, full.stdout) == (one.returncode, one.stdout) == (2, "")
    assert "isn't empty" in full.stderr
    assert "go together" in one.stderr
    assert archive.redis.lrange(CAMPAIGNS, 0, -1) == [b"somebody's"]


def test_a_process_that_ends_by_itself_is_noted_and_started_again(tmp_path: Path) -> None:
    program = Program("loader", ["--version"], {}, tmp_path)
    program.start()
    try:
        eventually(lambda: program.pid is None)
        program.restart_if_ended()
        assert program.complaints == ["loader ended by itself with 0"]
        assert program.pid is not None
    finally:
        program.kill()


def test_a_report_into_a_missing_folder_is_refused_before_the_start(tmp_path: Path) -> None:
    result = selftest(tmp_path, "--report", str(tmp_path / "nowhere" / "report.md"))

    assert (result.returncode, result.stdout) == (2, "")
    assert "nowhere" in result.stderr
