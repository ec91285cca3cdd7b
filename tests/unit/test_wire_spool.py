"""What the listener writes onto the spool is read back as it was; and what it didn't write is told from it."""

import contextlib
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.wire.faults import Undecodable
from etl.wire.spool import Heard, Session, pack_heard, pack_session, unpack

EVENT_ID = bytes(range(16))
SESSION = Session(UUID(int=7), "worker-1", 1, 2, received=3, ignored=1, dropped=0)


@given(message=st.binary(), captured_at=st.integers(0, 2**51), event_id=st.binary(min_size=16, max_size=16))
def test_a_message_is_read_back_byte_for_byte(message: bytes, captured_at: int, event_id: bytes) -> None:
    packed = pack_heard(event_id, captured_at, b"enigma:notifications:agents:7", message)
    assert unpack(packed) == Heard(event_id, captured_at, "enigma:notifications:agents:7", message)


@given(channel=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_channel_is_read_back_as_text(channel: str) -> None:
    heard = unpack(pack_heard(EVENT_ID, 0, channel.encode(), b"{}"))
    assert isinstance(heard, Heard)
    assert heard.channel == channel


@pytest.mark.parametrize(("channel", "told"), [(b"a:\xff", "a:%FF"), (b"a:\0b", "a:%00b"), (b"\xff %", "%FF%20%25")])
def test_a_channel_that_the_database_cannot_hold_stays_encoded(channel: bytes, told: str) -> None:
    heard = unpack(pack_heard(EVENT_ID, 0, channel, b"{}"))
    assert isinstance(heard, Heard)
    assert heard.channel == told


@pytest.mark.parametrize("ended_at", [None, 9])
def test_a_session_is_read_back(ended_at: int | None) -> None:
    session = Session(UUID(int=7), "w", 1, 2, 3, 4, 5, ended_at, None if ended_at is None else "probe lost")
    assert unpack(pack_session(session)) == session


@given(
    server=st.none() | st.text(st.sampled_from("abc:/@[]-._1")),
    patterns=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=3),
)
def test_a_session_is_read_back_with_its_server(server: str | None, patterns: list[str]) -> None:
    named = msgspec.structs.replace(SESSION, server=server, patterns=None if server is None else tuple(patterns))
    assert unpack(pack_session(named)) == named


class SessionOf01(msgspec.Struct, frozen=True):
    """As release 0.1 has it."""

    session_id: UUID
    listener: str
    subscribed_at: int
    proven_until: int
    received: int
    ignored: int
    dropped: int
    ended_at: int | None = None
    reason: str | None = None


@pytest.mark.parametrize("ended", [{}, {"ended_at": 9, "reason": "overflow"}])
def test_0_1_and_we_read_each_others_sessions(ended: dict[str, Any]) -> None:
    theirs = SessionOf01(UUID(int=7), "worker-1", 1, 2, 3, 1, 0, **ended)
    ours = msgspec.structs.replace(SESSION, server="one", patterns=("a:*",), **ended)

    assert unpack(b"session %b\n" % msgspec.json.encode(theirs)) == msgspec.structs.replace(SESSION, **ended)
    written = pack_session(ours).removeprefix(b"session ").removesuffix(b"\n")
    assert msgspec.json.decode(written, type=SessionOf01) == theirs


@given(st.binary())
def test_nothing_that_lies_on_the_spool_makes_it_fail(raw: bytes) -> None:
    for record in (raw, b"heard " + raw, b"session " + raw, pack_session(SESSION) + raw):
        with contextlib.suppress(Undecodable):
            assert isinstance(unpack(record), Heard | Session)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"heard\n",
        b"heard 00 1 a\n{}",
        b"heard " + b"0" * 32 + b" 1\n{}",
        b"heard " + b"0" * 32 + b" 1 a b\n{}",
        b"heard " + b"0" * 32 + b" -1 a\n{}",
        b"heard " + b"0" * 32 + b" 4000000000000000 a\n{}",
        pack_session(SESSION) + b"more",
        b"session " + b"[" * 100_000 + b"\n",
        pack_session(SESSION).replace(b'"worker-1"', b'"\\u0000"'),
        pack_session(SESSION).replace(b":2,", b":-2,"),
        pack_session(SESSION).replace(b":2,", b":4000000000000000,"),
        pack_session(SESSION).replace(b":3,", b":4611686018427387904,"),
        pack_session(msgspec.structs.replace(SESSION, server="one")),
        pack_session(msgspec.structs.replace(SESSION, patterns=("a",))),
        pack_session(msgspec.structs.replace(SESSION, server="o\n", patterns=("a",))),
        pack_session(msgspec.structs.replace(SESSION, server="one", patterns=("a\0",))),
    ],
)
def test_what_no_listener_wrote_is_refused(raw: bytes) -> None:
    with pytest.raises(Undecodable, match="not written by a listener"):
        unpack(raw)
