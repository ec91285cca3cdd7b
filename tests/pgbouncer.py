"""A real pgbouncer in front of a private Postgres, for the notes in ops/postgres/pgbouncer.md."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from etl.lab.servers.postgres import give, owner_of_servers
from tests.tools import tool
from tests.world import eventually

PORT = 6432


@contextmanager
def pgbouncer(folder: Path, database_url: str, **settings: str) -> Iterator[str]:
    """The URL of the same database through it. `folder` has a short path, and all may enter it."""
    parts = urlsplit(database_url)
    host, port = (parse_qs(parts.query)[name][0] for name in ("host", "port"))
    home = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir=folder))
    home.chmod(0o755)
    defaults = {"auth_type": "any", "unix_socket_dir": home, "listen_port": PORT, "logfile": home / "pgbouncer.log"}
    (home / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port={port} user=postgres\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in {**defaults, **settings}.items())
    )
    owner = owner_of_servers()  # it refuses to be run by root too
    give(home, owner)
    process = subprocess.Popen(
        [tool("pgbouncer"), "--quiet", home / "pgbouncer.ini"],
        user=owner.uid if owner else None,
        group=owner.gid if owner else None,
        extra_groups=[] if owner else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=os.sep,
    )
    try:
        eventually(lambda: _answers(home / f".s.PGSQL.{PORT}") or process.poll() is not None)
        assert process.poll() is None, (home / "pgbouncer.log").read_text()
        yield f"postgresql://postgres@{parts.path}?host={quote(str(home))}&port={PORT}"
    finally:
        process.kill()
        process.wait()


def _answers(path: Path) -> bool:
    """There is a moment in which the socket is there already, and refuses."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
