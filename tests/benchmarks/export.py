"""How fast a day goes to the lake, beside the fastest that Postgres can be.

The limit is `COPY (SELECT …) TO STDOUT (FORMAT binary)` of the day, discarded: once as the rows lie, once in the
lake's order, which Postgres has to sort. What others would write: DuckDB with its Postgres extension (if it can be
had), Polars with ADBC (ConnectorX doesn't speak to a unix socket), a plain server-side cursor with pyarrow. Each way
runs in a process of its own, timed without its imports, so that its peak of memory is its own; the ways are
interleaved.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import psycopg

from etl.lab.servers.private import PrivatePostgres
from etl.lake.datasets import DATASETS
from tests.benchmarks.figures import Figure, ratio
from tests.world import migrate

DAY = date(2026, 11, 20)
CDRS = DATASETS["cdrs"]

_ROWS = """
INSERT INTO cdrs
SELECT DATE '2026-11-20', 'dialler', (7000000000 + n)::text, 0,
    timestamptz '2026-11-20 00:00+00' + make_interval(secs => n * 86399.0 / %(rows)s),
    NULL, NULL, NULL, n * 7919 %% 300, n %% 11, NULL, 'outbound', (1000 + n %% 200)::text,
    '07' || lpad((n * 7919 %% 100000000)::text, 8, '0'), '0126543210', (2000 + n %% 20)::text,
    'M' || (n * 31) %% 900000, (ARRAY['hungup', 'callee_hungup', 'busy', 'timeout'])[1 + n %% 4], 16,
    'ftp://pbx/2026/11/20/' || n || '.wav', NULL, NULL,
    ('01a20000-0000-7000-8000-' || lpad((n / 5000)::text, 12, '0'))::uuid
FROM generate_series(0, %(rows)s - 1::bigint) AS n
"""
_LEDGER = (
    "INSERT INTO load_batch_days VALUES"
    " ('01a20000-0000-7000-8000-000000000000', 'cdrs', DATE '2026-11-20', %(rows)s, 0)"
)

# What runs in a process of its own. Each prints the seconds it took and its peak of memory.
_TIMED = """
import json, sys, time
from datetime import date
from pathlib import Path
uri, folder, day = sys.argv[1], Path(sys.argv[2]), date.fromisoformat(sys.argv[3])
{imports}
began = time.perf_counter()
{work}
seconds = time.perf_counter() - began
# Not getrusage, which remembers what our parent had.
[peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(json.dumps([seconds, int(peak) / 1024]))
"""
_COPY = (
    "import subprocess\nfrom etl.lake.datasets import DATASETS",
    """
query = DATASETS["cdrs"].query(day){unordered}
copy = "COPY (" + query + ") TO STDOUT (FORMAT binary)"
subprocess.run([sys.argv[4], uri, "--quiet", "--command", copy], stdout=subprocess.DEVNULL, check=True)
""",
)
_LAKE = (
    """
import structlog
from etl.jobs.lake import Lake
from etl.lake.datasets import DATASETS
from etl.lake.target import Target
from etl.store import connection
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
""",
    """
engine = connection.connect("postgresql+psycopg" + uri.removeprefix("postgresql"))
lake = Lake(engine, uri, Target(str(folder)), "bench", structlog.get_logger())
outcome = lake.export(DATASETS["cdrs"], day, lambda rows: None)
assert outcome.what == "exported", outcome
""",
)
# The table is made, too, which it is on the first night only.
_TABLE = (
    _LAKE[0] + "from etl.jobs.tables import Tables\n",
    """
engine = connection.connect("postgresql+psycopg" + uri.removeprefix("postgresql"))
target = Target(str(folder))
lake = Lake(engine, uri, target, "bench", structlog.get_logger(), Tables(engine, target))
outcome = lake.export(DATASETS["cdrs"], day, lambda rows: None)
assert outcome.what == "exported", outcome
""",
)
_DEEP = '\nassert lake.verify(DATASETS["cdrs"], day, deep=True).wrong == []\n'
_CURSOR = (
    "import psycopg, pyarrow as pa, pyarrow.parquet as pq\nfrom etl.lake.datasets import DATASETS",
    """
cdrs = DATASETS["cdrs"]
with psycopg.connect(uri) as connection, connection.cursor("rows") as cursor:
    cursor.itersize = 100_000
    cursor.execute(cdrs.query(day))
    with pq.ParquetWriter(folder / "cursor.parquet", cdrs.plain, compression="zstd") as writer:
        while rows := cursor.fetchmany(100_000):
            columns = [pa.array(column, field.type) for column, field in zip(zip(*rows), cdrs.plain)]
            writer.write_table(pa.Table.from_arrays(columns, schema=cdrs.plain))
""",
)
_POLARS = (
    "import polars, adbc_driver_postgresql\nfrom etl.lake.datasets import DATASETS",
    """
query = DATASETS["cdrs"].query(day)
polars.read_database_uri(query, uri, engine="adbc").write_parquet(folder / "polars.parquet", compression="zstd")
""",
)
_DUCKDB = (
    "import duckdb\nfrom etl.lake.datasets import DATASETS",
    """
with duckdb.connect() as connection:
    connection.execute("LOAD postgres")
    connection.execute(f"ATTACH '{uri}' AS pg (TYPE postgres, READ_ONLY)")
    columns = ", ".join(field.name for field in DATASETS["cdrs"].plain)
    connection.execute(
        f"COPY (SELECT {columns} FROM pg.cdrs WHERE dialed_on = '{day}' ORDER BY dialed_at, source, call_ref, leg)"
        f" TO '{folder / 'duckdb.parquet'}' (FORMAT parquet, COMPRESSION zstd)"
    )
""",
)

LIMIT = "limit: COPY, in order"
WAYS = {
    "limit: COPY, as rows lie": (_COPY[0], _COPY[1].format(unordered='.partition(" ORDER BY ")[0]')),
    LIMIT: (_COPY[0], _COPY[1].format(unordered="")),
    "etl export": _LAKE,
    "etl export, and its table": _TABLE,
    "etl export, verify --deep": (_LAKE[0], _LAKE[1] + _DEEP),
    "psycopg cursor, pyarrow": _CURSOR,
    "Polars, ADBC": _POLARS,
    "DuckDB": _DUCKDB,
}


@contextmanager
def postgres(rows: int) -> Iterator[PrivatePostgres]:
    """A private server that holds the day."""
    with tempfile.TemporaryDirectory(prefix="etl-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # Postgres runs as somebody else when we are root
        with PrivatePostgres(Path(folder) / "pg", {"max_wal_size": "8GB"}) as server:
            migrate(server.url)
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(
                    "CREATE TABLE cdrs_20261120 PARTITION OF cdrs FOR VALUES FROM ('2026-11-20') TO ('2026-11-21')"
                )
                connection.execute(_ROWS, {"rows": rows})
                connection.execute(_LEDGER, {"rows": rows})
                connection.execute("VACUUM (ANALYZE, FREEZE) cdrs")
                connection.execute("CHECKPOINT")
            yield server


def timed(way: str, server: PrivatePostgres) -> tuple[float, float] | str:
    """Seconds and MiB; or why not."""
    imports, work = WAYS[way]
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DELETE FROM exports; DELETE FROM iceberg.iceberg_tables; DELETE FROM lake_table_files")
    program = _TIMED.format(imports=imports, work=work)
    with tempfile.TemporaryDirectory(prefix="etl-") as folder:
        found = subprocess.run(
            [sys.executable, "-c", program, server.url, folder, DAY.isoformat(), str(server.bin / "psql")],
            env={**os.environ, "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode:
            errors = [line for line in found.stderr.splitlines() if "Error" in line or "Exception" in line]
            return errors[-1].partition(":")[0] if errors else f"exit code {found.returncode}"
        seconds, mebibytes = json.loads(found.stdout.splitlines()[-1])
        return seconds, mebibytes


def measure(rows: int, runs: int) -> list[Figure]:
    """Each way beside the COPY that gives the rows in the lake's order."""
    measured: dict[str, list[tuple[float, float]]] = {}
    missing: dict[str, str] = {}
    with postgres(rows) as server:
        for _ in range(runs):
            for way in (way for way in WAYS if way not in missing):
                result = timed(way, server)
                if isinstance(result, str):
                    missing[way] = result
                else:
                    measured.setdefault(way, []).append(result)
    limit = [rows / seconds for seconds, _ in measured[LIMIT]]
    found = []
    for way, each in measured.items():
        rates = [rows / seconds for seconds, _ in each]
        found.append(Figure("export", way, "rows/s", rates, ratio(rates, limit), LIMIT))
        found.append(Figure("export", f"{way}, peak memory", "MiB", [mebibytes for _, mebibytes in each]))
    return found + [Figure("export", way, "rows/s", note=f"not measured: {why}") for way, why in missing.items()]
