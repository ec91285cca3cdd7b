"""One bound for all that is asked of Postgres at a time, however many statements it takes: each gets what is left."""

import time
from typing import Any

import sqlalchemy as sa

from etl.errors import Outage

_SECONDS, _UNTIL = "etl_seconds", "etl_until"
_SET = "SET LOCAL statement_timeout"


def bounded(engine: sa.Engine, seconds: float) -> sa.Engine:
    """The same engine for who asks `within` it: so long may take what is asked at a time."""
    sa.event.listen(engine, "before_cursor_execute", _give_what_is_left)
    return engine.execution_options(**{_SECONDS: seconds})


def within(engine: sa.Engine) -> sa.Engine:
    """The same engine for what is asked from now on. What comes too late raises `Outage`. One that isn't bounded stays
    so."""
    seconds = engine.get_execution_options().get(_SECONDS)
    return engine if seconds is None else engine.execution_options(**{_UNTIL: time.monotonic() + seconds})


def _give_what_is_left(connection: sa.Connection, _cursor: object, statement: str, *_more: Any) -> None:
    until = connection.get_execution_options().get(_UNTIL)
    if until is None or statement.startswith(_SET):
        return
    left = until - time.monotonic()
    if left <= 0:
        raise Outage("ETL-970", "what one request may cost Postgres was used up before all was asked")
    # By a statement of its own, whose errors are translated as any other's. It ends with the transaction.
    connection.exec_driver_sql(f"{_SET} = {int(left * 1000) + 1}")
