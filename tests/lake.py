"""The lake of a test: a folder that belongs to an archive, its files as a reader finds them, and what must be true of
both at any moment."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from etl.app.lake import open_lake, sweep_lake
from etl.errors import Busy
from etl.jobs.lake import Lake
from etl.jobs.outcomes import WRONG, Outcome
from etl.lake import layout, receipts
from etl.lake.datasets import DATASETS
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests.world import CAMPAIGNS, DIALED_AT, Archive, cdr, eventually

CALLS, EVENTS = DATASETS["cdrs"], DATASETS["audit_events"]
DAY = date(2015, 2, 19)  # of DIALED_AT
SPOOL = "etl:events"
# What says when and by whom a row was written, and nothing about the call.
TRACES = ("batch_id", "loaded_at")


def with_lake(archive: Archive, folder: Path) -> Archive:
    """From here on the archive's lake is there."""
    archive.more = {**archive.more, "export_url": str(folder)}
    return archive


def folder(archive: Archive) -> Path:
    return Path(archive.more["export_url"])


def place(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> Path:
    """A day's folder, for plain readers."""
    return folder(archive) / layout.folder(DATASETS[dataset], day)


def revisions(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> list[Path]:
    """The files of a day's revisions, the latest last."""
    return sorted((folder(archive) / layout.revisions(DATASETS[dataset], day)).glob("r*.parquet"))


def revision_file(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> Path:
    """The current one's."""
    known = revision(archive, day, dataset)
    return folder(archive) / layout.revision(DATASETS[dataset], day, known["revision"], known["sha256"])


def manifest_file(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> Path:
    return revision_file(archive, day, dataset).with_suffix(".json")


def file(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> Path:
    return place(archive, day, dataset) / "part-0.parquet"


def in_file(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> list[dict[str, Any]]:
    """A file's rows; none if there is no file."""
    path = file(archive, day, dataset)
    return rows_of(path)[0] if path.exists() else []


def rows_of(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A file's rows, and what it says of itself."""
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        return parquet.read().to_pylist(), json.loads(parquet.metadata.metadata[b"etl.manifest"])


def said_in_the_footer(path: Path) -> dict[str, Any]:
    return rows_of(path)[1]


def seen_by_a_reader(archive: Archive, dataset: str = "cdrs") -> list[dict[str, Any]]:
    """All that a reader of the folder finds, who knows nothing of us."""
    root = folder(archive) / dataset
    if not any(root.rglob("part-*.parquet")):
        return []
    table: pa.Table = pq.read_table(root)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def refs(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(row["call_ref"] for row in rows)


def without_traces(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of their identity, as they come from the file or from Postgres."""
    plain = [
        {name: _plain(name, value) for name, value in row.items() if name not in (*TRACES, "dialed_on", "captured_on")}
        for row in rows
    ]
    return sorted(plain, key=lambda row: str(row.get("event_id") or (row["source"], row["call_ref"], row["leg"])))


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return json.loads(value) if name in ("extra", "payload") and isinstance(value, str) else value


def in_postgres(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> list[dict[str, Any]]:
    return archive.rows(f"SELECT * FROM {dataset} WHERE {DATASETS[dataset].day} = %s", day)


def revision(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> dict[str, Any]:
    """The latest one in the books."""
    return archive.rows(
        "SELECT * FROM exports WHERE dataset = %s AND day = %s ORDER BY revision DESC LIMIT 1", dataset, day
    )[0]


@contextmanager
def lake(archive: Archive) -> Iterator[Lake]:
    """In this process."""
    with open_lake(archive.settings()) as opened:
        yield opened


def told(_: int) -> None:
    """For who doesn't want to know of progress."""


def export(archive: Archive, day: date = DAY, dataset: str = "cdrs", force: bool = False, because: str = "") -> Outcome:
    with lake(archive) as opened:
        return unless_busy(lambda: opened.export(DATASETS[dataset], day, told, force, because), dataset, day)


def unless_busy(operation: Callable[[], Outcome], dataset: str, day: date) -> Outcome:
    """As `one_by_one` has it."""
    try:
        return operation()
    except Busy as error:
        return Outcome(dataset, day, "busy", why=str(error))


def export_all(archive: Archive) -> list[Outcome]:
    """Whatever is due, as the nightly export does, which sweeps afterwards."""
    with lake(archive) as opened:
        outcomes = [
            opened.export(dataset, books.day, told)
            for dataset in DATASETS.values()
            for books in opened.due(dataset, datetime.now(UTC).date())
        ]
        assert sweep_lake(archive.settings(), opened).failed == []
        return outcomes


def prune(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> Outcome:
    with lake(archive) as opened:
        return unless_busy(lambda: opened.prune(DATASETS[dataset], day), dataset, day)


def restore(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> Outcome:
    with lake(archive) as opened:
        return unless_busy(lambda: opened.restore(DATASETS[dataset], day, told), dataset, day)


def export_and_prune(archive: Archive, day: date = DAY, dataset: str = "cdrs") -> None:
    """The day is in the lake only, then."""
    assert export(archive, day, dataset).what == "exported"
    assert prune(archive, day, dataset).what == "dropped"
    assert in_postgres(archive, day, dataset) == []


def load(archive: Archive, *messages: bytes, key: str = CAMPAIGNS) -> None:
    """As one claim."""
    archive.push(*messages, key=key)
    archive.load()


def on(days_later: int, call_ref: object, **fields: object) -> bytes:
    """A CDR of another day."""
    return cdr(call_ref, dialed_at=DIALED_AT + 86_400 * days_later, **fields)


def heard(number: int, day: date = DAY, **payload: object) -> bytes:
    """An event as the listener spools it: the same number is the same event, in whichever claim it comes."""
    captured = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=number)
    message = json.dumps({"type": "status", "payload": {"ref": "2040", **payload}}).encode()
    return pack_heard(UUID(int=number).bytes, from_datetime(captured), b"enigma:agents:1002", message)


def wait_until_nobody_is_left(archive: Archive) -> None:
    """Postgres notices by and by that a client is dead."""
    eventually(
        lambda: (
            archive.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            )
            == 0
        ),
        what="somebody is still connected",
    )


def assert_nothing_half_written_is_read(archive: Archive) -> None:
    """A reader sees whole revisions: what he finds is what the files' own footers say."""
    for dataset in DATASETS:
        paths = sorted((folder(archive) / dataset).rglob("*.parquet"))
        assert {path.name for path in paths} <= {"part-0.parquet"}
        assert len(seen_by_a_reader(archive, dataset)) == sum(said_in_the_footer(path)["rows"] for path in paths)


def assert_only_what_the_books_know(archive: Archive) -> None:
    """No file but revisions of the books, their manifests, the copies for plain readers, and Iceberg's metadata."""
    known = {row["name"] for row in archive.rows("SELECT name FROM lake_table_files")}
    for row in archive.rows("SELECT dataset, day, revision, sha256 FROM exports"):
        dataset = DATASETS[row["dataset"]]
        name = layout.revision(dataset, row["day"], row["revision"], row["sha256"])
        known |= {name, layout.manifest(name), layout.plain(dataset, row["day"])}
    files = (path.relative_to(folder(archive)) for path in folder(archive).rglob("*") if not path.is_dir())
    paths = {str(path) for path in files if path.parts[0] != receipts.FOLDER}
    assert paths <= known


def assert_comes_right(archive: Archive) -> None:
    """Without help: the next export, verification and reconciliation find or make everything equal."""
    wait_until_nobody_is_left(archive)
    assert {outcome.what for outcome in export_all(archive)} <= {"exported", "unchanged"}
    assert_agrees(archive)


def assert_agrees(archive: Archive) -> None:
    """Ledger, Postgres and lake, of every day before today."""
    with lake(archive) as opened:
        for dataset in DATASETS.values():
            assert opened.due(dataset, datetime.now(UTC).date()) == []
            for books in opened.books(dataset, date.min, date.max):
                compared = opened.compare(dataset, books.day)
                assert compared.verdict not in WRONG, compared
                if books.revision is None:
                    continue
                found = opened.verify(dataset, books.day, deep=True)
                assert (found.wrong, found.notes) == ([], [])
                stored = in_file(archive, books.day, dataset.name)
                assert len(stored) == books.rows
                if not books.revision.dropped:
                    assert without_traces(stored) == without_traces(in_postgres(archive, books.day, dataset.name))
    assert_nothing_half_written_is_read(archive)
    assert_only_what_the_books_know(archive)
    assert (
        archive.rows("SELECT * FROM load_batches WHERE claimed <> inserted + updated + unchanged + events + dead") == []
    )
