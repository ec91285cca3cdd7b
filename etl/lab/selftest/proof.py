"""The proof: what the producers sent, compared with Postgres, the lake and Redis, promise by promise. It only reads.

Each verdict has what was to be proved and what was found, with a few examples of what is wrong.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from etl.app.database import engine_of, gaps
from etl.app.lake import open_lake
from etl.errors import LakeError
from etl.lab.selftest import engine
from etl.lab.selftest.calls import CDR_COLUMNS, CDR_TIMES, KnownCall
from etl.lab.selftest.producers import Published, Truth
from etl.lab.selftest.set_backs import SetBack
from etl.lake.datasets import DATASETS
from etl.settings import Settings
from etl.store import connection as store
from etl.store.connection import Engine
from etl.store.sessions import Gap

EXAMPLES = 3  # of what is wrong, in a verdict
BEFORE = timedelta(hours=1)  # gaps are looked for from so long before the first event: no gap is as long

Rows = Iterable[Any]  # each a sequence of columns


class Proof(NamedTuple):
    """`found` has the figures; `ok` is None where nothing can be proved."""

    ok: bool | None
    what: str
    found: str


def verdicts(settings: Settings, truth: Truth, forwarded: Mapping[str, int]) -> Iterator[Proof]:
    """The verdicts on Postgres, the lake and the books, once all is quiet. `forwarded` are the lengths of the
    lists that got a copy of each message, by the list they are copies of."""
    with engine_of(settings) as engine:
        yield in_postgres(engine, truth)
        yield versions_kept(engine, truth)
        yield list_events(engine, truth)
        yield from published(settings, engine, truth)
        yield undecodable_buried(engine, truth)
        yield claims_balance(engine)
        yield messages_claimed(engine, truth)
        yield passed_on(engine, forwarded)
    yield from days_balance(settings)
    yield in_the_lake(settings, truth)
    if settings.lake_table:
        yield in_the_table(settings, truth)


# -- every CDR


def in_postgres(engine: Engine, truth: Truth) -> Proof:
    columns = ", ".join(_IN_POSTGRES.get(name, name) for name in CDR_COLUMNS)
    stored = [day for (day,) in _rows(engine, "SELECT DISTINCT dialed_on FROM cdrs")]

    def rows(day: date) -> Rows:
        return _rows(engine, f"SELECT {columns} FROM cdrs WHERE dialed_on = '{day}'")  # noqa: S608 (our own words)

    return _every_call("every CDR is in Postgres exactly once, each field as it must be", truth, stored, rows)


def in_the_lake(settings: Settings, truth: Truth) -> Proof:
    """As DuckDB reads it, without code of ours."""
    import duckdb  # noqa: PLC0415  (it takes its second)

    folder = Path(settings.export_url) / "cdrs"
    columns = ", ".join(f"epoch_us({name})" if name in CDR_TIMES else name for name in CDR_COLUMNS)
    query = f"SELECT {columns} FROM read_parquet($1, hive_partitioning = true)"  # noqa: S608 (our own words)
    exported = [date.fromisoformat(each.name.partition("=")[2]) for each in sorted(folder.glob("dialed_on=*"))]
    with duckdb.connect() as connection:

        def rows(day: date) -> Rows:
            file = str(folder / f"dialed_on={day}" / "*.parquet")
            return connection.execute(query, [file]).fetchall() if day in exported else []

        return _every_call("every CDR is in the lake exactly once, as DuckDB reads it", truth, exported, rows)


def in_the_table(settings: Settings, truth: Truth) -> Proof:
    """As Polars reads the Iceberg table, from its pointer on."""
    import polars as pl  # noqa: PLC0415  (it takes its second, and isn't everywhere)

    if (location := engine.pointer(settings)) is None:
        return _every_call(_IN_THE_TABLE, truth, [], lambda _: [])
    columns = [pl.col(name).dt.epoch("us") if name in CDR_TIMES else pl.col(name) for name in CDR_COLUMNS]
    table = engine.scan(location).select(columns).collect()

    def rows(day: date) -> Rows:
        found: Rows = table.filter(pl.col("dialed_on") == day).rows()
        return found

    return _every_call(_IN_THE_TABLE, truth, sorted({*table["dialed_on"]}), rows)


_IN_THE_TABLE = "every CDR is in the Iceberg table exactly once, as Polars reads it"
_IN_POSTGRES = {name: f"(extract(epoch FROM {name}) * 1000000)::bigint" for name in CDR_TIMES}
_IN_POSTGRES["extra"] = "extra::text"


def _every_call(what: str, truth: Truth, days: Iterable[date], rows: Callable[[date], Rows]) -> Proof:
    expected: defaultdict[date, dict[tuple[str, str, int], KnownCall]] = defaultdict(dict)
    for call in truth.every_call():
        for leg, (row, *_) in call.legs().items():
            expected[row["dialed_on"]][*call.identity, leg] = call
    total = sum(map(len, expected.values()))
    wrong: defaultdict[str, list[object]] = defaultdict(list)
    for day in sorted({*expected, *days}):
        due = expected[day]
        for row in rows(day):
            found = dict(zip(CDR_COLUMNS, row, strict=True))
            found["extra"] = found["extra"] and json.loads(found["extra"])
            leg = found["leg"]
            call_or_none = due.pop((found["source"], found["call_ref"], leg), None)
            if call_or_none is None:
                wrong["twice or never said"].append(found["call_ref"])
            elif found not in call_or_none.legs()[leg]:
                wrong["with another content"].append(found["call_ref"])
        if due:
            wrong["missing"] += [call.number for call in due.values()]
    return Proof(not wrong, what, f"{total:,} calls and further legs" + _examples(wrong))


def versions_kept(engine: Engine, truth: Truth) -> Proof:
    """Of two versions that contradict each other one is the row, and the other is kept; no others are kept."""
    query = "SELECT source, call_ref, call_time, end_reason FROM cdr_revisions"
    stored = "SELECT source, call_ref, call_time, end_reason FROM cdrs WHERE leg = 0"  # nobody contradicts another
    kept, now = (
        _grouped(_rows(engine, each), lambda row: (row[0], row[1]), lambda row: (row[2], row[3]))
        for each in (query, stored)
    )
    wrong: defaultdict[str, list[object]] = defaultdict(list)
    corrected = 0
    for call in truth.every_call():
        versions = {(row["call_time"], row["end_reason"]) for row in call.legs()[0]}
        known = kept.pop(call.identity, set())
        corrected += call.is_corrected
        if (versions if call.is_corrected else set()) - now.get(call.identity, set()) - known:
            wrong["lost"].append(call.number)
        if known and not (call.is_corrected and known <= versions):
            wrong["never contradicted"].append(call.number)
    if kept:
        wrong["of no call"] += list(kept)
    found = f"{corrected:,} calls were contradicted" + _examples(wrong)
    return Proof(not wrong, "every version that was contradicted is kept, and no other", found)


# -- every event and every message that nobody understands


def list_events(engine: Engine, truth: Truth) -> Proof:
    query = "SELECT payload->>'serial', count(*) FROM audit_events WHERE origin = 'list' GROUP BY 1"
    return _each_once("every event from a list is there, once for each push", truth.events, _rows(engine, query))


def published(settings: Settings, engine: Engine, truth: Truth) -> Iterator[Proof]:
    """No event more than once; and each that Redis confirmed and no listener received was published within a gap."""
    query = "SELECT payload->>'serial', count(*) FROM audit_events WHERE origin = 'pubsub' GROUP BY 1"
    heard: dict[str, int] = dict(_rows(engine, query))
    twice = [serial for serial, n in heard.items() if n > 1 or serial not in truth.published]
    found = f"{len(heard):,} of {len(truth.published):,}" + _examples({"more than once": twice} if twice else {})
    yield Proof(not twice, "no published event is there more than once", found)

    times = truth.published.values()
    since, until = min(each.began for each in times), max(each.ended for each in times)
    known = gaps(settings, since - BEFORE, until + BEFORE)
    missing = {s: each for s, each in truth.published.items() if each.confirmed and s not in heard}
    hidden = [serial for serial, each in missing.items() if not any(_may_be_in(each, gap) for gap in known)]
    seconds = sum(max(0.0, (min(gap.gap_until, until) - max(gap.gap_from, since)).total_seconds()) for gap in known)
    found = f"{len(missing):,} missing; gaps of {seconds:,.1f} s in {(until - since).total_seconds():,.1f} s"
    found += _examples({"outside of every gap": hidden} if hidden else {})
    yield Proof(not hidden, "every published event that is missing lies in a gap that the view tells", found)


def undecodable_buried(engine: Engine, truth: Truth) -> Proof:
    letters = [(bytes(raw), reason) for raw, reason in _rows(engine, "SELECT raw, reason FROM dead_letters")]
    misread = [raw for raw, reason in letters if truth.reasons.get(raw, reason) != reason]
    counted = Counter(raw for raw, _ in letters).items()
    what = "every message that nobody understands is a dead letter, byte for byte, once for each push"
    verdict = _each_once(what, truth.undecodable, counted)
    return verdict._replace(
        ok=verdict.ok and not misread,
        found=verdict.found + _examples({"for another reason": misread} if misread else {}),
    )


def _each_once(what: str, pushed: Mapping[Any, int], found: Rows) -> Proof:
    """At least once, and no more often than it was pushed: a push without an answer may have arrived."""
    there = dict(found)
    wrong = {
        "missing": [key for key in pushed if key not in there],
        "never said": [key for key in there if key not in pushed],
        "too often": [key for key, n in there.items() if n > pushed.get(key, n)],
    }
    wrong = {name: each for name, each in wrong.items() if each}
    return Proof(not wrong, what, f"{len(pushed):,} messages" + _examples(wrong))


# -- the books


def claims_balance(engine: Engine) -> Proof:
    ((total, unbalanced, dead),) = _rows(
        engine,
        "SELECT count(*), count(*) FILTER (WHERE claimed <> inserted + updated + unchanged + events + dead), sum(dead)"
        " FROM load_batches",
    )
    ((letters,),) = _rows(engine, "SELECT count(*) FROM dead_letters")
    found = f"{total:,} claims, {unbalanced:,} unbalanced; {dead or 0:,} dead by the ledger, {letters:,} letters"
    return Proof(not unbalanced and (dead or 0) == letters, "the books of every claim balance", found)


def messages_claimed(engine: Engine, truth: Truth) -> Proof:
    """As many as were confirmed, or up to as many as may have arrived."""
    claimed = dict(_claimed(engine))
    wrong = {
        key: [f"{claimed.get(key, 0):,} claimed, {truth.acknowledged[key]:,} to {truth.attempted[key]:,} pushed"]
        for key in truth.acknowledged
        if not truth.acknowledged[key] <= claimed.get(key, 0) <= truth.attempted[key]
    }
    total, more = truth.acknowledged.total(), truth.attempted.total() - truth.acknowledged.total()
    found = f"{total:,} confirmed, up to {more:,} more without an answer, {sum(claimed.values()):,} claimed"
    return Proof(not wrong, "every message that was pushed was claimed once", found + _examples(wrong))


def passed_on(engine: Engine, forwarded: Mapping[str, int]) -> Proof:
    claimed = dict(_claimed(engine))
    wrong = {
        key: [f"{n:,} instead of {claimed.get(key, 0):,}"] for key, n in forwarded.items() if n != claimed.get(key, 0)
    }
    found = f"{sum(forwarded.values()):,} messages" + _examples(wrong)
    return Proof(not wrong, "every message of a forwarded list was passed on once", found)


def _claimed(engine: Engine) -> list[tuple[str, int]]:
    own = "SELECT source_key, sum(claimed) FROM load_batches WHERE source_key NOT IN ('lake', 'etl:events') GROUP BY 1"
    return [(key, int(n)) for key, n in _rows(engine, own)]


def days_balance(settings: Settings) -> Iterator[Proof]:
    """Each day's rows by the ledger, in Postgres and in the file, counted; and row by row Postgres against the file."""
    unequal: dict[str, list[object]] = {}
    different: dict[str, list[object]] = {}
    number = rows = 0
    with open_lake(settings) as archive:
        for dataset in DATASETS.values():
            for books in archive.books(dataset, date.min, date.max):
                number, rows = number + 1, rows + books.rows
                compared = archive.compare(dataset, books.day)
                if compared.verdict != "equal":
                    sides = f"{compared.ledger}, {compared.postgres}, {compared.lake}: {compared.verdict}"
                    unequal[f"{dataset.name} {books.day}"] = [sides]
                try:
                    if found := archive.verify(dataset, books.day, deep=True).wrong:
                        different[f"{dataset.name} {books.day}"] = [*found]
                except LakeError as error:
                    different[f"{dataset.name} {books.day}"] = [error]
    what = "the books of every day balance: rows by the ledger, in Postgres, in the lake"
    yield Proof(not unequal, what, f"{number} days, {rows:,} rows" + _examples(unequal))
    what = "the lake equals Postgres, compared row by row"
    yield Proof(not different, what, f"{number} files" + _examples(different))


# -- after each set-back


def set_backs(made: Sequence[SetBack]) -> Iterator[Proof]:
    """Of those whose server lacked something that was confirmed."""
    lacked: Counter[str] = sum((Counter(each.lacked) for each in made), Counter())
    lost = {f"{kind} lost": [each.kind for each in made if each.lost.get(kind)] for kind in lacked}
    found = "they lacked " + ", ".join(f"{n:,} {kind}" for kind, n in lacked.items()) if made else "nothing was lacking"
    found = f"{len(made):,} set-backs; {found}" + _examples({kind: each for kind, each in lost.items() if each})
    what = "after every set-back of Postgres all that it had confirmed is there again"
    yield Proof(not any(lost.values()), what, found)

    due = [each for each in made if each.told is not None]
    hidden = [each.kind for each in due if not each.told]
    found = f"{len(due) - len(hidden):,} of {len(due):,}" + _examples({"not reported": hidden} if hidden else {})
    what = "every set-back of what was acknowledged is reported: postgres_set_back in the log, and for `etl status`"
    yield Proof(not hidden, what, found)


# -- the rest


def quiet(left: Iterable[str], forwards: Iterable[str]) -> Proof:
    """Redis has no message, claim or lock left; only the forwarded lists, the time of each list's last claim, what was
    acknowledged, and who heard last."""
    noted = re.compile(":(last|acked|kept(:[^:]*)?|listener:session)$")
    rest = sorted(key for key in {*left} - {*forwards} if not noted.search(key))
    found = "nothing is left" if not rest else _examples({"left": list(rest)}).removeprefix("; ")
    return Proof(not rest, "no message and no claim is left behind in Redis", found)


def _may_be_in(event: Published, gap: Gap) -> bool:
    return gap.gap_from <= event.ended and event.began <= gap.gap_until


def _rows(engine: Engine, query: str) -> list[Any]:
    return store.read(engine, query)[1]


def _grouped(rows: Rows, key: Callable[[Any], Any], value: Callable[[Any], Any]) -> dict[Any, set[Any]]:
    groups: defaultdict[Any, set[Any]] = defaultdict(set)
    for row in rows:
        groups[key(row)].add(value(row))
    return dict(groups)


def _examples(wrong: Mapping[str, Sequence[object]]) -> str:
    return "".join(
        f"; {len(each):,} {name}: {', '.join(map(str, each[:EXAMPLES]))}{' …' if len(each) > EXAMPLES else ''}"
        for name, each in wrong.items()
    )
