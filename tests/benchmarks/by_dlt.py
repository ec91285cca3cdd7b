"""A list into Postgres by dlt, in a process of its own: `python -m tests.benchmarks.by_dlt REDIS_URL KEY POSTGRES_URL`.

As its documentation has it fastest: "Postgres", Fast loading with Arrow tables and CSV (several times faster than its
normalizer, by COPY); "Optimizing dlt", pages instead of rows; "Merge loading", the strategy `upsert`, a MERGE. ADBC
with Parquet files, its delete-insert, files in parallel and larger pages were tried, and none of them was faster.
dlt makes its own table, of the same columns and key. Prints the seconds that it took, without the imports.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import dlt
import pyarrow as pa
import redis
from dlt.common.runtime import anon_tracker

from tests.benchmarks.plain import KEY, row_of

PAGE = 10_000


def main(redis_url: str, key: str, database_url: str) -> None:
    client: Any = redis.Redis.from_url(redis_url)

    def pages() -> Iterator[pa.Table]:
        while messages := client.rpop(key, PAGE):
            yield pa.Table.from_pylist([{**row, "batch_id": str(row["batch_id"])} for row in map(row_of, messages)])

    # It would leave one in a folder of the system's, though the rival's process has its telemetry off.
    anon_tracker.get_anonymous_id = lambda: ""
    # It wants a host and a password, and has no use for either: the host behind the question mark is the one.
    url = database_url.replace("postgres@/", "postgres:none@localhost/")
    began = time.perf_counter()
    pipeline = dlt.pipeline("bench", destination=dlt.destinations.postgres(url), dataset_name="by_dlt")
    merge = {"disposition": "merge", "strategy": "upsert"}
    done = pipeline.run(
        pages(), table_name="cdrs", write_disposition=merge, primary_key=list(KEY), loader_file_format="csv"
    )
    done.raise_on_failed_jobs()
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
