"""Another engine at the lake's Iceberg table, while all is tormented: Polars, which reads metadata and files by itself.
Neither it nor pyiceberg comes with etl: without them there is no table, and nothing to prove."""

from importlib.util import find_spec
from typing import Any

from etl.app.database import engine_of
from etl.errors import EtlError
from etl.settings import Settings
from etl.store.connection import read
from etl.text import named

EVERY_SECONDS = 2.0
_POINTER = "SELECT metadata_location FROM iceberg.iceberg_tables WHERE table_name = 'cdrs'"
_KEY = ("dialed_on", "source", "call_ref", "leg")


def is_there() -> bool:
    return all(find_spec(name) for name in ("pyiceberg", "polars", "polars_iceberg"))


class Engine:
    """Each query has one revision of each day, so no call twice, and never fails, whatever is published meanwhile."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.queries = 0
        self.wrong: list[str] = []

    def look(self) -> None:
        """As an analyst's query: first the pointer, and then only what it leads to."""
        try:
            location = pointer(self._settings)
        except EtlError:  # Postgres is away, or a standby yet
            return
        if location is None:
            return
        try:
            rows = scan(location).select(_KEY).collect()
            if rows.is_duplicated().any():
                self.wrong.append(f"a call twice in {location}")
        except Exception as error:
            self.wrong.append(named(error))
        self.queries += 1

    @property
    def ok(self) -> bool | None:
        """None if there was nothing to look at."""
        return not self.wrong if self.queries else None


def pointer(settings: Settings) -> str | None:
    """Where the metadata is; None as long as there is no table. Raises `EtlError`."""
    with engine_of(settings) as connections:
        _, found = read(connections, _POINTER)
    return str(found[0][0]) if found else None


def scan(location: str) -> Any:
    """A query of the table whose metadata is there."""
    import polars  # noqa: PLC0415  (it takes its second, and isn't everywhere)

    return polars.scan_iceberg(location)
