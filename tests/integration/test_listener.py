"""What is published while a listener is proven to listen is in audit_events, once, whatever it says and wherever it's
said; what can't be understood is a dead letter. What befalls the listener is in tests/faults/test_listener.py."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog

from etl.app.load import listen
from etl.inbox.connection import connect
from etl.lab.servers.private import PrivateCluster, PrivateRedis
from tests.world import Archive, eventually

BASE = "enigma:notifications"
STATUS = {"type": "status", "payload": {"status": "busy", "ref": "1002"}}

# Everything that docs/protocol.md says of PubSub: channel, message, and what is lifted from it.
DOCUMENTED: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
    ("campaigns:2040", "status", {"status": "started", "ref": 2040}, {"status": "started", "campaign_ref": "2040"}),
    ("campaign:2040", "status", {"status": "completed"}, {"status": "completed", "campaign_ref": "2040"}),
    ("campaigns:2040", "dial_preview", {"callees": [{"number": "07", "contact_ref": "M1"}]}, {"campaign_ref": "2040"}),
    ("campaigns:2040", "stats", {"counters": {"answered": 1}, "ref": "2040"}, {"campaign_ref": "2040"}),
    (
        "agents:1002",
        "status",
        {"status": "busy", "campaign_ref": "2040", "ref": "1002"},
        {"status": "busy", "campaign_ref": "2040", "extension": "1002"},
    ),
    ("agent:1002", "status", {"status": "offline", "campaign_ref": None}, {"status": "offline", "extension": "1002"}),
    ("agents", "status", {"status": "wrapup", "ref": 1002}, {"status": "wrapup", "extension": "1002"}),
    (
        "agents:1002",
        "call",
        {"call_ref": 88, "agent": "1002", "contact_ref": "M1", "number": "07", "campaign_ref": "2040", "ref": "1002"},
        {"campaign_ref": "2040", "extension": "1002", "call_ref": "88"},
    ),
    ("agents:1002", "stats", {"timers": {"talk_time": 1}, "counters": {"calls": 2}}, {"extension": "1002"}),
    (
        "inbound:200",
        "call",
        {"call_ref": "in-3", "ref": "200", "number": "08", "contact_ref": "", "campaign_ref": "inbound"},
        {"campaign_ref": "inbound", "extension": "200", "call_ref": "in-3"},
    ),
    ("agents:1002", "of tomorrow", {"mood": "good"}, {"extension": "1002"}),
    ("tomorrow:7", "status", {"status": "new"}, {"status": "new"}),
]


def publish(archive: Archive, channel: str, message: object) -> None:
    archive.redis.publish(channel, message if isinstance(message, bytes) else json.dumps(message))


@contextmanager
def listening(archive: Archive, redis_url: str | None = None, **more: Any) -> Iterator[None]:
    """Within it, all that is published is heard, as the user of `redis_url`; after it, all that was heard is loaded."""
    settings = replace(archive, redis_url=redis_url or archive.redis_url).settings(**more)
    stop = threading.Event()
    waiting = archive.redis.llen("etl:events")
    thread = threading.Thread(target=listen, args=(settings, stop))
    thread.start()
    try:
        eventually(lambda: archive.redis.llen("etl:events") > waiting, what="it never began a session")
        yield
    finally:
        stop.set()
        thread.join()
    archive.load()


def events(archive: Archive) -> int:
    return int(archive.value("SELECT count(*) FROM audit_events"))


def test_every_event_of_a_session_is_recorded_once_with_its_fields(archive: Archive) -> None:
    with archive.process("run", "--follow") as process:
        eventually(lambda: archive.redis.pubsub_numpat() == 1, what="it never subscribed")
        eventually(lambda: archive.value("SELECT count(*) FROM listener_sessions") == 1)
        for number in range(1_000):
            publish(archive, f"{BASE}:agents:{number}", {"type": "status", "payload": {"status": "busy", "n": number}})
        eventually(lambda: events(archive) == 1_000)
        process.terminate()
        assert process.wait(30) == 0
    archive.load()
    assert archive.value("SELECT count(DISTINCT (payload->>'n', extension)) FROM audit_events") == 1_000
    (session,) = archive.rows("SELECT * FROM listener_sessions")
    assert (session["listener"], session["reason"], session["received"]) == ("test", "stopped", 1_000)
    assert session["ended_at"] - session["proven_until"] < timedelta(seconds=1)
    gaps = archive.rows("SELECT gap_from, gap_until, reason FROM audit_gaps ORDER BY gap_from NULLS FIRST")
    assert gaps == [
        {"gap_from": None, "gap_until": session["subscribed_at"], "reason": "never started"},
        {"gap_from": session["proven_until"], "gap_until": None, "reason": "stopped"},
    ]
    archive.assert_books_balance()


def test_of_every_event_what_reports_ask_for_is_lifted_and_all_is_kept(archive: Archive) -> None:
    with listening(archive):
        for channel, sub_type, payload, _ in DOCUMENTED:
            publish(archive, f"{BASE}:{channel}", {"type": sub_type, "payload": payload})
    columns = ("status", "campaign_ref", "extension", "call_ref")
    recorded = archive.rows("SELECT * FROM audit_events ORDER BY captured_at, event_id")
    assert [row["channel"] for row in recorded] == [f"{BASE}:{channel}" for channel, *_ in DOCUMENTED]
    for row, (_, sub_type, payload, lifted) in zip(recorded, DOCUMENTED, strict=True):
        assert (row["origin"], row["event_type"], row["payload"]) == ("pubsub", sub_type, payload)
        assert {name: row[name] for name in columns if row[name] is not None} == lifted


def test_a_time_and_an_identifier_are_given_at_the_door(archive: Archive) -> None:
    with listening(archive):
        publish(archive, f"{BASE}:agents:1002", STATUS)
    (row,) = archive.rows("SELECT *, uuid_extract_version(event_id) AS version FROM audit_events")
    (session,) = archive.rows("SELECT * FROM listener_sessions")
    assert session["subscribed_at"] < row["captured_at"] < session["ended_at"]
    assert row["version"] == 7


def test_what_is_no_event_becomes_a_dead_letter_that_names_its_channel(archive: Archive) -> None:
    broken = {
        b"not json\r\n\x00\xff": "not_utf8",
        b"not json\nheard 1 2 3\n": "not_json",
        b"": "not_json",
        b"[1]": "not_an_envelope",
        b'{"type": "status", "payload": {"x": "\\u0000"}}': "nul_character",
        b'{"type": "status", "payload": {"x": "' + b"x" * 2_000 + b'"}}': "too_large",
    }
    archive.more = {"max_message_bytes": 2_000}
    with listening(archive):
        for number, message in enumerate(broken):
            publish(archive, f"{BASE}:agents:{number}", message)
            publish(archive, f"{BASE}:agents:{number}", STATUS)
    assert archive.rows("SELECT source_key, reason, raw FROM dead_letters ORDER BY batch_id, position") == [
        {"source_key": f"{BASE}:agents:{number}", "reason": reason, "raw": message}
        for number, (message, reason) in enumerate(broken.items())
    ]
    assert events(archive) == len(broken)
    archive.assert_books_balance()


def test_what_postgres_refuses_becomes_a_dead_letter_and_nothing_else_does(archive: Archive) -> None:
    too_much = b'{"type": "status", "payload": {"n": ' + b"9" * 131_073 + b"}}"
    with listening(archive):
        publish(archive, f"{BASE}:agents:7", too_much)
        publish(archive, f"{BASE}:agents:8", STATUS)
    assert archive.rows("SELECT source_key, reason, raw FROM dead_letters") == [
        {"source_key": f"{BASE}:agents:7", "reason": "refused_by_database", "raw": too_much}
    ]
    assert events(archive) == 1
    archive.assert_books_balance()


def test_any_channel_can_be_told(archive: Archive) -> None:
    channels = {
        f"{BASE}:agents:J\u00fcrgen 7%".encode(): f"{BASE}:agents:J\u00fcrgen 7%",
        BASE.encode() + b":agents:\xff\n": f"{BASE}:agents:%FF%0A",
        BASE.encode() + b":agents:\x00": f"{BASE}:agents:%00",
        BASE.encode() + b":": f"{BASE}:",
    }
    with listening(archive):
        for channel in channels:
            archive.redis.publish(channel, json.dumps(STATUS))
            archive.redis.publish(channel, b"broken")
    recorded = archive.rows("SELECT channel FROM audit_events ORDER BY captured_at")
    assert [row["channel"] for row in recorded] == list(channels.values())
    letters = archive.rows("SELECT source_key FROM dead_letters ORDER BY position")
    assert [row["source_key"] for row in letters] == list(channels.values())


@pytest.mark.parametrize(
    "patterns",
    [
        ("*",),
        (f"{BASE}:*", f"{BASE}:agents:*", "*"),
        (f"{BASE}:agents:*", f"{BASE}:agents:*"),
        (f"{BASE}:agents:1*", f"{BASE}:agents:[!0]*", f"{BASE}:?gents:*"),
    ],
)
def test_overlapping_patterns_record_a_message_once_and_equal_ones_each(
    archive: Archive, patterns: tuple[str, ...]
) -> None:
    with listening(archive, listen_patterns=patterns):
        for number in (1, 1, 1, 2, 1, 2, 2):
            publish(archive, f"{BASE}:agents:1002", {"type": "status", "payload": {"n": number}})
    counted = archive.rows("SELECT payload->'n' AS n, count(*) FROM audit_events GROUP BY 1 ORDER BY 1")
    assert counted == [{"n": 1, "count": 4}, {"n": 2, "count": 3}]
    assert archive.value("SELECT received FROM listener_sessions") == 7
    assert archive.value("SELECT count(*) FROM dead_letters") == 0


def test_what_is_to_be_ignored_is_counted_and_dropped_at_the_door(archive: Archive) -> None:
    with listening(archive, listen_ignore=("agents/stats", "campaign/dial_preview")):
        for channel, sub_type in (
            ("agents:1", "stats"),
            ("agent:1", "stats"),
            ("campaigns:1", "dial_preview"),
            ("agents:1", "status"),
            ("campaigns:1", "stats"),
        ):
            publish(archive, f"{BASE}:{channel}", {"type": sub_type, "payload": {}})
        publish(archive, f"{BASE}:agents:1", b'{"type": "stats", "payload": ')
    assert archive.rows("SELECT received, ignored, dropped FROM listener_sessions") == [
        {"received": 6, "ignored": 3, "dropped": 0}
    ]
    assert archive.rows("SELECT kind, event_type FROM audit_events ORDER BY 1") == [
        {"kind": "agents", "event_type": "status"},
        {"kind": "campaigns", "event_type": "stats"},
    ]
    assert archive.value("SELECT reason FROM dead_letters") == "not_json"


GARBAGE = [
    b"",
    b"garbage",
    json.dumps(STATUS).encode(),
    b"heard 01 2 enigma:notifications:agents\n{}",
    b"heard " + b"0" * 32 + b" 99999999999999999999 enigma:notifications:agents\n{}",
    b"heard " + b"0" * 32 + b" -1 enigma:notifications:agents\n{}",
    b'session {"session_id": "x"}\n',
    b"session " + b"[" * 100_000 + b"\n",
]
SESSION = {
    "session_id": "01a205dd-5dc2-75fb-bebd-3821892c1137",
    "listener": "w",
    "subscribed_at": 1,
    "proven_until": 2,
    "received": 0,
    "ignored": 0,
    "dropped": 0,
}
for name, value in (
    ("listener", "a\0"),
    ("subscribed_at", 10**18),
    ("proven_until", -1),
    ("ended_at", 2**63),
    ("received", 2**63),
    ("reason", "bored"),
):
    GARBAGE.append(b"session " + json.dumps({**SESSION, name: value}).encode() + b"\n")


def test_garbage_on_the_spool_becomes_dead_letters_and_nothing_else_does(archive: Archive) -> None:
    archive.redis.lpush("etl:events", *GARBAGE)
    with listening(archive):
        publish(archive, f"{BASE}:agents:8", STATUS)
    letters = archive.rows("SELECT source_key, reason, raw FROM dead_letters ORDER BY batch_id, position")
    assert letters == [{"source_key": "etl:events", "reason": "not_an_envelope", "raw": raw} for raw in GARBAGE]
    assert events(archive) == 1
    archive.assert_books_balance()


def test_a_session_says_on_which_server_it_heard_which_patterns(archive: Archive) -> None:
    with listening(archive, redis_name="site-1", listen_patterns=("a:*", "b\0*", "a:*")):
        publish(archive, "b\0c", STATUS)
    (session,) = archive.rows("SELECT * FROM listener_sessions")
    assert (session["server"], session["patterns"]) == ("site-1", ["a:*", "b%00*"])
    assert session["received"] == 1


def test_a_user_with_just_the_rights_that_are_needed_can_listen(archive: Archive, redis_server: PrivateRedis) -> None:
    # Redis wants the very patterns that are subscribed to.
    keys = "~etl:events ~{etl:events}:listener ~{etl:events}:listener:session &enigma:notifications:* &etl:probe:*"
    commands = "+del +evalsha +get +lpush +pexpire +psubscribe +publish +script|load +set +subscribe +time"
    administrator: Any = archive.redis
    administrator.execute_command("ACL", "SETUSER", "ears", "on", ">hunter2", "-@all", *keys.split(), *commands.split())
    try:
        archive.redis.acl_log_reset()
        with listening(archive, f"redis://ears:hunter2@127.0.0.1:{redis_server.port}/0"):
            publish(archive, f"{BASE}:agents:8", STATUS)
        assert archive.redis.acl_log() == []
    finally:
        archive.redis.acl_deluser("ears")
    assert events(archive) == 1
    assert archive.value("SELECT reason FROM listener_sessions") == "stopped"
    assert archive.keys() == set()


def test_a_user_without_time_listens_by_the_hosts_and_is_told(archive: Archive, redis_server: PrivateRedis) -> None:
    administrator: Any = archive.redis
    administrator.execute_command("ACL", "SETUSER", "ears", "reset", "on", ">hunter2", "~*", "&*", "+@all", "-time")
    try:
        ears = f"redis://ears:hunter2@127.0.0.1:{redis_server.port}/0"
        with structlog.testing.capture_logs() as logged, listening(archive, ears):
            publish(archive, f"{BASE}:agents:8", STATUS)
    finally:
        archive.redis.acl_deluser("ears")
    assert [line["log_level"] for line in logged if line["event"] == "listener_clock_unvouched"] == ["warning"]
    assert archive.value("SELECT proven_until > subscribed_at FROM listener_sessions")
    assert events(archive) == 1


def test_on_a_cluster_what_is_published_through_any_node_is_recorded_once(
    cluster: PrivateCluster, database_url: str
) -> None:
    with connect(cluster.url, cluster=True) as client:
        connection: Any = client
        connection.flushall()
        nodes = connection.get_primaries()
        with (
            Archive(
                cluster.url, database_url, connection, more={"redis_cluster": True, "redis_name": "cluster"}
            ) as archive,
            archive.process("run", "--follow") as process,
        ):
            proven = "SELECT count(*) FROM listener_sessions WHERE proven_until > subscribed_at"
            eventually(lambda: archive.value(proven) == 1, what="no proof")
            for number in range(300):
                body = {"type": "status", "payload": {"n": number}}
                connection.publish(f"{BASE}:agents:{number}", json.dumps(body), target_nodes=nodes[number % len(nodes)])
            eventually(lambda: events(archive) == 300)
            process.terminate()
            assert process.wait(30) == 0
            archive.load()
            assert archive.value("SELECT count(DISTINCT payload->>'n') FROM audit_events") == 300
            (session,) = archive.rows("SELECT * FROM listener_sessions")
            assert (session["reason"], session["received"]) == ("stopped", 300)
            assert session["ended_at"] - session["proven_until"] < timedelta(seconds=1)
            archive.assert_books_balance()
