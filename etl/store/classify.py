"""CDRs into `cdrs` when some are stored already: one join tells what each of them is, and only what needs it goes
further. Nobody's rows are locked in an order, or kept as versions here: what doesn't go so simply is merged carefully.

    arrived ──join──▶ new          ──▶ inserted
              cdrs     same         ──▶ nothing
                       completing   ──▶ one upsert
                       contradicting ─▶ etl.store.merge, as are calls of which several CDRs came
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa
from psycopg import sql

from etl.store import midnight
from etl.store.copy import as_date, copy_rows
from etl.store.merge import (
    COLUMNS,
    DAYS_AT_ONCE,
    PG_TEMP,
    VALUES,
    WAIT_MS,
    Merged,
    contradicts,
    differs,
    in_turn,
    insert_new,
    merge_cdrs,
    rendered,
    staging,
    upsert,
)
from etl.store.tables import CDR_KEY, cdrs
from etl.wire.cdr import Cdr
from etl.wire.decode import Records
from etl.wire.packed import GAINED, ROW, SAME, Packed
from etl.wire.times import MICROSECONDS_PER_DAY

# Another worker may store a call, or change it, between our look and what we do then: then we look again.
LOOKS = 3
NEW, COMPLETING, CONTRADICTING = "new", "completing", "contradicting"

# Postgres numbers the rows as they come.
_PLACES = f"{PG_TEMP}.arrived_places"
_place = sa.Column("place", sa.Integer, server_default=sa.text(f"nextval('{_PLACES}')"))
_arrived = staging("arrived", cdrs, COLUMNS, _place)
_KEY = [COLUMNS.index(name) for name in CDR_KEY]


class UnsettledError(Exception):
    """The CDRs can't be brought in this way: roll back, and merge them carefully."""


def merge_classified(connection: sa.Connection, records: Records, rest: Sequence[Cdr]) -> Merged:
    """Bring the packed CDRs of `records` into `cdrs`, and `rest`: those that aren't packed, in their order.

    Raises as the engine does, and `UnsettledError`; then what was done is to be rolled back.
    """
    return _Claim(connection, records).merge(midnight.settled(connection, rest))


class _Claim:
    """Or a piece of one, being brought in. `positions` are those of messages, `places` those of rows that were sent."""

    def __init__(self, connection: sa.Connection, records: Records) -> None:
        self._connection = connection
        self._records = records
        self._packed = records.packed()
        self._sent: list[int] = []  # the position of each row
        self._alone: dict[int, Cdr] = {}  # of those that aren't packed, by position
        self._together: dict[int, Cdr] = {}  # to be merged carefully, likewise
        self._joined = _joined(self._packed, records.first) if self._packed else {}
        self._merged = Merged()

    def merge(self, rest: Sequence[Cdr]) -> Merged:
        self._send(dict(zip(self._records.finish().cdrs_at, rest, strict=True)))
        days = {call.dialed_on for call in self._alone.values()} | {*(self._packed.days(ROW) if self._packed else ())}
        if len(days) > DAYS_AT_ONCE:
            raise UnsettledError
        if days:
            self._settle(", ".join(f"'{as_date(day)}'" for day in sorted(days)))
        if self._together:
            self._merged += merge_cdrs(self._connection, [call for _, call in sorted(self._together.items())])
        return self._merged

    def _send(self, rest: dict[int, Cdr]) -> None:
        """Each CDR whose call is that of no other."""
        self._connection.exec_driver_sql(_PREPARE, execution_options={"no_parameters": True})
        if self._packed:
            copy_rows(self._connection, _arrived, COLUMNS, (), self._packed.rows)
            first = self._records.first
            self._sent += [first + index for index, what in enumerate(self._packed.became) if what == ROW]
        if not rest:
            return
        of_call: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for position, call in rest.items():
            of_call[tuple(call[index] for index in _KEY)].append(position)
        several = {position for positions in of_call.values() if len(positions) > 1 for position in positions}
        if self._packed:
            refs = {call.call_ref for call in rest.values()}
            clashing = self._connection.exec_driver_sql(_TAKE_OUT, {"refs": [*refs]}).all()
            self._merge_carefully(self._sent[place] for place, _ in clashing)
            clashing_refs = {ref for _, ref in clashing}
            several |= {position for position, call in rest.items() if call.call_ref in clashing_refs}
        self._together |= {position: rest[position] for position in several}
        self._alone = {position: call for position, call in rest.items() if position not in several}
        copy_rows(self._connection, _arrived, COLUMNS, self._alone.values())
        self._sent += self._alone

    def _settle(self, days: str) -> None:
        places: Sequence[int] | None = None  # all
        for _ in range(LOOKS):
            found = self._classify(days, places)
            if places is not None and self._joined:
                raise UnsettledError
            new = {self._sent[place] for place in found[NEW]}
            # What was joined is one message only where the call is new.
            stored = self._joined.keys() - new
            self._merge_carefully(stored.union(self._sent[place] for place in found[CONTRADICTING]))
            completing = [place for place in found[COMPLETING] if self._sent[place] not in stored]
            places = [
                *(() if self._insert(found[NEW]) else found[NEW]),
                *(() if self._complete(completing) else completing),
            ]
            if not places:
                return
        raise UnsettledError

    def _classify(self, days: str, places: Sequence[int] | None) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {NEW: [], COMPLETING: [], CONTRADICTING: []}
        for kind, of_kind in self._connection.exec_driver_sql(_CLASSIFY.replace(_DAYS, days), {"places": places}):
            found[kind] += of_kind
        return found

    def _insert(self, new: Sequence[int]) -> bool:
        """Whether it was all that there is to do."""
        if not new:
            return True
        inserted: dict[date, int] = dict(self._connection.exec_driver_sql(_INSERT, {"places": new}).all())
        self._merged.inserted.update(inserted)
        if sum(inserted.values()) < len(new):
            return False
        if self._joined:
            for place in new:
                self._merged.updated.update(self._joined.get(self._sent[place], ()))
        return True

    def _complete(self, completing: Sequence[int]) -> bool:
        if not completing:
            return True
        completed: dict[date, int] = dict(self._connection.exec_driver_sql(_COMPLETE, {"places": completing}).all())
        self._merged.updated.update(completed)
        return sum(completed.values()) == len(completing)

    def _merge_carefully(self, positions: Iterable[int]) -> None:
        """Each message of the rows at these positions."""
        packed, first, wanted = self._packed, self._records.first, {*positions}
        self._together |= {position: self._alone[position] for position in wanted & self._alone.keys()}
        if packed and (wanted := wanted - self._alone.keys()):
            messages = [first + index for index, into in enumerate(packed.into) if first + into in wanted]
            self._together |= dict(zip(messages, self._records.again(messages), strict=True))


def _joined(packed: Packed, first: int) -> dict[int, Counter[date]]:
    """Of each row that several messages were joined into: its position, and how many of them added something to it, by
    day."""
    joined: dict[int, Counter[date]] = {}
    if GAINED in packed.became or SAME in packed.became:
        for what, into, at in zip(packed.became, packed.into, packed.dialed_at, strict=True):
            if what in (GAINED, SAME):
                days = joined.setdefault(first + into, Counter())
                days[as_date(at // MICROSECONDS_PER_DAY)] += what == GAINED
    return joined


_places = sa.bindparam("places", type_=sa.ARRAY(sa.Integer))
_at_places = _arrived.c.place == sa.any_(_places)
# Stands for literal dates, by which the planner prunes the partitions of all other days.
_DAYS = "'the days'"


def _contradict(stored: Any, arrived: Any) -> sa.ColumnElement[bool]:
    return sa.or_(*(contradicts(stored[column.name], arrived[column.name]) for column in VALUES))


def _change(stored: Any, arrived: Any) -> sa.ColumnElement[bool]:
    """Which of the two was claimed first doesn't matter while they don't contradict each other."""
    # Most often a field is filled in, and that is quickly seen.
    fills = (sa.and_(stored[column.name].is_(None), arrived[column.name].is_not(None)) for column in VALUES)
    changes = (differs(stored[column.name], arrived[column.name], sa.false()) for column in VALUES)
    return sa.or_(*fills, *changes)


# Each call is found by its key, whatever the planner thinks: of a day that was analysed when it had one call, it
# believes that this is all, and would read the whole day for each. What is OFFSET it takes into no join.
_stored = (
    sa.select(cdrs)
    .where(*(cdrs.c[name] == _arrived.c[name] for name in CDR_KEY), cdrs.c.dialed_on.in_([sa.literal_column(_DAYS)]))
    .offset(0)
    .lateral("stored")
)
# As of nearly every repetition, and quickly seen. What this isn't true of may be the same all the same.
_same = sa.and_(
    *(sa.or_(_arrived.c[name].is_(None), _arrived.c[name] == _stored.c[name]) for name in (c.name for c in VALUES))
)
_kinds = (
    sa.select(
        _arrived.c.place,
        sa.case(
            (_stored.c.call_ref.is_(None), NEW),
            (_same, None),
            (_contradict(_stored.c, _arrived.c), CONTRADICTING),
            (_change(_stored.c, _arrived.c), COMPLETING),
        ).label("kind"),
    )
    .select_from(_arrived.outerjoin(_stored, sa.true()))
    .where(sa.or_(_places.is_(None), _at_places))
    .subquery()
)
_classified = (
    sa.select(_kinds.c.kind, sa.func.array_agg(_kinds.c.place))
    .where(_kinds.c.kind.is_not(None))
    .group_by(_kinds.c.kind)
)
_in_turn = sa.select(*(_arrived.c[name] for name in COLUMNS)).where(_at_places).order_by(*in_turn(_arrived))
_inserted = insert_new(cdrs, COLUMNS, _in_turn)
# Somebody may have changed it since.
_completed = (
    upsert(_in_turn, lambda stored, came: sa.and_(sa.not_(_contradict(stored, came)), _change(stored, came)))
    .returning(cdrs.c.dialed_on)
    .cte("completed")
)
_counted = sa.select(_completed.c.dialed_on, sa.func.count()).group_by(_completed.c.dialed_on)
_taken_out = (
    sa.delete(_arrived)
    .where(_arrived.c.call_ref == sa.any_(sa.bindparam("refs", type_=sa.ARRAY(sa.Text))))
    .returning(_arrived.c.place, _arrived.c.call_ref)
)
_PLACEHOLDERS = {name: sql.SQL(f"%({name})s") for name in ("places", "refs")}
_CLASSIFY, _INSERT, _COMPLETE, _TAKE_OUT = (
    rendered(statement, **_PLACEHOLDERS) for statement in (_classified, _inserted, _counted, _taken_out)
)
_PREPARE = f"""SET LOCAL lock_timeout = {WAIT_MS};
CREATE TEMPORARY SEQUENCE IF NOT EXISTS {_PLACES} AS integer MINVALUE 0 CACHE 1000;
{rendered(sa.schema.CreateTable(_arrived, if_not_exists=True))};
SELECT setval('{_PLACES}', 0, false);
DELETE FROM {_arrived.fullname}"""  # noqa: S608  (words of our own)
