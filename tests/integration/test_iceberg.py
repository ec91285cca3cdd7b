"""One Iceberg table per dataset has what the books call each day's current revision (promise 7): as engines see it,
that know the catalog and the files and nothing of ours."""

import json
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import psycopg
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.types import StringType

from etl.app.lake import sweep_lake
from etl.errors import Contention
from etl.jobs import remains
from etl.jobs.remains import Searched
from etl.lake.datasets import DATASETS
from etl.store import lake_table
from etl.wire.erasure import Person
from tests import iceberg
from tests.lake import (
    CALLS,
    DAY,
    SPOOL,
    export,
    export_all,
    export_and_prune,
    file,
    heard,
    lake,
    load,
    on,
    prune,
    revision_file,
    revisions,
    told,
    with_lake,
)
from tests.lake import folder as folder_of
from tests.person import KEY, NUMBER, PERSON, forget
from tests.world import Archive, cdr

STATUS = heard(1)
COLUMNS = {
    "cdrs": "source call_ref leg dialed_at answered_at connected_at ended_at call_time hold_time ring_time call_dir"
    " extension number dial_number campaign_ref contact_ref end_reason end_code recording_url uuid extra batch_id"
    " loaded_at",
    "audit_events": "event_id captured_at origin channel kind reference event_type status campaign_ref extension"
    " call_ref payload batch_id",
}


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    archive.more = {**archive.more, "lake_table": "iceberg"}


def searched(archive: Archive) -> Searched:
    with lake(archive) as opened:
        return remains.search(opened.engine, opened, remains.sought([Person(KEY, NUMBER)]), lambda *_: None)


def refs(rows: pl.DataFrame) -> list[str]:
    return sorted(rows["call_ref"])


def test_given_an_export_then_the_table_has_its_rows(archive: Archive) -> None:
    load(archive, *(cdr(str(number)) for number in range(10)))
    export(archive)
    assert refs(iceberg.rows(archive)) == [str(number) for number in range(10)]
    assert set(iceberg.rows(archive)["dialed_on"]) == {DAY}
    assert iceberg.files(iceberg.planned(iceberg.pointer(archive))) == [str(revision_file(archive))]


def test_given_the_catalog_then_an_analyst_opens_the_table_by_name(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    uri = archive.database_url.replace("postgresql://", "postgresql+psycopg://")
    with closing(SqlCatalog("etl", uri=f"{uri}{'&' if '?' in uri else '?'}options=-csearch_path%3Diceberg")) as catalog:
        assert catalog.list_tables("lake") == [("lake", "cdrs")]
        assert refs(iceberg.read(catalog.load_table("lake.cdrs"))) == ["1"]


def test_given_a_late_cdr_then_running_queries_keep_their_revision(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    running = iceberg.planned(iceberg.pointer(archive))
    prune(archive)
    load(archive, cdr("2"))
    export(archive)
    assert refs(iceberg.rows(archive)) == ["1", "2"]
    assert refs(iceberg.read(running)) == ["1"]


def test_given_field_ids_then_files_and_table_agree_on_them(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    of_the_table = {field.name: field.field_id for field in iceberg.planned(iceberg.pointer(archive)).schema().fields}
    in_the_file = {field.name: int(field.metadata[b"PARQUET:field_id"]) for field in pq.read_schema(file(archive))}
    assert of_the_table == {"dialed_on": 1, **in_the_file}


def test_given_columns_then_their_numbers_are_what_they_have_ever_been() -> None:
    """Files know columns by them: a new one comes last, and none goes."""
    for name, columns in COLUMNS.items():
        assert " ".join(DATASETS[name].schema.names).startswith(columns)


def test_given_any_text_then_no_bound_of_it_is_in_the_metadata(archive: Archive) -> None:
    personal = {name: f"00{number}7009123456" for number, name in enumerate(("number", "contact_ref", "campaign_ref"))}
    load(archive, cdr("4470091234560", **personal), cdr("4470091234561", **personal, note="447009123456"))
    load(archive, STATUS, key=SPOOL)
    export_all(archive)
    for path in folder_of(archive).glob("_iceberg/**/*.*"):
        assert b"7009123456" not in path.read_bytes(), path
    table = iceberg.planned(iceberg.pointer(archive))
    texts = {field.field_id for field in table.schema().fields if isinstance(field.field_type, StringType)}
    (entry,) = iceberg.entries(table)
    assert {*entry.data_file.lower_bounds} == {*entry.data_file.upper_bounds}
    assert not texts & {*entry.data_file.lower_bounds}
    assert texts <= {*entry.data_file.null_value_counts}


def test_given_days_of_before_the_table_then_the_next_export_has_them(archive: Archive) -> None:
    archive.more = {**archive.more, "lake_table": None}
    load(archive, *(on(day, f"{day}") for day in range(5)))
    export_all(archive)
    archive.more = {**archive.more, "lake_table": "iceberg"}
    assert json.loads(archive.run("lake", "status", "--json").stdout) == {"tables": []}
    assert archive.run("lake", "publish", "--day", "2015-02-20").stdout.startswith("cdrs: 5 new")
    assert refs(iceberg.rows(archive)) == [*"01234"]
    assert archive.run("export").returncode == 0
    assert refs(iceberg.rows(archive)) == [*"01234"]
    before = iceberg.pointer(archive)
    assert archive.run("lake", "publish").returncode == 0
    assert iceberg.pointer(archive) == before


def test_given_tables_then_no_command_moves_the_books_without_them(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    for command in ("export", "verify", "reconcile", "prune --keep-days 1", f"restore --day {DAY}"):
        ended = archive.run(*command.split(), ETL_LAKE_TABLE="")
        assert (ended.returncode, "ETL-532" in ended.stderr) == (2, True), command
    ended = archive.run("forget", "--number", NUMBER, "--yes", ETL_LAKE_TABLE="", ETL_FORGET_KEY=KEY)
    assert (ended.returncode, "ETL-532" in ended.stderr) == (2, True)


@pytest.mark.parametrize("name", ["a#b", "a?b"])
def test_given_a_folder_that_no_url_can_name_then_tables_are_refused(
    archive: Archive, tmp_path: Path, name: str
) -> None:
    with_lake(archive, tmp_path / name)
    ended = archive.run("export")
    assert (ended.returncode, "ETL-533" in ended.stderr) == (2, True)


@pytest.mark.parametrize("name", ["a b", "ü", "50%", "50%41", "a[b]*", "a=b+c&d'e"])
def test_given_a_folder_of_any_other_name_then_engines_find_the_files(
    archive: Archive, tmp_path: Path, name: str
) -> None:
    with_lake(archive, tmp_path / name)
    load(archive, cdr("1"))
    export(archive)
    assert refs(iceberg.rows(archive)) == ["1"]
    assert iceberg.planned(iceberg.pointer(archive)).scan().to_arrow().num_rows == 1


def test_given_a_day_that_lost_all_rows_then_the_table_has_it_once(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    archive.rows("DELETE FROM cdrs RETURNING 1")
    for _ in range(2):
        export(archive, force=True, because="tested")
    assert iceberg.rows(archive).height == 0
    assert len(iceberg.files(iceberg.planned(iceberg.pointer(archive)))) == 1


def test_given_a_pointer_set_back_then_it_is_told_and_mended(archive: Archive) -> None:
    load(archive, cdr("1"))
    export(archive)
    early = iceberg.pointer(archive)
    load(archive, cdr("2"))
    export(archive)
    archive.rows("UPDATE iceberg.iceberg_tables SET metadata_location = %s RETURNING 1", early)

    assert refs(iceberg.rows(archive)) == ["1"]
    status = archive.run("lake", "status")
    assert (status.returncode, "cdrs 2015-02-19: not as the books say" in status.stdout) == (1, True)
    verified = archive.run("verify")
    assert (verified.returncode, "Iceberg table" in verified.stdout) == (1, True)
    kept = prune(archive)
    assert (kept.what, "etl lake publish" in kept.why) == ("kept", True)

    assert archive.run("lake", "publish").returncode == 0
    assert refs(iceberg.rows(archive)) == ["1", "2"]
    assert archive.run("verify").returncode == 0
    assert prune(archive).what == "dropped"


def test_given_who_froze_with_the_pointer_then_others_give_up_soon(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_table, "_WAIT_MS", 100)
    monkeypatch.setattr(lake_table, "_ATTEMPTS", 2)
    for ref in ("1", "2"):
        load(archive, cdr(ref))
        export(archive)
    load(archive, cdr("3"))
    with psycopg.connect(archive.database_url) as frozen:
        frozen.execute("UPDATE iceberg.iceberg_tables SET metadata_location = metadata_location")
        with pytest.raises(Contention, match="lock timeout"):
            export(archive)
        with lake(archive) as opened:
            swept = sweep_lake(archive.settings(lake_history_days=0), opened)
        assert (swept.removed, {"lock timeout" in why for why in swept.failed}) == ([], {True})
        frozen.rollback()
    assert refs(iceberg.rows(archive)) == ["1", "2"]
    export(archive)
    assert refs(iceberg.rows(archive)) == ["1", "2", "3"]


def test_given_history_then_snapshots_stay_whole_until_it_ends(archive: Archive) -> None:
    """And the files that they need with them, whoever sweeps."""
    load(archive, cdr("1"))
    export(archive)
    running = iceberg.pointer(archive)
    load(archive, cdr("2"))
    export_all(archive)
    assert refs(iceberg.read(running)) == ["1"]
    assert len(iceberg.metadata(archive)["snapshots"]) == 2

    archive.more = {**archive.more, "lake_history_days": 0}
    export_all(archive)
    assert len(iceberg.metadata(archive)["snapshots"]) == 1
    assert refs(iceberg.rows(archive)) == ["1", "2"]
    assert [path.name for path in revisions(archive)] == [revision_file(archive).name]
    assert archive.run("lake", "status", "--json").returncode == 0


def test_given_a_snapshot_that_needs_it_then_a_superseded_revision_stays(archive: Archive) -> None:
    """By the clock of the books it would go: the table's is another."""
    load(archive, cdr("1"))
    export(archive)
    running = iceberg.pointer(archive)
    load(archive, cdr("2"))
    export(archive)
    archive.rows("UPDATE exports SET published_at = published_at - interval '30 days' RETURNING 1")
    export_all(archive)
    assert refs(iceberg.read(running)) == ["1"]


def test_given_a_lake_that_moved_then_it_is_said_and_rebased(archive: Archive, tmp_path: Path) -> None:
    load(archive, cdr("1"))
    export(archive)
    folder_of(archive).rename(tmp_path / "elsewhere")
    with_lake(archive, tmp_path / "elsewhere")
    load(archive, cdr("2"))
    refused = archive.run("export")
    assert (refused.returncode, "ETL-526" in refused.stdout + refused.stderr) == (1, True)
    assert archive.run("lake", "publish", "--rebase").returncode == 0
    assert archive.run("export").returncode == 0
    assert refs(iceberg.rows(archive)) == ["1", "2"]
    assert all(
        name.startswith(str(tmp_path / "elsewhere"))
        for name in iceberg.files(iceberg.planned(iceberg.pointer(archive)))
    )


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
@pytest.mark.parametrize("what", ["*.metadata.json", "snap-*.avro", "*-m*.avro"])
def test_given_damaged_metadata_then_it_is_told_and_made_anew(archive: Archive, what: str, damage: str) -> None:
    load(archive, cdr("1"))
    export(archive)
    load(archive, STATUS, key=SPOOL)
    for path in folder_of(archive).glob(f"_iceberg/cdrs/metadata/{what}"):
        content = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "other": b"\x00\xff" * 99}.get(damage, b"")
        )
        if damage == "gone":
            path.unlink()
    load(archive, cdr("2"))
    refused = archive.run("export")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert ("ETL-527" if damage == "gone" else "ETL-529") in refused.stdout + refused.stderr
    assert iceberg.rows(archive, "audit_events").height == 1

    assert archive.run("lake", "publish", "--rebase").returncode == 0
    assert archive.run("export").returncode == 0
    assert refs(iceberg.rows(archive)) == ["1", "2"]


def test_given_a_column_that_came_since_then_the_table_gets_it(archive: Archive) -> None:
    load(archive, cdr("1"), on(1, "2"))
    columns = (sa.Column(each.name, each.type, nullable=each.nullable) for each in CALLS.table.c)
    older = sa.Table(CALLS.name, sa.MetaData(), *(each for each in columns if each.name != "loaded_at"))
    with lake(archive) as opened:
        opened.export(replace(CALLS, table=older), DAY, told)
    assert "loaded_at" not in iceberg.rows(archive).columns
    export(archive, DAY + timedelta(days=1))
    rows = iceberg.rows(archive).select("call_ref", pl.col("loaded_at").is_null()).rows()
    assert sorted(rows) == [("1", True), ("2", False)]


def test_given_no_pyiceberg_then_what_to_install_is_said(archive: Archive, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "pyiceberg"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ModuleNotFoundError('none', name='pyiceberg')")
    ended = archive.run("export", PYTHONPATH=str(missing.parent))
    assert (ended.returncode, ended.stderr.count("\n"), "ETL-530" in ended.stderr) == (2, 1, True)


def test_given_a_forgotten_person_then_neither_data_nor_metadata_has_them(archive: Archive) -> None:
    archive.more = {**archive.more, "forget_key": KEY}
    load(archive, cdr("1"), cdr("2", **PERSON))
    export_and_prune(archive)
    load(archive, cdr("3"))
    export(archive)
    running = iceberg.pointer(archive)
    assert forget(archive).failed == []
    assert refs(iceberg.rows(archive)) == ["1", "2", "3"]
    assert len(iceberg.metadata(archive)["snapshots"]) == 1
    with pytest.raises((OSError, pl.exceptions.PolarsError)):
        iceberg.read(running)
    for path in folder_of(archive).rglob("*.*"):
        assert NUMBER.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("place", ["summary", "manifest"])
def test_given_metadata_with_a_number_then_the_search_finds_it(archive: Archive, place: str) -> None:
    archive.more = {**archive.more, "forget_key": KEY}
    load(archive, cdr("1"), cdr("2", **PERSON))
    export(archive)
    assert searched(archive).is_proof is False  # rows have it
    if place == "summary":
        path = Path(iceberg.pointer(archive).removeprefix("file://"))
        path.write_text(path.read_text().replace("2015-02-19 r1", NUMBER))
    else:
        (path,) = folder_of(archive).glob("_iceberg/cdrs/metadata/*-m0.avro")
        path.write_bytes(path.read_bytes() + NUMBER.encode())
    named = path.relative_to(folder_of(archive)).as_posix()
    assert (named, "itself") in {(each.where, each.kind) for each in searched(archive).remains}
