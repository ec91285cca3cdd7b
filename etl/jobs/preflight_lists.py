"""What waits in a list, looked at and left where it is: from which end it's to be taken, and how much of it would
become dead letters, by the decoder that the list's loader has.
"""

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Literal
from uuid import UUID

from etl.errors import ConfigurationError, Forbidden
from etl.inbox import preflight as inbox
from etl.inbox.connection import Client
from etl.inbox.preflight import Ends
from etl.inbox.rights import SourceList
from etl.jobs.findings import Finding
from etl.jobs.loader import Decode
from etl.wire.age import ended
from etl.wire.decode import Decoding
from etl.wire.faults import DeadLetter
from etl.wire.times import MICROSECONDS_PER_SECOND

# Messages and bytes at each end of a list that are decoded; one message may exceed the bytes.
SAMPLE, SAMPLE_BYTES = 150, 8 * 2**20
# Messages at each end that tell which is the old one. A duplicate that the dialler sent late mustn't decide.
OLDEST = 20
# Calls end in another order than they are reported in, by a little.
APART_SECONDS = 60
# Characters of an example: a line of a wide terminal, together with what stands before it.
EXAMPLE = 100

# Beyond what any clock says, and beyond what a dialler sends.
_NO_LIMIT = 2**62


def of_a_list(client: Client, source: SourceList, decode: Decode) -> list[Finding]:
    """Raises `Forbidden` and `Outage`."""
    try:
        ends = inbox.ends(client, source.key, SAMPLE, SAMPLE_BYTES)
    except Forbidden:
        raise
    except ConfigurationError as error:
        if "WRONGTYPE" in str(error):
            says = "this key holds something else than a list"
            return [Finding(f"list {source.key}", "wrong", says, "name the dialler's list in ETL_SOURCES")]
        raise
    return [_direction(source, ends), _decoded(source.key, ends, decode)]


def of_the_spool(client: Client, key: str, decode: Decode) -> Finding:
    """Raises `Forbidden`, `ConfigurationError` and `Outage`."""
    return _decoded(key, inbox.ends(client, key, SAMPLE, SAMPLE_BYTES), decode)


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


def _decoded(key: str, ends: Ends, decode: Decode) -> Finding:
    about = f"messages of {key}"
    sample = [*ends.left, *ends.right]
    if not sample:
        return Finding(about, "fine", "none waits")
    dead = decode(sample, UUID(int=0), 0).finish().dead
    waiting = f"{max(ends.waiting, len(sample)):,}"
    if not dead:
        says = f"{len(sample):,} of the {waiting} that wait were decoded: none would become a dead letter"
        return Finding(about, "fine", says)
    counts = Counter(letter.reason for letter in dead).most_common()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    says = (
        f"{len(dead):,} of {len(sample):,} would become dead letters ({waiting} wait): {reasons}; {_example(dead[0])}"
    )
    advice = "nothing of it will be lost, but see what writes there before you load, or `etl dead list` afterwards"
    return Finding(about, "wrong" if 2 * len(dead) > len(sample) else "warning", says, advice)


def _example(letter: DeadLetter) -> str:
    """What is wrong with it, and how it begins: one line without digits, which may be somebody's number."""
    text = letter.raw[: 4 * EXAMPLE].decode(errors="backslashreplace")
    line = "".join(each if each.isprintable() else "�" for each in text)
    masked = re.sub(r"\d", "#", line)
    shown = masked[:EXAMPLE] + ("…" if len(masked) > EXAMPLE or len(letter.raw) > 4 * EXAMPLE else "")
    return f"the first: {letter.detail}, in {shown or 'an empty message'}"
