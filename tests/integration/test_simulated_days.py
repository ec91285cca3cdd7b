"""The simulated days of the past: what a simulated listener heard is dated as it was heard, agrees with the simulator's
truth, and no gap says of any real Redis that somebody listened to it."""

import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from etl.app import database
from etl.lab.agents import CLOSING
from etl.lab.dialler import simulate
from etl.lab.heard import last_until
from etl.lab.simulator import Profile
from etl.lab.truth import AgentDay, agent_days, queue_days, states
from etl.settings import SourceSettings
from etl.wire.spool import Heard, Session, unpack
from tests.command_line import answered
from tests.lake import SPOOL
from tests.world import CAMPAIGNS, SOURCES, Archive

UNTIL = datetime(2024, 5, 17, 20, tzinfo=UTC)
MIDNIGHT = datetime(2024, 5, 15, tzinfo=UTC)  # before the first call
PROFILE = Profile(cdrs=600, until=UNTIL, days=2, dialect="both", late=0.05, duplicates=0.05, pubsub=True)
COMMAND = ("simulate", "--cdrs", "200", "--heard")
SIMULATOR = {"redis_name": "simulator"}


@pytest.fixture
def trial(archive: Archive) -> Archive:
    """An archive that is only for trying out."""
    archive.more = SIMULATOR
    return archive


def told(archive: Archive, profile: Profile = PROFILE) -> None:
    simulate(archive.settings(), profile, heard=True)
    archive.load()


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# -- as the truth has it


@pytest.mark.parametrize(
    ("zone", "until"),
    [
        ("UTC", UNTIL),
        ("Asia/Kolkata", UNTIL),
        ("Europe/London", datetime(2024, 4, 1, 3, tzinfo=UTC)),  # the clock went forward
        ("America/Los_Angeles", datetime(2024, 11, 4, 12, tzinfo=UTC)),  # and back
    ],
)
def test_each_agents_days_are_in_the_views_as_in_the_truth(trial: Archive, zone: str, until: datetime) -> None:
    trial.rows("UPDATE reporting.settings SET zone = %s RETURNING zone", zone)
    # Without Click2Dial, whose agents also have the calls that a machine answered.
    profile = Profile(cdrs=600, until=until, days=2, dialect="both", late=0.05, click2dial=0.0, pubsub=True)
    told(trial, profile)
    database.rollup(trial.settings(), True, lambda _: None)

    found = {(row["day"], row["extension"]): row for row in trial.rows("SELECT * FROM reporting.agent_days")}
    wanted = agent_days(profile, ZoneInfo(zone))

    assert found.keys() == wanted.keys()
    for key, agent in wanted.items():
        assert in_seconds(found[key]) == in_seconds(agent), key
        assert (found[key]["calls"], found[key]["talk_seconds"]) == (agent.calls, agent.talk_seconds)
    assert sum(agent.logged_in_seconds for agent in wanted.values()) > 100_000
    assert any(agent.occupancy for agent in wanted.values())


def in_seconds(day: AgentDay | dict[str, object]) -> tuple[object, ...]:
    if isinstance(day, AgentDay):
        of_statuses = (day.seconds[status] for status in ("available", "busy", "wrapup"))
        return (
            day.logged_in_seconds,
            *of_statuses,
            None if day.occupancy is None else pytest.approx(day.occupancy, abs=1e-4),
        )
    names = ("logged_in_seconds", "available_seconds", "busy_seconds", "wrapup_seconds")
    occupancy = day["occupancy"]
    return *(int(str(day[name] or 0)) for name in names), None if occupancy is None else float(str(occupancy))


def test_every_state_is_stored_as_it_was_and_none_is_cut_by_a_gap(trial: Archive) -> None:
    told(trial)
    database.rollup(trial.settings(), True, lambda _: None)

    rows = trial.rows("SELECT extension, status, state_from, state_until, closed_by FROM reporting.agent_states")

    found = sorted((r["extension"], r["state_from"], r["state_until"], r["status"]) for r in rows)
    assert found == sorted((s.extension, at(s.since), at(s.until), s.status) for s in states(PROFILE))
    assert {row["closed_by"] for row in rows} == {"status"}


def test_the_waits_of_the_queues_are_the_truth_and_some_are_short(trial: Archive) -> None:
    told(trial)
    query = """
        SELECT dialed_on AS day, campaign_ref, extension IS NOT NULL AS answered,
            extract(epoch FROM coalesce(connected_at, ended_at) - answered_at)::integer AS waited
        FROM cdrs WHERE call_dir = 'inbound'
    """
    found = defaultdict[tuple[date, str, bool], list[int]](list)
    for row in trial.rows(query):
        found[row["day"], row["campaign_ref"], row["answered"]].append(row["waited"])
    wanted: dict[tuple[date, str, bool], list[int]] = {}
    for (day, campaign), queue in queue_days(PROFILE).items():
        assert queue.offered > 0
        wanted |= {(day, campaign, True): queue.answered, (day, campaign, False): queue.abandoned}

    assert {key: sorted(waits) for key, waits in found.items()} == {
        key: sorted(waits) for key, waits in wanted.items() if waits
    }
    answered_after, abandoned_after = (
        [wait for key, waits in found.items() if key[2] is was_answered for wait in waits]
        for was_answered in (True, False)
    )
    assert 0.6 < sum(wait <= 20 for wait in answered_after) / len(answered_after) < 0.9
    assert max(answered_after) > 60
    assert min(abandoned_after) <= 5
    assert max(abandoned_after) > 20


# -- the gaps


def test_given_simulated_days_then_gaps_are_before_and_after_them(trial: Archive) -> None:
    told(trial)

    gaps = trial.rows("SELECT gap_from, gap_until, server FROM audit_gaps ORDER BY gap_until")

    ended = UNTIL + timedelta(seconds=CLOSING)
    assert [gap["server"] for gap in gaps] == ["simulator", "simulator"]
    assert [(gaps[0]["gap_from"], gaps[0]["gap_until"])] == [(None, MIDNIGHT)]
    assert gaps[1]["gap_from"] == ended
    (session,) = trial.rows("SELECT * FROM listener_sessions")
    assert (session["subscribed_at"], session["proven_until"], session["reason"]) == (MIDNIGHT, ended, "stopped")
    assert session["received"] == trial.value("SELECT count(*) FROM audit_events WHERE origin = 'pubsub'")


def test_at_every_report_all_that_it_proves_is_on_the_spool(trial: Archive) -> None:
    """So that a simulation that dies leaves no proof of what nobody can load."""
    simulate(trial.settings(), PROFILE, heard=True)
    records = [unpack(raw) for raw in reversed(trial.redis.lrange(SPOOL, 0, -1))]  # type: ignore[arg-type]

    proven = reports = 0
    for record in records:
        if isinstance(record, Session):
            proven, reports = record.proven_until, reports + 1
        else:
            assert record.captured_at > proven
    ids = [record.event_id for record in records if isinstance(record, Heard)]
    assert ids == sorted({*ids}), "events of one second have an order"
    assert reports > 24


def test_given_the_same_days_twice_then_no_event_is_added(trial: Archive) -> None:
    count = "SELECT count(*) FROM audit_events WHERE origin = 'pubsub'"
    told(trial)
    first = trial.value(count)

    told(trial)
    assert (trial.value(count), trial.value("SELECT count(*) FROM listener_sessions")) == (first, 1)
    told(trial, Profile(cdrs=600, until=UNTIL, days=2, seed=2, pubsub=True))
    assert trial.value(count) > first
    trial.assert_books_balance()


def test_what_the_settings_do_not_listen_to_is_not_heard(trial: Archive) -> None:
    ignore = ("agent/stats", "campaigns/dial_preview")
    trial.more = {**SIMULATOR, "listen_ignore": json.dumps(ignore), "listen_patterns": '["enigma:*:agents:*"]'}
    told(trial)

    rows = trial.rows("SELECT DISTINCT kind, event_type FROM audit_events WHERE origin = 'pubsub'")
    assert {(row["kind"], row["event_type"]) for row in rows} == {("agents", "status"), ("agents", "call")}
    (session,) = trial.rows("SELECT received, ignored, patterns FROM listener_sessions")
    heard = trial.value("SELECT count(*) FROM audit_events WHERE origin = 'pubsub'")
    assert (session["received"] - session["ignored"], session["patterns"]) == (heard, ["enigma:*:agents:*"])


# -- where it is refused


def test_given_a_redis_that_is_not_named_so_then_nothing_is_pushed(archive: Archive) -> None:
    refused = answered(archive.environment(), *COMMAND)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "ETL-931" in refused.stderr
    assert "ETL_REDIS_NAME=simulator" in refused.stderr
    assert archive.keys() == set()


@pytest.mark.parametrize("name", ["dialler", None])
def test_given_an_archive_that_heard_a_real_redis_then_it_is_refused(trial: Archive, name: str | None) -> None:
    trial.rows(
        "INSERT INTO listener_sessions (session_id, listener, subscribed_at, proven_until, received, ignored, dropped,"
        " server, patterns, batch_id) VALUES (gen_random_uuid(), 'w', now(), now(), 0, 0, 0, %s::text,"
        " CASE WHEN %s::text IS NULL THEN NULL ELSE ARRAY['enigma:*'] END, gen_random_uuid()) RETURNING 1",
        name,
        name,
    )

    refused = answered(trial.environment(), *COMMAND)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "ETL-932" in refused.stderr
    assert (name or "a server without a name") in refused.stderr
    assert trial.keys() == set()


def test_given_a_database_without_schema_then_it_is_told_what_to_run(trial: Archive, empty_database_url: str) -> None:
    refused = answered(trial.environment(ETL_DATABASE_URL=empty_database_url), *COMMAND)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "run `etl db upgrade`" in refused.stderr
    assert trial.keys() == set()


def test_given_days_that_are_not_over_then_they_are_refused(trial: Archive) -> None:
    soon = f"{last_until(datetime.now(UTC).timestamp()) + timedelta(minutes=5):%Y-%m-%dT%H:%M:%S}"

    refused = answered(trial.environment(), *COMMAND, "--until", soon)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "ETL-933" in refused.stderr
    assert trial.keys() == set()


def test_given_both_ways_of_telling_events_then_one_must_go(trial: Archive) -> None:
    refused = answered(trial.environment(), *COMMAND, "--pubsub")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--heard" in refused.stderr


def test_by_default_the_days_end_as_late_as_they_may(trial: Archive) -> None:
    trial.sources = [SourceSettings(key=CAMPAIGNS, source="dialler")]
    done = trial.run(*COMMAND, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    heard = sum(json.loads(done.stdout)["published"].values())
    trial.sources = SOURCES
    trial.load()
    latest = "SELECT count(*) FILTER (WHERE captured_at > now()) AS ahead, count(*) AS n FROM audit_events"
    assert trial.rows(latest) == [{"ahead": 0, "n": heard}]
