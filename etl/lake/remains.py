"""What the files of the lake still have of somebody: all that lie in the datasets' folders, whoever wrote them, and
whether or not the books know them. DuckDB reads the Parquet, every row of it, and not who wrote it; all other files are
read byte by byte.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from etl.errors import LakeError
from etl.lake import layout, receipts, witness
from etl.lake.datasets import DATASETS
from etl.lake.target import Target
from etl.wire.remains import Hit, Sought, end_of_rows, rows_of

_DRAFT = ".tmp"
_PARQUET = (".parquet", _DRAFT)
# Names that Iceberg and we give files, with digits by accident, and an Avro file's own number.
_NAMES = re.compile(
    rb"snap-[0-9]++-|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|/r[0-9]{5,9}-[0-9a-f]{16}\.parquet"
    rb"|snapshot-id.{1,3}?[0-9]{15,20}"
)
# Keys of a snapshot's summary, whose counts are texts.
_COUNTS = ("added-", "changed-", "deleted-", "removed-", "total-")
_DAY = re.compile(r"=(\d{4}-\d{2}-\d{2})/")
_COLUMNS_OF_A_ROW = {name for dataset in DATASETS.values() for name in dataset.key}


@dataclass(frozen=True, slots=True)
class Piece:
    """A file, by its name under the lake's root, and the day whose folder it's in."""

    name: str
    day: date | None

    def __str__(self) -> str:
        return self.name

    @property
    def of(self) -> str:
        """The dataset, or what else the file is among."""
        return f"lake {self.name.removeprefix(f'{layout.REVISIONS}/').partition('/')[0]}"

    @property
    def is_draft(self) -> bool:
        return self.name.endswith(_DRAFT)


def files(target: Target) -> list[Piece]:
    """All that are to be looked through, under one name each. Raises `LakeError`."""
    folders = [folder for name in DATASETS for folder in (f"{layout.REVISIONS}/{name}", name)]
    names = [file.name for folder in [*folders, layout.ICEBERG, receipts.FOLDER] for file in target.files(folder)]
    found: dict[object, Piece] = {}
    for name in names:
        found.setdefault(_identity(target, name), Piece(name, _day(name)))
    return [*found.values()]


def search(
    target: Target, piece: Piece, sought: Sought, read: Callable[[int], None]
) -> Iterator[tuple[str, list[Hit]]]:
    """Each row that has any hits: its key, and these. `read` hears of bytes. A file that is no more has none. Raises
    `LakeError` if it can't be read to its end."""
    try:
        if piece.name.endswith(_PARQUET):
            with target.fetched(piece.name) as place, witness.every_text(place) as (columns, texts):
                yield from _rows(columns, texts, sought, read)
        elif content := target.read(piece.name):
            read(len(content))
            if piece.name.startswith(f"{layout.ICEBERG}/"):
                content = _texts_of_metadata(content)
            text = [("content", content.decode("utf-8", "surrogateescape"))]
            if hits := sought.hits(text) if sought.may_be_in(content) else []:
                yield "the file itself", hits
    except LakeError:
        if target.exists(piece.name):
            raise


def _rows(
    columns: list[str], texts: Iterable[bytes], sought: Sought, read: Callable[[int], None]
) -> Iterator[tuple[str, list[Hit]]]:
    for whole in _whole_rows(texts):
        read(len(whole))
        if not sought.may_be_in(whole):
            continue
        for number, *fields in rows_of(whole):
            row = [*zip(columns, fields, strict=True)]
            if hits := sought.hits(row):
                keys = [(name, value) for name, value in row if name in _COLUMNS_OF_A_ROW]
                tells = {hit.column for hit in hits} & {name for name, _ in keys}
                key = "" if tells else " ".join(value for _, value in keys)
                yield key or f"row {number}", hits


def _whole_rows(texts: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for text in texts:
        rest += text
        end = end_of_rows(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        raise LakeError("ETL-521", "what was to be compared ends within a row")


def _texts_of_metadata(content: bytes) -> bytes:
    """Of an Iceberg table: JSON without its numbers, or Avro, which isn't compressed and has them as bytes."""
    with suppress(ValueError):
        content = "\n".join(_texts(json.loads(content))).encode()
    return _NAMES.sub(b" ", content)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            if not (key.startswith(_COUNTS) and str(each).isdecimal()):
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _identity(target: Target, name: str) -> object:
    """Of a folder, the links that one file has are the same."""
    if target.is_local:
        try:
            about = os.stat(target.path(name))
        except OSError:  # it may be gone by now
            return name
        return about.st_dev, about.st_ino
    return name


def _day(name: str) -> date | None:
    found = _DAY.search(name)
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None
