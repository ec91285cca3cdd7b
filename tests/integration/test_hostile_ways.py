"""Claims that are made to be brought in otherwise by a quicker way than by the careful one."""

import itertools
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from etl.ids import uuid7
from etl.store import writer as writing
from etl.store.ledger import Books
from etl.store.rows import Way
from etl.store.writer import Batch, Writer
from etl.wire.dated import Dated
from etl.wire.decode import Decodable, Decoding, Pieces
from etl.wire.erasure import hash_of
from etl.wire.packed import packer
from etl.wire.times import from_datetime
from tests.store import at_once, batch, engine, write
from tests.world import CAMPAIGNS, DECODER, DIALED_AT, Archive, cdr

_systems = itertools.count(1)
_MIDNIGHT = 1_424_390_400
_VALUES = (
    "call_ref, leg, dialed_on, dialed_at, answered_at, ended_at, call_time, end_code, number, campaign_ref, end_reason,"
    " extra::text, batch_id"
)


def _claim(messages: Sequence[bytes], batch_id: UUID, system: str, piece: int, number: int, oldest: int = 0) -> Batch:
    now = datetime.now(UTC)
    latest, most = from_datetime(now + timedelta(days=1)), 1024 * 1024

    def decode(piece: Sequence[bytes], captured_at: int, first: int) -> Decoding:
        decoding = Decoding(
            piece,
            source=system,
            key=CAMPAIGNS,
            batch_id=batch_id,
            captured_at=captured_at,
            latest=latest,
            max_message_bytes=most,
        ).not_before(oldest)
        if packing := packer(DECODER):
            decoding.packing(packing(system, batch_id.bytes, oldest, latest, most, UTC))
        return decoding.beginning_at(first)

    def records(captured_at: int) -> Decodable:
        if not piece:
            return decode(messages, captured_at, 0)
        return Pieces(
            lambda: (messages[at : at + piece] for at in range(0, len(messages), piece)),
            lambda some, first: decode(some, captured_at, first),
        )

    return Batch(
        batch_id,
        "test",
        CAMPAIGNS,
        now,
        len(messages),
        Dated(records, from_datetime(now)),
        server=system,
        number=number,
    )


def _message(r: random.Random) -> bytes:
    kind = r.random()
    if kind < 0.06:
        return r.choice([b"junk", b'{"type": "status", "payload": {"status": "x"}}', b'{"type": "cdr", "payload": {}}'])
    payload: dict[str, Any] = {
        "call_ref": r.choice([1, 2, "2", 3, 4, 5]),
        "dialed_at": r.choice(
            [DIALED_AT] * 6
            + [DIALED_AT + 3, DIALED_AT + 60, _MIDNIGHT - 1, _MIDNIGHT, _MIDNIGHT + 9, _MIDNIGHT + 11, _MIDNIGHT - 12]
            + ["2015-02-19T21:06:00.250Z", "2015-02-19T21:06:00.750Z"]
        ),
    }

    def maybe(name: str, *values: Any, often: float = 0.3) -> None:
        if r.random() < often:
            payload[name] = r.choice(values)

    maybe("call_time", None, 41, "41", 42, 41.0, "", "x")
    maybe("number", None, "0741484437", "0741484437", "", 741484437)
    maybe("ended_at", "2015-02-19 23:06:56 +0200", "2015-02-19T23:06:56.5+02:00", "2015-02-19T23:06:56.6+02:00")
    maybe("callee_answered_at", "2015-02-19 23:06:56", 1424379970, 1424379970000, "1424379970", 1424379970.5)
    maybe("ref", None, "2040", 2040)
    maybe("end_code", 16, "16", "16x", "", 17, often=0.2)
    maybe("isdn_code", 16, "17", often=0.1)
    maybe("disposition", "ANSWER", "CANCEL", 'odd"\u00e9', often=0.15)
    maybe("call_trail_number", 1, 2, "1", None, often=0.15)
    maybe("call_type", None, 1, "1", often=0.15)
    maybe("note", None, 1, {}, {"a": None}, {"a": 1}, [1], "\u0001\ud83d\ude00", often=0.2)
    maybe("other", None, "x", False, often=0.1)
    return json.dumps({"type": r.choice(["cdr", "call_update", None]), "payload": payload}).encode()


def _written(writer: Writer, claim: Batch, way: Way) -> Books | None:
    def write_(taken: Any, dated: Batch, way: Way) -> Books:
        return writing._write(taken, dated, lambda: None, way)

    return writer._persist(claim, write_, way=way)


def _left(archive: Archive, table: str, columns: str, where: str, system: str, ids: dict[UUID, int]) -> list[Any]:
    rows = archive.rows(f"SELECT {columns} FROM {table} WHERE {where} = %s", system)
    return sorted(json.dumps([ids.get(v, str(v)) for v in row.values()]) for row in rows)


@pytest.mark.parametrize("seed", range(5))
def test_given_any_claims_in_any_order_then_ways_agree(archive: Archive, writer: Writer, seed: int) -> None:
    _agree(archive, writer, seed, 12)


def _agree(archive: Archive, writer: Writer, seed: int, examples: int) -> None:
    r = random.Random(seed)
    for example in range(examples):
        claims = [[_message(r) for _ in range(r.randint(1, 9))] for _ in range(r.randint(1, 4))]
        ranks = r.sample(range(10), len(claims))
        piece, numbers = r.choice([0, 2, 3]), [r.choice([100 * n, 100]) for n in range(len(claims))]
        left = []
        for way in Way:
            system = f"system-{seed}-{example}-{way}-{next(_systems)}"
            base = 1_700_000_000_000 + next(_systems) * 1000
            ids = {uuid7(base + rank): rank for rank in ranks}
            books = [
                _written(writer, _claim(messages, batch_id, system, piece, number), way)
                for messages, batch_id, number in zip(claims, ids, numbers, strict=True)
            ]
            events = _left(
                archive,
                "audit_events JOIN load_batches USING (batch_id)",
                "event_type, batch_id",
                "server",
                system,
                ids,
            )
            left.append(
                (
                    books,
                    _left(archive, "cdrs", _VALUES, "source", system, ids),
                    _left(archive, "cdr_revisions", _VALUES + ", replaced_by", "source", system, ids),
                    events,
                    _left(archive, "dead_letters", "position, reason, detail, batch_id", "server", system, ids),
                )
            )
        for way, quicker in zip(Way, left[:-1], strict=False):
            for ours, careful in zip(quicker, left[-1], strict=True):
                assert ours == careful, (seed, example, way, piece, numbers, ranks, claims)


@pytest.mark.parametrize("way", [Way.CLASSIFIED, Way.CAREFUL])
def test_given_somebodys_table_of_that_name_then_no_call_is_lost(archive: Archive, writer: Writer, way: Way) -> None:
    """Who may make tables in the archive's schema, as everybody could in `public` before Postgres 15, isn't obeyed."""
    write(writer, cdr(1))
    with psycopg.connect(archive.database_url, autocommit=True) as other:
        other.execute("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        for name, more in (("arrived_cdrs", ""), ("incoming_cdrs", ", ADD round integer")):
            other.execute(f"CREATE TABLE {name} (LIKE cdrs)")
            other.execute(f"ALTER TABLE {name} DROP COLUMN loaded_at, ADD position integer{more}")
            other.execute(f"CREATE TRIGGER t BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION nothing()")
            other.execute(f"GRANT ALL ON {name} TO PUBLIC")

    assert _written(writer, batch([cdr(1), cdr(2)]), way) == Books(claimed=2, inserted=1, unchanged=1)
    assert archive.value("SELECT count(*) FROM cdrs") == 2


def test_given_an_older_claim_of_another_spelling_then_as_the_careful_way(archive: Archive, writer: Writer) -> None:
    left = []
    for way in (Way.CLASSIFIED, Way.CAREFUL):
        system = f"spelt-{way}"
        old, new = uuid7(1_700_000_000_000), uuid7(1_700_000_000_001)
        _written(writer, batch([cdr(1, note=1)], new, system), way)
        _written(writer, batch([cdr(1, note=1.0, uuid="u")], old, system), way)
        left.append(archive.rows("SELECT extra::text, uuid FROM cdrs WHERE source = %s", system))
    assert left[0] == left[1] == [{"extra": '{"note": 1}', "uuid": "u"}]


_TRIGGER = """
CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.call_ref = '3' AND NEW.call_time = 42 THEN RAISE 'no'; END IF;
    IF NEW.call_ref = '5' AND TG_OP = 'UPDATE' AND NEW.campaign_ref IS NOT NULL THEN RAISE 'never'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER odd BEFORE INSERT OR UPDATE ON cdrs FOR EACH ROW EXECUTE FUNCTION odd();
ALTER TABLE cdrs ADD CHECK (end_code <> 17);
"""


@pytest.mark.parametrize("seed", range(2))
def test_given_an_administrators_trigger_then_ways_agree(archive: Archive, writer: Writer, seed: int) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as other:
        other.execute(_TRIGGER)
    _agree(archive, writer, seed, 12)


@pytest.mark.parametrize("seed", range(2))
def test_given_receipts_then_ways_agree(archive: Archive, database_url: str, seed: int) -> None:
    with psycopg.connect(archive.database_url, autocommit=True) as other:
        for number in ("0741484437",):
            other.execute(
                "INSERT INTO forgotten (subject, hash, worker, began_at) VALUES ('number', %s, 'w', to_timestamp(%s))",
                (hash_of("k" * 32, number), DIALED_AT + 3),
            )
    with engine(database_url) as connections:
        _agree(archive, Writer(connections, "k" * 32), seed, 12)


def test_given_workers_that_cross_then_nothing_is_lost(archive: Archive, database_url: str) -> None:
    """Each completes what another contradicts, in claims that come in any order."""
    r = random.Random(7)
    claims = [
        [
            cdr(
                n, **{r.choice(["hold_time", "ring_time"]): r.choice([1, 2]), "uuid": "u" if r.random() < 0.5 else None}
            )
            for n in r.sample(range(300), 200)
        ]
        for _ in range(8)
    ]
    with engine(database_url) as connections:
        write(Writer(connections), cdr("the day's partition"))
        writers = [Writer(connections) for _ in claims]
        for writer in writers[::2]:
            writer._repeating.add(CAMPAIGNS)
        at_once(*(partial(w.write, batch(c)) for w, c in zip(writers, claims, strict=True)))
    wanted = {
        (json.loads(m)["payload"]["call_ref"], k, v)
        for c in claims
        for m in c
        for k, v in json.loads(m)["payload"].items()
        if k in ("hold_time", "ring_time") and v
    }
    kept = set()
    for t in ("cdrs", "cdr_revisions"):
        for row in archive.rows(f"SELECT call_ref, hold_time, ring_time FROM {t} WHERE call_ref ~ '^[0-9]+$'"):
            kept |= {(int(row["call_ref"]), k, row[k]) for k in ("hold_time", "ring_time") if row[k]}
    assert wanted == kept
    archive.assert_books_balance()


def test_given_forty_days_then_ways_agree(archive: Archive, writer: Writer) -> None:
    left = []
    for way in Way:
        system = f"days-{way}"
        claim = [cdr(n, dialed_at=DIALED_AT + 86_400 * n) for n in range(40)]
        again = [cdr(n, dialed_at=DIALED_AT + 86_400 * n, hold_time=1) for n in range(45)]
        books = [_written(writer, batch(c, source=system), way) for c in (claim, again)]
        left.append(
            (
                books,
                archive.rows(
                    "SELECT call_ref, dialed_on, hold_time FROM cdrs WHERE source = %s ORDER BY dialed_on", system
                ),
            )
        )
    assert left[0] == left[1] == left[2]
