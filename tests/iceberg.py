"""The lake's Iceberg tables as other programs see them: from the pointer in Postgres on, with nothing of ours."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
from pyiceberg.manifest import ManifestEntry
from pyiceberg.table import StaticTable, Table

from tests.world import Archive


def pointer(archive: Archive, dataset: str = "cdrs") -> str:
    """Where the metadata is, as an engine without a catalog is told."""
    query = "SELECT metadata_location FROM iceberg.iceberg_tables WHERE table_name = %s"
    with psycopg.connect(archive.database_url) as connection:
        found = connection.execute(query, [dataset]).fetchone()
    assert found, "there is no table"
    return str(found[0])


def metadata(archive: Archive, dataset: str = "cdrs") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(pointer(archive, dataset).removeprefix("file://")).read_text())
    return found


def planned(location: str) -> StaticTable:
    """A query that has begun: it has read the pointer, and looks no more at it."""
    return StaticTable.from_metadata(location)


def rows(archive: Archive, dataset: str = "cdrs") -> pl.DataFrame:
    return read(pointer(archive, dataset))


def read(table: Table | str) -> pl.DataFrame:
    """By Polars, whose own planner reads the metadata."""
    return pl.scan_iceberg(table).collect()


def files(table: Table) -> list[str]:
    """Names of its data files."""
    return sorted(entry.data_file.file_path.removeprefix("file://") for entry in entries(table))


def entries(table: Table) -> list[ManifestEntry]:
    """As the current snapshot's manifests have them."""
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot else []
    return [entry for each in manifests for entry in each.fetch_manifest_entry(table.io, discard_deleted=True)]
