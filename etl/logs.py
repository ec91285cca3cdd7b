"""How the programs log: structlog's key-value lines, and the libraries' warnings among them. A line's
`action` is a fixed text where it's logged, so that a search finds it; `ops/LOGS.md` lists all. No line quotes a
message, a number or a password.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from etl.errors import EtlError

Level = Literal["debug", "info", "warning", "error"]

_ROOT = "etl"  # our own loggers are below it; a library's are not, and speak from warning upwards only


class _Handler(logging.StreamHandler[TextIO]):
    """Known by its type, so that configuring again replaces it and leaves others' handlers, such as pytest's, alone.

    A line is one write under the handler's lock, which makes it whole among threads, and among processes that share
    a pipe as long as it's shorter than the pipe's atomic write (4 KiB on Linux).
    """


def configure(stream: TextIO | None = None, level: Level = "info") -> None:
    """Logs to `stream` (standard error if none): for people where it is a terminal, else one JSON object per line.

    Every line has `timestamp` (UTC, ISO 8601), `level` and `action`. Call it once in every process.
    """
    stream = stream or sys.stderr
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(stream.isatty())],
            foreign_pre_chain=[_foreign, *_COMMON],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, _Handler)), handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_COMMON,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def get() -> structlog.stdlib.BoundLogger:
    """The programs' logger: `get().info("claim_adopted", claim=…, messages=…)`. It may be taken before `configure`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(_ROOT)
    return logger


def about(**fields: str) -> AbstractContextManager[None]:
    """Every line of this thread has these fields while the context lasts, those of libraries included."""
    return structlog.contextvars.bound_contextvars(**fields)


class OutageLog:
    """Logs an outage when it begins and, with its length, when it ends. `began` and `ended` are the actions. Several
    threads may use it."""

    def __init__(self, log: Any, began: str, ended: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._warn = log.warning
        self._actions = began, ended
        self._clock = clock
        self._since: float | None = None
        self._lock = threading.Lock()

    def failed(self, error: EtlError) -> float:
        """Another failure; returns for how many seconds the outage has lasted."""
        with self._lock:
            if self._since is None:
                self._since = self._clock()
                self._warn(self._actions[0], error=error.text, code=error.code)
            return self._clock() - self._since

    def succeeded(self) -> None:
        """The outage is over, if there was one."""
        with self._lock:
            if self._since is not None:
                self._warn(self._actions[1], seconds=round(self._clock() - self._since, 1))
                self._since = None


def _foreign(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A library's line is free text: that becomes `message`, and `logger` names the library."""
    event.update(event="library", logger=event["_record"].name, message=event["event"])
    return event


def _renderer(terminal: bool) -> list[Processor]:
    if terminal:
        # The default formatter prints the local variables of every frame, passwords among them.
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("action"),
        structlog.processors.JSONRenderer(),
    ]


_COMMON: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
