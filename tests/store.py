"""Claims for a `Writer`, without Redis: what tests of the store need beside the `archive` fixture's questions."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from etl.ids import new_id
from etl.store import connection
from etl.store.ledger import Books
from etl.store.writer import Batch, Writer
from etl.wire.dated import Dated
from etl.wire.decode import Decoding
from etl.wire.packed import packer
from etl.wire.times import from_datetime
from tests.world import CAMPAIGNS, DECODER

# For an administrator's connection: as shipped, without the lines that psql keeps to itself.
ROLES_FILE = Path(__file__).parents[1] / "ops/postgres/roles.sql"
ROLES = re.sub(r"^\\.*\n", "", ROLES_FILE.read_text(), flags=re.MULTILINE)


def batch(messages: Sequence[bytes], batch_id: UUID | None = None, source: str = "dialler") -> Batch:
    """A claim of these messages. Each holder of a claim decodes it for itself: make one for each."""
    now = datetime.now(UTC)
    batch_id = batch_id or new_id()

    def records(captured_at: int) -> Decoding:
        latest, most = from_datetime(now + timedelta(days=1)), 1024 * 1024
        decoding = Decoding(
            messages,
            source=source,
            key=CAMPAIGNS,
            batch_id=batch_id,
            captured_at=captured_at,
            latest=latest,
            max_message_bytes=most,
        )
        if (packing := packer(DECODER)) and not isinstance(messages, Hooked):
            decoding.packing(packing(source, batch_id.bytes, 0, latest, most, UTC))
        return decoding

    return Batch(batch_id, "test", CAMPAIGNS, now, len(messages), Dated(records, from_datetime(now)))


def write(writer: Writer, *messages: bytes, batch_id: UUID | None = None) -> Books | None:
    return writer.write(batch(messages, batch_id))


@contextmanager
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = connection.connect("postgresql+psycopg://" + database_url.partition("://")[2])
    try:
        yield engine
    finally:
        engine.dispose()


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """What the jobs return, each in a thread of its own, all started together. Raises what one of them raised."""
    start = threading.Barrier(len(jobs))
    results: list[Any] = [None] * len(jobs)
    failures: list[BaseException] = []

    def run(index: int, job: Callable[[], Any]) -> None:
        try:
            start.wait()
            results[index] = job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a job hangs"
    if failures:
        raise failures[0]
    return results


class Hooked(list[bytes]):
    """Messages that call `hook` when whoever reads them comes to number `at`: a moment in the middle of a COPY."""

    def __init__(self, messages: Sequence[bytes], at: int, hook: Callable[[], object]) -> None:
        super().__init__(messages)
        self._at = at
        self._hook = hook

    def __iter__(self) -> Iterator[bytes]:
        for position, message in enumerate(super().__iter__()):
            if position == self._at:
                self._hook()
            yield message
