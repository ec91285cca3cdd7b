"""Is a file of the lake what the books say, and does it hold what Postgres holds?"""

import os
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import LakeError
from etl.lake import layout
from etl.lake.datasets import Dataset
from etl.lake.export import row_groups
from etl.lake.postgres import stream
from etl.lake.target import Target, digest
from etl.wire import manifest
from etl.wire.manifest import FOOTER_KEY, Manifest

# A day that differs everywhere needn't be told row by row.
MOST_DIFFERENCES = 20
# Rows that are compared at once.
_PIECE = 32_768


class Difference(NamedTuple):
    """Something isn't as the books, or Postgres, say."""

    dataset: str
    day: date
    what: str
    expected: str
    found: str


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


def deep(target: Target, name: str, dataset: Dataset, day: date, uri: str, snapshot: str) -> list[Difference]:
    """Every row of the file against every row of Postgres in the snapshot, both ways; the first ones that differ.

    Raises `LakeError` and `Outage`.
    """
    with target.fetched(name) as place, stream(uri, snapshot, dataset.query(day)) as reader:
        ours = row_groups((batch.cast(dataset.plain) for batch in reader), _PIECE)
        differing = _differing(dataset, rows(place, dataset), ours)
        return [Difference(dataset.name, day, *each) for each in islice(differing, MOST_DIFFERENCES)]


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


def _differing(
    dataset: Dataset, theirs: Iterator[pa.Table], ours: Iterator[pa.Table]
) -> Iterator[tuple[str, str, str]]:
    """Both in the same order. As long as whole pieces are equal, nothing has to be looked at row by row."""
    for one in ours:
        other = next(theirs, None)
        if other is None or not one.equals(other):
            pieces = [piece for piece in (other,) if piece is not None]
            yield from _row_by_row(dataset, _rows(pieces, theirs), _rows([one], ours))
            return
    yield from _row_by_row(dataset, _rows([], theirs), iter(()))


def _rows(first: list[pa.Table], rest: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    for piece in [*first]:
        yield from piece.to_pylist()
    for piece in rest:
        yield from piece.to_pylist()


def _row_by_row(
    dataset: Dataset, theirs: Iterator[dict[str, Any]], ours: Iterator[dict[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in dataset.order)

    def name(row: dict[str, Any]) -> str:
        return "row " + " ".join(str(row[key]) for key in dataset.key)

    other, one = next(theirs, None), next(ours, None)
    while other is not None or one is not None:
        if one is not None and (other is None or place(one) < place(other)):
            yield name(one), "in Postgres", "not in the file"
            one = next(ours, None)
        elif other is not None and (one is None or place(other) < place(one)):
            yield name(other), "not in Postgres", "in the file"
            other = next(theirs, None)
        elif one is not None and other is not None:
            for column in (column for column in one if one[column] != other[column]):
                yield f"{name(one)}: {column}", str(one[column]), str(other[column])
            other, one = next(theirs, None), next(ours, None)
