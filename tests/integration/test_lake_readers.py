"""The lake as others read it, each with the plain call of its documentation: what they count and add up is what SQL
says, whatever lies beside the files. And what a file has for them."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from etl.lake import export, layout
from etl.lake.datasets import Dataset
from etl.lake.target import Target
from tests.lake import (
    CALLS,
    DAY,
    EVENTS,
    SPOOL,
    export_all,
    file,
    folder,
    heard,
    load,
    manifest_file,
    on,
    revision,
    revisions,
    with_lake,
)
from tests.world import DIALED_AT, Archive, cdr

THE_DAY_AFTER = date(2015, 2, 20)


class Question(NamedTuple):
    """Of each day, how many rows there are, and what `how` makes of a column; of each value of `by`, how many rows."""

    dataset: Dataset
    how: str
    column: str
    by: str


class Answer(NamedTuple):
    days: list[tuple[Any, ...]]
    groups: list[tuple[Any, ...]]


QUESTIONS = (Question(CALLS, "sum", "call_time", "end_reason"), Question(EVENTS, "count", "status", "reference"))


def by_sql(archive: Archive, asked: Question) -> Answer:
    def answer(query: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in archive.rows(query)]

    return Answer(*map(answer, _sql(asked, asked.dataset.name)))


def by_duckdb(root: Path, asked: Question) -> Answer:
    lake = f"read_parquet('{root}/{asked.dataset.name}/*/*.parquet', hive_partitioning=true)"
    with duckdb.connect() as db:
        return Answer(*(db.sql(query).fetchall() for query in _sql(asked, lake)))


def _sql(asked: Question, table: str) -> list[str]:
    figures = f"count(*) AS n, {asked.how}({asked.column})"
    return [
        f"SELECT {asked.dataset.day}, {figures} FROM {table} GROUP BY 1 ORDER BY 1",
        f"SELECT {asked.by}, count(*) AS n FROM {table} GROUP BY 1 ORDER BY 1",
    ]


def by_polars(root: Path, asked: Question) -> Answer:
    return _by_polars(pl.scan_parquet(root / asked.dataset.name / "*/*.parquet", hive_partitioning=True), asked)


def by_polars_of_a_folder(root: Path, asked: Question) -> Answer:
    return _by_polars(pl.scan_parquet(root / asked.dataset.name, hive_partitioning=True), asked)


def by_polars_but_hidden_files(root: Path, asked: Question) -> Answer:
    # By itself it doesn't pass over what 0.1 left beside the files, as others do.
    lake = pl.scan_parquet(root / asked.dataset.name, hive_partitioning=True, hidden_file_prefix=["_", "."])
    return _by_polars(lake, asked)


def _by_polars(lake: pl.LazyFrame, asked: Question) -> Answer:
    figures = (pl.len(), getattr(pl.col(asked.column), asked.how)())
    days = lake.group_by(asked.dataset.day).agg(*figures).sort(asked.dataset.day)
    groups = lake.group_by(pl.col(asked.by).cast(pl.String)).len().sort(asked.by)
    return Answer(days.collect().rows(), groups.collect().rows())


def by_pandas(root: Path, asked: Question) -> Answer:
    return _by_frame(pd.read_parquet(root / asked.dataset.name), asked)


def by_pyarrow(root: Path, asked: Question) -> Answer:
    return _by_frame(ds.dataset(root / asked.dataset.name, partitioning="hive").to_table().to_pandas(), asked)


def _by_frame(frame: Any, asked: Question) -> Answer:
    days = frame.groupby(asked.dataset.day, observed=True)[asked.column].agg(["size", asked.how]).sort_index()
    groups = frame.groupby(asked.by, observed=True).size()
    return Answer(
        [(date.fromisoformat(day), int(rows), int(figure)) for day, rows, figure in days.itertuples()],
        sorted((value, int(rows)) for value, rows in groups.items()),
    )


Reader = Callable[[Path, Question], Answer]
READERS: dict[str, Reader] = {
    "DuckDB": by_duckdb,
    "Polars": by_polars,
    "Polars of a folder": by_polars_of_a_folder,
    "pandas": by_pandas,
    "pyarrow": by_pyarrow,
}


@pytest.fixture
def lake(archive: Archive, tmp_path: Path) -> Archive:
    """Two days of both datasets, one of them in its second revision."""
    with_lake(archive, tmp_path)
    calls = [cdr(n, call_time=n, end_reason=f"reason {n % 3}") for n in range(300)]
    calls += [on(1, n, call_time=2 * n, end_reason=f"reason {n % 5}") for n in range(200)]
    load(archive, *calls)
    events = [heard(n, DAY, ref=str(n % 7), status="started") for n in range(100)]
    events += [heard(n, THE_DAY_AFTER, ref=str(n % 3)) for n in range(100, 130)]
    load(archive, *events, key=SPOOL)
    assert len(export_all(archive)) == 4
    load(archive, *(cdr(n, call_time=n, end_reason="late") for n in range(290, 310)))
    assert len(export_all(archive)) == 1
    return archive


@pytest.fixture(params=["nothing", "drafts", "leftovers", "leftovers of 0.1"])
def readers(request: pytest.FixtureRequest, lake: Archive) -> Iterator[dict[str, Reader]]:
    """While this lies beside the files."""
    target = Target(str(folder(lake)))
    names = [layout.attempt(CALLS, DAY), layout.attempt(EVENTS, date(2015, 2, 21))]
    match request.param:
        case "drafts":
            with target.draft(names[0]) as draft, target.draft(names[1]) as first_draft:
                Path(draft.place).write_bytes(file(lake).read_bytes()[:5_000])
                Path(first_draft.place).write_bytes(b"PAR1")
                yield READERS
        case "leftovers":  # of an exporter that was killed
            for name in names:
                path = folder(lake) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file(lake).read_bytes())
            yield READERS
        case "leftovers of 0.1":
            for path in [*folder(lake).rglob("part-0.parquet")]:
                path.with_name("_manifest.json").write_bytes(b"{}")
                path.with_name(".part-0.parquet.tmp").write_bytes(path.read_bytes())
                path.with_name("._manifest.json.tmp").write_bytes(b"{")
            yield {**READERS, "Polars of a folder": by_polars_but_hidden_files}
        case _:
            yield READERS


def test_given_readers_with_their_plain_calls_then_they_agree_with_sql(
    lake: Archive, readers: dict[str, Reader]
) -> None:
    assert len(revisions(lake)) == 2, "the older one stays, and nobody reads it"
    for asked in QUESTIONS:
        expected = by_sql(lake, asked)
        assert [day for day, *_ in expected.days] == [DAY, THE_DAY_AFTER]
        answers = {name: reader(folder(lake), asked) for name, reader in readers.items()}
        assert answers == dict.fromkeys(READERS, expected)


def test_given_a_file_then_it_has_what_readers_need(lake: Archive) -> None:
    with pq.ParquetFile(file(lake)) as parquet:
        schema, metadata, table = parquet.schema_arrow, parquet.metadata, parquet.read()

    assert schema.field("dialed_at").type == pa.timestamp("us", "UTC")
    assert table.column("dialed_at")[0].as_py() == datetime.fromtimestamp(DIALED_AT, UTC)
    assert schema.field("call_time").type == pa.int32()
    assert schema.field("extra").type == pa.string()
    assert "dialed_on" not in schema.names, "it would clash with the folder's"
    for field in schema:
        assert pa.types.is_dictionary(field.type) == (field.name in CALLS.repeated)
        comment = lake.value(
            "SELECT col_description('cdrs'::regclass, attnum) FROM pg_attribute"
            " WHERE attrelid = 'cdrs'::regclass AND attname = %s",
            field.name,
        )
        assert field.metadata[b"comment"].decode() == comment
    for index in range(metadata.num_columns):
        column = metadata.row_group(0).column(index)
        assert column.compression == "ZSTD"
        assert column.is_stats_set
        assert (column.has_column_index, column.has_offset_index) == (True, True)
        assert ("RLE_DICTIONARY" in column.encodings) == (column.path_in_schema in CALLS.repeated)
    statistics = metadata.row_group(0).column(schema.names.index("call_time")).statistics
    assert (statistics.min, statistics.max) == (0, 309)


def test_given_a_file_then_its_footer_has_the_manifest(lake: Archive) -> None:
    beside = json.loads(manifest_file(lake).read_bytes())
    entered = revision(lake)

    with pq.ParquetFile(file(lake)) as parquet:
        within = json.loads(parquet.metadata.metadata[b"etl.manifest"])

    assert (beside["revision"], beside["rows"]) == (2, 310)
    assert within == {name: value for name, value in beside.items() if name not in ("bytes", "sha256")}
    assert {name: entered[name] for name in ("revision", "rows", "entries", "bytes", "sha256")} == {
        name: beside[name] for name in ("revision", "rows", "entries", "bytes", "sha256")
    }
    assert beside["bytes"] == file(lake).stat().st_size


def test_given_a_call_ref_then_duckdb_skips_by_the_bloom_filter(lake: Archive) -> None:
    probe = "SELECT bloom_filter_excludes FROM parquet_bloom_probe('{}', 'call_ref', '{}')"

    with duckdb.connect() as db:
        known = [db.sql(probe.format(file(lake), n)).fetchall() for n in range(310)]
        unknown = [db.sql(probe.format(file(lake), f"x{n}")).fetchall() for n in range(100)]

    assert known == [[(False,)]] * 310
    assert unknown.count([(True,)]) > 80


def test_given_more_rows_than_a_group_has_then_readers_see_all_groups(
    lake: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export.ROW_GROUP == 131_072
    monkeypatch.setattr(export, "ROW_GROUP", 128)
    load(lake, *(cdr(n, call_time=n) for n in range(310, 400)))

    export_all(lake)

    with pq.ParquetFile(file(lake)) as parquet:
        groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    assert groups == [128, 128, 128, 16]
    for asked in QUESTIONS:
        expected = by_sql(lake, asked)
        assert {name: reader(folder(lake), asked) for name, reader in READERS.items()} == dict.fromkeys(
            READERS, expected
        )
