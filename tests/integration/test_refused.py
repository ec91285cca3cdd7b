"""Servers that refuse a command: by their ACL or by another name for it, in each version that we can start. Whatever is
refused, nothing is loaded twice and nothing is lost, and with the right again everything is there."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis

from etl.errors import ConfigurationError, Outage
from etl.ids import new_id
from etl.inbox import rights
from etl.inbox.claims import Source
from etl.inbox.connection import connect
from etl.inbox.lock import Lock
from etl.lab.servers.private import PrivateRedis
from etl.settings import SourceSettings
from etl.store.writer import Writer
from tests.integration.conftest import PASSWORD
from tests.redis_versions import SERVERS, server_of
from tests.world import CAMPAIGNS, CLICK2DIAL, Archive, cdr

APPLICATION = "application:calls"
RUNS = 6
SUFFIXES = ("claims", "claim:*", "last", "kept", "kept:*", "acked")  # of our keys beside a list
EVENTS = [b'{"type": "status", "payload": {"status": "started", "ref": "%d"}}' % number for number in range(7)]
MESSAGES = [*EVENTS, *map(cdr, range(4))]
LISTS = (
    SourceSettings(key=CAMPAIGNS),
    SourceSettings(key=CLICK2DIAL, source="click2dial", forward_to=APPLICATION),
)


def commands() -> list[str]:
    """All that loading sends, as the scripts and the list of rights have them."""
    scripts = [each.read_text() for each in files("etl.inbox").joinpath("lua").iterdir() if each.name.endswith(".lua")]
    in_scripts = {word.lower() for text in scripts for word in re.findall(r"call\(\s*'([A-Z]+)'", text)}
    pushes = {word.lower() for text in scripts for word in re.findall(r"'([LR]PUSH)'", text)}
    named = {right.partition("|")[0] for right in (*rights.ARGUMENTS, *rights.WITHOUT_KEY, "evalsha", "script")}
    return sorted(in_scripts | pushes | named)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with server_of(request.param, tmp_path_factory.mktemp("redis")) as private:
        yield private


@pytest.fixture
def refusing(server: PrivateRedis, database_url: str) -> Iterator[Archive]:
    """An archive whose user `loader` may do everything, to begin with."""
    with redis.Redis(port=server.port, protocol=2, driver_info=None) as administrator:
        administrator.flushall()
        administrator.execute_command("SCRIPT", "FLUSH")
        url = f"redis://loader:{PASSWORD}@127.0.0.1:{server.port}/0"
        allow(administrator)
        with Archive(url, database_url, administrator, LISTS) as archive:
            yield archive


@contextmanager
def archive_of(server: PrivateRedis, database_url: str) -> Iterator[Archive]:
    with (
        redis.Redis(port=server.port, protocol=2, driver_info=None) as administrator,
        Archive(server.url, database_url, administrator, LISTS) as archive,
    ):
        yield archive


def allow(administrator: Any, *but: str) -> None:
    everything = ("reset", "on", f">{PASSWORD}", "allkeys", "allchannels", "+@all")
    administrator.execute_command("ACL", "SETUSER", "loader", *everything, *but)


def fill(archive: Archive) -> None:
    for each in LISTS:
        archive.push(*MESSAGES, key=each.key)


def load_each(archive: Archive) -> list[str]:
    """Runs over each list by itself; what ended those that didn't end well."""
    failures = []
    for each in LISTS:
        try:
            replace(archive, sources=(each,)).load()
        except (ConfigurationError, Outage) as failure:
            failures.append(str(failure))
    return failures


def rows(archive: Archive) -> tuple[int, int]:
    """Of events and of CDRs. The CDRs of both lists are two sources'."""
    return archive.value("SELECT count(*) FROM audit_events"), archive.value("SELECT count(*) FROM cdrs")


def held(archive: Archive) -> int:
    """Messages that wait, or are in claims, whoever holds them."""
    lists = [key for key in archive.redis.scan_iter() if archive.redis.type(key) == b"list" and b":kept:" not in key]
    return sum(archive.redis.llen(key) for key in lists if key != APPLICATION.encode())


def assert_all_is_there_once(archive: Archive) -> None:
    assert rows(archive) == (2 * len(EVENTS), 2 * (len(MESSAGES) - len(EVENTS)))
    assert archive.redis.lrange(APPLICATION, 0, -1) == MESSAGES[::-1]
    archive.assert_books_balance()


def assert_refusing_it_does_no_harm(archive: Archive) -> None:
    """Six runs while it is refused."""
    for _ in range(RUNS):
        failures = load_each(archive)
        events, cdrs = rows(archive)
        assert events <= 2 * len(EVENTS)
        assert events + cdrs + held(archive) >= 2 * len(MESSAGES), "what isn't loaded is still there"
        assert archive.redis.llen(APPLICATION) <= len(MESSAGES)
        assert failures or (events, cdrs) == (2 * len(EVENTS), 2 * (len(MESSAGES) - len(EVENTS))), "nor is it silent"


@pytest.mark.parametrize("command", commands())
def test_given_a_command_that_the_acl_refuses_then_no_row_is_doubled(refusing: Archive, command: str) -> None:
    fill(refusing)
    allow(refusing.redis, f"-{command}")

    assert_refusing_it_does_no_harm(refusing)

    allow(refusing.redis)
    assert load_each(refusing) == []
    assert_all_is_there_once(refusing)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("command", [each for each in commands() if each != "info"])  # by which our server says it's up
def test_given_a_command_of_another_name_then_no_row_is_doubled(
    database_url: str, tmp_path: Path, name: str, command: str
) -> None:
    # Not its log of commands: there they have their other names, which it wouldn't know after the next start.
    config = {"appendonly": "no", "save": "3600 1", "rename-command": f"{command} {command}-of-ours"}
    with server_of(name, tmp_path / "redis", config) as server:
        with archive_of(server, database_url) as archive:
            push = "lpush-of-ours" if command == "lpush" else "lpush"
            for each in LISTS:
                archive.redis.execute_command(push, each.key, *MESSAGES)  # type: ignore[no-untyped-call]
            for _ in range(RUNS):
                load_each(archive)
                assert archive.value("SELECT count(*) FROM audit_events") <= 2 * len(EVENTS)
        server.stop()
        server._config.pop("rename-command")
        server.start()
        with archive_of(server, database_url) as archive:
            assert load_each(archive) == []
            assert_all_is_there_once(archive)


@pytest.mark.parametrize("key", [*(f"{{{CLICK2DIAL}}}:{suffix}" for suffix in SUFFIXES), CLICK2DIAL, APPLICATION])
def test_given_a_key_that_the_acl_refuses_then_no_row_is_doubled(refusing: Archive, key: str) -> None:
    fill(refusing)
    lists = (CAMPAIGNS, CLICK2DIAL, "etl:events")
    keys = [*lists, *(f"{{{name}}}:{suffix}" for name in lists for suffix in SUFFIXES)]
    allow(refusing.redis, "resetkeys", *(f"~{each}" for each in (*keys, APPLICATION) if each != key))

    assert_refusing_it_does_no_harm(refusing)

    allow(refusing.redis)
    assert load_each(refusing) == []
    assert_all_is_there_once(refusing)


# each does one thing with a claim, or with a lock, as `prepared` left them
STEPS: dict[str, Callable[[Source, Source, Lock], Any]] = {
    "claim": lambda ours, _, __: ours.claim(),
    "renew": lambda ours, _, __: ours.renew_all(),
    "give back": lambda ours, _, __: ours.give_back_all(),
    "acknowledge": lambda ours, _, __: ours._holding()[0].ack(),
    "adopt": lambda _, heir, __: heir.adopt(),
    "rescue": lambda _, heir, __: heir.rescue(),
    "rescue a nameless one": lambda _, heir, __: heir.rescue(),
    "acquire": lambda _, __, lock: lock.acquire(),
    "release": lambda _, __, lock: lock.release(),
}


def what_is_there(client: Any) -> dict[bytes, Any]:
    """Every list, and the members of every other key: not how long leases last."""
    read = {
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: sorted(client.zrange(key, 0, -1)),
        b"string": client.get,
    }
    return {key: read[client.type(key)](key) for key in client.scan_iter()}


@pytest.mark.parametrize("step", STEPS)
def test_given_a_refusal_then_a_step_is_done_whole_or_not_at_all(server: PrivateRedis, step: str) -> None:
    def prepared(client: Any) -> tuple[Source, Source, Lock]:
        administrator.flushall()
        allow(administrator)
        ours, heir = (Source(client, CAMPAIGNS, worker=name, batch_size=3) for name in ("ours", "heir"))
        administrator.lpush(CAMPAIGNS, *MESSAGES)
        ours.claim()
        Source(client, CAMPAIGNS, worker="dead", batch_size=2, lease_ms=0).claim()
        name = "nameless" if step == "rescue a nameless one" else new_id()
        administrator.rpush(f"{{{CAMPAIGNS}}}:claim:{name}", "orphan")
        lock = Lock(client, "{etl:events}:listener", "us", 60.0)
        if step == "release":
            lock.acquire()
        return ours, heir, lock

    url = f"redis://loader:{PASSWORD}@127.0.0.1:{server.port}/0"
    refusals = 0
    with redis.Redis(port=server.port, protocol=2, driver_info=None) as administrator, connect(url) as client:
        for command in commands():
            done = prepared(client)
            before = what_is_there(administrator)
            allow(administrator, f"-{command}")
            try:
                STEPS[step](*done)
            except ConfigurationError:
                refusals += 1
                assert what_is_there(administrator) == before, command
            else:
                allow(administrator)
                assert what_is_there(administrator) != before or step in ("renew", "give back"), command
    assert refusals >= 2


@pytest.mark.parametrize("command", commands())
def test_given_a_right_that_goes_in_mid_run_then_no_row_is_doubled(
    refusing: Archive, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Between the commit and the acknowledgement."""
    fill(refusing)
    write = Writer.write

    def write_and_lose_the_right(writer: Writer, batch: Any, *more: Any) -> Any:
        books = write(writer, batch, *more)
        allow(refusing.redis, f"-{command}")
        return books

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", write_and_lose_the_right)
        load_each(refusing)
    assert_refusing_it_does_no_harm(refusing)

    allow(refusing.redis)
    assert load_each(refusing) == []
    assert_all_is_there_once(refusing)


def test_given_an_ack_that_0_1_left_half_done_then_no_row_is_doubled(archive: Archive) -> None:
    """It took the entry away, and then UNLINK was refused: an orphan, which the ledger has."""
    archive.push(*MESSAGES)
    archive.load()
    batch_id = archive.value("SELECT batch_id FROM load_batches")
    archive.redis.rpush(f"{{{CAMPAIGNS}}}:claim:{batch_id}", *MESSAGES)

    archive.load()

    assert rows(archive) == (len(EVENTS), len(MESSAGES) - len(EVENTS))
    assert archive.value("SELECT count(*) FROM load_batches") == 1
    archive.assert_books_balance()


def test_given_a_copy_that_0_1_left_half_done_then_its_events_double_once(archive: Archive) -> None:
    """MEMORY was refused: a claim with an entry, and all of it in the list too. It could as well be true that the same
    was pushed twice: so nothing is thrown away."""
    archive.push(*MESSAGES)
    batch_id = new_id()
    archive.redis.sort(
        CAMPAIGNS, by="nosort", desc=True, start=0, num=len(MESSAGES), store=f"{{{CAMPAIGNS}}}:claim:{batch_id}"
    )
    archive.redis.zadd(f"{{{CAMPAIGNS}}}:claims", {f"{batch_id}@test": 0})

    for _ in range(RUNS):
        archive.load()

    assert rows(archive) == (2 * len(EVENTS), len(MESSAGES) - len(EVENTS))
    archive.assert_books_balance()
