"""Kept claims: what was acknowledged lately, in case Postgres forgets it.

    {source}:claim:<batch_id> ──ack──▶ {source}:kept:<batch_id> ──time is over, memory gets short──▶ deleted
                    ▲                          │ Postgres has forgotten the claim
                    └──────────recall──────────┘

A recalled claim is one whose lease has run out: it's adopted and loaded under its own batch_id, so what Postgres has of
it after all takes effect once. The entries and numbers that outlive the messages say what can't be recalled.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from etl.ids import unix_ms_of
from etl.inbox.claims import Source, batch_id_of, claimed_as, day_of

# Entries that are read or deleted at once.
CHUNK = 1_000
FEW = 100
KEPT_BYTES = "kept bytes"
_SIZE = re.compile("0|[1-9][0-9]{0,15}")


class Kept(NamedTuple):
    """An acknowledged claim. Its messages take about so many `bytes` of Redis; 0 if they weren't kept."""

    batch_id: UUID
    bytes: int
    acked_ms: float  # Unix ms, by Redis' clock


class Acked(NamedTuple):
    """How many claims and messages were acknowledged, and are not recalled."""

    claims: int
    messages: int


class Account(NamedTuple):
    """What was acknowledged, by the UTC day of the claim, and how many claims were recalled and aren't settled yet.
    `version` changes when something is recalled or settled. What isn't counted, though it may be loaded any moment: the
    `open` claims, and those made after the one of `last_ms`, Unix ms, None if that isn't known."""

    version: int
    days: dict[date, Acked]
    recalled_claims: int
    open: frozenset[UUID]
    last_ms: int | None


class Noticed(NamedTuple):
    """That something was recalled or lost was noticed `at` this time, in Unix microseconds; by then so much was
    recalled, and not settled, made from `first_ms` to `last_ms`, in Unix ms; 0 if nothing was."""

    at: int
    claims: int
    messages: int
    first_ms: int
    last_ms: int


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
        seen: set[bytes] = set()
        start = "-inf"
        while True:
            with self._source.translated():
                found = self._client.zrangebyscore(
                    self._entries, start, "+inf", start=0, num=CHUNK + len(seen), withscores=True
                )
            fresh = [(member, at) for member, at in found if member not in seen]
            if not fresh:
                return
            yield [entry for member, at in fresh if (entry := _parse(member, at))]
            # By time, not by place: meanwhile the oldest may be deleted. Those of the last moment are met twice.
            start = repr(fresh[-1][1])
            seen = {member for member, at in found if at == fresh[-1][1]}

    def oldest(self) -> list[Kept]:
        """A few."""
        for first in itertools.count(0, FEW):
            with self._source.translated():
                found = self._client.zrange(self._entries, first, first + FEW - 1, withscores=True)
            entries = [entry for member, at in found if (entry := _parse(member, at))]
            if entries or not found:
                return entries
        raise AssertionError

    def acked(self) -> Account:
        """What was, and isn't recalled or settled."""
        keys = [self._numbers, self._source.registry, self._source.last]
        found, registered, last = self._source.run("acked", keys, [])
        scored = zip(found[::2], found[1::2], strict=True)
        numbers = {member.decode(errors="replace"): int(float(score)) for member, score in scored}
        days = {
            day for member in numbers for what, _, day in [member.partition(":")] if what == "claims" and _is_day(day)
        }
        acked = {day: Acked(numbers[f"claims:{day}"], numbers.get(f"messages:{day}", 0)) for day in days}
        recalled = numbers.get("recalled claims", 0) + numbers.get("noticed claims", 0)
        days_acked = {date.fromisoformat(day): each for day, each in acked.items()}
        open_claims = frozenset(filter(None, (batch_id_of(member) for member in registered)))
        last_ms = int(float(last)) if last else None
        return Account(numbers.get("version", 0), days_acked, recalled, open_claims, last_ms)

    def notice(self, account: Account) -> Noticed | None:
        """The same for everybody until it's settled. None if something was recalled or settled since."""
        found = self._source.run("notice", [self._numbers], [account.version])
        return Noticed(*map(int, found)) if found else None

    def settle(self, noticed: int, lacks: Mapping[date, Acked]) -> None:
        """What was recalled and what is lacking was told: it isn't counted any more, unless another process has
        settled it. `noticed` as `notice` gave it."""
        lowered = [
            part
            for day, each in lacks.items()
            for part in (each.claims, f"claims:{day}", each.messages, f"messages:{day}")
        ]
        self._source.run("settle", [self._numbers], [noticed, *lowered])

    def recall(self, entry: Kept) -> int:
        """Make it a claim again; returns how many messages that has, 0 if they are gone, -1 if it is one already."""
        batch_id = entry.batch_id
        keys = [
            self._source.kept_list(batch_id),
            self._source.claim_list(batch_id),
            self._source.registry,
            self._entries,
            self._numbers,
        ]
        about = [_member(entry), f"{batch_id}@recalled", day_of(batch_id), unix_ms_of(batch_id)]
        return int(self._source.run("recall", keys, about))

    def drop(self, entries: Sequence[Kept]) -> int:
        """Delete their messages and what is noted of them; returns how many bytes that frees, about."""
        lists = [self._source.kept_list(entry.batch_id) for entry in entries]
        keys = [self._entries, self._numbers, self._source.last, *lists]
        return int(self._source.run("drop", keys, [*map(_member, entries)]))

    def now_ms(self) -> float:
        """By Redis' clock."""
        with self._source.translated():
            return float(self._source.now())


def _member(entry: Kept) -> str:
    return f"{entry.batch_id}@{entry.bytes}"


def _parse(member: bytes, at: float) -> Kept | None:
    """None if another program wrote it: only what is spelled as ours is can be deleted as ours."""
    text, _, size = member.decode(errors="replace").partition("@")
    batch_id = claimed_as(text)
    if batch_id is None or not _SIZE.fullmatch(size):
        return None
    return Kept(batch_id, int(size), at)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
