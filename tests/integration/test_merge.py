"""Promise 4: what a CDR does to the stored one of the same call. A CDR with more fields completes the row, one that
contradicts it replaces values and leaves the version before in `cdr_revisions`, and nothing is ever taken away."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etl.ids import new_id
from etl.store.ledger import Books
from etl.store.writer import Writer
from tests.budget import examples
from tests.store import batch, engine, write
from tests.world import DIALED_AT, Archive, api_cdr, cdr, eventually

pytestmark = pytest.mark.versions

DIALED_AT_EXACTLY = "2015-02-19T23:06:00.354+02:00"  # DIALED_AT with a fraction

numbers = itertools.count(1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def without_traces(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says about the call, and not about its loading."""
    return {name: value for name, value in row.items() if name not in ("batch_id", "loaded_at")}


# -- both dialects


@pytest.mark.parametrize("together", [True, False], ids=["in one claim", "one claim each"])
@pytest.mark.parametrize("order", ["AB", "BA", "ABAB", "BABA", "AABB", "BBAA", "ABBA"])
def test_given_both_dialects_in_any_order_then_the_row_is_the_same(
    archive: Archive, writer: Writer, order: str, together: bool
) -> None:
    dialects = {"A": cdr(88, hold_time=4, note="x"), "B": api_cdr(88, dialed_at=DIALED_AT_EXACTLY, ref=None)}
    messages = [dialects[letter] for letter in order]
    claims = [messages] if together else [[message] for message in messages]

    books = [write(writer, *claim) for claim in claims]

    assert without_traces(archive.cdr(88)) == {
        "dialed_on": datetime(2015, 2, 19).date(),
        "source": "dialler",
        "call_ref": "88",
        "leg": 0,
        "dialed_at": at(DIALED_AT_EXACTLY),
        "answered_at": at("2015-02-19T21:06:12Z"),
        "connected_at": at("2015-02-19T21:06:15Z"),
        "ended_at": at("2015-02-19T21:06:56Z"),
        "call_time": 41,
        "hold_time": 4,
        "ring_time": None,
        "call_dir": "outbound",
        "extension": "1002",
        "number": "0741484437",
        "dial_number": "0126543210",
        "campaign_ref": "2040",
        "contact_ref": "M0042",
        "end_reason": "callee_hungup",
        "end_code": 16,
        "recording_url": "ftp://pbx/2015/02/19/88.wav",
        "uuid": "2b1cc7c0-9a6f-4e2e-8f51-5a3f7e0b2a11",
        "extra": {"note": "x"},
    }
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0, "the dialects don't contradict each other"
    total = sum(filter(None, books), Books())
    assert total == Books(claimed=len(order), inserted=1, updated=1, unchanged=len(order) - 2)
    archive.assert_books_balance()


def test_given_two_systems_with_the_same_call_ref_then_they_are_two_calls(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(88))
    writer.write(batch([cdr(88, call_time=5)], source="click2dial"))

    assert archive.value("SELECT array_agg(call_time ORDER BY source DESC) FROM cdrs") == [41, 5]
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0


# -- one field after the other


def test_given_more_fields_then_the_row_is_completed_not_superseded(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(88, extension=None, recording_url=None))
    before = archive.cdr(88)
    batch_id = new_id()

    assert write(writer, cdr(88, hold_time=3, note="x"), batch_id=batch_id) == Books(claimed=1, updated=1)

    after = archive.cdr(88)
    added = {
        "extension": "1002",
        "recording_url": "ftp://pbx/2015/02/19/88.wav",
        "hold_time": 3,
        "extra": {"note": "x"},
    }
    assert without_traces(after) == without_traces(before) | added
    assert (after["batch_id"], after["loaded_at"] > before["loaded_at"]) == (batch_id, True)
    assert archive.value("SELECT count(*) FROM cdr_revisions") == 0


def test_given_fewer_fields_then_nothing_is_taken_away(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(88, hold_time=3, note="x"), api_cdr(88))
    before = archive.cdr(88)
    bare = {"type": "cdr", "payload": {"call_ref": "88", "dialed_at": DIALED_AT, "extension": None, "note": None}}

    assert write(writer, json.dumps(bare).encode()) == Books(claimed=1, unchanged=1)
    assert archive.cdr(88) == before


def test_given_a_contradiction_then_the_whole_version_before_is_kept(archive: Archive, writer: Writer) -> None:
    write(writer, cdr(88, hold_time=3, ring_time=9, note="x"), api_cdr(88, dialed_at=DIALED_AT_EXACTLY))
    before = archive.cdr(88)
    assert None not in before.values()
    batch_id = new_id()

    assert write(writer, cdr(88, end_reason="agent_hungup"), batch_id=batch_id) == Books(claimed=1, updated=1)

    (revision,) = archive.rows("SELECT * FROM cdr_revisions")
    assert revision | before == revision, "every column of the version before"
    assert revision["replaced_by"] == batch_id
    after = archive.cdr(88)
    assert without_traces(after) == without_traces(before) | {"end_reason": "agent_hungup"}
    assert (after["batch_id"], revision["replaced_at"]) == (batch_id, after["loaded_at"])


@pytest.mark.parametrize(
    ("stored", "said", "left", "kept"),
    [
        ({"x": 1}, {"y": 2}, {"x": 1, "y": 2}, False),
        ({"x": 1}, {"x": 1.0}, {"x": 1}, False),
        ({"x": 1}, {"x": 2}, {"x": 2}, True),
        ({"x": 1, "z": 0}, {"x": 2, "y": 3}, {"x": 2, "y": 3, "z": 0}, True),
        ({"x": {"a": 1}}, {"x": {"b": 2}}, {"x": {"b": 2}}, True),
        ({"x": {"a": 1, "b": None}}, {"x": {"b": None, "a": 1}}, {"x": {"a": 1, "b": None}}, False),
        ({"x": 1}, {"x": None}, {"x": 1}, False),
        ({"x": None}, {"x": 1}, {"x": 1}, False),
        ({"x": 1}, {"y": None}, {"x": 1, "y": None}, False),
        ({"x": False}, {"x": None, "y": 1}, {"x": False, "y": 1}, False),
        ({}, {"x": None}, {"x": None}, False),
        ({"x": None}, {}, {"x": None}, False),
    ],
)
def test_given_undocumented_fields_then_they_are_merged_one_by_one(
    archive: Archive, writer: Writer, stored: dict[str, Any], said: dict[str, Any], left: dict[str, Any], kept: bool
) -> None:
    write(writer, cdr(88, **stored))

    write(writer, cdr(88, **said))

    assert archive.cdr(88)["extra"] == left
    assert [row["extra"] for row in archive.rows("SELECT extra FROM cdr_revisions")] == ([stored] if kept else [])


@pytest.mark.parametrize(
    ("stored", "said", "left", "kept"),
    [
        ("21:06:56Z", "21:06:56.25Z", "21:06:56.25Z", False),
        ("21:06:56.25Z", "21:06:56Z", "21:06:56.25Z", False),
        ("21:06:56.25Z", "23:06:56.25+02:00", "21:06:56.25Z", False),
        ("21:06:56.25Z", "21:06:56.5Z", "21:06:56.5Z", True),
        ("21:06:56Z", "21:06:57Z", "21:06:57Z", True),
        ("21:06:56Z", "21:06:57.25Z", "21:06:57.25Z", True),
        ("21:06:57.25Z", "21:06:56Z", "21:06:56Z", True),
    ],
)
def test_given_a_time_to_the_second_then_it_agrees_with_its_fractions_only(
    archive: Archive, writer: Writer, stored: str, said: str, left: str, kept: bool
) -> None:
    write(writer, api_cdr(88, ended_at=f"2015-02-19T{stored}"))

    write(writer, api_cdr(88, ended_at=f"2015-02-19T{said}"))

    assert archive.cdr(88)["ended_at"] == at(f"2015-02-19T{left}")
    assert archive.value("SELECT count(*) FROM cdr_revisions") == kept


# -- any CDRs at all, held against a model


def _maybe(*values: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *values])


versions = st.fixed_dictionaries(
    {"dialed_at": st.sampled_from([f"2015-02-19T21:06:{second}Z" for second in ("00", "00.25", "00.5", "07", "10.5")])},
    optional={
        "extension": _maybe("1001", "1002"),
        "contact_ref": _maybe("", "M0042"),
        "hold_time": _maybe(0, 1),
        "ended_at": _maybe("2015-02-19T21:07:00Z", "2015-02-19T21:07:00.25Z", "2015-02-19T21:08:00Z"),
        "x": _maybe(1, 2, False),
        "y": _maybe({"a": None}, [1]),
    },
)
TIMES = ("dialed_at", "ended_at")
COLUMNS = ("extension", "contact_ref", "hold_time", *TIMES)


class Model:
    """One call's row and its revisions, by the rules as docs/design.md has them."""

    def __init__(self) -> None:
        self.row: dict[str, Any] | None = None
        self.extra: dict[str, Any] = {}
        self.batch_id = UUID(int=0)
        # What lost, in the order of loading: the version, its claim, the claim that won.
        self.revisions: list[tuple[dict[str, Any], dict[str, Any], UUID, UUID]] = []

    def take(self, version: dict[str, Any], batch_id: UUID) -> str:
        said = {name: version.get(name) for name in COLUMNS}
        said |= {name: at(version[name]) for name in TIMES if version.get(name)}
        undocumented = {name: value for name, value in version.items() if name not in COLUMNS}
        if self.row is None:
            self.row, self.extra, self.batch_id = said, undocumented, batch_id
            return "inserted"

        is_older = batch_id < self.batch_id
        row, extra, contradicts = dict(self.row), dict(self.extra), False
        for name, new in said.items():
            row[name], conflict = _meet(name, row[name], new, is_older)
            contradicts |= conflict
        for name, new in undocumented.items():
            old = extra.get(name)
            contradicts |= None not in (old, new) and old != new
            if name not in extra or (new is not None and (old is None or not is_older)):
                extra[name] = new
        if contradicts:
            if is_older:
                self.revisions.append((said, undocumented, batch_id, self.batch_id))
            elif (row, extra) != (self.row, self.extra):
                self.revisions.append((self.row, self.extra, self.batch_id, batch_id))
        if (row, extra) == (self.row, self.extra):
            return "unchanged"
        self.row, self.extra, self.batch_id = row, extra, max(batch_id, self.batch_id)
        return "updated"


def _meet(name: str, old: Any, new: Any, is_older: bool) -> tuple[Any, bool]:
    """What the field is then, and whether the two contradict each other."""
    if old is None or new is None or old == new:
        return (new if old is None else old), False
    if name == "dialed_at" and abs(old - new) <= timedelta(seconds=10):
        second = min(old, new).replace(microsecond=0)
        in_it = [each for each in (old, new) if each.replace(microsecond=0) == second]
        return min(in_it, key=lambda each: (each.microsecond == 0, each)), False
    if name == "ended_at" and old in (new, new.replace(microsecond=0)):
        return new, False
    if name == "ended_at" and new == old.replace(microsecond=0):
        return old, False
    return (old if is_older else new), True


@settings(max_examples=examples(0.8), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    claims=st.lists(st.lists(versions, min_size=1, max_size=5), min_size=1, max_size=3),
    committed=st.permutations(range(3)),
)
@example(
    claims=[[{"dialed_at": "2015-02-19T21:06:00Z", "x": 1}], [{"dialed_at": "2015-02-19T21:06:00Z", "x": None}]],
    committed=[0, 1, 2],
)
def test_given_any_cdrs_of_a_call_then_row_and_revisions_follow_the_rules(
    archive: Archive, writer: Writer, claims: list[list[dict[str, Any]]], committed: list[int]
) -> None:
    call_ref, model = str(next(numbers)), Model()
    batch_ids = sorted(new_id() for _ in claims)
    for number in (each for each in committed if each < len(claims)):
        claim, batch_id = claims[number], batch_ids[number]
        # A verbatim repetition says nothing.
        news = [each for each, before in zip(claim, [None, *claim], strict=False) if each != before]
        outcomes = [model.take(version, batch_id) for version in news] + ["unchanged"] * (len(claim) - len(news))
        messages = [json.dumps({"type": "cdr", "payload": {"call_ref": call_ref, **v}}).encode() for v in claim]
        counts = {outcome: outcomes.count(outcome) for outcome in ("inserted", "updated", "unchanged")}

        assert write(writer, *messages, batch_id=batch_id) == Books(claimed=len(claim), **counts)

    row = archive.cdr(call_ref)
    assert {name: row[name] for name in COLUMNS} == model.row
    assert (row["extra"] or {}, row["batch_id"]) == (model.extra, model.batch_id)
    kept = archive.rows("SELECT * FROM cdr_revisions WHERE call_ref = %s ORDER BY id", call_ref)
    assert [
        ({name: row[name] for name in COLUMNS}, row["extra"] or {}, row["batch_id"], row["replaced_by"]) for row in kept
    ] == model.revisions


# -- speed

# Which partitions the transaction holds a lock on when it enters its claim into the ledger: those that it planned for.
WATCH_LOCKS = """
CREATE TABLE locked (name text);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO locked SELECT DISTINCT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation
    WHERE pid = pg_backend_pid() AND starts_with(relname, 'cdrs_2') AND relkind = 'r';
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER INSERT ON load_batches FOR EACH ROW EXECUTE FUNCTION watch();
"""
FIGURES = """
SELECT relname, seq_scan, coalesce(idx_scan, 0) AS idx_scan, n_tup_ins, n_tup_upd FROM pg_stat_user_tables
WHERE starts_with(relname, 'cdrs_2') ORDER BY relname
"""


@pytest.mark.parametrize("analyzed", [True, False], ids=["with statistics", "without"])
def test_given_large_days_then_merging_probes_keys_of_these_days_only(archive: Archive, analyzed: bool) -> None:
    days = [DIALED_AT + day * 86_400 for day in range(8)]
    with engine(archive.database_url) as connections:
        for day in days:
            write(Writer(connections), *(cdr(n, dialed_at=day) for n in range(15_000 if day in days[-2:] else 500)))
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute(WATCH_LOCKS)
        if analyzed:
            connection.execute("ANALYZE cdrs")
    eventually(lambda: sum(row["n_tup_ins"] for row in archive.rows(FIGURES)) == 33_000)
    before = archive.rows(FIGURES)

    with engine(archive.database_url) as connections:  # when a session ends, its figures are told
        other_versions = [cdr(n, dialed_at=day, call_time=9) for day in days[-2:] for n in range(2_500)]
        assert write(Writer(connections), *other_versions) == Books(claimed=5_000, updated=5_000)

    eventually(lambda: sum(row["n_tup_upd"] for row in archive.rows(FIGURES)) == 5_000)
    after = archive.rows(FIGURES)
    assert [row["seq_scan"] for row in after] == [row["seq_scan"] for row in before], "no day was read as a whole"
    asked = [old["relname"] for old, new in zip(before, after, strict=True) if old["idx_scan"] != new["idx_scan"]]
    locked = [row["name"] for row in archive.rows("SELECT name FROM locked ORDER BY name")]
    assert asked == locked == ["cdrs_20150225", "cdrs_20150226"]
