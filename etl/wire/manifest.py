"""The manifest of a file of the lake: beside it as `_manifest.json`, in its own footer, and in `exports`."""

from datetime import date, datetime

import msgspec

from etl.errors import LakeError

# Its key in the footer, where it lacks what a file can't contain about itself: its length and its checksum.
FOOTER_KEY = "etl.manifest"


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One revision of one day. Times are UTC; `entries` counts the day's ledger entries that the file contains;
    `because` is the reason that was given for a revision whose day the ledger knew of no change of."""

    dataset: str
    day: date
    revision: int
    rows: int
    entries: int
    schema_fingerprint: str
    first_time: datetime | None = None
    last_time: datetime | None = None
    bytes: int = 0
    sha256: str = ""
    because: str = ""


_decode = msgspec.json.Decoder(Manifest).decode


def as_json(about: Manifest) -> bytes:
    """The same manifest is the same bytes."""
    return msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n"


def read(text: bytes, where: str) -> Manifest:
    """Raises `LakeError` if it isn't a manifest."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LakeError("ETL-512", f"{where} is no manifest: {error}") from None
