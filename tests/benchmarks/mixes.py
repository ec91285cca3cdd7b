"""What waits on the lists that are measured: which messages, on which list, in which order, into which tables.

All calls of the bench are of one evening of 2015, unless a mix says otherwise, with all their documented fields set.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from tests.benchmarks.decoders import PYTHONS
from tests.world import CAMPAIGNS, CDRS, DIALED_AT, api_cdr, cdr

BATCH = 5_000
_SPAN = 9_000  # seconds: the calls are dialled within two and a half hours, a second apart, again and again
_MIDNIGHT = int(datetime(2015, 2, 20, tzinfo=UTC).timestamp())
# Of the real dialler's mix: 3 % of its messages come twice.
_EVERY_33RD = 33

Lists = Mapping[str, Sequence[bytes]]  # the messages by list, the oldest first
Make = Callable[[int], Lists]


@dataclass(frozen=True)
class Mix:
    """One line of the table: `lists` is timed, `stored` is loaded before. Each makes so many messages."""

    name: str
    lists: Make
    workers: int = 1
    stored: Make | None = None
    # When a person was forgotten: calls from before are looked at whether they are theirs, later ones aren't.
    forgotten: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)  # others than those of all lines


def messages(count: int, first: int = 0, days: int = 1) -> list[bytes]:
    """Client CDRs (dialect A) of different calls; of so many days in turn."""
    return [_message(number, days) for number in range(first, first + count)]


def api_messages(count: int) -> list[bytes]:
    """API CDRs (dialect B) of the same calls."""
    return [_api_message(number) for number in range(count)]


def program_messages(count: int) -> list[bytes]:
    """Client CDRs as the published program writes them: the hang-up cause is text."""
    return [_message(number, end_code="16") for number in range(count)]


def in_both_dialects(count: int) -> list[bytes]:
    """So many messages: each call twice, the second time in the other dialect."""
    return [make(number) for number in range(count // 2) for make in (_message, _api_message)]


def around_midnight(count: int) -> list[bytes]:
    """Client CDRs of the hours around a midnight: every claim is of both days, and 21 of 9,000 calls are so near that
    a twin may lie on the other day."""
    return [_message(number, dialed_at=_MIDNIGHT - _SPAN // 2 + number % _SPAN) for number in range(count)]


def repeating(messages: Sequence[bytes], every: int = 100) -> list[bytes]:
    """The same, but every so many-th is one that was sent two claims ago, or at the very start."""
    return [messages[max(0, n - 2 * BATCH)] if n % every == every - 1 else m for n, m in enumerate(messages)]


def of_the_dialler(count: int) -> Lists:
    """As the published program sends them: without blanks, numbers as text, each call on a list in A and on another
    in B, and messages that are sent again."""
    calls = count // 2
    return {
        CAMPAIGNS: repeating([_compact(m) for m in program_messages(calls)], _EVERY_33RD),
        CDRS: repeating([_compact(m) for m in api_messages(calls)], _EVERY_33RD),
    }


def _message(number: int, days: int = 1, **fields: object) -> bytes:
    plain = {
        "number": f"07{number:08d}",
        "contact_ref": f"M{number:06d}",
        "hold_time": 4,
        "dialed_at": DIALED_AT + number % _SPAN - number % days * 86_400,
    }
    return cdr(number, **{**plain, **fields})


def _api_message(number: int) -> bytes:
    at = DIALED_AT + number % _SPAN
    names = {"dialed_at": 0, "callee_answered_at": 12, "agent_answered_at": 15, "ended_at": 15 + number % 300}
    return api_cdr(number, **{name: _as_ruby_prints(at + seconds) for name, seconds in names.items()})


def _as_ruby_prints(unix: int) -> str:
    return datetime.fromtimestamp(unix, timezone(timedelta(hours=2))).strftime("%Y-%m-%d %H:%M:%S %z")


def _compact(message: bytes) -> bytes:
    fields: Any = json.loads(message)
    return json.dumps(fields, separators=(",", ":")).encode()


def _in_a(count: int) -> Lists:
    return {CAMPAIGNS: messages(count)}


MIXES = (
    Mix("etl, 1 worker", _in_a),
    Mix("etl, 2 workers", _in_a, workers=2),
    Mix("etl, somebody was forgotten before the calls", _in_a, forgotten="2015-01-01"),
    Mix("etl, somebody was forgotten since the calls", _in_a, forgotten="2016-01-01"),
    Mix("etl, 1 % duplicates", lambda count: {CAMPAIGNS: repeating(messages(count))}),
    Mix("etl, 100 % duplicates", _in_a, stored=_in_a),
    Mix("etl, numbers as text", lambda count: {CAMPAIGNS: program_messages(count)}),
    Mix("etl, dialect B", lambda count: {CAMPAIGNS: api_messages(count)}),
    Mix("etl, both dialects of each call", lambda count: {CAMPAIGNS: in_both_dialects(count)}),
    Mix("etl, stored calls completed from a second list", lambda count: {CDRS: api_messages(count)}, stored=_in_a),
    Mix("etl, real dialler's mix", of_the_dialler),
    Mix("etl, real dialler's mix, 2 workers", of_the_dialler, workers=2),
    Mix("etl, around a midnight", lambda count: {CAMPAIGNS: around_midnight(count)}),
)
# Where there is a compiled decoder, which all other lines have then.
BY_PYTHON = Mix("etl, 1 worker, Python's decoder", _in_a, settings=PYTHONS)
