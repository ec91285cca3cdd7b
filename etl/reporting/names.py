"""Names for people: a file of them, read as a whole or not at all, and kept in `reporting.names`."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.text import printable

KINDS = ("agent", "campaign", "number")
COLUMNS = ("kind", "reference", "name", "group")
# Characters, as the table has them.
LONGEST = {"reference": 512, "name": 200, "group": 200}
_SHOWN = 60  # characters of what is wrong
# All of them but the line breaks, which no name may have.
_SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_NOT_PERMITTED = "42501"


@dataclass(frozen=True, slots=True)
class Name:
    """A line of the file; `group` is None if it's empty."""

    kind: str
    reference: str
    name: str
    group: str | None


@dataclass(frozen=True, slots=True)
class Kept:
    """How many names of the file weren't there, had changed, or were there as they are."""

    new: int
    changed: int
    unchanged: int


class _Wrong(Exception):
    """Why a line can't be taken."""


def read(content: bytes) -> list[Name]:
    """The names in a CSV file in UTF-8, in one spelling each. Spaces around a field don't count, nor do empty lines.
    Raises `ConfigurationError`, with the number of every line that is wrong."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError("ETL-941", f"line {line} isn't in UTF-8: save the file as CSV UTF-8") from None
    names: dict[tuple[str, str], tuple[int, Name]] = {}
    wrong = []
    records = _records(text)
    _, first = next(records, (1, []))
    if isinstance(first, str) or tuple(first) != COLUMNS:
        said = first if isinstance(first, str) else _cut(",".join(first))
        raise ConfigurationError("ETL-944", f"line 1 must be {','.join(COLUMNS)}, with commas between, not {said}")
    for line, fields in records:
        try:
            name = _name(fields)
            before, _ = names.setdefault((name.kind, name.reference), (line, name))
            if before != line:
                raise _Wrong(f"{name.kind} {_cut(name.reference)} is on line {before}, too")
        except _Wrong as error:
            wrong.append(f"line {line}: {error}")
    if wrong:
        raise ConfigurationError("ETL-942", "\n".join(["nothing was imported, since there are lines to mend", *wrong]))
    return [name for _, name in names.values()]


def _records(text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Each with the line that it begins on: its fields, or why it has none."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # what is too long is told as such
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begins = 1
    while True:
        try:
            fields = [field.strip() for field in next(reader)]
            if any(fields):
                yield begins, fields
        except StopIteration:
            return
        except csv.Error as error:
            yield begins, f"what is no CSV: {error}"
        begins = reader.line_num + 1


def _name(fields: list[str] | str) -> Name:
    """Raises `_Wrong`."""
    if isinstance(fields, str):
        raise _Wrong(f"this is {fields}")
    if len(fields) != len(COLUMNS):
        raise _Wrong(f"{len(fields)} fields instead of {len(COLUMNS)}")
    kind, reference, name, group = *fields[:2], *map(one_spelling, fields[2:])  # a reference is the dialler's
    if kind not in KINDS:
        raise _Wrong(f"kind is {_cut(kind) or 'empty'}, and not one of {', '.join(KINDS)}")
    for column, value in (("reference", reference), ("name", name), ("group", group)):
        if not value and column != "group":
            raise _Wrong(f"{column} is empty")
        if len(value) > LONGEST[column]:
            raise _Wrong(f"{column} has {len(value):,} characters, and may have {LONGEST[column]}")
        if any(unicodedata.category(character) == "Cc" for character in value):
            raise _Wrong(f"{column} has a line break or another control character in it: {_cut(value)}")
    return Name(kind, reference, name, group or None)


def one_spelling(name: str) -> str:
    """The same name for all that look the same: an accent is part of its letter (NFC), and each space a plain one."""
    return unicodedata.normalize("NFC", _SPACES.sub(" ", name)).strip()


def _cut(text: str) -> str:
    shown = printable(text[:_SHOWN]).replace("\n", "\\n")
    return shown if len(text) <= _SHOWN else f"{shown}…"


_MAY = sa.text(
    "SELECT to_regclass('reporting.names') IS NOT NULL,"
    " array_agg(right_ ORDER BY right_) FILTER (WHERE NOT has_table_privilege(to_regclass('reporting.names'), right_))"
    " FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS right_"
)
# Always in the same order, so that two imports wait for each other, and never both at once.
_KEEP = sa.text("""
INSERT INTO reporting.names AS n (kind, reference, name, "group")
SELECT * FROM unnest(
    CAST(:kinds AS text[]), CAST(:references AS text[]), CAST(:names AS text[]), CAST(:groups AS text[])
) AS given (kind, reference, name, "group") ORDER BY kind, reference
ON CONFLICT (kind, reference) DO UPDATE SET name = excluded.name, "group" = excluded."group"
WHERE (n.name, n."group") IS DISTINCT FROM (excluded.name, excluded."group")
RETURNING xmax = 0""")  # of a row that was there, xmax is who locked it


def keep(engine: sa.Engine, names: Sequence[Name]) -> Kept:
    """Enters them, all or none; those that aren't in the file stay. Raises `Outage` and `ConfigurationError`."""
    given = {
        "kinds": [each.kind for each in names],
        "references": [each.reference for each in names],
        "names": [each.name for each in names],
        "groups": [each.group for each in names],
    }
    try:
        with engine.begin() as connection:
            is_there, lacking = connection.execute(_MAY).one()
            if not is_there:
                raise ConfigurationError("ETL-313", "the database has no views for reports: run `etl db upgrade`")
            if lacking:
                raise _not_permitted(f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} lacking")
            entered = [*connection.scalars(_KEEP, given)]
    except ConfigurationError as error:
        if getattr(error.__cause__, "sqlstate", None) == _NOT_PERMITTED:  # the schema, or what masks names
            raise _not_permitted(str(error.__cause__).splitlines()[0]) from error
        raise
    return Kept(sum(entered), len(entered) - sum(entered), len(names) - len(entered))


def _not_permitted(why: str) -> ConfigurationError:
    return ConfigurationError(
        "ETL-943",
        f"this user of Postgres may not write reporting.names ({why}): names are the business of its owner, which is"
        " etl_owner by ops/postgres/roles.sql, and of whoever that lets, who needs SELECT, INSERT and UPDATE, and"
        " etl_reporting's rights; name one in ETL_DATABASE_URL for this command",
    )
