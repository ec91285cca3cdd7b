"""`/healthz` and `/readyz` while things go wrong: the former asks for a restart only where one helps."""

import os
import signal
from pathlib import Path

from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.faults.worker import Worker
from tests.scrape import address, get, samples
from tests.world import Archive, eventually

QUICK = {"etl.app.gauges.LOOK_EVERY_SECONDS": 0.1, "etl.app.monitor.STUCK_SECONDS": 5.0}


def test_a_store_that_is_away_makes_it_unready_not_unhealthy(
    own_archive: Archive, own_redis: PrivateRedis, own_postgres: PrivatePostgres, tmp_path: Path
) -> None:
    with Worker(own_archive, tmp_path / "log", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        eventually(lambda: get(at, "/readyz").status == 200)
        for name, server in (("redis", own_redis), ("postgres", own_postgres)):
            server.kill()
            eventually(lambda: get(at, "/readyz").status == 503)
            assert f": {name}" in get(at, "/readyz").body.lower()
            assert get(at, "/readyz").body.count("\n") == 1
            assert samples(at, f"etl_{name}_up") == {(): 0}
            assert get(at, "/healthz").body == "fine\n"
            server.start()
            eventually(lambda: get(at, "/readyz").status == 200)
            assert samples(at, f"etl_{name}_up") == {(): 1}


def test_it_serves_before_the_stores_are_there(own_archive: Archive, own_redis: PrivateRedis, tmp_path: Path) -> None:
    own_redis.kill()
    with Worker(own_archive, tmp_path / "log", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        assert get(at, "/healthz").status == 200
        assert get(at, "/readyz").status == 503
        own_redis.start()
        eventually(lambda: get(at, "/readyz").status == 200)


def test_a_loader_that_hangs_makes_it_unhealthy(archive: Archive, tmp_path: Path) -> None:
    with Worker(archive, tmp_path / "log", "--workers", "2", constants=QUICK, ETL_HTTP="127.0.0.1:0") as worker:
        at = address(worker)
        worker.wait_for("started", times=2)
        eventually(lambda: get(at, "/healthz").status == 200)
        os.kill(worker.loaders()[0], signal.SIGSTOP)
        eventually(lambda: get(at, "/healthz").status == 503)
        assert "has been silent for" in get(at, "/healthz").body
        os.kill(worker.loaders()[0], signal.SIGCONT)
        eventually(lambda: get(at, "/healthz").status == 200)
