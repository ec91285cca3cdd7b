"""Since when a message has been there, as far as it tells itself."""

from etl.wire.cdr import Cdr
from etl.wire.decode import Records
from etl.wire.times import MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND


def ended(call: Cdr) -> int:
    """When the call ended, which is when the dialler reports it: microseconds since 2000. An end before the beginning,
    or more than a day after it, is none: the dialler's clock was set, or it never noted when the call began."""
    told = call.ended_at, call.dialed_at + (call.call_time or 0) * MICROSECONDS_PER_SECOND
    return next(
        (end for end in told if end is not None and 0 <= end - call.dialed_at <= MICROSECONDS_PER_DAY), call.dialed_at
    )


def sent(records: Records) -> int | None:
    """When the first of these records was sent, in microseconds since 2000: a call's end, the moment a listener heard
    an event, or reported. None if none of them tells; an event on a list doesn't."""
    records.finish()
    times = [
        *map(ended, records.cdrs),
        *(event.captured_at for event in records.events if event.origin == "pubsub"),
        *(session.proven_until for session in records.sessions),
    ]
    return min(times, default=None)
