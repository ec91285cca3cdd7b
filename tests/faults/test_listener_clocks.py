"""A listener whose host's clock is wrong, or set while it listens: it proves nothing that it didn't hear."""

from datetime import timedelta
from pathlib import Path

import pytest

from etl.ids import new_id
from etl.lab.servers.clock import Clock
from etl.wire.spool import Session, pack_session
from etl.wire.times import from_datetime
from tests.clocks import DAY, HOUR, settable
from tests.faults.floor import Floor, gaps, now
from tests.faults.test_listener import QUICK, SECOND, wait_for_proof
from tests.faults.worker import Worker
from tests.world import Archive, eventually


def watching(archive: Archive, log: Path, clock: Clock) -> Worker:
    return Worker(archive, log, listen=True, constants=QUICK, **clock.environment)  # type: ignore[arg-type]


@settable
@pytest.mark.parametrize("by", [-DAY, -HOUR, HOUR, DAY])
def test_given_the_host_set_then_proofs_stay_true_and_a_gap_shows(
    archive: Archive, log: Path, tmp_path: Path, by: float
) -> None:
    clock, floor = Clock(tmp_path / "clock"), Floor(archive.redis_url)
    with floor.speaking(), watching(archive, log, clock) as worker:
        wait_for_proof(archive)
        set_at = now()
        clock.step(by)
        worker.wait_for("clock_set")
        worker.wait_for("listening", times=2)
        clock.step(0)  # or the same process wouldn't load: see tests/integration/test_clocks.py
        worker.wait_for("clock_set", times=2)
        eventually(lambda: archive.value("SELECT count(*) FROM listener_sessions") == 3)
        assert archive.value("SELECT max(proven_until) FROM listener_sessions") < now()
        worker.kill()
        died_at = now()
    archive.load()
    assert archive.value("SELECT max(proven_until) FROM listener_sessions") < died_at
    assert [gap["reason"] for gap in gaps(archive)] == ["probe lost"] * 2
    assert set_at - 2 * SECOND < gaps(archive)[0]["gap_from"] < gaps(archive)[1]["gap_until"] < died_at
    assert {session["reason"] for session in archive.rows("SELECT reason FROM listener_sessions")} == {
        "probe lost",
        None,
    }
    floor.assert_recorded(archive)


@settable
@pytest.mark.parametrize("ahead", [-DAY, -90, 90, DAY])
def test_given_a_wrong_but_steady_clock_then_the_session_goes_on(
    archive: Archive, log: Path, tmp_path: Path, ahead: float
) -> None:
    """`etl listen`: its reports and events have Redis' time; nothing of it ends."""
    clock = Clock(tmp_path / "clock")
    clock.step(ahead)
    began, floor = now(), Floor(archive.redis_url)
    with floor.speaking(), archive.process("listen", **clock.environment):

        def proven() -> bool:
            archive.load()
            return bool(floor.proven(archive))

        eventually(proven)
    archive.load()
    (session,) = archive.rows("SELECT * FROM listener_sessions")
    assert began - SECOND < session["subscribed_at"] < session["proven_until"] < now()
    assert archive.value("SELECT min(captured_at) FROM audit_events") > began - SECOND
    floor.assert_recorded(archive)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("server", [None, "pbx"])
def test_given_a_report_from_the_future_then_it_hides_no_gap(archive: Archive, ended: bool, server: str | None) -> None:
    """As a listener of 0.1 makes it whose clock was ahead for a moment; its loader stores it as it is."""
    began, future = now() - timedelta(hours=2), now() + timedelta(days=1)
    session = Session(
        new_id(),
        "old",
        from_datetime(began),
        from_datetime(future),
        received=0,
        ignored=0,
        dropped=0,
        ended_at=from_datetime(began + timedelta(hours=1)) if ended else None,
        reason="stopped" if ended else None,
        server=server,
        patterns=("enigma:notifications:*",) if server else None,
    )
    archive.redis.lpush("etl:events", pack_session(session))
    archive.load()

    proven_until = archive.value("SELECT proven_until FROM listener_sessions")
    assert proven_until <= (began + timedelta(hours=1) if ended else now())
    eventually(lambda: archive.rows("SELECT * FROM audit_gaps WHERE gap_from IS NOT NULL AND gap_until IS NULL"))
    (gap,) = archive.rows("SELECT * FROM audit_gaps WHERE gap_from IS NOT NULL")
    assert gap["gap_from"] == proven_until
