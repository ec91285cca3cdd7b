"""Where the lake lies: a folder, or a bucket of an object store. A file is either in its place whole, or not at all.

    <root>/<dataset>/<day column>=YYYY-MM-DD/part-0.parquet, and _manifest.json beside it

A file is written aside (`draft`) and then put in its place (`publish`): in a folder by rename, after its bytes have
reached the disk; in an object store by one upload, which readers see when it is complete.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from etl.errors import ConfigurationError, LakeError
from etl.lake.datasets import Dataset
from etl.wire import manifest
from etl.wire.manifest import Manifest

DATA, MANIFEST = "part-0.parquet", "_manifest.json"
# Readers of datasets pass over names that begin with a dot or an underscore.
_ASIDE = ".part-0.parquet.tmp"
# Seconds. A store that hangs must not hang us: each attempt of a request is given this long.
CONNECT_TIMEOUT, REQUEST_TIMEOUT, ATTEMPTS = 5.0, 30.0, 3
# The same for Google's, which has one limit for all attempts together; its own default is a quarter of an hour.
GOOGLE_TIMEOUT = 90.0
_SCHEMES = ("file", "s3", "gs", "abfs")
# Options of an s3:// URL, as pyarrow names them.
_S3_OPTIONS = frozenset({"region", "endpoint_override", "scheme", "access_key", "secret_key", "session_token"})


class Target:
    """The lake at one URL: a path, or file://, s3://, gs:// or abfs://. Every method may raise `LakeError`."""

    def __init__(self, url: str) -> None:
        """Raises `ConfigurationError` for a URL that names no place."""
        self._fs, self._root = _open(url)
        self.url = _without_secrets(url)
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)

    def path(self, dataset: Dataset, day: date) -> str:
        """The data file's place, for people and for readers of the file system."""
        return f"{self._folder(dataset, day)}/{DATA}"

    @contextlib.contextmanager
    def draft(self, dataset: Dataset, day: date) -> Iterator[Path]:
        """A place aside to write the file to, which is gone afterwards unless it was published."""
        if self.is_local:
            with _named(self.path(dataset, day)):
                folder = Path(self._folder(dataset, day))
                folder.mkdir(parents=True, exist_ok=True)
            aside = folder / _ASIDE  # the day's lock is ours: what lies there was left by somebody who died
            try:
                yield aside
            finally:
                with contextlib.suppress(OSError):  # on a read-only disk even what isn't there can't be removed
                    aside.unlink(missing_ok=True)
                    folder.rmdir()  # only if nothing was ever published
        else:
            with tempfile.TemporaryDirectory(prefix="etl-") as folder_name:
                yield Path(folder_name) / DATA

    def publish(self, draft: Path, dataset: Dataset, day: date) -> None:
        """Put the draft in its place, at once and for good."""
        place = self.path(dataset, day)
        with _named(place):
            if self.is_local:
                _sync(draft)
                draft.replace(place)
                for folder in [*Path(place).parents][:3]:  # each may have been made for this file
                    _sync(folder)
            else:
                with pa.memory_map(str(draft)) as content:
                    self._put(place, content.read_buffer())

    def describe(self, about: Manifest, dataset: Dataset, day: date) -> None:
        """Put the manifest beside the file."""
        place = f"{self._folder(dataset, day)}/{MANIFEST}"
        with _named(place):
            if not self.is_local:
                self._put(place, manifest.as_json(about))
                return
            aside = Path(place).with_name(f".{MANIFEST}.tmp")
            aside.write_bytes(manifest.as_json(about))
            _sync(aside)
            aside.replace(place)
            _sync(Path(place).parent)

    def manifest(self, dataset: Dataset, day: date) -> Manifest | None:
        """What lies beside the file; None if nothing does."""
        place = f"{self._folder(dataset, day)}/{MANIFEST}"
        with _named(place):
            if self._fs.get_file_info(place).type is not fs.FileType.File:
                return None
            with self._fs.open_input_stream(place) as stream:
                text = stream.read()
        return manifest.read(text, place)

    def fingerprint(self, dataset: Dataset, day: date) -> tuple[int, str] | None:
        """Length and SHA-256 of the file as it can be read now; None if it isn't there."""
        place = self.path(dataset, day)
        if not self.exists(dataset, day):
            return None
        with _named(place):
            digest, length = hashlib.sha256(), 0
            with self._fs.open_input_stream(place) as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    length += len(chunk)
        return length, digest.hexdigest()

    def exists(self, dataset: Dataset, day: date) -> bool:
        place = self.path(dataset, day)
        with _named(place):
            return bool(self._fs.get_file_info(place).type is fs.FileType.File)

    @contextlib.contextmanager
    def open(self, dataset: Dataset, day: date) -> Iterator[Any]:
        """The file, for `pyarrow.parquet`."""
        place = self.path(dataset, day)
        with _named(place), self._fs.open_input_file(place) as file:
            yield file

    def check(self) -> None:
        """Write something, read it back and remove it."""
        place = f"{self._root}/.etl-check"
        with _named(place):
            if self.is_local:
                Path(self._root).mkdir(parents=True, exist_ok=True)
            self._put(place, b"etl")
            with self._fs.open_input_stream(place) as stream:
                content = stream.read()
            self._fs.delete_file(place)
        if content != b"etl":
            raise LakeError("ETL-514", f"{place}: what was written isn't what was read")

    def _folder(self, dataset: Dataset, day: date) -> str:
        return f"{self._root}/{dataset.name}/{dataset.day}={day.isoformat()}"

    def _put(self, place: str, content: Any) -> None:
        # One call: a stream that was left half-way would be completed when it's closed.
        with self._fs.open_output_stream(place) as stream:
            stream.write(content)


def _open(url: str) -> tuple[fs.FileSystem, str]:
    """The file system, and the root in it."""
    try:
        parts = urlsplit(url)
        if not parts.scheme:
            return fs.LocalFileSystem(), str(Path(url).absolute())
        if parts.scheme not in _SCHEMES:
            raise _wrong(f"there is no {parts.scheme}://, but a path, {', '.join(f'{each}://' for each in _SCHEMES)}")
        if parts.scheme != "file" and not parts.netloc:
            raise _wrong(f"{parts.scheme}:// lacks the name of a bucket")
        if parts.scheme == "s3":
            return _s3(parts, dict(parse_qsl(parts.query)))
        if parts.scheme == "gs" and "retry_limit_seconds" not in dict(parse_qsl(parts.query)):
            url += f"{'&' if parts.query else '?'}retry_limit_seconds={GOOGLE_TIMEOUT:.0f}"
        opened, root = fs.FileSystem.from_uri(url)
    except (ValueError, pa.ArrowException, OSError) as error:
        raise _wrong(_one_line(error).replace(url, "…")) from None  # it may hold a password
    return opened, root.rstrip("/") if isinstance(opened, fs.LocalFileSystem) else root.strip("/")


def _s3(parts: SplitResult, options: dict[str, str]) -> tuple[fs.FileSystem, str]:
    """Credentials come from the environment, as for all programs that use S3."""
    if "@" in parts.netloc:
        raise _wrong("credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if unknown := options.keys() - _S3_OPTIONS:
        raise _wrong(
            f"S3 doesn't know the options {', '.join(sorted(unknown))}; there are {', '.join(sorted(_S3_OPTIONS))}"
        )
    opened = fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_TIMEOUT,
        request_timeout=REQUEST_TIMEOUT,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
    return opened, f"{parts.netloc}{parts.path}".rstrip("/")


def _wrong(why: str) -> ConfigurationError:
    return ConfigurationError("ETL-111", f"ETL_EXPORT_URL names no place: {why}")


def _without_secrets(url: str) -> str:
    """Neither password nor options, of which some are secrets."""
    parts = urlsplit(url)
    if not parts.scheme:
        return str(Path(url).absolute())
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"{parts.scheme}://{f'{name}@' if name else ''}{host}{parts.path}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Trouble with a file says which."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise LakeError("ETL-501", f"{place}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())
