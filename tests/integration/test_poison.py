"""What was accepted stops nothing that comes later: no row, day or reference keeps another from being computed,
exported, pruned or forgotten. What would, isn't accepted; and where 0.1 accepted it, it's left out and named."""

import json
import random
import string
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.app import database
from etl.errors import EtlError
from etl.ids import new_id
from etl.store.ledger import Books
from etl.store.writer import Writer
from etl.wire.decode import WRITTEN_OUT
from etl.wire.event import Event
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests.budget import examples
from tests.lake import (
    SPOOL,
    export,
    export_and_prune,
    heard,
    in_file,
    load,
    on,
    restore,
    with_lake,
)
from tests.rows import row, store
from tests.store import at_once, batch, engine
from tests.wire import ANY_JSON, Json, decoded, write
from tests.world import CAMPAIGNS, CDRS, Archive, api_cdr, cdr

DAY = date(2015, 2, 19)
NEXT = date(2015, 2, 20)
KEY = "a secret that is long enough for everybody"


def random_text(length: int, seed: int = 1) -> str:
    """That doesn't compress: an index takes 2,700 bytes of it."""
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=length))


def rollup(archive: Archive) -> list[date]:
    return database.rollup(archive.settings(), everything=False, progress=lambda _: None)


# -- references: what ends in an index is bounded


def status(channel: str = "enigma:notifications:agents", day: date = DAY, number: int = 1, **payload: object) -> bytes:
    """As the listener spools it."""
    captured_at = from_datetime(datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=number))
    message = json.dumps({"type": "status", "payload": {"status": "busy", **payload}}).encode()
    return pack_heard(UUID(int=number).bytes, captured_at, channel.encode(), message)


# Where a message brings what an index has. Of each: the list, and the message of a value.
FIELDS: dict[tuple[str, str], list[tuple[str, Callable[[str], bytes]]]] = {
    ("cdrs", "call_ref"): [(CAMPAIGNS, cdr), (CDRS, api_cdr)],
    ("cdrs", "contact_ref"): [(CAMPAIGNS, lambda value: cdr(1, contact_ref=value))],
    ("cdr_revisions", "call_ref"): [(CAMPAIGNS, cdr)],
    ("campaign_figures", "campaign_ref"): [
        (CAMPAIGNS, lambda value: cdr(1, ref=value)),
        (CDRS, lambda value: api_cdr(1, ref=value)),
    ],
    ("agent_call_figures", "extension"): [
        (CAMPAIGNS, lambda value: cdr(1, extension=value)),
        (CDRS, lambda value: api_cdr(1, agent=value)),
    ],
    ("agent_state_figures", "extension"): [(SPOOL, lambda value: status(ref=value))],
    ("status_changes", "extension"): [
        (SPOOL, lambda value: status(ref=value)),
        (SPOOL, lambda value: status(agent=value)),
        (SPOOL, lambda value: status(extension=value)),
        (SPOOL, lambda value: status(f"enigma:notifications:agents:{value}")),
    ],
}
# What settings, servers and the program itself bring.
OURS = {"dataset", "source", "source_key", "server", "name", "version_num", "end_reason", "listener"}
INDEXED = """
SELECT DISTINCT coalesce(pg_partition_root(indrelid), indrelid)::regclass::text AS of, attname
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
JOIN pg_attribute ON attrelid = indrelid AND (attnum = ANY (indkey)
    OR pg_get_expr(indexprs, indrelid) ~ ('open_reference[(]' || attname))
JOIN pg_type ON pg_type.oid = atttypid
WHERE relnamespace IN (current_schema()::regnamespace, 'reporting'::regnamespace) AND typcategory = 'S'
"""


def test_every_text_of_a_message_that_ends_in_an_index_is_among_them(archive: Archive) -> None:
    load(archive, cdr(1))
    rollup(archive)  # which makes the index of contacts

    indexed = {(each["of"].removeprefix("reporting."), each["attname"]) for each in archive.rows(INDEXED)}

    of_messages = {(table, column) for table, column in indexed if column not in OURS and table != "names"}
    assert of_messages == FIELDS.keys()


@pytest.mark.parametrize("indexed", FIELDS, ids=".".join)
def test_a_reference_that_an_index_could_refuse_is_a_dead_letter(archive: Archive, indexed: tuple[str, str]) -> None:
    for key, message in FIELDS[indexed]:
        for spelling in ("x" * 513, "é" * 257, random_text(9_000)):
            load(archive, message(spelling), key=key)
    letters = archive.rows("SELECT reason, detail FROM dead_letters")
    assert {letter["reason"] for letter in letters} == {"too_large"}
    assert len(letters) == 3 * len(FIELDS[indexed])
    assert all("the limit is 512" in letter["detail"] for letter in letters)


@pytest.mark.parametrize("indexed", FIELDS, ids=".".join)
def test_a_reference_of_512_bytes_goes_all_the_way(archive: Archive, indexed: tuple[str, str]) -> None:
    text = "".join(chr(0x10000 + each) for each in random.Random(2).choices(range(50_000), k=128))
    for key, message in FIELDS[indexed]:
        load(archive, message(text), key=key)
        load(archive, cdr(text, contact_ref="other"), cdr(text, contact_ref="another"))

    rollup(archive)

    assert archive.value("SELECT count(*) FROM dead_letters") == 0
    table, column = indexed
    schema = "" if table.startswith("cdr") else "reporting."
    if table != "agent_state_figures":  # which has none of a lone status
        assert archive.value(f"SELECT count(*) FROM {schema}{table} WHERE {column} = %s", text)


# -- numbers: how long a stored document's text is


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?[eE][+-]?[0-9]{1,4}", fullmatch=True)


@settings(max_examples=examples(1.0), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        ANY_JSON.map(lambda value: write(value).decode()) | NUMBERS | NUMBERS.map(lambda n: f"[{n},{n}]"), max_size=30
    )
)
def test_the_text_of_what_the_wire_takes_is_at_most_so_long(archive: Archive, values: list[str]) -> None:
    record = decoded(b'{"type": "x", "payload": {"x":[%b]}}' % ",".join(values).encode())
    if isinstance(record, Event):
        text = archive.value("SELECT octet_length(%s::jsonb::text)", record.payload.decode())
        assert text <= 4 * len(record.payload) + WRITTEN_OUT


def test_a_day_of_the_longest_numbers_can_be_kept_and_forgotten(archive: Archive, tmp_path_factory: Json) -> None:
    with_lake(archive, tmp_path_factory.mktemp("lake"))
    number = "0700111222"
    longest = [cdr(n, x="N", number=number).replace(b'"N"', b"[1e16383, 1e-11]") for n in range(200)]
    load(archive, *longest)
    load(archive, *(heard(n, x="N").replace(b'"N"', b"1e-16383") for n in range(200)), key=SPOOL)
    assert archive.value("SELECT max(octet_length(extra::text)) FROM cdrs") > 16_000

    for dataset in ("cdrs", "audit_events"):
        export_and_prune(archive, DAY, dataset)
        assert restore(archive, DAY, dataset).rows == 200
    ended = archive.run("forget", "--number", number, "--yes", "--json", ETL_FORGET_KEY=KEY)
    assert ended.returncode == 0, ended.stderr
    assert archive.value("SELECT count(*) FROM cdrs WHERE number = %s", number) == 0


# -- rows that 0.1 stored


LONG = random_text(9_000)


def test_a_stored_reference_of_any_length_goes_all_the_way(archive: Archive, tmp_path_factory: Json) -> None:
    with_lake(archive, tmp_path_factory.mktemp("lake"))
    compressible = "7" * 9_000
    long = row(compressible) | dict.fromkeys(("campaign_ref", "contact_ref", "extension", "uuid"), LONG)
    store(archive, long)
    store(archive, row(1, contact_ref="kept"))

    export_and_prune(archive)
    load(archive, cdr(2))
    rollup(archive)
    assert restore(archive).rows == 2
    load(archive, cdr(1, hold_time=3))
    assert archive.cdr(compressible)["contact_ref"] == LONG
    assert export(archive).what == "exported"
    assert len(in_file(archive)) == 3
    ended = archive.run("forget", "--contact", LONG, "--yes", "--json", ETL_FORGET_KEY=KEY)

    assert ended.returncode == 0, ended.stderr
    assert archive.cdr(compressible)["contact_ref"] != LONG
    assert LONG not in {each["contact_ref"] for each in in_file(archive)}


@pytest.mark.parametrize("column", ["campaign_ref", "extension"])
def test_a_reference_that_no_index_takes_stops_no_other_days_figures(archive: Archive, column: str) -> None:
    store(archive, row("bad") | {column: LONG})
    load(archive, on(-1, "before"), on(3, "after"))

    ended = archive.run("rollup")

    assert ended.returncode == 1
    assert "ETL-350" in ended.stderr
    assert f"figures of {DAY}" in ended.stderr
    assert f"row dialler bad 0 of {DAY}" in ended.stderr
    assert LONG[:50] not in ended.stderr
    days = {each["day"] for each in archive.rows("SELECT DISTINCT day FROM reporting.campaign_figures")}
    assert days == {DAY - timedelta(days=1), DAY + timedelta(days=3)}
    archive.rows(f"UPDATE cdrs SET {column} = 'short' WHERE call_ref = 'bad' RETURNING 1")
    assert DAY in rollup(archive), "it isn't tried again"


def test_an_event_that_no_index_takes_stops_no_other_days_states(archive: Archive) -> None:
    days = [DAY, NEXT, DAY + timedelta(days=4)]
    load(archive, *(status(day=day, number=n, ref="1002") for n, day in enumerate(days)), key=SPOOL)
    archive.rows("UPDATE audit_events SET extension = %s WHERE captured_on = %s RETURNING 1", LONG, DAY)

    with pytest.raises(EtlError, match=rf"figures of {DAY}.*event .* of {DAY}"):
        rollup(archive)

    for table in ("status_changes", "rolled_up WHERE dataset = 'audit_events'"):
        done = archive.rows(f"SELECT DISTINCT day FROM reporting.{table} ORDER BY day")
        assert [each["day"] for each in done] == days[1:]


def test_a_contact_that_no_index_takes_stops_no_other_days_index(archive: Archive) -> None:
    store(archive, row("bad", contact_ref=LONG))
    load(archive, on(-1, "before"), on(3, "after"))

    with pytest.raises(EtlError, match=rf"index of contacts of {DAY}.*row dialler bad 0"):
        rollup(archive)

    assert {each["day"] for each in archive.rows("SELECT DISTINCT day FROM reporting.campaign_figures")} == {
        DAY - timedelta(days=1),
        DAY,
        DAY + timedelta(days=3),
    }
    having = "SELECT tablename AS t FROM pg_indexes WHERE indexdef LIKE %s ORDER BY 1"
    assert [each["t"] for each in archive.rows(having, "%open_reference(contact_ref%")] == [
        "cdrs_20150218",
        "cdrs_20150222",
    ]


# Its text would be larger than 1 GiB; it takes 74 KB to send, and a few to store.
HUGE = "(SELECT jsonb_build_object('x', jsonb_agg(1e131071::numeric)) FROM generate_series(1, 8300))"


def test_a_row_that_postgres_cannot_show_stops_no_other_day(archive: Archive, tmp_path_factory: Json) -> None:
    with_lake(archive, tmp_path_factory.mktemp("lake"))
    person = "0700111222"
    load(archive, *(on(days, days, number=person) for days in range(3)))
    archive.rows(f"UPDATE cdrs SET extra = {HUGE} WHERE dialed_on = %s RETURNING 1", NEXT)

    exported = archive.run("export", "--json")

    assert exported.returncode == 1
    outcomes = {each["day"]: each for each in json.loads(exported.stdout)["days"]}
    assert {day: each["what"] for day, each in outcomes.items()} == {
        "2015-02-19": "exported",
        "2015-02-20": "failed",
        "2015-02-21": "exported",
    }
    assert "ETL-522" in outcomes["2015-02-20"]["why"]
    assert f"row {NEXT} dialler 1 0" in outcomes["2015-02-20"]["why"]

    forgot = archive.run("forget", "--number", person, "--yes", "--json", ETL_FORGET_KEY=KEY)
    assert forgot.returncode == 1
    (failed,) = json.loads(forgot.stdout)["failed"]
    assert f"cdrs {NEXT}" in failed
    assert f"row {NEXT} dialler 1 0" in failed
    left = archive.rows("SELECT dialed_on FROM cdrs WHERE number = %s", person)
    assert [each["dialed_on"] for each in left] == [NEXT]
    foreseen = archive.run("forget", "--number", person, "--dry-run", "--json", ETL_FORGET_KEY=KEY)
    assert (foreseen.returncode, len(json.loads(foreseen.stdout)["failed"])) == (1, 1)

    pruned = archive.run("prune", "--keep-days", "1", "--json")
    assert "2015-02-19" in pruned.stdout
    assert [each["dialed_on"] for each in archive.rows("SELECT dialed_on FROM cdrs")] == [NEXT]
    rollup(archive)


# -- days: how old a call may be


def ago(call_ref: object, days: float) -> bytes:
    return cdr(call_ref, dialed_at=int((datetime.now(UTC) - timedelta(days=days)).timestamp()))


@pytest.fixture
def bounded(archive: Archive) -> Archive:
    archive.more = {"oldest_days": 100}
    return archive


def test_a_call_that_is_too_old_loads_with_any_day_alone(bounded: Archive) -> None:
    load(bounded, ago("young", 99), ago("old", 101), ago("older", 5_000), b'{"type": "status", "payload": {}}')

    letters = bounded.rows("SELECT reason, detail FROM dead_letters")
    assert [letter["reason"] for letter in letters] == ["out_of_range"] * 2
    assert all("--any-day" in letter["detail"] for letter in letters)
    again = json.loads(bounded.run("dead", "replay", "--json").stdout)
    assert (again["tried"], again["still_dead"]) == (2, 2)
    loaded = json.loads(bounded.run("dead", "replay", "--any-day", "--json").stdout)
    assert (loaded["tried"], loaded["still_dead"], loaded["left"]) == (2, 0, 0)
    assert {each["call_ref"] for each in bounded.rows("SELECT call_ref FROM cdrs")} == {"young", "old", "older"}


def test_a_run_brings_so_many_new_days_and_the_next_one_the_rest(bounded: Archive) -> None:
    load(bounded, *(ago(f"{day}-{n}", 200 + day) for n in range(2) for day in range(5)), b"junk")
    replay = partial(bounded.run, "dead", "replay", "--any-day", "--new-days", "2")
    days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdrs'::regclass"

    first = replay()
    assert first.stdout.startswith("5 tried: 4 are stored now, 1 are still dead")
    assert "6 are of more new days than the 2 of one run" in first.stdout
    assert bounded.value(days) == 2
    assert json.loads(replay("--json").stdout)["left"] == 2
    assert json.loads(replay("--json").stdout)["left"] == 0
    assert (bounded.value(days), bounded.value("SELECT count(*) FROM cdrs")) == (5, 10)
    assert bounded.value("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 1


def test_days_that_are_there_are_no_new_ones(bounded: Archive) -> None:
    for number in range(3):
        load(bounded, ago(number, 200))
    assert json.loads(bounded.run("dead", "replay", "--any-day", "--new-days", "1", "--json").stdout)["left"] == 0
    assert bounded.value("SELECT count(*) FROM cdrs") == 3


def test_how_many_new_days_goes_with_any_day_alone(archive: Archive) -> None:
    ended = archive.run("dead", "replay", "--new-days", "5")
    assert ended.returncode == 2
    assert "--any-day" in ended.stderr


# -- claims of many days


def test_making_partitions_keeps_the_pulse_and_ends_when_told_to(archive: Archive, writer: Writer) -> None:
    claim = [on(day, day) for day in range(40)]
    beats = threading.Semaphore(0)

    class ToldToStop(Exception):
        pass

    def alive() -> None:
        beats.release()
        if archive.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdrs'::regclass") == 10:
            raise ToldToStop

    batch_id = new_id()
    with pytest.raises(ToldToStop):
        writer.write(batch(claim, batch_id), alive)
    assert archive.value("SELECT count(*) FROM load_batches") == 0
    assert beats._value >= 10

    assert writer.write(batch(claim, batch_id)) == Books(claimed=40, inserted=40)
    archive.assert_books_balance()


def test_while_one_list_makes_partitions_another_loads(archive: Archive, writer: Writer) -> None:
    load(archive, cdr("there"))
    loaded: list[Books] = []

    def alive() -> None:
        if not loaded:
            load(archive, cdr("meanwhile"), on(500, "on a day of its own"))
            loaded.append(Books())

    assert writer.write(batch([on(day, day) for day in range(1, 20)]), alive) == Books(claimed=19, inserted=19)
    assert archive.value("SELECT count(*) FROM cdrs") == 22


def test_a_claim_of_many_days_is_merged_as_one_of_few(archive: Archive, database_url: str) -> None:
    dice = random.Random(3)
    days = range(75)
    calls = [on(day, f"{day}-{n}") for day in days for n in range(2)]
    changed = [on(day, f"{day}-0", call_time=version) for day in days for version in (1, 2)]
    dice.shuffle(calls)

    def load_all(seed: int) -> Books | None:
        messages = [*calls]
        random.Random(seed).shuffle(messages)
        with engine(database_url) as connections:
            return Writer(connections).write(batch(messages))

    books = [each for each in at_once(*(partial(load_all, seed) for seed in range(3))) if each]
    assert sum(each.inserted for each in books) == 150
    with engine(database_url) as connections:
        assert Writer(connections).write(batch(changed)) == Books(claimed=150, updated=150)

    assert archive.value("SELECT count(*) FROM cdr_revisions") == 150
    final = archive.rows("SELECT call_time, count(*) AS n FROM cdrs GROUP BY call_time ORDER BY 1")
    assert [tuple(each.values()) for each in final] == [(2, 75), (41, 75)]
    archive.assert_books_balance()
