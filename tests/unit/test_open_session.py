"""A session takes in what it hears in pieces: however these are cut, the same is spooled, counted, proven, dropped."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from etl.ids import new_id
from etl.inbox import spool
from etl.inbox.listener import Listening, OpenSession
from etl.inbox.spool import Spooler
from etl.inbox.subscription import PubSubMessage
from etl.wire.spool import Heard, Session, unpack

AGENT, CAMPAIGN = b"enigma:notifications:agents:1002", b"enigma:notifications:campaign:2040"
MESSAGES = st.tuples(
    st.sampled_from([AGENT, CAMPAIGN, b"a:\xff"]),
    st.sampled_from([b'{"type":"stats","payload":{}}', b'{"type":"status","payload":{}}', b"stats"]),
)
HEARD = st.lists(MESSAGES | st.integers(1, 50), max_size=25)


class Ticking:
    """A session's clock that goes on by one each time it's asked, as if nobody could hear two messages at once."""

    def __init__(self) -> None:
        self.at = 0

    def now(self) -> int:
        self.at += 1
        return self.at


def heard_by(pieces: Sequence[Sequence[PubSubMessage | int]]) -> tuple[list[Any], bool]:
    """What lies on the spool, without identifiers, after a session that heard these; and whether it overflowed."""
    clock: Any = Ticking()
    spooler = Spooler(None, "etl:events", structlog.get_logger())  # type: ignore[arg-type]
    session = OpenSession(Listening("w", "etl:events", ("a:*",), frozenset({"agents/stats"})), new_id(), spooler, clock)
    for piece in pieces:
        session.hear(piece)
    session.end(session.because("stopped"))
    records = [unpack(record) for record in spooler._waiting]
    identifiers = [record.event_id for record in records if isinstance(record, Heard)]
    assert sorted({*identifiers}) == identifiers
    return [_without_identifier(record) for record in records], session.overflowed


def _without_identifier(record: Heard | Session) -> Heard | Session:
    if isinstance(record, Heard):
        return msgspec.structs.replace(record, event_id=bytes(16))
    return msgspec.structs.replace(record, session_id=UUID(int=0))


@given(heard=HEARD, cuts=st.lists(st.integers(0, 25)).map(sorted), room=st.integers(1, 20) | st.just(100))
def test_however_what_is_heard_is_cut_the_same_becomes_of_it(
    heard: list[PubSubMessage | int], cuts: list[int], room: int
) -> None:
    pieces = [heard[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(heard)], strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "CAPACITY_MESSAGES", room)
        one_by_one = heard_by([[each] for each in heard])
        assert heard_by(pieces) == heard_by([heard]) == one_by_one
    records, overflowed = one_by_one
    last = records[-1]
    kept = sum(isinstance(record, Heard) for record in records)
    assert last.received == sum(not isinstance(each, int) for each in heard) == last.ignored + last.dropped + kept
    assert last.ignored == heard.count((AGENT, b'{"type":"stats","payload":{}}'))
    assert overflowed == (last.dropped > 0) == (last.reason == "overflow")


def test_a_proof_comes_after_all_that_was_heard_before_it() -> None:
    status = b'{"type":"status","payload":{}}'
    records, _ = heard_by([[(AGENT, status), 30, (AGENT, status), (AGENT, status), 40]])
    assert [isinstance(record, Heard) for record in records] == [False, True, False, True, True, False, False]
    assert [(each.proven_until, each.received) for each in records if isinstance(each, Session)] == [
        (1, 0),
        (30, 1),
        (40, 3),
        (40, 3),
    ]
