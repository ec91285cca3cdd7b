"""An archive of release 0.1, and its running processes, when the present code upgrades it: loaders and listeners go on
side by side with new ones, what would endanger the lake is refused, and in the end every call is one row.

Release 0.1 is run from the commit that was it: fixture `release_01`.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
import redis

from etl.ids import uuid7
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive, api_cdr, cdr, eventually

# Every step is a process or more, which takes its time where others are at work, too.
pytestmark = pytest.mark.timeout(300)

SPOOL = "etl:events"
FOLLOW = ("run", "--follow", "--no-schedule")
DONE, FAILED, MISUSED = 0, 1, 2
WAIT_SECONDS = 150
PERSON = "0700000042"
PRUNE_ALL = ("prune", "--keep-days", "1")
FORGET = ("forget", "--number", PERSON, "--yes")
LOADED = "SELECT count(*) FROM load_batches WHERE worker = %s"
SPOKEN = b'{"type": "status", "payload": {"status": "busy", "ref": "%d"}}'

# Days of 0.1's archive: Postgres has forgotten the first, which is far enough from the other for `prune` to tell.
PRUNED, DAY = date(2015, 2, 10), date(2015, 2, 19)
_numbers = count(1)


def noon(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp())


@dataclass
class Running:
    """A process, and the file with what it says."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(WAIT_SECONDS)

    def says(self) -> str:
        return self.log.read_text()


@dataclass
class Installation(Archive):
    """An archive that both releases work on. `told` are the calls that its dialler has told of."""

    release_01: Path = Path()
    lake: Path = Path()
    told: set[str] = field(default_factory=set)

    def environment(self, **more: str) -> dict[str, str]:
        """As both releases understand it, but for ETL_OLDEST_DAYS: see `environment_of`."""
        lists = [(CAMPAIGNS, "dialler"), (CDRS, "dialler"), (CLICK2DIAL, "click2dial")]
        ours = {
            "ETL_SOURCES": json.dumps([{"key": key, "source": source} for key, source in lists]),
            "ETL_EXPORT_URL": str(self.lake),
            "ETL_LEASE_SECONDS": "10",
            "ETL_BATCH_SIZE": "20",
            "ETL_FORGET_KEY": "a secret that is long enough for everybody",
        }
        return super().environment(**{**ours, **more})

    def environment_of(self, release: str, **more: str) -> dict[str, str]:
        """Without settings that the release doesn't know."""
        unknown = {"ETL_DECODER", "ETL_OLDEST_DAYS"} if release == "0.1" else set[str]()
        return {name: value for name, value in self.environment(**more).items() if name not in unknown}

    def command(self, release: str, *arguments: str) -> list[str]:
        program = [str(self.release_01)] if release == "0.1" else [sys.executable, "-m", "etl.cli"]
        return [*program, *arguments]

    def etl(self, release: str, *arguments: str, code: int = DONE) -> str:
        """What a command of release "0.1" or "new" says, when it has ended with this exit code."""
        if release == "0.1":
            ended = subprocess.run(
                self.command(release, *arguments),
                env=self.environment_of(release),
                capture_output=True,
                text=True,
                timeout=WAIT_SECONDS,
                check=False,
            )
        else:
            ended = self.run(*arguments)
        assert ended.returncode == code, f"{release}: etl {' '.join(arguments)}\n{ended.stdout}{ended.stderr}"
        assert "Traceback" not in ended.stderr
        return ended.stdout + ended.stderr

    @contextlib.contextmanager
    def running(self, release: str, *arguments: str, worker: str = "test") -> Iterator[Running]:
        """A process of either release, killed at the end if it still runs."""
        log = self.lake.with_name(f"process-{next(_numbers)}.log")
        with log.open("wb") as output:
            environment = self.environment_of(release, ETL_WORKER_NAME=worker)
            process = subprocess.Popen(self.command(release, *arguments), env=environment, stdout=output, stderr=output)
        try:
            yield Running(process, log)
        finally:
            process.kill()
            process.wait()

    def tell(self, *refs: object, day: date = DAY, key: str = CAMPAIGNS, **fields: object) -> None:
        """New calls, as the dialler writes them when it writes numbers as numbers."""
        self.told |= {str(ref) for ref in refs}
        self.push(*(cdr(ref, dialed_at=noon(day), **fields) for ref in refs), key=key)

    def holders(self) -> dict[str, list[str]]:
        """The claims in Redis by their worker, each as "<registry> <entry>"."""
        found: dict[str, list[str]] = {}
        for key in (CAMPAIGNS, CDRS, CLICK2DIAL, SPOOL):
            for entry in self.claims(key):
                found.setdefault(entry.partition("@")[2], []).append(f"{{{key}}}:claims {entry}")
        return found

    def leases_run_out(self, worker: str) -> None:
        """As when time has passed since the worker died."""
        for registry, entry in (each.split(" ") for each in self.holders().get(worker, [])):
            self.redis.zadd(registry, {entry: 0}, xx=True)

    @contextlib.contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Nobody gets at the table."""
        with psycopg.connect(self.database_url) as connection:
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    def in_lake(self, select: str) -> list[tuple[Any, ...]]:
        """What DuckDB reads from the files of calls."""
        files = f"read_parquet('{self.lake}/cdrs/*/*.parquet', hive_partitioning = true)"
        with duckdb.connect() as connection:
            return connection.execute(f"SELECT {select} FROM {files} ORDER BY ALL").fetchall()

    def looks(self) -> tuple[object, ...]:
        """All that a lake's command could change: rows and books in Postgres, and every file."""
        rows = [
            self.rows(f"SELECT * FROM {table} ORDER BY {order}")
            for table, order in (
                ("cdrs", "dialed_on, call_ref, leg"),
                ("exports", "dataset, day, revision"),
                ("load_batch_days", "batch_id, dataset, day"),
                ("dead_letters", "id"),
                ("cdr_revisions", "id"),
            )
        ]
        return (*rows, {path: path.read_bytes() for path in self.lake.rglob("*") if path.is_file()})

    def assert_every_call_once(self) -> None:
        """By its reference, in Postgres, and nothing else; and the books balance."""
        rows = self.rows("SELECT call_ref FROM cdrs")
        assert Counter(row["call_ref"] for row in rows) == Counter(self.told)
        self.assert_books_balance()


@dataclass(frozen=True)
class Made:
    """What 0.1 made, to copy: its database, its lake, the calls in it."""

    database: str
    lake: Path
    told: frozenset[str]


@pytest.fixture(scope="session")
def lake_place(session_folder: Path) -> Path:
    """One for all tests of a module: the books say where the lake lies."""
    return Path(tempfile.mkdtemp(prefix="upgraded-", dir=session_folder)) / "lake"


@pytest.fixture(scope="session")
def empty_01(postgres: PrivatePostgres, redis_server: PrivateRedis, release_01: Path, lake_place: Path) -> str:
    """The name of a database with the schema of 0.1."""
    name = f"empty_01_{next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    with redis.Redis.from_url(redis_server.url) as client:
        site = Installation(
            redis_server.url, postgres.database_url(name), client, release_01=release_01, lake=lake_place
        )
        site.etl("0.1", "db", "upgrade")
    return name


@contextlib.contextmanager
def _copy(
    postgres: PrivatePostgres, redis_server: PrivateRedis, release_01: Path, lake: Path, template: str, name: str
) -> Iterator[Installation]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    shutil.rmtree(lake, ignore_errors=True)
    url = postgres.database_url(name)
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        with Installation(redis_server.url, url, client, release_01=release_01, lake=lake) as site:
            yield site


@pytest.fixture
def site(
    postgres: PrivatePostgres, redis_server: PrivateRedis, release_01: Path, lake_place: Path, empty_01: str
) -> Iterator[Installation]:
    """An empty archive of 0.1."""
    with _copy(postgres, redis_server, release_01, lake_place, empty_01, f"upgrade_{next(_numbers)}") as made:
        yield made


@pytest.fixture(scope="session")
def made(
    postgres: PrivatePostgres, redis_server: PrivateRedis, release_01: Path, lake_place: Path, empty_01: str
) -> Made:
    """Two days that 0.1 loaded and exported, the first of which it pruned; calls of the second have come since."""
    name = f"made_by_01_{next(_numbers)}"
    with _copy(postgres, redis_server, release_01, lake_place, empty_01, name) as site:
        site.tell(*range(100), day=PRUNED)
        site.tell(*range(100, 200))
        site.tell(200, number=PERSON)
        site.etl("0.1", "run")
        site.etl("0.1", "export")
        site.etl("0.1", "prune", "--keep-days", str((datetime.now(UTC).date() - DAY).days + 2))
        site.tell(*range(201, 230))
        site.etl("0.1", "run")
        assert site.rows("SELECT DISTINCT dialed_on FROM cdrs") == [{"dialed_on": DAY}]
        kept = lake_place.with_name("lake-of-01")
        shutil.copytree(lake_place, kept)
        return Made(name, kept, frozenset(site.told))


@pytest.fixture
def filled(
    postgres: PrivatePostgres, redis_server: PrivateRedis, release_01: Path, lake_place: Path, made: Made
) -> Iterator[Installation]:
    """A copy of what 0.1 made."""
    name = f"upgrade_{next(_numbers)}"
    with _copy(postgres, redis_server, release_01, lake_place, made.database, name) as site:
        shutil.copytree(made.lake, lake_place)
        site.told = set(made.told)
        yield site


# Side by side


def test_given_an_upgrade_then_a_loader_of_01_goes_on_beside_a_new(site: Installation) -> None:
    dice, refs = random.Random(13), count(1)
    statuses = 0

    def told_to(survivor: str, victim: Running, worker: str) -> None:
        """The dialler tells more, on every list; one of the two is killed with a claim in its hand; the other has to
        load all."""
        nonlocal statuses
        site.tell(*(next(refs) for _ in range(400)))
        site.push(*(SPOKEN % number for number in range(statuses, statuses + 30)), key=CDRS)
        statuses += 30
        while not site.value(LOADED, worker):  # who is quicker takes all of a trickle
            site.tell(*(next(refs) for _ in range(1_000)))
            eventually(lambda: not site.redis.llen(CAMPAIGNS))
        site.tell(*(next(refs) for _ in range(400)))
        left = dice.randrange(50, 350)
        eventually(lambda: site.redis.llen(CAMPAIGNS) <= left)
        while worker not in site.holders():
            victim.signal(signal.SIGCONT)
            eventually(lambda: worker in site.holders() or not site.redis.llen(CAMPAIGNS))
            victim.signal(signal.SIGSTOP)
            if not site.redis.llen(CAMPAIGNS):
                site.tell(*(next(refs) for _ in range(400)))
        victim.signal(signal.SIGKILL)
        victim.ended()
        site.leases_run_out(worker)
        eventually(lambda: not site.redis.llen(CAMPAIGNS) and not site.holders(), what=f"{survivor} doesn't go on")
        assert site.value(LOADED, worker)
        assert site.value(LOADED, survivor)
        site.assert_every_call_once()

    with site.running("0.1", *FOLLOW, worker="old") as old:
        site.tell(*(next(refs) for _ in range(100)))
        eventually(lambda: site.value("SELECT count(*) FROM cdrs") == 100)
        site.etl("new", "db", "upgrade")
        with site.running("new", *FOLLOW, worker="new") as new:
            eventually(lambda: '"started"' in new.says())
            told_to("old", new, "new")
        with site.running("new", *FOLLOW, worker="new") as new:
            eventually(lambda: '"started"' in new.says())
            told_to("new", old, "old")
            assert "Traceback" not in old.says() + new.says()
    events = [
        row["ref"] for row in site.rows("SELECT payload ->> 'ref' AS ref FROM audit_events WHERE origin = 'list'")
    ]
    assert Counter(events) == Counter(map(str, range(statuses)))
    assert site.value("SELECT count(*) FROM dead_letters") == 0
    # What of 0.1 is started only now, is refused.
    assert "install a newer etl" in site.etl("0.1", "run", code=MISUSED)


def test_given_a_claim_of_years_ahead_then_01_waits_and_a_new_loads(site: Installation) -> None:
    """Of a Redis whose clock was wrong. The database, and not its own release, keeps 0.1 from dating it so."""
    batch_id = uuid7(2_200_000_000_000)
    with site.running("0.1", *FOLLOW, worker="old") as old:
        site.tell("before")
        eventually(lambda: site.value("SELECT count(*) FROM cdrs") == 1)
        site.etl("new", "db", "upgrade")
        site.redis.rpush(f"{{{CDRS}}}:claim:{batch_id}", SPOKEN % 1)
        site.redis.zadd(f"{{{CDRS}}}:claims", {f"{batch_id}@gone": 0})
        eventually(lambda: "days come two days ahead" in old.says())
        site.tell("meanwhile")
        eventually(lambda: site.value("SELECT count(*) FROM cdrs") == 2, what="the other list waits too")
        assert site.value("SELECT count(*) FROM audit_events") == 0
        old.signal(signal.SIGTERM)
        old.ended()
    site.etl("new", "run")

    assert site.value("SELECT count(*) FROM audit_events WHERE abs(extract(epoch FROM captured_at - now())) < 600") == 1
    assert site.value("SELECT count(*) FROM dead_letters") == 0
    site.assert_every_call_once()


@pytest.mark.parametrize(("listening", "loading"), [("0.1", "new"), ("new", "0.1")])
def test_given_one_release_listens_then_the_other_loads_what_it_heard(
    site: Installation, listening: str, loading: str
) -> None:
    spoken = [f"status {number}" for number in range(300)]
    with site.running("0.1", *FOLLOW, "--no-listen", worker="old") as loader:
        eventually(lambda: '"started"' in loader.says())
        if loading == "new":
            loader.signal(signal.SIGTERM)
            assert loader.ended() == DONE
        site.etl("new", "db", "upgrade")
        with site.running(listening, "listen", worker="ear") as listener:
            # Before its first report, a session hasn't begun.
            eventually(lambda: site.redis.llen(SPOOL) or site.rows("SELECT FROM listener_sessions"))
            for status in spoken:
                event = json.dumps({"type": "status", "payload": {"status": status, "ref": "1002"}})
                site.redis.publish("enigma:notifications:agents:1002", event)
            heard = "SELECT count(*) FROM audit_events"
            if loading == "new":
                # By its name: the listener's own reports are among them, as many as it has had time for.
                last = f'"{spoken[-1]}"'.encode()
                eventually(lambda: any(last in each for each in site.redis.lrange(SPOOL, 0, -1)))
            else:
                eventually(lambda: site.value(heard) == len(spoken))
            listener.signal(signal.SIGTERM)
            assert listener.ended() == DONE
        if loading == "new":
            site.etl("new", "run")
        eventually(lambda: site.rows("SELECT FROM listener_sessions WHERE reason = 'stopped'"))
    assert Counter(row["status"] for row in site.rows("SELECT status FROM audit_events")) == Counter(spoken)
    assert site.rows("SELECT received, dropped FROM listener_sessions") == [{"received": 300, "dropped": 0}]
    assert site.value("SELECT count(*) FROM dead_letters") == 0
    site.assert_books_balance()


# What is refused to 0.1


def test_given_an_upgrade_then_commands_of_01_are_refused(filled: Installation) -> None:
    filled.etl("new", "db", "upgrade")
    before = filled.looks()
    commands = [("export",), PRUNE_ALL, FORGET, ("restore", "--day", str(PRUNED)), ("dead", "replay"), ("run",)]
    for command in commands:
        said = filled.etl("0.1", *command, code=MISUSED)
        assert "newer than this program" in said
        assert "install a newer etl" in said
        assert filled.looks() == before


@pytest.mark.parametrize("command", [("export",), PRUNE_ALL, FORGET], ids=lambda command: str(command[0]))
def test_given_01_at_work_before_an_upgrade_then_the_database_refuses(
    filled: Installation, command: Sequence[str]
) -> None:
    """It's stopped amid reading the day, and the upgrade comes while it stands."""
    if command == PRUNE_ALL:
        filled.etl("0.1", "export")  # else there would be nothing to forget
    before = filled.looks()
    with filled.running("0.1", *command) as old:
        with filled.locked(f"cdrs_{DAY:%Y%m%d}"):
            waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            eventually(lambda: filled.rows(waits))
            old.signal(signal.SIGSTOP)
        with filled.running("new", "db", "upgrade") as upgrade:
            # Either it's through, or it waits for a lock of the one that stands.
            eventually(lambda: upgrade.process.poll() is not None or filled.rows(waits))
            upgraded_first = upgrade.process.poll() is not None
            old.signal(signal.SIGCONT)
            assert upgrade.ended() == DONE, upgrade.says()
        ended = old.ended()
        assert "Traceback" not in old.says()
        # It may be through before an upgrade that waited: then it was 0.1's still.
        before_it = ended == DONE and not upgraded_first
        assert before_it or (ended != DONE and "newer etl" in old.says()), old.says()
    if before_it and command == PRUNE_ALL and not filled.rows("SELECT FROM cdrs WHERE dialed_on = %s", DAY):
        filled.etl("new", "restore", "--dataset", "cdrs", "--day", str(DAY))
    cdrs, exports, *_, files = filled.looks()
    if command == FORGET:  # it may have come as far as Postgres; the lake is as it was, unless all was done before
        assert filled.value("SELECT count(*) FROM forgotten WHERE completed_at IS NOT NULL") == before_it
        filled.etl("new", *FORGET)
    else:
        assert cdrs == before[0]
    if not before_it or command == PRUNE_ALL:
        assert _known(exports) == _known(before[1])
        assert _plain(files) == _plain(before[-1])
    filled.etl("new", "export")
    assert_lake_equals_postgres(filled, PRUNED)


def _plain(files: object) -> dict[Path, bytes]:
    """What plain readers find: a restore takes the file of 0.1 over, and makes others beside."""
    assert isinstance(files, dict)
    return {path: content for path, content in files.items() if path.name == "part-0.parquet"}


def _known(exports: object) -> list[Any]:
    """The books of the lake, in the columns that 0.1 knew."""
    assert isinstance(exports, list)
    return [{name: row[name] for name in ("dataset", "day", "revision", "sha256", "dropped_at")} for row in exports]


def assert_lake_equals_postgres(site: Installation, *forgotten: date) -> None:
    """Every row of every day, but for days that only the lake has, looked at by DuckDB and by psycopg."""
    columns = "CAST(dialed_on AS text), source, call_ref, leg, call_time, end_code, end_reason, number, uuid"
    left_out = {str(day) for day in forgotten}
    with psycopg.connect(site.database_url) as connection:
        stored = connection.execute(f"SELECT {columns} FROM cdrs").fetchall()
    assert sorted(map(str, stored)) == sorted(str(row) for row in site.in_lake(columns) if row[0] not in left_out)


# The whole way


def _give_01_its_faults(site: Installation) -> None:
    """What 0.1 made of a real dialler's messages: two rows of one call, and dead letters for numbers that are texts."""
    # Dialect A with a leg, dialect B without.
    site.tell(*range(300, 340), call_trail_number=1)
    site.push(*(api_cdr(ref, dialed_at=f"{DAY} 12:00:00 +0000") for ref in range(300, 340)), key=CDRS)
    # Text where the documents print an integer. The last one is corrected before it's replayed.
    site.tell(*range(340, 380), end_code="16")
    site.tell(380, end_code="18", end_reason="timeout", call_time=0)
    site.etl("0.1", "run")
    site.tell(380, end_code=16, end_reason="agent_hungup", call_time=77)
    site.etl("0.1", "run")
    site.etl("0.1", "export")
    assert site.value("SELECT count(*) FROM cdrs WHERE call_ref = '300'") == 2
    assert site.value("SELECT count(*) FROM dead_letters WHERE reason = 'bad_type' AND resolved_at IS NULL") == 41
    # A claim in flight, of which some are told in text, too.
    site.tell(*range(381, 400))
    site.tell(400, end_code="16")
    with site.locked("load_batches"), site.running("0.1", "run") as loader:
        eventually(lambda: not site.redis.llen(CAMPAIGNS) and site.holders())
        loader.signal(signal.SIGKILL)
        loader.ended()


def test_given_an_archive_of_01_then_what_it_had_in_hand_is_loaded(filled: Installation) -> None:
    """What of the whole way holds whichever parts of it are built."""
    _give_01_its_faults(filled)
    before = filled.rows("SELECT call_ref, leg, call_time, uuid FROM cdrs ORDER BY call_ref, leg")
    assert "0007 → " in filled.etl("new", "db", "upgrade")
    filled.etl("new", "run")
    stored = filled.rows("SELECT call_ref, leg, call_time, uuid FROM cdrs ORDER BY call_ref, leg")
    assert [row for row in stored if row in before] == before
    assert {str(ref) for ref in range(381, 400)} <= {row["call_ref"] for row in stored}
    assert filled.holders() == {}
    filled.etl("new", "export")
    filled.etl("new", "reconcile")
    assert_lake_equals_postgres(filled, PRUNED)


def test_given_an_archive_of_01_then_it_ends_right(filled: Installation) -> None:
    _give_01_its_faults(filled)
    filled.etl("new", "db", "upgrade")
    filled.etl("new", "run")
    filled.etl("new", "dead", "replay")
    filled.etl("new", "reconcile", "--unite")
    filled.etl("new", "export")
    filled.etl("new", "reconcile")

    assert filled.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 0
    rows = filled.rows("SELECT call_ref, leg, end_code, end_reason, uuid, number FROM cdrs")
    assert Counter(row["call_ref"] for row in rows) == Counter(filled.told - {str(ref) for ref in range(100)})
    assert {row["leg"] for row in rows} == {0}
    found = {row["call_ref"]: row for row in rows}
    for ref in map(str, range(300, 340)):  # each dialect's own fields are there
        assert found[ref]["uuid"]
        assert found[ref]["number"]
    assert {found[str(ref)]["end_code"] for ref in range(340, 381)} == {16}
    # The letter was older than the correction: it makes a revision, and nothing else.
    assert found["380"]["end_reason"] == "agent_hungup"
    assert filled.rows("SELECT end_reason FROM cdr_revisions WHERE call_ref = '380'") == [{"end_reason": "timeout"}]
    assert_lake_equals_postgres(filled, PRUNED)

    filled.etl("new", "restore", "--day", str(PRUNED), "--dataset", "cdrs")
    filled.assert_every_call_once()
    filled.etl("new", "export")
    filled.etl("new", "reconcile")
    assert_lake_equals_postgres(filled)
    # Nothing is left to do.
    filled.etl("new", "reconcile", "--unite")
    assert filled.value("SELECT count(DISTINCT (source, call_ref)) = count(*) FROM cdrs")


def test_given_a_forgotten_day_with_twins_if_restored_then_they_unite(site: Installation) -> None:
    site.tell(*range(20), day=PRUNED, call_trail_number=1)
    site.push(*(api_cdr(ref, dialed_at=f"{PRUNED} 12:00:00 +0000") for ref in range(20)), key=CDRS)
    site.etl("0.1", "run")
    site.etl("0.1", "export")
    site.etl("0.1", *PRUNE_ALL)
    site.etl("new", "db", "upgrade")
    site.etl("new", "restore", "--day", str(PRUNED), "--dataset", "cdrs")
    site.etl("new", "reconcile", "--unite")
    site.assert_every_call_once()
    site.etl("new", "export")
    site.etl("new", "reconcile")
    assert_lake_equals_postgres(site)
