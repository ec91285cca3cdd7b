"""The archive's state by Postgres, for `etl status` and the metrics: facts, no verdicts.

The ledger has a row for every claim there ever was, and this is asked every few seconds: each query reads the end of an
index, and how many rows a day has is kept. Every function may raise `Outage` and
`ConfigurationError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from etl.store.connection import Engine, rows
from etl.store.ledger import LAKE_KEY
from etl.store.tables import (
    PARTITIONED,
    cdrs,
    counted_days,
    dead_letters,
    exports,
    listener_sessions,
    load_batch_days,
    load_batches,
    retired_servers,
)

# As in the view audit_gaps: a session that goes on may not report for a probe's interval and the linger.
_STILL_LISTENING = sa.text("interval '15 seconds'")


@dataclass(frozen=True, slots=True)
class Rate:
    """What the ledger counted in the last `seconds`, per second."""

    seconds: int
    messages_per_second: float
    cdrs_inserted_per_second: float


@dataclass(frozen=True, slots=True)
class LastCdr:
    """When a CDR was committed last, and when the latest call was dialled; None if there is none."""

    committed_at: datetime | None
    dialed_at: datetime | None


@dataclass(frozen=True, slots=True)
class LastListener:
    """The latest session on a Redis server. `is_listening` is false too if its loader is late with its reports. The
    server is None of an etl before 0.2."""

    name: str
    subscribed_at: datetime
    proven_until: datetime
    is_listening: bool
    server: str | None = None


@dataclass(frozen=True, slots=True)
class OpenLetters:
    """The dead letters of one reason that nobody has resolved."""

    reason: str
    letters: int
    first_received_at: datetime
    last_received_at: datetime


def rates(engine: Engine, periods: Sequence[int]) -> list[Rate]:
    """Over the last so many seconds. What a restore enters isn't counted."""
    c = load_batches.c
    ago = {seconds: sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds) for seconds in periods}
    sums = [
        sa.func.coalesce(sa.func.sum(counted).filter(c.committed_at > since), 0)
        for since in ago.values()
        for counted in (c.claimed, c.inserted)
    ]
    query = sa.select(*sums).where(c.committed_at > ago[max(periods)], c.source_key != LAKE_KEY)
    (sums_found,) = rows(engine, query)
    found = iter(sums_found)
    return [Rate(seconds, float(next(found)) / seconds, float(next(found)) / seconds) for seconds in periods]


def last_cdr(engine: Engine) -> LastCdr:
    """The latest call is looked for in one day only, the last that the ledger knows."""
    c = load_batches.c
    has_cdrs = sa.text("inserted + updated + unchanged > 0")  # worded as in the index
    committed = (
        sa.select(c.committed_at).where(has_cdrs, c.source_key != LAKE_KEY).order_by(c.committed_at.desc()).limit(1)
    )
    last_day = sa.select(sa.func.max(load_batch_days.c.day)).where(load_batch_days.c.dataset == cdrs.name)
    with engine.connect() as connection:
        day = connection.scalar(last_day)
        return LastCdr(connection.scalar(committed), _last_call(connection, day) if day else None)


def _last_call(connection: sa.Connection, day: date) -> datetime | None:
    in_postgres = sa.select(sa.func.max(cdrs.c.dialed_at)).where(cdrs.c.dialed_on == day)
    in_the_lake = sa.select(sa.func.max(exports.c.last_time)).where(
        exports.c.dataset == cdrs.name, exports.c.day == day
    )
    latest: datetime | None = connection.scalar(in_postgres) or connection.scalar(in_the_lake)
    return latest


def listeners(engine: Engine) -> list[LastListener]:
    """Of each Redis server the one who listens, or else who did last, the latest first. None of a server that was
    retired since; those of an etl before 0.2 don't count any more once there is one that knows its server."""
    c, retired = listener_sessions.c, retired_servers.c
    listening = sa.and_(c.ended_at.is_(None), c.proven_until >= sa.func.now() - _STILL_LISTENING)
    retired_at = sa.select(sa.func.max(retired.retired_at)).where(retired.server == c.server).scalar_subquery()
    named = sa.exists().where(listener_sessions.alias().c.server.is_not(None))
    # One that has ended may have been proven for longer than one that goes on, by a clock that runs ahead.
    query = (
        sa.select(c.listener, c.subscribed_at, c.proven_until, listening, c.server)
        .ext(distinct_on(c.server))
        .where(sa.or_(c.server.is_not(None), ~named), sa.or_(retired_at.is_(None), c.proven_until > retired_at))
        .order_by(c.server, listening.desc(), c.proven_until.desc(), c.subscribed_at.desc())
    )
    found = [LastListener(*row) for row in rows(engine, query)]
    return sorted(found, key=lambda each: (each.is_listening, each.proven_until), reverse=True)


def set_aside(engine: Engine, seconds: int) -> dict[str, int]:
    """How many values were set aside in the last so many seconds, by field, the most frequent first. What a restore
    enters has none."""
    c = load_batches.c
    since = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    counted = sa.func.jsonb_each_text(c.set_aside).table_valued("key", "value")
    values = sa.cast(sa.func.sum(sa.cast(counted.c.value, sa.BigInteger)), sa.BigInteger)
    query = (
        sa.select(counted.c.key, values)
        .select_from(load_batches.join(counted, sa.true()))
        .where(c.committed_at > since, c.set_aside.is_not(None))
        .group_by(counted.c.key)
        .order_by(values.desc(), counted.c.key)
    )
    return dict(rows(engine, query))


def may_repeat(engine: Engine, seconds: int) -> int:
    """How many claims were loaded in the last so many seconds that not all of Redis' replicas had."""
    c = load_batches.c
    since = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    ((claims,),) = rows(engine, sa.select(sa.func.count()).where(c.may_repeat, c.committed_at > since))
    return int(claims)


def open_letters(engine: Engine) -> list[OpenLetters]:
    """By reason, the most frequent first."""
    c = dead_letters.c
    letters = sa.func.count()
    query = (
        sa.select(c.reason, letters, sa.func.min(c.received_at), sa.func.max(c.received_at))
        .where(c.resolved_at.is_(None))
        .group_by(c.reason)
        .order_by(letters.desc(), c.reason)
    )
    return [OpenLetters(*row) for row in rows(engine, query)]


def unexported(engine: Engine, before: date) -> dict[str, int]:
    """By dataset, how many days before `before` an export is due for: changed, or left half-way. Once a day somebody
    who asks counts the whole ledger, some ten million rows a second."""
    entries = sa.func.ledger_entries().table_valued(*(counted_days.c[name] for name in ("dataset", "day", "entries")))
    ledger = sa.select(entries).where(entries.c.day < before).subquery()
    latest = (
        sa.select(exports.c.dataset, exports.c.day, exports.c.entries, exports.c.published_at)
        .ext(distinct_on(exports.c.dataset, exports.c.day))
        .where(exports.c.day < before)
        .order_by(exports.c.dataset, exports.c.day, exports.c.revision.desc())
        .subquery()
    )
    same_day = sa.and_(ledger.c.dataset == latest.c.dataset, ledger.c.day == latest.c.day)
    changed = sa.and_(ledger.c.entries.is_not(None), ledger.c.entries.is_distinct_from(latest.c.entries))
    half_way = sa.and_(latest.c.entries.is_not(None), latest.c.published_at.is_(None))
    dataset = sa.func.coalesce(ledger.c.dataset, latest.c.dataset)
    query = (
        sa.select(dataset, sa.func.count())
        .select_from(ledger.join(latest, same_day, full=True))
        .where(sa.or_(changed, half_way))
        .group_by(dataset)
    )
    with engine.begin() as connection:  # what was counted is kept
        return dict.fromkeys(PARTITIONED, 0) | dict(connection.execute(query).all())


def last_exports(engine: Engine) -> dict[str, datetime]:
    """By dataset, when a revision was published last; not of one that never was exported."""
    last = sa.func.max(exports.c.published_at)
    query = sa.select(exports.c.dataset, last).group_by(exports.c.dataset).having(last.is_not(None))
    return dict(rows(engine, query))
