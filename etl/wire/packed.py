"""The plain CDRs of a claim as rows of Postgres' binary COPY, made by the compiled decoder, if there is one. It takes
only messages that it can prove plain, and leaves every other to the Python decoder, `etl.wire.cdr`, which stays the
definition of what a message means.

What is joined here is what `etl.store.merge` would merge without a contradiction. The library is called through
ctypes, which releases the GIL: other threads go on meanwhile.
"""

import ctypes
import io
import struct
import threading
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from functools import cache
from typing import Literal, NamedTuple

from etl import __version__, logs
from etl.errors import ConfigurationError
from etl.wire.cdr import TOLERANCE
from etl.wire.stamp import FOLDER, LIBRARY, stamp
from etl.wire.times import MICROSECONDS_PER_DAY

_PATH = FOLDER / LIBRARY
log = logs.get()

# What became of a message. REST: it's not plain, and the Python decoder's. ROW: it has a row. GAINED: an earlier
# message's row has it too, and it added something to that. SAME: likewise, and it added nothing.
REST, ROW, GAINED, SAME = 0, 1, 2, 3

# Bytes of messages, and of rows, that a thread keeps for its next claim: to get as much afresh from the system takes
# half as long as decoding. A claim that needs more is an unusual one.
_MOST_KEPT = 16 * 1024 * 1024
_kept = threading.local()

# `auto`: the compiled decoder, where there is one.
Decoder = Literal["auto", "python", "compiled"]


class Packed(NamedTuple):
    """The plain CDRs of a claim's messages as rows of Postgres' binary COPY, without its header and trailer.

    All but `rows` are by message. Of messages that are not plain, all those of their call that contradict one another
    included, `into` is -1 and `dialed_at` is 0. A call that was dialled within `TOLERANCE` of a midnight isn't plain.
    """

    rows: bytes  # one after the other, in the order of the first message of each
    ends: Sequence[int]  # where its row ends within `rows`; equal to the one before (at first 0): no row of its own
    became: bytes  # REST, ROW, GAINED or SAME
    into: Sequence[int]  # the index of the message in whose row it is; its own for ROW
    dialed_at: Sequence[int]  # its own, in microseconds since 2000

    def rest(self) -> list[int]:
        """Indexes of the messages that aren't packed."""
        return [index for index, what in enumerate(self.became) if what == REST] if REST in self.became else []

    def how_many(self) -> int:
        """Messages that are packed."""
        return len(self.became) - self.became.count(REST)

    def moments(self, *kinds: int) -> Sequence[int]:
        """When the calls of the messages were dialled that became one of these; by default, that are packed."""
        wanted = bytes(kinds or (ROW, GAINED, SAME))
        if not self.became.strip(wanted):
            return self.dialed_at
        return [at for at, what in zip(self.dialed_at, self.became, strict=True) if what in wanted]

    def days(self, kind: int) -> Mapping[int, int]:
        """How many messages of each day became that; days are since 2000."""
        if kind not in self.became:
            return {}
        moments = self.moments(kind)
        first, last = min(moments) // MICROSECONDS_PER_DAY, max(moments) // MICROSECONDS_PER_DAY
        return {first: len(moments)} if first == last else Counter(at // MICROSECONDS_PER_DAY for at in moments)


class _Settings(ctypes.Structure):
    """As `Settings` of native/src/lib.rs."""

    _fields_ = (
        ("source", ctypes.c_char_p),
        ("source_bytes", ctypes.c_size_t),
        ("batch_id", ctypes.c_uint8 * 16),
        ("oldest", ctypes.c_int64),
        ("latest", ctypes.c_int64),
        ("near_midnight", ctypes.c_int64),
        ("max_message_bytes", ctypes.c_size_t),
        ("utc", ctypes.c_uint8),
    )


class _Claim(ctypes.Structure):
    """As `Claim` of native/src/lib.rs."""

    _fields_ = (
        ("messages", ctypes.c_void_p),
        ("messages_bytes", ctypes.c_size_t),
        ("lengths", ctypes.c_char_p),
        ("how_many", ctypes.c_size_t),
        ("rows", ctypes.c_void_p),
        ("rows_bytes", ctypes.c_size_t),
        ("ends", ctypes.c_void_p),
        ("became", ctypes.c_void_p),
        ("into", ctypes.c_void_p),
        ("dialed_at", ctypes.c_void_p),
    )


class Packer:
    """Packs claims that share these settings, which are those of a `CdrDecoder` with its `not_before`, and of
    `Decoding`. `packer` says whether there is one."""

    def __init__(
        self, source: str, batch_id: bytes, oldest: int, latest: int, max_message_bytes: int, zone: tzinfo
    ) -> None:
        library = _library()
        if isinstance(library, str):
            raise RuntimeError(library)
        self._library = library
        self._source = source.encode()
        self._settings = _Settings(
            source=self._source,
            source_bytes=len(self._source),
            batch_id=(ctypes.c_uint8 * 16)(*batch_id),
            # The bounds of int64 mean the same as any beyond them.
            oldest=_int64(oldest),
            latest=_int64(latest),
            near_midnight=TOLERANCE,
            max_message_bytes=max_message_bytes,
            utc=zone is UTC,
        )

    def pack(self, messages: Sequence[bytes]) -> Packed:
        """Rows have the columns of `etl.wire.cdr.Cdr`, in their order."""
        how_many = len(messages)
        if not how_many:
            return Packed(b"", (), b"", (), ())
        lengths = struct.pack(f"{how_many}q", *map(len, messages))  # twice as fast as an array
        zeros = bytes(8 * how_many)
        ends, into, dialed_at = (array("q", zeros) for _ in range(3))
        became = bytearray(how_many)
        together, size = _together(messages)
        with together:
            rows = _buffer(self._library.plain_cdrs_room(size, how_many, len(self._source)))
            claim = _Claim(
                messages=_address(together),
                messages_bytes=size,
                lengths=lengths,
                how_many=how_many,
                rows=_address(rows),
                rows_bytes=len(rows),
                ends=ends.buffer_info()[0],
                became=_address(became),
                into=into.buffer_info()[0],
                dialed_at=dialed_at.buffer_info()[0],
            )
            written = self._library.plain_cdrs_pack(ctypes.byref(self._settings), ctypes.byref(claim))
        if written < 0:  # a mistake of ours, and no reason to stop: Python decodes the claim
            log.error("decoder_failed", result=written, messages=how_many)
            nothing = array("q", zeros)
            return Packed(b"", nothing, bytes(how_many), array("q", [-1]) * how_many, nothing)
        return Packed(bytes(memoryview(rows)[:written]), ends, bytes(became), into, dialed_at)


def packer(decoder: Decoder = "auto") -> type[Packer] | None:
    """None where Python is to decode everything. Raises `ConfigurationError` if the compiled decoder is demanded and
    can't be had."""
    if decoder == "python":
        return None
    why = why_none()
    if why is None:
        return Packer
    if decoder == "compiled":
        raise ConfigurationError("ETL-117", f"ETL_DECODER=compiled, and the compiled decoder can't be used: {why}")
    if is_built():
        log.warning("decoder_refused", error=why)
    return None


def is_built() -> bool:
    """Whether there is a library at all, be it of use or not."""
    return _PATH.exists()


def why_none() -> str | None:
    """Why there is no compiled decoder to be used; None if there is."""
    library = _library()
    return library if isinstance(library, str) else None


@cache
def _library() -> ctypes.CDLL | str:
    """Or why there is none."""
    if not is_built():
        return "etl was installed where cargo isn't"
    try:
        library = ctypes.CDLL(str(_PATH))
        library.plain_cdrs_stamp.restype = ctypes.c_char_p
        built_from, expected = library.plain_cdrs_stamp().decode(), stamp(__version__)
    except (OSError, AttributeError, UnicodeDecodeError) as error:
        return f"the library can't be loaded: {error}"
    if built_from != expected:
        return f"the library was built from {built_from}, and the source beside it is {expected}"
    library.plain_cdrs_room.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)
    library.plain_cdrs_room.restype = ctypes.c_int64
    library.plain_cdrs_pack.argtypes = (ctypes.POINTER(_Settings), ctypes.POINTER(_Claim))
    library.plain_cdrs_pack.restype = ctypes.c_int64
    return library


def _together(messages: Sequence[bytes]) -> tuple[memoryview, int]:
    """One after the other, and how many bytes they are, with one more behind them. Release it before the next call in
    this thread, which may give the same memory."""
    memory: io.BytesIO = getattr(_kept, "messages", None) or io.BytesIO()
    memory.seek(0)
    memory.writelines(messages)
    size = memory.tell()
    memory.write(b"\0")
    _kept.messages = memory if size <= _MOST_KEPT else None
    return memory.getbuffer(), size


def _buffer(size: int) -> bytearray:
    """At least as large. The next call in this thread may give the same."""
    buffer: bytearray = getattr(_kept, "buffer", bytearray())
    if len(buffer) < size:
        buffer = bytearray(size)
        if size <= _MOST_KEPT:
            _kept.buffer = buffer
    return buffer


def _address(buffer: bytearray | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _int64(value: int) -> int:
    return max(-(2**63), min(value, 2**63 - 1))
