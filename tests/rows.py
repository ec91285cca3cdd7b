"""CDRs as rows, without the loader: what only releases before this one wrote, or what no message can say."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from etl.ids import new_id
from tests.world import DIALED_AT, Archive

BEGIN = datetime.fromtimestamp(DIALED_AT, UTC)
# What each dialect says of a call, and the other doesn't.
ONLY_A: Mapping[str, Any] = {"number": "0741484437", "contact_ref": "M0042", "end_code": 16, "call_time": 41}
ONLY_B: Mapping[str, Any] = {"uuid": "2b1cc7c0-9a6f-4e2e-8f51-5a3f7e0b2a11"}


def row(call_ref: object, dialed_at: datetime = BEGIN, leg: int = 0, **columns: Any) -> dict[str, Any]:
    """Of a call that an agent took. It says nothing that one dialect says alone."""
    common = {"source": "dialler", "extension": "1002", "end_reason": "hungup", "campaign_ref": "2040"}
    on = {"dialed_on": dialed_at.date(), "dialed_at": dialed_at}
    return {**common, **on, "call_ref": str(call_ref), "leg": leg, **columns}


def store(archive: Archive, *rows: Mapping[str, Any]) -> UUID:
    """As one claim, which is in the ledger."""
    batch_id = new_id()
    archive.rows(
        "INSERT INTO load_batches (batch_id, worker, source_key, claimed, inserted, updated, unchanged, events, dead,"
        " claimed_at) VALUES (%s, 'test', 'list', %s, %s, 0, 0, 0, 0, now()) RETURNING 1",
        *(batch_id, len(rows), len(rows)),
    )
    for day, number in Counter(each["dialed_on"] for each in rows).items():
        archive.rows("SELECT make_partition('cdrs', %s)", day)
        archive.rows("INSERT INTO load_batch_days VALUES (%s, 'cdrs', %s, %s, 0) RETURNING 1", *(batch_id, day, number))
    for each in rows:
        columns = {**each, "batch_id": batch_id}
        archive.rows(
            f"INSERT INTO cdrs ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) RETURNING 1",
            *columns.values(),
        )
    return batch_id
