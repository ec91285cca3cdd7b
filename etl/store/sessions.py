"""The listener's sessions, and the gaps between them: the tables `listener_sessions` and `retired_servers`, the view
`audit_gaps`."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from etl.errors import EtlError
from etl.store.connection import rows
from etl.store.tables import audit_gaps, listener_sessions, retired_servers
from etl.wire.spool import Session
from etl.wire.times import to_datetime


class Gap(NamedTuple):
    """An interval without a proven subscription to `patterns` on a Redis server, cut to the period that was asked for.
    `server` and `patterns` are None while all that is known are sessions of an etl before 0.2."""

    gap_from: datetime
    gap_until: datetime
    reason: str
    server: str | None = None
    patterns: list[str] | None = None


def gaps(engine: sa.Engine, since: datetime, until: datetime) -> list[Gap]:
    """The gaps within [since, until], in order. Raises `Outage`."""
    near = sa.func.reporting.gaps_between(since, until)  # those of audit_gaps, and no more sessions than it takes
    c = near.table_valued(*(sa.column(each.name, each.type) for each in audit_gaps.c)).c
    start, end = sa.func.greatest(c.gap_from, since), sa.func.least(c.gap_until, until)
    query = sa.select(start, end, c.reason, c.server, c.patterns).where(start < end).order_by(start, c.server, end)
    return [Gap(*row) for row in rows(engine, query)]


def deaf_seconds(gaps: Iterable[Gap]) -> dict[str | None, float]:
    """How long nobody listened, by server. Where gaps of several patterns overlap, the time counts once."""
    seconds: dict[str | None, float] = {}
    counted_until: dict[str | None, datetime] = {}
    for gap in sorted(gaps, key=lambda gap: gap.gap_from):
        start = max(gap.gap_from, counted_until.get(gap.server, gap.gap_from))
        end = max(gap.gap_until, start)
        seconds[gap.server] = seconds.get(gap.server, 0.0) + (end - start).total_seconds()
        counted_until[gap.server] = end
    return seconds


def listened_to(engine: sa.Engine) -> list[str | None]:
    """The names of the Redis servers that were ever listened to; None stands for those that 0.1 told of. Raises
    `Outage` or `ConfigurationError`."""
    return [name for (name,) in rows(engine, sa.select(listener_sessions.c.server).distinct())]


def retire(engine: sa.Engine, server: str) -> datetime:
    """Nobody needs listen to the server as before: from now on it has no more gaps for that. Returns the time.

    Raises `EtlError` with the known names if nobody ever listened to it, and `Outage`.
    """
    names = sa.select(listener_sessions.c.server).where(listener_sessions.c.server.is_not(None)).distinct()
    with engine.begin() as connection:
        known = sorted(connection.scalars(names))
        if server not in known:
            raise EtlError(
                "ETL-403", f"no listener ever named its server {server!r}; known: {', '.join(known) or 'none'}"
            )
        entry = insert(retired_servers).values(server=server).returning(retired_servers.c.retired_at)
        retired_at: datetime = connection.execute(entry).scalar_one()
        return retired_at


def record_sessions(connection: sa.Connection, sessions: Sequence[Session], batch_id: UUID) -> None:
    """Bring reports into `listener_sessions`. They come in any order and more than once: only the latest counts."""
    latest: dict[UUID, Session] = {}
    for session in sessions:
        known = latest.get(session.session_id)
        if known is None or _later(session, known):
            latest[session.session_id] = session
    if not latest:
        return
    reported = insert(listener_sessions).values([_row(latest[each], batch_id) for each in sorted(latest)])  # in turn
    old, new = listener_sessions.c, reported.excluded
    connection.execute(
        reported.on_conflict_do_update(
            index_elements=[old.session_id],
            set_={column.name: new[column.name] for column in old if not column.primary_key},
            where=sa.and_(
                old.ended_at.is_(None), sa.or_(new.ended_at.is_not(None), new.proven_until >= old.proven_until)
            ),
        )
    )


def _later(one: Session, other: Session) -> bool:
    return (one.ended_at is not None, one.proven_until) >= (other.ended_at is not None, other.proven_until)


def _row(session: Session, batch_id: UUID) -> dict[str, object]:
    return {
        "session_id": session.session_id,
        "listener": session.listener,
        "subscribed_at": to_datetime(session.subscribed_at),
        "proven_until": to_datetime(session.proven_until),
        "received": session.received,
        "ignored": session.ignored,
        "dropped": session.dropped,
        "ended_at": None if session.ended_at is None else to_datetime(session.ended_at),
        "reason": session.gap_reason,
        "server": session.server,
        "patterns": None if session.patterns is None else list(session.patterns),
        "batch_id": batch_id,
    }
