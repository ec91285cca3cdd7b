"""A program: one engine's answers about a lake, by the plain call of its documentation. Nothing of etl is in it, for it
runs where only the engine is installed. A job comes as JSON on standard input, its answers go to standard output:

    {"engine": "polars", "files": FOLDER, "catalog": {…}, "day": "2015-02-19", "text": "…"}
    {"files": {"days": […], "rows": […], "found": 3}, "table": {…}, "version": "2.1.0"}

days   of each day, its calls, their seconds, how many have a contact, how many dispositions there are
rows   of the one day, each call's columns in `COLUMNS`, by their reference
found  how many calls have this text for a contact
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from importlib.metadata import version
from typing import Any

Job = dict[str, Any]
Answer = dict[str, Any]

COLUMNS = ("call_ref", "contact_ref", "end_reason", "campaign_ref", "recording_url", "call_time", "end_code", "extra")
DAYS = (
    "SELECT CAST(dialed_on AS varchar(10)) AS day, count(*), sum(call_time), count(contact_ref),"
    " count(DISTINCT end_reason) FROM {table} GROUP BY dialed_on ORDER BY day"
)
ROWS = "SELECT {columns} FROM {table} WHERE dialed_on = DATE '{day}' ORDER BY call_ref"


def by_sql(run: Callable[[str], Iterable[Any]], job: Job, table: str, columns: Iterable[str] = COLUMNS) -> Answer:
    """Of an engine that knows SQL, but for `found`, since each has its own way to quote."""
    rows = run(ROWS.format(columns=", ".join(columns), table=table, day=job["day"]))
    return {"days": _plain(run(DAYS.format(table=table))), "rows": _plain(rows)}


def _plain(rows: Iterable[Any]) -> list[list[Any]]:
    """NaN, the one value that is none to itself, is what pandas has for nothing."""
    return [[value if value == value else None for value in row] for row in rows]  # noqa: PLR0124


# -- each engine, on plain files and on the table


def duckdb(job: Job) -> dict[str, Answer]:
    db = import_module("duckdb")

    def answer(connection: Any, table: str) -> Answer:
        found = connection.execute(f"SELECT count(*) FROM {table} WHERE contact_ref = ?", [job["text"]]).fetchone()
        return by_sql(lambda query: connection.execute(query).fetchall(), job, table) | {"found": found[0]}

    with db.connect() as connection:
        files = answer(connection, f"read_parquet('{job['files']}/cdrs/*/*.parquet', hive_partitioning = true)")
    with cdrs_of(job).scan().to_duckdb("cdrs") as connection:  # pyiceberg reads, DuckDB asks
        return {"files": files, "table": answer(connection, "cdrs")}


def duckdb_iceberg(job: Job) -> dict[str, Answer]:
    """With its own Iceberg extension, which has to be of its very version."""
    db = import_module("duckdb")
    with db.connect() as connection:
        for extension in ("avro", "iceberg"):
            import_module("duckdb_extensions").import_extension(extension, con=connection)
            connection.execute(f"LOAD {extension}")
        table = f"iceberg_scan('{job['metadata']}')"
        found = connection.execute(f"SELECT count(*) FROM {table} WHERE contact_ref = ?", [job["text"]]).fetchone()
        return {"table": by_sql(lambda query: connection.execute(query).fetchall(), job, table) | {"found": found[0]}}


def polars(job: Job) -> dict[str, Answer]:
    pl = import_module("polars")

    def answer(lake: Any) -> Answer:
        figures = (pl.len(), pl.col("call_time").sum(), pl.col("contact_ref").count())
        days = lake.group_by("dialed_on").agg(*figures, pl.col("end_reason").drop_nulls().n_unique())
        day = pl.col("dialed_on") == pl.lit(job["day"]).str.to_date()
        return {
            "days": [[str(day), *rest] for day, *rest in days.sort("dialed_on").collect().rows()],
            "rows": _plain(lake.filter(day).select(COLUMNS).sort("call_ref").collect().rows()),
            "found": lake.filter(pl.col("contact_ref") == job["text"]).select(pl.len()).collect().item(),
        }

    files = pl.scan_parquet(f"{job['files']}/cdrs/*/*.parquet", hive_partitioning=True)
    return {"files": answer(files), "table": answer(pl.scan_iceberg(cdrs_of(job)))}


def pandas(job: Job) -> dict[str, Answer]:
    pd = import_module("pandas")
    place, table = f"{job['files']}/cdrs", cdrs_of(job)

    def answer(frame: Any, of_the_day: Any) -> Answer:
        groups = frame.groupby("dialed_on", observed=True)
        columns = zip(
            groups.size(),
            groups["call_time"].sum(),
            groups["contact_ref"].count(),
            groups["end_reason"].nunique(),
            strict=True,
        )
        rows = of_the_day.sort_values("call_ref")[list(COLUMNS)].astype(object).itertuples(index=False)
        return {
            "days": [
                [str(day), *map(int, rest)] for day, rest in zip(groups.size().index.astype(str), columns, strict=True)
            ],
            "rows": _plain(rows),
            "found": int((frame["contact_ref"] == job["text"]).sum()),
        }

    return {
        "files": answer(pd.read_parquet(place), pd.read_parquet(place, filters=[("dialed_on", "=", job["day"])])),
        "table": answer(table.scan().to_pandas(), table.scan(row_filter=f"dialed_on = '{job['day']}'").to_pandas()),
    }


def sail(job: Job) -> dict[str, Answer]:
    """The table by its folder and its snapshot: by itself it goes by the metadata file with the highest number."""
    os.environ["SAIL_MODE"] = job["mode"]
    server = import_module("pysail.spark").SparkConnectServer()
    server.start()
    _, port = server.listening_address
    spark = import_module("pyspark.sql").SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    repeated = ("end_reason", "campaign_ref")  # what Arrow calls dictionaries, it gives out as another type only
    files = spark.read.parquet(f"{job['files']}/cdrs")
    table = spark.read.format("iceberg").option("snapshot-id", cdrs_of(job).current_snapshot().snapshot_id)
    answers = {
        "files": by_spark(spark, files, job, cast=repeated),
        "table": by_spark(spark, table.load(f"{job['files']}/_iceberg/cdrs"), job),
    }
    spark.stop()
    server.stop()
    return answers


def by_spark(spark: Any, lake: Any, job: Job, cast: Collection[str] = ()) -> Answer:
    """Of Spark's DataFrame, whichever engine stands behind it."""
    lake.createOrReplaceTempView("asked")
    columns = [f"CAST({name} AS string)" if name in cast else name for name in COLUMNS]
    found = lake.filter(lake.contact_ref == job["text"]).count()
    return by_sql(lambda query: spark.sql(query).collect(), job, "asked", columns) | {"found": found}


def cdrs_of(job: Job) -> Any:
    """The table, by the catalog."""
    return import_module("pyiceberg.catalog.sql").SqlCatalog("etl", **job["catalog"]).load_table("lake.cdrs")


# By name: the function, and the package whose version is told.
ENGINES: dict[str, tuple[Callable[[Job], dict[str, Answer]], str]] = {
    "duckdb": (duckdb, "duckdb"),
    "duckdb_iceberg": (duckdb_iceberg, "duckdb"),
    "polars": (polars, "polars"),
    "pandas": (pandas, "pandas"),
    "sail": (sail, "pysail"),
}


def main() -> None:
    job: Job = json.load(sys.stdin)
    engine, package = ENGINES[job["engine"]]
    with contextlib.redirect_stdout(sys.stderr):
        answers = {**engine(job), "version": version(package)}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
