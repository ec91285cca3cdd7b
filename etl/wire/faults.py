"""Why a message can't become a record: the stable reason codes, and the exception that carries one.

The codes are written to `dead_letters.reason` and counted by operators: they are never renamed.
"""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    NOT_AN_ENVELOPE = "not_an_envelope"
    MISSING_FIELD = "missing_field"
    BAD_TYPE = "bad_type"
    OUT_OF_RANGE = "out_of_range"
    NUL_CHARACTER = "nul_character"  # or a lone surrogate: characters that JSON can spell and Postgres can't hold
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    # Only Postgres finds these: a number in `extra` or in an event that has more digits than its numeric holds (131072
    # before the point, 16383 after it).
    REFUSED_BY_DATABASE = "refused_by_database"


class Undecodable(Exception):
    """This message is a dead letter. `detail` names the field and the expectation, never the value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class DeadLetter(NamedTuple):
    """A message that can't be stored as a record, kept whole. `position` is its index in the claim; `channel` is where
    it was heard, None if it came from a list."""

    position: int
    reason: Reason
    detail: str
    raw: bytes
    channel: str | None = None
