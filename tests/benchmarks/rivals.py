"""What one would write or pick instead: the same messages, from the same list, into the same table. They do the least
that is right: documented fields to columns, and an upsert on the table's key. Killed, each loses what it has popped.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from etl.store.tables import CDR_KEY, cdrs
from tests.benchmarks.figures import Figure
from tests.benchmarks.load import LIMIT, Bench, Measured, Runs, figures
from tests.world import CAMPAIGNS

BATCH = 1_000
# Slow ways get a part of the list: seconds are enough.
ROW_BY_ROW_SHARE = 20
CORE_SHARE = 4
DLT_SHARE = 10

_NOBODY = UUID(int=0)


def row_of(message: bytes) -> dict[str, Any]:
    payload = json.loads(message)["payload"]
    dialed_at = datetime.fromtimestamp(payload["dialed_at"], UTC)
    return {
        "dialed_on": dialed_at.date(),
        "source": "dialler",
        "call_ref": str(payload["call_ref"]),
        "leg": 0,
        "dialed_at": dialed_at,
        "call_time": payload.get("call_time"),
        "hold_time": payload.get("hold_time"),
        "call_dir": payload.get("call_dir"),
        "extension": payload.get("extension"),
        "number": payload.get("number"),
        "dial_number": payload.get("dial_number"),
        "campaign_ref": payload.get("ref"),
        "contact_ref": payload.get("contact_ref"),
        "end_reason": payload.get("end_reason"),
        "end_code": payload.get("end_code"),
        "recording_url": payload.get("recording_url"),
        "batch_id": _NOBODY,
    }


def row_by_row(bench: Bench) -> None:
    """BRPOP, then one upsert that commits by itself."""
    statement = _upsert_text()
    with psycopg.connect(bench.archive.database_url, autocommit=True) as connection:
        redis: Any = bench.redis
        while popped := redis.brpop([CAMPAIGNS], timeout=0.01):
            connection.execute(statement, row_of(popped[1]))


def core_batches(bench: Bench) -> None:
    """A thousand popped, one SQLAlchemy Core upsert of a thousand rows, a commit."""
    engine = sa.create_engine(bench.archive.settings().sqlalchemy_url)
    inserting = insert(cdrs)
    for messages in _popped(bench):
        rows = {(row["call_ref"], row["dialed_on"]): row for row in map(row_of, messages)}
        changed = {name: inserting.excluded[name] for name in next(iter(rows.values())) if name not in CDR_KEY}
        upsert = inserting.on_conflict_do_update(index_elements=CDR_KEY, set_=changed)
        with engine.begin() as connection:
            connection.execute(upsert, list(rows.values()))
    engine.dispose()


def dlt_merge(bench: Bench) -> None:
    """dlt makes its own table, of the same columns and key."""
    import dlt  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    pipeline = dlt.pipeline("bench", destination=dlt.destinations.postgres(bench.archive.database_url))
    rows = (row_of(message) | {"batch_id": str(_NOBODY)} for messages in _popped(bench) for message in messages)
    pipeline.run(rows, table_name="cdrs_by_dlt", write_disposition="merge", primary_key=list(CDR_KEY))


def measure(bench: Bench, runs: int) -> list[Figure]:
    all_ways: dict[str, tuple[Callable[[Bench], None], int]] = {
        "BRPOP and one upsert a row": (row_by_row, ROW_BY_ROW_SHARE),
        "SQLAlchemy Core, batches of 1,000": (core_batches, CORE_SHARE),
    }
    missing = []
    if find_spec("dlt"):
        all_ways["dlt, merge"] = (dlt_merge, DLT_SHARE)
    else:
        missing.append(Figure("rivals", "dlt, merge", "CDRs/s", note="not measured: dlt isn't installed"))
    bench.etl(1)  # makes the partition
    claims = bench.encoded_claims()
    measured: Runs = {}
    for _ in range(runs):
        measured.setdefault(LIMIT, []).append(bench.replay(claims))
        for name, (way, share) in all_ways.items():
            measured.setdefault(name, []).append(_timed(bench, way, bench.messages[::share]))
    return [*(f for f in figures("rivals", measured) if f.part == "rivals" and f.name != LIMIT), *missing]


def _timed(bench: Bench, way: Callable[[Bench], None], messages: Sequence[bytes]) -> Measured:
    bench.empty_tables()
    bench.redis.flushall()
    bench.fill(messages)
    began = time.perf_counter()
    way(bench)
    rate = len(messages) / (time.perf_counter() - began)
    assert bench.redis.llen(CAMPAIGNS) == 0
    return Measured(rate)


def _popped(bench: Bench) -> Iterator[list[bytes]]:
    redis: Any = bench.redis
    while messages := redis.rpop(CAMPAIGNS, BATCH):
        yield messages


def _upsert_text() -> str:
    names = list(row_of(b'{"payload": {"dialed_at": 0, "call_ref": 0}}'))
    values = ", ".join(f"%({name})s" for name in names)
    changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in names if name not in CDR_KEY)
    key = ", ".join(CDR_KEY)
    return f"INSERT INTO cdrs ({', '.join(names)}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {changes}"
