"""The merge way into `cdrs`: CDRs that may be stored already are merged without losing a field or a version.

The rules (promise 4): a field that the stored CDR lacks is filled in; a different value replaces the stored one, and
the previous version goes to `cdr_revisions`; a missing or null field, of a column or of `extra`, removes nothing. A
time that is only exact to the second agrees with the same second's fraction. Two `dialed_at` at most `TOLERANCE` apart
don't contradict each other, since the dialects differ by as much: the earlier second stays, with its fraction if one
has it.

What is newer is decided by the order of claiming, which is that of the batch_ids, and not by the order of committing.
An older CDR (of a claim that was adopted, of a replayed dead letter, of the lake) only fills in what the row lacks; if
it contradicts, it goes to `cdr_revisions` itself. The row keeps the newest batch_id that changed it; a repetition
without anything new leaves the row unchanged, its batch_id included.

Several CDRs of one call in one claim are merged one after the other, in rounds that have each call once. A claim of
many days is merged some days at a time, the earlier first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB, insert

from etl.store.copy import as_date, copy_rows
from etl.store.tables import CDR_KEY, EVENT_KEY, audit_events, cdr_revisions, cdrs
from etl.wire import cdr
from etl.wire.cdr import Cdr
from etl.wire.event import Event

# For another worker's row or claim; many times the time it takes to load one.
WAIT_MS = 10_000
# Said with every temporary table: whoever may make tables in the archive's schema makes one of that name,
# and it would be found first.
PG_TEMP = "pg_temp"
# So many days are joined at once: each is planned for and locked by the statement.
DAYS_AT_ONCE = 30
# The dialects take a call's time from two programs of the dialler: they were seen a second apart, never ten.
TOLERANCE = timedelta(microseconds=cdr.TOLERANCE)


@dataclass(slots=True)
class Merged:
    """Rows inserted and updated, by day."""

    inserted: Counter[date] = field(default_factory=Counter)
    updated: Counter[date] = field(default_factory=Counter)

    def __iadd__(self, other: "Merged") -> "Merged":
        self.inserted.update(other.inserted)
        self.updated.update(other.updated)
        return self


COLUMNS = Cdr._fields
_KEY_INDEXES = [COLUMNS.index(name) for name in CDR_KEY]
# A new version always has the batch_id of its claim.
VALUES = [cdrs.c[name] for name in COLUMNS if name not in (*CDR_KEY, "batch_id")]


def staging(prefix: str, table: sa.Table, columns: Sequence[str], *more: sa.Column[Any]) -> sa.Table:
    """A temporary table, empty at the start of every transaction."""
    return sa.Table(
        f"{prefix}_{table.name}",
        sa.MetaData(schema=PG_TEMP),
        *(sa.Column(name, table.c[name].type) for name in columns),
        *more,
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DELETE ROWS",
    )


incoming = staging("incoming", cdrs, COLUMNS, sa.Column("position", sa.Integer), sa.Column("round", sa.Integer))
incoming_events = staging("incoming", audit_events, Event._fields)


def merge_cdrs(connection: sa.Connection, rows: Sequence[Cdr]) -> Merged:
    """Bring `rows` into `cdrs` in their order. Raises as the engine does; the caller then rolls back to a
    savepoint."""
    merged = Merged()
    rounds = [group for some in _of_few_days(rows) for group in _rounds(some)]
    staged = ((*row, position, n) for n, group in enumerate(rounds) for position, row in enumerate(group))
    _stage(connection, incoming, staged)
    for number, group in enumerate(rounds):
        _merge_round(connection, number, _on_days(group), merged)
    return merged


def add_events(connection: sa.Connection, rows: Sequence[Event]) -> Merged:
    """Bring into `audit_events` those of `rows` that aren't there: an event never changes. Raises as `merge_cdrs`."""
    _stage(connection, incoming_events, rows)
    return Merged(inserted=Counter(dict(connection.execute(_INSERT_NEW_EVENTS).all())))


def _stage(connection: sa.Connection, table: sa.Table, rows: Iterable[Sequence[Any]]) -> None:
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {WAIT_MS}"))  # unlike the fast way, wait for others' rows
    connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
    connection.execute(sa.delete(table))
    copy_rows(connection, table, table.c.keys(), rows)


def _of_few_days(rows: Sequence[Cdr]) -> Iterator[Sequence[Cdr]]:
    """The rows of the earliest `DAYS_AT_ONCE` days, of the next, and so on; each in their order."""
    days = sorted({row.dialed_on for row in rows})
    if len(days) <= DAYS_AT_ONCE:
        yield rows
        return
    group_of = {day: number // DAYS_AT_ONCE for number, day in enumerate(days)}
    groups: list[list[Cdr]] = [[] for _ in range(group_of[days[-1]] + 1)]
    for row in rows:
        groups[group_of[row.dialed_on]].append(row)
    yield from groups


def _rounds(rows: Sequence[Cdr]) -> list[list[Cdr]]:
    """The first CDR of each call, then the second of each, and so on. Verbatim repetitions are left out."""
    rounds: list[list[Cdr]] = []
    seen: dict[tuple[Any, ...], tuple[int, Cdr]] = {}
    for row in rows:
        identity = tuple(row[i] for i in _KEY_INDEXES)
        number, previous = seen.get(identity, (-1, None))
        if row == previous:
            continue
        seen[identity] = (number + 1, row)
        if number + 1 == len(rounds):
            rounds.append([])
        rounds[number + 1].append(row)
    return rounds


def _on_days(rows: Sequence[Cdr]) -> sa.ColumnElement[bool]:
    """A filter by literal dates, so that the planner prunes the partitions of all other days."""
    return cdrs.c.dialed_on.in_([_constant(as_date(day)) for day in sorted({row.dialed_on for row in rows})])


def _constant(day: date) -> sa.ColumnElement[date]:
    return sa.bindparam(None, day, sa.Date, literal_execute=True)


def _merge_round(connection: sa.Connection, number: int, on_days: sa.ColumnElement[bool], merged: Merged) -> None:
    # 1. New calls. From here on every call of the round is stored, by us or by somebody who has committed.
    for day, count in connection.execute(_INSERT_NEW, {"number": number}):
        merged.inserted[day] += count
    # 2. Lock those that will change or be contradicted, so that what we compare with stays as it is.
    found = connection.execute(_LOCK_DIFFERING.where(on_days), {"number": number}).all()
    # 3. Keep the versions that lose: the stored ones, or the incoming ones if these were claimed before.
    if contradicted := [each.position for each in found if each.contradicts]:
        connection.execute(_keep_revisions(on_days), {"number": number, "positions": contradicted})
    # 4. Complete or replace.
    if changes := [each for each in found if each.changes]:
        connection.execute(_APPLY_CHANGES, {"number": number, "positions": [each.position for each in changes]})
        merged.updated.update(each.dialed_on for each in changes)


def _is_time(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.DateTime)


def _whole_second(time: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.date_trunc("second", time)


def _coarser(one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """`one` is `other` without its fraction of a second."""
    return one == _whole_second(other)


def _are_close(one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return (one - other).between(-TOLERANCE, TOLERANCE)


def _earlier_second(one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The earlier second of the two, with its fraction if one of them has it."""
    return sa.case(
        (_coarser(one, other), other),
        (_coarser(other, one), one),
        else_=sa.func.least(one, other),
    )


def _valued(extra: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The fields of `extra` that aren't null; null if there are none."""
    fields = sa.func.jsonb_each(extra).table_valued("key", "value")
    with_value = sa.select(sa.func.jsonb_object_agg(fields.c.key, fields.c.value)).where(
        fields.c.value != sa.text("'null'::jsonb")
    )
    return with_value.scalar_subquery()


def _joined(one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Two JSON objects as one; of a field that both have, the other's value counts."""
    return one.op("||")(other)


def _completed(kind: sa.Column[Any], winner: Any, loser: Any) -> sa.ColumnElement[Any]:
    """The winner's value; the loser's where the winner has none."""
    if isinstance(kind.type, JSONB):
        # Every field of both; over them, those that the winner has a value for. Mostly one of them has none.
        fields = _joined(_joined(winner, loser), sa.func.coalesce(_valued(winner), sa.text("'{}'::jsonb")))
        return sa.case((loser.is_(None), winner), (winner.is_(None), loser), else_=fields)
    return sa.func.coalesce(winner, loser)


def merged_value(old: sa.Column[Any], new: Any, is_older: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    """What the column holds after `new` was merged into it."""
    in_order = sa.case((is_older, _completed(old, old, new)), else_=_completed(old, new, old))
    if old.name == "dialed_at":
        return sa.case((_are_close(old, new), _earlier_second(old, new)), else_=in_order)
    if _is_time(old):
        return sa.case((_coarser(new, old), old), (_coarser(old, new), new), else_=in_order)
    return in_order


def differs(column: Any, new: Any, is_older: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Merging would change the stored value."""
    return merged_value(column, new, is_older).is_distinct_from(column)


def contradicts(old: Any, new: Any) -> sa.ColumnElement[bool]:
    """The two have different values, neither of which completes the other. Never null: false if either is."""
    if old.name == "dialed_at":
        conflict = sa.not_(_are_close(old, new))
    elif _is_time(old):
        conflict = sa.and_(old != new, sa.not_(_coarser(new, old)), sa.not_(_coarser(old, new)))
    elif isinstance(old.type, JSONB):
        # Joined either way round, only fields with two values come out differently.
        values = _joined(_valued(old), _valued(new)) != _joined(_valued(new), _valued(old))
        conflict = sa.case((sa.or_(old.is_(None), new.is_(None)), sa.false()), else_=values)
    else:
        conflict = old != new
    return sa.func.coalesce(conflict, sa.false())


def in_turn(rows: sa.Table) -> list[sa.ColumnElement[Any]]:
    """Any order will do that is the same for every worker, whatever the database's collation and the claim's days."""
    return [rows.c.dialed_on, rows.c.call_ref.collate("C"), *(rows.c[name] for name in CDR_KEY[1:])]


_OF_THE_ROUND = incoming.c.round == sa.bindparam("number")
_POSITIONS = incoming.c.position == sa.any_(sa.bindparam("positions", type_=sa.ARRAY(sa.Integer)))
_INCOMING_ROWS = sa.select(*(incoming.c[name] for name in COLUMNS)).where(_OF_THE_ROUND)
_SAME_CALL = sa.and_(*(incoming.c[name] == cdrs.c[name] for name in CDR_KEY))
_IN_TURN = in_turn(incoming)


def insert_new(table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]) -> sa.Select[date, int]:
    """Insert those of `rows` whose key is new; gives how many were, by day. A row that is in the way of somebody else's
    unique index is refused."""
    inserting = insert(table).from_select(columns, rows).on_conflict_do_nothing(index_elements=list(table.primary_key))
    new = inserting.returning(table.c[columns[0]].label("day")).cte("new")
    return sa.select(new.c.day, sa.func.count().label("rows")).group_by(new.c.day)


_INSERT_NEW = insert_new(cdrs, COLUMNS, _INCOMING_ROWS.order_by(*_IN_TURN))
_INSERT_NEW_EVENTS = insert_new(
    audit_events, Event._fields, sa.select(incoming_events).order_by(*(incoming_events.c[name] for name in EVENT_KEY))
)

# A later message of the same claim is newer.
_IS_OLDER = incoming.c.batch_id < cdrs.c.batch_id
_CONTRADICTS = sa.or_(*(contradicts(column, incoming.c[column.name]) for column in VALUES))
_CHANGES = sa.or_(*(differs(column, incoming.c[column.name], _IS_OLDER) for column in VALUES))

_LOCK_DIFFERING = (
    sa.select(
        incoming.c.position,
        incoming.c.dialed_on,
        _CONTRADICTS.label("contradicts"),
        _CHANGES.label("changes"),
    )
    .join_from(incoming, cdrs, _SAME_CALL)
    .where(_OF_THE_ROUND, sa.or_(_CHANGES, sa.and_(_IS_OLDER, _CONTRADICTS)))
    .order_by(*_IN_TURN)
    .with_for_update(of=cdrs)
)


def _keep_revisions(on_days: sa.ColumnElement[bool]) -> sa.Insert:
    """Of each two versions the older, whole, and by which claim's it was replaced."""
    losers = [sa.case((_IS_OLDER, incoming.c[name]), else_=cdrs.c[name]) for name in COLUMNS]
    replaced = sa.select(
        *losers,
        sa.case((_IS_OLDER, sa.func.now()), else_=cdrs.c.loaded_at),
        sa.func.greatest(incoming.c.batch_id, cdrs.c.batch_id),
    ).join_from(incoming, cdrs, _SAME_CALL)
    return insert(cdr_revisions).from_select(
        [*COLUMNS, "loaded_at", "replaced_by"], replaced.where(_OF_THE_ROUND, _POSITIONS, on_days)
    )


def upsert(rows: sa.Select[Any], only: Callable[[Any, Any], sa.ColumnElement[bool]] | None = None) -> postgresql.Insert:
    """Complete stored calls by `rows`, or replace their values; only those of which `only` is true, given what is
    stored and what came."""
    inserting = insert(cdrs).from_select(COLUMNS, rows)
    came = inserting.excluded
    is_older = came.batch_id < cdrs.c.batch_id
    return inserting.on_conflict_do_update(
        index_elements=CDR_KEY,
        set_={
            **{column.name: merged_value(column, came[column.name], is_older) for column in VALUES},
            "batch_id": sa.func.greatest(came.batch_id, cdrs.c.batch_id),
            "loaded_at": sa.func.now(),
        },
        where=None if only is None else only(cdrs.c, came),
    )


_APPLY_CHANGES = upsert(_INCOMING_ROWS.where(_POSITIONS).order_by(*_IN_TURN))

# As `merge_cdrs` numbers a row that is alone.
_ONE = {"number": 0, "positions": [0]}


@cache
def plpgsql_of_cdrs(one: str) -> str:
    """What `merge_cdrs` does with a single row: it's staged as position 0 of round 0, and `one` is the record that has
    it. Enters into `merged_rows` what became of it."""
    on_its_day = cdrs.c.dialed_on == sa.literal_column(f"{one}.dialed_on", sa.Date)
    return f"""FOR each IN {rendered(_INSERT_NEW, **_ONE)} LOOP
    INSERT INTO {PG_TEMP}.merged_rows VALUES (each.day, each.rows, 0);
END LOOP;
FOR each IN {rendered(_LOCK_DIFFERING.where(on_its_day), **_ONE)} LOOP
    IF each.contradicts THEN
        {rendered(_keep_revisions(on_its_day), **_ONE)};
    END IF;
    IF each.changes THEN
        {rendered(_APPLY_CHANGES, **_ONE)};
        INSERT INTO {PG_TEMP}.merged_rows VALUES (each.dialed_on, 0, 1);
    END IF;
END LOOP;"""  # noqa: S608  (words of our own)


@cache
def plpgsql_of_events(_one: str) -> str:
    """What `add_events` does, likewise."""
    return f"""FOR each IN {rendered(_INSERT_NEW_EVENTS, **_ONE)} LOOP
    INSERT INTO {PG_TEMP}.merged_rows VALUES (each.day, each.rows, 0);
END LOOP;"""  # noqa: S608  (words of our own)


def rendered(statement: sa.ClauseElement, **values: object) -> str:
    """With its values in it, or others: these as literals, but for `sql.SQL`."""
    compiled = statement.compile(dialect=sa.make_url("postgresql+psycopg://").get_dialect()())
    every = {**(compiled.construct_params(values) or {}), **values}
    return str(compiled) % {
        name: (value if isinstance(value, sql.SQL) else sql.Literal(value)).as_string() for name, value in every.items()
    }
