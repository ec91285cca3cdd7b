"""What waits in a list, looked at and left where it is, for `etl check`: from which end it's to be taken, and how much
of it would become dead letters, by the decoder that the list's loader has.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal
from uuid import UUID

from etl.errors import ConfigurationError, Forbidden
from etl.findings import Finding
from etl.inbox.connection import Client, translated
from etl.inbox.rights import SourceList
from etl.wire.age import ended
from etl.wire.decode import Decoding
from etl.wire.faults import DeadLetter
from etl.wire.times import MICROSECONDS_PER_SECOND

# Messages and bytes at each end of a list that are decoded; one message may exceed the bytes.
SAMPLE, SAMPLE_BYTES = 150, 8 * 2**20
# Messages at each end by which the old one is recognised: several, for one duplicate sent late mustn't decide.
OLDEST = 20
# Calls end in another order than they are reported in, by a little.
APART_SECONDS = 60
# Characters of an example: a line of a wide terminal, together with what stands before it.
EXAMPLE = 100

# Messages that are read at once: any of them may be as large as Redis takes it.
_MOST_AT_ONCE = 8
# Beyond what any clock says, and beyond what a dialler sends.
_NO_LIMIT = 2**62

# Those of these messages that would become dead letters.
Dead = Callable[[Sequence[bytes]], Sequence[DeadLetter]]


@dataclass(frozen=True, slots=True)
class Ends:
    """The outermost messages of a list, from its left to its right, and how many wait in all."""

    waiting: int
    left: list[bytes]
    right: list[bytes]


def of_a_list(client: Client, source: SourceList, dead: Dead) -> list[Finding]:
    """Raises `Forbidden` and `Outage`."""
    try:
        ends = _ends(client, source.key, SAMPLE, SAMPLE_BYTES)
    except Forbidden:
        raise
    except ConfigurationError as error:
        if "WRONGTYPE" in str(error):
            says = "this key holds something else than a list"
            return [Finding(f"list {source.key}", "wrong", says, "name the dialler's list in ETL_SOURCES")]
        raise
    return [_direction(source, ends), _decoded(source.key, ends, dead)]


def of_the_spool(client: Client, key: str, dead: Dead) -> Finding:
    """Raises `Forbidden`, `ConfigurationError` and `Outage`."""
    return _decoded(key, _ends(client, key, SAMPLE, SAMPLE_BYTES), dead)


# -- which end is the old one


def _direction(source: SourceList, ends: Ends) -> Finding:
    about = f"list {source.key}"
    left, right = _typical_time(ends.left[:OLDEST]), _typical_time(ends.right[-OLDEST:])
    if left is None or right is None:
        says = "too little waits to see which end is the old one"
        return Finding(about, "unknown", says, "look again when some calls wait")
    if abs(left - right) < APART_SECONDS:
        says = "what waits is of one minute: too close to see which end is the old one"
        return Finding(about, "unknown", says, "look again when more waits")
    old: Literal["left", "right"] = "left" if left < right else "right"
    if old == source.take_from:
        return Finding(about, "fine", f"the oldest is at the {old}, where it's taken from")
    says = f"the newest is taken first: the oldest is at the {old}, and take_from says {source.take_from}"
    return Finding(about, "warning", says, f'set take_from = "{old}" for it in ETL_SOURCES')


def _typical_time(messages: Sequence[bytes]) -> float | None:
    """When the calls ended that the messages report, in seconds; None if none of them is a CDR."""
    decoding = Decoding(
        messages,
        source="",
        key="",
        batch_id=UUID(int=0),
        captured_at=0,
        latest=_NO_LIMIT,
        max_message_bytes=_NO_LIMIT,
    )
    times = [ended(call) for call in decoding.finish().cdrs]
    return median(times) / MICROSECONDS_PER_SECOND if times else None


# -- what becomes of it


def _decoded(key: str, ends: Ends, dead: Dead) -> Finding:
    about = f"messages of {key}"
    sample = [*ends.left, *ends.right]
    if not sample:
        return Finding(about, "fine", "none waits")
    letters = dead(sample)
    waiting = f"{max(ends.waiting, len(sample)):,}"
    if not letters:
        says = f"{len(sample):,} of the {waiting} that wait were decoded: none would become a dead letter"
        return Finding(about, "fine", says)
    counts = Counter(letter.reason for letter in letters).most_common()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    become = f"{len(letters):,} of {len(sample):,} would become dead letters ({waiting} wait)"
    says = f"{become}: {reasons}; {_example(letters[0])}"
    advice = "nothing of it will be lost, but see what writes there before you load, or `etl dead list` afterwards"
    return Finding(about, "wrong" if 2 * len(letters) > len(sample) else "warning", says, advice)


def _example(letter: DeadLetter) -> str:
    """What is wrong with it, and how it begins: one line without digits, which may be somebody's number."""
    text = letter.raw[: 4 * EXAMPLE].decode(errors="backslashreplace")
    line = "".join(each if each.isprintable() else "�" for each in text)
    masked = re.sub(r"\d", "#", line)
    shown = masked[:EXAMPLE] + ("…" if len(masked) > EXAMPLE or len(letter.raw) > 4 * EXAMPLE else "")
    return f"the first: {letter.detail}, in {shown or 'an empty message'}"


# -- reading it


def _ends(client: Client, key: str, most: int, most_bytes: int) -> Ends:
    """The messages at either end of a list: at most so many and about as many bytes at each, none of them at both.

    Raises `ConfigurationError` if it's no list, or may not be read.
    """
    connection: Any = client
    with translated():
        waiting = int(connection.llen(key))
        left = _in_steps(
            min(most, waiting - waiting // 2),
            most_bytes,
            lambda first, last: connection.lrange(key, first, last),
        )
        right = _in_steps(
            min(most, waiting // 2),
            most_bytes,
            lambda first, last: connection.lrange(key, -last - 1, -first - 1)[::-1],
        )
    return Ends(waiting, left, right[::-1])


def _in_steps(most: int, most_bytes: int, read: Callable[[int, int], list[bytes]]) -> list[bytes]:
    """Messages from the outermost inwards. How large one is isn't known before it's read: so few are read at once,
    and one alone at first, that even the largest don't fill the memory."""
    found: list[bytes] = []
    size, step = 0, 1
    while len(found) < most and size < most_bytes:
        last = min(len(found) + step, most) - 1
        some = read(len(found), last)
        if not some:  # a loader took the rest meanwhile
            break
        found += some
        size += sum(map(len, some))
        step = min(2 * step, _MOST_AT_ONCE, max(1, (most_bytes - size) * len(found) // max(size, 1)))
    return found
