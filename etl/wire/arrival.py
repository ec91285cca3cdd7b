"""Who was forgotten is erased on arrival: a message that still lay in Redis, or came again, makes the row that `etl
forget` would have left. Pure.

Only what is older than the receipt: somebody who calls again later is a new caller. A CDR has the time of its call, and
so has a dead letter whose time can be read; what was heard has the time at which it was. Of all else only the claim's
time is known, and it may have waited in a list: that is taken for older up to `WAITED` after the receipt.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, get_args, get_type_hints

import msgspec

from etl.wire.cdr import Cdr
from etl.wire.erasure import JSON, KEPT, Person, everybody, hash_of
from etl.wire.event import Event
from etl.wire.faults import DeadLetter, Undecodable
from etl.wire.times import MICROSECONDS_PER_DAY, microseconds

# Microseconds; a longer backlog of events and dead letters is for another `etl forget`.
WAITED = MICROSECONDS_PER_DAY
_DIALED_AT = re.compile(rb'"dialed_at"\s*:\s*("[^"\\]{1,64}"|[0-9.]{1,40})')


def _texts(record: type[Cdr] | type[Event]) -> tuple[str, ...]:
    """The columns in which people may be; see `etl.store.forget`."""
    hints = get_type_hints(record)

    def is_text(name: str) -> bool:
        return name in JSON or hints[name] is str or str in get_args(hints[name])

    return tuple(name for name in record._fields if name not in KEPT and is_text(name))


_OF_A_CDR, _OF_AN_EVENT = _texts(Cdr), _texts(Event)


class Forgotten:
    """Everybody of whom there are receipts. May be used by several threads."""

    def __init__(self, key: str, receipts: Mapping[tuple[str, str], int]) -> None:
        """`receipts` has the time of each, in microseconds since 2000, by what the person was asked for by (number or
        contact) and the hash of that. It isn't empty."""
        self._key = key
        self._receipts = receipts
        self._subjects = {subject for subject, _ in receipts}
        self._latest = max(receipts.values())

    def are_later(self, moments: Sequence[int]) -> bool:
        """Whether all calls that were dialled at these times, in microseconds since 2000, are of new callers."""
        return min(moments, default=self._latest) >= self._latest

    def calls(self, stream: Callable[[], Iterable[Cdr]]) -> Callable[[], Iterator[Cdr]]:
        """The same, erased as it's read for the first time."""
        latest, done = self._latest, list[Cdr]()

        def erased() -> Iterator[Cdr]:
            yield from done
            for cdr in islice(stream(), len(done), None):
                done.append(cdr if cdr.dialed_at >= latest else self._call(cdr))
                yield done[-1]

        return erased

    def events(self, events: Sequence[tuple[Event, bool]]) -> Sequence[Event]:
        """Each with whether its time is that of its claim, as it was heard by a clock that was wrong."""
        return [self._event(event, misdated) for event, misdated in events]

    def letter(self, letter: DeadLetter, list_key: str, claimed_at: int, **others: Any) -> DeadLetter:
        """`list_key` is the list of which it was claimed, `claimed_at` the time in microseconds since 2000."""
        channel = letter.channel or list_key
        row = {"source_key": channel, "reason": str(letter.reason), "detail": letter.detail, "raw": letter.raw}
        dialed_at = _dialed_at(letter.raw)
        erased = self._erased(row, claimed_at - WAITED if dialed_at is None else dialed_at)
        if not erased:
            return letter
        return letter._replace(
            detail=erased.get("detail", letter.detail),
            raw=erased.get("raw", letter.raw),
            channel=erased.get("source_key", letter.channel),
        )

    def _call(self, cdr: Cdr) -> Cdr:
        return cdr._replace(**_as_sent(self._erased(_row(cdr, _OF_A_CDR), cdr.dialed_at)))

    def _event(self, event: Event, misdated: bool) -> Event:
        was_then = event.origin == "pubsub" and not misdated
        at = event.captured_at if was_then else event.captured_at - WAITED
        if at >= self._latest:
            return event
        return event._replace(**_as_sent(self._erased(_row(event, _OF_AN_EVENT), at)))

    def _erased(self, row: dict[str, Any], at: int) -> dict[str, Any]:
        """The columns that must change. `at` is the time of what the row tells of."""
        changed: dict[str, Any] = {}
        if at >= self._latest:
            return changed
        for subject, values in everybody(row).items():
            if subject not in self._subjects:
                continue
            for value in sorted(values):
                if at < self._receipts.get((subject, hash_of(self._key, value)), at):
                    changed |= Person(self._key, **{subject: value}).row({**row, **changed})
        return changed


def _row(record: Cdr | Event, names: Sequence[str]) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in names}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}


def _as_sent(erased: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.encode() if name in JSON else value for name, value in erased.items()}


def _dialed_at(raw: bytes) -> int | None:
    """When the call was dialled of which a message tells that couldn't be understood; None if it doesn't say."""
    if not (found := _DIALED_AT.search(raw)):
        return None
    try:
        at = microseconds(msgspec.json.decode(found[1], type=int | float | str))
    except (Undecodable, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return at if at >= 0 else None
