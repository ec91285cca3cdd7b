"""The main job from end to end on private servers: a simulated dialler and, for the days that it plays, a simulated
listener; then the real listener and the real loader."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from etl.app.database import engine_of, gaps, rollup, upgrade
from etl.app.days import first_open_day
from etl.app.lake import open_lake
from etl.app.load import drain, listen
from etl.app.sources import waiting
from etl.app.stores import redis_of
from etl.errors import ConfigurationError, EtlError, Outage
from etl.inbox.producer import publish
from etl.jobs.outcomes import Outcome
from etl.keys import SPOOL
from etl.lab.dialler import simulate
from etl.lab.heard import NAME, last_until
from etl.lab.servers.ports import free_port
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from etl.lab.servers.process import wait_until
from etl.lab.simulator import Profile, SimulatorTally
from etl.lake.datasets import DATASETS
from etl.lake.difference import Difference
from etl.settings import Settings, SourceSettings
from etl.store import connection as store
from etl.store.ledger import Books
from etl.store.sessions import Gap

CDRS = 20_000
DAYS = 3
# What the dialler says while the real listener is there.
STARTED = ("enigma:notifications:dialers", b'{"type":"status","payload":{"status":"started"}}')
FIRST_REPORT_SECONDS = 30.0  # for the subscription, on a machine that is busy otherwise
LAST_EVENT_SECONDS = 30.0  # until it lies on the spool
CLOCKS_DIFFER_SECONDS = 0.25

DEMO_SOURCES = (
    SourceSettings(key="enigma:notifications:campaigns", source="dialler"),
    SourceSettings(key="enigma:notifications:cdrs", source="dialler"),
    SourceSettings(key="enigma:notifications:cdr", source="click2dial"),
)

REPORTS = {
    "calls by disposition": "SELECT end_reason, count(*) AS calls, round(avg(talk_seconds)) AS avg_seconds"
    " FROM reporting.calls GROUP BY end_reason ORDER BY calls DESC LIMIT 5",
    "busiest campaigns": "SELECT campaign_ref AS campaign, count(*) AS attempts,"
    " count(*) FILTER (WHERE extension IS NOT NULL AND talk_seconds > 0) AS with_agent FROM reporting.calls"
    " WHERE source = 'dialler' GROUP BY campaign_ref ORDER BY attempts DESC LIMIT 5",
    "yesterday's agents: from the events, how long each was in which state": "SELECT extension AS agent, calls,"
    " make_interval(secs => logged_in_seconds::float) AS logged_in, make_interval(secs => busy_seconds::float) AS busy,"
    " make_interval(secs => wrapup_seconds::float) AS wrapup, occupancy FROM reporting.agent_days"
    " WHERE day = (now() AT TIME ZONE 'UTC')::date - 1 AND logged_in_seconds > 0"
    " ORDER BY busy_seconds DESC, extension LIMIT 5",
    "queues: how long callers waited": "SELECT campaign_ref AS queue, count(*) AS offered,"
    " count(*) FILTER (WHERE reached_agent) AS answered,"
    " count(*) FILTER (WHERE reached_agent AND hold_seconds <= 20) AS within_20_s,"
    " round(avg(hold_seconds) FILTER (WHERE reached_agent)) AS avg_wait,"
    " max(hold_seconds) FILTER (WHERE reached_agent) AS longest,"
    " count(*) FILTER (WHERE NOT reached_agent) AS hung_up FROM reporting.calls WHERE call_dir = 'inbound'"
    " GROUP BY campaign_ref ORDER BY campaign_ref",
    "rows by day: the ledger's and the table's": "SELECT day, sum(inserted) AS by_ledger,"
    " (SELECT count(*) FROM cdrs WHERE dialed_on = day) AS in_table FROM load_batch_days"
    " WHERE dataset = 'cdrs' GROUP BY day ORDER BY day DESC LIMIT 5",
}
DEAD_LETTERS = (
    'SELECT reason, count(*) AS messages, min(detail) AS "for example" FROM dead_letters'
    " GROUP BY reason ORDER BY reason"
)
# The busiest agent whose shift is over: the first and the last events of it. The event has when it was heard, and the
# CDR when the call was connected.
AGENTS_DAY = """
WITH agent AS (
    SELECT extension FROM audit_events WHERE kind = 'agents' AND event_type = 'call'
    GROUP BY extension ORDER BY count(*) DESC, extension LIMIT 1
), events AS (
    SELECT *, count(*) FILTER (WHERE status = 'offline') OVER (ORDER BY captured_at, event_id) AS shift
    FROM audit_events JOIN agent USING (extension) WHERE kind = 'agents' AND event_type <> 'stats'
), first_day AS (
    SELECT *, row_number() OVER day AS nth, count(*) OVER () AS events
    FROM events WHERE shift = 0 OR (shift = 1 AND status = 'offline')
    WINDOW day AS (ORDER BY captured_at, event_id)
)
SELECT nth AS "no.", to_char(captured_at AT TIME ZONE 'UTC', 'Dy HH24:MI:SS') AS heard_at, first_day.extension AS agent,
    coalesce(status, 'connected to a call') AS event, first_day.campaign_ref AS campaign, first_day.call_ref,
    to_char(cdrs.connected_at AT TIME ZONE 'UTC', 'Dy HH24:MI:SS') AS connected_at, cdrs.end_reason
FROM first_day LEFT JOIN cdrs ON cdrs.source = 'dialler' AND cdrs.call_ref = first_day.call_ref
WHERE nth <= 10 OR nth > events - 3
ORDER BY nth
"""

# Of the files in the lake's folder, and of the table that they are, too.
LAKE_QUERY = (
    "SELECT dialed_on AS day, count(*) AS calls, count(DISTINCT campaign_ref) AS campaigns,"
    " sum(CASE WHEN call_time BETWEEN 0 AND 86400 THEN call_time END) AS seconds FROM {lake} GROUP BY day ORDER BY day"
)
FILES = "read_parquet('cdrs/*/*.parquet', hive_partitioning = true)"
TABLE = "cdrs"
TABLE_LOCATION = "SELECT metadata_location FROM iceberg.iceberg_tables WHERE table_name = 'cdrs'"

# What to try in psql, and what it shows.
QUERIES = {
    "\\d+ cdrs": "every column says what it is",
    "SELECT * FROM load_batches;": "the ledger: one row per claim, and its books balance",
    "SELECT * FROM listener_sessions;": "who listened, from when to when, and how much was heard",
    "SELECT id, reason, convert_from(raw, 'UTF8') FROM dead_letters WHERE reason = 'missing_field';": (
        "dead letters, byte for byte"
    ),
}


@dataclass(frozen=True)
class Demo:
    """A running demo: servers that are up, settings that point to them."""

    settings: Settings
    postgres: PrivatePostgres

    def play(self, progress: Callable[[int], None]) -> SimulatorTally:
        profile = Profile(
            cdrs=CDRS,
            until=last_until(time.time()),
            days=DAYS,
            dialect="both",
            duplicates=0.03,
            broken=0.001,
            late=0.02,
            events=0.002,
            pubsub=True,
        )
        return simulate(self.settings, profile, progress=progress, heard=True)

    def listened(self) -> datetime:
        """Let the dialler say something while `etl listen` runs; returns until when there was a subscription. What was
        heard is on the spool then."""
        stop, spooled = threading.Event(), self._spooled()
        with ThreadPoolExecutor(1, "listen") as pool:
            listening = pool.submit(listen, self.settings, stop)
            try:
                # The first message that it adds reports the subscription.
                if not wait_until(lambda: listening.done() or self._spooled() > spooled, FIRST_REPORT_SECONDS):
                    raise Outage("ETL-904", "the listener isn't subscribed")
                spooled = self._spooled()
                with redis_of(self.settings) as redis:
                    publish(redis, [STARTED])
                until = datetime.now(UTC)
                # The last proof must be later than that by the listener's clock, too, which is behind ours by as long
                # as Redis took to tell the time; and it comes behind all that is still to be heard.
                wait_until(lambda: self._spooled() > spooled, LAST_EVENT_SECONDS)
                time.sleep(CLOCKS_DIFFER_SECONDS)
            finally:
                stop.set()
            listening.result()
        return until

    def _spooled(self) -> int:
        return self.waiting()[SPOOL] or 0

    def gaps(self, until: datetime) -> list[Gap]:
        """Since the first of the days that were played."""
        return gaps(self.settings, until - timedelta(days=DAYS), until)

    def rollup(self) -> None:
        """As `etl rollup`: reports need the figures that it keeps."""
        rollup(self.settings, False, lambda _: None)

    def waiting(self) -> dict[str, int | None]:
        return waiting(self.settings)

    def read(self, query: str) -> tuple[list[str], list[Sequence[object]]]:
        """A query's column names and rows."""
        with engine_of(self.settings) as engine:
            return store.read(engine, query)

    def export(self, progress: Callable[[int], None]) -> tuple[list[Outcome], list[Difference]]:
        """Every closed day into the lake, and how the files differ from Postgres."""
        before = first_open_day(self.settings)
        with open_lake(self.settings) as archive:
            due = [(dataset, books.day) for dataset in DATASETS.values() for books in archive.due(dataset, before)]
            outcomes = [archive.export(dataset, day, progress) for dataset, day in due]
            return outcomes, [each for dataset, day in due for each in archive.verify(dataset, day, deep=True).wrong]

    def ask_the_files(self) -> tuple[list[str], list[Sequence[object]]]:
        """`LAKE_QUERY` by DuckDB, without code of ours: column names and rows."""
        import duckdb  # noqa: PLC0415  (after Postgres and Redis have started, it may take its second)

        with duckdb.connect() as connection, contextlib.chdir(self.settings.export_url):
            found = connection.execute(LAKE_QUERY.format(lake=FILES))
            return [column[0] for column in found.description], [*found.fetchall()]

    def table(self) -> str | None:
        """Where the metadata of the Iceberg table is; None if there is none, for want of the extra."""
        if self.settings.lake_table is None:
            return None
        _, [(location,)] = self.read(TABLE_LOCATION)
        return str(location)

    def ask_the_table(self, location: str) -> tuple[list[str], list[Sequence[object]]] | None:
        """The same by Polars, which shares nothing with DuckDB; None if it isn't installed."""
        if not find_spec("polars"):
            return None
        import polars  # noqa: PLC0415  (not everybody has it)

        lake = polars.SQLContext({TABLE: polars.scan_iceberg(location)})
        found = lake.execute(LAKE_QUERY.format(lake=TABLE), eager=True)
        return found.columns, [*found.rows()]

    def load(self, loaded: Callable[[str, Books], None]) -> None:
        def broken(_key: str, error: EtlError) -> None:
            raise error

        drain(self.settings, threading.Event(), loaded, broken)


def folder() -> Path:
    """Where a user's demo lives: the same place each time, so that it can be looked at afterwards."""
    return Path(tempfile.gettempdir()) / f"etl-demo-{os.getuid()}"


@contextlib.contextmanager
def fresh() -> Iterator[Demo]:
    """A demo that starts empty. Its servers end with it; Postgres' data stays for `psql`."""
    with _alone():
        data = folder() / "data"
        _clear(data)
        with PrivatePostgres(data / "postgres") as postgres, PrivateRedis(data / "redis") as redis:
            settings = _settings(redis, postgres)
            upgrade(settings)
            yield Demo(settings, postgres)


@contextlib.contextmanager
def again() -> Iterator[Settings]:
    """The data of the last demo, with its servers up; nothing waits in Redis."""
    with _last() as postgres, PrivateRedis(folder() / "data" / "redis") as redis:
        yield _settings(redis, postgres).model_copy(update={"web": f"127.0.0.1:{free_port()}"})


def psql(arguments: list[str]) -> int:
    """Open psql on the data of the last demo; returns its exit code."""
    with _last() as postgres:
        return subprocess.run([postgres.bin / "psql", postgres.url, *arguments], check=False).returncode


@contextlib.contextmanager
def _last() -> Iterator[PrivatePostgres]:
    data = folder() / "data" / "postgres"
    if not data.is_dir():
        raise ConfigurationError("ETL-901", "there is no demo to look at yet: run `etl demo` first")
    with _alone(), PrivatePostgres(data) as postgres:
        yield postgres


def _settings(redis: PrivateRedis, postgres: PrivatePostgres) -> Settings:
    return Settings(
        redis_url=SecretStr(redis.url),
        database_url=SecretStr(postgres.url),
        redis_name=NAME,
        sources=DEMO_SOURCES,
        worker_name="demo",
        export_url=str(folder() / "data" / "lake"),
        export_grace_minutes=0,
        lake_table="iceberg" if find_spec("pyiceberg") else None,
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    home = folder()
    home.mkdir(mode=0o755, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.getuid():
        raise ConfigurationError(
            "ETL-902", f"{home} belongs to somebody else: remove it, or set TMPDIR to another folder"
        )
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError("ETL-903", "another `etl demo` is running: wait for it, or end it") from None
        yield


def _clear(data: Path) -> None:
    if data.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(data)
    data.mkdir(parents=True)
