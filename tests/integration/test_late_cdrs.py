"""CDRs that come when their day is in the lake already, or in the lake only: the next revision has them, and all that
the one before it had. It's the most dangerous way of a row, so what must come out is what would have come out if
Postgres had never forgotten anything."""

import itertools
import pkgutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etl.app.lake import open_lake, sweep_lake
from etl.jobs.lake import Lake
from etl.jobs.sweep import Swept
from etl.store.ledger import Books
from etl.store.writer import Writer
from tests.budget import examples
from tests.faults.gate import closed_gate
from tests.lake import (
    CALLS,
    DAY,
    SPOOL,
    assert_agrees,
    assert_comes_right,
    export,
    export_all,
    export_and_prune,
    file,
    heard,
    in_file,
    in_postgres,
    lake,
    load,
    on,
    prune,
    refs,
    restore,
    revision,
    revisions,
    rows_of,
    said_in_the_footer,
    told,
    with_lake,
    without_traces,
)
from tests.store import at_once, write
from tests.world import CAMPAIGNS, DIALED_AT, Archive, api_cdr, cdr, eventually


@pytest.fixture(autouse=True)
def folder(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")


def call_times(archive: Archive, day: date = DAY) -> dict[str, Any]:
    return {row["call_ref"]: row["call_time"] for row in in_file(archive, day)}


# -- what a late CDR does


def test_given_an_exported_day_then_the_next_revision_has_a_late_cdr(archive: Archive) -> None:
    load(archive, cdr(1))
    assert export(archive).revision == 1
    assert export(archive).what == "unchanged"
    load(archive, cdr(2))
    assert export(archive).revision == 2
    assert refs(in_file(archive)) == ["1", "2"]
    assert [said_in_the_footer(file(archive))[name] for name in ("revision", "rows", "entries")] == [2, 2, 2]
    assert_agrees(archive)


LATE: dict[str, tuple[list[list[bytes]], dict[str, int], list[str]]] = {
    # The claims, every call's call_time in the end, the versions that were replaced
    "a new call": ([[cdr(9)]], {"1": 41, "2": 7, "9": 41}, []),
    "a contradiction": ([[cdr(1, call_time=5)]], {"1": 5, "2": 7}, ["1 41"]),
    "two contradictions in one claim": (
        [[cdr(1, call_time=5), cdr(1, call_time=6)]],
        {"1": 6, "2": 7},
        ["1 41", "1 5"],
    ),
    "two contradictions": ([[cdr(1, call_time=5)], [cdr(1, call_time=6)]], {"1": 6, "2": 7}, ["1 41", "1 5"]),
    "there and back again": ([[cdr(1, call_time=5)], [cdr(1)]], {"1": 41, "2": 7}, ["1 5"]),
    "a completion": ([[cdr(1, hold_time=5, note="x")]], {"1": 41, "2": 7}, []),
    "the other dialect": ([[api_cdr(1)]], {"1": 41, "2": 7}, []),
    "nothing new": ([[cdr(1)], [cdr(2, call_time=7)]], {"1": 41, "2": 7}, []),
    "all of it": ([[cdr(9), cdr(1, call_time=5)], [api_cdr(2)], [cdr(9)]], {"1": 5, "2": 7, "9": 41}, ["1 41"]),
}


@pytest.mark.parametrize("late", LATE)
def test_given_a_dropped_day_if_this_is_late_then_the_file_has_all(archive: Archive, late: str) -> None:
    claims, expected, replaced = LATE[late]
    load(archive, cdr(1), cdr(2, call_time=7))
    export_and_prune(archive)

    for claim in claims:
        load(archive, *claim)
    outcome = export(archive)

    assert (outcome.what, outcome.revision) == ("exported", 2)
    assert call_times(archive) == expected
    assert archive.rows("SELECT call_ref || ' ' || call_time AS was FROM cdr_revisions ORDER BY 1") == [
        {"was": was} for was in replaced
    ]
    assert_agrees(archive)
    archive.assert_books_balance()
    assert prune(archive).what == "dropped"
    assert call_times(archive) == expected
    assert_agrees(archive)


def test_given_a_dropped_day_restored_among_late_cdrs_then_nothing_is_lost(
    archive: Archive,
) -> None:
    load(archive, cdr(1), cdr(2))
    export_and_prune(archive)
    load(archive, cdr(2, call_time=5), cdr(3))
    assert restore(archive).rows == 2 - 1  # one of the two had come again, meanwhile
    assert restore(archive).why == "nothing was missing"
    assert refs(in_postgres(archive)) == ["1", "2", "3"]
    assert_comes_right(archive)
    assert call_times(archive) == {"1": 41, "2": 5, "3": 41}


def test_given_a_dropped_day_of_events_if_more_come_then_none_is_lost(
    archive: Archive,
) -> None:
    load(archive, *map(heard, (1, 2, 3)), key=SPOOL)
    export_and_prune(archive, dataset="audit_events")
    old = in_file(archive, dataset="audit_events")
    for late in ((2, 4), (3, 3), (5,)):
        load(archive, *map(heard, late), key=SPOOL)

    assert export(archive, dataset="audit_events").revision == 2

    found = in_file(archive, dataset="audit_events")
    assert [row for row in found if row in old] == old
    assert len(found) == 5
    assert_agrees(archive)
    archive.assert_books_balance()


# -- against a model: the next day, to which the same happens, and which is never exported

calls = st.builds(
    lambda api, number, fields: (api, number, fields),
    st.booleans(),
    st.integers(1, 3),
    st.fixed_dictionaries(
        {},
        optional={
            "call_time": st.sampled_from([0, 7, 41]),
            "hold_time": st.sampled_from([1, 2]),
            "end_reason": st.sampled_from(["callee_hungup", "no_answer"]),
            "note": st.sampled_from([None, "x", "y"]),
            "other": st.sampled_from([1, [2], {"three": 3}]),
        },
    ),
)
steps = st.lists(
    st.one_of(st.lists(calls, min_size=1, max_size=4), st.sampled_from(["export", "prune", "restore"])),
    min_size=2,
    max_size=10,
)
pairs_of_days = itertools.count(1)


def message(call: tuple[bool, int, dict[str, Any]], day: date) -> bytes:
    is_api, number, fields = call
    seconds = DIALED_AT + (day - DAY).days * 86_400
    if is_api:
        # A fraction, which the other dialect doesn't know.
        at = {name: f"{day} 21:06:{second}.354 +0000" for name, second in (("dialed_at", "00"), ("ended_at", "56"))}
        unset = {"callee_answered_at": None, "agent_answered_at": None}
        return api_cdr(number, **at, **unset, **fields)
    return cdr(number, dialed_at=seconds, **{"call_time": None, **fields})


def shifted(rows: list[dict[str, Any]], by: timedelta) -> list[dict[str, Any]]:
    times = ("dialed_at", "answered_at", "connected_at", "ended_at")
    return [
        {name: value + by if name in times and value is not None else value for name, value in row.items()}
        for row in without_traces(rows)
    ]


A, B = (False, 1, {"call_time": 7}), (True, 1, {"call_time": 41, "note": "x"})


@example(taken=[[A], "export", "prune", [B], [A], "export"])
@example(taken=[[B, A], "export", "prune", [A], "restore", [B], "prune", [A, B]])
@settings(max_examples=examples(0.08), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(taken=steps)
def test_whatever_is_dropped_in_between_the_file_ends_the_same(
    archive: Archive, writer: Writer, opened: Lake, taken: list[Any]
) -> None:
    number = next(pairs_of_days)
    dropped = DAY + timedelta(days=2 * number)
    model = dropped + timedelta(days=1)
    said: set[tuple[str, Any]] = set()
    never_lost: set[str] = set()

    for step in [*taken, "export"]:
        if step == "export":
            opened.export(CALLS, dropped, told)
        elif step == "prune":
            opened.prune(CALLS, dropped)
        elif step == "restore":
            if file(archive, dropped).exists():
                opened.restore(CALLS, dropped, told)
        else:
            write(writer, *(message(call, dropped) for call in step), *(message(call, model) for call in step))
            said |= {(str(n), fields["call_time"]) for _, n, fields in step if fields.get("call_time") is not None}
        in_the_file = set(refs(in_file(archive, dropped)))
        assert never_lost <= in_the_file
        never_lost = in_the_file

    assert shifted(in_file(archive, dropped), timedelta(days=1)) == without_traces(in_postgres(archive, model))
    replaced = archive.rows("SELECT call_ref, call_time FROM cdr_revisions WHERE dialed_on = %s", dropped)
    assert said <= {(row["call_ref"], row["call_time"]) for row in [*in_file(archive, dropped), *replaced]}
    for books in opened.books(CALLS, dropped, dropped):
        assert books.rows == len(in_file(archive, dropped))
        found = opened.verify(CALLS, dropped, deep=True)
        assert (found.wrong, found.notes) == ([], [])


@pytest.fixture
def opened(archive: Archive, folder: None) -> Iterator[Lake]:
    with lake(archive) as each:
        yield each


# -- at once


@contextmanager
def amid(
    monkeypatch: pytest.MonkeyPatch, place: str, do: Callable[[], object], after: bool = False
) -> Iterator[list[object]]:
    """The first time that this function is called, something else happens before it, or after it. What came of it is
    the only member of the list."""
    happened: list[object] = []
    owner, _, name = place.rpartition(".")
    original = getattr(pkgutil.resolve_name(owner), name)

    def wrapped(*arguments: Any, **more: Any) -> Any:
        first = not happened
        if first and not after:
            happened.append(do())
        result = original(*arguments, **more)
        if first and after:
            happened.append(do())
        return result

    with monkeypatch.context() as patch:
        patch.setattr(place, wrapped)
        yield happened
    assert len(happened) == 1, f"nobody came to {place}"


@pytest.mark.parametrize("other", [export, prune, restore])
def test_while_a_day_is_exported_nobody_else_exports_prunes_or_restores_it(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, other: Callable[[Archive], Any]
) -> None:
    load(archive, cdr(1))
    export(archive)
    load(archive, cdr(2))
    with amid(monkeypatch, "etl.lake.target.Target.publish", lambda: other(archive)) as happened:
        assert export(archive).what == "exported"
    (outcome,) = happened
    assert outcome.what == "busy"  # type: ignore[attr-defined]
    assert_agrees(archive)


def sweep(archive: Archive) -> Swept:
    """As the hourly job does that keeps no history."""
    settings = archive.settings(lake_history_days=0)
    with open_lake(settings) as opened:
        return sweep_lake(settings, opened)


@pytest.mark.parametrize(
    "step",
    [
        "etl.lake.export.write",
        "etl.store.days.Day.enter",
        "etl.lake.target.Target.publish",
        "etl.store.days.Day.confirm",
        "etl.lake.target.Target.copy",
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_while_a_day_is_exported_a_sweeper_takes_others_revisions_only(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    for day in range(2):
        load(archive, on(day, 1))
        export(archive, DAY + timedelta(days=day))
        load(archive, on(day, 2))
    other = DAY + timedelta(days=1)
    export(archive, other)
    gone = revisions(archive, other)[0]
    names = [str(path.relative_to(gone.parents[3])) for path in (gone.with_suffix(".json"), gone)]
    with amid(monkeypatch, step, lambda: sweep(archive), after) as happened:
        assert export(archive).what == "exported"
    assert happened == [Swept(removed=names)]
    assert len(revisions(archive)) == 2
    assert_agrees(archive)


@pytest.mark.parametrize("other", [export, restore])
def test_while_a_day_is_pruned_nobody_else_exports_or_restores_it(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, other: Callable[[Archive], Any]
) -> None:
    load(archive, cdr(1))
    export(archive)
    with amid(monkeypatch, "etl.store.days.Day.drop", lambda: other(archive)) as happened:
        assert prune(archive).what == "dropped"
    (outcome,) = happened
    assert outcome.what == "busy"  # type: ignore[attr-defined]
    assert_agrees(archive)


def test_two_exporters_that_start_together_make_one_revision(archive: Archive) -> None:
    load(archive, *(cdr(n) for n in range(50)))
    outcomes = at_once(lambda: export(archive), lambda: export(archive))
    assert sorted(outcome.what for outcome in outcomes) in (["busy", "exported"], ["exported", "unchanged"])
    assert revision(archive)["revision"] == 1
    assert_agrees(archive)


@pytest.mark.parametrize("late", [cdr(2), cdr(1, call_time=5), cdr(1, hold_time=3)], ids=["new", "other", "more"])
def test_if_a_row_arrives_between_verification_and_drop_then_the_day_stays(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, late: bytes
) -> None:
    load(archive, cdr(1))
    export(archive)
    with amid(monkeypatch, "etl.lake.witness.compare", lambda: load(archive, late), after=True):
        outcome = prune(archive)
    assert (outcome.what, outcome.why) == ("kept", "something arrived meanwhile")
    assert "1" in refs(in_postgres(archive))
    assert prune(archive).why == "changed since its last export"
    assert_comes_right(archive)
    assert revision(archive)["revision"] == 2


def test_if_a_loader_is_about_to_commit_into_the_day_then_it_stays(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.store.days._DROP_WAIT_MS", 100)
    load(archive, cdr(1))
    export(archive)
    archive.push(cdr(2))
    with ThreadPoolExecutor() as pool, closed_gate(archive) as gate:
        loading = pool.submit(archive.load)
        gate.wait_for(arrivals=1)
        assert prune(archive).what == "kept"
        gate.open()
        loading.result()
    assert refs(in_postgres(archive)) == ["1", "2"]
    assert_comes_right(archive)


def test_if_a_loader_commits_while_the_pruner_waits_then_the_day_stays(archive: Archive) -> None:
    load(archive, cdr(1))
    export(archive)
    archive.push(cdr(2))
    with ThreadPoolExecutor() as pool, closed_gate(archive) as gate:
        loading = pool.submit(archive.load)
        gate.wait_for(arrivals=1)
        pruning = pool.submit(prune, archive)
        eventually(lambda: somebody_waits(archive) or pruning.done())
        gate.open()
        loading.result()
        assert pruning.result().what == "kept"
    assert refs(in_postgres(archive)) == ["1", "2"]
    assert_comes_right(archive)


def test_a_loader_that_waits_for_the_drop_loads_into_the_day_anew(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(archive, cdr(1))
    export(archive)
    archive.push(cdr(2), cdr(1, call_time=5))
    with ThreadPoolExecutor() as pool:
        loading: list[Any] = []

        def begin_to_load() -> None:
            loading.append(pool.submit(archive.load))
            eventually(lambda: somebody_waits(archive))

        with amid(monkeypatch, "etl.store.partitions.drop", begin_to_load, after=True):
            assert prune(archive).what == "dropped"
        assert loading[0].result().inserted == 2
    assert_comes_right(archive)
    assert call_times(archive) == {"1": 5, "2": 41}


# In their order: aside, before, within and after the transaction that brings the day back, and then the export's own.
MOMENTS = (
    "etl.store.partitions.ensure",
    "etl.lake.restore.bring",
    "etl.store.days.Day.load_back",
    "etl.lake.export.write",
    "etl.lake.target.Target.publish",
)


@pytest.mark.parametrize(
    ("moment", "after"), [*((moment, False) for moment in MOMENTS), (MOMENTS[2], True), (MOMENTS[-1], True)]
)
def test_while_a_dropped_day_is_exported_no_late_cdr_is_lost_or_doubled(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, moment: str, after: bool
) -> None:
    load(archive, cdr(1), cdr(2), cdr(3))
    export_and_prune(archive)
    load(archive, cdr(1, call_time=5))
    later = (cdr(1, call_time=6), cdr(2, call_time=7), cdr(4), on(1, 1), on(2, 1))

    with amid(monkeypatch, moment, lambda: load(archive, *later), after):
        assert export(archive).what == "exported"

    assert set(refs(in_file(archive))) >= {"1", "2", "3"}
    assert_comes_right(archive)
    archive.assert_books_balance()
    assert call_times(archive) == {"1": 6, "2": 7, "3": 41, "4": 41}
    assert [len(in_file(archive, DAY + timedelta(days=n))) for n in (1, 2)] == [1, 1]


def test_a_loader_that_comes_amid_a_restore_waits_and_finds_the_whole_day(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(archive, cdr(1), cdr(2, hold_time=9))
    export_and_prune(archive)
    load(archive, cdr(1, call_time=5))
    archive.push(cdr(2, call_time=7), cdr(3))
    with ThreadPoolExecutor() as pool:
        loading: list[Future[Books]] = []

        def begin_to_load() -> None:
            loading.append(pool.submit(archive.load))
            eventually(lambda: somebody_waits(archive) or loading[0].done())

        # The newer versions have stepped aside, and the older ones aren't there yet.
        with amid(monkeypatch, "etl.store.load_back._insert_into", begin_to_load):
            assert restore(archive).what == "restored"
        books = loading[0].result()
    assert (books.inserted, books.updated) == (1, 1)
    assert_comes_right(archive)
    assert call_times(archive) == {"1": 5, "2": 7, "3": 41}
    assert {row["call_ref"]: row["hold_time"] for row in in_file(archive)}["2"] == 9


def somebody_waits(archive: Archive) -> bool:
    return bool(
        archive.value(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    )


def test_while_a_loader_runs_export_prune_and_restore_lose_nothing(
    archive: Archive,
) -> None:
    """Calls of three days, each told four times with another call_time, to a real loader; the lake has no rest."""
    archive.more = {**archive.more, "batch_size": 10, "linger_ms": 1}
    days = [DAY + timedelta(days=n) for n in range(3)]
    messages = [on(n, ref, call_time=time) for time in range(4) for ref in range(10) for n in range(3)]
    seen: dict[date, set[str]] = {day: set() for day in days}
    done = threading.Event()

    def push() -> None:
        for number in range(0, len(messages), 10):
            archive.push(*messages[number : number + 10])
            eventually(lambda: archive.redis.llen(CAMPAIGNS) == 0)
        done.set()

    with archive.process("run", "--follow", "--no-listen") as loader, ThreadPoolExecutor() as pool, lake(archive) as at:
        pushing = pool.submit(push)
        while not done.is_set() and not pushing.done():
            for day in days:
                at.export(CALLS, day, told)
                at.prune(CALLS, day)
                found = set(refs(in_file(archive, day)))
                assert seen[day] <= found
                seen[day] = found
        pushing.result()
        eventually(lambda: not archive.claims())
        loader.terminate()
        assert loader.wait(30) == 0
    export_all(archive)
    assert_agrees(archive)
    for day in days:
        assert call_times(archive, day) == {str(ref): 3 for ref in range(10)}
    told_times = "SELECT count(DISTINCT (call_ref, call_time)) FROM cdr_revisions WHERE dialed_on = %s"
    assert {archive.value(told_times, day) for day in days} == {30}  # all versions but the last


def test_a_reader_finds_one_whole_revision_at_any_moment(archive: Archive) -> None:
    load(archive, cdr(0))
    export(archive)
    stop = threading.Event()

    def read() -> set[int]:
        found = set()
        while not stop.is_set():
            rows, said = rows_of(file(archive))
            assert len(rows) == said["rows"] == said["revision"]
            found.add(len(rows))
        return found

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        try:
            for number in range(1, 6):
                load(archive, cdr(number))
                assert export(archive).revision == number + 1
        finally:
            stop.set()
        assert len(reading.result()) > 1
