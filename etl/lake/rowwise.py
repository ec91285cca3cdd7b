"""Two streams of CSV that aren't equal, row by row: which rows and which columns differ.

The CSV is that of `etl.lake.witness`: every field is quoted unless it's null, numbers too.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from etl.errors import LakeError
from etl.lake.datasets import Dataset

Row = dict[str, Any]  # text, a number (of microseconds or days, too), or None

# Possessive: a field that isn't whole yet matches nothing.
_FIELD = re.compile(rb'(?:"((?:[^"]++|"")*+)")?[,\n]')
_ROW = re.compile(rb'(?:"(?:[^"]++|"")*+")?(?:,(?:"(?:[^"]++|"")*+")?)*+\n')
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Of a long text, this much before the first character that differs, and this much from it on.
_BEFORE, _AFTER = 20, 100


def rows(dataset: Dataset, pieces: Iterable[bytes]) -> Iterator[Row]:
    """Of a stream that begins with a row. Raises `LakeError` if it ends within one."""
    numbers = {
        column.name: isinstance(column.type, sa.Integer | sa.DateTime | sa.Date)
        for column in dataset.table.c
        if column.name != dataset.day
    }
    rest = b""
    for piece in pieces:
        rest += piece
        at = 0
        while row := _ROW.match(rest, at):
            at = row.end()
            fields = (field[1] for field in _FIELD.finditer(row[0]))
            yield {name: _value(field, numbers[name]) for name, field in zip(numbers, fields, strict=True)}
        rest = rest[at:]
    if rest:
        raise LakeError(f"{dataset.name}: what was to be compared ends within a row")


def differences(dataset: Dataset, ours: Iterator[Row], theirs: Iterator[Row]) -> Iterator[tuple[str, str, str]]:
    """What differs, as it is in Postgres (ours, in the lake's order) and in the file (theirs, as they lie there)."""
    one, other, last = next(ours, None), next(theirs, None), None
    while one is not None or other is not None:
        if other is not None and last is not None and _place(dataset, other) < last:
            yield _name(dataset, other), "in the lake's order", "after a later row"
            return  # without an order there is no telling what is missing
        if one is not None and (other is None or _place(dataset, one) < _place(dataset, other)):
            yield _name(dataset, one), "in Postgres", "not in the file"
            one = next(ours, None)
        elif other is not None and (one is None or _place(dataset, other) < _place(dataset, one)):
            yield _name(dataset, other), "not in Postgres", "in the file"
            last, other = _place(dataset, other), next(theirs, None)
        elif one is not None and other is not None:
            yield from _columns(dataset, one, other)
            last, one, other = _place(dataset, other), next(ours, None), next(theirs, None)


def _columns(dataset: Dataset, one: Row, other: Row) -> Iterator[tuple[str, str, str]]:
    for column in (column for column in one if one[column] != other[column]):
        kind = dataset.table.c[column].type
        yield f"{_name(dataset, one)}: {column}", *_shown(kind, one[column], other[column])


def _value(field: bytes | None, number: bool) -> Any:
    if field is None:
        return None
    text = field.replace(b'""', b'"').decode()
    if not number:
        return text
    return float(text) if text.endswith("Infinity") else int(text)


def _place(dataset: Dataset, row: Row) -> tuple[tuple[bool, Any], ...]:
    """Texts are in the order of their characters, which is that of their bytes in UTF-8. Nulls come first."""
    return tuple((row[name] is not None, row[name]) for name in dataset.order)


def _name(dataset: Dataset, row: Row) -> str:
    return "row " + " ".join(str(row[name]) for name in dataset.key)


def _shown(kind: sa.types.TypeEngine[Any], one: Any, other: Any) -> tuple[str, str]:
    """Both values for people, who see what differs."""
    if isinstance(one, str) and isinstance(other, str):
        at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        return _text(one, at), _text(other, at)
    shown = [
        "null" if value is None else _text(value, 0) if isinstance(value, str) else _number(kind, value)
        for value in (one, other)
    ]
    return shown[0], shown[1]


def _text(value: str, at: int) -> str:
    if len(value) <= _BEFORE + _AFTER:
        return value if value.isprintable() and value not in ("", "null") else repr(value)
    first = max(0, at - _BEFORE)
    return f"…{value[first : at + _AFTER]!r}… ({len(value):,} characters)"


def _number(kind: sa.types.TypeEngine[Any], value: float) -> str:
    try:
        if isinstance(kind, sa.DateTime):
            return str(_EPOCH + timedelta(microseconds=value))
        if isinstance(kind, sa.Date):
            return str((_EPOCH + timedelta(days=value)).date())
    except OverflowError:  # beyond the years of Python, or infinite
        pass
    return str(value)
