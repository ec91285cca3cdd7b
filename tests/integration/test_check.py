"""The preflight's findings, each on real servers with the fault planted and without it."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from etl.app import check as preflight
from etl.app import status
from etl.errors import ConfigurationError
from etl.findings import Finding, skew
from etl.ids import new_id
from etl.inbox.connection import connect
from etl.inbox.lock import Lock
from etl.inbox.preflight_lists import SAMPLE_BYTES
from etl.inbox.producer import push
from etl.inbox.subscription import Subscription, probe
from etl.lab.servers.private import PrivateCluster, PrivatePostgres, PrivateRedis
from etl.lab.simulator import Profile, messages
from etl.settings import SourceSettings
from etl.wire.spool import pack_heard
from tests.integration.conftest import PASSWORD, Watched
from tests.world import CAMPAIGNS, CLICK2DIAL, DIALED_AT, Archive, api_cdr, cdr, eventually

pytestmark = pytest.mark.versions

LIST = f"list {CAMPAIGNS}"
NOWHERE = "127.0.0.1:1"
HOUR = 3_600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """A Redis of this file's own: its settings and its users are changed."""
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as private:
        yield private


@pytest.fixture
def checked(server: PrivateRedis, database_url: str, tmp_path: Path) -> Iterator[Archive]:
    """An archive in which nothing is wrong."""
    with redis.Redis(port=server.port) as client:
        client.flushall()
        more = {"export_url": str(tmp_path / "lake")}
        sources = (SourceSettings(key=CAMPAIGNS), SourceSettings(key=CLICK2DIAL, source="click2dial"))
        with Archive(server.url, database_url, client, sources, more) as archive:
            yield archive


def findings(archive: Archive, **instead: Any) -> dict[str, Finding]:
    """What is found, perhaps with other stores instead of the archive's own."""
    return {finding.about: finding for finding in preflight.check(replace(archive, **instead).settings())}


def verdicts(found: dict[str, Finding]) -> dict[str, str]:
    return {about: finding.verdict for about, finding in found.items() if finding.verdict != "fine"}


def calls(first: int, step: int) -> list[bytes]:
    """Ten calls, an hour apart, in the order of time or against it."""
    return [cdr(n, dialed_at=DIALED_AT + (first + n * step) * HOUR) for n in range(10)]


def the_user_may(archive: Archive, server: PrivateRedis, *rights: str) -> str:
    """A user's URL; one who may do this and nothing else."""
    administrator: Any = archive.redis
    administrator.execute_command("ACL", "SETUSER", "loader", "reset", "on", f">{PASSWORD}", *rights)
    return f"redis://loader:{PASSWORD}@127.0.0.1:{server.port}/0"


def minimal_rights(archive: Archive, **more: Any) -> list[str]:
    """As the preflight prints them for a user who has none."""
    advice = findings(archive, **more)["Redis rights"].advice
    start = "for a user of its own: ACL SETUSER loader "
    assert advice.startswith(start)
    return advice.removeprefix(start).split()


# -- all of it


def test_given_nothing_wrong_then_findings_are_fine_or_unknown(checked: Archive) -> None:
    found = findings(checked)

    empty = {LIST: "unknown", f"list {CLICK2DIAL}": "unknown"}
    assert {about: verdict for about, verdict in verdicts(found).items() if about != "Postgres disk"} == empty
    assert {
        finding.about for finding in found.values() if finding.says.count("\n") or finding.advice.count("\n")
    } == set()
    assert checked.keys() == set(), "looking changes nothing"


@pytest.mark.parametrize("which", ["redis_url", "database_url"])
def test_given_a_store_that_is_away_then_the_others_are_still_looked_at(checked: Archive, which: str) -> None:
    scheme = "redis" if which == "redis_url" else "postgresql"
    found = findings(checked, **{which: f"{scheme}://u:{PASSWORD}@{NOWHERE}/0"})

    away, there = ("Redis", "Postgres") if which == "redis_url" else ("Postgres", "Redis")
    assert (found[away].verdict, found[there].verdict, found["export target"].verdict) == ("wrong", "fine", "fine")
    assert "refused" in found[away].says
    assert found[away].advice.startswith("is the server running?")
    assert PASSWORD not in str(found)
    assert f"{away} version" not in found
    assert f"{there} version" in found


def test_given_a_url_that_is_wrong_in_itself_then_nothing_is_looked_at(checked: Archive) -> None:
    with pytest.raises(ConfigurationError, match="unknown option"):
        findings(checked, redis_url=f"{checked.redis_url}?x=1")


# -- Redis


@pytest.mark.parametrize(
    ("setting", "planted", "verdict", "advice"),
    [
        ("appendonly", "no", "wrong", "CONFIG SET appendonly yes"),
        ("maxmemory-policy", "allkeys-lru", "wrong", "CONFIG SET maxmemory-policy noeviction"),
        ("maxmemory-policy", "volatile-ttl", "warning", "CONFIG SET maxmemory-policy noeviction"),
    ],
)
def test_given_a_redis_that_may_forget_then_it_says_which_setting_mends_it(
    checked: Archive, setting: str, planted: str, verdict: str, advice: str
) -> None:
    usual = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    checked.redis.config_set(setting, planted)
    try:
        finding = findings(checked)[f"Redis {setting}"]
    finally:
        checked.redis.config_set(setting, usual[setting])

    assert finding.verdict == verdict
    assert advice in finding.advice
    # It would write a `user` line, and beside an aclfile Redis 7.0 then never starts again.
    assert "REWRITE" not in finding.advice


def test_given_a_wrong_password_then_it_says_so_and_does_not_show_it(checked: Archive, server: PrivateRedis) -> None:
    found = findings(checked, redis_url=f"redis://nobody:{PASSWORD}@127.0.0.1:{server.port}/0")

    assert found["Redis"].verdict == "wrong"
    assert "refuses us" in found["Redis"].says
    assert PASSWORD not in str(found)
    assert found["Postgres"].verdict == "fine"


def test_given_a_replica_then_it_says_to_name_its_master(
    checked: Archive, redis_server: PrivateRedis, server: PrivateRedis
) -> None:
    checked.redis.replicaof("127.0.0.1", str(redis_server.port))
    try:
        found = findings(checked)
    finally:
        checked.redis.replicaof("NO", "ONE")

    assert found["Redis replicas"].verdict == "wrong"
    assert "master" in found["Redis replicas"].advice


def test_given_a_user_without_rights_then_the_advised_line_mends_it(checked: Archive, server: PrivateRedis) -> None:
    checked.sources = (
        SourceSettings(key=CAMPAIGNS, forward_to="enigma:app"),
        SourceSettings(key=CLICK2DIAL, take_from="left", forward_to="odd[key]*"),
    )
    url = the_user_may(checked, server)
    assert findings(checked, redis_url=url)["Redis rights"].verdict == "wrong"

    the_user_may(checked, server, *minimal_rights(checked, redis_url=url))

    found = findings(checked, redis_url=url)
    assert found["Redis rights"].verdict == "fine"
    assert found["other consumers"].verdict == "fine"
    unknown = {LIST, f"list {CLICK2DIAL}"}
    assert {about for about, verdict in verdicts(found).items() if verdict == "unknown"} == unknown
    assert "wrong" not in verdicts(found).values()
    checked.push(*calls(0, 1))
    checked.push(cdr("c2d"), key=CLICK2DIAL)
    checked.redis.acl_log_reset()
    assert replace(checked, redis_url=url).load().inserted == 11, "and the loader needs no other"
    with connect(url) as client:
        lock, subscription = (
            Lock(client, "{etl:events}:listener", "us", 1.0),
            Subscription(client, ["enigma:notifications:*"], new_id()),
        )
        assert lock.acquire()
        assert lock.acquire(), "renewed"
        lock.release()
        subscription.subscribe()
        probe(client, subscription.probe_channel, 0)
        subscription.close()
        push(client, "etl:events", [b"junk"])
    with status.reader(replace(checked, redis_url=url).settings()) as reading:
        told = reading.read().redis
    assert told
    assert told.memory, "nor who asks for the status"
    assert replace(checked, redis_url=url).load().dead == 1, "nor the listener, nor its spool"
    assert checked.redis.acl_log() == []
    assert checked.keys() == {"enigma:app", "odd[key]*"}


@pytest.mark.parametrize(
    ("lacks", "verdict"),
    [
        ("+blmove", "warning"),
        ("+evalsha", "wrong"),
        ("+script|load", "wrong"),
        ("+ltrim", "wrong"),
        ("+zrem", "wrong"),
        ("+unlink", "wrong"),
        ("+rename", "warning"),
        ("+scan", "warning"),
        ("+sort", "warning"),
        ("+time", "wrong"),
        (f"~{CAMPAIGNS}", "wrong"),
        (f"~{{{CAMPAIGNS}}}:*", "wrong"),
        ("+psubscribe", "warning"),
        ("+publish", "warning"),
        ("+pexpire", "warning"),
        ("+pttl", "warning"),
        ("&enigma:notifications:*", "warning"),
        ("&etl:probe:*", "warning"),
        ("+info", "warning"),
    ],
)
def test_given_a_right_is_missing_then_it_is_named_and_only_it(
    checked: Archive, server: PrivateRedis, lacks: str, verdict: str
) -> None:
    url = the_user_may(checked, server)
    the_user_may(checked, server, *(right for right in minimal_rights(checked, redis_url=url) if right != lacks))

    finding = findings(checked, redis_url=url)["Redis rights"]

    assert (finding.verdict, finding.says.split(" lacks ")[-1]) == (verdict, lacks)
    assert lacks in finding.advice.split()
    assert checked.keys() == set()


def test_given_a_default_user_without_a_right_then_advice_locks_nobody_out(checked: Archive) -> None:
    administrator: Any = checked.redis  # whose acl_setuser begins with a reset
    administrator.execute_command("ACL", "SETUSER", "default", "-ltrim")
    try:
        finding = findings(checked)["Redis rights"]
    finally:
        administrator.execute_command("ACL", "SETUSER", "default", "+@all")

    assert (finding.verdict, finding.says) == ("wrong", "default lacks +ltrim")
    assert "ACL SETUSER etl on >PASSWORD resetkeys" in finding.advice


@pytest.mark.parametrize(
    ("take_from", "step", "verdict"),
    [
        ("right", 1, "fine"),
        ("left", -1, "fine"),
        ("right", -1, "warning"),
        ("left", 1, "warning"),
        ("left", 0, "unknown"),
    ],
)
def test_given_waiting_calls_then_it_says_if_the_oldest_is_taken_first(
    checked: Archive, take_from: str, step: int, verdict: str
) -> None:
    checked.sources = (SourceSettings.model_validate({"key": CAMPAIGNS, "take_from": take_from}),)
    checked.push(*calls(20, step))  # at the left

    finding = findings(checked)[LIST]

    assert finding.verdict == verdict
    if verdict == "warning":
        assert f'take_from = "{"left" if take_from == "right" else "right"}"' in finding.advice
    assert checked.redis.llen(CAMPAIGNS) == 10


def test_given_other_messages_among_calls_then_the_direction_is_seen(checked: Archive) -> None:
    checked.push(b"junk", api_cdr("b"), *calls(20, 1), b'{"type": "status", "payload": {}}')

    assert findings(checked)[LIST].verdict == "fine", "and the oldest of them is of dialect B"


def test_given_messages_without_calls_then_the_direction_is_unknown(checked: Archive) -> None:
    checked.push(b"junk", b"junk", b"junk")

    assert findings(checked)[LIST].verdict == "unknown"


def test_given_a_key_that_is_no_list_then_that_is_wrong(checked: Archive) -> None:
    checked.redis.set(CAMPAIGNS, "x")

    assert findings(checked)[LIST].verdict == "wrong"


@pytest.mark.parametrize(("forward_to", "verdict"), [(None, "warning"), ("enigma:app", "unknown")])
def test_given_another_client_that_pops_then_it_is_named(
    checked: Archive, server: PrivateRedis, forward_to: str | None, verdict: str
) -> None:
    checked.sources = (SourceSettings(key=CAMPAIGNS, forward_to=forward_to),)
    with redis.Redis(port=server.port, client_name="crm") as other:
        popping = threading.Thread(target=other.brpop, args=([CAMPAIGNS],))
        popping.start()
        eventually(lambda: checked.redis.info("clients")["blocked_clients"] == 1)

        finding = findings(checked)["other consumers"]

        checked.push(b"x")
        popping.join()
    assert finding.verdict == verdict
    assert "(crm, BRPOP)" in finding.says


def test_given_a_client_of_another_database_then_it_is_none_of_ours(checked: Archive, server: PrivateRedis) -> None:
    with redis.Redis(port=server.port, db=3) as other:
        other.rpop(CAMPAIGNS)

        assert findings(checked)["other consumers"].verdict == "fine"

    with redis.Redis(port=server.port) as other:
        other.rpop(CAMPAIGNS)

        assert findings(checked)["other consumers"].verdict == "warning"


# -- the other kinds of Redis


def test_given_a_cluster_then_every_node_is_asked(checked: Archive, cluster: PrivateCluster) -> None:
    with redis.Redis(port=cluster.nodes[2].port) as node:
        node.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = findings(
                checked, redis_url=cluster.url, more={**checked.more, "redis_cluster": True, "redis_name": "c"}
            )
        finally:
            node.config_set("maxmemory-policy", "noeviction")

    said = {about: verdict for about, verdict in verdicts(found).items() if about.startswith("Redis")}
    assert said == {"Redis maxmemory-policy": "wrong", "Redis replicas": "warning"}
    assert (found["other consumers"].verdict, found["clock of Redis"].verdict) == ("fine", "fine")
    assert str(cluster.nodes[2].port) in found["Redis maxmemory-policy"].says


def test_given_a_cluster_taken_for_a_single_server_then_that_is_wrong(
    checked: Archive, cluster: PrivateCluster
) -> None:
    found = findings(checked, redis_url=cluster.url)

    assert found[f"list {CLICK2DIAL}"].verdict == "wrong" or found[LIST].verdict == "wrong"
    assert "set ETL_REDIS_CLUSTER=true" in str(found)


def test_given_a_sentinel_then_the_master_is_looked_at(checked: Archive, watched: Watched) -> None:
    found = findings(checked, redis_url=watched.sentinel.url())

    said = {about: verdict for about, verdict in verdicts(found).items() if about.startswith("Redis")}
    assert said == {"Redis replicas": "warning"}
    assert PASSWORD not in str(found)


# -- Postgres


def test_given_no_schema_or_an_old_one_then_it_says_to_upgrade(checked: Archive, empty_database_url: str) -> None:
    none = findings(checked, database_url=empty_database_url)["Postgres schema"]
    with psycopg.connect(checked.database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    old = findings(checked)["Postgres schema"]

    assert (none.verdict, none.says) == ("wrong", "the database has no schema yet")
    assert (old.verdict, old.advice) == ("wrong", "run `etl db upgrade`")
    assert "old (0001" in old.says


@pytest.fixture
def role(checked: Archive, postgres: PrivatePostgres) -> Iterator[str]:
    """A role that may connect, and the URL with which it does."""
    with psycopg.connect(checked.database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE checker LOGIN")
        yield checked.database_url.replace("postgres@", "checker@")
        connection.execute("DROP OWNED BY checker")
        connection.execute("DROP ROLE checker")


def test_given_a_role_without_rights_then_each_is_named_until_it_has_them(checked: Archive, role: str) -> None:
    url = role
    found = findings(checked, database_url=url)
    lacks = found["Postgres rights"].says
    for right in (
        "CREATE on schema etl_staging",
        "EXECUTE on function make_partition",
        "SELECT on alembic_version",
        "INSERT on load_batches",
        "UPDATE on cdrs",
        "UPDATE on dead_letters",
    ):
        assert right in lacks
    assert (found["Postgres rights"].verdict, found["Postgres schema"].verdict) == ("wrong", "wrong")
    assert found["Postgres disk"].verdict == "unknown"

    with psycopg.connect(checked.database_url, autocommit=True) as connection:
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO checker")
        connection.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO checker")
        connection.execute("GRANT USAGE, CREATE ON SCHEMA etl_staging TO checker")
        lacks = "checker lacks USAGE on schema reporting, USAGE on schema iceberg"
        assert findings(checked, database_url=url)["Postgres rights"].says == lacks
        connection.execute("GRANT USAGE ON SCHEMA reporting, iceberg TO checker")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA iceberg TO checker")
        assert "DELETE on reporting.campaign_figures" in findings(checked, database_url=url)["Postgres rights"].says
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA reporting TO checker")
        lacks = "checker lacks " + ", ".join(
            f"EXECUTE on function reporting.{name}" for name in ("index_contacts", "twins_counted", "gaps_between")
        )
        assert findings(checked, database_url=url)["Postgres rights"].says == lacks
        functions = "reporting.index_contacts, reporting.twins_counted, reporting.gaps_between"
        connection.execute(f"GRANT EXECUTE ON FUNCTION {functions} TO checker".encode())
    found = findings(checked, database_url=url)
    assert (found["Postgres rights"].verdict, found["Postgres schema"].verdict) == ("fine", "fine")
    checked.push(cdr(1), cdr(1, call_time=42), b"junk", b'{"type": "status", "payload": {"status": "started"}}')
    books = replace(checked, database_url=url).load()
    assert (books.inserted, books.events, books.dead) == (1, 1, 1), "and the loader needs no other"

    with psycopg.connect(checked.database_url, autocommit=True) as connection:
        connection.execute("REVOKE INSERT ON dead_letters FROM checker")
    finding = findings(checked, database_url=url)["Postgres rights"]
    assert (finding.verdict, finding.says) == ("wrong", "checker lacks INSERT on dead_letters")


def test_given_another_time_zone_then_it_warns_for_those_who_cast(checked: Archive, role: str) -> None:
    with psycopg.connect(checked.database_url, autocommit=True) as connection:
        connection.execute("ALTER ROLE checker SET timezone = 'Europe/Berlin'")

    finding = findings(checked, database_url=role)["Postgres time zone"]

    assert finding.verdict == "warning"
    assert "Europe/Berlin" in finding.says


def test_given_a_server_on_this_machine_then_its_disk_is_looked_at(checked: Archive) -> None:
    assert " free of " in findings(checked)["Postgres disk"].says


# -- the lake and the clocks


def test_given_an_unwritable_place_then_the_export_target_is_wrong(checked: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    finding = findings(checked, more={"export_url": str(tmp_path / "file" / "lake")})["export target"]

    assert finding.verdict == "wrong"
    assert "Not a directory" in finding.says


@pytest.mark.parametrize(
    ("theirs", "verdict", "says"),
    [
        (100.0, "fine", "agrees"),
        (101.9, "fine", "agrees"),
        (96.0, "warning", "4 s behind"),
        (111.0, "warning", "10 s ahead of"),
        (-3_500.0, "warning", "3600 s behind"),
    ],
)
def test_given_two_clocks_then_the_round_trip_is_no_difference(theirs: float, verdict: str, says: str) -> None:
    finding = skew("Redis", theirs, asked=100.0, answered=101.0)

    assert finding.verdict == verdict
    assert says in finding.says


# -- what waits, decoded


MESSAGES = f"messages of {CAMPAIGNS}"
HUNDRED_CALLS = [cdr(n) for n in range(100)]


def dead_by_reason(archive: Archive) -> dict[str, int]:
    """What the loader makes of what waits."""
    archive.load()
    rows = archive.rows("SELECT reason, count(*) AS n FROM dead_letters GROUP BY reason")
    return {row["reason"]: row["n"] for row in rows}


@pytest.mark.parametrize(
    ("broken", "whole", "verdict"), [(0, 200, "fine"), (1, 199, "warning"), (100, 100, "warning"), (200, 0, "wrong")]
)
def test_given_messages_that_wait_then_it_says_how_many_would_be_dead(
    checked: Archive, broken: int, whole: int, verdict: str
) -> None:
    messages = [b"junk %d" % n for n in range(broken)] + [cdr(n) for n in range(whole)]
    checked.push(*messages)

    finding = findings(checked)[MESSAGES]

    assert finding.verdict == verdict
    beginning = f"{broken} of 200 would become dead letters (200 wait): {broken} not_json; the first: "
    assert finding.says.startswith(beginning if broken else "200 of the 200 that wait were decoded: ")
    assert checked.redis.lrange(CAMPAIGNS, 0, -1) == messages[::-1], "nothing is touched"
    assert dead_by_reason(checked) == ({"not_json": broken} if broken else {})


def test_given_every_way_to_break_a_message_then_its_reason_is_the_loaders(checked: Archive) -> None:
    profile = Profile(cdrs=40, until=datetime(2024, 5, 17, tzinfo=UTC), dialect="both", broken=1.0, events=0.2)
    for message in messages(profile):
        checked.push(message.body, key=CLICK2DIAL if message.kind == "cdr" else CAMPAIGNS)

    found = findings(checked)
    told = Counter[str]()
    for key in (CAMPAIGNS, CLICK2DIAL):
        for count, reason in re.findall(r"(\d+) ([a-z_8]+)[,;]", found[f"messages of {key}"].says.split(" wait):")[1]):
            told[reason] += int(count)

    assert len(told) == 8
    assert told == dead_by_reason(checked)


def test_given_a_long_list_then_both_its_ends_are_looked_at(checked: Archive) -> None:
    checked.push(*([b"newest"] * 3 + HUNDRED_CALLS * 5 + [b"oldest"] * 3)[::-1])

    finding = findings(checked)[MESSAGES]

    assert finding.says.startswith("6 of 300 would become dead letters (506 wait): 6 not_json")


def test_given_an_odd_number_of_messages_then_each_is_looked_at_once(checked: Archive) -> None:
    for waiting in (1, 3, 5):
        checked.redis.delete(CAMPAIGNS)
        checked.push(*HUNDRED_CALLS[:waiting])
        assert findings(checked)[MESSAGES].says.startswith(f"{waiting} of the {waiting} that wait were decoded")


def test_given_a_broken_message_then_its_example_shows_no_digit(checked: Archive) -> None:
    payload = '{"number":"\u0660\u0667\u0667 0 0900123","extension":["\x1b[31m\r\n"],"notes":"07700900123'
    checked.push(payload.encode() + b"\xff0" * 1_000)

    says = findings(checked)[MESSAGES].says

    example = says.partition("the first: ")[2]
    assert "extension" in example
    assert "\u0660" not in example
    assert not any(each.isdigit() for each in example.partition(", in ")[2])
    assert all(each.isprintable() for each in says)
    assert len(says) < 300


def test_given_a_spool_with_something_else_on_it_then_that_is_told(checked: Archive) -> None:
    status = b'{"type":"status","payload":{"status":"busy"}}'
    heard = pack_heard(bytes(16), 0, b"enigma:notifications:agents:1002", status)
    checked.push(heard, key="etl:events")
    assert findings(checked)["messages of etl:events"].says.startswith("1 of the 1 that wait were decoded")

    checked.push(status, status, key="etl:events")

    finding = findings(checked)["messages of etl:events"]
    assert finding.verdict == "wrong"
    assert "2 not_an_envelope; the first: not written by a listener" in finding.says


def test_given_a_limit_on_messages_then_a_longer_one_would_be_dead(checked: Archive) -> None:
    checked.push(*HUNDRED_CALLS, cdr(1_000, notes="x" * 2_000))

    finding = findings(checked, more={**checked.more, "max_message_bytes": 1_024})[MESSAGES]

    assert finding.says.startswith("1 of 101 would become dead letters (101 wait): 1 too_large")


@pytest.mark.parametrize("megabytes", [0.5, 3, 20])
def test_given_huge_messages_then_only_so_many_bytes_are_read(checked: Archive, megabytes: float) -> None:
    size = int(megabytes * 2**20)
    huge = b"x" * size
    for _ in range(40):
        checked.push(huge)
    before = checked.redis.info("stats")["total_net_output_bytes"]

    finding = findings(checked)[MESSAGES]

    read = checked.redis.info("stats")["total_net_output_bytes"] - before
    assert finding.verdict == "wrong"
    assert read < 2 * (SAMPLE_BYTES + size) + 2**20
    checked.redis.delete(CAMPAIGNS)


def test_given_one_huge_message_among_small_ones_then_few_more_are_read(checked: Archive) -> None:
    checked.push(*HUNDRED_CALLS, b"x" * 30 * 2**20, *HUNDRED_CALLS)

    assert findings(checked)[MESSAGES].verdict == "warning"
    checked.redis.delete(CAMPAIGNS)


def test_given_a_time_of_2050_noted_in_redis_then_somebody_says_so(archive: Archive) -> None:
    """One moment with a wrong clock, and all claims of the list are of that time for ever after."""
    ahead = int(datetime(2050, 1, 1, tzinfo=UTC).timestamp() * 1000)
    archive.redis.zadd(f"{{{CAMPAIGNS}}}:last", {"last": ahead})
    archive.push(b'{"type": "status", "payload": {"status": "started", "ref": "2040"}}')
    run = archive.run("run")
    said = [run.stdout, run.stderr, archive.run("check").stdout, archive.run("status").stdout]
    (stored,) = archive.rows("SELECT max(captured_on) AS heard, count(*) AS n FROM audit_events")
    assert str(stored["heard"])[:4] != "2050" or "2050" in "".join(said)
    assert stored["n"] + archive.value("SELECT count(*) FROM dead_letters") == 1
