"""The lake in an object store: the whole life of a day, and a store that fails at the worst moment."""

import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.app.lake import open_lake, sweep_lake
from etl.errors import LakeError
from etl.jobs.outcomes import Findings, Outcome
from etl.jobs.sweep import Swept
from etl.lake import target
from etl.lake.target import Target
from tests.faults.child import CONSTANTS
from tests.lake import CALLS, DAY, told
from tests.s3 import KEY, SECRET, Broken, Line, ObjectStore, url
from tests.world import Archive, cdr

DONE, FAILED, MISUSED = 0, 1, 2
PLAIN = f"calls/cdrs/dialed_on={DAY}/part-0.parquet"
REVISIONS = f"calls/_revisions/cdrs/dialed_on={DAY}/"
# The first request that carries bytes of a file; the one that makes them visible; each after the file's key. And the
# one by which plain readers get the revision.
UPLOAD, COMPLETION, COPY = b".parquet?partNumber=1", b".parquet?uploadId=", b"x-amz-copy-source"
# A store that hangs is given up sooner than operators would.
IMPATIENCE = ("CONNECT_TIMEOUT", "REQUEST_TIMEOUT", "GOOGLE_TIMEOUT", "ATTEMPTS")
SOON = json.dumps({f"etl.lake.target.{name}": 1 for name in IMPATIENCE})

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def store(session_folder: Path) -> Iterator[ObjectStore]:
    with ObjectStore(session_folder) as server:
        yield server


@pytest.fixture
def bucket(store: ObjectStore) -> str:
    """An empty one."""
    name = f"bucket-{next(_numbers)}"
    store.make_bucket(name)
    return name


@pytest.fixture
def lake(archive: Archive, store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive whose lake is a bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    archive.more = {"export_url": url(bucket, store.port)}
    return archive


def load(archive: Archive, first: int, last: int) -> None:
    archive.push(*(cdr(number, number=os.urandom(20).hex()) for number in range(first, last)))
    archive.load()


def export(archive: Archive) -> list[Outcome]:
    """Whatever is due, in this process."""
    with open_lake(archive.settings()) as opened:
        return [opened.export(CALLS, books.day, told) for books in opened.due(CALLS, date.max)]


def verify(archive: Archive) -> Findings:
    with open_lake(archive.settings()) as opened:
        return opened.verify(CALLS, DAY, deep=True)


def sweep(archive: Archive, **settings: Any) -> Swept:
    with open_lake(archive.settings(**settings)) as opened:
        return sweep_lake(archive.settings(**settings), opened)


def prune(archive: Archive) -> str:
    with open_lake(archive.settings()) as opened:
        return opened.prune(CALLS, DAY).what


def rows(content: bytes) -> int:
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return len(file.read())


def revisions(objects: dict[str, bytes]) -> list[str]:
    """Their keys, the latest last."""
    return sorted(name for name in objects if name.startswith(REVISIONS) and name.endswith(".parquet"))


def assert_whole(objects: dict[str, bytes], number: int) -> None:
    """So many revisions, each with its manifest, and the last of them is what plain readers find."""
    files = revisions(objects)
    assert len(files) == number
    assert {*objects} == {PLAIN, *files, *(name.replace(".parquet", ".json") for name in files)}
    assert objects[PLAIN] == objects[files[-1]]
    for name in files:
        about = json.loads(objects[name.replace(".parquet", ".json")])
        digest = hashlib.sha256(objects[name]).hexdigest()
        assert name == f"{REVISIONS}r{about['revision']:05}-{digest[:16]}.parquet"
        assert (about["sha256"], about["bytes"]) == (digest, len(objects[name]))
        assert about["rows"] == rows(objects[name])


def exported(archive: Archive, store: ObjectStore, bucket: str) -> dict[str, bytes]:
    """One revision of 500 rows; and in Postgres 500 more, which make the next."""
    load(archive, 0, 500)
    assert [outcome.what for outcome in export(archive)] == ["exported"]
    load(archive, 500, 1_000)
    before = store.objects(bucket)
    assert_whole(before, 1)
    return before


def assert_nothing_happened(archive: Archive, store: ObjectStore, bucket: str, before: dict[str, bytes]) -> None:
    assert store.objects(bucket) == before
    assert archive.value("SELECT count(*) FROM cdrs") == 1_000
    assert archive.value("SELECT count(*) FROM exports WHERE dropped_at IS NOT NULL") == 0


def assert_comes_right(archive: Archive, store: ObjectStore, bucket: str) -> None:
    """With the next export, without help."""
    export(archive)
    assert sweep(archive).failed == []
    assert export(archive) == []
    assert verify(archive) == Findings()
    objects = store.objects(bucket)
    assert_whole(objects, len(revisions(objects)))
    assert rows(objects[PLAIN]) == 1_000


def assert_day_failed(result: "subprocess.CompletedProcess[str]", place: str) -> None:
    """One line a day, which names it and its file; no traceback."""
    told, *of_the_sweep = [line for line in log(result) if line["action"] == "day_failed"]
    assert all(line["day"] == told["day"] for line in of_the_sweep)
    assert (told["level"], told["dataset"], told["day"]) == ("error", "cdrs", str(DAY))
    assert place in told["why"]
    assert "\n" not in told["why"]
    assert told["why"] in result.stdout
    assert result.returncode == FAILED
    for secret in (SECRET, "Traceback"):
        assert secret not in result.stderr + result.stdout


def assert_one_line(result: "subprocess.CompletedProcess[str]", place: str) -> None:
    """No day was begun: it names the store."""
    assert (result.returncode, result.stdout) == (FAILED, ""), result.stderr
    assert result.stderr.startswith("etl: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert place in result.stderr
    assert SECRET not in result.stderr


def log(result: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert result.stderr.startswith("{"), result.stderr
    return [json.loads(line) for line in result.stderr.splitlines()]


def run_impatiently(archive: Archive, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "import tests.faults.child, etl.cli; etl.cli.main()", *arguments],
        env=archive.environment(**environment, **{CONSTANTS: SOON, "PYTHONPATH": os.pathsep.join(sys.path)}),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


# -- a store that works


def test_given_a_bucket_then_a_day_lives_its_whole_life_there(lake: Archive, store: ObjectStore, bucket: str) -> None:
    load(lake, 0, 500)

    assert [outcome.what for outcome in export(lake)] == ["exported"]
    assert_whole(store.objects(bucket), 1)
    assert rows(store.objects(bucket)[PLAIN]) == 500
    assert export(lake) == []
    assert lake.run("verify", "--deep").returncode == DONE

    assert prune(lake) == "dropped"
    assert lake.value("SELECT count(*) FROM cdrs") == 0
    assert verify(lake) == Findings()

    load(lake, 499, 502)  # one that is there, though Postgres doesn't know, and two that are new
    assert lake.run("export").returncode == DONE
    assert rows(store.objects(bucket)[PLAIN]) == 502
    assert_whole(store.objects(bucket), 2)
    assert lake.value("SELECT count(*) FROM cdrs") == 502

    assert prune(lake) == "dropped"
    assert lake.value("SELECT count(*) FROM cdrs") == 0
    assert lake.run("restore", "--day", str(DAY)).returncode == DONE
    assert lake.value("SELECT count(*) FROM cdrs") == 502
    assert verify(lake) == Findings()

    first, second = revisions(store.objects(bucket))
    assert sweep(lake) == Swept(), "the settings keep it for a week"
    assert sweep(lake, lake_history_days=0).removed == [
        name.removeprefix("calls/") for name in (first.replace(".parquet", ".json"), first)
    ]
    assert revisions(store.objects(bucket)) == [second]
    assert_whole(store.objects(bucket), 1)
    assert verify(lake) == Findings()


def test_given_a_file_that_somebody_changed_or_deleted_then_verify_says_so(
    lake: Archive, store: ObjectStore, bucket: str
) -> None:
    before = exported(lake, store, bucket)
    (revision,) = revisions(before)
    other = Target(url(bucket, store.port))

    other._put(f"{bucket}/{revision}", b"not Parquet")
    changed = verify(lake)
    other._fs.delete_file(f"{bucket}/{PLAIN}")
    other._fs.delete_file(f"{bucket}/{revision}")
    deleted = verify(lake)

    assert {(each.day, each.what) for each in changed.wrong} == {(DAY, "file: bytes"), (DAY, "file: sha256")}
    assert [(each.day, each.found) for each in deleted.wrong] == [(DAY, "missing")]
    assert PLAIN not in store.objects(bucket), "there is nothing to renew it from"


def test_given_a_copy_that_is_not_current_then_it_is_renewed_and_said(
    lake: Archive, store: ObjectStore, bucket: str
) -> None:
    first = exported(lake, store, bucket)
    export(lake)
    second = store.objects(bucket)
    other = Target(url(bucket, store.port))

    def put(content: bytes) -> None:
        other._put(f"{bucket}/{PLAIN}", content)

    put(first[PLAIN])  # by an exporter that woke up late
    older = verify(lake)
    assert (older.wrong, [each.found for each in older.notes]) == ([], ["an older revision: renewed"])
    assert store.objects(bucket) == second

    put(bytes(len(second[PLAIN])))
    damaged = verify(lake)
    assert ([each.found for each in damaged.wrong], damaged.notes) == (["no revision: renewed"], [])
    assert store.objects(bucket) == second

    for content in (first[PLAIN], bytes(len(second[PLAIN]))):
        put(content)
        assert sweep(lake).renewed == [PLAIN.removeprefix("calls/")]
        assert store.objects(bucket) == second
    other._fs.delete_file(f"{bucket}/{PLAIN}")
    assert sweep(lake).renewed == [PLAIN.removeprefix("calls/")]
    assert store.objects(bucket) == second


def test_given_a_deleted_revision_then_the_plain_copy_is_it_again(
    lake: Archive, store: ObjectStore, bucket: str
) -> None:
    before = exported(lake, store, bucket)
    (revision,) = revisions(before)
    Target(url(bucket, store.port))._fs.delete_file(f"{bucket}/{revision}")

    assert verify(lake).notes == []

    assert store.objects(bucket) == before


def test_given_the_same_rows_then_files_in_folder_and_bucket_are_the_same(
    lake: Archive, store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    load(lake, 0, 500)
    export(lake)
    lake.rows("DELETE FROM exports RETURNING day")

    lake.more = {"export_url": str(tmp_path)}
    export(lake)

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {f"calls/{path.relative_to(tmp_path)}": path.read_bytes() for path in files} == store.objects(bucket)


# -- a store that doesn't


@pytest.fixture(params=["answers 500", "hangs", "is gone"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a store that fails."""
    match request.param:
        case "answers 500":
            with Broken() as broken:
                yield broken.port
        case "hangs":
            with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts, by the kernel, and never answers
                yield hanging.getsockname()[1]
        case _:
            yield 1


def test_given_a_store_that_fails_then_it_is_named_and_nothing_happens(
    lake: Archive, store: ObjectStore, bucket: str, endpoint: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = exported(lake, store, bucket)
    away = {"ETL_EXPORT_URL": url(bucket, endpoint)}

    assert_one_line(run_impatiently(lake, "export", **away), f"{bucket}/calls")
    assert_nothing_happened(lake, store, bucket, before)

    assert_comes_right(lake, store, bucket)
    for name in IMPATIENCE:
        monkeypatch.setattr(target, name, 1)
    lake.more = {"export_url": away["ETL_EXPORT_URL"]}
    for operation in (verify, prune):
        with pytest.raises(LakeError, match=f"dialed_on={DAY}"):
            operation(lake)
    assert lake.value("SELECT count(*) FROM cdrs") == 1_000


def test_given_a_bucket_that_does_not_exist_then_it_is_named_and_not_made(
    lake: Archive, store: ObjectStore, bucket: str
) -> None:
    before = exported(lake, store, bucket)

    result = lake.run("export", ETL_EXPORT_URL=url("nowhere", store.port))

    assert_day_failed(result, "nowhere/calls/_revisions/cdrs")
    assert "bucket" in log(result)[0]["why"]
    assert_nothing_happened(lake, store, bucket, before)
    assert_comes_right(lake, store, bucket)


def test_given_an_upload_cut_off_then_readers_have_the_revision_before(
    lake: Archive, store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    before = exported(lake, store, bucket)

    with Line(store.port, UPLOAD, "cut") as line:
        result = lake.run("export", ETL_EXPORT_URL=url(bucket, line.port), TMPDIR=str(tmp_path))
        assert line.times > 0

    assert_day_failed(result, REVISIONS)
    assert_nothing_happened(lake, store, bucket, before)
    assert [*tmp_path.iterdir()] == [], "the draft is still there"
    assert_comes_right(lake, store, bucket)


def test_given_a_days_first_upload_cut_off_then_readers_have_nothing(
    lake: Archive, store: ObjectStore, bucket: str
) -> None:
    load(lake, 0, 1_000)

    with Line(store.port, UPLOAD, "cut") as line:
        assert_day_failed(lake.run("export", ETL_EXPORT_URL=url(bucket, line.port)), REVISIONS)
        assert line.times > 0

    assert_nothing_happened(lake, store, bucket, {})
    assert_comes_right(lake, store, bucket)


def test_given_an_upload_with_a_lost_answer_then_its_file_is_the_revision(
    lake: Archive, store: ObjectStore, bucket: str
) -> None:
    before = exported(lake, store, bucket)

    with Line(store.port, COMPLETION, "mute") as line:
        result = lake.run("export", "--day", str(DAY), ETL_EXPORT_URL=url(bucket, line.port))
        assert line.times > 0
    assert_day_failed(result, REVISIONS)
    objects = store.objects(bucket)
    assert [rows(objects[name]) for name in revisions(objects)] == [500, 1_000], "it did arrive"
    assert objects[PLAIN] == before[PLAIN]

    found = verify(lake)
    assert (found.wrong, [each.found for each in found.notes]) == ([], ["an older revision: renewed"])
    assert_whole(store.objects(bucket), 2)
    assert_comes_right(lake, store, bucket)
    assert_whole(store.objects(bucket), 2)


def test_given_a_copy_with_a_lost_answer_then_its_day_is_exported_anyway(
    lake: Archive, store: ObjectStore, bucket: str
) -> None:
    exported(lake, store, bucket)

    with Line(store.port, COPY, "mute") as line:
        result = lake.run("export", "--day", str(DAY), ETL_EXPORT_URL=url(bucket, line.port))
        assert line.times > 0

    assert_day_failed(result, PLAIN)
    assert lake.value("SELECT max(revision) FROM exports WHERE published_at IS NOT NULL") == 2
    assert_comes_right(lake, store, bucket)
    assert_whole(store.objects(bucket), 2)


def test_given_a_large_file_cut_off_amid_its_parts_then_the_old_one_stays(
    store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    large = os.urandom(25 << 20)  # pyarrow uploads parts of ten
    publish(b"before", Target(url(bucket, store.port)))

    with (
        Line(store.port, b"part-0.parquet?partNumber=2", "cut") as line,
        pytest.raises(LakeError, match=PLAIN),
    ):
        publish(large, Target(url(bucket, line.port)))

    assert line.times > 0
    assert store.objects(bucket) == {PLAIN: b"before"}
    publish(large, Target(url(bucket, store.port)))
    assert store.objects(bucket) == {PLAIN: large}


def publish(content: bytes, to: Target) -> None:
    with to.draft("unnamed") as draft:
        Path(draft.place).write_bytes(content)
        to.publish(draft, PLAIN.removeprefix("calls/"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_given_an_end_amid_an_upload_then_readers_have_the_revision_before(
    lake: Archive, store: ObjectStore, bucket: str, tmp_path: Path, how: signal.Signals
) -> None:
    before = exported(lake, store, bucket)

    with (
        Line(store.port, UPLOAD, "hold") as line,
        lake.process("export", ETL_EXPORT_URL=url(bucket, line.port), TMPDIR=str(tmp_path)) as process,
    ):
        assert line.held.wait(60)
        process.send_signal(how)
        assert process.wait(60) != DONE

    assert [*tmp_path.iterdir()] == [], "the draft is still there"
    assert_nothing_happened(lake, store, bucket, before)
    assert_comes_right(lake, store, bucket)


# -- settings


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("ftp://x", "ftp://"),
        ("s3://", "bucket"),
        (f"s3://{KEY}:{SECRET}@bucket", "AWS_SECRET_ACCESS_KEY"),
        (f"s3://bucket?password={SECRET}", "password"),
    ],
)
def test_given_a_wrong_url_then_one_line_says_so(archive: Archive, wrong: str, says: str) -> None:
    result = archive.run("export", ETL_EXPORT_URL=wrong)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (MISUSED, "", 1)
    assert result.stderr.startswith("etl: ETL-111: ETL_EXPORT_URL")
    assert says in result.stderr
    assert SECRET not in result.stderr


def test_given_gcs_out_of_reach_then_it_is_named_and_nothing_hangs(archive: Archive) -> None:
    load(archive, 0, 1)

    result = run_impatiently(
        archive,
        "export",
        "--day",
        str(DAY),
        ETL_EXPORT_URL="gs://anonymous@bucket/calls?endpoint_override=127.0.0.1:1&scheme=http",
    )

    assert_one_line(result, "bucket/calls")


def test_given_secrets_in_the_url_then_neither_books_nor_output_have_them(
    lake: Archive, store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    load(lake, 0, 1)
    keys = {"access_key": KEY, "secret_key": SECRET}

    done = lake.run("export", ETL_EXPORT_URL=url(bucket, store.port, **keys))
    failed = lake.run("export", "--day", str(DAY), "--force", ETL_EXPORT_URL=url(bucket, 1, **keys))
    reconciled = lake.run("reconcile", ETL_EXPORT_URL=url(bucket, 1, **keys))

    results = [done, failed, reconciled]
    assert [result.returncode for result in results] == [DONE, FAILED, FAILED]
    assert SECRET not in "".join(result.stdout + result.stderr for result in results)
    assert lake.value("SELECT url FROM exports") == f"s3://{bucket}/calls"
