"""What the compiled decoder is compared with: the Python decoder's CDRs as rows of Postgres' binary COPY."""

from collections.abc import Iterable, Sequence
from datetime import UTC, tzinfo
from uuid import UUID

import psycopg
from psycopg import _copy_base, adapt, pq
from psycopg.types.string import BytesBinaryDumper

from etl.store import connection, copy
from etl.store.tables import cdrs
from etl.wire.cdr import TOLERANCE, Cdr
from etl.wire.decode import Decoding
from etl.wire.packed import REST, ROW, Packed, Packer
from etl.wire.times import MICROSECONDS_PER_DAY

BATCH = UUID("01970000-0000-7000-8000-000000000042")
LATEST = 860_000_000_000_000  # microseconds since 2000: in 2027
LIMIT = 20_000  # bytes
SOURCE = "dialler"

_TYPES = [copy._written_as(cdrs.c[name]) for name in Cdr._fields]


class _Context:
    """Of a session of the store, without a server."""

    connection = None

    def __init__(self) -> None:
        self.adapters = adapt.AdaptersMap(psycopg.adapters)
        self.adapters.register_dumper(connection._Json, connection._JsonText)
        self.adapters.register_dumper(bytes, BytesBinaryDumper)


class Rows:
    """Rows as psycopg writes them."""

    def __init__(self) -> None:
        self._transformer = adapt.Transformer(_Context())
        oids = [psycopg.adapters.types.get_oid(name) for name in _TYPES]
        self._transformer.set_dumper_types(oids, pq.Format.BINARY)

    def written(self, row: Sequence[object]) -> bytes:
        out = bytearray()
        _copy_base.format_row_binary(row, self._transformer, out)
        return bytes(out)


def packer_of(packer: type[Packer], oldest: int = 0, zone: tzinfo = UTC) -> Packer:
    return packer(SOURCE, BATCH.bytes, oldest, LATEST, LIMIT, zone)


def decoding(messages: Sequence[bytes], oldest: int = 0, zone: tzinfo = UTC) -> Decoding:
    key = "enigma:notifications:campaigns"
    records = Decoding(
        messages,
        source=SOURCE,
        key=key,
        batch_id=BATCH,
        captured_at=LATEST,
        latest=LATEST,
        max_message_bytes=LIMIT,
        zone=zone,
    )
    return records.not_before(oldest)


def plain_rows(messages: Sequence[bytes], oldest: int = 0, zone: tzinfo = UTC) -> dict[int, Cdr]:
    """By index, those CDRs of the Python decoder that a compiled one may have: nothing is set aside."""
    decoded = decoding(messages, oldest, zone).finish()
    return {
        position: cdr
        for position, cdr in zip(decoded.cdrs_at, decoded.cdrs, strict=True)
        if position not in decoded.set_aside_at
    }


def check_alone(packed: Packed, cdr: Cdr | None, rows: Rows) -> bool:
    """Whether the only message of `packed` was plain. Raises AssertionError if it's another CDR than Python's."""
    if packed.became == bytes([REST]):
        assert (bytes(packed.rows), [*packed.ends], [*packed.into], [*packed.dialed_at]) == (b"", [0], [-1], [0])
        return False
    assert packed.became == bytes([ROW])
    assert cdr, "packed, though to Python it's no CDR, or one with values set aside"
    assert bytes(packed.rows) == rows.written(cdr), f"another row than {cdr}"
    assert ([*packed.ends], [*packed.into], [*packed.dialed_at]) == ([len(packed.rows)], [0], [cdr.dialed_at])
    assert TOLERANCE < cdr.dialed_at % MICROSECONDS_PER_DAY < MICROSECONDS_PER_DAY - TOLERANCE, "near midnight"
    return True


def alone(packer: Packer, messages: Sequence[bytes], oldest: int, zone: tzinfo, rows: Rows) -> Iterable[bool]:
    """Whether each was plain, packed one by one. Raises AssertionError, with the message, as `check_alone`."""
    expected = plain_rows(messages, oldest, zone)
    for position, message in enumerate(messages):
        try:
            yield check_alone(packer.pack([message]), expected.get(position), rows)
        except AssertionError as error:
            raise AssertionError(f"{message!r}: {error}") from None
