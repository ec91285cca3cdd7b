"""Is a file of the lake what the books say, and does it hold what Postgres holds?"""

import os
from collections.abc import Iterator
from itertools import zip_longest

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import LakeError
from etl.lake import layout
from etl.lake.datasets import Dataset
from etl.lake.difference import Difference
from etl.lake.export import row_groups
from etl.lake.target import Target, digest
from etl.wire import manifest
from etl.wire.manifest import FOOTER_KEY, Manifest

# Rows that are compared at once.
_PIECE = 32_768


def shallow(target: Target, name: str, dataset: Dataset, about: Manifest) -> list[Difference]:
    """A revision, its footer and the manifest beside it against the books. Raises `LakeError` if they can't be read."""
    if not target.exists(name):
        return [_difference(about, "file", target.path(name), "missing")]
    with target.fetched(name) as place:
        found = msgspec.structs.replace(about, bytes=os.stat(place).st_size, sha256=digest(place))
        differences = [*_compare(about, found, "file")]
        if not differences:  # else the footer may be anything
            differences += _compare(about, footer(place, target.path(name), dataset, about), "footer")
    beside = target.read(layout.manifest(name))
    if beside is None:
        differences.append(_difference(about, "manifest", "there", "missing"))
    else:
        differences += _compare(about, manifest.read(beside, target.path(layout.manifest(name))), "manifest")
    return differences


def check(place: str, path: str, about: Manifest) -> None:
    """Raises `LakeError` unless the file at `place` is what the manifest says; `path` is its name for people."""
    if (os.stat(place).st_size, digest(place)) != (about.bytes, about.sha256):
        raise LakeError("ETL-516", f"{path} isn't revision {about.revision} any more")


def count_rows(target: Target, name: str) -> int | None:
    """By the file's footer; None if there is no file. Raises `LakeError`."""
    if not target.exists(name):
        return None
    with target.open(name) as file:
        return int(pq.read_metadata(file).num_rows)


def rows(place: str, dataset: Dataset) -> Iterator[pa.Table]:
    """A file's rows in pieces, without dictionaries. Columns that an older file lacks are null."""
    with pq.ParquetFile(place, page_checksum_verification=True, pre_buffer=False) as parquet:
        batches = (_plain(batch, dataset) for batch in parquet.iter_batches(_PIECE))
        yield from row_groups(batches, _PIECE)


def same_rows(one: str, other: str, dataset: Dataset) -> bool:
    """Whether two files have the same rows in the same order, whoever wrote them."""
    pairs = zip_longest(rows(one, dataset), rows(other, dataset))
    return all(a is not None and b is not None and a.equals(b) for a, b in pairs)


def _plain(batch: pa.RecordBatch, dataset: Dataset) -> pa.RecordBatch:
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in dataset.plain
    ]
    return pa.RecordBatch.from_arrays(columns, schema=dataset.plain)


def footer(place: str, path: str, dataset: Dataset, about: Manifest | None = None) -> Manifest:
    """What a file says of itself, and what can be counted in it; its length and checksum are those of `about`, or else
    found out. Raises `LakeError` if it is no revision."""
    metadata = pq.read_metadata(place)
    text = (metadata.metadata or {}).get(FOOTER_KEY.encode(), b"")
    length, sha256 = (about.bytes, about.sha256) if about else (os.stat(place).st_size, digest(place))
    return msgspec.structs.replace(
        manifest.read(text, f"the footer of {path}"),
        rows=metadata.num_rows,
        schema_fingerprint=dataset.fingerprint(metadata.schema.to_arrow_schema()),
        bytes=length,
        sha256=sha256,
    )


def _compare(expected: Manifest, found: Manifest, where: str) -> Iterator[Difference]:
    for name in Manifest.__struct_fields__:
        wanted, got = getattr(expected, name), getattr(found, name)
        if wanted != got:
            yield _difference(expected, f"{where}: {name}", str(wanted), str(got))


def _difference(about: Manifest, what: str, expected: str, found: str) -> Difference:
    return Difference(about.dataset, about.day, what, expected, found)
