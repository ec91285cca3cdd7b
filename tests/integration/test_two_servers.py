"""One dialler writes to two Redis servers, each with an archive's process of its own, and one database."""

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from etl.app import check as preflight
from etl.app.load import listen
from etl.errors import ConfigurationError
from etl.lab.dialler import simulate
from etl.lab.servers.private import PrivateRedis
from etl.lab.simulator import Profile
from etl.settings import SourceSettings
from tests.world import CAMPAIGNS, CDRS, CLICK2DIAL, Archive, eventually

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dialler.jsonl"

INTERNAL = "enigma:pbx:cdrs"
PROFILE = Profile(
    cdrs=600, until=datetime(2024, 5, 17, 12, tzinfo=UTC), dialect="both", legs=True, pbx=True, events=0.05, broken=0.02
)


@pytest.fixture
def own(archive: Archive, tmp_path: Path) -> Iterator[Archive]:
    """The archive's process at the dialler's own Redis, in database 2."""
    sources = [SourceSettings(key=CDRS), SourceSettings(key=INTERNAL), SourceSettings(key=CAMPAIGNS)]
    with PrivateRedis(tmp_path / "own") as server, redis.Redis(port=server.port, db=2) as client:
        url = f"redis://127.0.0.1:{server.port}/2"
        with Archive(url, archive.database_url, client, sources) as at_it:
            yield at_it


@pytest.fixture
def at_integrators(archive: Archive) -> Archive:
    archive.sources = [SourceSettings(key=CAMPAIGNS), SourceSettings(key=CLICK2DIAL, source="click2dial")]
    return archive


def test_each_server_gets_what_the_program_writes_there(at_integrators: Archive, own: Archive) -> None:
    tally = simulate(at_integrators.settings(), PROFILE, own=own.settings())

    assert at_integrators.keys() == {CAMPAIGNS, CLICK2DIAL}
    assert own.keys() == {CDRS, INTERNAL, CAMPAIGNS}
    assert own.redis.llen(CAMPAIGNS) == tally.events
    lists = [(archive, source.key) for archive in (own, at_integrators) for source in archive.sources]
    assert sum(int(archive.redis.llen(key)) for archive, key in lists) == tally.messages


@pytest.mark.parametrize("first", ["integrators", "own"])
def test_a_call_of_both_servers_is_one_row_whichever_is_first(
    at_integrators: Archive, own: Archive, first: str
) -> None:
    tally = simulate(at_integrators.settings(), PROFILE, own=own.settings())
    for archive in (at_integrators, own) if first == "integrators" else (own, at_integrators):
        archive.load()

    assert own.value("SELECT count(*) FROM cdrs") == tally.calls > PROFILE.cdrs
    assert own.value("SELECT count(*) FROM cdr_revisions") == 0
    assert own.value("SELECT count(*) FROM dead_letters") == sum(tally.broken.values())
    assert own.value("SELECT count(*) FROM audit_events") == tally.events
    assert own.value("SELECT count(*) FROM cdrs WHERE leg = 1") == 0, "it's the first leg, which is 0"
    assert own.value("SELECT count(*) FROM cdrs WHERE leg > 1") > 0
    whole = "SELECT count(*) FROM cdrs WHERE uuid IS NOT NULL AND contact_ref IS NOT NULL AND campaign_ref IS NOT NULL"
    assert own.value(whole) > 0, "with the fields of either dialect"
    own.assert_books_balance()
    assert at_integrators.keys() == set()


def test_the_preflight_of_either_finds_what_is_broken_there_and_no_more(at_integrators: Archive, own: Archive) -> None:
    simulate(at_integrators.settings(), PROFILE, own=own.settings())
    for archive in (at_integrators, own):
        found = {finding.about: finding for finding in preflight.check(archive.settings())}
        for source in archive.sources:
            assert found[f"messages of {source.key}"].verdict in ("fine", "warning")


def test_given_no_list_for_what_is_the_diallers_own_then_it_is_told(at_integrators: Archive, own: Archive) -> None:
    own.sources = [SourceSettings(key="calls", source="another")]
    with pytest.raises(ConfigurationError, match="no source list is configured for messages of dialler"):
        simulate(at_integrators.settings(), PROFILE, own=own.settings())


@pytest.mark.parametrize("seed", range(4))
def test_what_the_dialler_wrote_to_its_servers_is_ten_calls_in_any_order(
    at_integrators: Archive, own: Archive, seed: int
) -> None:
    """Lists through two processes' settings, a few messages at a time; channels while both listen."""
    dice = random.Random(seed)
    lines = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
    dice.shuffle(lines)
    sources = {"client": at_integrators, "api": own}
    lists = {
        name: sorted({each["list"] for each in lines if each["redis"] == name and "list" in each}) for name in sources
    }
    for name, archive in sources.items():
        archive.sources = [SourceSettings(key=key) for key in lists[name]]
    stop = threading.Event()
    listeners = [
        threading.Thread(target=listen, args=(archive.settings(worker_name=f"{name}-ear"), stop))
        for name, archive in sources.items()
    ]
    for thread in listeners:
        thread.start()
    for archive in sources.values():
        eventually(lambda archive=archive: archive.redis.pubsub_numpat() > 0)  # type: ignore[misc]

    for each in lines:
        archive = sources[each["redis"]]
        if "list" in each:
            dice.choice([archive.redis.lpush, archive.redis.rpush])(each["list"], each["raw"])
        else:
            archive.redis.publish(each["channel"], each["raw"])
        if dice.random() < 0.2:
            archive.load(batch_size=dice.choice([1, 2, 5]))
    stop.set()
    for thread in listeners:
        thread.join()
    for archive in dice.sample([*sources.values()], 2):
        archive.load()

    assert own.value("SELECT count(*) FROM cdrs") == 10
    assert own.value("SELECT count(*) FROM cdrs WHERE uuid IS NOT NULL AND number IS NOT NULL AND leg = 0") == 10
    assert own.value("SELECT count(*) FROM dead_letters") == own.value("SELECT count(*) FROM cdr_revisions") == 0
    statuses = [each for each in lines if json.loads(each["raw"])["type"] not in ("cdr", "call_update", None)]
    assert own.value("SELECT count(*) FROM audit_events") == len(statuses)
    told = "SELECT origin, count(*) AS n FROM audit_events GROUP BY 1"
    assert {row["origin"]: row["n"] for row in own.rows(told)} == Counter(
        "list" if "list" in each else "pubsub" for each in statuses
    )
    servers = {archive.settings().server for archive in sources.values()}
    assert {row["server"] for row in own.rows("SELECT DISTINCT server FROM load_batches")} == servers
    own.assert_books_balance()
