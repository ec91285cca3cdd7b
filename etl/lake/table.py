"""The lake as one Iceberg table per dataset, of the lake's own files: each day's current revision by the books, and no
second copy.

    manifests, metadata ──▶ pointer    in the transaction in which the books move, or not at all

Readers have the snapshot to which the pointer led when they began: its files are immutable, and stay as long as the
lake keeps what was superseded.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

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
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import DateType, IcebergType, IntegerType, LongType, NestedField, StringType, TimestamptzType

from etl.errors import Contention, EtlError, LakeError, RowRefused
from etl.lake import layout
from etl.lake.datasets import DAY_ID, Dataset, field_id
from etl.lake.table_files import TableFiles
from etl.lake.target import Target
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
_DESCRIBED = 20  # revisions of a snapshot that its summary names


@dataclass(frozen=True, slots=True)
class State:
    """A table as its pointer has it: `days` are its files' names in the lake; `since` is when its oldest snapshot was
    made, None if it has none; `bytes` are those of its metadata file."""

    location: str
    snapshots: int
    since: datetime | None
    days: Mapping[date, str]
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
        files: TableFiles,
    ) -> None:
        self._target = target
        self._dataset = dataset
        self._files = files
        self._catalog = _Catalog(catalog, connection, files)
        self._name = (namespace, dataset.name)

    def follow(self, wanted: Mapping[date, Manifest]) -> int:
        """One snapshot more, which has these revisions instead of whatever the table has of their days; returns how
        many it hadn't. Without a table there is one from now on."""
        with self._translated():
            table = self._of_today()
            held = _files(table, {*wanted})
            new = [about for day, about in wanted.items() if self._names(held[day]) != [self._revision(about)]]
            if not new:
                return 0
            added = [self._data_file(table, about) for about in new]
            over = [file for about in new for file in held[about.day]]
            with table.transaction() as transaction:
                update = transaction.update_snapshot({"etl.revisions": _described(new)})
                with update.overwrite() if over else update.merge_append() as snapshot:
                    for file in over:
                        snapshot.delete_data_file(file)
                    for file in added:
                        snapshot.append_data_file(file)
            return len(new)

    def expire(self, until: datetime | None) -> int:
        """Snapshots that others had superseded at `until` are no more; without `until`, all but the current one.
        Returns how many."""
        with self._translated():
            table = self._catalog.load_table(self._name)
            over = [each.snapshot_id for each in _superseded(table, until)]
            if over:
                table.maintenance.expire_snapshots().by_ids(over).commit()
            return len(over)

    def state(self) -> State:
        with self._translated():
            table = self._catalog.load_table(self._name)
            snapshots = [datetime.fromtimestamp(each.timestamp_ms / 1000, UTC) for each in table.metadata.snapshots]
            days = {day: ", ".join(self._names(files)) for day, files in _files(table).items()}
            size = self._target.size(self._files.name(table.metadata_location)) or 0
            return State(table.metadata_location, len(snapshots), min(snapshots, default=None), days, size)

    def needed(self) -> set[str]:
        """Names of all files that any of its snapshots needs: those of its metadata, and revisions."""
        with self._translated():
            table = self._catalog.load_table(self._name)
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

    def _of_today(self) -> Table:
        """The table: made if it isn't there, and with columns that came since."""
        try:
            table = self._catalog.load_table(self._name)
        except NoSuchTableError:
            by_day = PartitionSpec(PartitionField(DAY_ID, _PARTITION_ID, IdentityTransform(), self._dataset.day))
            location, properties = f"{self._target.uri}/{layout.table(self._dataset)}", _properties(self._dataset)
            return self._catalog.create_table(
                self._name, _schema(self._dataset), location, by_day, properties=properties
            )
        self._files.name(table.location())  # raises, if the lake was moved
        known = {field.name for field in table.schema().fields}
        missing = [field for field in _schema(self._dataset).fields if field.name not in known]
        if missing:
            with table.update_schema() as update:
                for field in missing:
                    update.add_column(field.name, field.field_type, field.doc)
        return table

    def _revision(self, about: Manifest) -> str:
        return layout.revision_of(self._dataset, about)

    def _names(self, files: Iterable[DataFile]) -> list[str]:
        """In the lake; of what lies elsewhere, where."""
        return [file.file_path.removeprefix(f"{self._target.uri}/") for file in files]

    def _data_file(self, table: Table, about: Manifest) -> DataFile:
        """pyiceberg's own way would have no partition, since the day is only in the path."""
        name = self._revision(about)
        with self._target.open(name) as file:
            footer = pq.read_metadata(file)
        schema = table.schema()
        statistics = data_file_statistics_from_parquet_metadata(
            footer, compute_statistics_plan(schema, table.properties), parquet_path_to_id_mapping(schema)
        )
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=f"{self._target.uri}/{name}",
            file_format=FileFormat.PARQUET,
            partition=Record((about.day - _EPOCH).days),
            file_size_in_bytes=about.bytes,
            sort_order_id=None,
            spec_id=table.metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What pyiceberg raises of a damaged file may be anything."""
        try:
            yield
        except (CommitFailedException, ValidationException, TableAlreadyExistsError, RowRefused) as error:
            raise Contention("ETL-528", f"the Iceberg table {self._dataset.name} moved meanwhile; try again") from error
        except EtlError:
            raise
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise LakeError(
                "ETL-529",
                f"the Iceberg table {self._dataset.name} can't be read or changed: {why}."
                " `etl lake publish --rebase` begins it anew",
            ) from error


class _Catalog(SqlCatalog):
    """Iceberg's catalog on a connection of ours, in its transaction: what pyiceberg commits is committed with that."""

    engine: Any  # whatever a session of SQLAlchemy's can be bound to

    def __init__(self, name: str, connection: sa.Connection, files: TableFiles) -> None:
        MetastoreCatalog.__init__(self, name, **files.properties())
        self.engine = connection
        self._schema_version = "v1"


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


def _described(revisions: Iterable[Manifest]) -> str:
    """For who looks into a snapshot's summary; of many the first."""
    said = [f"{about.day} r{about.revision}" for about in revisions]
    return ", ".join(said[:_DESCRIBED]) + (f" and {len(said) - _DESCRIBED} more" if len(said) > _DESCRIBED else "")
