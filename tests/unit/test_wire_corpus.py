"""What must be true of every message is true of those that fuzzing found; and it's noticed if it isn't."""

import re
from typing import Any

import pytest

from etl.wire import decode, envelope
from etl.wire.faults import DeadLetter
from tests.fuzz import corpus
from tests.fuzz.properties import check
from tests.wire import having


def test_every_stored_message_has_one_outcome_and_can_be_loaded_if_decoded() -> None:
    messages = corpus.everything()
    assert len(messages) > len(corpus.protocol()) + 50
    for raw in messages:
        check(raw)


class Forgetful(list[Any]):
    def append(self, _: Any) -> None:
        pass


def shortened(position: int, reason: Any, detail: str, raw: bytes, *more: Any) -> DeadLetter:
    return DeadLetter(position, reason, detail, raw[1:], *more)


def forgetful(records: Any, messages: Any, max_message_bytes: int, begin: Any = decode.Records.__init__) -> None:
    begin(records, messages, max_message_bytes)
    records._decoded.dead = Forgetful()


@pytest.mark.parametrize(
    ("owner", "name", "broken", "raw", "complaint"),
    [
        (decode.Records, "__init__", forgetful, b"not json", "the books don't balance"),
        (decode, "DeadLetter", shortened, b"not json", "a dead letter lacks bytes"),
        (envelope, "_NUL_ESCAPE", re.compile(rb"(?!)"), having(r'"\u0000"'), "a NUL character in JSON"),
    ],
)
def test_a_decoder_that_is_broken_is_noticed(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Any, raw: bytes, complaint: str
) -> None:
    check(raw)
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError, match=complaint):
        check(raw)
