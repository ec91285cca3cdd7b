"""A person's rows in Postgres: found and rewritten, with a receipt.

The transaction that rewrites rows of a day enters their number into the ledger, as rows updated by no message. So the
lake's revision of the day and its kept figures are out of date, as after any change. A row keeps its `batch_id` and
`loaded_at`: it is still the same version, which an older file that is restored doesn't contradict.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from etl.errors import ConfigurationError, RowRefused
from etl.store import ledger
from etl.store.connection import rows
from etl.store.ledger import Books
from etl.store.load_back import cdr_of
from etl.store.merge import merge_cdrs
from etl.store.tables import (
    CDR_KEY,
    FIGURES_LOCK,
    cdr_revisions,
    cdrs,
    day_column,
    dead_letters,
    forgotten,
    json_as_text,
)
from etl.wire.erasure import HASH_PREFIX, KEPT, Person, in_json

# Tables that aren't partitioned: changed in one transaction.
UNDATED = (cdr_revisions, dead_letters)
_FETCH_ROWS = 1_000
# Kept figures, by names of campaigns and agents; see `etl.reporting.rollup`.
_FIGURES = (
    ("campaign_figures", "campaign_ref"),
    ("preview_figures", "campaign_ref"),
    ("agent_call_figures", "extension"),
    ("agent_state_figures", "extension"),
    ("status_changes", "extension"),
    ("status_changes", "campaign_ref"),
    ("status_changes", "status"),
    ("status_changes", "channels"),
)
_NAMES = sa.table(
    "names", *(sa.column(name, sa.Text) for name in ("kind", "reference", "name", "group")), schema="reporting"
)

_ONE_BY_ONE = sa.text("LOCK TABLE forgotten IN SHARE ROW EXCLUSIVE MODE")
_LACKING = sa.text(
    "SELECT 'UPDATE on ' || name, number FROM unnest(cast(:names AS text[])) WITH ORDINALITY AS needed (name, number)"
    " WHERE NOT has_table_privilege(to_regclass(name), 'UPDATE')"
    " UNION ALL SELECT 'DELETE on reporting.names', 98"
    " WHERE NOT has_table_privilege(to_regclass('reporting.names'), 'DELETE')"
    " UNION ALL SELECT 'EXECUTE on function leave_no_trace', 99"
    " WHERE NOT has_function_privilege(to_regprocedure('leave_no_trace(text)'), 'EXECUTE') ORDER BY number"
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """One row of `forgotten`."""

    id: int
    hash: str
    began_at: datetime
    completed_at: datetime | None


def check_rights(engine: sa.Engine) -> None:
    """Raises `ConfigurationError`, with the way out, unless this user may rewrite rows, which loaders may not."""
    names = ["cdrs", *(table.name for table in UNDATED), "audit_events", "forgotten"]
    lacking = [name for name, _ in rows(engine, _LACKING, {"names": names})]
    if lacking:
        raise ConfigurationError(
            "ETL-314",
            f"this user of Postgres lacks {', '.join(lacking)}: forgetting is the business of the tables' owner, which"
            " is etl_owner by ops/postgres/roles.sql; name it in ETL_DATABASE_URL for this command",
        )


def begin(engine: sa.Engine, subject: str, hash_: str, worker: str) -> Receipt:
    """The person's receipt that was never completed, or a new one. Raises `Outage`."""
    same = (forgotten.c.hash == hash_, forgotten.c.subject == subject, forgotten.c.completed_at.is_(None))
    new = {"subject": subject, "hash": hash_, "worker": worker}
    with engine.begin() as connection:
        # In the order of their numbers: who knows the latest one knows all of them. Those of a 0.1 wait here, too.
        connection.execute(_ONE_BY_ONE)
        if connection.scalar(sa.select(sa.func.count()).select_from(forgotten).where(*same)) == 0:
            connection.execute(insert(forgotten).values(new))
        wanted = [forgotten.c[name] for name in Receipt.__dataclass_fields__]
        return Receipt(*connection.execute(sa.select(*wanted).where(*same).order_by(forgotten.c.id).limit(1)).one())


def receipts(engine: sa.Engine, completed: bool = False) -> set[tuple[str, str, int]]:
    """Of all that were begun, or were `completed`: what the person was asked for by, the hash, and which of the same it
    is, counted from 1. Raises `Outage`."""
    same = [forgotten.c.subject, forgotten.c.hash]
    number = sa.func.row_number().over(partition_by=same, order_by=forgotten.c.id)
    found = rows(engine, sa.select(*same, number, forgotten.c.completed_at))
    return {(subject, hash_, n) for subject, hash_, n, at in found if at is not None or not completed}


def everybody(engine: sa.Engine, table: sa.Table, day: date | None = None) -> Iterator[dict[str, Any]]:
    """The columns of each row in which people may be, on a day if the table has days. Raises `Outage`."""
    columns = [*_searched(table)]
    query = sa.select(*map(json_as_text, columns))
    if day is not None:
        query = query.where(day_column(table) == day)
    with (
        engine.connect() as connection,
        connection.execute(query, execution_options={"yield_per": _FETCH_ROWS}) as found,
    ):
        for row in found:
            yield dict(zip((column.name for column in columns), row, strict=True))


def everybody_in_figures(engine: sa.Engine) -> Iterator[dict[str, Any]]:
    """Names of campaigns and agents in kept figures, as rows in which people may be. Raises `Outage`."""
    with engine.connect() as connection:
        for name, column in _FIGURES:
            figures = sa.table(name, sa.column(column, sa.Text), schema="reporting")
            for text in connection.scalars(sa.select(figures.c[column]).distinct()):
                yield {column: text}


def in_figures(engine: sa.Engine, person: Person) -> int:
    """How many of the kept figures have the person's number in the name of a campaign or an agent; of who is asked for
    by contact, one of those `beside` it in rows that were looked at before. Raises `Outage`."""
    with engine.connect() as connection:
        return sum(rows for *_, rows in _figures(connection, person))


def erase_figures(engine: sa.Engine, person: Person) -> int:
    """Rename these campaigns and agents; returns as `in_figures`. Days that are in Postgres are computed anew anyhow,
    by the next rollup; those that only the lake has keep their figures. Raises `Outage`."""
    with engine.begin() as connection:
        # Whoever computes figures has read what is erased by now, or isn't done.
        connection.execute(FIGURES_LOCK)
        found = [*_figures(connection, person)]
        for figures, column, text, _ in found:
            renamed = sa.update(figures).where(figures.c[column] == text)
            connection.execute(renamed.values({column: person.whole(text)}))
    return sum(rows for *_, rows in found)


def _figures(connection: sa.Connection, person: Person) -> Iterator[tuple[sa.TableClause, str, str, int]]:
    """Tables of kept figures, and what stands in a column of so many of their rows."""
    for name, column in _FIGURES:
        figures = sa.table(name, sa.column(column, sa.Text), schema="reporting")
        named = figures.c[column]
        for text, number in connection.execute(sa.select(named, sa.func.count()).group_by(named)).all():
            if text is not None and person.whole(text) != text:
                yield figures, column, text, number


def in_names(engine: sa.Engine, person: Person) -> int:
    """How many names for people have the person's number in them, or are its name; as `in_figures`. Raises `Outage`."""
    with engine.connect() as connection:
        return len(_named(connection, person))


def erase_names(engine: sa.Engine, person: Person) -> int:
    """Delete these; returns as `in_names`. Raises `Outage`."""
    with engine.begin() as connection:
        found = _named(connection, person)
        for kind, reference in found:
            its = (_NAMES.c.kind == kind, _NAMES.c.reference == reference)
            connection.execute(sa.delete(_NAMES).where(*its))
    return len(found)


def _named(connection: sa.Connection, person: Person) -> list[tuple[str, str]]:
    """By kind and reference."""
    rows = connection.execute(sa.select(_NAMES), execution_options={"yield_per": _FETCH_ROWS})
    return [
        (kind, text) for kind, text, *more in rows if any(each and person.whole(each) != each for each in (text, *more))
    ]


def everybody_named(engine: sa.Engine) -> Iterator[dict[str, Any]]:
    """Names for people, as rows in which people may be. Raises `Outage`."""
    with engine.connect() as connection:
        for kind, reference, name, group in connection.execute(sa.select(_NAMES)):
            yield {"number" if kind == "number" else "ref": reference, "name": name, "group": group}


def complete(engine: sa.Engine, receipts: Sequence[Receipt]) -> None:
    """Nothing is left of the person. Raises `Outage`."""
    with engine.begin() as connection:
        done = sa.update(forgotten).where(forgotten.c.id.in_([receipt.id for receipt in receipts]))
        connection.execute(done.values(completed_at=sa.func.now()))


def count_file(engine: sa.Engine, receipt: Receipt) -> None:
    """Count one more file of the lake that was written without the person. Raises `Outage`."""
    with engine.begin() as connection:
        _add(connection, receipt, "files", 1)


def count(engine: sa.Engine, table: sa.Table, person: Person, day: date | None = None) -> int:
    """How many rows the person has, on a day if the table has days. Raises `Outage`."""
    with engine.connect() as connection:
        return sum(1 for _ in _changes(connection, table, person, day))


class Erased(NamedTuple):
    """Rows that were rewritten, and names of the numbers in them that were deleted."""

    rows: int
    names: int


def erase(
    engine: sa.Engine, table: sa.Table, person: Person, receipt: Receipt, worker: str, day: date | None = None
) -> Erased:
    """Rewrite the person's rows. Raises `Outage`."""
    names = 0
    with engine.begin() as connection:
        if table is cdrs:  # or what is erased would be kept as a version
            connection.execute(sa.select(sa.func.leave_no_trace("etl forget")))
        changes = [*_changes(connection, table, person, day, to_change=True)]
        fewer = sum(_rewrite(connection, table, key, values) for key, values in changes)
        if changes:
            if person.beside:  # nobody finds these numbers any more, if we die now
                names = connection.execute(_unname(person)).rowcount
            _add(connection, receipt, table.name, len(changes))
            if day is not None:
                ledger.correct(
                    connection,
                    table.name,
                    day,
                    source_key=ledger.FORGET_KEY,
                    worker=worker,
                    books=Books(),
                    inserted=-fewer,
                    updated=len(changes) - fewer,
                )
    return Erased(len(changes), names)


def _unname(person: Person) -> sa.Delete:
    beside = sa.cast([*person.beside], sa.ARRAY(sa.Text))
    return sa.delete(_NAMES).where(_NAMES.c.kind == "number", _NAMES.c.reference == sa.any_(beside))


def erase_copy(engine: sa.Engine, copy: sa.Table, person: Person) -> int:
    """Rewrite the person's rows in a copy of one of our tables, see `etl.store.remains`; returns how many there were. A
    call that is there erased already is there once. Raises `Outage`."""
    with engine.begin() as connection:
        changes = [*_changes(connection, copy, person, None, to_change=True)]
        for key, values in changes:
            try:
                with connection.begin_nested():
                    _rewrite(connection, copy, key, values)
            except RowRefused:
                connection.execute(sa.delete(copy).where(*key))
    return len(changes)


def _rewrite(
    connection: sa.Connection, table: sa.Table, key: Sequence[sa.ColumnElement[bool]], values: dict[str, Any]
) -> bool:
    """Whether there is a row less: a call's erased reference may be there already, of an older erasure or of who knew
    the receipt. Then the two are one call."""
    if table is cdrs and "call_ref" in values:
        c = table.c
        row = connection.execute(sa.select(*map(json_as_text, c)).where(*key)).one()
        other = [c[name] == values.get(name, getattr(row, name)) for name in CDR_KEY]
        if connection.scalar(sa.select(sa.exists().where(*other))):
            erased = {column.name: getattr(row, column.name) for column in c} | values
            connection.execute(sa.delete(table).where(*key))
            merge_cdrs(connection, [cdr_of(erased)])
            return True
    bound = {name: _bound(table.c[name], value) for name, value in values.items()}
    connection.execute(sa.update(table).where(*key).values(bound))
    return False


def _changes(
    connection: sa.Connection, table: sa.Table, person: Person, day: date | None, to_change: bool = False
) -> Iterator[tuple[Sequence[sa.ColumnElement[bool]], dict[str, Any]]]:
    """Each row of the person: the conditions that identify it, and the new values of the columns that must change."""
    columns = [*_searched(table)]
    keys = [*table.primary_key.columns]
    query = sa.select(*keys, *map(json_as_text, columns)).where(_may_be(table, person))
    if day is not None:
        query = query.where(day_column(table) == day)
    if to_change:
        query = query.with_for_update()
    for row in connection.execute(query, execution_options={"yield_per": _FETCH_ROWS}):
        has = {column.name: row[len(keys) + index] for index, column in enumerate(columns)}
        if erased := person.row(has):
            key = [column == row[index] for index, column in enumerate(keys)]
            yield key, erased


def _searched(table: sa.Table) -> Iterator[sa.Column[Any]]:
    return (
        column
        for column in table.c
        if isinstance(column.type, sa.Text | JSONB | sa.LargeBinary) and column.name not in KEPT
    )


def _may_be(table: sa.Table, person: Person) -> sa.ColumnElement[bool]:
    """True of all rows of the person and of some others, which `Person.row` sorts out."""
    texts = [column for column in _searched(table) if isinstance(column.type, sa.Text)]
    asked = [*person.values, *person.hashes]
    found: list[sa.ColumnElement[bool]] = []
    if person.by == "number":
        found += [sa.func.strpos(sa.func.concat_ws(" ", *texts), each) > 0 for each in asked]
    elif "contact_ref" in table.c:
        found.append(sa.func.coalesce(table.c.contact_ref.in_(asked), sa.false()))
    for column in _searched(table):
        if isinstance(column.type, JSONB):
            within = [sa.func.strpos(sa.cast(column, sa.Text), in_json(each)) > 0 for each in asked]
            found.append(sa.func.coalesce(sa.or_(*within), sa.false()))
        elif isinstance(column.type, sa.LargeBinary):  # JSON escapes or UTF-16 may hide the value
            hiding = (b"\\", b"\0", b"\xff\xfe", b"\xfe\xff")
            found += [_contains(column, each) for each in (*(value.encode() for value in asked), *hiding)]
    if person.glued:
        spelled = sa.func.concat_ws(" ", *map(_readable, _searched(table))).regexp_match(person.glued)
        found.append(sa.and_(spelled, _has_no_number(table)))
    return sa.or_(*found)


def _readable(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    return sa.func.encode(column, "escape") if isinstance(column.type, sa.LargeBinary) else sa.cast(column, sa.Text)


def _has_no_number(table: sa.Table) -> sa.ColumnElement[bool]:
    if "number" not in table.c:
        return sa.true()
    number = sa.func.coalesce(table.c.number, "")
    return sa.or_(number == "", number.startswith(HASH_PREFIX))


def _contains(column: sa.Column[Any], piece: bytes) -> sa.ColumnElement[bool]:
    return sa.func.position(sa.literal(piece, sa.LargeBinary).op("IN")(column)) > 0


def _bound(column: sa.Column[Any], value: Any) -> Any:
    return sa.cast(sa.literal(value, sa.Text), JSONB) if isinstance(column.type, JSONB) else value


def _add(connection: sa.Connection, receipt: Receipt, column: str, rows: int) -> None:
    of = forgotten.c[column]
    connection.execute(sa.update(forgotten).where(forgotten.c.id == receipt.id).values({of: of + rows}))
