"""What the recall window costs, with and without: the rate, Redis' CPU for a claim, and its memory for what it keeps.

The runs are interleaved, and the ratios are what counts. Without, an acknowledged claim is deleted; with, it's kept.
"""

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.figures import Figure, ratio
from tests.benchmarks.load import Bench

WITHOUT, WITH = "without the window", "with the window"
_HOURS = {WITHOUT: 0, WITH: 24}


def measure(bench: Bench, runs: int) -> list[Figure]:
    rates: dict[str, list[float]] = {way: [] for way in _HOURS}
    cpu: dict[str, list[float]] = {way: [] for way in _HOURS}
    memory: dict[str, list[float]] = {way: [] for way in _HOURS}
    bench.etl(1)
    for _ in range(runs):
        for way, hours in _HOURS.items():
            bench.empty_tables()
            bench.flush()
            before = _used(bench)
            with bench.given(recall_hours=hours):
                measured = bench.etl(1)
            claims = bench.archive.value("SELECT count(*) FROM load_batches")
            rates[way].append(measured.rate)
            cpu[way].append(measured.cpu["Redis"] * len(bench.messages) / claims)
            memory[way].append((_used(bench) - before) / len(bench.messages))
    return [
        *_beside("CDRs/s", "etl, 1 worker", rates),
        *_beside("us a claim", "Redis' CPU", cpu),
        *(Figure("recall", f"Redis' memory afterwards, {way}", "bytes a CDR", each) for way, each in memory.items()),
    ]


def _beside(unit: str, what: str, runs: Mapping[str, list[float]]) -> list[Figure]:
    without = Figure("recall", f"{what}, {WITHOUT}", unit, runs[WITHOUT])
    return [without, Figure("recall", f"{what}, {WITH}", unit, runs[WITH], ratio(runs[WITH], runs[WITHOUT]), WITHOUT)]


def _used(bench: Bench) -> float:
    """Bytes."""
    found: Any = bench.redis.info("memory")
    return float(found["used_memory_dataset"])
