"""Metrics and health as Prometheus and a probe see them, over HTTP."""

import urllib.error
import urllib.request
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.faults.worker import Worker


class Answer(NamedTuple):
    status: int
    content_type: str
    body: str


def address(worker: Worker) -> str:
    """Where a worker with `ETL_HTTP=127.0.0.1:0` serves."""
    worker.wait_for("serving_metrics")
    [line] = worker.lines("serving_metrics")
    return f"127.0.0.1:{line['port']}"


def get(at: str, path: str, method: str = "GET") -> Answer:
    request = urllib.request.Request(f"http://{at}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return Answer(response.status, response.headers["Content-Type"], response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers["Content-Type"], error.read().decode())


def samples(at: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name, by their labels' values, these in the order of the labels' names."""
    families = text_string_to_metric_families(get(at, "/metrics").body)
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in found}
