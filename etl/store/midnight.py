"""Calls so close to midnight that the dialects may date one call on two days: each goes to the day under which it was
stored first, so that it's one row.

Only calls within `TOLERANCE` of midnight pay for looking. Who looks holds the lock of that midnight until the end of
its transaction: of two who bring the two dialects of a call at once, the second finds what the first has stored. If the
neighbouring day has left Postgres nothing is found, and the call stays two rows; `reporting.twins` lists them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from etl.store.copy import as_date
from etl.store.locks import MIDNIGHT
from etl.store.merge import TOLERANCE, WAIT_MS
from etl.wire.cdr import Cdr
from etl.wire.times import EPOCH, MICROSECONDS_PER_DAY

_TOLERANCE = TOLERANCE // TOLERANCE.resolution  # microseconds

_Call = tuple[str, str, int]  # source, call_ref, leg


class _Place(NamedTuple):
    """A call is stored, or about to be, under this day, with this time in microseconds since 2000."""

    day: int
    dialed_at: int


def is_near(call: Cdr) -> bool:
    """The other dialect may say another day."""
    return not _TOLERANCE < call.dialed_at % MICROSECONDS_PER_DAY < MICROSECONDS_PER_DAY - _TOLERANCE


def settled(connection: sa.Connection, calls: Sequence[Cdr]) -> Sequence[Cdr]:
    """The calls, each with the day under which it is stored or, if it isn't, under which the first of them came. Raises
    the driver's errors."""
    near = [(index, call) for index, call in enumerate(calls) if is_near(call)]
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
    """Whether one of these calls, which were just inserted each under its own day, lies under the neighbouring day
    too. Raises the driver's errors."""
    near = list(filter(is_near, calls))
    places = _stored(connection, near) if near else {}
    return any(
        place.day != call.dialed_on and abs(place.dialed_at - call.dialed_at) <= _TOLERANCE
        for call in near
        for place in places.get(_call(call), ())
    )


def _call(call: Cdr) -> _Call:
    return call.source, call.call_ref, call.leg


def _stored(connection: sa.Connection, near: Sequence[Cdr]) -> dict[_Call, list[_Place]]:
    """Where these calls are stored, on both sides of their midnights; they stay as they are until we have committed."""
    midnights = sorted({_midnight(call) for call in near})
    for midnight in midnights:
        connection.execute(_LOCK, {"kind": MIDNIGHT, "midnight": midnight})
    # As constants, so that the partitions of all other days aren't even planned for.
    days = ", ".join(f"'{as_date(day)}'" for day in sorted({day for n in midnights for day in (n - 1, n)}))
    sources, call_refs, legs = zip(*{_call(call) for call in near}, strict=True)
    found = connection.execute(
        sa.text(_FIND.format(days=days)), {"sources": [*sources], "call_refs": [*call_refs], "legs": [*legs]}
    )
    places: dict[_Call, list[_Place]] = {}
    for source, call_ref, leg, day, dialed_at in found:
        places.setdefault((source, call_ref, leg), []).append(_Place((day - EPOCH.date()).days, dialed_at))
    return places


def _midnight(call: Cdr) -> int:
    """The day that begins with it, in days since 2000: the call's, or the next."""
    return (call.dialed_at + _TOLERANCE) // MICROSECONDS_PER_DAY


_LOCK = sa.text("SELECT pg_advisory_xact_lock(:kind, :midnight)")
_FIND = """
SELECT c.source, c.call_ref, n.leg, c.dialed_on,
    (extract(epoch FROM c.dialed_at - '2000-01-01 00:00:00+00') * 1000000)::bigint
FROM unnest(CAST(:sources AS text[]), CAST(:call_refs AS text[]), CAST(:legs AS integer[])) AS n (source, call_ref, leg)
JOIN cdrs c ON (c.source, c.call_ref) = (n.source, n.call_ref)
    AND (c.leg = n.leg OR c.leg = 1 AND n.leg = 0) -- as a 0.1 stores it, until it's united
WHERE c.dialed_on IN ({days})
ORDER BY c.dialed_on
"""
