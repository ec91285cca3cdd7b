"""A lake that is hard to read, what each engine must answer about it, and the asking of one in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from etl.lab.servers.clients import run_client
from etl.lab.servers.private import PrivatePostgres
from tests.engines.ask import COLUMNS, Answer
from tests.lake import DAY, SPOOL, export_all, folder, heard, load, on
from tests.store import ROLES
from tests.world import Archive, cdr

ROOT = Path(__file__).parents[2]
READER = "etl_reporting"
# Engines that CI asks, too: which of `ask`, and how.
FROM_PIP: dict[str, dict[str, Any]] = {
    "DuckDB": {"engine": "duckdb"},
    "Polars": {"engine": "polars"},
    "pandas": {"engine": "pandas"},
    "Sail": {"engine": "sail", "mode": "local"},
    "Sail, its local cluster": {"engine": "sail", "mode": "local-cluster"},
}
TEXTS = (
    "👩‍👩‍👧‍👦 🇬🇧 ☎️",
    "'; DROP TABLE cdrs; --",
    "\"double\" 'single' `back` \u201ctypographic\u201d",
    "a\\b\\\\n\\N",
    "tab\tline\nreturn\r\nend",
    " spaces around ",
    "עברית العربية e\u0301 \u202eback",
    "NULL",
    "None",
    "%_{}$1:text",
    "\U0010ffff\ue000\x7f\x1f",
    "é" * 256,  # as long as a reference may be
)
SOUGHT = TEXTS[2]
NUL = cdr("nul", contact_ref="a\0b")  # Postgres has none: a dead letter
CALLS_A_DAY = 240


def fill(archive: Archive) -> None:
    """Two days of both datasets, the first of the calls' in its second revision; and a message that is refused."""
    load(archive, *_calls(0), *_calls(1), NUL)
    load(archive, *(heard(n, DAY, ref=str(n % 7), status=TEXTS[n % len(TEXTS)]) for n in range(50)), key=SPOOL)
    assert len(export_all(archive)) == 3
    load(archive, *(cdr(n, end_reason="later", call_time=5) for n in range(0, CALLS_A_DAY, 3)), cdr("late"))
    assert len(export_all(archive)) == 1
    dead = archive.rows("SELECT reason, detail, count(*) FROM dead_letters GROUP BY 1, 2")
    assert [row["reason"] for row in dead] == ["nul_character"], dead
    let_readers_in(archive)


def _calls(day: int) -> Iterator[bytes]:
    for n in range(day * CALLS_A_DAY, (day + 1) * CALLS_A_DAY):
        text = TEXTS[n % len(TEXTS)]
        yield on(
            day,
            n,
            contact_ref=text if n % 5 else None,
            end_reason=f"reason {text[:40]}",
            recording_url=None if n % 4 else f"ftp://pbx/{text}.wav",
            call_time=n * 7919 % 300 if n % 11 else -n,
            end_code=16 if n % 2 else "",
            **({"note": [text, None, {text: n}]} if n % 3 else {}),
        )


def by_psql(archive: Archive, postgres: PrivatePostgres) -> Answer:
    """Of both days, by what shares no driver with anything here."""

    def answer(query: str) -> Any:
        # As it prints text, psql leaves out what Unicode has for no character.
        digits = f"SELECT encode(convert_to(({query})::text, 'UTF8'), 'hex')"
        options = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", digits]
        command: list[str | Path] = [postgres.bin / "psql", *options, archive.database_url]
        return json.loads(bytes.fromhex(run_client(command)))

    columns = ", ".join(f"{name}::text" if name == "extra" else name for name in COLUMNS)
    figures = "dialed_on, count(*), sum(call_time), count(contact_ref), count(DISTINCT end_reason)"
    return {
        "days": answer(
            "SELECT json_agg(each ORDER BY each->>0) FROM"
            f" (SELECT json_build_array({figures}) AS each FROM cdrs GROUP BY dialed_on) AS days"
        ),
        "rows": answer(
            f'SELECT json_agg(json_build_array({columns}) ORDER BY call_ref COLLATE "C") FROM cdrs'
            f" WHERE dialed_on = '{DAY}'"
        ),
        "found": answer("SELECT count(*) FROM cdrs WHERE contact_ref = $etl$" + SOUGHT + "$etl$"),
    }


def job(archive: Archive, engine: str, **more: Any) -> dict[str, Any]:
    """What to ask an engine of this archive's lake; see `ask`."""
    return {
        "engine": engine,
        "files": str(folder(archive)),
        "catalog": {"uri": catalog_uri(archive)},
        "day": str(DAY),
        "text": SOUGHT,
        **more,
    }


def let_readers_in(archive: Archive) -> None:
    """By the roles that are shipped: `READER` may read the catalog, and no calls."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)


def catalog_uri(archive: Archive) -> str:
    """For PyIceberg, as `READER`."""
    url = archive.database_url.replace("postgresql://postgres@", f"postgresql+psycopg://{READER}@")
    return f"{url}&options=-csearch_path%3Diceberg"


def metadata_location(archive: Archive, dataset: str = "cdrs") -> str:
    """Of the table as it is now."""
    location: str = archive.value("SELECT metadata_location FROM iceberg.iceberg_tables WHERE table_name = %s", dataset)
    return location


def ask(
    asked: dict[str, Any], python: Path | str = sys.executable, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The engine's answers. Whatever it says beside them is in the error, if it fails."""
    found = subprocess.run(
        [python, "-m", "tests.engines.ask"],
        input=json.dumps(asked),
        cwd=ROOT,
        env={**os.environ, "TZ": "UTC", **(more or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, f"{asked['engine']}: {found.stderr[-4_000:]}"
    answers: dict[str, Any] = json.loads(found.stdout)
    return answers
