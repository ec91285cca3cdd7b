"""A person's rows in a file of the lake."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl.lake.datasets import Dataset
from etl.lake.target import Target
from etl.lake.verify import rows
from etl.wire.erasure import JSON, KEPT, Person, in_json


def count(target: Target, name: str, dataset: Dataset, person: Person) -> int:
    """How many a revision has. Raises `LakeError`."""
    with target.fetched(name) as place:
        return sum(_in_piece(piece, person) for piece in rows(place, dataset))


def everybody(target: Target, name: str, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The columns of each of a file's rows in which people may be. Raises `LakeError`."""
    with target.fetched(name) as place:
        for piece in rows(place, dataset):
            texts = [each.name for each in piece.schema if pa.types.is_string(each.type) and each.name not in KEPT]
            yield from piece.select(texts).to_pylist()


def _in_piece(piece: pa.Table, person: Person) -> int:
    may_be = reduce(pc.or_, (_may_be(piece, name, person) for name in _searched(piece, person)))
    return sum(1 for row in piece.filter(may_be).to_pylist() if person.row(row))


def _searched(piece: pa.Table, person: Person) -> list[str]:
    texts = [field.name for field in piece.schema if pa.types.is_string(field.type) and field.name not in KEPT]
    return texts if person.by == "number" else [name for name in texts if name == "contact_ref" or name in JSON]


def _may_be(piece: pa.Table, name: str, person: Person) -> pa.ChunkedArray:
    column = piece.column(name)
    if name in JSON:
        found = pc.match_substring(column, in_json(person.value))
    elif name == "contact_ref" and person.by == "contact":
        found = pc.equal(column, person.value)
    else:
        found = pc.match_substring(column, person.value)
    return pc.fill_null(found, False)
