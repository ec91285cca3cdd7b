"""Names in the lake, relative to its root:

    _revisions/<dataset>/<day column>=D/r00003-<sha256, 16 digits>.parquet    a revision, immutable
    _revisions/<dataset>/<day column>=D/r00003-<sha256, 16 digits>.json       its manifest
    _revisions/<dataset>/<day column>=D/attempt-<uuid>.tmp                    a file that somebody is writing
    <dataset>/<day column>=D/part-0.parquet                                   the current revision, for plain readers
    _iceberg/<dataset>/metadata/…                                             of the Iceberg table, by Iceberg's names

Readers of datasets pass over folders whose names begin with an underscore.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Literal

from etl.lake.datasets import DATASETS, Dataset
from etl.wire.manifest import Manifest

REVISIONS = "_revisions"
ICEBERG = "_iceberg"
PLAIN = "part-0.parquet"
# What 0.1 kept in the folder of plain readers: a day's manifest, and a draft.
OLD_MANIFEST, OLD_DRAFT = "_manifest.json", ".part-0.parquet.tmp"
# Digits of the SHA-256 in a name: two revisions of one number and day share them once in 2^64.
_SHA = 16

Kind = Literal["revision", "manifest", "attempt", "plain", "old", "unknown"]


@dataclass(frozen=True, slots=True)
class Name:
    """A file of a day: `revision` is 0, and `sha` empty, where the name has none."""

    path: str
    dataset: str
    day: date
    kind: Kind
    revision: int = 0
    sha: str = ""

    @property
    def is_hidden(self) -> bool:
        """From plain readers."""
        return self.path.startswith(f"{REVISIONS}/")

    @property
    def is_old_draft(self) -> bool:
        return self.kind == "old" and self.path.endswith(OLD_DRAFT)

    @property
    def may_have_rows(self) -> bool:
        """Whether it is Parquet by its name, whole or not."""
        return self.path.endswith((".parquet", ".tmp"))


def folder(dataset: Dataset, day: date) -> str:
    """Where plain readers look."""
    return f"{dataset.name}/{dataset.day}={day.isoformat()}"


def plain(dataset: Dataset, day: date) -> str:
    return f"{folder(dataset, day)}/{PLAIN}"


def revisions(dataset: Dataset, day: date) -> str:
    """The folder of a day's revisions."""
    return f"{REVISIONS}/{folder(dataset, day)}"


def table(dataset: Dataset) -> str:
    """The folder of the Iceberg table, which has metadata only."""
    return f"{ICEBERG}/{dataset.name}"


def revision(dataset: Dataset, day: date, number: int, sha256: str) -> str:
    return f"{revisions(dataset, day)}/r{number:05}-{sha256[:_SHA]}.parquet"


def revision_of(dataset: Dataset, about: Manifest) -> str:
    """Of the revision that the manifest tells of."""
    return revision(dataset, about.day, about.revision, about.sha256)


def manifest(revision: str) -> str:
    """Of a revision, by its name."""
    return revision.removesuffix(".parquet") + ".json"


def attempt(dataset: Dataset, day: date) -> str:
    """A name that nobody ever had, nor will."""
    return f"{revisions(dataset, day)}/attempt-{secrets.token_hex(16)}.tmp"


_DAY = re.compile(
    rf"(?P<hidden>{REVISIONS}/)?(?P<dataset>\w+)/(?P<column>\w+)=(?P<day>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/(?P<file>.+)"
)
_REVISION = re.compile(rf"r(?P<number>[0-9]{{5,9}})-(?P<sha>[0-9a-f]{{{_SHA}}})\.(?P<kind>parquet|json)")
_ATTEMPT = re.compile(r"attempt-[0-9a-f]{32}\.tmp")


def parse(path: str) -> Name | None:
    """What a name says; None for a file that is of no day of ours."""
    place = _DAY.fullmatch(path)
    dataset = DATASETS.get(place["dataset"]) if place else None
    if place is None or dataset is None or place["column"] != dataset.day:
        return None
    try:
        day = date.fromisoformat(place["day"])
    except ValueError:
        return None
    if not place["hidden"]:
        kinds: dict[str, Kind] = {PLAIN: "plain", OLD_MANIFEST: "old", OLD_DRAFT: "old"}
        return Name(path, dataset.name, day, kinds.get(place["file"], "unknown"))
    if _ATTEMPT.fullmatch(place["file"]):
        return Name(path, dataset.name, day, "attempt")
    if found := _REVISION.fullmatch(place["file"]):
        kind: Kind = "revision" if found["kind"] == "parquet" else "manifest"
        return Name(path, dataset.name, day, kind, int(found["number"]), found["sha"])
    return Name(path, dataset.name, day, "unknown")


def of_revisions(paths: Iterable[str]) -> list[Name]:
    """Those of them that are revisions, the latest last."""
    names = [name for name in map(parse, paths) if name and name.kind == "revision"]
    return sorted(names, key=lambda name: (name.dataset, name.day, name.revision, name.sha))
