"""The least that is right: a client CDR's documented fields as a row of `cdrs`. What one writes who has no archive yet.

Of the standard library only: a rival's process, which has neither etl nor its libraries, imports it too.
"""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

KEY = ("dialed_on", "source", "call_ref", "leg")
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


NAMES = tuple(row_of(b'{"payload": {"dialed_at": 0, "call_ref": 0}}'))
CHANGED = tuple(name for name in NAMES if name not in KEY)
