"""One Iceberg table per dataset has what the books call each day's current revision (promise 7): as engines see it,
that know the catalog and the files and nothing of ours."""

from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from tests import iceberg
from tests.lake import DAY, export, load, prune, revision_file, with_lake
from tests.world import Archive, cdr


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    archive.more = {**archive.more, "lake_table": "iceberg"}


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
