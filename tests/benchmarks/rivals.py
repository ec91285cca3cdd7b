"""What one would write or pick instead: the same messages, from the same list, into the same table. They do the least
that is right: documented fields to columns, and an upsert on the table's key. Killed, each loses what it has popped.

Each is as its own documentation has it fastest:

psycopg         "Prepared statements": prepared, one round trip a row; "Using COPY TO and COPY FROM": one of the most
                efficient ways to load data, here into a table of its own, since COPY alone can't upsert
SQLAlchemy      "I'm inserting 400,000 rows": Core, with lists of rows. psycopg sends them by its pipeline mode;
                "Insert Many Values" with RETURNING and one statement of many VALUES were tried: half and a sixth of it
dlt             see tests/benchmarks/by_dlt.py
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from etl.store.tables import cdrs
from tests.benchmarks.figures import Figure
from tests.benchmarks.load import LIMIT, Bench, Measured, Runs, figures
from tests.benchmarks.plain import CHANGED, KEY, NAMES, row_of
from tests.world import CAMPAIGNS

BATCH = 1_000
COPIED = 5_000  # rows a COPY, as etl has them
# Slow ways get a part of the list: seconds are enough.
ROW_BY_ROW_SHARE = 20
CORE_SHARE = 4
DLT = "dlt: Arrow tables as CSV, merge by upsert"
_ROOT = Path(__file__).parents[2]
_PINS = Path(__file__).with_name("rivals.txt")
_MERGING = f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {', '.join(f'{name} = EXCLUDED.{name}' for name in CHANGED)}"

Rival = Callable[[Bench], float]  # loads what waits, and says how many seconds that took


class Missing(Exception):
    """Why a rival can't be measured here, in a few words."""


def row_by_row(bench: Bench) -> None:
    """BRPOP, then one upsert that commits by itself."""
    values = ", ".join(f"%({name})s" for name in NAMES)
    upsert = f"INSERT INTO cdrs ({', '.join(NAMES)}) VALUES ({values}) {_MERGING}"
    with psycopg.connect(bench.archive.database_url, autocommit=True) as connection:
        redis: Any = bench.redis
        while popped := redis.brpop([CAMPAIGNS], timeout=0.01):
            connection.execute(upsert, row_of(popped[1]), prepare=True)


def core_batches(bench: Bench) -> None:
    """A thousand popped, one SQLAlchemy Core upsert of a thousand rows, a commit."""
    engine = sa.create_engine(bench.archive.settings().sqlalchemy_url)
    inserting = insert(cdrs)
    upsert = inserting.on_conflict_do_update(
        index_elements=KEY, set_={name: inserting.excluded[name] for name in CHANGED}
    )
    for messages in _popped(bench, BATCH):
        with engine.begin() as connection:
            connection.execute(upsert, [row_of(message) for message in messages])
    engine.dispose()


def copy_and_upsert(bench: Bench) -> None:
    """A claim's worth popped, a COPY into a temporary table, one upsert of all of them, a commit."""
    names = ", ".join(NAMES)
    upsert = f"INSERT INTO cdrs ({names}) SELECT DISTINCT ON ({', '.join(KEY)}) {names} FROM arrived {_MERGING}"
    with psycopg.connect(bench.archive.database_url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE arrived AS SELECT {names} FROM cdrs LIMIT 0")
        for messages in _popped(bench, COPIED):
            with connection.transaction():
                cursor.execute("TRUNCATE arrived")
                with cursor.copy(f"COPY arrived ({names}) FROM STDIN") as copy:
                    for message in messages:
                        copy.write_row(tuple(row_of(message).values()))
                cursor.execute(upsert)


def dlt_merge(bench: Bench) -> float:
    python = _interpreter()
    with psycopg.connect(bench.archive.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS by_dlt, by_dlt_staging CASCADE")
    with tempfile.TemporaryDirectory(prefix="etl-") as folder:  # where it keeps its state, and looks for settings
        environment = {"PYTHONPATH": str(_ROOT), "DLT_DATA_DIR": folder, "RUNTIME__DLTHUB_TELEMETRY": "false"}
        found = subprocess.run(
            [python, "-m", "tests.benchmarks.by_dlt", bench.archive.redis_url, CAMPAIGNS, bench.archive.database_url],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    if found.returncode:
        print(found.stderr, file=sys.stderr)
        raise Missing("it failed")
    return float(found.stdout.split()[-1])


def _interpreter() -> Path:
    """That of an environment beside ours, which is made anew when the pins have changed."""
    folder, pins = Path(sys.prefix) / "rivals", _PINS.read_text()
    python, mark = folder / "bin/python", folder / "pins.txt"
    if not mark.exists() or mark.read_text() != pins:
        pip: list[str | Path] = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([*pip, "--requirement", _PINS], check=True, stdout=subprocess.DEVNULL)
        except (subprocess.CalledProcessError, OSError):
            raise Missing("it can't be installed") from None  # pip has told why
        mark.write_text(pins)
    return python


def measure(bench: Bench, runs: int) -> list[Figure]:
    rivals: dict[str, tuple[Rival, int]] = {
        "BRPOP and one upsert a row": (partial(_timed, row_by_row), ROW_BY_ROW_SHARE),
        "SQLAlchemy Core, batches of 1,000": (partial(_timed, core_batches), CORE_SHARE),
        "psycopg: COPY, then an upsert, of 5,000": (partial(_timed, copy_and_upsert), CORE_SHARE),
        DLT: (dlt_merge, 1),
    }
    bench.etl(1)  # makes the partition
    claims = bench.encoded_claims()
    measured: Runs = {}
    missing: dict[str, str] = {}
    for _ in range(runs):
        measured.setdefault(LIMIT, []).append(bench.replay(claims))
        for name, (rival, share) in rivals.items():
            if name not in missing:
                try:
                    found = _run(bench, rival, bench.messages[::share])
                except Missing as why:
                    missing[name] = str(why)
                else:
                    measured.setdefault(name, []).append(found)
    bench.versions["dlt"] = _PINS.read_text().partition("dlt[postgres]==")[2].split()[0]
    return [
        *(each for each in figures("rivals", measured) if each.part == "rivals" and each.name not in (LIMIT, *missing)),
        *(Figure("rivals", name, "CDRs/s", note=f"not measured: {why}") for name, why in missing.items()),
    ]


def _run(bench: Bench, rival: Rival, messages: Sequence[bytes]) -> Measured:
    bench.empty_tables()
    bench.flush()
    bench.fill(messages)
    rate = len(messages) / rival(bench)
    assert bench.redis.llen(CAMPAIGNS) == 0
    return Measured(rate)


def _timed(way: Callable[[Bench], None], bench: Bench) -> float:
    began = time.perf_counter()
    way(bench)
    return time.perf_counter() - began


def _popped(bench: Bench, count: int) -> Iterator[list[bytes]]:
    redis: Any = bench.redis
    while messages := redis.rpop(CAMPAIGNS, count):
        yield messages
