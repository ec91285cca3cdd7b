"""Receipts of erasures, in the lake: `_receipts/<number or contact>-<keyed hash>.json`, and `….2.json` of whoever came
again and was forgotten again. If Postgres is set back to a
moment before an erasure, they are what still knows of it. They name nobody: whose a hash is needs the key to tell.
"""

import re
from collections.abc import Iterable

import msgspec

from etl.lake.target import Target

FOLDER = "_receipts"
_NAME = re.compile(
    rf"{FOLDER}/(?P<subject>number|contact)-(?P<hash>[0-9a-f]{{16}})(?:\.(?P<number>[1-9][0-9]{{0,8}}))?\.json"
)


class Receipt(msgspec.Struct, frozen=True):
    """By what the person was asked for, the keyed hash of that, 16 hexadecimal digits, and which of the same it is."""

    subject: str
    hash: str
    number: int = 1


class _Content(msgspec.Struct, omit_defaults=True):
    subject: str
    hash: str
    key: str = ""


def put(target: Target, receipt: Receipt, key: str = "") -> None:
    """The same receipt is the same file. `key` is the mark of the hash's key, if that is known. Raises `LakeError`."""
    content = _Content(receipt.subject, receipt.hash, key)
    target.write_once(_name(receipt), msgspec.json.encode(content) + b"\n")


def of_another_key(target: Target, wanted: Iterable[Receipt], key: str) -> set[Receipt]:
    """Those whose hashes this key can't make, by its mark: whose they are can't be told by it. Raises `LakeError`."""
    return {receipt for receipt in wanted if _key(target, receipt) not in ("", key)}


def _key(target: Target, receipt: Receipt) -> str:
    try:
        return msgspec.json.decode(target.read(_name(receipt)) or b"", type=_Content).key
    except (msgspec.MsgspecError, UnicodeDecodeError):  # its name says all else, if who wrote it died
        return ""


def _name(receipt: Receipt) -> str:
    number = f".{receipt.number}" if receipt.number > 1 else ""
    return f"{FOLDER}/{receipt.subject}-{receipt.hash}{number}.json"


def found(target: Target) -> set[Receipt]:
    """All that are there. Raises `LakeError`."""
    names = (_NAME.fullmatch(file.name) for file in target.files(FOLDER))
    return {Receipt(name["subject"], name["hash"], int(name["number"] or 1)) for name in names if name}
