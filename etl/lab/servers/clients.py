"""Postgres' own clients, run as programs: psql, pg_basebackup."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


class PostgresRefused(Exception):
    """A program of Postgres' did not do what it was asked; the message is what it said."""


def run_client(command: Sequence[str | Path]) -> str:
    """What a client of Postgres' prints. Raises `PostgresRefused` if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise PostgresRefused(done.stderr.strip())
    return done.stdout
