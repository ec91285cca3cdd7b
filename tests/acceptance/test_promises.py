"""The promises of the design, one test each, by a witness: it types `etl` as an operator does, writes what a dialler
writes, and looks with psql, DuckDB (Polars, at Iceberg tables) and a socket to Redis. Nothing of ours is imported, so
no belief of ours is shared.

Each test runs on an archive of today and on one that release 0.1 made and filled, which was then upgraded. On the
second, commands that are waited for are forked from one that has started: the first proves that they start.
"""

import csv
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import duckdb
import polars as pl
import pytest

from tests import forked

# What the published dialler sends; the documents print an integer. Flip it when the decoder takes texts (issue 13).
TEXT_NUMBERS = True

# Every step is a process or more, which takes its time where others are at work, too.
pytestmark = pytest.mark.timeout(300)

CAMPAIGNS, CDRS, AGENTS = (f"enigma:notifications:{kind}" for kind in ("campaigns", "cdrs", "agents"))
LISTS = (CAMPAIGNS, CDRS, AGENTS)
ETL = Path(sysconfig.get_path("scripts")) / "etl"
FOLLOW = ("run", "--follow", "--no-listen", "--no-schedule")
DONE, FAILED = 0, 1
SECONDS = 150.0

# Closed days; the first is far enough from the others that `prune` can tell it from them whatever the time of day.
FIRST, SECOND, THIRD, FOURTH = date(2025, 6, 2), date(2025, 6, 10), date(2025, 6, 11), date(2025, 6, 12)
UNPARSABLE = [
    b"not json at all",
    b'{"type": "cdr", "payload": {"call_ref": 1',
    b"\xff\xfe\x00 neither text nor JSON \x00\r\n",
    b"",
    b'{"type": "cdr", "payload": {"call_ref": "no time"}}',
    b'{"type": "cdr", "payload": {"call_ref": "\\u0000", "dialed_at": 1749000000}}',
    b'{"type": "cdr", "payload": []}',
    b"[" * 100_000,
]

Row = tuple[str, ...]
_numbers = count(1)
csv.field_size_limit(10_000_000)  # letters of dead letters, in hexadecimal


class Unexpected(Exception):
    """What a test relies on went wrong: another failure than that of the promise, and no reason to expect one."""


class Server(Protocol):
    """As the fixture `witness_server` starts them."""

    bin: Path

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Call:
    """What a dialler knows of a call, and how it says so."""

    ref: int
    at: int  # Unix time
    talk: int = 41
    reason: str = "callee_hungup"
    code: int = 16

    def a(self, **more: object) -> bytes:
        """Dialect A: the client CDR."""
        payload = {
            "extension": "1002",
            "number": f"0700{self.ref:06}",
            "dial_number": "0126543210",
            "recording_url": "/recordings/88.WAV",
            "call_ref": self.ref,
            "contact_ref": f"M{self.ref}",
            "dialed_at": self.at,
            "call_time": self.talk,
            "end_reason": self.reason,
            "end_code": str(self.code) if TEXT_NUMBERS else self.code,
            "call_dir": "outbound",
            "ref": "2040",
        }
        return json.dumps({"type": "cdr", "payload": payload | more}).encode()

    def b(self) -> bytes:
        """Dialect B: the same call as `call_update` tells it."""
        times = {
            name: f"{datetime.fromtimestamp(self.at + seconds, UTC):%Y-%m-%d %H:%M:%S} +0000"
            for name, seconds in (("dialed_at", 0), ("callee_answered_at", 9), ("ended_at", 50))
        }
        payload = {
            "call_ref": self.ref,
            "uuid": f"u-{self.ref}",
            "agent": "1002",
            "recording_location": "/recordings/88.WAV",
            "agent_answered_at": None,
            "end_reason": self.reason,
            "call_dir": "outbound",
        }
        return json.dumps({"type": "call_update", "payload": payload | times}).encode()

    @property
    def day(self) -> date:
        return datetime.fromtimestamp(self.at, UTC).date()

    def row(self) -> Row:
        """What must be stored of it, whichever dialects told it."""
        return str(self.ref), str(self.at), self.reason, "1002"


COLUMNS = "call_ref, extract(epoch FROM dialed_at)::bigint, end_reason, extension"


@dataclass
class Site:
    """An installation: two servers, a folder for the lake, the settings; and what the dialler has told it."""

    redis: Server
    postgres: Server
    database: str
    lake: Path
    program: Path = ETL
    whole: bool = True  # every process is a new one
    told: dict[int, Call] = field(default_factory=dict)
    refs: Iterator[int] = field(default_factory=lambda: count(100_000))

    # As an operator

    def settings(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "PG"))}
        sources = [{"key": key, "source": "dialler"} for key in LISTS]
        ours = {
            "ETL_REDIS_URL": self.redis.url,
            "ETL_DATABASE_URL": self.database,
            "ETL_SOURCES": json.dumps(sources),
            "ETL_EXPORT_URL": str(self.lake),
            "ETL_WORKER_NAME": "w",
            "ETL_LEASE_SECONDS": "10",
            "ETL_HTTP": "off",
        }
        return kept | ours | more

    def etl(self, *arguments: str, code: int = DONE, **more: str) -> str:
        if self.whole or self.program != ETL:
            ended = subprocess.run(
                [self.program, *arguments],
                env=self.settings(**more),
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        else:
            ended = forked.run(arguments, self.settings(**more), seconds=SECONDS)
        if ended.returncode != code or "Traceback" in ended.stderr:
            raise Unexpected(f"etl {' '.join(arguments)}: {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return ended.stdout + ended.stderr

    @contextmanager
    def running(self, *arguments: str, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
        """An etl process that is killed at the end, if it still is."""
        process = subprocess.Popen(
            [self.program, *arguments],
            env=self.settings(**more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    # As a dialler

    def calls(self, number: int, day: date = SECOND) -> list[Call]:
        """New ones, between eight and sixteen o'clock."""
        start = int(datetime(day.year, day.month, day.day, 8, tzinfo=UTC).timestamp())
        return [Call(ref, start + ref * 7919 % 28_800) for ref, _ in zip(self.refs, range(number), strict=False)]

    def tell(self, calls: Sequence[Call], key: str = CAMPAIGNS) -> None:
        """Push them; what is told of a call later is what holds."""
        self.told |= {call.ref: call for call in calls}
        self.push(key, *(call.b() if key == CDRS else call.a() for call in calls))

    def push(self, key: str, *messages: bytes) -> None:
        self.ask("LPUSH", key, *messages)

    def ask(self, *words: str | bytes) -> Any:
        """One command to Redis."""
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        request = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.redis.url.removeprefix("unix://").partition("?")[0])
            connection.sendall(request)
            with connection.makefile("rb") as answer:
                return _reply(answer)

    # As a witness

    def waiting(self) -> dict[str, list[bytes]]:
        """Every list that is in Redis: the dialler's, and what etl holds of them; not what it keeps for a while of
        what is in Postgres."""
        keys = [key.decode() for key in self.ask("KEYS", "*") if b"}:kept:" not in key]
        return {key: self.ask("LRANGE", key, "0", "-1") for key in keys if self.ask("TYPE", key) == b"list"}

    def sql(self, query: str) -> list[Row]:
        asked = [
            str(self.postgres.bin / "psql"),
            "-Xq",
            "--csv",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            query,
            self.database,
        ]
        ended = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=SECONDS)
        if ended.returncode != 0:
            raise Unexpected(ended.stderr)
        return [tuple(row) or ("",) for row in csv.reader(ended.stdout.splitlines())]

    def in_lake(self, dataset: str, select: str, rest: str = "") -> list[Row]:
        """What DuckDB reads from the files, as text; nothing if there are none."""
        if not list((self.lake / dataset).glob("*/*.parquet")):
            return []
        files = f"read_parquet('{self.lake}/{dataset}/*/*.parquet', hive_partitioning = true)"
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return [
                tuple(map(str, row)) for row in connection.execute(f"SELECT {select} FROM {files} {rest}").fetchall()
            ]

    def pointer(self, dataset: str) -> str:
        """Where the metadata of its Iceberg table is; empty if there is no table."""
        found = self.sql(f"SELECT metadata_location FROM iceberg.iceberg_tables WHERE table_name = '{dataset}'")
        return "".join(place for (place,) in found)

    def in_table(self, location: str, day: date) -> dict[int, int]:
        """Calls of the day by the length of their talk, as Polars reads the metadata and what it leads to: DuckDB's
        extension for that can't be had without a network."""
        calls = pl.scan_iceberg(location).filter(pl.col("dialed_on") == day).collect()
        return dict(Counter(calls["call_time"]))

    def settle(self) -> None:
        """What release 0.1 had in its hands is loaded."""
        if self.waiting():
            self.etl("run")

    def in_the_place_of(self, contents: dict[Path, bytes]) -> None:
        for file, content in contents.items():
            file.unlink()  # never into it: it may be a link to another
            file.write_bytes(content)

    def time_passes(self) -> None:
        """In Redis: what was to expire some time expires now."""
        for key in self.ask("KEYS", "*"):
            if self.ask("PTTL", key) > 0:
                self.ask("PEXPIRE", key, "1")

    def assert_every_call_is_there_once(self) -> None:
        """None lost, none doubled, none left behind, each as it was told: in Postgres, or in the lake."""
        stored, filed = self.sql(f"SELECT {COLUMNS} FROM cdrs"), self.in_lake("cdrs", COLUMNS)
        for rows in (stored, filed):
            assert max(Counter(row[0] for row in rows).values(), default=1) == 1
        kept = {row[0]: row for row in filed} | {row[0]: row for row in stored}
        assert kept == {str(ref): call.row() for ref, call in self.told.items()}
        assert {key: left for key, left in self.waiting().items() if left} == {}

    def eventually(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise Unexpected("it never came true")
            time.sleep(0.01)

    @contextmanager
    def locked(self, table: str) -> Iterator[Callable[[], None]]:
        """Nobody gets at the table: whoever loads waits there, claim in hand. Call what it gives to end that early."""
        psql = subprocess.Popen(
            [self.postgres.bin / "psql", "-Xqt", self.database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert psql.stdin is not None
        assert psql.stdout is not None

        def release() -> None:
            if psql.returncode is None:
                psql.communicate(timeout=SECONDS)

        try:
            psql.stdin.write(f"BEGIN; LOCK TABLE {table};\n\\echo locked\n".encode())
            psql.stdin.flush()
            assert psql.stdout.readline() == b"locked\n"
            yield release
        finally:
            release()

    def claimed(self) -> list[tuple[str, str]]:
        """The claims in Redis: the name of a registry, and the entry in it."""
        registries = [key.decode() for key in self.ask("KEYS", "*") if key.endswith(b":claims")]
        return [(key, entry.decode()) for key in registries for entry in self.ask("ZRANGE", key, "0", "-1")]


def _reply(answer: Any) -> Any:
    kind, line = answer.read(1), answer.readline().rstrip(b"\r\n")
    if kind == b"-":
        raise Unexpected(line.decode())
    if kind == b"$":
        return answer.read(int(line) + 2)[:-2] if line != b"-1" else None
    if kind == b"*":
        return [_reply(answer) for _ in range(int(line))]
    return int(line) if kind == b":" else line


# The two archives


@dataclass
class Made:
    """An archive to copy: its database, its lake, what was in Redis, what it had been told."""

    database: str
    lake: Path | None
    lists: dict[str, list[bytes]]
    claims: list[tuple[str, str]]
    told: dict[int, Call]


@pytest.fixture(scope="session")
def servers(witness_server: Callable[[str], Any]) -> tuple[Server, Server]:
    return witness_server("redis"), witness_server("postgres")


def _site(servers: tuple[Server, Server], folder: Path, database: str, template: str) -> Site:
    """With a database of this name, like the template."""
    redis, postgres = servers
    site = Site(redis, postgres, postgres.url, folder / "lake")
    site.sql(f"CREATE DATABASE {database} TEMPLATE {template}")
    site.database = postgres.url.replace("/postgres?", f"/{database}?")
    site.ask("FLUSHALL")
    shutil.rmtree(site.lake, ignore_errors=True)
    return site


@pytest.fixture(scope="session")
def archives(
    servers: tuple[Server, Server], witness_folder: Path, request: pytest.FixtureRequest
) -> Callable[[str], Made]:
    """Makes each archive when it's first asked for."""
    made: dict[str, Made] = {}

    def get(kind: str) -> Made:
        if kind not in made:
            site = _site(servers, witness_folder, f"made_{kind}", "template0")
            if kind == "upgraded":
                site.program = request.getfixturevalue("release_01")
                _fill_with_01(site, witness_folder)
                site.program = ETL
            site.etl("db", "upgrade")
            if kind == "upgraded":  # numbers as text were dead letters in 0.1
                site.etl("dead", "replay")
            lake = witness_folder / "lake-of-01" if site.lake.exists() else None
            if lake is not None:
                shutil.copytree(site.lake, lake, dirs_exist_ok=True)
            made[kind] = Made(f"made_{kind}", lake, site.waiting(), site.claimed(), site.told)
        return made[kind]

    return get


def _fill_with_01(site: Site, folder: Path) -> None:
    """Rows of three days, some corrected and some told twice; events, dead letters; a lake, whose first day Postgres
    has forgotten; and a claim that a loader held when it was killed."""
    site.etl("db", "upgrade")
    early, late = site.calls(60, FIRST), site.calls(60, SECOND)
    site.tell([*early, *late])
    site.tell(late[:30], CDRS)
    site.push(AGENTS, *(b'{"type": "status", "payload": {"status": "available", "ref": "%d"}}' % n for n in range(5)))
    site.push(CDRS, *UNPARSABLE)
    site.tell([replace(call, talk=77, reason="agent_hungup") for call in late[30:40]])
    site.etl("run")
    site.etl("export")
    site.etl("prune", "--keep-days", str((datetime.now(UTC).date() - SECOND).days + 2))
    assert site.sql("SELECT DISTINCT dialed_on FROM cdrs") == [(str(SECOND),)]
    site.tell(site.calls(40, THIRD))
    with site.locked("load_batches"), site.running("run") as loader:
        site.eventually(lambda: not site.ask("LLEN", CAMPAIGNS) and site.claimed())
        loader.kill()
        loader.wait()


@pytest.fixture(params=["fresh", "upgraded"])
def site(
    request: pytest.FixtureRequest,
    servers: tuple[Server, Server],
    archives: Callable[[str], Made],
    witness_folder: Path,
) -> Site:
    made = archives(request.param)
    site = _site(servers, witness_folder, f"promise_{next(_numbers)}", made.database)
    site.whole = request.param == "fresh"
    site.told = dict(made.told)
    site.refs = count(200_000)
    if made.lake:
        shutil.copytree(made.lake, site.lake)
    for key, messages in made.lists.items():
        if messages:
            site.ask("RPUSH", key, *messages)
    for registry, entry in made.claims:
        site.ask("ZADD", registry, "0", entry)
    return site


# The promises


def test_1_given_kills_anywhere_then_a_message_is_always_somewhere(site: Site) -> None:
    dice = random.Random(1)

    def told_somewhere() -> None:
        # In the order in which messages move, so that none moves past the witness: source lists, claims, Postgres.
        sources = [message for key in LISTS for message in site.ask("LRANGE", key, "0", "-1")]
        listed = set(map(_ref, [*sources, *(message for messages in site.waiting().values() for message in messages)]))
        committed = {row[0] for row in site.sql("SELECT call_ref FROM cdrs") + site.in_lake("cdrs", "call_ref")}
        assert {str(ref) for ref in site.told} - committed - listed == set()

    for victim in ("redis", "frozen", "postgres", "loader"):
        site.tell(site.calls(300), CAMPAIGNS)
        site.tell(site.calls(100), CDRS)
        left = dice.randrange(20, 280)
        with site.running(*FOLLOW, ETL_BATCH_SIZE="10") as loader:
            site.eventually(lambda at=left: site.ask("LLEN", CAMPAIGNS) <= at)  # type: ignore[misc]
            if victim in ("redis", "postgres"):
                server = site.redis if victim == "redis" else site.postgres
                server.kill()
                server.start()
                told_somewhere()
                site.eventually(lambda: not site.ask("LLEN", CAMPAIGNS))  # the loader goes on by itself
            elif victim == "frozen":
                loader.send_signal(signal.SIGSTOP)
                told_somewhere()
                loader.send_signal(signal.SIGCONT)
            loader.kill()
            loader.wait()
            told_somewhere()
    site.etl("run")
    site.assert_every_call_is_there_once()


def test_2_given_a_claim_held_twice_or_not_acked_then_it_counts_once(site: Site) -> None:
    site.settle()
    before = _figures(site)
    calls = site.calls(200)
    site.tell(calls)
    site.push(CAMPAIGNS, UNPARSABLE[0], b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}')

    # The slow worker is frozen with its claim, whose lease runs out; a rescuer takes it over; then the slow one wakes.
    with site.locked("load_batches") as release, site.running("run", ETL_WORKER_NAME="slow") as slow:
        site.eventually(lambda: not site.ask("LLEN", CAMPAIGNS) and site.claimed())
        slow.send_signal(signal.SIGSTOP)
        ((registry, entry),) = site.claimed()
        ((name, messages),) = ((key, claim) for key, claim in site.waiting().items() if claim)
        site.ask("ZADD", registry, "0", entry)
        with site.running("run", ETL_WORKER_NAME="rescuer") as rescuer:
            site.eventually(lambda: not any("slow" in holder for _, holder in site.claimed()))
            slow.send_signal(signal.SIGCONT)
            release()  # both may write now, and do
            assert (rescuer.wait(SECONDS), slow.wait(SECONDS)) == (DONE, DONE)
    once = _figures(site)
    assert [after - earlier for earlier, after in zip(before, once, strict=True)] == [1, 202, 200, 1, 1]

    # Committed, but the acknowledgement never reached Redis: the claim is there again, as it was.
    site.ask("RPUSH", name, *messages)
    site.ask("ZADD", registry, "0", entry)
    # The dialler, too, tells every call once more: that's a claim, and no row.
    site.push(CAMPAIGNS, *(call.a() for call in calls))
    site.etl("run")
    assert _figures(site) == [once[0] + 1, once[1] + 200, *once[2:]]
    site.assert_every_call_is_there_once()


def test_3_given_any_day_then_ledger_partition_and_lake_agree(site: Site) -> None:
    calls = [call for day in (FIRST, SECOND, THIRD) for call in site.calls(200, day)]
    site.tell(calls)
    site.tell(calls[::2], CDRS)
    site.push(AGENTS, *(b'{"type": "status", "payload": {"status": "busy", "ref": "%d"}}' % n for n in range(50)))
    site.push(CDRS, *UNPARSABLE)
    site.etl("run", ETL_BATCH_SIZE="70")
    # The events are today's: no closed day, if it isn't said that it's to be exported all the same.
    site.etl("export", "--from", str(FIRST), "--to", str(datetime.now(UTC).date() + timedelta(days=1)), "--force")

    unbalanced = "claimed <> inserted + updated + unchanged + events + dead"
    assert site.sql(f"SELECT batch_id FROM load_batches WHERE {unbalanced}") == []
    with pytest.raises(Unexpected, match="violates check constraint"):
        site.sql("UPDATE load_batches SET inserted = inserted + 1")
    assert site.sql("SELECT sum(dead) FROM load_batches") == site.sql("SELECT count(*) FROM dead_letters")
    for dataset, day in (("cdrs", "dialed_on"), ("audit_events", "captured_on")):
        books = "SELECT day, sum(inserted) FROM load_batch_days"
        ledger = _pairs(site.sql(f"{books} WHERE dataset = '{dataset}' GROUP BY 1 HAVING sum(inserted) > 0"))
        partitions = _pairs(site.sql(f"SELECT {day}, count(*) FROM {dataset} GROUP BY 1"))
        assert ledger == partitions
        assert ledger == _pairs(site.in_lake(dataset, f"{day}, count(*)", "GROUP BY 1"))
        assert ledger
    told = {str(day["day"]): day["verdict"] for day in json.loads(site.etl("reconcile", "--json"))["days"]}
    assert set(told.values()) == {"equal"}
    assert {str(FIRST), str(SECOND), str(THIRD)} < set(told)
    site.assert_every_call_is_there_once()


def test_3_given_a_day_that_only_the_lake_has_then_all_sides_say_so(site: Site) -> None:
    site.tell([*site.calls(50, FIRST), *site.calls(50, SECOND)])
    site.etl("run")
    site.etl("export")
    # As if Postgres were set back to a moment before that day.
    for table in ("cdrs", "exports", "load_batch_days"):
        site.sql(f"DELETE FROM {table} WHERE {'dialed_on' if table == 'cdrs' else 'day'} = '{SECOND}'")
    for command in ("reconcile", "verify", "export"):
        assert str(SECOND) in site.etl(command, code=FAILED)
    assert len(site.in_lake("cdrs", "call_ref", f"WHERE dialed_on = '{SECOND}'")) >= 50
    site.etl("restore", "--all-missing")
    for command in ("export", "verify --deep", "reconcile"):
        site.etl(*command.split())
    site.assert_every_call_is_there_once()


def test_4_given_more_or_another_version_then_none_is_overwritten(site: Site) -> None:
    site.settle()
    revisions = len(site.sql("SELECT id FROM cdr_revisions"))
    calls = site.calls(300)
    completed, contradicted, again = calls[:100], calls[100:200], calls[200:]
    site.tell(completed, CDRS)
    site.tell([*contradicted, *again])
    site.etl("run")
    versions = _pairs(site.sql("SELECT call_ref, call_time FROM cdrs"))

    site.tell([*completed, *again])
    site.tell([replace(call, talk=77, reason="agent_hungup", code=0) for call in contradicted])
    site.etl("run")
    rows = {row[0]: row[1:] for row in site.sql("SELECT call_ref, uuid, number, call_time FROM cdrs")}
    assert [rows[str(c.ref)] for c in completed] == [(f"u-{c.ref}", f"0700{c.ref:06}", "41") for c in completed]
    assert {rows[str(c.ref)][2] for c in contradicted} == {"77"}
    kept = site.sql("SELECT call_ref, call_time, end_reason, end_code FROM cdr_revisions ORDER BY id")[revisions:]
    assert sorted(kept) == sorted((str(c.ref), versions[str(c.ref)], "callee_hungup", "16") for c in contradicted)
    site.assert_every_call_is_there_once()


@pytest.mark.parametrize("site", ["fresh"], indirect=True)
def test_4_given_an_older_claim_that_loads_later_then_newer_wins(site: Site) -> None:
    site.settle()
    revisions = len(site.sql("SELECT id FROM cdr_revisions"))
    (call,) = site.calls(1)
    site.tell([call])
    with site.locked("load_batches"), site.running("run", ETL_WORKER_NAME="dead") as loader:
        site.eventually(lambda: not site.ask("LLEN", CAMPAIGNS) and site.claimed())
        ((registry, entry),) = site.claimed()
        loader.kill()
        loader.wait()
    site.tell([replace(call, talk=77, reason="agent_hungup")])
    site.etl("run")
    site.ask("ZADD", registry, "0", entry)
    site.etl("run")
    versions = "SELECT end_reason FROM cdrs UNION ALL SELECT end_reason FROM cdr_revisions"
    assert len(site.sql("SELECT id FROM cdr_revisions")) == revisions + 1
    assert {"callee_hungup", "agent_hungup"} <= {row[0] for row in site.sql(versions)}
    site.assert_every_call_is_there_once()


def test_5_given_what_nobody_understands_then_every_byte_is_kept(site: Site) -> None:
    dice = random.Random(5)
    letters = "SELECT encode(raw, 'hex') FROM dead_letters"
    before = Counter(row[0] for row in site.sql(letters))
    calls = site.calls(20)
    too_large = [call.a(note="x" * 3_000) for call in calls]
    rubbish = [*UNPARSABLE, *(dice.randbytes(dice.randrange(1, 300)) for _ in range(300))]
    mixed = [*rubbish, *too_large]
    dice.shuffle(mixed)
    site.push(CAMPAIGNS, *mixed)
    site.tell(site.calls(300))
    site.etl("run", ETL_MAX_MESSAGE_BYTES="2048")
    found = Counter(row[0] for row in site.sql(letters))
    assert found - before == Counter(message.hex() for message in mixed)
    assert site.sql("SELECT id FROM dead_letters WHERE reason = '' OR detail = ''") == []
    site.assert_every_call_is_there_once()

    still = len(site.sql("SELECT id FROM dead_letters WHERE resolved_at IS NULL")) - len(too_large)
    site.told |= {call.ref: call for call in calls}
    site.etl("dead", "replay")
    site.assert_every_call_is_there_once()
    assert Counter(row[0] for row in site.sql(letters)) == found
    assert site.sql("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == [(str(still),)]


def test_6_given_a_forgotten_day_then_the_lake_has_all_its_rows(site: Site) -> None:
    columns = f"{COLUMNS}, number, call_time, end_code, contact_ref, recording_url"
    of_the_day = f"WHERE dialed_on = '{THIRD}'"
    in_postgres = f"SELECT {columns} FROM cdrs {of_the_day}"
    site.tell(site.calls(500, THIRD))
    site.etl("run")
    site.etl("export")
    site.tell(site.calls(1, THIRD))
    site.etl("run")
    site.etl("prune", "--keep-days", "1", "--dataset", "cdrs")  # something has arrived since: it stays
    rows = sorted(site.sql(in_postgres))
    assert len(rows) >= 501

    site.etl("export")
    whole = {file: file.read_bytes() for file in site.lake.rglob(f"dialed_on={THIRD}/*.parquet")}
    site.in_the_place_of({file: _damaged(content) for file, content in whole.items()})
    site.etl("prune", "--keep-days", "1", "--dataset", "cdrs", code=FAILED)
    assert sorted(site.sql(in_postgres)) == rows
    site.in_the_place_of(whole)

    site.etl("prune", "--keep-days", "1", "--dataset", "cdrs")
    assert site.sql(in_postgres) == []
    assert sorted(site.in_lake("cdrs", columns, of_the_day)) == rows
    site.assert_every_call_is_there_once()


def test_6_given_hostile_sessions_then_the_lake_has_the_right_bytes(site: Site) -> None:
    names = ("Zoë", "日本 🎧", "ü", "£ €")
    calls = [replace(call, reason=name) for call, name in zip(site.calls(4, FIRST), names, strict=True)]
    site.tell(calls)
    database = site.sql("SELECT quote_ident(current_database())")[0][0]
    for setting in ("client_encoding = 'LATIN1'", "datestyle = 'German'", "timezone = 'Asia/Kathmandu'"):
        site.sql(f"ALTER DATABASE {database} SET {setting}")
    for command in ("run", "export", "verify --deep", "prune --keep-days 1 --dataset cdrs"):
        site.etl(*command.split(), PGCLIENTENCODING="LATIN1")
    refs = ", ".join(f"'{call.ref}'" for call in calls)
    found = _pairs(site.in_lake("cdrs", "call_ref, end_reason", f"WHERE call_ref IN ({refs})"))
    assert found == {str(call.ref): call.reason for call in calls}


def test_7_given_kills_then_readers_see_one_whole_revision(site: Site) -> None:
    dice = random.Random(7)
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    export = ("export", "--dataset", "cdrs", "--day", str(THIRD))
    site.settle()
    calls = [*site.calls(300, THIRD), *(call for call in site.told.values() if call.day == THIRD)]
    look = functools.partial(
        site.in_lake, "cdrs", "count(*), min(call_time), max(call_time)", f"WHERE dialed_on = '{THIRD}'"
    )
    site.tell([replace(call, talk=7) for call in calls])
    site.etl("run")
    began = time.monotonic()
    site.etl(*export)
    seconds = time.monotonic() - began
    assert look() == [(str(len(calls)), "7", "7")]

    # Every call is corrected, and one comes late: that's the next revision.
    site.tell([replace(call, talk=8) for call in [*calls, *site.calls(1, THIRD)]])
    site.etl("run")
    seen = set()
    for moment in (*(dice.uniform(0.5, 1.1) for _ in range(2)), SECONDS):  # the last one may finish
        with site.running(*export) as exporter:
            until = time.monotonic() + moment * seconds
            while time.monotonic() < until and not _ended_within(exporter, 0.02):
                seen |= {*look()}
        seen |= {*look()}
        site.eventually(lambda: not site.sql(others))  # Postgres notices, too, that whoever was killed is gone
    assert exporter.returncode == DONE
    assert look() == [(str(len(calls) + 1), "8", "8")]
    assert seen <= {(str(len(calls)), "7", "7"), (str(len(calls) + 1), "8", "8")}
    site.assert_every_call_is_there_once()


def test_7_given_kills_then_queries_of_the_table_keep_their_revision(site: Site) -> None:
    """Also a query that has planned long before it reads."""
    dice = random.Random(77)
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    export = ("export", "--dataset", "cdrs", "--day", str(FOURTH))
    calls = site.calls(100, FOURTH)
    planned: dict[int, str] = {}  # the length of the talks that it was planned for, and where its metadata is
    for talk in range(2):
        site.tell([replace(call, talk=talk) for call in calls])
        site.etl("run")
        began = time.monotonic()
        for moment in (dice.uniform(0.3, 1.1), SECONDS):  # the last one may finish
            with site.running(*export, ETL_LAKE_TABLE="iceberg") as exporter:
                until = time.monotonic() + moment
                while time.monotonic() < until and not _ended_within(exporter, 0.05):
                    if talk:
                        assert site.in_table(site.pointer("cdrs"), FOURTH) in ({talk - 1: 100}, {talk: 100})
            site.eventually(lambda: not site.sql(others))
        assert exporter.returncode == DONE
        assert time.monotonic() - began < SECONDS
        planned[talk] = site.pointer("cdrs")
    for talk, location in planned.items():
        assert site.in_table(location, FOURTH) == {talk: 100}
    site.etl("lake", "publish", ETL_LAKE_TABLE="iceberg")  # days of before there was a table
    site.etl("verify", ETL_LAKE_TABLE="iceberg")
    assert json.loads(site.etl("lake", "status", "--json", ETL_LAKE_TABLE="iceberg"))["tables"][0]["behind"] == []


def test_8_given_a_killed_listener_then_a_gap_covers_what_it_missed(site: Site) -> None:
    heard, missed = [[f"{kind}{n}" for n in range(200)] for kind in ("heard", "missed")]

    def publish(statuses: Sequence[str]) -> None:
        for status in statuses:
            event = json.dumps({"type": "status", "payload": {"status": status, "ref": "1002"}})
            site.ask("PUBLISH", "enigma:notifications:agents:1002", event)

    def gaps_over(moment: float) -> int:
        at = f"to_timestamp({moment})"
        covers = f"(gap_from IS NULL OR gap_from <= {at}) AND (gap_until IS NULL OR gap_until >= {at})"
        return len(site.sql(f"SELECT reason FROM audit_gaps WHERE {covers}"))

    def is_spooled(status: str) -> bool:
        return any(f'"{status}"'.encode() in message for message in site.ask("LRANGE", "etl:events", "0", "-1"))

    with site.running("listen", ETL_WORKER_NAME="ear") as listener:
        site.eventually(lambda: site.ask("LLEN", "etl:events"))
        publish(heard)
        site.eventually(lambda: is_spooled(heard[-1]))
        listener.kill()
        listener.wait()
    reported = site.ask("LLEN", "etl:events")
    since = time.time()
    publish(missed)
    until = time.time()
    site.time_passes()
    with site.running("listen", ETL_WORKER_NAME="ear") as listener:
        # Before its first report, a session hasn't begun.
        site.eventually(lambda: site.ask("LLEN", "etl:events") > reported)
        publish(["again"])
        site.eventually(lambda: is_spooled("again"))
        listener.terminate()
        assert listener.wait(SECONDS) == DONE
    site.etl("run")
    statuses = Counter(row[0] for row in site.sql("SELECT status FROM audit_events WHERE origin = 'pubsub'"))
    assert {name: statuses[name] for name in [*heard, "again"]} == dict.fromkeys([*heard, "again"], 1)
    assert not statuses.keys() & set(missed)
    assert gaps_over(since)
    assert gaps_over(until)


def test_9_given_a_database_set_back_then_what_was_acked_comes_again(site: Site) -> None:
    site.tell(site.calls(100))
    site.etl("run")
    backup = site.database.replace("/promise", "/backup_promise")
    name, copy = (url.partition("@/")[2].partition("?")[0] for url in (site.database, backup))
    elsewhere = Site(site.redis, site.postgres, site.postgres.url, site.lake)
    elsewhere.sql(f"CREATE DATABASE {copy} TEMPLATE {name}")
    site.tell(site.calls(100))
    site.etl("run")
    elsewhere.sql(f"DROP DATABASE {name}")
    elsewhere.sql(f"ALTER DATABASE {copy} RENAME TO {name}")
    site.etl("run")
    site.assert_every_call_is_there_once()


def test_10_given_a_poisonous_value_or_a_bad_day_then_the_rest_goes_on(site: Site) -> None:
    # One day can't be written, since a file lies where its folder belongs; the others are, and it's told which isn't.
    for day in (FIRST, SECOND, THIRD):
        site.tell(site.calls(20, day))
    poison = [Call(1, 2**62), Call(2, -1), Call(3, 1_749_000_000, talk=2**40)]
    site.push(
        CAMPAIGNS, *(call.a() for call in poison), b'{"type": "cdr", "payload": {"call_ref": 4, "dialed_at": []}}'
    )
    site.etl("run")
    folder = site.lake / "cdrs" / f"dialed_on={SECOND}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    assert str(SECOND) in site.etl("export", "--dataset", "cdrs", code=FAILED)
    folder.unlink()
    days = _pairs(site.sql("SELECT dialed_on, count(*) FROM cdrs GROUP BY 1"))
    exported = _pairs(site.in_lake("cdrs", "dialed_on, count(*)", "GROUP BY 1"))
    assert exported == {day: number for day, number in days.items() if day != str(SECOND)}
    site.assert_every_call_is_there_once()


@pytest.mark.parametrize("site", ["fresh"], indirect=True)
def test_10_given_a_list_that_is_a_hash_then_the_others_are_loaded(site: Site) -> None:
    site.ask("DEL", CAMPAIGNS)
    site.ask("HSET", CAMPAIGNS, "field", "value")
    site.tell(site.calls(20), CDRS)
    with suppress(Unexpected):  # whether that's a failure isn't what is asked here
        site.etl("run")
    site.assert_every_call_is_there_once()


def _ref(message: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(message)["payload"]["call_ref"])
    return ""


def _ended_within(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _damaged(content: bytes) -> bytes:
    return bytes(byte ^ 255 * (place == len(content) // 2) for place, byte in enumerate(content))


def _pairs(rows: Sequence[Row]) -> dict[str, str]:
    return {key: value for key, value in rows}  # noqa: C416 (these are tuples of any length to mypy)


def _figures(site: Site) -> list[int]:
    """Claims in the ledger, messages by the ledger, and how many calls, events and dead letters there are."""
    tables = "(SELECT count(*) FROM cdrs), (SELECT count(*) FROM audit_events), (SELECT count(*) FROM dead_letters)"
    (row,) = site.sql(f"SELECT count(*), coalesce(sum(claimed), 0), {tables} FROM load_batches")
    return [int(figure) for figure in row]
