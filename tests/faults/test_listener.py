"""Whatever happens to the listener, to its connection or to its Redis: it leaves one gap, of the right length and with
the reason, and nothing that was published outside of it is missing, or there twice (promise 8)."""

import signal
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from etl.lab.proxy import Proxy
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.faults.child import LISTEN
from tests.faults.floor import Floor, gaps, now
from tests.faults.worker import Worker
from tests.world import Archive, eventually

listener = partial(Worker, listen=True)

LOCK = "{etl:events}:listener"
# Everything shorter than an operator has it, so that nobody waits long: in seconds.
OFTEN = {"etl.inbox.listener.PROBE_SECONDS": 0.5}
QUICK = {
    **OFTEN,
    "etl.inbox.listener.SILENCE_SECONDS": 2.5,
    "etl.inbox.listener.LOCK_SECONDS": 3.0,
    "etl.inbox.listener.RENEW_SECONDS": 0.5,
}
SOMEBODY_PROVED_IT = "SELECT bool_or(proven_until > subscribed_at) FROM listener_sessions"
SECOND = timedelta(seconds=1)
PROBE_INTERVAL = timedelta(seconds=5)
SHORT_PROBE_INTERVAL = timedelta(seconds=0.5)


def assert_one_gap(archive: Archive, reason: str, began: datetime, ended: datetime, probe: timedelta) -> None:
    """From the last probe before `began` until soon after `ended`."""
    archive.load()
    (gap,) = gaps(archive)
    assert gap["reason"] == reason
    assert began - probe - SECOND < gap["gap_from"] < began + SECOND
    assert ended - SECOND < gap["gap_until"] < ended + 3 * SECOND


def test_a_listener_killed_and_started_again_leaves_a_gap(archive: Archive, log: Path) -> None:
    floor = Floor(archive.redis_url)
    with floor.speaking():
        with listener(archive, log, constants=QUICK) as killed:
            wait_for_proof(archive)
            died_at = now()
            killed.kill()
        with listener(archive, log, constants=QUICK) as heir:
            heir.wait_for("listening")
            heard_again_at = now()
            wait_for_proof(archive, sessions=2)
            assert heir.stop() == 0
    assert_one_gap(archive, "stopped", died_at, heard_again_at, SHORT_PROBE_INTERVAL)
    floor.assert_recorded(archive)


@pytest.mark.parametrize("step", LISTEN)
def test_a_listener_killed_at_this_step_repeats_and_lacks_nothing_proven(
    archive: Archive, log: Path, step: str
) -> None:
    floor = Floor(archive.redis_url)
    with floor.speaking():
        with listener(archive, log, mishap=f"kill:{step}", constants=QUICK) as killed:
            assert killed.wait() == -signal.SIGKILL
        with listener(archive, log, constants=QUICK) as heir:
            heir.wait_for("listening")
            eventually(lambda: archive.value(SOMEBODY_PROVED_IT))
            assert heir.stop() == 0
    archive.load()
    floor.assert_recorded(archive)
    archive.assert_books_balance()


def test_a_stand_by_takes_over_within_ten_seconds_of_the_death(archive: Archive, tmp_path: Path) -> None:
    floor = Floor(archive.redis_url)
    with floor.speaking(), listener(archive, tmp_path / "1.log", constants=QUICK) as first:
        wait_for_proof(archive)
        with listener(archive, tmp_path / "2.log", constants=QUICK, ETL_WORKER_NAME="stand-by") as second:
            second.wait_for("started")
            died_at = now()
            first.kill()
            second.wait_for("listening")
            wait_for_proof(archive, sessions=2)
            assert second.stop() == 0
    archive.load()
    (gap,) = gaps(archive)
    assert gap["reason"] == "stopped"
    assert died_at - SHORT_PROBE_INTERVAL - SECOND < gap["gap_from"] < died_at
    assert gap["gap_until"] < died_at + 10 * SECOND
    floor.assert_recorded(archive)


def test_a_clean_hand_over_leaves_a_gap_below_a_second(archive: Archive, tmp_path: Path) -> None:
    floor = Floor(archive.redis_url)
    with floor.speaking(), listener(archive, tmp_path / "1.log", constants=OFTEN) as first:
        wait_for_proof(archive)
        with listener(archive, tmp_path / "2.log", constants=OFTEN, ETL_WORKER_NAME="stand-by") as second:
            second.wait_for("started")
            assert "listening" not in second.log()
            first.process.terminate()
            second.wait_for("listening")
            wait_for_proof(archive, sessions=2)
            assert first.wait() == 0
            assert second.stop() == 0
    archive.load()
    (gap,) = gaps(archive)
    assert gap["reason"] == "stopped"
    assert gap["gap_until"] - gap["gap_from"] < SECOND
    floor.assert_recorded(archive)


def test_a_connection_that_redis_kills_leaves_a_gap(archive: Archive, log: Path) -> None:
    floor = Floor(archive.redis_url)
    with floor.speaking(), listener(archive, log, constants=OFTEN) as worker:
        wait_for_proof(archive)
        killed_at = now()
        assert archive.redis.client_kill_filter(_type="pubsub") == 1
        worker.wait_for("listening", times=2)
        heard_again_at = now()
        wait_for_proof(archive, sessions=2)
        assert worker.stop() == 0
    assert_one_gap(archive, "connection lost", killed_at, heard_again_at, SHORT_PROBE_INTERVAL)
    floor.assert_recorded(archive)


def test_given_a_lock_that_is_gone_early_then_a_new_one_waits(archive: Archive, tmp_path: Path) -> None:
    """As when Redis' clock is set forward: the holder finds out when it next renews it."""
    floor = Floor(archive.redis_url)
    late = {**OFTEN, "etl.inbox.listener.LOCK_SECONDS": 600.0, "etl.inbox.listener.RENEW_SECONDS": 300.0}
    patient = {**QUICK, "etl.inbox.listener.LOCK_SECONDS": 10.0}
    with floor.speaking(), listener(archive, tmp_path / "1.log", constants=late) as deceived:
        wait_for_proof(archive)
        archive.redis.delete(LOCK)
        with listener(archive, tmp_path / "2.log", constants=patient, ETL_WORKER_NAME="new") as new:
            eventually(lambda: b"new:" in (archive.redis.get(LOCK) or b""))
            assert deceived.stop() == 0
            new.wait_for("listening")
            wait_for_proof(archive, sessions=2)
            assert new.stop() == 0
    archive.load()
    floor.assert_recorded(archive)


def test_a_listener_frozen_for_fifteen_seconds_leaves_a_gap(archive: Archive, log: Path) -> None:
    """With all constants as they are in life."""
    floor = Floor(archive.redis_url)
    with floor.speaking(), listener(archive, log) as worker:
        wait_for_proof(archive, seconds=0)
        frozen_at = now()
        worker.freeze()
        eventually(lambda: now() > frozen_at + 15 * SECOND)
        assert not archive.redis.exists(LOCK)
        thawed_at = now()
        worker.thaw()
        worker.wait_for("listening", times=2)
        wait_for_proof(archive, sessions=2, seconds=0)
        assert worker.stop() == 0
    assert_one_gap(archive, "probe lost", frozen_at, thawed_at, PROBE_INTERVAL)
    floor.assert_recorded(archive)


def test_a_listener_that_thaws_after_its_stand_by_took_over_adds_nothing(archive: Archive, tmp_path: Path) -> None:
    floor = Floor(archive.redis_url)
    with floor.speaking(), listener(archive, tmp_path / "1.log", constants=QUICK) as first:
        wait_for_proof(archive)
        with listener(archive, tmp_path / "2.log", constants=QUICK, ETL_WORKER_NAME="stand-by") as second:
            second.wait_for("started")
            frozen_at = now()
            first.freeze()
            second.wait_for("listening")
            heard_again_at = now()
            wait_for_proof(archive, sessions=2)
            first.thaw()
            first.wait_for("listening_ended")
            eventually(lambda: len(gaps(archive)) == 1 and gaps(archive)[0]["reason"] == "probe lost")
            assert first.stop() == 0
            assert len(first.lines("listening")) == 1
            assert second.stop() == 0
    archive.load(worker_name="stand-by")
    assert_one_gap(archive, "probe lost", frozen_at, heard_again_at, SHORT_PROBE_INTERVAL)
    floor.assert_recorded(archive)


def test_a_blackhole_on_the_way_leaves_a_gap(archive: Archive, redis_server: PrivateRedis, log: Path) -> None:
    floor = Floor(archive.redis_url)
    direct = archive.redis_url
    with floor.speaking(), Proxy(redis_server.port) as proxy:
        archive.redis_url = f"redis://127.0.0.1:{proxy.port}/0"
        with listener(archive, log, constants=QUICK) as worker:
            wait_for_proof(archive)
            cut_at = now()
            proxy.blackhole()
            worker.wait_for("listening_ended")
            healed_at = now()
            proxy.heal()
            worker.wait_for("listening", times=2)
            wait_for_proof(archive, sessions=2)
            assert worker.stop() == 0
        archive.redis_url = direct
    assert_one_gap(archive, "probe lost", cut_at, healed_at, SHORT_PROBE_INTERVAL)
    floor.assert_recorded(archive)


def test_a_full_buffer_drops_and_counts_and_leaves_a_gap(own_archive: Archive, log: Path) -> None:
    archive = own_archive
    floor = Floor(archive.redis_url)
    with listener(archive, log, constants={**QUICK, "etl.inbox.spool.CAPACITY_MESSAGES": 300}) as worker:
        with floor.speaking():
            wait_for_proof(archive)
        said = len(floor.said)
        archive.redis.config_set("maxmemory", 1)  # no push is taken then, but everything is published
        try:
            floor.say(archive.redis, 1_000)
            worker.wait_for("spool_outage_began")
            assert worker.lines("listening_ended") == []
        finally:
            room_at = now()
            archive.redis.config_set("maxmemory", 0)
        worker.wait_for("listening", times=2)
        with floor.speaking():
            wait_for_proof(archive, sessions=2)
        assert worker.stop() == 0
    full_at = floor.said[said + 300].until
    assert_one_gap(archive, "overflow", full_at, room_at, SHORT_PROBE_INTERVAL)
    floor.assert_recorded(archive)
    dropped = archive.value("SELECT sum(dropped) FROM listener_sessions")
    assert 600 < dropped <= 1_000
    assert archive.value("SELECT sum(received - dropped) FROM listener_sessions") == archive.value(
        "SELECT count(*) FROM audit_events"
    )


def test_a_consumer_so_slow_that_redis_cuts_it_off_leaves_a_gap(own_archive: Archive, log: Path) -> None:
    archive = own_archive
    limits = archive.redis.config_get("client-output-buffer-limit")["client-output-buffer-limit"] or ""
    floor = Floor(archive.redis_url)
    with listener(archive, log, constants=OFTEN) as worker:
        with floor.speaking():
            wait_for_proof(archive)
        archive.redis.config_set("client-output-buffer-limit", "pubsub 100kb 100kb 60")
        try:
            frozen_at = now()
            worker.freeze()

            def cut_off() -> bool:
                floor.say(archive.redis, 10, padding=100_000)
                return archive.redis.pubsub_numpat() == 0

            eventually(cut_off)
            worker.thaw()
            worker.wait_for("listening", times=2)
            heard_again_at = now()
        finally:
            archive.redis.config_set("client-output-buffer-limit", limits)
        with floor.speaking():
            wait_for_proof(archive, sessions=2)
        assert worker.stop() == 0
    assert_one_gap(archive, "connection lost", frozen_at, heard_again_at, SHORT_PROBE_INTERVAL)
    floor.assert_recorded(archive)


def test_a_redis_that_dies_and_comes_back_leaves_a_gap(
    own_archive: Archive, own_redis: PrivateRedis, log: Path
) -> None:
    archive = own_archive
    floor = Floor(archive.redis_url)
    with floor.speaking(), listener(archive, log, constants=QUICK) as worker:
        wait_for_proof(archive)
        gone_at = now()
        own_redis.kill()
        worker.wait_for("listening_ended")
        own_redis.start()
        back_at = now()
        worker.wait_for("listening", times=2)
        wait_for_proof(archive, sessions=2)
        assert worker.stop() == 0
        assert len(worker.lines("listener_outage_began")) == len(worker.lines("listener_outage_ended")) <= 1
    assert_one_gap(archive, "connection lost", gone_at, back_at, SHORT_PROBE_INTERVAL)
    floor.assert_recorded(archive)


def test_a_loader_killed_repeatedly_and_a_stopped_postgres_cost_no_event(
    own_archive: Archive, own_postgres: PrivatePostgres, tmp_path: Path
) -> None:
    archive = own_archive
    archive.more = {"batch_size": 50, "linger_ms": 5, "lease_seconds": 10}
    floor = Floor(archive.redis_url)
    with floor.speaking(), listener(archive, tmp_path / "listener.log", constants=QUICK) as listening:
        listening.wait_for("listening")
        # It loads as well, beside one that doesn't live long.
        for life in range(3):
            with Worker(archive, tmp_path / f"{life}.log", ETL_WORKER_NAME="mortal") as loader:
                loader.wait_for("loaded", times=2)
                if life == 1:
                    own_postgres.stop()
                    loader.wait_for("outage_began")
                    listening.wait_for("outage_began")
                loader.kill()
            if life == 1:
                own_postgres.start()
        assert listening.stop() == 0
    with Archive(archive.redis_url, archive.database_url, archive.redis) as again:
        again.load(worker_name="mortal")
        again.load()
        assert gaps(again) == []
        (session,) = again.rows("SELECT * FROM listener_sessions")
        assert session["reason"] == "stopped"
        assert session["received"] == again.value("SELECT count(*) FROM audit_events")
        floor.assert_recorded(again)
        again.assert_books_balance()


def wait_for_proof(archive: Archive, sessions: int = 1, seconds: float = 0.2) -> None:
    """Until so many sessions are in Postgres, the last one proven for longer than `seconds`."""

    def done() -> bool:
        found = archive.rows(
            "SELECT proven_until - subscribed_at AS proven FROM listener_sessions ORDER BY subscribed_at"
        )
        assert len(found) <= sessions
        return len(found) == sessions and found[-1]["proven"] > timedelta(seconds=seconds)

    eventually(done, what=f"no proof of {sessions} sessions")
