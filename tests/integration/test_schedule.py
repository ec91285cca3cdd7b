"""What is done by the clock, on real stores: when, by whom, and what becomes of trouble."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from apscheduler.triggers.cron import CronTrigger

from etl.app.schedule import schedule_of
from etl.errors import Outage
from etl.jobs.schedule import Job, Schedule
from etl.store import locks
from tests.lake import assert_agrees, export, file, load, revisions, with_lake
from tests.store import engine
from tests.world import Archive, cdr

NEVER = threading.Event()


@pytest.fixture
def database(archive: Archive) -> Iterator[sa.Engine]:
    with engine(archive.database_url) as opened:
        yield opened


def jobs_of(archive: Archive, database: sa.Engine, **more: Any) -> dict[str, Job]:
    return {job.name: job for job in schedule_of(archive.settings(**more), database).jobs}


def next_time(job: Job, after: datetime) -> datetime:
    found = CronTrigger.from_crontab(job.cron, timezone="UTC").get_next_fire_time(None, after)
    assert isinstance(found, datetime)
    return found


def test_the_table_says_when(archive: Archive, database: sa.Engine) -> None:
    jobs = jobs_of(archive, database, keep_days=30)
    a_monday = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    assert {name: next_time(job, a_monday) for name, job in jobs.items()} == {
        "partitions": datetime(2026, 11, 23, 12, 5, tzinfo=UTC),
        "unite": datetime(2026, 11, 23, 12, 35, tzinfo=UTC),
        "rollup": datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
        "identities": datetime(2026, 11, 24, 1, 20, tzinfo=UTC),
        "figures": datetime(2026, 11, 24, 1, 55, tzinfo=UTC),
        "export": datetime(2026, 11, 24, 2, 15, tzinfo=UTC),
        "sweep": datetime(2026, 11, 23, 12, 50, tzinfo=UTC),
        "prune": datetime(2026, 11, 24, 2, 45, tzinfo=UTC),
        "prove": datetime(2026, 11, 29, 3, 30, tzinfo=UTC),  # a Sunday
    }


def test_nothing_is_pruned_unless_the_settings_say_so(archive: Archive, database: sa.Engine) -> None:
    assert "prune" not in jobs_of(archive, database)


def test_given_two_hosts_at_the_same_job_then_one_acts(database: sa.Engine) -> None:
    acting, finish, done = threading.Event(), threading.Event(), []

    def act(_stop: threading.Event) -> None:
        done.append("first")
        acting.set()
        assert finish.wait(30)

    alone = partial(locks.alone, database)
    one = Schedule([], alone, structlog.get_logger())
    other = Schedule([], alone, structlog.get_logger())
    thread = threading.Thread(target=one.act, args=(Job("export", "15 2 * * *", act), NEVER))
    thread.start()
    assert acting.wait(30)

    other.act(Job("export", "15 2 * * *", lambda _: done.append("second")), NEVER)
    other.act(Job("prove", "15 2 * * *", lambda _: done.append("another job")), NEVER)
    finish.set()
    thread.join()
    other.act(Job("export", "15 2 * * *", lambda _: done.append("afterwards")), NEVER)

    assert done == ["first", "another job", "afterwards"]


@pytest.mark.parametrize("trouble", [Outage("ETL-301", "Postgres is away"), ZeroDivisionError()])
def test_a_job_that_fails_is_told_and_the_next_one_is_done(database: sa.Engine, trouble: Exception) -> None:
    """`run` itself, with both jobs due at once."""
    stop = threading.Event()
    times = iter([datetime(2026, 11, 23, 12, 0, 59, tzinfo=UTC), datetime(2026, 11, 23, 12, 1, tzinfo=UTC)])

    def fail(_stop: threading.Event) -> None:
        raise trouble

    jobs = [Job("export", "* * * * *", fail), Job("prune", "* * * * *", lambda _: stop.set())]
    with structlog.testing.capture_logs() as logged:
        Schedule(jobs, partial(locks.alone, database), structlog.get_logger(), now=lambda: next(times)).run(stop)

    assert [(line["event"], line["job"]) for line in logged] == [("job_failed", "export")]


def test_partitions_are_there_before_their_day(archive: Archive, database: sa.Engine) -> None:
    jobs_of(archive, database)["partitions"].act(NEVER)

    today = datetime.now(UTC).date()
    for day in (today, today + timedelta(days=1), today + timedelta(days=2)):
        for table in ("cdrs", "audit_events"):
            assert archive.value("SELECT to_regclass(%s)", f"{table}_{day:%Y%m%d}") is not None


def test_figures_follow_what_is_loaded_and_closed_days_get_an_index(archive: Archive, database: sa.Engine) -> None:
    jobs = jobs_of(archive, database)
    archive.push(cdr(1))
    archive.load()

    jobs["rollup"].act(NEVER)
    assert archive.value("SELECT sum(attempts) FROM reporting.campaign_days") == 1

    # what was committed long ago, the nightly one finds
    archive.push(cdr(2))
    archive.load()
    archive.rows("UPDATE load_batches SET committed_at = now() - interval '1 day' RETURNING batch_id")
    jobs["rollup"].act(NEVER)
    assert archive.value("SELECT sum(attempts) FROM reporting.campaign_days") == 1
    jobs["figures"].act(NEVER)
    assert archive.value("SELECT sum(attempts) FROM reporting.campaign_days") == 2
    assert archive.value("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%%open_reference(contact_ref,%%'") == 1


def test_the_night_exports_proves_and_prunes(archive: Archive, database: sa.Engine, tmp_path: Path) -> None:
    archive.push(*(cdr(number) for number in range(10)))
    archive.load()
    jobs = jobs_of(archive, database, export_url=str(tmp_path / "lake"), keep_days=30)

    for name in ("export", "prove", "prune"):
        jobs[name].act(NEVER)

    assert (tmp_path / "lake/cdrs/dialed_on=2015-02-19/part-0.parquet").is_file()
    assert archive.value("SELECT dropped_at IS NOT NULL FROM exports")
    assert archive.value("SELECT count(*) FROM cdrs") == 0
    jobs["prove"].act(NEVER)


def test_every_hour_plain_readers_get_the_current_revision_the_rest_goes(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    with_lake(archive, tmp_path / "lake")
    for call_refs in ((1, 2), (3,)):
        load(archive, *(cdr(n) for n in call_refs))
        export(archive)
    first, second = revisions(archive)
    file(archive).unlink()
    file(archive).hardlink_to(first)  # as an exporter leaves it that wakes up late

    jobs_of(archive, database, export_url=str(tmp_path / "lake"))["sweep"].act(NEVER)
    assert file(archive).samefile(second)
    assert revisions(archive) == [first, second], "for as long as the settings say"

    jobs_of(archive, database, export_url=str(tmp_path / "lake"), lake_history_days=0)["sweep"].act(NEVER)
    assert revisions(archive) == [second]
    assert_agrees(archive)


def test_a_night_job_that_is_told_to_stop_ends_at_once(archive: Archive, database: sa.Engine, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()

    jobs_of(archive, database, export_url=str(tmp_path / "lake"))["export"].act(stop)


def test_a_night_job_that_cannot_work_says_so(archive: Archive, database: sa.Engine) -> None:
    job = jobs_of(archive, database, export_url="ftp://nowhere/lake")["export"]

    with structlog.testing.capture_logs() as logged:
        Schedule([], partial(locks.alone, database), structlog.get_logger()).act(job, NEVER)

    assert [(line["event"], line["error"]) for line in logged] == [("job_failed", "it ended with exit code 1")]
