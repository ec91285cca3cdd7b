"""Since when a message has been there, as far as it tells itself."""

from etl.wire.cdr import Cdr
from etl.wire.decode import Records
from etl.wire.times import MICROSECONDS_PER_SECOND

# No call lasts longer: a larger or a negative figure is that of a dialler's clock that was set, or never started.
_LONGEST_CALL_SECONDS = 86_400


def ended(call: Cdr) -> int:
    """When the call ended, which is when the dialler reports it: microseconds since 2000. Where it isn't said how long
    it lasted, or nonsense, that is when it was dialled."""
    if call.ended_at is not None:
        return call.ended_at
    seconds = call.call_time or 0
    lasted = seconds if 0 <= seconds <= _LONGEST_CALL_SECONDS else 0
    return call.dialed_at + lasted * MICROSECONDS_PER_SECOND


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
