"""Days that can't be computed, most likely for one row: each is named in the end, and stops no other."""

import contextlib
from collections.abc import Iterator
from datetime import date, timedelta

import sqlalchemy as sa

from etl.errors import EtlError

# Connection exception, invalid transaction state, operator intervention: then nothing can be said of the day.
_OF_THE_SESSION = ("08", "25", "57")
# Rows that are named; and bytes of a reference from which on it's suspected.
_MOST, _LONG = 3, 512


class LeftOut:
    """Of one run. `engine` names what rows it may have been."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._found: list[str] = []

    @contextlib.contextmanager
    def of(self, what: str, day: date) -> Iterator[None]:
        """What is done for this day in the context. What Postgres refuses of it is noted; raises `Outage` if the
        session is gone."""
        try:
            yield
        except EtlError as error:
            state = getattr(error.__cause__, "sqlstate", None) or "08"
            if state.startswith(_OF_THE_SESSION):
                raise
            found = f"{what} of {day}: {error.text}"
            if rows := "; ".join(self._suspects(day)):
                found += f" ({rows}, whose references are longer than {_LONG} bytes)"
            self._found.append(found)

    def __iadd__(self, other: "LeftOut") -> "LeftOut":
        self._found += other._found
        return self

    def __bool__(self) -> bool:
        return bool(self._found)

    def tell(self) -> None:
        """Raises `EtlError` with all that was left out, if anything was."""
        if self._found:
            raise EtlError("ETL-350", f"left out, and all others done: {'; '.join(self._found)}")

    def _suspects(self, day: date) -> list[str]:
        period = {"first": day - timedelta(days=1), "last": day + timedelta(days=1), "long": _LONG, "most": _MOST}
        try:
            with self._engine.connect() as connection:
                return [*connection.scalars(_SUSPECTS, period)]
        except EtlError:
            return []


# A business day lies on up to three UTC days.
_SUSPECTS = sa.text("""
(SELECT concat_ws(' ', 'row', source, left(call_ref, 40), leg, 'of', dialed_on) FROM cdrs
WHERE dialed_on BETWEEN :first AND :last
    AND greatest(octet_length(campaign_ref), octet_length(contact_ref), octet_length(extension)) > :long LIMIT :most)
UNION ALL
(SELECT concat_ws(' ', 'event', event_id, 'of', captured_on) FROM audit_events
WHERE captured_on BETWEEN :first AND :last
    AND greatest(octet_length(campaign_ref), octet_length(extension)) > :long LIMIT :most)
LIMIT :most""")
