"""Is a file of the lake what the books say, and does it hold what Postgres holds?"""

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import LakeError
from etl.lake.datasets import Dataset
from etl.lake.export import row_groups
from etl.lake.postgres import stream
from etl.lake.target import MANIFEST, Target
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


def shallow(target: Target, dataset: Dataset, about: Manifest) -> list[Difference]:
    """The file, its footer and the manifest beside it against the books. Raises `LakeError` if they can't be read."""
    length_and_digest = target.fingerprint(dataset, about.day)
    if length_and_digest is None:
        return [_difference(about, "file", target.path(dataset, about.day), "missing")]
    beside = target.manifest(dataset, about.day)
    found = msgspec.structs.replace(about, bytes=length_and_digest[0], sha256=length_and_digest[1])
    differences = [*_compare(about, found, "file")]
    if not differences:  # else the footer may be anything
        differences += _compare(about, _footer(target, dataset, about), "footer")
    if beside is None:
        differences.append(_difference(about, MANIFEST, "there", "missing"))
    else:
        differences += _compare(about, beside, MANIFEST)
    return differences


def deep(target: Target, dataset: Dataset, day: date, uri: str, snapshot: str) -> list[Difference]:
    """Every row of the file against every row of Postgres in the snapshot, both ways; the first ones that differ.

    Raises `LakeError` and `Outage`.
    """
    with target.open(dataset, day) as file, stream(uri, snapshot, dataset.query(day)) as reader:
        try:
            ours = row_groups((batch.cast(dataset.plain) for batch in reader), _PIECE)
            differing = _differing(dataset, rows(file, dataset), ours)
            return [Difference(dataset.name, day, *each) for each in islice(differing, MOST_DIFFERENCES)]
        except (OSError, pa.ArrowException) as error:
            raise LakeError("ETL-501", f"{target.path(dataset, day)}: {' '.join(str(error).split())}") from error


def count_rows(target: Target, dataset: Dataset, day: date) -> int | None:
    """By the file's footer; None if there is no file. Raises `LakeError`."""
    if not target.exists(dataset, day):
        return None
    with target.open(dataset, day) as file:
        try:
            return int(pq.read_metadata(file).num_rows)
        except pa.ArrowException as error:
            raise LakeError("ETL-501", f"{target.path(dataset, day)}: {' '.join(str(error).split())}") from error


def rows(file: Any, dataset: Dataset) -> Iterator[pa.Table]:
    """A file's rows in pieces, without dictionaries. Columns that an older file lacks are null."""
    with pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as parquet:
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


def _footer(target: Target, dataset: Dataset, about: Manifest) -> Manifest:
    place = target.path(dataset, about.day)
    with target.open(dataset, about.day) as file:
        try:
            metadata = pq.read_metadata(file)
            fingerprint = dataset.fingerprint(metadata.schema.to_arrow_schema())
        except pa.ArrowException as error:
            raise LakeError("ETL-501", f"{place}: {' '.join(str(error).split())}") from error
        text = (metadata.metadata or {}).get(FOOTER_KEY.encode(), b"")
        said = manifest.read(text, f"the footer of {place}")
        # What the file can't say of itself was compared already.
        return msgspec.structs.replace(
            said,
            rows=metadata.num_rows,
            schema_fingerprint=fingerprint,
            bytes=about.bytes,
            sha256=about.sha256,
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
