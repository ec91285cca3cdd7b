"""Receipts of erasures, in the lake: `_receipts/<number or contact>-<keyed hash>.json`. If Postgres is set back to a
moment before an erasure, they are what still knows of it. They name nobody: whose a hash is needs the key to tell.
"""

import re

import msgspec

from etl.lake.target import Target

FOLDER = "_receipts"
_NAME = re.compile(rf"{FOLDER}/(?P<subject>number|contact)-(?P<hash>[0-9a-f]{{16}})\.json")


class Receipt(msgspec.Struct, frozen=True):
    """By what the person was asked for, and the keyed hash of that, 16 hexadecimal digits."""

    subject: str
    hash: str


def put(target: Target, receipt: Receipt) -> None:
    """The same receipt is the same file. Raises `LakeError`."""
    target.write_once(f"{FOLDER}/{receipt.subject}-{receipt.hash}.json", msgspec.json.encode(receipt) + b"\n")


def found(target: Target) -> set[Receipt]:
    """All that are there. Raises `LakeError`."""
    names = (_NAME.fullmatch(file.name) for file in target.files(FOLDER))
    return {Receipt(name["subject"], name["hash"]) for name in names if name}
