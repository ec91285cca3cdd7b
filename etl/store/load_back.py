"""Rows that come back from the lake are merged with those that arrived in Postgres meanwhile, in the order of their
batch_ids, as if they had been loaded so. What 0.1 exported as a call's leg 1 comes back as its first leg, which is 0.

All of it is one transaction, which keeps loaders out of the day: they wait, and then find all of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from etl.store import ledger, partitions
from etl.store.ledger import Books
from etl.store.merge import PG_TEMP, Merged, add_events, merge_cdrs
from etl.store.tables import CDR_KEY, EVENT_KEY, STAGING, day_column, json_as_text
from etl.wire.cdr import Cdr
from etl.wire.event import Event
from etl.wire.times import EPOCH, from_datetime

# For loaders that write into the day just now: none takes longer for a claim.
_WAIT_MS = 60_000
# Rows that are merged at once: as many as in a claim.
_BATCH_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Reunited:
    """How many rows came back that Postgres lacked; how many met another version of them there, and how many of those
    changed; `renamed` ones were exported as leg 1 and came back as leg 0."""

    returned: int
    met: int
    changed: int
    renamed: int = 0


@dataclass(frozen=True, slots=True)
class _Kind:
    key: tuple[str, ...]
    version: tuple[str, ...]  # columns in which two versions differ; `etl forget` changes none of them
    row: type[Cdr] | type[Event]
    merge: Callable[[sa.Connection, Sequence[Any]], Merged]
    first_stays: bool  # of two versions the first is kept; else they are merged


_KINDS = {
    "cdrs": _Kind(CDR_KEY, ("batch_id", "loaded_at"), Cdr, merge_cdrs, first_stays=False),
    "audit_events": _Kind(EVENT_KEY, ("batch_id",), Event, add_events, first_stays=True),
}


def make_staging(connection: sa.Connection, table: sa.Table, name: str) -> None:
    """Made anew if a process that died left one behind."""
    drop_staging(connection, name)
    _staging(table, name).create(connection)


def drop_staging(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.text(f"DROP TABLE IF EXISTS {STAGING}.{name}"))


def keep_loaders_out(connection: sa.Connection, table: sa.Table, day: date) -> int:
    """Until the transaction ends. The day's partition must exist; returns how many rows it has."""
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {_WAIT_MS}"))
    connection.execute(sa.select(sa.func.lock_partition(table.name, day)))
    return partitions.count(connection, table, day)


def load_back(connection: sa.Connection, table: sa.Table, day: date, staging: str, was_dropped: bool) -> Reunited:
    """Bring the staged rows into the day's partition, which must exist."""
    kind, staged = _KINDS[table.name], _staging(table, staging)
    returning = {c.name: _returning(table, staged, c.name) for c in table.c}
    same_key = [day_column(table) == day, *(table.c[name] == returning[name] for name in kind.key)]
    if was_dropped:
        _replace_forged(connection, table, kind, staged, returning, same_key)
    # 1. Those that aren't there; of a call that 0.1 exported as legs 0 and 1, the former first, …
    rows = sa.select(*returning.values())
    first_legs = [staged.c.leg != 1, staged.c.leg == 1] if "leg" in table.c else [sa.true()]
    returned = sum(_insert_into(connection, table, table, rows.where(which)) for which in first_legs)
    # 2. … and then those that are there in another version: from a temporary table they are merged like new ones.
    differs = sa.or_(*(table.c[name] != returning[name] for name in kind.version))
    if "leg" in table.c:  # one claim may have brought both
        differs |= _is_twin(staged)
    aside = _aside(table, kind.row._fields)
    aside.create(connection)
    _insert(connection, aside, sa.select(*(returning[name] for name in kind.row._fields)).where(*same_key, differs))
    if kind.first_stays:
        first = {c.name: returning[c.name] for c in table.c if c.name not in kind.key}
        came_first = returning["batch_id"] < table.c.batch_id
        connection.execute(sa.update(table).where(*same_key, differs, came_first).values(first))
    met = changed = 0
    waiting = connection.execute(sa.select(*map(json_as_text, aside.c)), execution_options={"yield_per": _BATCH_ROWS})
    for some in waiting.partitions():
        met += len(some)
        changed += kind.merge(connection, [_row(kind, row) for row in some]).updated.total()
    renamed = _count_first_legs(connection, staged) if "leg" in table.c else 0
    return Reunited(returned, met, changed, renamed)


def _replace_forged(
    connection: sa.Connection,
    table: sa.Table,
    kind: _Kind,
    staged: sa.Table,
    returning: Mapping[str, sa.ColumnElement[Any]],
    same_key: Sequence[sa.ColumnElement[bool]],
) -> None:
    """No claim brings a version twice. Of a day that Postgres dropped, a row that says it's the very version that the
    lake has, and is another, was made by hand: the lake's stays. Of a call the trigger keeps what that takes away."""
    values = {name: value for name, value in returning.items() if name not in (*kind.key, *kind.version)}
    another = sa.or_(*(table.c[name].is_distinct_from(value) for name, value in values.items()))
    same_version = [table.c[name] == returning[name] for name in kind.version]
    of_itself = [sa.not_(_is_twin(staged))] if "leg" in table.c else []
    connection.execute(sa.update(table).where(*same_key, *same_version, *of_itself, another).values(values))


def correct_the_ledger(
    connection: sa.Connection, dataset: str, day: date, met: Reunited, worker: str, inserted: int
) -> None:
    """Enter so many rows of the day more, or less, than were counted."""
    is_cdrs = dataset == "cdrs"
    books = Books(
        claimed=inserted + met.met,
        inserted=inserted if is_cdrs else 0,
        updated=met.changed if is_cdrs else 0,
        unchanged=met.met - met.changed,
        events=0 if is_cdrs else inserted,
    )
    ledger.correct(
        connection,
        dataset,
        day,
        source_key=ledger.LAKE_KEY,
        worker=worker,
        books=books,
        inserted=inserted,
        updated=met.changed + met.renamed,
    )


def copy_into(connection: sa.Connection, table: sa.Table, schema: str, staging: str) -> int:
    """Into a table like the archive's, without partitions, which is made if need be; returns how many rows were new."""
    # CREATE SCHEMA needs a right even if the schema exists.
    if schema not in sa.inspect(connection).get_schema_names():
        connection.execute(sa.schema.CreateSchema(schema))
    quoted = connection.dialect.identifier_preparer.quote(schema)
    # Not as text(): a colon in the name would begin a parameter. The quoting doubles percent signs.
    connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {quoted}.{table.name} (LIKE {table.name} INCLUDING ALL)")
    return _insert_into(
        connection, table, sa.table(table.name, *_columns_of(table), schema=schema), _as_staged(table, staging)
    )


def try_out(connection: sa.Connection, table: sa.Table, day: date, staging: str, compare: bool) -> tuple[int, int]:
    """Into a temporary table; returns how many rows it takes and, with `compare`, how many of them and of the day's
    rows have no equal among the others."""
    name = f"trying_{table.name}"
    connection.execute(
        sa.text(f"CREATE TEMPORARY TABLE {PG_TEMP}.{name} (LIKE {table.name} INCLUDING ALL) ON COMMIT DROP")
    )
    trying = sa.table(name, *_columns_of(table), schema=PG_TEMP)
    rows = _insert_into(connection, table, trying, _as_staged(table, staging))
    if not compare:
        return rows, 0
    restored, stored = sa.select(*trying.c), sa.select(*table.c).where(day_column(table) == day)
    differing = sa.union_all(restored.except_(stored), stored.except_(restored)).subquery()
    return rows, connection.scalar(sa.select(sa.func.count()).select_from(differing)) or 0


def _insert_into(connection: sa.Connection, table: sa.Table, target: sa.TableClause, rows: sa.Select[Any]) -> int:
    """Insert those rows, given in the order of the table's columns, that are new; returns how many."""
    inserting = insert(target).from_select(table.c.keys(), rows).on_conflict_do_nothing()
    return connection.execute(inserting.execution_options(preserve_rowcount=True)).rowcount


def _as_staged(table: sa.Table, staging: str) -> sa.Select[Any]:
    staged = _staging(table, staging)
    return sa.select(*(_typed(table, staged, c.name) for c in table.c))


def _is_twin(staged: sa.Table) -> sa.ColumnElement[bool]:
    """A row of leg 1 that comes back together with the same call's leg 0."""
    other = staged.alias()
    same_call = [other.c[name] == staged.c[name] for name in CDR_KEY if name != "leg"]
    return sa.and_(staged.c.leg == 1, sa.exists().where(*same_call, other.c.leg == 0))


def _count_first_legs(connection: sa.Connection, staged: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(staged).where(staged.c.leg == 1)) or 0


def _insert(connection: sa.Connection, table: sa.Table, rows: sa.Select[Any]) -> None:
    connection.execute(insert(table).from_select([column.name for column in table.c], rows))


def _columns_of(table: sa.Table) -> list[sa.ColumnClause[Any]]:
    return [sa.column(c.name) for c in table.c]


def _aside(table: sa.Table, columns: Sequence[str]) -> sa.Table:
    """A temporary table, dropped at the commit."""
    return sa.Table(
        f"newer_{table.name}",
        sa.MetaData(schema=PG_TEMP),
        *(sa.Column(name, table.c[name].type) for name in columns),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )


def _staging(table: sa.Table, name: str) -> sa.Table:
    """As in a file, UUIDs and JSON are text. Unlogged: after a crash of Postgres the file still has it all."""
    as_text = (JSONB, sa.Uuid)
    return sa.Table(
        name,
        sa.MetaData(),
        *(sa.Column(c.name, sa.Text() if isinstance(c.type, as_text) else c.type) for c in table.c),
        prefixes=["UNLOGGED"],
        schema=STAGING,
    )


def _typed(table: sa.Table, staged: sa.Table, name: str) -> sa.ColumnElement[Any]:
    """A staged column with the type that it has in the archive."""
    return sa.cast(staged.c[name], table.c[name].type)


def _returning(table: sa.Table, staged: sa.Table, name: str) -> sa.ColumnElement[Any]:
    """A staged column as it will be stored: a call's first leg is 0."""
    return sa.case((staged.c.leg == 1, 0), else_=staged.c.leg) if name == "leg" else _typed(table, staged, name)


def cdr_of(row: Mapping[str, Any]) -> Cdr:
    """A row of `cdrs`, its JSON as text."""
    return Cdr(**{name: _inside(name, row[name]) for name in Cdr._fields})


def _row(kind: _Kind, row: Any) -> Cdr | Event:
    return kind.row(*(_inside(name, getattr(row, name)) for name in kind.row._fields))


_JSON = ("extra", "payload")


def _inside(name: str, value: Any) -> Any:
    """A value as `etl.wire` has it; see `etl.store.copy`."""
    if isinstance(value, datetime):
        return from_datetime(value)
    if isinstance(value, date):
        return (value - EPOCH.date()).days
    if hasattr(value, "bytes"):
        return value.bytes
    return value.encode() if name in _JSON and value is not None else value
