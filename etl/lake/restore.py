"""A file's rows on their way back into Postgres, as far as a staging table; the rest is the store's."""

from collections.abc import Iterator
from datetime import date

import pyarrow as pa

from etl.errors import LakeError
from etl.lake.datasets import Dataset
from etl.lake.export import Told
from etl.lake.postgres import ingest
from etl.lake.target import Target
from etl.lake.verify import rows


def bring(target: Target, dataset: Dataset, day: date, uri: str, table: str, told: Told) -> int:
    """Append the file's rows to `table`, UUIDs and JSON as text, and commit; returns how many there were.

    Raises `LakeError` for the file and `Outage` for Postgres.
    """
    day_field = pa.field(dataset.day, pa.date32())
    schema = pa.schema([day_field, *dataset.plain])

    def batches(pieces: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for piece in pieces:
            days = pa.repeat(pa.scalar(day, day_field.type), piece.num_rows)
            yield from piece.add_column(0, day_field, days).cast(schema).to_batches()
            told(piece.num_rows)

    with target.open(dataset, day) as file:
        try:
            return ingest(uri, table, schema, batches(rows(file, dataset)))
        except (OSError, pa.ArrowException) as error:
            raise LakeError("ETL-501", f"{target.path(dataset, day)}: {' '.join(str(error).split())}") from error
