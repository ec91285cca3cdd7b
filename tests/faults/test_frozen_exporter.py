"""An exporter that was stopped at any of its steps, lost its lock, and goes on when the day has long been another's:
nothing of what that one published is lost or changed (promises 3, 6 and 7)."""

import itertools
import json
import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from tests import iceberg
from tests.faults import tally
from tests.faults.sleepers import NEVER, Sleepers
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
# Every so many steps; `make nightly` takes each.
STRIDE = int(os.environ.get("FROZEN_STRIDE", "41"))


@pytest.fixture(scope="session")
def store(session_folder: Path) -> Iterator[ObjectStore]:
    with ObjectStore(session_folder) as server:
        yield server


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive with its lake."""
    if request.param == "folder":
        with_lake(archive, tmp_path / "lake")
        archive.more = {**archive.more, "lake_table": "iceberg"}
        return archive
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store: ObjectStore = request.getfixturevalue("store")
    store.make_bucket("frozen")
    archive.more = {"export_url": url("frozen", store.port), "lake_table": "iceberg"}
    return archive


def backends(archive: Archive) -> set[int]:
    rows = archive.rows("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    return {row["pid"] for row in rows}


def end_sessions(archive: Archive, pids: set[int]) -> None:
    """As a restart of Postgres does. Their locks go with them."""
    for pid in pids:
        archive.value("SELECT pg_terminate_backend(%s)", pid)
    eventually(lambda: not pids & backends(archive))


def assert_the_table_has_what_the_books_have(archive: Archive) -> None:
    ended = archive.run("lake", "status", "--json")
    assert json.loads(ended.stdout)["tables"][0]["behind"] == [], ended
    if "://" not in archive.more["export_url"]:
        table = iceberg.planned(iceberg.pointer(archive))
        query = (
            "SELECT DISTINCT ON (day) sha256 FROM exports WHERE published_at IS NOT NULL ORDER BY day, revision DESC"
        )
        in_the_books = {row["sha256"][:16] for row in archive.rows(query)}
        assert {Path(name).stem.partition("-")[2] for name in iceberg.files(table)} == in_the_books


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
    place: Archive, sleepers: Sleepers, tmp_path: Path
) -> None:
    load(place, *(on(0, ref) for ref in BEFORE))
    code, steps = sleepers.end(sleepers.start(place, NEVER, "export", "--day", str(DAY)))
    assert code == 0, sleepers.log()
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
        sleeper = sleepers.start(place, step, "export", "--day", str(day))
        end_sessions(place, backends(place) - ours)
        load(place, on(step, "late"))
        assert export(place, day).what == "exported"
        wakes_before_the_drop = step % 3 == 0
        if wakes_before_the_drop:
            sleepers.end(sleeper)
        assert prune(place, day).what == "dropped", (step, sleepers.log())
        if not wakes_before_the_drop:
            sleepers.end(sleeper)

        assert_the_table_has_what_the_books_have(place)
        in_revision, _ = read_by_duckdb(place, day, tmp_path)
        assert in_revision == AFTER, (step, sleepers.log())
        with lake(place) as opened:
            assert opened.verify(CALLS, day, deep=True).wrong == [], (step, sleepers.log())
        assert read_by_duckdb(place, day, tmp_path) == (AFTER, AFTER), (step, sleepers.log())
        assert in_postgres(place, day) == []
        restore(place, day)
        assert refs(in_postgres(place, day)) == AFTER
    place.assert_books_balance()
