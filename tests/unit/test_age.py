"""Since when a message has been there, by its own account."""

import json
from uuid import UUID

import pytest

from etl.wire.age import sent
from etl.wire.decode import SpoolDecoding
from etl.wire.spool import Session, pack_heard, pack_session
from etl.wire.times import MICROSECONDS_PER_SECOND, UNIX_SECONDS_AT_EPOCH
from tests.wire import decoding
from tests.world import DIALED_AT, api_cdr, cdr

EVENT = json.dumps({"type": "status", "payload": {"status": "busy", "ref": "1002"}}).encode()
SESSION = Session(UUID(int=7), "w", 100, 200, received=0, ignored=0, dropped=0)


def unix(seconds: float) -> int:
    return int((seconds - UNIX_SECONDS_AT_EPOCH) * MICROSECONDS_PER_SECOND)


@pytest.mark.parametrize(
    ("message", "moment"),
    [
        (cdr(1, call_time=41), unix(DIALED_AT + 41)),
        (cdr(1, call_time=None), unix(DIALED_AT)),
        (cdr(1, call_time=0), unix(DIALED_AT)),
        (cdr(1, call_time=86_400), unix(DIALED_AT + 86_400)),
        (cdr(1, call_time=86_401), unix(DIALED_AT)),
        (cdr(1, call_time=2**31 - 1), unix(DIALED_AT)),
        (cdr(1, call_time="-1795563614"), unix(DIALED_AT)),
        (cdr(1, call_time="unknown"), unix(DIALED_AT)),
        (api_cdr(1), unix(DIALED_AT + 56)),
        # a clock that was set back, a beginning that was never noted, a call of more than a day
        (cdr(1, call_time=-1), unix(DIALED_AT)),
        (cdr(1, call_time=-1_795_563_614), unix(DIALED_AT)),
        (api_cdr(1, ended_at="2001-01-01T00:00:00Z"), unix(DIALED_AT)),
        (api_cdr(1, ended_at="2016-01-01T00:00:00Z"), unix(DIALED_AT)),
        (cdr(1, dialed_at=None), None),
        (EVENT, None),
        (b"junk", None),
    ],
)
def test_of_a_list_a_call_tells_when_it_ended(message: bytes, moment: int | None) -> None:
    assert sent(decoding(message)) == moment


@pytest.mark.parametrize(
    ("entry", "moment"),
    [
        (pack_heard(bytes(16), 300, b"enigma:notifications:agents", EVENT), 300),
        (pack_heard(bytes(16), 300, b"enigma:notifications:agents", b"junk"), None),
        (pack_session(SESSION), 200),
        (b"no entry", None),
    ],
)
def test_of_the_spool_an_entry_tells_when_it_was_heard(entry: bytes, moment: int | None) -> None:
    records = SpoolDecoding([entry], batch_id=UUID(int=1), captured_at=400, latest=500, max_message_bytes=1_000)
    assert sent(records.finish()) == moment


def test_of_several_it_is_the_earliest() -> None:
    assert sent(decoding(cdr(1, dialed_at=DIALED_AT + 9), b"junk", cdr(2))) == unix(DIALED_AT + 41)
