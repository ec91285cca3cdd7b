"""`make engines`: every engine that can be had here reads the lake, and Spark reads the table while its pointer moves,
in a folder and over S3. What came of it is ops/ENGINES.md. The exit code is 1 if anything was wrong.
"""

import gc
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from etl import logs
from etl.lab.proxy import Relay
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.engines import documented, hard, spark
from tests.engines.moving import Moving
from tests.engines.page import Read, is_fine, write
from tests.engines.queries import Tally, ask_while_it_moves
from tests.lake import DAY
from tests.s3 import KEY, SECRET, ObjectStore
from tests.s3 import url as url_of_a_bucket
from tests.world import Archive, migrate

BUCKET = "lake"


class Bench:
    """Private servers, a cluster of Spark, and an archive for each lake."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.postgres = stack.enter_context(PrivatePostgres(folder / "postgres"))
        self._redis = stack.enter_context(PrivateRedis(folder / "redis"))
        self._client = stack.enter_context(redis.Redis.from_url(self._redis.url))
        self.port = stack.enter_context(Relay(self.postgres.socket)).port  # JDBC knows no unix sockets
        self._master = stack.enter_context(spark.cluster(folder))

    def archive(self, name: str, export_url: str) -> Archive:
        """An empty one, in a database of this name."""
        self.postgres.ask(f"CREATE DATABASE {name}")
        self._client.flushall()
        url = self.postgres.database_url(name)
        migrate(url)
        more = {"export_url": export_url, "lake_table": "iceberg"}
        return self._stack.enter_context(Archive(self._redis.url, url, self._client, more=more))

    def session(self, database: str, warehouse: str, more: dict[str, str] | None = None) -> spark.Session:
        jdbc = f"jdbc:postgresql://127.0.0.1:{self.port}/{database}?currentSchema=iceberg"
        catalog = {"uri": jdbc, "warehouse": warehouse, **spark.CATALOG, **(more or {})}
        configuration = {
            "spark.master": self._master,
            "spark.jars": spark.jars(),
            **spark.SETTINGS,
            **{f"spark.sql.catalog.etl.{name}": value for name, value in catalog.items()},
        }
        return spark.Session(configuration, self.folder / "driver.log")


def read_by_all(bench: Bench) -> list[Read]:
    """Whether each engine answers what psql does, and whether docs/lake.md has it called as it wants to be."""
    archive = bench.archive("hard", str(bench.folder / "hard"))
    hard.fill(archive)
    expected = hard.by_psql(archive, bench.postgres)
    day = next((calls, seconds) for day, calls, seconds, *_ in expected["days"] if day == str(DAY))
    home = {"HOME": str(bench.folder)}  # where DuckDB puts extensions
    metadata = hard.metadata_location(archive)
    asked: dict[str, Callable[[], dict[str, Any]]] = {
        **{name: partial(hard.ask, hard.job(archive, **more)) for name, more in hard.FROM_PIP.items()},
        "DuckDB's Iceberg extension": lambda: hard.ask(
            hard.job(archive, "duckdb_iceberg", metadata=metadata), spark.PYTHON, home
        ),
        "Spark": lambda: _by_spark(bench, hard.job(archive, "spark")),
    }
    here = {
        **documented.places(archive),
        "jdbc:postgresql://db/archive": f"jdbc:postgresql://127.0.0.1:{bench.port}/hard",
        'packages = "': f'packages = "{spark.jars()}" or "',
        "spark.jars.packages": "spark.jars",
    }

    def read(name: str) -> Read:
        calls = {heading: code for heading, code in documented.snippets().items() if heading.partition(", ")[0] == name}
        python = spark.PYTHON if name in documented.NEED_MORE else sys.executable
        try:
            answers = asked[name]()
            number = answers.pop("version")
            judged = {place: "equal" if found == expected else "DIFFERENT" for place, found in answers.items()}
            figures = {each for code in calls.values() for each in documented.told(code, python, here, home)}
            if calls:
                judged["calls"] = "equal" if figures == {day} else "DIFFERENT"
            return Read(name, number, judged)
        except (AssertionError, spark.SparkError) as error:
            return Read(name, "", {"table": f"FAILED: {str(error).splitlines()[-1]}"})

    return [read(name) for name in asked]


def _by_spark(bench: Bench, job: dict[str, Any]) -> dict[str, Any]:
    with bench.session("hard", f"file://{job['files']}/_iceberg") as session:
        answers: dict[str, Any] = session.do("ask", **job)
        return answers


def moving_in_a_folder(bench: Bench) -> Tally:
    lake = bench.folder / "moving"
    archive = bench.archive("moving", str(lake))
    moving = Moving(archive)
    with bench.session("moving", f"file://{lake}/_iceberg") as session:
        return ask_while_it_moves(session, moving)


def moving_over_s3(bench: Bench) -> Tally:
    with ObjectStore(bench.folder) as store:
        store.make_bucket(BUCKET)
        url = url_of_a_bucket(BUCKET, store.port, access_key=KEY, secret_key=SECRET)
        moving = Moving(bench.archive("moving_s3", url))
        more = {
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "s3.endpoint": f"http://127.0.0.1:{store.port}",
            "s3.path-style-access": "true",
            "s3.access-key-id": KEY,
            "s3.secret-access-key": SECRET,
            "client.region": "us-east-1",
        }
        with bench.session("moving_s3", f"s3://{BUCKET}/calls/_iceberg", more) as session:
            return ask_while_it_moves(session, moving)


def main() -> int:
    logs.configure(level="error")
    with tempfile.TemporaryDirectory(prefix="etl-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres runs as somebody else when we are root
        bench = Bench(folder, stack)
        reads = read_by_all(bench)
        print(*reads, sep="\n", flush=True)
        tallies = {"a folder": moving_in_a_folder(bench), f"S3, moto {version('moto')}": moving_over_s3(bench)}
        print(tallies, flush=True)
    write(reads, tallies)
    gc.unfreeze()  # the loader froze what was there; DuckDB, which counts at the end, complains of it
    return 0 if is_fine(reads, tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
