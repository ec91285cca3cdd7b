"""Every message of the fixture file becomes what the file says, in one run over all of them in their order."""

import base64
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from etl.settings import SourceSettings
from tests.world import SOURCES, Archive

CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "fixtures/messages.jsonl").read_text().splitlines()]
MORE = tuple(
    SourceSettings(key=key, source="dialler")
    for key in ("enigma:pbx:cdrs", "enigma:notifications:agents", "enigma:notifications:inbound")
)


def raw(case: dict[str, Any]) -> bytes:
    return base64.b64decode(case["raw_base64"]) if "raw_base64" in case else case["raw"].encode()


def comparable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return value.isoformat() if isinstance(value, date) else value


@pytest.mark.parametrize("together", [True, False], ids=["in one claim", "one claim each"])
def test_every_fixture_becomes_what_it_should(archive: Archive, together: bool) -> None:
    archive.sources = (*SOURCES, *MORE)
    for case in CASES:
        archive.push(raw(case), key=case["key"])
        if not together:
            archive.load()
    if together:
        archive.load()

    for case in CASES:
        expected = case["expect"]
        if expected["into"] == "dead_letters":
            reasons = archive.rows("SELECT reason FROM dead_letters WHERE raw = %s", raw(case))
            assert {row["reason"] for row in reasons} == {expected["reason"]}, case["name"]
            continue
        row = expected["row"]
        identity = (
            {"call_ref": row["call_ref"]}
            if expected["into"] == "cdrs"
            else {"event_type": row["event_type"], "kind": row["kind"]}
        )
        where = " AND ".join(f"{name} = %s" for name in identity)
        (found,) = archive.rows(f"SELECT * FROM {expected['into']} WHERE {where}", *identity.values())
        for name, value in row.items():
            is_time = name.endswith("_at") and value is not None
            expected_value = datetime.fromisoformat(value) if is_time else value
            assert comparable(found[name]) == expected_value, f"{case['name']}: {name}"
    archive.assert_books_balance()
