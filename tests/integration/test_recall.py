"""Postgres forgets what was acknowledged; within the window all of it comes back, once, and what doesn't is named.

What a fail-over or a restored backup does is done here by deleting what the lost commits had written; real set-backs
are in tests/faults."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from etl.app.recall import recall_of
from etl.app.sources import sources
from etl.app.stores import stores
from etl.inbox.claims import Claim
from etl.inbox.kept import KeptClaims
from etl.jobs.recall import Recall
from etl.keys import SPOOL
from etl.lab.servers.private import PrivateRedis
from etl.store import history
from etl.store.history import SetBack, note
from tests.faults.worker import Worker
from tests.store import at_once
from tests.world import CAMPAIGNS, CDRS, Archive, cdr, eventually

TABLES = (
    "cdrs",
    "cdr_revisions",
    "audit_events",
    "dead_letters",
    "listener_sessions",
    "load_batch_days",
    "load_batches",
)
EVENT = b'{"type": "status", "payload": {"status": "started", "ref": "7"}}'


def counts(archive: Archive) -> dict[str, int]:
    return {table: archive.value(f"SELECT count(*) FROM {table}") for table in ("cdrs", "audit_events", "dead_letters")}


def forget_since(archive: Archive, entries: int) -> None:
    """Postgres as it was after the first so many ledger entries."""
    stays = f"(SELECT batch_id FROM load_batches ORDER BY committed_at, batch_id LIMIT {entries})"
    for table in TABLES:
        archive.rows(f"DELETE FROM {table} WHERE batch_id NOT IN {stays} RETURNING 1")


def kept(archive: Archive, key: str = CAMPAIGNS) -> list[str]:
    """The keys of the kept lists."""
    return sorted(each.decode() for each in archive.redis.scan_iter(f"{{{key}}}:kept:*"))


def load_in_claims(archive: Archive, *claims: list[bytes]) -> None:
    for messages in claims:
        archive.push(*messages)
        archive.load()


@contextmanager
def recall(archive: Archive, **more: Any) -> Iterator[Recall]:
    settings = archive.settings(**more)
    with stores(settings) as clients:
        yield recall_of(settings, clients, sources(settings, clients))


def set_backs(archive: Archive) -> list[dict[str, Any]]:
    columns = "source_key, recalled_claims, recalled_messages, lost_claims, lost_messages"
    return archive.rows(f"SELECT {columns} FROM set_backs ORDER BY id")


def acked(archive: Archive, key: str = CAMPAIGNS) -> dict[str, int]:
    found: Any = archive.redis.zrange(f"{{{key}}}:acked", 0, -1, withscores=True)
    return {member.decode().partition(":")[0]: int(number) for member, number in found}


# -- the window


def test_given_an_ack_then_the_messages_are_kept_for_a_day(archive: Archive) -> None:
    archive.push(cdr(1), EVENT)
    archive.load()

    (key,) = kept(archive)
    batch_id = archive.value("SELECT batch_id FROM load_batches")
    assert key == f"{{{CAMPAIGNS}}}:kept:{batch_id}"
    assert archive.redis.lrange(key, 0, -1) == [cdr(1), EVENT]
    assert 23 * 3_600 < archive.redis.ttl(key) <= 24 * 3_600
    numbers = acked(archive)
    assert (numbers["claims"], numbers["messages"]) == (1, 2)
    used: Any = archive.redis.memory_usage(key, samples=0)
    assert 0.7 * used < numbers["kept bytes"] < 1.5 * used + 400
    archive.assert_books_balance()


def test_given_a_window_of_no_hours_then_nothing_is_kept(archive: Archive) -> None:
    archive.push(cdr(1))
    archive.load(recall_hours=0)

    assert kept(archive) == []
    assert acked(archive) == {"claims": 1, "messages": 1, "kept bytes": 0}, "so that what is lost can be named"


def test_given_a_window_closed_later_then_what_was_kept_goes(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2)])

    with recall(archive, recall_hours=0) as window:
        window.trim()

    assert kept(archive) == []
    assert acked(archive)["kept bytes"] == 0
    assert archive.redis.zcard(f"{{{CAMPAIGNS}}}:kept") == 1, "the last one can still be asked for"


def test_given_a_full_window_then_the_oldest_go_first(archive: Archive) -> None:
    load_in_claims(archive, *([cdr(number, extra="x" * 1_000)] for number in range(8)))
    all_kept = kept(archive)
    size = acked(archive)["kept bytes"]

    with recall(archive, recall_bytes=size // 2) as window:
        window.trim()

    assert kept(archive) == all_kept[-4:]
    assert acked(archive)["kept bytes"] == size // 2


def test_given_a_full_window_of_two_lists_then_age_decides(archive: Archive) -> None:
    for number in range(6):
        archive.push(cdr(number, extra="x" * 1_000), key=CDRS if number % 2 else CAMPAIGNS)
        archive.load()
    size = acked(archive)["kept bytes"] + acked(archive, CDRS)["kept bytes"]

    with recall(archive, recall_bytes=size // 3) as window:
        window.trim()

    assert (len(kept(archive)), len(kept(archive, CDRS))) == (1, 1)


@pytest.fixture
def small(session_folder: Path, database_url: str, tmp_path: Path) -> Iterator[Archive]:
    """Its Redis has 24 MB."""
    config = {"maxmemory": "24mb", "maxmemory-policy": "noeviction", "appendonly": "no"}
    with (
        PrivateRedis(tmp_path / "small", config) as server,
        redis.Redis.from_url(server.url) as client,
        Archive(server.url, database_url, client) as archive,
    ):
        yield archive


def test_given_memory_gets_short_then_the_window_gives_way(small: Archive, tmp_path: Path) -> None:
    """A dialler goes on pushing, at ten megabytes a second at most, while Postgres takes nothing."""
    with Worker(small, tmp_path / "log", ETL_RECALL_BYTES=str(1 << 30)) as worker:
        for number in range(12):
            small.push(*(cdr(f"{number}-{each}", extra="x" * 1_000) for each in range(1_000)))
            worker.wait_for("loaded", times=number + 1)
        assert kept(small)
        small._connection.execute("BEGIN; LOCK TABLE load_batches")
        for _ in range(400):
            small.redis.lpush("the dialler's own", "x" * 50_000)  # raises if it's refused
            eventually(lambda: small.redis.info("memory")["used_memory"] < 0.95 * (24 << 20) or not kept(small))
            if not kept(small):
                break
        assert len(kept(small)) < 6
        small._connection.execute("ROLLBACK")


def test_given_a_full_redis_then_an_ack_frees_its_memory(small: Archive) -> None:
    small.push(*(cdr(number, extra="x" * 1_000) for number in range(5_000)))
    with suppress(redis.OutOfMemoryError):
        while True:
            small.redis.rpush("the dialler's own", "x" * 100_000)

    assert small.load().inserted == 5_000

    assert kept(small) == []
    small.assert_books_balance()


# -- recalling


def test_given_a_set_back_then_all_comes_again_once(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1), EVENT], [cdr(2), EVENT, EVENT, b"broken"], [cdr(3)])
    before = counts(archive)
    forget_since(archive, 1)
    assert counts(archive) != before

    archive.load()

    assert counts(archive) == before
    assert set_backs(archive) == [
        {"source_key": CAMPAIGNS, "recalled_claims": 2, "recalled_messages": 5, "lost_claims": 0, "lost_messages": 0}
    ]
    archive.assert_books_balance()
    archive.load()
    assert (counts(archive), len(set_backs(archive))) == (before, 1)


def test_given_a_second_set_back_then_it_comes_a_third_time(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2), EVENT])
    before = counts(archive)
    for _ in range(3):
        forget_since(archive, 1)
        archive.load()
        assert counts(archive) == before
    archive.assert_books_balance()


def test_given_an_emptied_ledger_then_it_is_recalled_when_told(archive: Archive) -> None:
    """It may as well be another archive's."""
    load_in_claims(archive, [cdr(1), EVENT], [cdr(2)])
    before = counts(archive)
    forget_since(archive, 0)

    archive.load()
    assert (counts(archive)["cdrs"], set_backs(archive)) == (0, [])

    looked = archive.run("recall", "--dry-run", "--json")
    (found,) = (each for each in json.loads(looked.stdout)["lists"] if each["source_key"] == CAMPAIGNS)
    assert (found["kept_claims"], found["forgotten_claims"], found["is_new"]) == (2, 2, True)
    assert found["set_back"] is None
    assert archive.run("recall").returncode == 0
    archive.load()
    assert counts(archive) == before
    archive.assert_books_balance()


def test_given_some_beyond_the_window_then_they_are_named(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2), cdr(3)], [cdr(4)], [cdr(5), EVENT])
    forget_since(archive, 1)
    for key in kept(archive)[:3]:  # of the first four
        archive.redis.delete(key)

    archive.load()

    assert set_backs(archive) == [
        {"source_key": CAMPAIGNS, "recalled_claims": 1, "recalled_messages": 2, "lost_claims": 2, "lost_messages": 3}
    ]
    archive.load()
    assert len(set_backs(archive)) == 1, "it's told once"
    load_in_claims(archive, [cdr(6)])
    forget_since(archive, 2)
    archive.load()
    assert set_backs(archive)[1:] == [
        {"source_key": CAMPAIGNS, "recalled_claims": 1, "recalled_messages": 1, "lost_claims": 0, "lost_messages": 0}
    ]


def test_given_nothing_kept_then_the_loss_is_still_named(archive: Archive) -> None:
    for messages in ([cdr(1)], [cdr(2), cdr(3)], [cdr(4)]):
        archive.push(*messages)
        archive.load(recall_hours=0)
    forget_since(archive, 1)

    archive.load(recall_hours=0)

    assert set_backs(archive) == [
        {"source_key": CAMPAIGNS, "recalled_claims": 0, "recalled_messages": 0, "lost_claims": 2, "lost_messages": 3}
    ]


def test_given_a_dropped_window_then_its_memory_is_free(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2)])

    result = archive.run("recall", "--drop", "--json")

    assert json.loads(result.stdout)["freed_bytes"] > 0
    assert kept(archive) == []


def test_given_a_broken_list_then_the_others_are_recalled(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2)])
    forget_since(archive, 1)
    archive.redis.set(f"{{{CDRS}}}:kept", "no sorted set")

    archive.load()

    assert archive.value("SELECT count(*) FROM cdrs") == 2
    result = archive.run("recall", "--json")
    assert result.returncode == 1
    assert list(json.loads(result.stdout)["broken"]) == [CDRS]


def test_given_a_running_worker_then_it_recalls_by_itself(archive: Archive, tmp_path: Path) -> None:
    """The server was started again meanwhile, as far as it can tell."""
    load_in_claims(archive, [cdr(1)], [cdr(2), EVENT])
    before = counts(archive)
    forget_since(archive, 1)

    with Worker(archive, tmp_path / "log") as worker:
        worker.wait_for("recalled")
        eventually(lambda: counts(archive) == before)
        (line,) = worker.lines("recalled")
        assert worker.stop() == 0

    assert (line["claims"], line["messages"], line["lost_claims"]) == (1, 2, 0)
    archive.assert_books_balance()


def test_given_events_lost_for_good_then_there_is_a_gap(archive: Archive) -> None:
    """Though the listener went on, and calls all of its session proven."""
    for number in range(4):
        archive.push(b"event %d" % number, key=SPOOL)
        archive.load()
    batches = archive.rows("SELECT batch_id, claimed_at FROM load_batches ORDER BY batch_id")
    forget_since(archive, 1)
    for key in kept(archive, SPOOL)[:2]:
        archive.redis.delete(key)
    server = archive.settings().server
    archive._connection.execute(
        "INSERT INTO listener_sessions (session_id, listener, subscribed_at, proven_until, received, ignored, dropped,"
        " server, patterns, batch_id) VALUES (gen_random_uuid(), 'us', now() - interval '1 day', now(), 4, 0, 0, %s,"
        " ARRAY['enigma:*'], gen_random_uuid())",
        [server],
    )

    archive.load()

    gaps = archive.rows("SELECT * FROM audit_gaps WHERE reason = 'postgres_set_back'")
    assert gaps == [
        {
            "gap_from": batches[0]["claimed_at"],
            "gap_until": batches[1]["claimed_at"],
            "reason": "postgres_set_back",
            "server": server,
            "patterns": ["enigma:*"],
        }
    ]


# -- two at once, and what others wrote


WAIT_FOR_THE_LEDGER = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'load_batches'::regclass"


def look_at_once(archive: Archive, windows: int) -> None:
    """Each has read what is kept before any has asked the ledger."""

    def look(each: int) -> None:
        with recall(archive, worker_name=f"test-{each}") as window:
            window.look()

    def let_them() -> None:
        try:
            eventually(lambda: archive.value(WAIT_FOR_THE_LEDGER) == windows)
        finally:
            archive._connection.execute("COMMIT")

    archive._connection.execute("BEGIN; LOCK TABLE load_batches")
    at_once(*(partial(look, each) for each in range(windows)), let_them)


@pytest.mark.parametrize("gone", [0, 2])
def test_given_two_looks_at_once_then_none_calls_lost_what_is_not(archive: Archive, gone: int) -> None:
    load_in_claims(archive, *([cdr(number), EVENT] for number in range(40)))
    before = counts(archive)
    forget_since(archive, 1)
    for key in kept(archive)[1 : 1 + gone]:
        archive.redis.delete(key)

    look_at_once(archive, windows=3)

    assert sum(each["lost_claims"] for each in set_backs(archive)) == gone
    assert sum(each["lost_messages"] for each in set_backs(archive)) == 2 * gone
    assert sum(each["recalled_claims"] for each in set_backs(archive)) == 39 - gone
    archive.load()
    assert counts(archive)["cdrs"] == before["cdrs"] - gone
    assert len(kept(archive)) == 40 - gone, "what came back is kept again"
    archive.load()
    assert sum(each["lost_claims"] for each in set_backs(archive)) == gone, "it's told once"
    archive.assert_books_balance()


class Killed(BaseException):
    """As by SIGKILL: whatever was about to follow doesn't."""


def die(*_: Any) -> None:
    raise Killed


@pytest.mark.parametrize("is_acked", [False, True], ids=["loaded", "acked"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_given_a_claim_loaded_beside_a_look_then_it_hides_no_loss(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, when: str, is_acked: bool
) -> None:
    """Before what was acknowledged is read, and between that and the look into the ledger."""
    load_in_claims(archive, *([cdr(number), EVENT] for number in range(6)))
    forget_since(archive, 1)
    for key in kept(archive)[1:4]:
        archive.redis.delete(key)
    original = KeptClaims.acked

    def load_another() -> None:
        archive.push(*(cdr(number) for number in range(100, 107)))
        with monkeypatch.context() as patched:
            patched.setattr(Recall, "look", lambda window: window.first_look.set())
            if not is_acked:
                patched.setattr(Claim, "ack", die)
            with suppress(Killed):
                archive.load()

    def acked_meanwhile(kept: KeptClaims) -> Any:
        if when == "before":
            load_another()
        found = original(kept)
        if when == "meanwhile":
            load_another()
        return found

    with monkeypatch.context() as patched, recall(archive) as window:
        patched.setattr(KeptClaims, "acked", acked_meanwhile)
        window.look()

    assert archive.value("SELECT count(*) FROM load_batches") > 1, "or nothing was tried"
    assert [(each["lost_claims"], each["lost_messages"]) for each in set_backs(archive)] == [(3, 6)]


@pytest.mark.parametrize("steps", [1, 2])
def test_given_a_death_while_a_loss_is_told_then_it_is_told_once(archive: Archive, steps: int) -> None:
    """After each step of it."""
    load_in_claims(archive, [cdr(1)], [cdr(2)], [cdr(3)])
    forget_since(archive, 1)
    for key in kept(archive)[1:]:
        archive.redis.delete(key)
    settings = archive.settings()
    with stores(settings) as clients:
        source = next(each for each in sources(settings, clients) if each.key == CAMPAIGNS)
        noticed = KeptClaims(source).notice(KeptClaims(source).acked())
        assert noticed
        if steps > 1:
            now = datetime.now(UTC)
            told = SetBack(CAMPAIGNS, settings.server, now, now, 0, 0, 2, 2, now, now)
            assert note(clients.engine, told, noticed.at)

    archive.load()
    archive.load()

    assert [(each["recalled_claims"], each["lost_claims"]) for each in set_backs(archive)] == [(0, 2)]


STEPS = [
    (KeptClaims, "recall"),
    (KeptClaims, "notice"),
    (history, "note"),
    (KeptClaims, "settle"),
    (KeptClaims, "drop"),
]


@pytest.mark.parametrize("gone", [0, 2])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
def test_given_a_death_while_recalling_then_all_of_it_is_noted_once(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, is_done: bool, gone: int
) -> None:
    load_in_claims(archive, *([cdr(number), EVENT] for number in range(6)))
    before = counts(archive)
    forget_since(archive, 1)
    for key in kept(archive)[1 : 1 + gone]:
        archive.redis.delete(key)
    original = getattr(owner, step)

    def dies(*arguments: Any) -> Any:
        if is_done:
            original(*arguments)
        raise Killed

    with monkeypatch.context() as patched, recall(archive) as window, suppress(Killed):
        patched.setattr(owner, step, dies)
        window.look()
    archive.load()
    archive.load()

    found = set_backs(archive)
    assert {name: sum(each[name] for each in found) for name in found[0] if name != "source_key"} == {
        "recalled_claims": 5 - gone,
        "recalled_messages": 2 * (5 - gone),
        "lost_claims": gone,
        "lost_messages": 2 * gone,
    }
    assert archive.value("SELECT min(first_claimed_at) > now() - interval '1 h' FROM set_backs")
    assert archive.value("SELECT count(*) FROM set_backs WHERE first_claimed_at > last_claimed_at") == 0
    assert counts(archive)["cdrs"] == before["cdrs"] - gone
    archive.assert_books_balance()


def test_given_many_recalled_claims_then_one_is_found_in_a_few(archive: Archive) -> None:
    registry = f"{{{CAMPAIGNS}}}:claims"
    archive.redis.zadd(registry, {f"another's {number}": 0 for number in range(250)})
    load_in_claims(archive, [cdr(1)], [cdr(2)], [cdr(3)])
    forget_since(archive, 1)

    archive.load()

    assert archive.value("SELECT count(*) FROM cdrs") == 3


@pytest.mark.parametrize(
    "member",
    [
        "ffffffff-ffff-7fff-bfff-ffffffffffff@10",  # of the year 10889
        "00000000-0000-4000-8000-000000000000@10",
        "01991000-0000-7000-8000-00000000000A@10",
        "01991000-0000-7000-8000-00000000000b@010",
        "01991000-0000-7000-8000-00000000000c@-10",
        "anything",
    ],
)
def test_given_an_entry_that_another_wrote_then_it_stops_nothing(archive: Archive, member: str) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2)])
    forget_since(archive, 1)
    archive.redis.zadd(f"{{{CAMPAIGNS}}}:kept", {member: 1})

    archive.load()
    with recall(archive, recall_bytes=0) as window:
        window.trim()

    assert archive.value("SELECT count(*) FROM cdrs") == 2
    assert kept(archive) == []


def test_given_a_thousand_entries_of_another_then_ours_are_seen(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2)])
    forget_since(archive, 1)
    archive.redis.zadd(f"{{{CAMPAIGNS}}}:kept", {f"another's {number}": number for number in range(1_500)})

    archive.load()
    with recall(archive, recall_bytes=0) as window:
        window.trim()

    assert archive.value("SELECT count(*) FROM cdrs") == 2
    assert kept(archive) == []


def test_given_a_kept_key_that_is_no_list_then_the_rest_is_recalled(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2)], [cdr(3)])
    forget_since(archive, 1)
    archive.redis.set(kept(archive)[1], "no list")

    archive.load()

    assert archive.value("SELECT count(*) FROM cdrs") == 2
    assert [(each["recalled_claims"], each["lost_claims"]) for each in set_backs(archive)] == [(1, 1)]


def test_given_a_broken_list_then_the_others_make_room(archive: Archive) -> None:
    for number in range(3):
        archive.push(cdr(number), key=CDRS)
        archive.load()
    archive.redis.delete(f"{{{CAMPAIGNS}}}:kept")
    archive.redis.set(f"{{{CAMPAIGNS}}}:kept", "no sorted set")

    with recall(archive, recall_bytes=1) as window:
        window.trim()

    assert kept(archive, CDRS) == []


def test_given_a_broken_list_then_what_the_others_keep_is_dropped(archive: Archive) -> None:
    archive.push(cdr(1), key=CDRS)
    archive.load()
    archive.redis.set(f"{{{CAMPAIGNS}}}:kept", "no sorted set")

    assert archive.run("recall", "--drop").returncode != 0
    assert kept(archive, CDRS) == []


def test_given_entries_deleted_by_another_then_the_window_opens_again(archive: Archive) -> None:
    """What the lists take is known by a sum, which must not go on being too high."""
    load_in_claims(archive, *([cdr(number)] for number in range(5)))
    archive.redis.delete(f"{{{CAMPAIGNS}}}:kept")

    with recall(archive, recall_bytes=1_000) as window:
        window.trim()
        load_in_claims(archive, [cdr("new")])
        window.trim()

    assert acked(archive)["kept bytes"] < 1_000
    newest = archive.value("SELECT max(batch_id::text) FROM load_batches")
    assert f"{{{CAMPAIGNS}}}:kept:{newest}" in kept(archive)


def test_given_another_ledger_that_loads_then_it_is_told_to_recall(archive: Archive) -> None:
    """What was acknowledged before its first claim of the list isn't its own: also an hour later."""
    load_in_claims(archive, [cdr(1)], [cdr(2)])
    forget_since(archive, 0)
    with recall(archive) as window:
        window.look()
        archive.push(cdr(3))
        archive.load()
        window.look()
    assert (archive.value("SELECT count(*) FROM cdrs"), set_backs(archive)) == (1, [])

    assert archive.run("recall").returncode == 0
    archive.load()
    assert archive.value("SELECT count(*) FROM cdrs") == 3


def test_given_another_ledgers_claims_then_a_set_back_counts_its_own(archive: Archive) -> None:
    load_in_claims(archive, [cdr(1)], [cdr(2)])
    forget_since(archive, 0)
    load_in_claims(archive, [cdr(3)], [cdr(4)])
    forget_since(archive, 1)

    archive.load()

    assert archive.value("SELECT count(*) FROM cdrs") == 2
    assert [(each["recalled_claims"], each["lost_claims"]) for each in set_backs(archive)] == [(1, 0)]


def test_given_a_look_that_waits_then_the_window_still_gives_way(small: Archive, tmp_path: Path) -> None:
    """Postgres hangs as the worker starts, and keeps its look for a minute."""
    for number in range(8):
        small.push(*(cdr(f"{number}-{each}", extra="x" * 1_000) for each in range(1_000)))
        small.load(recall_bytes=1 << 30)
    assert len(kept(small)) == 8
    small._connection.execute("BEGIN; LOCK TABLE load_batches")
    try:
        with Worker(small, tmp_path / "log", ETL_RECALL_BYTES=str(1 << 30)):
            eventually(lambda: small.value(WAIT_FOR_THE_LEDGER))
            for _ in range(300):
                small.redis.lpush("the dialler's own", "x" * 50_000)  # raises if it's refused
                eventually(lambda: small.redis.info("memory")["used_memory"] < 0.95 * (24 << 20) or not kept(small))
                if not kept(small):
                    break
    finally:
        small._connection.execute("ROLLBACK")
    assert len(kept(small)) < 8


def test_given_entries_of_nothing_kept_then_those_behind_give_way(archive: Archive) -> None:
    """As after a time without a window, or of a full Redis."""
    for number in range(3):
        archive.push(cdr(number))
        archive.load()
    entries = {f"01991000-0000-7000-8000-{number:012}@0": number + 1 for number in range(350)}
    archive.redis.zadd(f"{{{CAMPAIGNS}}}:kept", entries)

    with recall(archive, recall_bytes=1) as window:
        window.trim()

    assert kept(archive) == []
    assert acked(archive)["kept bytes"] == 0


def test_given_no_look_yet_then_only_short_memory_makes_room(archive: Archive) -> None:
    """Postgres may be away, and have forgotten what a shorter window would drop."""
    load_in_claims(archive, [cdr(1)], [cdr(2)])

    with recall(archive, recall_hours=0, recall_bytes=0) as window:
        window.trim(only_if_short=True)
        assert len(kept(archive)) == 2
        window.look()
        window.trim()

    assert kept(archive) == []
