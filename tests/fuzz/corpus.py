"""The messages that a search begins with, and that the suite goes through: those of docs/protocol.md, and what fuzzing
found worth keeping."""

import base64
import json
from pathlib import Path

_FIXTURES = Path(__file__).parents[1] / "fixtures"
STORED = _FIXTURES / "corpus"


def protocol() -> list[bytes]:
    cases = [json.loads(line) for line in (_FIXTURES / "messages.jsonl").read_text().splitlines()]
    return [base64.b64decode(each["raw_base64"]) if "raw_base64" in each else each["raw"].encode() for each in cases]


def dialler() -> list[bytes]:
    """What the published dialler wrote when it was run."""
    return [json.loads(line)["raw"].encode() for line in (_FIXTURES / "dialler.jsonl").read_text().splitlines()]


def everything() -> list[bytes]:
    return [*protocol(), *dialler(), *(file.read_bytes() for file in sorted(STORED.iterdir()))]
