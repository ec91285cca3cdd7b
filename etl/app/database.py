"""Postgres alone, from settings, and what is asked of it for the operator."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime

from etl.reporting import rollup as figures
from etl.settings import Settings
from etl.store import connection as store
from etl.store import schema, sessions
from etl.store.blockers import connect_to_look
from etl.store.pinned import PATIENT
from etl.store.sessions import Gap


@contextlib.contextmanager
def engine_of(settings: Settings, timeouts: Mapping[str, str] = PATIENT) -> Iterator[store.Engine]:
    """Postgres alone, for commands that don't need Redis."""
    engine = store.connect(settings.sqlalchemy_url, timeouts=timeouts)
    try:
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def looking(settings: Settings) -> Iterator[store.Engine]:
    """Postgres alone, for who tells how it stands: nothing it's asked is waited for longer than some seconds."""
    engine = connect_to_look(settings.sqlalchemy_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def opened(settings: Settings, timeouts: Mapping[str, str] = PATIENT) -> Iterator[store.Engine]:
    """Postgres alone, with the schema that we need. Raises `Outage`, and `ConfigurationError` with the way out."""
    with engine_of(settings, timeouts) as engine:
        schema.check(engine)
        yield engine


def gaps(settings: Settings, since: datetime, until: datetime) -> list[Gap]:
    """When nobody listened, within a period. Raises `Outage` and `ConfigurationError`."""
    with opened(settings) as engine:
        return sessions.gaps(engine, since, until)


def retire(settings: Settings, server: str) -> datetime:
    """Expect nothing more of what was listened to on a Redis server; returns from when on. Raises `EtlError` if nobody
    ever listened to it, `Outage` and `ConfigurationError`."""
    with opened(settings) as engine:
        return sessions.retire(engine, server)


def check(settings: Settings) -> None:
    """Raises `ConfigurationError` with the way out unless the schema is the one we need, `Outage` if we can't know."""
    with opened(settings):
        pass


def upgrade(settings: Settings) -> tuple[str | None, str]:
    """Bring the schema to the needed revision; returns the revisions before and after."""
    with engine_of(settings) as engine:
        return schema.upgrade(engine)


def revisions(settings: Settings) -> tuple[str | None, str]:
    """The schema's revision, and the needed one."""
    with engine_of(settings) as engine:
        return schema.current(engine), schema.needed()


def rollup(settings: Settings, everything: bool, progress: Callable[[date], None]) -> list[date]:
    """Bring up to date what reports need; returns the business days that were computed, and calls `progress` with each
    one when it is done. Raises `Outage` and `ConfigurationError`."""
    with opened(settings) as engine:
        return figures.refresh(engine, datetime.now(UTC).date(), everything, progress)
