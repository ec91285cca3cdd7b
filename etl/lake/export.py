"""A day of Postgres into one Parquet file: the same rows make the same bytes."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import LakeError
from etl.lake import witness
from etl.lake.datasets import Dataset
from etl.lake.postgres import stream
from etl.lake.target import digest
from etl.wire.manifest import FOOTER_KEY, Manifest

# Large enough to compress well and to be read in few steps, small enough that two of them are little memory.
ROW_GROUP = 131_072
# The column that single rows are looked for by.
_LOOKED_FOR = "call_ref"

Progress = Callable[[int], None]


def write(uri: str, snapshot: str, dataset: Dataset, about: Manifest, place: str, progress: Progress) -> Manifest:
    """Write the day of `about`, as it was in the snapshot, to `place`, and read it back. `progress` gets each group's
    rows. Gives `about` with what the rows and the file tell.

    Raises `Outage` for Postgres and `LakeError` for the file.
    """
    rows, first, last = 0, None, None
    try:
        with (
            stream(uri, snapshot, dataset.query(about.day)) as reader,
            pq.ParquetWriter(place, dataset.schema, **_options(dataset)) as writer,
        ):
            for group in row_groups(reader, ROW_GROUP):
                writer.write_table(group.cast(dataset.schema), row_group_size=ROW_GROUP)
                times = group.column(dataset.time)
                first, last = first or times[0].as_py(), times[-1].as_py()
                rows += group.num_rows
                progress(group.num_rows)
                del group  # before the next one is gathered
            about = msgspec.structs.replace(about, rows=rows, first_time=first, last_time=last)
            writer.add_key_value_metadata({FOOTER_KEY: msgspec.json.encode(about).decode()})
        return _read_back(place, about)
    except (OSError, pa.ArrowException) as error:
        raise LakeError("ETL-501", f"{place}: {' '.join(str(error).split())}") from error


def row_groups(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size`, the last one smaller: however Postgres happened to deliver them."""
    pending: list[pa.RecordBatch] = []
    waiting = 0
    for batch in batches:
        rest = batch
        while waiting + rest.num_rows >= size:
            full, pending = [*pending, rest.slice(0, size - waiting)], []
            rest, waiting = rest.slice(size - waiting), 0
            yield _table(full)
        if rest.num_rows:
            pending.append(rest)
            waiting += rest.num_rows
    if pending:
        yield _table(pending)


def _table(batches: list[pa.RecordBatch]) -> pa.Table:
    # In one piece, since the pieces' borders would show in the file; and then the pieces are needed no more.
    table = pa.Table.from_batches(batches).combine_chunks()
    batches.clear()
    return table


def _options(dataset: Dataset) -> dict[str, object]:
    return {
        "compression": "zstd",
        "use_dictionary": sorted(dataset.repeated),
        "write_page_index": True,
        "write_page_checksum": True,
        "bloom_filter_options": {_LOOKED_FOR: {"ndv": ROW_GROUP, "fpp": 0.05}},
        "sorting_columns": [pq.SortingColumn(dataset.schema.get_field_index(name)) for name in dataset.order],
    }


def _read_back(place: str, about: Manifest) -> Manifest:
    """Have every page's checksum checked and every value decoded before anybody else does: the latter by another reader
    than the file's writer, which checks what is in a text, and no checksums."""
    with ThreadPoolExecutor(1, "read back") as pool:
        by_another = pool.submit(witness.validate, place)
        with pq.ParquetFile(place, page_checksum_verification=True) as file:
            found = sum(batch.num_rows for batch in file.iter_batches(ROW_GROUP // 4))
        counts = {found, by_another.result()}
    if counts != {about.rows}:
        raise LakeError("ETL-515", f"{place}: {about.rows} rows were written and {min(counts)} read back")
    return msgspec.structs.replace(about, bytes=os.stat(place).st_size, sha256=digest(place))
