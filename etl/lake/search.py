"""A person's rows in a file of the lake."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl.lake.datasets import Dataset
from etl.lake.target import Target
from etl.lake.verify import rows
from etl.wire.erasure import HASH_PREFIX, JSON, KEPT, Person, in_json


def count(target: Target, name: str, dataset: Dataset, person: Person) -> int:
    """How many a revision has. Raises `LakeError`."""
    with target.fetched(name) as place:
        return sum(_in_piece(piece, person) for piece in rows(place, dataset))


def everybody(target: Target, name: str, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The columns of each of a file's rows in which people may be. Raises `LakeError`."""
    with target.fetched(name) as place:
        for piece in rows(place, dataset):
            yield from piece.select(_texts(piece)).to_pylist()


def _in_piece(piece: pa.Table, person: Person) -> int:
    may_be = reduce(pc.or_, (_may_be(piece, name, person) for name in _searched(piece, person)))
    if person.glued:
        may_be = pc.or_(may_be, _is_spelled(piece, person.glued))
    return sum(1 for row in piece.filter(may_be).to_pylist() if person.row(row))


def _searched(piece: pa.Table, person: Person) -> list[str]:
    texts = _texts(piece)
    return texts if person.by == "number" else [name for name in texts if name == "contact_ref" or name in JSON]


def _texts(piece: pa.Table) -> list[str]:
    return [field.name for field in piece.schema if pa.types.is_string(field.type) and field.name not in KEPT]


def _may_be(piece: pa.Table, name: str, person: Person) -> pa.ChunkedArray:
    column = piece.column(name)

    def found(value: str) -> pa.ChunkedArray:
        if name in JSON:
            return pc.match_substring(column, in_json(value))
        if name == "contact_ref" and person.by == "contact":
            return pc.equal(column, value)
        return pc.match_substring(column, value)

    return pc.fill_null(reduce(pc.or_, map(found, (*person.values, *person.hashes))), False)


def _is_spelled(piece: pa.Table, pattern: str) -> pa.ChunkedArray:
    """In any column of a row that has no number."""
    found = reduce(
        pc.or_,
        (pc.fill_null(pc.match_substring_regex(piece.column(name), pattern), False) for name in _texts(piece)),
    )
    if "number" not in piece.column_names:
        return found
    number = pc.fill_null(piece.column("number"), "")
    return pc.and_(found, pc.or_(pc.equal(number, ""), pc.starts_with(number, HASH_PREFIX)))
