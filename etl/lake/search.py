"""A person's rows in a file of the lake."""

from datetime import date
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from etl.errors import LakeError
from etl.lake.datasets import Dataset
from etl.lake.target import Target
from etl.lake.verify import rows
from etl.wire.erasure import JSON, KEPT, Person, in_json


def count(target: Target, dataset: Dataset, day: date, person: Person) -> int:
    """How many there are; none if there is no file. Raises `LakeError`."""
    if not target.exists(dataset, day):
        return 0
    with target.open(dataset, day) as file:
        try:
            return sum(_in_piece(piece, person) for piece in rows(file, dataset))
        except (OSError, pa.ArrowException) as error:
            raise LakeError("ETL-501", f"{target.path(dataset, day)}: {' '.join(str(error).split())}") from error


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
