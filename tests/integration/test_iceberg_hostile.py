"""What would make an Iceberg table lack a day, lead to nothing, or be refused by engines: clocks, races, set-backs,
erasures, damage, and somebody else's hand (promise 7)."""

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl.app.lake import sweep_lake
from etl.jobs.forget import Found
from etl.lab.servers.private import PrivatePostgres
from etl.lake.table import OpenTable
from etl.lake.target import Target
from tests import iceberg
from tests.integration.test_lake_books import a_backup
from tests.lake import (
    CALLS,
    DAY,
    SPOOL,
    export,
    export_all,
    heard,
    lake,
    load,
    on,
    revision_file,
    told,
    with_lake,
)
from tests.lake import folder as folder_of
from tests.person import KEY, NUMBER, PERSON, forget
from tests.world import Archive, cdr, eventually

NEXT = DAY + timedelta(days=1)


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    archive.more = {**archive.more, "lake_table": "iceberg", "forget_key": KEY}


def refs(archive: Archive) -> list[str]:
    return sorted(iceberg.rows(archive)["call_ref"])


def metadata_files(archive: Archive) -> set[str]:
    return {path.name for path in folder_of(archive).glob("_iceberg/**/*.*")}


@pytest.mark.parametrize("ahead", [7_200, -7_200])
def test_given_clocks_that_differ_then_no_time_of_the_table_goes_back(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Java's, Rust's and Go's libraries refuse such a table for good."""
    real = time.time
    for number in range(4):
        load(archive, on(number % 2, str(number)))
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda number=number: real() + ahead * (number % 2))
            export(archive, DAY + timedelta(days=number % 2))
    with lake(archive) as opened:
        assert opened.tables
        opened.tables.expire(CALLS, None)
    known = iceberg.metadata(archive)
    times = [entry["timestamp-ms"] for entry in known["metadata-log"]]
    assert all(earlier < later for earlier, later in pairwise([*times, known["last-updated-ms"]]))
    assert [entry["timestamp-ms"] for entry in known["snapshot-log"]] == [
        each["timestamp-ms"] for each in known["snapshots"]
    ]
    now = archive.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    assert known["last-updated-ms"] <= now


@pytest.mark.parametrize("history", [0, 7])
def test_given_postgres_set_back_then_restored_days_are_in_the_table(
    archive: Archive, postgres: PrivatePostgres, history: int
) -> None:
    archive.more = {**archive.more, "lake_history_days": history}
    load(archive, cdr("1"))
    export(archive)
    with a_backup(archive, postgres) as set_back:
        load(archive, cdr("2"))
        export_all(archive)
        assert set_back.run("restore", "--all-missing").returncode == 0
        if not history:  # the metadata to which the pointer was set back is no more
            assert "ETL-527" in set_back.run("lake", "status").stderr
            assert set_back.run("lake", "publish", "--rebase").returncode == 0
        assert refs(set_back) == ["1", "2"]
        assert set_back.run("lake", "status").returncode == 0


def test_given_postgres_set_back_then_no_sweep_takes_metadata(archive: Archive, postgres: PrivatePostgres) -> None:
    for ref in ("1", "2"):
        load(archive, cdr(ref))
        export(archive)
    with a_backup(archive, postgres) as set_back:
        set_back.more = {**set_back.more, "lake_history_days": 0}
        load(archive, on(1, "6"))
        export(archive, NEXT)
        before = metadata_files(archive)
        with lake(set_back) as opened:
            assert sweep_lake(set_back.settings(), opened).removed == []
        refused = set_back.run("lake", "expire")
        assert (refused.returncode, "ETL-537" in refused.stderr) == (1, True)
        assert metadata_files(archive) == before


def test_given_a_day_that_the_books_do_not_know_then_publish_takes_it_out(
    archive: Archive, postgres: PrivatePostgres
) -> None:
    load(archive, cdr("1"))
    export(archive)
    with a_backup(archive, postgres) as set_back:
        load(archive, on(1, "2"))
        export(archive, NEXT)
        set_back.rows("UPDATE iceberg.iceberg_tables SET metadata_location = %s RETURNING 1", iceberg.pointer(archive))
        assert f"cdrs {NEXT}: not as the books say" in set_back.run("lake", "status").stdout
        set_back.run("lake", "publish", "--day", str(NEXT))
        assert refs(set_back) == ["1"]
        assert set_back.run("lake", "status").returncode == 0


@pytest.mark.parametrize("who", ["needed", "export"])
def test_given_a_pointer_that_moves_while_read_then_it_is_read_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """And what another has swept meanwhile isn't taken for damage."""
    archive.more = {**archive.more, "lake_history_days": 0}
    load(archive, cdr("1"))
    export(archive)
    load(archive, on(1, "2"), on(2, "3"))
    original, waiting = Target.read, [True]

    def read(target: Target, name: str) -> bytes | None:
        if "/snap-" in name and waiting and waiting.pop():
            export(archive, NEXT)
            with lake(archive) as other:
                sweep_lake(archive.settings(), other)
        return original(target, name)

    monkeypatch.setattr(Target, "read", read)
    with lake(archive) as opened:
        if who == "needed":
            opened.needed_by_tables()
        else:
            opened.export(CALLS, DAY + timedelta(days=2), told)
    assert refs(archive) == (["1", "2"] if who == "needed" else ["1", "2", "3"])


def test_given_who_froze_before_a_commit_then_giving_up_passes_by(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    archive.rows(
        "INSERT INTO lake_table_files (name, dataset, began_at)"
        " VALUES ('_iceberg/cdrs/metadata/x', 'cdrs', now() - interval '2 hours') RETURNING 1"
    )
    with psycopg.connect(archive.database_url) as frozen:
        frozen.execute("UPDATE lake_table_files SET committed_at = now() WHERE name LIKE '%x'")
        thread = threading.Thread(target=lambda: archive.run("export"))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()


def test_given_an_erasure_then_a_table_that_was_behind_catches_up(archive: Archive) -> None:
    load(archive, cdr("1"), cdr("2", **PERSON), on(1, "9"))
    export(archive)
    export(archive, NEXT)
    early = iceberg.pointer(archive)
    archive.rows("UPDATE cdrs SET number = '', contact_ref = '' WHERE call_ref = '2' RETURNING 1")
    export(archive, force=True, because="tested")
    archive.rows("UPDATE iceberg.iceberg_tables SET metadata_location = %s RETURNING 1", early)
    assert forget(archive).failed == []
    assert refs(archive) == ["1", "2", "9"]


def test_given_an_erasure_beside_a_publish_then_nobody_comes_back(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(archive, cdr("1"), cdr("2", **PERSON), on(1, "3"))
    archive.more = {**archive.more, "lake_table": None}
    export_all(archive)
    archive.more = {**archive.more, "lake_table": "iceberg"}
    original, waiting = OpenTable.follow, [True]

    forgetting = ThreadPoolExecutor(1)
    is_waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    def follow(table: OpenTable, wanted: Any) -> int:
        if waiting and waiting.pop():
            started.append(forgetting.submit(forget, archive))
            eventually(lambda: started[0].done() or archive.value(is_waiting))
        return original(table, wanted)

    started: list[Future[Found]] = []
    monkeypatch.setattr(OpenTable, "follow", follow)
    with forgetting, lake(archive) as opened:
        assert opened.tables
        assert opened.tables.catch_up(CALLS).failed == {}
        assert started[0].result().failed == []
    assert refs(archive) == ["1", "2", "3"]
    assert all(NUMBER.encode() not in path.read_bytes() for path in folder_of(archive).rglob("*.*"))
    assert archive.run("lake", "status").returncode == 0


def test_given_exports_beside_an_erasure_then_it_ends_history_later(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(archive, cdr("1"), cdr("2", **PERSON))
    export(archive)
    load(archive, on(1, "3"))
    original, waiting = OpenTable.expire, [True]

    def expire(table: OpenTable, until: Any) -> int:
        if waiting and waiting.pop():
            export(archive, NEXT)
        return original(table, until)

    monkeypatch.setattr(OpenTable, "expire", expire)
    assert forget(archive).failed == []
    assert refs(archive) == ["1", "2", "3"]


@pytest.mark.parametrize("rebase", [False, True])
def test_given_one_damaged_revision_then_all_other_days_are_there(archive: Archive, rebase: bool) -> None:
    load(archive, *(on(day, f"{day}") for day in range(4)))
    load(archive, heard(1), key=SPOOL)
    archive.more = {**archive.more, "lake_table": "iceberg" if rebase else None}
    export_all(archive)
    archive.more = {**archive.more, "lake_table": "iceberg"}
    path = revision_file(archive, DAY + timedelta(days=2))
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-60] + b"\x00" * 60)
    ended = archive.run("lake", "publish", *(["--rebase"] if rebase else []))
    assert (ended.returncode, "cdrs 2015-02-21" in ended.stdout) == (1, True)
    assert refs(archive) == ["0", "1", "3"]
    assert iceberg.rows(archive, "audit_events").height == 1


def test_given_a_lake_that_is_not_there_then_no_table_begins_anew(archive: Archive, tmp_path: Path) -> None:
    load(archive, cdr("1"))
    export(archive)
    before = iceberg.pointer(archive)
    (tmp_path / "unmounted").mkdir()
    ended = archive.run("lake", "publish", "--rebase", ETL_EXPORT_URL=str(tmp_path / "unmounted"))
    assert (ended.returncode, "ETL-535" in ended.stdout) == (1, True)
    assert iceberg.pointer(archive) == before


def test_given_one_damaged_table_then_the_other_goes_on(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    load(archive, heard(1), key=SPOOL)
    load(archive, on(1, "2"))
    Path(iceberg.pointer(archive).removeprefix("file://")).write_bytes(b"")
    assert archive.run("export").returncode == 1
    assert iceberg.rows(archive, "audit_events").height == 1


def test_given_the_first_of_many_days_then_no_table_lacks_the_others(archive: Archive) -> None:
    """One that had only the day just exported would look whole."""
    archive.more = {**archive.more, "lake_table": None}
    load(archive, *(on(day, f"{day}") for day in range(4)))
    export_all(archive)
    archive.more = {**archive.more, "lake_table": "iceberg"}
    load(archive, on(0, "late"))
    export(archive)
    assert archive.rows("SELECT 1 FROM iceberg.iceberg_tables") == []
    assert archive.run("export", "--day", str(DAY)).returncode == 0
    assert refs(archive) == [*"0123", "late"]


class Called:
    """What metadata names, and nobody may make."""

    made = 0

    def __init__(self, *_: object) -> None:
        Called.made += 1


@pytest.mark.parametrize("named", ["py-io-impl", "write.py-location-provider.impl"])
def test_given_metadata_that_name_a_class_then_nobody_makes_it(archive: Archive, named: str) -> None:
    load(archive, cdr("1"))
    export(archive)
    path = Path(iceberg.pointer(archive).removeprefix("file://"))
    content = json.loads(path.read_text())
    content["properties"][named] = f"{__name__}.{Called.__name__}"
    path.write_text(json.dumps(content))
    load(archive, cdr("2"))
    ended = archive.run("export")
    assert (ended.returncode, "ETL-529" in ended.stdout) == (1, True)
    with lake(archive) as opened, pytest.raises(Exception, match="properties that etl never sets"):
        opened.needed_by_tables()
    assert Called.made == 0


def test_given_tables_made_meanwhile_then_who_began_without_stops(archive: Archive) -> None:
    archive.more = {**archive.more, "lake_table": None}
    load(archive, cdr("1"), on(1, "2"))
    with lake(archive) as began_without:
        began_without.export(CALLS, DAY, told)
        assert archive.run("lake", "publish", ETL_LAKE_TABLE="iceberg").returncode == 0
        with pytest.raises(Exception, match="ETL-532"):
            began_without.export(CALLS, NEXT, told)
    archive.more = {**archive.more, "lake_table": "iceberg"}
    assert archive.run("export").returncode == 0
    assert refs(archive) == ["1", "2"]


def test_given_a_manifest_with_other_counts_then_it_is_told_and_mended(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines answer count(*) from it."""
    load(archive, cdr("1"), cdr("2"))
    export(archive)
    (path,) = folder_of(archive).glob("_iceberg/cdrs/metadata/*-m0.avro")
    size = revision_file(archive).stat().st_size
    content = path.read_bytes()
    count_and_size = b"\x04" + _varint(size)
    assert content.count(count_and_size) == 1
    path.write_bytes(content.replace(count_and_size, b"\x06" + _varint(size)))
    assert archive.run("verify").returncode == 1
    assert archive.run("lake", "publish").returncode == 0
    assert archive.run("verify").returncode == 0


def _varint(number: int) -> bytes:
    """As Avro writes a whole number."""
    left, found = number << 1, b""
    while left > 0x7F:
        left, found = left >> 7, found + bytes([left & 0x7F | 0x80])
    return found + bytes([left])


@pytest.mark.parametrize(
    ("name", "value"), [("PYICEBERG_MANIFEST_CACHE_SIZE", "abc"), ("PYICEBERG_MAX_WORKERS", "many")]
)
def test_given_settings_that_pyiceberg_can_not_read_then_it_is_said(archive: Archive, name: str, value: str) -> None:
    load(archive, cdr("1"))
    ended = archive.run("export", PYTHONHASHSEED="0", **{name: value})
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0 or "ETL-5" in ended.stdout + ended.stderr
