"""A real `etl serve` process, as a browser would ask it: over a socket."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from uuid import UUID

from etl.ids import new_id
from etl.wire.spool import Session, pack_heard, pack_session
from etl.wire.times import from_datetime
from tests.world import Archive, eventually

# What every answer has, whatever was asked.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PROMISED = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def text(self) -> str:
        """As somebody reads it, cells apart by one space."""
        return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", self.body))).strip()

    @property
    def tiles(self) -> dict[str, str]:
        return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", self.body))

    def row(self, name: str) -> list[str]:
        """The cells of the row that begins with this."""
        rows: list[str] = re.findall(r"<tr[^>]*>(<th scope=\"row\".*?)</tr>", self.body, re.DOTALL)
        cells = [[unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in _CELL.findall(row)] for row in rows]
        (found,) = [row[1:] for row in cells if row[0] == name]
        return found


_CELL = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>", re.DOTALL)


@dataclass
class Served:
    """A wall at 127.0.0.1."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def lines(self, action: str) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["action"] == action]

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read().decode())

    def end(self) -> int:
        """As systemd does; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def served(archive: Archive, log: Path, **environment: str) -> Iterator[Served]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "etl.cli", "serve"],
            env=archive.environment(**{"ETL_WEB": "127.0.0.1:0", **environment}),
            stdout=output,
            stderr=output,
        )
    wall = Served(process, log)
    try:
        eventually(lambda: wall.lines("serving_wall") or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        [line] = wall.lines("serving_wall")
        wall.port = int(str(line["port"]))
        yield wall
    finally:
        process.kill()
        process.wait()


def at_noon(archive: Archive) -> datetime:
    """Now; in a zone in which the business day began half a day ago, whenever a test runs."""
    now = datetime.now(UTC).replace(microsecond=0)
    archive.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", f"Etc/GMT{now.hour - 12:+d}")
    return now


def said(extension: str, status: str, at: datetime, **payload: object) -> bytes:
    """An agent's status as the listener spools it, heard at that time."""
    message = json.dumps({"type": "status", "payload": {"status": status, "ref": extension, **payload}}).encode()
    return pack_heard(new_id().bytes, from_datetime(at), b"enigma:notifications:agents:" + extension.encode(), message)


def session(begin: datetime, proven: datetime, ended: datetime | None = None, session_id: UUID | None = None) -> bytes:
    """A listener's, as it spools it."""
    return pack_session(
        Session(
            session_id or new_id(),
            "w",
            from_datetime(begin),
            from_datetime(proven),
            received=0,
            ignored=0,
            dropped=0,
            ended_at=from_datetime(ended) if ended else None,
            reason="stopped" if ended else None,
        )
    )


def listened(now: datetime) -> bytes:
    """Since long ago, until now: `load_and_listen` makes it last."""
    return session(now - timedelta(days=3), now)


def load_and_listen(archive: Archive) -> None:
    """What was pushed; and whoever listens goes on for as long as a test takes, whatever the machine does meanwhile."""
    archive.load()
    archive.rows("SELECT set_config('session_replication_role', 'replica', false)")  # no trigger doubts the future
    archive.rows(
        "UPDATE listener_sessions SET proven_until = now() + interval '1 hour' WHERE ended_at IS NULL RETURNING 1"
    )
    archive.rows("SELECT set_config('session_replication_role', 'origin', false)")
