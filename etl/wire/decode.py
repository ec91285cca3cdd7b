"""A claim's messages, in order, to what becomes of each: CDR, event or dead letter. No message makes this raise.

Decoding is lazy, so that Postgres can take the first rows while the next are decoded: half of a claim's time.
"""

import copy
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Self
from uuid import UUID

import msgspec

from etl.wire import cdr, envelope, numbers, spool
from etl.wire.cdr import Cdr, CdrDecoder
from etl.wire.channels import LONGEST, REMEMBERED
from etl.wire.event import Event, ListEvents, Told, check_references, event, heard_on, told
from etl.wire.faults import DeadLetter, Reason, Undecodable
from etl.wire.numbers import ALIKE, EXPONENT, SIGNS
from etl.wire.packed import Packed, Packer
from etl.wire.spool import Heard, Session

_NOT_AS_EXPECTED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Undecodable)
_BACKSLASH = ord("\\")
_dialed_at = itemgetter(Cdr._fields.index("dialed_at"))
# Characters of numbers with an exponent, written out, that a message may have beside twice its own length. It is what
# one number with all the decimals of Postgres' numeric takes; 9 bytes can say as many as 131,072.
WRITTEN_OUT = 16_384 + len("0.")
# So many exponents of at most three digits write out to less than that and their own digits.
_FEW = 16
# Bytes of a message that is remembered: twice a dialler's. All of them together take some 10 MiB at most.
_SHORT = 256


@dataclass(slots=True)
class Decoded:
    """What a claim's messages are. The `…_at` lists give each record's position in the claim."""

    cdrs: list[Cdr] = field(default_factory=list)
    cdrs_at: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    events_at: list[int] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    # By position: the CDR's fields whose values no column can have.
    set_aside_at: dict[int, list[str]] = field(default_factory=dict)
    # Positions of what Postgres refused when it was last written: these CDRs became dead letters.
    refused_at: Collection[int] = ()
    # Positions of events and dead letters that an earlier claim had brought, when they were last written.
    repeated_at: Collection[int] = ()
    # Positions of events that were heard at a time that can't be, and have their claim's.
    misdated_at: set[int] = field(default_factory=set)

    @property
    def set_aside(self) -> Counter[str]:
        """How many values were set aside in `extra`, by field, not counting CDRs that Postgres refused."""
        kept = (fields for position, fields in self.set_aside_at.items() if position not in self.refused_at)
        return Counter(name for fields in kept for name in fields)


@dataclass(slots=True)
class Summary:
    """What is counted of a claim's messages when they themselves may be gone: when the calls were dialled, dead letters
    by reason (without those that Postgres refused, and those of an earlier claim), values set aside by field."""

    dialed_at: list[int] = field(default_factory=list)
    dead: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)

    def add(self, decoded: Decoded) -> None:
        self.dialed_at.extend(map(_dialed_at, decoded.cdrs))
        self.dead.update(str(dead.reason) for dead in decoded.dead if dead.position not in decoded.repeated_at)
        self.set_aside.update(decoded.set_aside)


class Decodable(ABC):
    """A claim to be decoded. The same claim, taken at the same time, decodes to the same records, ids included, however
    often and by whomever it's done."""

    @abstractmethod
    def pieces(self) -> Iterator["Records"]:
        """The claim's records, in order; each piece may be forgotten before the next. May be called again."""

    @abstractmethod
    def prepare(self) -> None:
        """Decode what can be decoded ahead."""

    @abstractmethod
    def summary(self) -> Summary:
        """Of what `pieces` gave when it was last read to its end."""


class Pieces(Decodable):
    """A claim that is never in memory as a whole. What `read` raises comes through `pieces`."""

    def __init__(
        self, read: Callable[[], Iterable[Sequence[bytes]]], decode: Callable[[Sequence[bytes], int], "Records"]
    ) -> None:
        """`read` gives the messages, some at a time; `decode` gets such a piece and how many came before it."""
        self._read = read
        self._decode = decode
        self._summary = Summary()

    def pieces(self) -> Iterator["Records"]:
        self._summary, first = Summary(), 0
        for messages in self._read():
            records = self._decode(messages, first)
            yield records
            records.add_to(self._summary)
            first += len(messages)

    def prepare(self) -> None:
        """Nothing: it would have to be kept."""

    def summary(self) -> Summary:
        return self._summary


class Records(Decodable):
    """Messages being decoded: `packed` are their plain CDRs, if there is a compiled decoder; of all others `stream`
    gives the CDRs one by one, and `finish` everything, once all are read."""

    def __init__(self, messages: Sequence[bytes], max_message_bytes: int) -> None:
        self._messages = messages
        self.first = 0
        self._max_message_bytes = max_message_bytes
        self._start()

    def beginning_at(self, first: int) -> Self:
        """The messages are a piece of a claim, and this is the place of the first of them. Call it before reading."""
        self.first = first
        self._start()
        return self

    def _start(self) -> None:
        self._decoded = Decoded()
        self._rest: Iterator[tuple[int, bytes]] = enumerate(self._messages, self.first)

    def packed(self) -> Packed | None:
        """The plain CDRs. Who asks for them before anything is decoded finds them here, and neither in `stream` nor in
        `finish`; who doesn't ask, there."""
        return None

    def unpack(self) -> None:
        """From now on `stream` and `finish` have everything."""

    def again(self, positions: Sequence[int]) -> list[Cdr]:
        """Of packed messages, given by their positions: each as it would be if it weren't packed."""
        return []

    def stream(self) -> Iterator[Cdr]:
        """All CDRs, in order. Each is decoded once, however often this is read from the start."""
        return chain(self._decoded.cdrs, self._decode())

    @abstractmethod
    def _decode(self) -> Iterator[Cdr]:
        """The CDRs that aren't decoded yet, in order."""

    def message(self, position: int) -> bytes:
        """The message at `position` of the claim, as it was claimed."""
        return self._messages[position - self.first]

    def refused(self, position: int, detail: str) -> DeadLetter:
        """The dead letter that the message at `position` becomes if Postgres refuses its row."""
        return DeadLetter(position, Reason.REFUSED_BY_DATABASE, detail, self.message(position))

    def pieces(self) -> Iterator["Records"]:
        yield self

    def prepare(self) -> None:
        self.packed()
        self.finish()

    def summary(self) -> Summary:
        summary = Summary()
        self.add_to(summary)
        return summary

    def add_to(self, summary: Summary) -> None:
        if packed := self.packed():
            summary.dialed_at.extend(packed.moments())
        summary.add(self._decoded)

    def finish(self) -> Decoded:
        """All records that aren't packed, after decoding what is left."""
        deque(self._decode(), maxlen=0)
        return self._decoded


class Decoding(Records):
    """A claim of one of the dialler's lists."""

    def __init__(
        self,
        messages: Sequence[bytes],
        *,
        source: str,
        key: str,
        batch_id: UUID,
        captured_at: int,
        latest: int,
        max_message_bytes: int,
        zone: tzinfo = UTC,
    ) -> None:
        """`captured_at` is the claim's time, `latest` the last acceptable time of a call, both in microseconds since
        2000; `zone` is where times without an offset are read, see `etl.wire.times.microseconds`."""
        super().__init__(messages, max_message_bytes)
        self._packer: Packer | None = None
        self._packed: Packed | None = None
        self._cdr_decoder = CdrDecoder(source, batch_id.bytes, latest, zone)
        self._list_events = ListEvents(key, batch_id, captured_at)

    def not_before(self, oldest: int) -> Self:
        """Calls that were dialled before this time, in microseconds since 2000, are dead letters. Call it before
        reading."""
        self._cdr_decoder.not_before(oldest)
        return self

    def packing(self, packer: Packer) -> Self:
        """What is plain is packed by it; its settings are the same. Call it before reading."""
        self._packer = packer
        return self

    def packed(self) -> Packed | None:
        if self._packer and self._packed is None:
            self._packed = self._packer.pack(self._messages)
            self._rest = ((self.first + index, self._messages[index]) for index in self._packed.rest())
        return self._packed

    def unpack(self) -> None:
        if self._packer:
            self._packer = self._packed = None
            self._start()

    def again(self, positions: Sequence[int]) -> list[Cdr]:
        alone = copy.copy(self)
        alone.unpack()
        alone._rest = ((position, self.message(position)) for position in positions)
        return list(alone._decode())

    def _decode(self) -> Iterator[Cdr]:
        if self._packed is None:
            self._packer = None  # from now on it would be too late
        decoded = self._decoded
        strict, keep, at = self._cdr_decoder.strict, decoded.cdrs.append, decoded.cdrs_at.append
        limit = self._max_message_bytes
        for position, raw in self._rest:
            # \u0000 is the only JSON that the strict decoder accepts and Postgres can't store. Looking for the single
            # byte first costs nothing, as long as it's given as a number.
            try:
                if (_BACKSLASH not in raw or b"\\u0000" not in raw) and len(raw) <= limit:
                    cdr = strict(raw)
                    keep(cdr)
                    at(position)
                    yield cdr
                    continue
            except _NOT_AS_EXPECTED:
                pass
            self._decode_carefully(position, raw)
            if decoded.cdrs_at and decoded.cdrs_at[-1] == position:
                yield decoded.cdrs[-1]

    def _decode_carefully(self, position: int, raw: bytes) -> None:
        decoded = self._decoded
        try:
            record = _carefully(raw, position, self._cdr_decoder, self._list_events, self._max_message_bytes)
        except Undecodable as fault:
            decoded.dead.append(DeadLetter(position, fault.reason, fault.detail, raw))
            return
        if isinstance(record, Cdr):
            decoded.cdrs.append(record)
            decoded.cdrs_at.append(position)
            if set_aside := self._cdr_decoder.set_aside:
                decoded.set_aside_at[position] = [*set_aside]
        else:
            decoded.events.append(record)
            decoded.events_at.append(position)


class SpoolDecoding(Records):
    """A claim of the spool list: what the listener heard, and its reports about itself. No CDR among them."""

    def __init__(
        self,
        messages: Sequence[bytes],
        *,
        batch_id: UUID,
        captured_at: int,
        latest: int,
        max_message_bytes: int,
    ) -> None:
        """`captured_at` is the claim's time, `latest` the last at which anything can have been heard, both in
        microseconds since 2000. What says a later one was heard by a clock that was wrong, and before the claim: it has
        the claim's time."""
        super().__init__(messages, max_message_bytes)
        self._batch_id = batch_id.bytes
        self._captured_at = captured_at
        self._latest = latest

    def _decode(self) -> Iterator[Cdr]:
        decoded = self._decoded
        keep, at = decoded.events.append, decoded.events_at.append
        for position, entry in self._rest:
            raw, channel = entry, None
            try:
                heard = spool.unpack(entry)
                if isinstance(heard, Session):
                    decoded.sessions.append(heard)
                    continue
                raw, channel = heard.message, heard.channel
                if heard.captured_at > self._latest:
                    heard = msgspec.structs.replace(heard, captured_at=self._captured_at)
                    decoded.misdated_at.add(position)
                keep(_heard_event(heard, self._batch_id, self._max_message_bytes))
                at(position)
            except Undecodable as fault:
                decoded.dead.append(DeadLetter(position, fault.reason, fault.detail, raw, channel))
        yield from ()

    def refused(self, position: int, detail: str) -> DeadLetter:
        heard = spool.unpack(self.message(position))
        letter = super().refused(position, detail)
        return letter._replace(raw=heard.message, channel=heard.channel) if isinstance(heard, Heard) else letter


def _heard_event(heard: Heard, batch_id: bytes, max_bytes: int) -> Event:
    raw, channel = heard.message, heard.channel
    _check_size(raw, max_bytes)
    tell = _told_again if len(raw) <= _SHORT and len(channel) <= LONGEST else _told
    return event(tell(channel, raw), heard.event_id, heard.captured_at, batch_id)


def _told(channel: str, raw: bytes) -> Told:
    try:
        what = told(envelope.split(raw), heard_on(channel))
        _check_event(what, raw)
    except Undecodable:
        raise
    except _NOT_AS_EXPECTED as error:
        envelope.check(raw)
        raise Undecodable(
            Reason.NOT_AN_ENVELOPE, "a field is there twice, and one of its values is not of its kind"
        ) from error
    return what


# A dialler says the same of its agents again and again, without a time: what it meant is remembered.
_told_again = lru_cache(REMEMBERED)(_told)


def _check_event(what: Told, raw: bytes) -> None:
    envelope.check_storable(raw)
    check_references(what)
    _check_exponents(what.payload)


def _check_exponents(document: bytes) -> None:
    if document.translate(ALIKE, SIGNS).find(EXPONENT) >= 0:
        _check_written_out(document)


def _check_size(raw: bytes, max_bytes: int) -> None:
    if len(raw) > max_bytes:
        raise Undecodable(Reason.TOO_LARGE, f"{len(raw)} bytes, and the limit is {max_bytes}")


def _check_written_out(document: bytes) -> None:
    """Raises `Undecodable` if Postgres' text form of it would be many times as long: export, prune and erasure read a
    day's texts, and Postgres gives none of more than 1 GiB. With the blanks that it adds, a text has at most four
    times its document's bytes, and `WRITTEN_OUT`."""
    alike = document.translate(ALIKE, SIGNS)
    if EXPONENT + b"000" not in alike and alike.count(EXPONENT) <= _FEW:
        return  # most likely an id with digits like an exponent
    written, most = numbers.written_out(document), WRITTEN_OUT + 2 * len(document)
    if written > most:
        raise Undecodable(
            Reason.OUT_OF_RANGE,
            f"written out, its numbers with an exponent have {written:,} characters, and the limit is {most:,}",
        )


def _carefully(raw: bytes, position: int, cdrs: CdrDecoder, events: ListEvents, max_bytes: int) -> Cdr | Event:
    _check_size(raw, max_bytes)
    try:
        message = envelope.split(raw)
        record = cdrs.open(message) if message.type in cdr.CDR_TYPES else events.told(message)
    except _NOT_AS_EXPECTED:
        raise _diagnose(raw, cdrs) from None
    if isinstance(record, Told):
        _check_event(record, raw)
        return events.event(record, position)
    envelope.check_storable(raw)
    if record.extra is not None:
        _check_exponents(record.extra)
    return record


def _diagnose(raw: bytes, cdrs: CdrDecoder) -> Undecodable:
    """The first fault of a message: in its bytes, then in the envelope, then in the fields of a CDR."""
    try:
        envelope.check(raw)
        message = envelope.split(raw)
        cdr.check_fields(message.payload)
        cdrs.open(message)
    except Undecodable as fault:
        return fault
    except _NOT_AS_EXPECTED:
        pass
    return Undecodable(Reason.BAD_TYPE, "a field is there twice, and one of its values is not of its kind")
