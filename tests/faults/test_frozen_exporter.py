"""An exporter that was stopped at any of its steps, lost its lock, and goes on when the day has long been another's:
nothing of what that one published is lost or changed (promises 3, 6 and 7)."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.faults import tally
from tests.lake import (
    CALLS,
    DAY,
    export,
    folder,
    in_postgres,
    lake,
    load,
    on,
    prune,
    refs,
    restore,
    revision,
    with_lake,
)
from tests.s3 import KEY, SECRET, ObjectStore, url
from tests.world import Archive, eventually

BEFORE, AFTER = ["1", "2", "3"], ["1", "2", "3", "late"]
FREEZER = Path(__file__).with_name("freezer.py")
NEVER = 1 << 30
# Every so many steps; `make nightly` takes each.
STRIDE = int(os.environ.get("FROZEN_STRIDE", "29"))


class Exporters:
    """See `freezer.py`."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process, self._log = process, log

    def start(self, archive: Archive, day: date, at: int) -> int:
        """A process that exports this day; returns its id once it is frozen, or over."""
        environment = {**archive.environment(), **{name: value for name, value in os.environ.items() if "AWS_" in name}}
        asked = {"at": at, "arguments": ["export", "--day", str(day)], "environment": environment}
        pid = int(self._ask({**asked, "log": str(self._log)}))
        eventually(lambda: state_of(pid) in ("T", "Z"), what="it neither froze nor ended")
        return pid

    def end(self, pid: int) -> tuple[int, int]:
        """Thawed, if it was frozen: its exit code, and the steps that it took."""
        os.kill(pid, signal.SIGCONT)
        code, steps = json.loads(self._ask({"end": pid}))
        return code, steps

    def log(self) -> str:
        return self._log.read_text()

    def _ask(self, asked: dict[str, Any]) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]


@pytest.fixture(scope="session")
def exporters(session_folder: Path) -> Iterator[Exporters]:
    with subprocess.Popen(
        [sys.executable, str(FREEZER)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Exporters(process, session_folder / "frozen.log")


@pytest.fixture(scope="session")
def store(session_folder: Path) -> Iterator[ObjectStore]:
    with ObjectStore(session_folder) as server:
        yield server


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive with its lake."""
    if request.param == "folder":
        return with_lake(archive, tmp_path / "lake")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store: ObjectStore = request.getfixturevalue("store")
    store.make_bucket("frozen")
    archive.more = {"export_url": url("frozen", store.port)}
    return archive


def backends(archive: Archive) -> set[int]:
    rows = archive.rows("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    return {row["pid"] for row in rows}


def end_sessions(archive: Archive, pids: set[int]) -> None:
    """As a restart of Postgres does. Their locks go with them."""
    for pid in pids:
        archive.value("SELECT pg_terminate_backend(%s)", pid)
    eventually(lambda: not pids & backends(archive))


def read_by_duckdb(archive: Archive, day: date, tmp_path: Path) -> tuple[list[str], list[str]]:
    """The calls in the revision that the books name, and in the file that plain readers read; by another reader, of
    another file system's files if need be."""
    known = revision(archive, day)
    with lake(archive) as opened, opened.hold(CALLS, day) as held:
        names = [held.name(held.books().revision.about), held.plain]  # type: ignore[union-attr]
    if opened.target.is_local:
        paths = [folder(archive) / name for name in names]
    else:
        paths = [tmp_path / f"{index}.parquet" for index in range(2)]
        for path, name in zip(paths, names, strict=True):
            with opened.target.fetched(name) as fetched:
                path.write_bytes(Path(fetched).read_bytes())
    assert known["published_at"]
    with duckdb.connect() as connection:
        found = [
            [row[0] for row in connection.execute(f"SELECT call_ref FROM '{path}' ORDER BY 1").fetchall()]
            for path in paths
        ]
    return found[0], found[1]


@pytest.mark.timeout(900)
def test_an_exporter_that_wakes_up_late_at_any_step_loses_nothing(
    place: Archive, exporters: Exporters, tmp_path: Path
) -> None:
    load(place, *(on(0, ref) for ref in BEFORE))
    code, steps = exporters.end(exporters.start(place, DAY, NEVER))
    assert code == 0, exporters.log()
    assert steps > 50
    # A day for each step, and every other one of them has been exported before.
    days = {step: DAY + timedelta(days=step) for step in range(1, steps + 1, STRIDE)}
    load(place, *(on(step, ref) for step in days for ref in BEFORE))
    for step in itertools.islice(days, 0, None, 2):
        export(place, days[step])
        load(place, on(step, "1", note="changed"))

    for step, day in days.items():
        tally.note("freeze", "etl export", f"step {step}")
        ours = backends(place)
        sleeper = exporters.start(place, day, step)
        end_sessions(place, backends(place) - ours)
        load(place, on(step, "late"))
        assert export(place, day).what == "exported"
        wakes_before_the_drop = step % 3 == 0
        if wakes_before_the_drop:
            exporters.end(sleeper)
        assert prune(place, day).what == "dropped", (step, exporters.log())
        if not wakes_before_the_drop:
            exporters.end(sleeper)

        in_revision, _ = read_by_duckdb(place, day, tmp_path)
        assert in_revision == AFTER, (step, exporters.log())
        with lake(place) as opened:
            assert opened.verify(CALLS, day, deep=True).wrong == [], (step, exporters.log())
        assert read_by_duckdb(place, day, tmp_path) == (AFTER, AFTER), (step, exporters.log())
        assert in_postgres(place, day) == []
        restore(place, day)
        assert refs(in_postgres(place, day)) == AFTER
    place.assert_books_balance()
