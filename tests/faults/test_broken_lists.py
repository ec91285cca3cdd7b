"""A key that holds something else than it must, or that this user may not touch: that list rests and is reported, the
others and the listener go on; and once it's mended everything is there, once (promise 10)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from etl.keys import SPOOL
from etl.lab.servers.private import PrivateRedis
from etl.settings import SourceSettings
from tests.faults.floor import Floor, gaps
from tests.faults.gate import closed_gate
from tests.faults.worker import Worker
from tests.redis_versions import server_of
from tests.scrape import address, get, samples
from tests.world import Archive, cdr, eventually

SERVERS = ("valkey", "redis 7.0")
WHOLE = "whole"
QUICK = {
    "etl.app.gauges.LOOK_EVERY_SECONDS": 0.2,
    "etl.jobs.pool.LONGEST_PAUSE_SECONDS": 1.0,
    "etl.inbox.listener.LONGEST_PAUSE_SECONDS": 1.0,
    "etl.inbox.listener.PROBE_SECONDS": 0.5,
    "etl.inbox.listener.SILENCE_SECONDS": 2.5,
    "etl.inbox.listener.LOCK_SECONDS": 3.0,
    "etl.inbox.listener.RENEW_SECONDS": 0.5,
}
# How each type of Redis comes about.
TYPES: dict[str, tuple[str, ...]] = {
    "string": ("SET", "KEY", "mine"),
    "hash": ("HSET", "KEY", "field", "mine"),
    "set": ("SADD", "KEY", "mine"),
    "zset": ("ZADD", "KEY", "1", "mine"),
    "stream": ("XADD", "KEY", "*", "field", "mine"),
    "list": ("RPUSH", "KEY", "mine"),
}
# The keys of a source, each with the type that it must have.
KEYS = {"{key}": "list", "{{{key}}}:claims": "zset", "{{{key}}}:last": "zset", "{{{key}}}:forward": "list"}
# In one step, so that nobody comes in between: what was there is laid aside, and comes back.
REPLACE = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[2]) end
for i, word in ipairs(ARGV) do if word == 'KEY' then ARGV[i] = KEYS[1] end end
return redis.call(unpack(ARGV))
"""
RESTORE = """
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end
"""


@dataclass(frozen=True)
class Fault:
    """A key of the list `source` becomes one of another type."""

    source: str
    key: str
    type: str

    @property
    def aside(self) -> str:
        return f"{{{self.source}}}:aside"

    def strike(self, client: Any) -> None:
        client.eval(REPLACE, 2, self.key, self.aside, *TYPES[self.type])

    def mend(self, client: Any) -> None:
        client.eval(RESTORE, 2, self.key, self.aside)


def faults() -> Iterator[Fault]:
    for number, (pattern, right) in enumerate(KEYS.items()):
        for wrong in TYPES:
            if wrong != right:
                source = f"calls-{number}-{wrong}"
                yield Fault(source, pattern.format(key=source), wrong)


FAULTS = list(faults())


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with server_of(request.param, tmp_path_factory.mktemp("redis")) as private:
        yield private


@pytest.fixture
def many(server: PrivateRedis, database_url: str) -> Iterator[Archive]:
    """An archive with a list for each fault, each passed on, and one that stays whole."""
    with redis.Redis(port=server.port, protocol=2, driver_info=None) as client:
        client.flushall()
        lists = [
            SourceSettings(key=key, source=key, forward_to=f"{{{key}}}:forward")
            for key in [*(fault.source for fault in FAULTS), WHOLE]
        ]
        with Archive(server.url, database_url, client, lists) as archive:
            yield archive


def told_broken(archive: Archive) -> set[str]:
    found = archive.run("status", "--json")
    assert found.returncode == int(any(each["broken"] for each in json.loads(found.stdout)["redis"]["lists"]))
    return {each["source_key"] for each in json.loads(found.stdout)["redis"]["lists"] if each["broken"]}


def broken_by_metric(at: str) -> set[str]:
    return {key for (key,), value in samples(at, "etl_list_broken").items() if value}


def assert_told(archive: Archive, at: str, broken: set[str]) -> None:
    def lists() -> set[str]:
        lines = get(at, "/readyz").body.splitlines()
        return {line.removeprefix("list ").partition(": ETL-")[0] for line in lines if line.startswith("list ")}

    eventually(lambda: lists() == broken, what=f"{lists()} are told, not {broken}")
    eventually(lambda: get(at, "/readyz").status == (503 if broken else 200))
    assert get(at, "/healthz").status == 200
    eventually(lambda: broken_by_metric(at) == broken)
    eventually(lambda: samples(at, "etl_redis_up") == {(): 1})
    assert told_broken(archive) == broken


def push(archive: Archive, call_ref: str, *keys: str) -> None:
    for key in keys:
        archive.push(cdr(call_ref), key=key)


def loaded(archive: Archive, call_ref: str) -> set[str]:
    return {row["source"] for row in archive.rows("SELECT source FROM cdrs WHERE call_ref = %s", call_ref)}


def assert_all_is_there_once(archive: Archive, *call_refs: str) -> None:
    keys = {each.key for each in archive.sources}
    for call_ref in call_refs:
        assert loaded(archive, call_ref) == keys
    for key in keys:
        passed_on = archive.redis.lrange(f"{{{key}}}:forward", 0, -1)
        assert sorted(passed_on) == sorted(map(cdr, call_refs)), key
    assert archive.value("SELECT sum(claimed) FROM load_batches") == len(keys) * len(call_refs)
    archive.assert_books_balance()


@pytest.mark.parametrize("begun", [False, True], ids=["before the start", "in mid-run"])
def test_given_keys_of_another_type_if_mended_then_all_is_there_once(many: Archive, log: Path, begun: bool) -> None:
    keys = [each.key for each in many.sources]
    whole = [key for key in keys if not any(fault.key == key for fault in FAULTS)]
    others = [fault.source for fault in FAULTS if fault.source not in whole]

    def strike() -> None:
        for fault in FAULTS:
            fault.strike(many.redis)

    if not begun:
        strike()
        push(many, "first", *whole)
    with Worker(many, log, "--no-schedule", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        if begun:
            push(many, "first", *keys)
            eventually(lambda: loaded(many, "first") == set(keys) and many.keys() == {*map(forward, keys)})
            assert_told(many, at, set())
            strike()
        push(many, "second", *whole)
        eventually(lambda: WHOLE in loaded(many, "second"))
        assert_told(many, at, {fault.source for fault in FAULTS})
        for fault in FAULTS:
            fault.mend(many.redis)
        push(many, "second", *others)
        if not begun:
            push(many, "first", *others)
        eventually(lambda: loaded(many, "second") == loaded(many, "first") == set(keys))
        assert_told(many, at, set())
        for action in ("list_broken", "list_mended"):
            told = [line["source_key"] for line in worker.lines(action)]
            assert sorted(told) == sorted(fault.source for fault in FAULTS), "each once"
        assert worker.stop() == 0
    assert_all_is_there_once(many, "first", "second")


def forward(key: str) -> str:
    return f"{{{key}}}:forward"


def test_given_keys_of_another_type_then_a_run_loads_the_rest_and_exits_1(many: Archive) -> None:
    keys = {each.key for each in many.sources}
    whole = {key for key in keys if not any(fault.key == key for fault in FAULTS)}
    for fault in FAULTS:
        fault.strike(many.redis)
    push(many, "first", *whole)

    for workers in ("1", "2"):
        result = many.run("run", "--json", "--workers", workers)

        assert (result.returncode, "Traceback" in result.stderr) == (1, False), result.stderr
        assert json.loads(result.stdout)["broken"].keys() == {fault.source for fault in FAULTS}
        assert "etl: ETL-407: not every list could be loaded: " in result.stderr
        assert loaded(many, "first") == {WHOLE}

    for fault in FAULTS:
        fault.mend(many.redis)
    push(many, "first", *keys - whole)
    assert many.run("run").returncode == 0
    assert_all_is_there_once(many, "first")


@pytest.mark.parametrize("mended", ["restored", "deleted"])
def test_given_a_registry_struck_amid_claims_if_mended_then_once(many: Archive, log: Path, mended: str) -> None:
    many.sources = many.sources[-1:]
    registry = f"{{{WHOLE}}}:claims"
    fault = Fault(WHOLE, registry, "string")
    with (
        Worker(many, log, "--no-schedule", constants=QUICK, ETL_HTTP="off", ETL_BATCH_SIZE="5") as worker,
        closed_gate(many) as gate,
    ):
        many.push(*(cdr(number) for number in range(20)), key=WHOLE)
        gate.wait_for(1)
        eventually(lambda: len(many.claims(WHOLE)) > 1)
        fault.strike(many.redis)
        gate.open()
        worker.wait_for("list_broken")
        if mended == "deleted":
            many.redis.delete(fault.aside)
        fault.mend(many.redis)
        worker.wait_for("list_mended")
        eventually(lambda: many.keys() == {forward(WHOLE)})
        assert worker.stop() == 0
    assert many.value("SELECT count(*) FROM cdrs") == 20
    assert many.redis.llen(forward(WHOLE)) == 20
    many.assert_books_balance()


def test_given_a_table_without_rights_if_granted_then_lists_go_on(many: Archive, log: Path) -> None:
    many.sources = many.sources[-3:]
    keys = {each.key for each in many.sources}
    with psycopg.connect(many.database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE load_batches RENAME TO moved_away")
        with Worker(many, log, "--no-schedule", "--workers", "2", constants=QUICK) as worker:
            push(many, "first", *keys)
            worker.wait_for("list_broken", times=len(keys))
            connection.execute("ALTER TABLE moved_away RENAME TO load_batches")
            eventually(lambda: loaded(many, "first") == keys)
            worker.wait_for("list_mended", times=len(keys))
            assert worker.stop() == 0
    assert_all_is_there_once(many, "first")


# -- the listener's keys


@pytest.mark.parametrize(
    ("key", "right", "action"),
    [(SPOOL, "list", "spool_outage"), (f"{{{SPOOL}}}:listener", "string", "listener_outage")],
    ids=["spool", "lock"],
)
def test_given_a_key_of_the_listener_struck_then_it_and_loading_go_on(
    many: Archive, log: Path, key: str, right: str, action: str
) -> None:
    many.sources = many.sources[-1:]
    floor = Floor(many.redis_url)
    numbers = iter(range(100))
    with (
        floor.speaking(),
        Worker(many, log, "--no-schedule", constants=QUICK, listen=True, ETL_HTTP="127.0.0.1:0") as worker,
    ):
        at = address(worker)

        def others_go_on() -> None:
            number = str(next(numbers))
            push(many, number, WHOLE)
            eventually(lambda: WHOLE in loaded(many, number))
            if key == SPOOL:
                assert_told(many, at, {SPOOL})

        def proven_again() -> None:
            worker.wait_for(f"{action}_ended", times=worker.count(f"{action}_began"))
            sessions = "SELECT count(*) FROM listener_sessions WHERE proven_until > subscribed_at AND ended_at IS NULL"
            eventually(lambda: many.value(sessions) > 0)

        eventually(lambda: many.value("SELECT count(*) FROM audit_events") > 0)
        for wrong in TYPES:
            if wrong != right:
                fault = Fault(SPOOL, key, wrong)
                with worker.told_more(f"{action}_began"):
                    fault.strike(many.redis)
                others_go_on()
                fault.mend(many.redis)
                proven_again()
        assert worker.stop() == 0
    many.load()
    floor.assert_recorded(many)
    many.assert_books_balance()


# -- rights


PASSWORD = "hunter2"


def allow(client: Any, *rights: str) -> None:
    client.execute_command("ACL", "SETUSER", "loader", "on", f">{PASSWORD}", "+@all", *rights)


@pytest.fixture
def as_loader(many: Archive, server: PrivateRedis) -> Iterator[Archive]:
    """Its user has no rights yet."""
    many.redis_url = f"redis://loader:{PASSWORD}@127.0.0.1:{server.port}/0"
    yield many
    many.redis.acl_deluser("loader")


def test_given_a_list_without_rights_if_granted_then_all_is_there_once(as_loader: Archive, log: Path) -> None:
    archive = as_loader
    archive.sources = archive.sources[-4:]
    whole, registry, read_only, hidden = (each.key for each in archive.sources)
    granted = [f"~{whole}", f"~{{{whole}}}:*", f"~{registry}", f"~{{{registry}}}:forward", f"~{{{registry}}}:last"]
    granted += [f"%R~{read_only}", f"~{{{read_only}}}:*", f"~{SPOOL}", f"~{{{SPOOL}}}:*"]
    allow(archive.redis, *granted)
    keys = {whole, registry, read_only, hidden}
    push(archive, "first", *keys)
    with Worker(archive, log, "--no-schedule", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        eventually(lambda: loaded(archive, "first") == {whole})
        eventually(lambda: worker.count("list_broken") == 3)
        broken = broken_by_metric(at)
        assert broken == {registry, read_only, hidden} == told_broken(archive)
        body = get(at, "/readyz").body
        assert all(f"list {key}: ETL-20" in body for key in broken)
        assert {line["code"] for line in worker.lines("list_broken")} <= {"ETL-204", "ETL-205"}
        assert archive.run("run").returncode == 1
        allow(archive.redis, "allkeys")
        eventually(lambda: loaded(archive, "first") == keys)
        eventually(lambda: get(at, "/readyz").status == 200)
        assert worker.stop() == 0
    assert_all_is_there_once(archive, "first")


NEEDED, KEPT = ("claims", "claim:*", "last", "forward"), ("kept", "kept:*", "acked")
BESIDE = (*NEEDED, *KEPT)


@pytest.mark.parametrize("suffix", NEEDED)
def test_given_no_right_to_a_key_beside_a_list_then_that_is_told(as_loader: Archive, suffix: str) -> None:
    archive = as_loader
    archive.sources = archive.sources[-1:]
    beside = [f"~{{{WHOLE}}}:{each}" for each in BESIDE if each != suffix]
    allow(archive.redis, f"~{WHOLE}", *beside, f"~{SPOOL}", f"~{{{SPOOL}}}:*")
    push(archive, "first", WHOLE)

    assert archive.run("run").returncode == 1
    assert told_broken(archive) == {WHOLE}
    checked = json.loads(archive.run("check", "--json").stdout)["findings"]
    assert [each["verdict"] for each in checked if each["about"] == "Redis rights"] == ["wrong"]
    allow(archive.redis, "allkeys")
    assert archive.run("run").returncode == 0
    assert told_broken(archive) == set()
    assert_all_is_there_once(archive, "first")


@pytest.mark.parametrize("suffix", KEPT)
def test_given_no_right_to_what_is_kept_then_it_loads_and_says_so(as_loader: Archive, log: Path, suffix: str) -> None:
    archive = as_loader
    archive.sources = archive.sources[-1:]
    beside = [f"~{{{WHOLE}}}:{each}" for each in BESIDE if each != suffix]
    allow(archive.redis, f"~{WHOLE}", *beside, f"~{SPOOL}", f"~{{{SPOOL}}}:*")
    push(archive, "first", WHOLE)
    push(archive, "second", WHOLE)

    with Worker(archive, log, "--no-schedule", constants=QUICK) as worker:
        worker.wait_for("claiming_without")
        eventually(lambda: loaded(archive, "second") == {WHOLE})
        assert worker.lines("claiming_without")[0]["refused"] == ["kept"]
        assert worker.count("list_broken") == 0
        assert worker.stop() == 0
    assert told_broken(archive) == set()
    checked = json.loads(archive.run("check", "--json").stdout)["findings"]
    assert [each["verdict"] for each in checked if each["about"] == "Redis rights"] == ["warning"]
    assert_all_is_there_once(archive, "first", "second")


@pytest.mark.parametrize("lacking", ["channels", "psubscribe", "publish"])
def test_given_no_right_to_listen_then_loading_goes_on_and_a_gap_says_why(
    as_loader: Archive, log: Path, lacking: str
) -> None:
    """Since Redis 7.0 a user has no channels unless they are granted."""
    archive = as_loader
    archive.sources = archive.sources[-1:]
    withheld = ["resetchannels"] if lacking == "channels" else ["allchannels", f"-{lacking}"]
    allow(archive.redis, "allkeys", *withheld)
    with Worker(archive, log, "--no-schedule", constants=QUICK, listen=True) as worker:
        worker.wait_for("listener_outage_began")
        push(archive, "first", WHOLE)
        eventually(lambda: loaded(archive, "first") == {WHOLE})
        eventually(lambda: "not permitted" in [row["reason"] for row in archive.rows("SELECT * FROM audit_gaps")])
        allow(archive.redis, "allchannels")
        worker.wait_for("listening")
        eventually(lambda: archive.value("SELECT count(*) FROM listener_sessions WHERE ended_at IS NULL") == 1)
        assert worker.count("listener_outage_began") == worker.count("listener_outage_ended") == 1
        assert worker.stop() == 0
    (gap,) = gaps(archive)
    assert gap["reason"] == "not permitted"
    archive.load()
    archive.assert_books_balance()


def test_given_a_password_changed_in_mid_run_then_it_waits_and_goes_on(as_loader: Archive, log: Path) -> None:
    archive = as_loader
    archive.sources = archive.sources[-1:]
    allow(archive.redis, "allkeys", "allchannels")
    with Worker(archive, log, "--no-schedule", constants=QUICK, listen=True) as worker:
        worker.wait_for("listening")
        administrator: Any = archive.redis
        administrator.execute_command("ACL", "SETUSER", "loader", "resetpass", ">another")
        archive.redis.client_kill_filter(_type="normal")
        worker.wait_for("list_broken")
        allow(archive.redis)
        push(archive, "first", WHOLE)
        eventually(lambda: loaded(archive, "first") == {WHOLE})
        assert worker.stop() == 0
