"""What `etl run --follow` tells over HTTP, beside what the ledger says."""

import json
import math
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from etl.app import gauges, status
from etl.inbox.claims import Source
from etl.keys import SPOOL
from etl.metrics import ASKED, BACKLOG, OLDEST_WAITING, RUNWAY
from tests.faults.worker import Worker
from tests.lake import export, load, with_lake
from tests.scrape import address, get, samples
from tests.tools import tool
from tests.world import CAMPAIGNS, CLICK2DIAL, DIALED_AT, Archive, api_cdr, cdr, eventually

STATUS = b'{"type": "campaign", "payload": {"ref": "2040", "status": "running"}}'


def by_ledger(archive: Archive, column: str) -> dict[tuple[str, ...], float]:
    rows = archive.rows(f"SELECT source_key, sum({column}) AS n FROM load_batches GROUP BY source_key")
    return {(row["source_key"],): row["n"] for row in rows if row["n"]}


def counted(at: str, name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for labels, value in samples(at, name).items() if value}


def test_the_figures_of_all_workers_are_the_ledgers(archive: Archive, tmp_path: Path) -> None:
    def push(first: int) -> None:
        calls = range(first, first + 400)
        archive.redis.lpush(CAMPAIGNS, *[cdr(ref) for ref in calls], *[cdr(ref) for ref in calls[:100]], b"?", STATUS)
        archive.redis.lpush(CAMPAIGNS, cdr(first, call_time=99))
        archive.redis.lpush(
            CLICK2DIAL,
            *[api_cdr(ref) for ref in calls[:20]],
            cdr(first, call_time=["x"]),
            cdr(first + 1, end_code="NORMAL_CLEARING"),
            cdr(f"refused {first}", hold_time="x", score=0).replace(b'"score": 0', b'"score": ' + b"9" * 131_073),
        )

    def all_told() -> bool:
        columns = {"claimed": "claimed_messages", "inserted": "inserted_rows", "updated": "updated_rows"}
        names = columns | {"unchanged": "unchanged_messages", "events": "events"}
        return all(by_ledger(archive, column) == counted(at, f"etl_{name}_total") for column, name in names.items())

    with Worker(archive, tmp_path / "log", "--workers", "2", ETL_HTTP="127.0.0.1:0", ETL_BATCH_SIZE="50") as worker:
        at = address(worker)
        push(0)
        eventually(lambda: archive.value("SELECT sum(claimed) FROM load_batches") == 526)
        eventually(all_told)
        # At rest nothing is between commit and count: what the killed one counted stays.
        os.kill(worker.loaders()[0], signal.SIGKILL)
        worker.wait_for("worker_died")
        push(1_000)
        eventually(lambda: archive.value("SELECT sum(claimed) FROM load_batches") == 1_052)
        eventually(all_told)

        assert counted(at, "etl_set_aside_values_total") == {("end_code", CLICK2DIAL): 2}
        letters = archive.rows("SELECT reason, source_key, count(*) AS n FROM dead_letters GROUP BY reason, source_key")
        dead = {(row["reason"], row["source_key"]): row["n"] for row in letters}
        assert counted(at, "etl_dead_letters_total") == dead
        assert {reason for reason, _ in dead} == {"not_json", "bad_type", "refused_by_database"}
        claims = archive.rows("SELECT source_key, count(*) AS n FROM load_batches GROUP BY source_key")
        assert counted(at, "etl_batch_seconds_count") == {(row["source_key"],): row["n"] for row in claims}
        # Every message that is a CDR by its looks, stored or refused: 2015 is long ago.
        assert counted(at, "etl_dialed_to_committed_seconds_count") == {(CAMPAIGNS,): 1_002, (CLICK2DIAL,): 44}
        assert counted(at, "etl_dialed_to_committed_seconds_bucket") == {
            ("+Inf", CAMPAIGNS): 1_002,
            ("+Inf", CLICK2DIAL): 44,
        }


def test_gauges_tell_how_the_stores_stand(archive: Archive, tmp_path: Path) -> None:
    archive = with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1))
    export(archive)
    load(archive, cdr(2, dialed_at=DIALED_AT - 86_400))
    archive.redis.lpush(CAMPAIGNS, cdr(3))
    held = Source(archive.redis, CAMPAIGNS, worker="other", lease_ms=600_000).claim()
    assert held
    moment = archive.value("SELECT max(published_at) FROM exports").timestamp()

    quick = {"etl.app.gauges.LOOK_EVERY_SECONDS": 0.2}
    with Worker(archive, tmp_path / "log", constants=quick, listen=True, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        eventually(lambda: samples(at, "etl_listener_proven_timestamp_seconds"))
        eventually(lambda: samples(at, "etl_runway_seconds"))
        eventually(lambda: not samples(at, BACKLOG.name)[SPOOL,])  # its reports about itself are loaded
        told = {gauge.name: samples(at, gauge.name) for gauge in ASKED}
        assert abs(told.pop("etl_listener_proven_timestamp_seconds")[archive.settings().server,] - time.time()) < 60
        looks = told.pop("etl_last_look_timestamp_seconds")
        assert looks.keys() == {("Redis",), ("Postgres",)}
        assert all(abs(moment - time.time()) < 60 for moment in looks.values())

    keys = {(key,): 0.0 for key in (*(source.key for source in archive.sources), SPOOL)}
    assert told == {
        "etl_backlog_messages": keys,
        "etl_oldest_waiting_seconds": keys,
        "etl_claims": keys | {(CAMPAIGNS,): 1.0},
        "etl_unexported_days": {("audit_events",): 0.0, ("cdrs",): 1.0},
        "etl_last_export_timestamp_seconds": {("cdrs",): moment},
        "etl_runway_seconds": {(): math.inf},
        "etl_postgres_set_back_claims": {},
        "etl_redis_up": {(): 1.0},
        "etl_postgres_up": {(): 1.0},
        "etl_blocked_seconds": {(): 0.0},
    }


def test_a_backlog_is_told_with_the_age_of_its_oldest(archive: Archive) -> None:
    ended = int(time.time()) - 1_000
    archive.redis.lpush(CAMPAIGNS, cdr(1, dialed_at=ended - 41), cdr(2, dialed_at=ended - 41), b"junk")
    archive.redis.lpush(CLICK2DIAL, b"junk")
    with status.reader(archive.settings()) as reading:
        told = gauges.of_redis(reading.read().redis)

    waiting = dict.fromkeys(((source.key,) for source in archive.sources), 0)
    assert told[BACKLOG] == waiting | {(CAMPAIGNS,): 3, (CLICK2DIAL,): 1, (SPOOL,): 0}
    assert told[OLDEST_WAITING].keys() == told[BACKLOG].keys() - {(CLICK2DIAL,)}, "it doesn't say its age"
    assert 1_000 <= told[OLDEST_WAITING][CAMPAIGNS,] < 1_100
    assert told[RUNWAY] == {}, "growth takes two looks to see"


def test_three_paths_and_nothing_else(archive: Archive, tmp_path: Path) -> None:
    with Worker(archive, tmp_path / "log", ETL_HTTP="127.0.0.1:0", ETL_BATCH_SIZE="50") as worker:
        at = address(worker)
        eventually(lambda: get(at, "/readyz").status == 200)
        assert get(at, "/readyz").body == get(at, "/healthz").body == "fine\n"
        assert get(at, "/metrics").content_type.startswith("text/plain; version=")
        assert get(at, "/metrics?name[]=x").status == 200
        assert get(at, "/metrics", "HEAD") == get(at, "/metrics")._replace(body="")
        for path in ("/", "/metrics/", "/metrics/../etc/passwd", "/debug", "/healthz.json"):
            assert get(at, path).status == 404, path
        for method in ("POST", "PUT", "DELETE"):
            assert get(at, "/metrics", method).status == 501
        assert worker.stop() == 0


def test_an_address_that_is_taken_or_none_of_ours(archive: Archive) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = archive.run("run", "--follow", ETL_HTTP=f"127.0.0.1:{port}")
    assert result.returncode == 1
    assert f"can't serve metrics at 127.0.0.1:{port}: Address already in use" in result.stderr
    assert "give each its own ETL_HTTP" in result.stderr

    result = archive.run("run", "--follow", ETL_HTTP="192.0.2.1:9464")  # for documentation: nobody's
    assert result.returncode == 2
    assert "set ETL_HTTP to an address of this host, or to off" in result.stderr
    assert "Traceback" not in result.stderr


def test_prometheus_scrapes_it(archive: Archive, tmp_path: Path) -> None:
    prometheus = tool("prometheus")
    archive.redis.lpush(CAMPAIGNS, *[cdr(ref) for ref in range(100)])
    with Worker(archive, tmp_path / "log", ETL_HTTP="127.0.0.1:0", ETL_BATCH_SIZE="50") as worker:
        at = address(worker)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = {
            "scrape_configs": [{"job_name": "etl", "scrape_interval": "1s", "static_configs": [{"targets": [at]}]}]
        }
        (tmp_path / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
        process = subprocess.Popen(
            [
                prometheus,
                f"--config.file={tmp_path / 'prometheus.json'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def value(query: str) -> float | None:
            try:
                answer = json.loads(get(f"127.0.0.1:{port}", f"/api/v1/query?query={query}").body)
            except (OSError, ValueError):  # not up yet, or not ready
                return None
            result = answer["data"]["result"]
            return float(result[0]["value"][1]) if result else None

        try:
            eventually(lambda: value("sum(etl_inserted_rows_total)") == 100)
            assert value("up") == 1
            assert value("etl_redis_up") == value("etl_postgres_up") == 1
            # What Prometheus understood of it all: each name with its kind.
            metadata = json.loads(get(f"127.0.0.1:{port}", "/api/v1/targets/metadata").body)["data"]
        finally:
            process.kill()
            process.wait()
    assert {each["type"] for each in metadata if each["metric"] == "etl_batch_seconds"} == {"histogram"}
    assert {each["type"] for each in metadata if each["metric"].startswith("etl_inserted_rows")} == {"counter"}
