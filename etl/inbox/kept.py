"""Kept claims: what was acknowledged lately, in case Postgres forgets it.

    {source}:claim:<batch_id> ──ack──▶ {source}:kept:<batch_id> ──time is over, memory gets short──▶ deleted
                    ▲                          │ Postgres has forgotten the claim
                    └──────────recall──────────┘

A recalled claim is one whose lease has run out: it's adopted and loaded under its own batch_id, so what Postgres has of
it after all takes effect once. The entries and numbers that outlive the messages say what can't be recalled.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from etl.ids import time_of
from etl.inbox.claims import Source

# Entries that are read or deleted at once.
CHUNK = 1_000
FEW = 100
KEPT_BYTES = "kept bytes"


class Kept(NamedTuple):
    """An acknowledged claim. Its messages take about so many `bytes` of Redis; 0 if they weren't kept."""

    batch_id: UUID
    bytes: int
    acked_ms: float  # Unix ms, by Redis' clock


class Acked(NamedTuple):
    """How many claims and messages were acknowledged, and are not recalled."""

    claims: int
    messages: int


class KeptClaims:
    """Those of one source. Every method may raise `Outage` and `ConfigurationError`."""

    def __init__(self, source: Source) -> None:
        self.key = source.key
        self._source = source
        self._entries = source.kept_registry
        self._numbers = source.acked
        self._client: Any = source.client

    def chunks(self) -> Iterator[list[Kept]]:
        """All of them in the order of acknowledging, whether their messages are still there or not."""
        seen: set[UUID] = set()
        start = "-inf"
        while True:
            with self._source.translated():
                found = self._client.zrangebyscore(
                    self._entries, start, "+inf", start=0, num=CHUNK + len(seen), withscores=True
                )
            entries = [entry for member, at in found if (entry := _parse(member, at))]
            fresh = [entry for entry in entries if entry.batch_id not in seen]
            if not fresh:
                return
            yield fresh
            # By time, not by place: meanwhile the oldest may be deleted. Those of the last moment are met twice.
            start = repr(fresh[-1].acked_ms)
            seen = {entry.batch_id for entry in entries if entry.acked_ms == fresh[-1].acked_ms}

    def oldest(self) -> list[Kept]:
        """A few."""
        with self._source.translated():
            found = self._client.zrange(self._entries, 0, FEW - 1, withscores=True)
        return [entry for member, at in found if (entry := _parse(member, at))]

    def count(self) -> int:
        """Of the entries."""
        with self._source.translated():
            return int(self._client.zcard(self._entries))

    def bytes(self) -> int:
        """What all messages take, about."""
        with self._source.translated():
            return int(self._client.zscore(self._numbers, KEPT_BYTES) or 0)

    def acked(self) -> dict[date, Acked]:
        """By the UTC day of the claim."""
        with self._source.translated():
            found: list[tuple[bytes, float]] = self._client.zrange(self._numbers, 0, -1, withscores=True)
        numbers = {member.decode(errors="replace"): int(number) for member, number in found}
        days = {
            day for member in numbers for what, _, day in [member.partition(":")] if what == "claims" and _is_day(day)
        }
        return {
            date.fromisoformat(day): Acked(numbers[f"claims:{day}"], numbers.get(f"messages:{day}", 0)) for day in days
        }

    def settle(self, day: date, acked: Acked) -> None:
        """From now on these are the numbers of that day: what is missing was told."""
        numbers = {f"claims:{day}": acked.claims, f"messages:{day}": acked.messages}
        with self._source.translated():
            self._client.zadd(self._numbers, numbers, xx=True)

    def recall(self, entry: Kept) -> int:
        """Make it a claim again; returns how many messages that has, 0 if they are gone."""
        batch_id = entry.batch_id
        keys = [
            self._source.kept_list(batch_id),
            self._source.claim_list(batch_id),
            self._source.registry,
            self._entries,
            self._numbers,
        ]
        return int(self._source.run("recall", keys, [_member(entry), f"{batch_id}@recalled", day_of(batch_id)]))

    def drop(self, entries: Sequence[Kept]) -> int:
        """Delete their messages and what is noted of them; returns how many bytes that frees, about."""
        lists = [self._source.kept_list(entry.batch_id) for entry in entries]
        return int(self._source.run("drop", [self._entries, self._numbers, *lists], [*map(_member, entries)]))

    def now_ms(self) -> float:
        """By Redis' clock."""
        with self._source.translated():
            return float(self._source.now())


def day_of(batch_id: UUID) -> str:
    """The UTC day of a claim."""
    return time_of(batch_id).date().isoformat()


def _member(entry: Kept) -> str:
    return f"{entry.batch_id}@{entry.bytes}"


def _parse(member: bytes, at: float) -> Kept | None:
    """None if another program wrote it."""
    text, _, size = member.decode(errors="replace").partition("@")
    try:
        return Kept(UUID(text), int(size), at)
    except ValueError:
        return None


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
