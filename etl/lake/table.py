"""The lake as one Iceberg table per dataset, of the lake's own files: each day's current revision by the books, and no
second copy.

    manifests, metadata ──▶ pointer    in the transaction in which the books move, or not at all

Readers have the snapshot to which the pointer led when they began: its files are immutable, and stay as long as the
lake keeps what was superseded.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CreateTableTransaction, StagedTable, Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AddSnapshotUpdate, TableRequirement, TableUpdate
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties, Record
from pyiceberg.types import DateType, IcebergType, IntegerType, LongType, NestedField, StringType, TimestamptzType

from etl.errors import Contention, EtlError, LakeError, RowRefused
from etl.lake import layout
from etl.lake.datasets import DAY_ID, Dataset, field_id
from etl.lake.table_files import TableFiles, TableIO
from etl.lake.target import Target
from etl.text import named
from etl.wire.manifest import Manifest

# It warns of each dictionary column of each file.
logging.getLogger("pyiceberg").setLevel(logging.ERROR)

_PARTITION_ID = 1000
_EPOCH = date(1970, 1, 1)  # Iceberg's days are counted from here, unlike Postgres'
_PROPERTIES = {
    "format-version": "2",
    "commit.retry.num-retries": "0",  # who called does all of it again: other revisions may be the current ones by then
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    # Some hundred days: where one of them changes, so many are written anew.
    "commit.manifest.target-size-bytes": str(256 * 1024),
    # Plain, so that who looks for a person's number among bytes would find it there.
    "write.avro.compression-codec": "null",
    # The least and the greatest of texts would be telephone numbers.
    "write.metadata.metrics.default": "counts",
}
_NOW = sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
_TWICE = "23505"  # unique_violation
_DESCRIBED = 20  # revisions of a snapshot that its summary names


class Held(NamedTuple):
    """What a table says of a day's file: its name in the lake, or where else it lies."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class State:
    """A table as its pointer has it; `since` is when its oldest snapshot was made, None if it has none; `bytes` are
    those of its metadata file."""

    location: str
    snapshots: int
    since: datetime | None
    days: Mapping[date, Sequence[Held]]
    bytes: int


class OpenTable:
    """A dataset's table on a connection that is in a transaction, in which tables without a schema are those of
    Iceberg's catalog. Every method may raise `LakeError` and `Outage`; and `Contention`, if the pointer was moved
    meanwhile: then all must be done again, in a new transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        target: Target,
        dataset: Dataset,
        catalog: str,
        namespace: str,
        pointer: str | None,
        files: TableFiles,
    ) -> None:
        """`pointer` is where the caller found it: if it has moved since, so has what he knows of it."""
        self._target = target
        self._dataset = dataset
        self._files = files
        self._catalog = _Catalog(catalog, connection, files)
        self._name = (namespace, dataset.name)
        self._pointer = pointer

    def follow(self, wanted: Mapping[date, DataFile | None]) -> int:
        """One snapshot more, which has these files instead of whatever the table has of their days, or no file of a
        day; returns how many days it hadn't so. Without a table there is one from now on."""
        with self._translated():
            table = self._table()
            held = _files(table, {*wanted}) if table else {}
            new = {day: file for day, file in wanted.items() if _facts(held.get(day, ())) != _facts([file])}
            if not new:
                return 0
            over = [file for day in new for file in held.get(day, ())]
            with table.transaction() if table else self._creation() as transaction:
                update = transaction.update_snapshot({"etl.revisions": self._described(new.values())})
                with update.overwrite() if over else update.merge_append() as snapshot:
                    for file in over:
                        snapshot.delete_data_file(file)
                    for added in filter(None, new.values()):
                        snapshot.append_data_file(added)
            return len(new)

    def expire(self, until: datetime | None) -> int:
        """Snapshots that others had superseded at `until` are no more; without `until`, all but the current one.
        Returns how many."""
        with self._translated():
            table = self._load()
            over = [each.snapshot_id for each in _superseded(table, until)]
            if over:
                table.maintenance.expire_snapshots().by_ids(over).commit()
            return len(over)

    def state(self) -> State:
        with self._translated():
            table = self._load()
            snapshots = [datetime.fromtimestamp(each.timestamp_ms / 1000, UTC) for each in table.metadata.snapshots]
            days = {
                day: [Held(self._name_of(file), file.record_count, file.file_size_in_bytes) for file in files]
                for day, files in _files(table).items()
            }
            size = self._target.size(self._files.name(table.metadata_location)) or 0
            return State(table.metadata_location, len(snapshots), min(snapshots, default=None), days, size)

    def needed(self) -> set[str]:
        """Names of all files that any of its snapshots needs: those of its metadata, and revisions."""
        with self._translated():
            table = self._load()
            locations = {table.metadata_location, *(each.metadata_file for each in table.metadata.metadata_log)}
            manifests: set[str] = set()
            for snapshot in table.metadata.snapshots:
                locations.add(snapshot.manifest_list)
                for manifest in snapshot.manifests(table.io):
                    if manifest.manifest_path not in manifests:
                        manifests.add(manifest.manifest_path)
                        entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                        locations.update(entry.data_file.file_path for entry in entries)
            return {self._files.name(location) for location in locations | manifests}

    def _table(self) -> Table | None:
        """With columns that came since; None if there is none."""
        try:
            table = self._load()
        except NoSuchTableError:
            return None
        self._files.name(table.location())  # raises, if the lake was moved
        known = {field.name for field in table.schema().fields}
        missing = [field for field in _schema(self._dataset).fields if field.name not in known]
        if missing:
            with table.update_schema() as update:
                for field in missing:
                    update.add_column(field.name, field.field_type, field.doc)
        return table

    def _load(self) -> Table:
        table = self._catalog.load_table(self._name)
        if table.metadata_location != self._pointer:
            raise self._moved()
        if strange := sorted(key for key in table.properties if "py-" in key):  # pyiceberg would run what they name
            raise ValueError(f"properties that etl never sets: {', '.join(strange)}")
        return table

    def _creation(self) -> CreateTableTransaction:
        by_day = PartitionSpec(PartitionField(DAY_ID, _PARTITION_ID, IdentityTransform(), self._dataset.day))
        location, properties = f"{self._target.uri}/{layout.table(self._dataset)}", _properties(self._dataset)
        return self._catalog.create_table_transaction(
            self._name, _schema(self._dataset), location, by_day, properties=properties
        )

    def _described(self, files: Iterable[DataFile | None]) -> str:
        """For who looks into a snapshot's summary: days and revisions, of many the first."""
        names = (layout.parse(self._name_of(file)) for file in files if file)
        said = [f"{name.day} r{name.revision}" for name in names if name]
        more = len(said) - _DESCRIBED
        return ", ".join(said[:_DESCRIBED]) + (f" and {more} more" if more > 0 else "")

    def _name_of(self, file: DataFile) -> str:
        return file.file_path.removeprefix(f"{self._target.uri}/")

    def _moved(self) -> Contention:
        return Contention("ETL-528", f"the Iceberg table {self._dataset.name} moved meanwhile; try again")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What pyiceberg raises of a damaged file may be anything."""
        try:
            yield
        except (CommitFailedException, ValidationException, TableAlreadyExistsError) as error:
            raise self._moved() from error
        except RowRefused as error:
            if getattr(error.__cause__, "sqlstate", "") == _TWICE:  # somebody else made the table
                raise self._moved() from error
            raise
        except EtlError:
            raise
        except Exception as error:
            raise LakeError(
                "ETL-529",
                f"the Iceberg table {self._dataset.name} can't be read or changed: {named(error)}."
                " `etl lake publish --rebase` begins it anew",
            ) from error


class _Catalog(SqlCatalog):
    """Iceberg's catalog on a connection of ours, in its transaction: what pyiceberg commits is committed with that.
    Times are those of Postgres' clock, and never go back: engines refuse a table whose times do."""

    engine: Any  # whatever a session of SQLAlchemy's can be bound to

    def __init__(self, name: str, connection: sa.Connection, files: TableFiles) -> None:
        MetastoreCatalog.__init__(self, name, **files.properties())
        self.engine = connection
        self._schema_version = "v1"

    def _load_file_io(self, properties: Properties = EMPTY_DICT, location: str | None = None) -> FileIO:
        return TableIO(self.properties)  # whatever a table's metadata say

    def _update_and_stage_table(
        self,
        current_table: Table | None,
        table_identifier: Identifier,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
    ) -> StagedTable:
        now = int(self.engine.scalar(_NOW))
        if current_table is not None:
            now = max(now, current_table.metadata.last_updated_ms + 1)
        at_that_time = tuple(_at(each, now) for each in updates)
        staged = super()._update_and_stage_table(current_table, table_identifier, requirements, at_that_time)
        staged.metadata = staged.metadata.model_copy(update={"last_updated_ms": now})
        return staged


def _at(update: TableUpdate, now: int) -> TableUpdate:
    if not isinstance(update, AddSnapshotUpdate):
        return update
    return AddSnapshotUpdate(snapshot=update.snapshot.model_copy(update={"timestamp_ms": now}))


def data_file(target: Target, dataset: Dataset, about: Manifest) -> DataFile:
    """What a table is to know of a revision. pyiceberg's own way would have no partition, since the day is only in the
    path. Raises `LakeError`."""
    name = layout.revision_of(dataset, about)
    schema = _schema(dataset)
    try:
        with target.open(name) as file:
            footer = pq.read_metadata(file)
        statistics = data_file_statistics_from_parquet_metadata(
            footer, compute_statistics_plan(schema, _properties(dataset)), parquet_path_to_id_mapping(schema)
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        pa.ArrowException,
    ) as error:  # of columns and times that nobody wrote so
        raise LakeError("ETL-534", f"{target.path(name)} can't be in an Iceberg table: {named(error)}") from error
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=f"{target.uri}/{name}",
        file_format=FileFormat.PARQUET,
        partition=Record((about.day - _EPOCH).days),
        file_size_in_bytes=about.bytes,
        sort_order_id=None,
        spec_id=0,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )


def _schema(dataset: Dataset) -> Schema:
    """The day, and the files' columns by the numbers that these have there. None is required: a file may be older than
    a column."""
    day = NestedField(DAY_ID, dataset.day, DateType(), required=False, doc="UTC day: the partition")
    columns = (
        NestedField(
            field_id(field),
            field.name,
            _type(field.type),
            required=False,
            doc=(field.metadata or {}).get(b"comment", b"").decode(),
        )
        for field in dataset.schema
    )
    return Schema(day, *columns)


def _type(of: pa.DataType) -> IcebergType:
    if pa.types.is_dictionary(of) or pa.types.is_string(of):
        return StringType()
    if pa.types.is_timestamp(of):
        return TimestamptzType()
    return LongType() if pa.types.is_int64(of) else IntegerType()


def _properties(dataset: Dataset) -> dict[str, str]:
    bounded = (field.name for field in _schema(dataset).fields if not isinstance(field.field_type, StringType))
    return {
        **_PROPERTIES,
        **{f"write.metadata.metrics.column.{name}": "full" for name in bounded},
        "schema.name-mapping.default": _schema(dataset).name_mapping.model_dump_json(),  # for files without numbers
    }


def _files(table: Table, days: Collection[date] | None = None) -> dict[date, list[DataFile]]:
    """The current snapshot's files of these days, or of all. A scan would pass over those without rows."""
    found: dict[date, list[DataFile]] = defaultdict(list)
    snapshot = table.current_snapshot()
    for manifest in snapshot.manifests(table.io) if snapshot else []:
        if days is None or _may_have(manifest, days):
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                day = _EPOCH + timedelta(days=entry.data_file.partition[0])
                if days is None or day in days:
                    found[day].append(entry.data_file)
    return found


def _may_have(manifest: ManifestFile, days: Collection[date]) -> bool:
    bounds = manifest.partitions[0] if manifest.partitions else None
    if bounds is None or bounds.lower_bound is None or bounds.upper_bound is None:
        return True
    first, last = (int(from_bytes(DateType(), bound)) for bound in (bounds.lower_bound, bounds.upper_bound))
    return any(first <= (day - _EPOCH).days <= last for day in days)


def _superseded(table: Table, until: datetime | None) -> list[Snapshot]:
    snapshots = sorted(table.metadata.snapshots, key=lambda each: each.sequence_number or 0)
    over = (
        older for older, newer in pairwise(snapshots) if until is None or newer.timestamp_ms < until.timestamp() * 1000
    )
    return [each for each in over if each.snapshot_id != table.metadata.current_snapshot_id]


def _facts(files: Iterable[DataFile | None]) -> list[tuple[str, int, int]]:
    return [(file.file_path, file.record_count, file.file_size_in_bytes) for file in files if file]
