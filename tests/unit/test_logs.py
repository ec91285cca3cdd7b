"""Log lines as a collector of logs and as a person at a terminal get them."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from etl import logs


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("etl")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_action(stream: io.StringIO) -> None:
    logs.configure(stream)
    logs.get().bind(worker="dial-1").info("claim_adopted", messages=3, note="two\nlines, ö", raw=b"\xff")

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "action": "claim_adopted",
        "worker": "dial-1",
        "messages": 3,
        "note": "two\nlines, ö",
        "raw": "b'\\xff'",
    }


def test_a_terminal_gets_readable_lines_instead(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: True)
    logs.configure(stream)
    logs.get().info("claim_adopted", messages=3)

    assert "claim_adopted" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        lines(stream)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_traceback_shows_no_local_variables(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    logs.configure(stream)
    password = "hunter" + "2"  # split, as the source line is part of a traceback
    try:
        raise RuntimeError(len(password))
    except RuntimeError:
        logs.get().exception("loader_failed", url=SecretStr(password))

    assert "RuntimeError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logs.configure(stream, level="warning")
    logs.get().info("claim_adopted")
    logs.get().warning("lease_lost")

    assert [line["action"] for line in lines(stream)] == ["lease_lost"]


def test_libraries_speak_from_warning_upwards(stream: io.StringIO) -> None:
    logs.configure(stream, level="debug")
    logging.getLogger("alembic.runtime.migration").info("Running upgrade")
    logging.getLogger("sqlalchemy.pool").warning("connection %s is gone", 7)

    (line,) = lines(stream)
    assert line["level"] == "warning"
    assert line["action"] == "library"
    assert line["logger"] == "sqlalchemy.pool"
    assert line["message"] == "connection 7 is gone"


def test_configuring_again_replaces_the_stream_also_for_loggers_in_use(stream: io.StringIO) -> None:
    logger = logs.get()
    logs.configure(io.StringIO())
    logger.info("to_the_first")
    logs.configure(stream)
    logger.info("to_the_second")

    assert [line["action"] for line in lines(stream)] == ["to_the_second"]


def test_threads_and_processes_that_share_a_pipe_write_whole_lines() -> None:
    program = """
import os, threading
from etl import logs

logs.configure()
is_child = os.fork() == 0
threads = [
    threading.Thread(target=lambda: [logs.get().info("line", text="x" * 1000) for _ in range(50)]) for _ in range(4)
]
for thread in threads: thread.start()
for thread in threads: thread.join()
if is_child: os._exit(0)
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=200)

    written = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(written) == 2 * 4 * 50
    assert {line["action"] for line in written} == {"line"}
