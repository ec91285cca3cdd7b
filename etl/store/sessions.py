"""The listener's sessions, and what nobody heard: the table `listener_sessions`, the view `audit_gaps`."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from etl.store.connection import translated
from etl.store.tables import audit_gaps, listener_sessions
from etl.wire.spool import Session
from etl.wire.times import to_datetime


class Gap(NamedTuple):
    """An interval without a proven subscription, cut to the period that was asked for."""

    gap_from: datetime
    gap_until: datetime
    reason: str


def gaps(engine: sa.Engine, since: datetime, until: datetime) -> list[Gap]:
    """The gaps within [since, until], in order. Raises `Outage`."""
    start = sa.func.greatest(audit_gaps.c.gap_from, since)
    end = sa.func.least(audit_gaps.c.gap_until, until)
    query = sa.select(start, end, audit_gaps.c.reason).where(start < end).order_by(start)
    with translated(), engine.connect() as connection:
        return [Gap(*row) for row in connection.execute(query)]


def record_sessions(connection: sa.Connection, sessions: Sequence[Session], batch_id: UUID) -> None:
    """Bring reports into `listener_sessions`. They come in any order and more than once: the latest says all."""
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
        "reason": session.reason,
        "batch_id": batch_id,
    }
