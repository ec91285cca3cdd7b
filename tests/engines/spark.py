"""Spark as a cluster of its own: a standalone master and a worker, each a process, and the driver, a third. They come
from .venv/engines, where `make engines` puts them."""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etl.lab.servers.ports import free_port
from etl.lab.servers.process import launch
from tests.engines.hard import READER
from tests.world import eventually

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv/engines"
JARS = HOME / "jars"
PYTHON = HOME / "bin/python"
MASTER, WORKER = "org.apache.spark.deploy.master.Master", "org.apache.spark.deploy.worker.Worker"
# By which Spark finds the table in the archive, beside where that is; docs/lake.md has the same.
CATALOG = {
    "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
    "jdbc.user": READER,
    "jdbc.schema-version": "V1",
    "cache-enabled": "false",  # else a table is what it was for half a minute
}
SETTINGS = {
    "spark.sql.catalog.etl": "org.apache.iceberg.spark.SparkCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",
    "spark.executor.cores": "1",
    "spark.executor.memory": "512m",
    "spark.ui.enabled": "false",
}
START_SECONDS = 300.0  # of a JVM on a machine that is busy


class SparkError(Exception):
    """What Spark answered instead of rows."""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """The master's address, with two cores of a worker that is registered there."""
    address, log = f"spark://127.0.0.1:{free_port()}", folder / "worker.log"
    where = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(spark_home())}
    program = spark_home() / "bin/spark-class"

    def start(name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        common = ("--host", "127.0.0.1", "--webui-port", "0")
        command: list[str | Path] = [program, name, *common, *arguments]
        log = folder / f"{name.rpartition('.')[2].lower()}.log"
        return launch(command, log, signal.SIGKILL, owner=None, folder=folder, more=where)

    port = address.rpartition(":")[2]
    processes = [start(MASTER, "--port", port)]
    try:
        options = ("--cores", "2", "--memory", "2g", "--work-dir", str(folder / "work"))
        processes.append(start(WORKER, *options, address))
        eventually(
            lambda: log.exists() and "Successfully registered" in log.read_text(),
            START_SECONDS,
            "Spark's worker is not registered with its master",
        )
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def spark_home() -> Path:
    return next(HOME.glob("lib/python*/site-packages/pyspark"))


def jars() -> str:
    """All of them, as Spark wants to be told."""
    return ",".join(map(str, sorted(JARS.glob("*.jar"))))


def java_version() -> str:
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    return told.split('"')[1]


def jar_versions() -> dict[str, str]:
    found = (re.fullmatch(r"(.+?)-([0-9.]+)", path.stem) for path in sorted(JARS.glob("*.jar")))
    return {name[1]: name[2] for name in found if name}


class Session:
    """A driver, at work from `with` on."""

    def __init__(self, configuration: Mapping[str, str], log: Path) -> None:
        self._configuration, self._log = configuration, log

    def __enter__(self) -> "Session":
        environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "tests.engines.driver"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._exchange(dict(self._configuration))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def do(self, what: str, **more: Any) -> Any:
        """See `driver`. Raises `SparkError`."""
        return self._exchange({"do": what, **more})

    def _exchange(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SparkError(f"the driver has ended: {self._log.read_text()[-2_000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise SparkError(answer["error"])
        return answer["rows"]
