"""Where a loader's time goes: its steps one after the other, in one thread, with the CPU that each takes here. Where
there is a compiled decoder, the same by Python's again."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from etl.app.sources import decoders_of
from etl.ids import time_of
from etl.inbox import connection as inbox
from etl.inbox.claims import Source
from etl.store.writer import Batch, Writer
from etl.wire.dated import Dated
from etl.wire.times import from_datetime
from tests.benchmarks.decoders import PYTHONS, is_compiled
from tests.benchmarks.figures import Figure
from tests.benchmarks.load import Bench
from tests.benchmarks.mixes import BATCH
from tests.store import engine
from tests.world import CAMPAIGNS

CLAIM, DECODE, WRITE, ACK = "claim", "decode: bytes to rows", "write: rows to COPY, ledger, commit", "ack"


def measure(bench: Bench, runs: int) -> list[Figure]:
    ways = {"": {}, ", by Python's decoder": PYTHONS} if is_compiled() else {"": dict[str, str]()}
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        for way, settings in ways.items():
            bench.empty_tables()
            bench.flush()
            bench.fill(bench.messages)
            with bench.given(**settings):
                for step, seconds in _load(bench).items():
                    taken[step + way].append(seconds / len(bench.messages) * 1_000_000)
    return [Figure("steps", step, "us of CPU a CDR", each) for step, each in taken.items()]


def _load(bench: Bench) -> dict[str, float]:
    """Seconds of CPU by step, for all that waits."""
    spent: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[name] += time.process_time() - began

    decode = decoders_of(bench.archive.settings())[CAMPAIGNS]
    with inbox.connect(bench.archive.redis_url) as client, engine(bench.archive.database_url) as connections:
        source = Source(client, CAMPAIGNS, worker="bench", lease_ms=600_000, batch_size=BATCH)
        writer = Writer(connections)
        while True:
            with step(CLAIM):
                claim = source.claim()
            if claim is None:
                return spent
            claimed_at = time_of(claim.batch_id)
            with step(DECODE):
                records = Dated(partial(decode, claim.messages, claim.batch_id), from_datetime(claimed_at))
                records.prepare()
            with step(WRITE):
                writer.write(Batch(claim.batch_id, "bench", CAMPAIGNS, claimed_at, len(claim.messages), records))
            with step(ACK):
                claim.ack()
