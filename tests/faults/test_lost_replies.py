"""The connection breaks when a command has taken effect and its answer is on the way, or just before the command
arrives: the loader can't know which, and must be right in both cases (promises 1 and 2)."""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis

from etl import settings
from etl.errors import Outage
from etl.inbox import connection
from etl.inbox.claims import Source
from etl.lab.proxy import Heard, Proxy
from etl.lab.servers.private import PrivateRedis
from tests.faults import tally
from tests.faults.sample import MESSAGES, assert_took_effect_once
from tests.world import CAMPAIGNS, Archive

LOST = pytest.mark.parametrize("lose_command", [False, True], ids=["the answer is lost", "the command is lost"])

_numbers = itertools.count(1)


def script(redis_client: "redis.Redis", name: str) -> Heard:
    """Knows a command that runs this script; the server is told of it first, so that there is but one command."""
    text = files("etl.inbox").joinpath("lua", f"{name}.lua").read_text()
    redis_client.script_load(text)
    digest = hashlib.sha1(text.encode()).hexdigest().encode()
    return lambda said: digest in said


def break_at(wire: Proxy, step: str, heard: Heard, lose_command: bool) -> None:
    tally.note(f"lose the {'command' if lose_command else 'answer'}", "wire", step)
    wire.cut(heard, lose_command)


def read_of_a_claim(said: bytes) -> bool:
    return b"LRANGE" in said and b":claim:" in said


@pytest.fixture
def wire(redis_server: PrivateRedis) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as proxy:
        yield proxy


@contextmanager
def behind(archive: Archive, **urls: str) -> Iterator[Archive]:
    with replace(archive, **urls) as other:  # type: ignore[arg-type]
        yield other


def over(wire: Proxy) -> str:
    return f"redis://127.0.0.1:{wire.port}/0"


@LOST
@pytest.mark.parametrize("step", ["claim", "read", "ack"])
def test_a_wire_that_breaks_at_this_step_costs_and_repeats_nothing(
    archive: Archive, wire: Proxy, step: str, lose_command: bool
) -> None:
    archive.sources = [settings.SourceSettings(key=CAMPAIGNS, forward_to="forward")]
    archive.push(*MESSAGES)
    break_at(wire, step, read_of_a_claim if step == "read" else script(archive.redis, step), lose_command)
    with behind(archive, redis_url=over(wire)) as remote:
        books = remote.load()
    assert wire.cuts == 1
    assert books.claimed == len(MESSAGES)
    assert archive.redis.lrange("forward", 0, -1) == MESSAGES[::-1]  # as they were pushed, the newest on the left
    assert_took_effect_once(archive)


@LOST
def test_a_wire_that_breaks_amid_an_adoption_loses_and_repeats_nothing(
    archive: Archive, wire: Proxy, lose_command: bool
) -> None:
    archive.push(*MESSAGES)
    source(archive.redis, worker="gone", lease_ms=0).claim()
    break_at(wire, "adopt", script(archive.redis, "adopt"), lose_command)
    with behind(archive, redis_url=over(wire)) as remote:
        remote.load()
    assert wire.cuts == 1
    assert_took_effect_once(archive)


@LOST
def test_a_wire_that_breaks_amid_a_renewal_costs_neither_claim_nor_lease(
    archive: Archive, wire: Proxy, lose_command: bool
) -> None:
    archive.push(*MESSAGES)
    with connection.connect(over(wire)) as client:
        mine = source(client)
        claim = mine.claim()
        assert claim is not None
        break_at(wire, "renew", script(archive.redis, "renew"), lose_command)
        with pytest.raises(Outage):
            mine.renew_all()
        mine.renew_all()
        assert source(archive.redis, worker="rescuer").adopt() is None
        claim.ack()
    assert archive.keys() == set()


@LOST
def test_a_wire_that_breaks_at_the_commit_costs_and_repeats_nothing(
    archive: Archive, session_folder: Path, lose_command: bool
) -> None:
    archive.push(*MESSAGES)
    server = psycopg.conninfo.conninfo_to_dict(archive.database_url)
    folder = session_folder / f"wire-{next(_numbers)}"
    folder.mkdir()
    name = f".s.PGSQL.{server['port']}"
    with Proxy(Path(str(server["host"])) / name, folder / name) as wire:
        through = archive.database_url.replace(quote(str(server["host"])), quote(str(folder)))
        assert through != archive.database_url
        break_at(wire, "commit", commit_of_a_claim(), lose_command)
        with behind(archive, database_url=through) as remote:
            remote.load()
        assert wire.cuts == 1
    assert_took_effect_once(archive)


def commit_of_a_claim() -> Heard:
    """Knows the COMMIT that follows the ledger's row; there are others, of sessions and of partitions."""
    entered = False

    def heard(said: bytes) -> bool:
        nonlocal entered
        entered = entered or b"INSERT INTO load_batches " in said
        return entered and said.startswith(b"Q") and b"COMMIT" in said

    return heard


def source(client: connection.Client, worker: str = "test", lease_ms: int = 60_000) -> Source:
    return Source(client, CAMPAIGNS, worker=worker, lease_ms=lease_ms)
