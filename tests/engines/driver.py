"""A program: Spark's driver, in the environment that has Spark. A line of JSON on standard input is a command, a line
on standard output its answer; the first command is the session's configuration.

    {"do": "ask", …}                   the questions of `ask`, of the plain files and of the table
    {"do": "query", "sql": …}          to its end, at once
    {"do": "plan", "sql": …}           until Spark knows the columns; "finish" has it carried out
    {"do": "begin", "columns": […]}    of every call, until the first row is here; "finish" fetches the others
    {"do": "finish"}                   the rows of what was planned or begun

The answer is {"rows": …}, or {"error": …} in Spark's words.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import date
from importlib import import_module
from importlib.metadata import version
from itertools import chain
from typing import Any

from tests.engines.ask import by_spark

Command = dict[str, Any]


class Driver:
    def __init__(self, configuration: dict[str, str]) -> None:
        builder = import_module("pyspark.sql").SparkSession.builder.appName("etl")
        for name, value in configuration.items():
            builder = builder.config(name, value)
        self.spark = builder.getOrCreate()
        self._under_way: Iterator[Any] = iter(())

    def ask(self, command: Command) -> dict[str, Any]:
        spark = self.spark
        answers = {"table": by_spark(spark, spark.table("etl.lake.cdrs"), command)}
        if "files" in command:
            answers["files"] = by_spark(spark, spark.read.parquet(f"{command['files']}/cdrs"), command)
        return {**answers, "version": version("pyspark")}

    def query(self, command: Command) -> list[Any]:
        return [list(row) for row in self.spark.sql(command["sql"]).collect()]

    def plan(self, command: Command) -> list[Any]:
        planned = self.spark.sql(command["sql"])
        self._under_way = (row for frame in (planned,) for row in frame.collect())
        return list(planned.columns)

    def begin(self, command: Command) -> list[Any]:
        """Partition by partition, each read when it's asked for; and each file is one."""
        apart = {"split-size": "1", "file-open-cost": "1000000"}
        calls = self.spark.read.options(**apart).table("etl.lake.cdrs").select(*command["columns"])
        rows = calls.toLocalIterator()
        first = next(rows)
        self._under_way = chain([first], rows)
        return [calls.rdd.getNumPartitions()]

    def finish(self, _: Command) -> list[Any]:
        return [[str(value) if isinstance(value, date) else value for value in row] for row in self._under_way]


def main() -> None:
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        driver = Driver(json.loads(sys.stdin.readline()))
        _say(out, {"rows": []})
        for line in sys.stdin:
            command: Command = json.loads(line)
            try:
                _say(out, {"rows": getattr(driver, command["do"])(command)})
            except Exception as error:
                _say(out, {"error": f"{type(error).__name__}: {error}"[:2_000]})
        driver.spark.stop()


def _say(out: Any, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
