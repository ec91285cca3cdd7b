"""Where the lake lies: a folder, or a bucket of an object store; its files by their names relative to the root.

A file is either in its place whole, or not at all. In a folder it is written aside, and linked to its place after its
bytes have reached the disk; for an object store it is written to a file without a name, and its one upload is seen when
it is complete.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from etl.errors import ConfigurationError, LakeError

# Seconds. A store that hangs must not hang us: each attempt of a request is given this long.
CONNECT_TIMEOUT, REQUEST_TIMEOUT, ATTEMPTS = 5.0, 30.0, 3
# The same for Google's, which has one limit for all attempts together; its own default is a quarter of an hour.
GOOGLE_TIMEOUT = 90.0
_SCHEMES = ("file", "s3", "gs", "abfs")
# Options of an s3:// URL, as pyarrow names them.
_S3_OPTIONS = frozenset({"region", "endpoint_override", "scheme", "access_key", "secret_key", "session_token"})
# What a file system without hard links answers; and one that has no more of them for this file.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
# What a name answers that is gone by now, and a link to nowhere or to itself.
_NOTHING = frozenset({errno.ENOENT, errno.ELOOP})
_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class File:
    """A file of the lake: `changed_at` is when it was put there."""

    name: str
    bytes: int
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is being written; `place` is where to, for as long as the draft lasts."""

    place: str
    name: str | None  # in the lake, if it has one


class Target:
    """The lake at one URL: a path, or file://, s3://, gs:// or abfs://. Every method may raise `LakeError`."""

    def __init__(self, url: str, file_mode: int = 0o640) -> None:
        """Files of a folder get `file_mode`, whatever the umask, and folders the same with the right to enter.

        Raises `ConfigurationError` for a URL that names no place.
        """
        self._fs, self._root = _open(url)
        self._file_mode = file_mode
        self._folder_mode = file_mode | (file_mode & 0o444) >> 2
        self.url = _without_secrets(url)
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)

    @property
    def uri(self) -> str:
        """The root, for engines on other machines."""
        return f"file://{self._root}" if self.is_local else self.url.rstrip("/")

    def path(self, name: str) -> str:
        """The file's place, for people and for readers of the file system."""
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Draft]:
        """An empty file, gone afterwards: in a folder under this name, which must be new; else without a name.

        It is written and read by its descriptor: one whose name somebody has swept comes to nothing.
        """
        with contextlib.ExitStack() as stack:
            if self.is_local:
                with _named(self.path(name)):
                    file = stack.enter_context(self._create(name))
                stack.callback(self._forget_draft, name)
            else:
                file = stack.enter_context(tempfile.TemporaryFile(prefix="etl-"))
            yield Draft(f"/dev/fd/{file.fileno()}", name if self.is_local else None)

    def publish(self, draft: Draft, name: str) -> None:
        """Put the draft in its place, at once and for good. What is there already must be the same."""
        place = self.path(name)
        with _named(place):
            if not draft.name:
                self._upload(draft.place, place)
                return
            _sync(draft.place)
            try:
                os.link(self.path(draft.name), place)
            except FileExistsError:
                _check_same(place, draft)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if Path(place).exists():
                    _check_same(place, draft)
                else:
                    Path(self.path(draft.name)).rename(place)
            self._sync_folders(place)

    def copy(self, name: str, to: str, aside: str) -> None:
        """Put the file in another place too, whatever lies there: as a link where that works, else as a copy, which is
        written under the name `aside` first."""
        with _named(self.path(to)):
            if not self.is_local:
                self._fs.copy_file(self.path(name), self.path(to))
                return
            source, beside = self.path(name), self.path(aside)
            self._make_folder(Path(beside).parent)
            self._make_folder(Path(self.path(to)).parent)
            try:
                try:
                    os.link(source, beside)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    self._copy_bytes(source, aside)
                os.replace(beside, self.path(to))
            finally:
                Path(beside).unlink(missing_ok=True)  # a link that was put onto another of the same file stays
            self._sync_folders(self.path(to))

    def duplicate(self, name: str, to: str, aside: str) -> None:
        """As `copy`, but never as a link: whoever still writes to the one doesn't reach the other."""
        with _named(self.path(to)):
            if self.is_local:
                self._copy_bytes(self.path(name), aside)
                os.replace(self.path(aside), self.path(to))
                self._sync_folders(self.path(to))
            else:
                self._fs.copy_file(self.path(name), self.path(to))

    def is_same(self, name: str, other: str) -> bool:
        """Whether two names are one file of a folder; False says nothing of their content."""
        with contextlib.suppress(OSError):
            return self.is_local and os.path.samefile(self.path(name), self.path(other))
        return False

    def write(self, name: str, content: bytes, aside: str) -> None:
        """A small file, whole."""
        with _named(self.path(name)):
            if not self.is_local:
                self._put(self.path(name), content)
                return
            with self._create(aside) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._make_folder(Path(self.path(name)).parent)
            os.replace(self.path(aside), self.path(name))
            self._sync_folders(self.path(name))

    def write_once(self, name: str, content: bytes) -> None:
        """A small file whose name says all that it holds, unless it's there already."""
        with _named(self.path(name)):
            if self.exists(name):
                return
            if not self.is_local:
                self._put(self.path(name), content)
                return
            with contextlib.suppress(FileExistsError), self._create(name) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._sync_folders(self.path(name))

    def read(self, name: str) -> bytes | None:
        """A small file's content; None if it isn't there."""
        with _named(self.path(name)):
            if not self.exists(name):
                return None
            with self._fs.open_input_stream(self.path(name)) as stream:
                content: bytes = stream.read()
            return content

    def remove(self, name: str) -> None:
        """The file, if it's there; and its folder, if that is empty then."""
        with _named(self.path(name)):
            if self.is_local:
                place = Path(self.path(name))
                if os.path.lexists(place):  # on a read-only disk even what isn't there can't be removed
                    place.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    place.parent.rmdir()
            elif self.exists(name):
                self._fs.delete_file(self.path(name))

    def fingerprint(self, name: str) -> tuple[int, str] | None:
        """Length and SHA-256 of the file as it can be read now; None if it isn't there."""
        if not self.exists(name):
            return None
        with _named(self.path(name)):
            digest, length = hashlib.sha256(), 0
            with self._fs.open_input_stream(self.path(name)) as stream:
                while chunk := stream.read(_AT_ONCE):
                    digest.update(chunk)
                    length += len(chunk)
        return length, digest.hexdigest()

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """In bytes; None if the file isn't there."""
        with _named(self.path(name)):
            info = self._fs.get_file_info(self.path(name))
            return int(info.size) if info.type is fs.FileType.File else None

    def files(self, folder: str = "") -> list[File]:
        """All that lie below a folder of the lake."""
        place = f"{self._root}/{folder}".rstrip("/")
        with _named(place):
            if self.is_local:
                return [*self._below(place, frozenset())]
            below = fs.FileSelector(place, allow_not_found=True, recursive=True)
            infos = self._fs.get_file_info(below)
        return [
            File(each.path.removeprefix(f"{self._root}/"), int(each.size), each.mtime or datetime.now(UTC))
            for each in infos
            if each.type is fs.FileType.File
        ]

    def _below(self, folder: str, within: frozenset[tuple[int, int]]) -> Iterator[File]:
        """Folders may be links, also to one that they are `within`: then there is nothing new in them."""
        try:
            about = os.stat(folder)
        except (FileNotFoundError, NotADirectoryError):  # by now, or it never was there
            return
        entries = os.scandir(folder)
        if (about.st_dev, about.st_ino) in within:
            entries.close()
            return
        with entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError as error:
                    if error.errno in _NOTHING:
                        continue
                    raise
                if stat.S_ISDIR(status.st_mode):
                    yield from self._below(entry.path, within | {(about.st_dev, about.st_ino)})
                elif stat.S_ISREG(status.st_mode):
                    # The other time is when it was written, however late it came here.
                    changed_at = datetime.fromtimestamp(status.st_ctime, UTC)
                    yield File(entry.path.removeprefix(f"{self._root}/"), status.st_size, changed_at)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """The file, for `pyarrow.parquet`."""
        with _named(self.path(name)), self._fs.open_input_file(self.path(name)) as file:
            yield file

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[str]:
        """The file's place on this machine: an object is copied to a file without a name, gone afterwards."""
        with _named(self.path(name)):
            if self.is_local:
                yield self.path(name)
                return
            with tempfile.TemporaryFile(prefix="etl-") as spool:
                with self._fs.open_input_stream(self.path(name)) as stream:
                    while chunk := stream.read(_AT_ONCE):
                        spool.write(chunk)
                spool.flush()
                yield f"/dev/fd/{spool.fileno()}"

    def check(self) -> None:
        """Write something, read it back and remove it."""
        place = f"{self._root}/.etl-check"
        with _named(place):
            if self.is_local:
                self._make_folder(Path(self._root))
            self._put(place, b"etl")
            with self._fs.open_input_stream(place) as stream:
                content = stream.read()
            self._fs.delete_file(place)
        if content != b"etl":
            raise LakeError("ETL-514", f"{place}: what was written isn't what was read")

    def _create(self, name: str) -> Any:
        """A new file of a folder, open for writing and reading."""
        place = Path(self.path(name))
        self._make_folder(place.parent)
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, self._file_mode)
        return os.fdopen(descriptor, "w+b")

    def _copy_bytes(self, source: str, name: str) -> None:
        with open(source, "rb") as original, self._create(name) as file:
            shutil.copyfileobj(original, file, _AT_ONCE)
            file.flush()
            os.fsync(file.fileno())

    def _forget_draft(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.remove(name)

    def _make_folder(self, folder: Path) -> None:
        """With those above it that are missing."""
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):  # by now
                each.mkdir()
                each.chmod(self._folder_mode)

    def _sync_folders(self, place: str) -> None:
        for folder in [*Path(place).parents][:4]:  # each may have been made for this file
            _sync(str(folder))

    def _upload(self, source: str, place: str) -> None:
        with pa.memory_map(source) as content:
            self._put(place, content.read_buffer())

    def _put(self, place: str, content: Any) -> None:
        # One call: a stream that was left half-way would be completed when it's closed.
        with self._fs.open_output_stream(place) as stream:
            stream.write(content)


def _check_same(place: str, draft: Draft) -> None:
    if digest(place) != digest(draft.place):
        raise LakeError("ETL-508", f"{place}: another file has this name")


def digest(place: str) -> str:
    """SHA-256 of a file on this machine. Raises `OSError`."""
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Trouble with a file says which. Of a damaged one pyarrow may say anything: its names needn't be text."""
    try:
        yield
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise LakeError("ETL-501", f"{place}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())
