"""How long a message has been waiting, as far as its content shows."""

from etl.wire.cdr import Cdr
from etl.wire.decode import Decoded
from etl.wire.times import MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND


def ended(call: Cdr) -> int:
    """When the call ended, which is when the dialler reports it: microseconds since 2000. An end before the call began,
    or more than a day after that, doesn't count: the dialler's clock was set, or it lacks the beginning."""
    ends = call.ended_at, call.dialed_at + (call.call_time or 0) * MICROSECONDS_PER_SECOND
    return next(
        (end for end in ends if end is not None and 0 <= end - call.dialed_at <= MICROSECONDS_PER_DAY),
        call.dialed_at,
    )


def sent(records: Decoded) -> int | None:
    """When the first of these records was sent, in microseconds since 2000: a call's end, or when a listener heard an
    event or reported. None if no record has such a time; events on lists have none."""
    times = [
        *map(ended, records.cdrs),
        *(event.captured_at for event in records.events if event.origin == "pubsub"),
        *(session.proven_until for session in records.sessions),
    ]
    return min(times, default=None)
