"""A file's rows on their way back into Postgres, as far as a staging table; the rest is the store's."""

from collections.abc import Iterator

import pyarrow as pa

from etl.errors import LakeError
from etl.lake.datasets import Dataset
from etl.lake.export import Progress
from etl.lake.postgres import ingest
from etl.lake.target import Target
from etl.lake.verify import check, rows
from etl.wire.manifest import Manifest


def bring(
    target: Target, name: str, dataset: Dataset, about: Manifest, uri: str, table: str, progress: Progress
) -> int:
    """Append the revision's rows to `table`, UUIDs and JSON as text, and commit; returns how many there were.

    Raises `LakeError` for the file, also if it isn't what the manifest says, and `Outage` for Postgres.
    """
    day_field = pa.field(dataset.day, pa.date32())
    schema = pa.schema([day_field, *dataset.plain])

    def batches(pieces: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for piece in pieces:
            days = pa.repeat(pa.scalar(about.day, day_field.type), piece.num_rows)
            yield from piece.add_column(0, day_field, days).cast(schema).to_batches()
            progress(piece.num_rows)

    with target.fetched(name) as place:
        check(place, target.path(name), about)
        brought = ingest(uri, table, schema, batches(rows(place, dataset)))
    if brought != about.rows:
        raise LakeError("ETL-513", f"{target.path(name)}: {about.rows} rows expected, {brought} read")
    return brought
