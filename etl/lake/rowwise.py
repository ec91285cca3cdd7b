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


def rows(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Of a stream that begins with a row, each as it is. Raises `LakeError` if the stream ends within one."""
    rest = b""
    for piece in pieces:
        rest += piece
        at = 0
        while row := _ROW.match(rest, at):
            at = row.end()
            yield row[0]
        rest = rest[at:]
    if rest:
        raise LakeError("ETL-521", "what was to be compared ends within a row")


def differences(dataset: Dataset, ours: Iterator[bytes], theirs: Iterator[bytes]) -> Iterator[tuple[str, str, str]]:
    """What differs, as it is in Postgres (ours, in the lake's order) and in the file (theirs, as they lie there)."""
    columns = [column for column in dataset.table.c if column.name != dataset.day]
    our_next, their_next, their_last = next(ours, None), next(theirs, None), None
    while our_next is not None or their_next is not None:
        if our_next == their_next:  # most are, and a day has millions
            their_last, our_next, their_next = their_next, next(ours, None), next(theirs, None)
            continue
        one, other, last = (_row(columns, each) for each in (our_next, their_next, their_last))
        if other is not None and last is not None and _place(dataset, other) < _place(dataset, last):
            yield _name(dataset, other), "in the lake's order", "after a later row"
            return  # without an order there is no telling what is missing
        if one is not None and (other is None or _place(dataset, one) < _place(dataset, other)):
            yield _name(dataset, one), "in Postgres", "not in the file"
            our_next = next(ours, None)
        elif other is not None and (one is None or _place(dataset, other) < _place(dataset, one)):
            yield _name(dataset, other), "not in Postgres", "in the file"
            their_last, their_next = their_next, next(theirs, None)
        elif one is not None and other is not None:
            yield from _columns(dataset, one, other)
            their_last, our_next, their_next = their_next, next(ours, None), next(theirs, None)


def _row(columns: list[sa.Column[Any]], text: bytes | None) -> Row | None:
    if text is None:
        return None
    fields = zip(columns, _FIELD.finditer(text), strict=True)
    return {column.name: _value(field[1], column) for column, field in fields}


def _columns(dataset: Dataset, one: Row, other: Row) -> Iterator[tuple[str, str, str]]:
    for column in (column for column in one if one[column] != other[column]):
        kind = dataset.table.c[column].type
        yield f"{_name(dataset, one)}: {column}", *_shown(kind, one[column], other[column])


def _value(field: bytes | None, column: sa.Column[Any]) -> Any:
    if field is None:
        return None
    text = field.replace(b'""', b'"').decode()
    if not isinstance(column.type, sa.Integer | sa.DateTime | sa.Date):
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
