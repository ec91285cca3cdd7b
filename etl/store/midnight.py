"""Calls so close to midnight that the dialects may date one call on two days: each goes to the day under which it was
stored first, so that it's one row.

Only calls within `TOLERANCE` of a midnight are looked for, under a lock up to the end of the transaction: of two
workers that load the two dialects of a call at once, the second finds the row of the first. If the neighbouring day was
dropped, nothing is found, and the call is two rows; `reporting.twins` lists them.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import sqlalchemy as sa

from etl.store.copy import as_date
from etl.store.merge import TOLERANCE, WAIT_MS
from etl.store.tables import ONE_LOADER
from etl.wire.cdr import Cdr
from etl.wire.times import MICROSECONDS_PER_DAY

_TOLERANCE = TOLERANCE // TOLERANCE.resolution  # microseconds
_BEFORE = MICROSECONDS_PER_DAY - _TOLERANCE  # of a day's microseconds; from here on the next midnight is near

_dialed_at = itemgetter(Cdr._fields.index("dialed_at"))

_Call = tuple[str, str, int]  # source, call_ref, leg


class _Place(NamedTuple):
    """Where a call is stored, or about to be: its day, and its time in microseconds since 2000."""

    day: int
    dialed_at: int


def settled(connection: sa.Connection, calls: Sequence[Cdr]) -> Sequence[Cdr]:
    """The calls, each with the day under which it is stored or, if it isn't, under which the first of them came. Raises
    as the engine does."""
    near = near_midnight(calls)
    if not near:
        return calls
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {WAIT_MS}"))
    places = _stored(connection, [call for _, call in near])
    result = list(calls)
    for index, call in near:
        known = places.setdefault(_call(call), [])
        same = [place.day for place in known if abs(place.dialed_at - call.dialed_at) <= _TOLERANCE]
        day = call.dialed_on if call.dialed_on in same or not same else same[0]
        known.append(_Place(day, call.dialed_at))
        result[index] = call._replace(dialed_on=day)
    return result


def are_apart(connection: sa.Connection, calls: Sequence[Cdr]) -> bool:
    """Whether one of these calls, which were just inserted each under its own day, is stored under the neighbouring
    day too. Raises as the engine does."""
    near = [call for _, call in near_midnight(calls)]
    places = _stored(connection, near, own_day=False) if near else {}
    return any(
        place.day != call.dialed_on and abs(place.dialed_at - call.dialed_at) <= _TOLERANCE
        for call in near
        for place in places.get(_call(call), ())
    )


def near_midnight(calls: Sequence[Cdr]) -> list[tuple[int, Cdr]]:
    """Those of the calls that the other dialect may date on another day, with their indexes."""
    if not calls:
        return []
    times = [*map(_dialed_at, calls)]
    first, last = min(times), max(times)
    midnight = first - first % MICROSECONDS_PER_DAY
    if midnight + _TOLERANCE < first and last < midnight + _BEFORE:
        return []  # as of nearly every claim
    return [
        (index, call)
        for index, (time, call) in enumerate(zip(times, calls, strict=True))
        if not _TOLERANCE < time % MICROSECONDS_PER_DAY < _BEFORE
    ]


def _call(call: Cdr) -> _Call:
    return call.source, call.call_ref, call.leg


def _stored(connection: sa.Connection, near: Sequence[Cdr], own_day: bool = True) -> dict[_Call, list[_Place]]:
    """Where these calls are stored, on either side of their midnights, or with `own_day` false only on the other side.
    Nobody else stores one of them until we have committed."""
    connection.execute(ONE_LOADER)
    wanted = {
        (*_call(call), day)
        for call in near
        for day in (_midnight(call) - 1, _midnight(call))
        if own_day or day != call.dialed_on
    }
    sources, call_refs, legs, days = map(list, zip(*wanted, strict=True))
    keys = {"sources": sources, "call_refs": call_refs, "legs": legs, "days": [*map(as_date, days)]}
    places: dict[_Call, list[_Place]] = {}
    # Day by day, as literal dates: the planner prunes all other partitions, and looks the calls up by the primary key
    # even in a new partition without statistics, instead of sorting all of its rows.
    for each in sorted({*days}):
        for source, call_ref, leg, dialed_at in connection.execute(sa.text(_FIND.format(day=as_date(each))), keys):
            places.setdefault((source, call_ref, leg), []).append(_Place(each, dialed_at))
    return places


def _midnight(call: Cdr) -> int:
    """The day that begins with it, in days since 2000: the call's, or the next."""
    return (call.dialed_at + _TOLERANCE) // MICROSECONDS_PER_DAY


_FIND = """
SELECT c.source, c.call_ref, n.leg,
    (extract(epoch FROM c.dialed_at - '2000-01-01 00:00:00+00') * 1000000)::bigint
FROM unnest(CAST(:sources AS text[]), CAST(:call_refs AS text[]), CAST(:legs AS integer[]), CAST(:days AS date[]))
    AS n (source, call_ref, leg, day)
JOIN cdrs c ON (c.dialed_on, c.source, c.call_ref) = (n.day, n.source, n.call_ref)
    AND (c.leg = n.leg OR c.leg = 1 AND n.leg = 0) -- as a 0.1 stores it, until it's united
WHERE c.dialed_on = '{day}'
"""
