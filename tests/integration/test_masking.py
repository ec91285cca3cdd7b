"""Who may not see numbers finds none, whatever the spelling: in no view, no function and no report that `etl_reporting`
may ask, nor by asking for one, in an error or in a plan. What there is to ask is what the database lists."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.reporting.names import Name, keep
from etl.reporting.rollup import refresh
from etl.wire.spool import pack_heard
from etl.wire.times import from_datetime
from tests.lake import SPOOL, load
from tests.store import ROLES, engine
from tests.world import CAMPAIGNS, Archive, cdr

pytestmark = pytest.mark.versions

NUMBER = "07009123456"
DIGITS = "7009123456"
DAY = datetime.now(UTC).date() - timedelta(days=1)
DIALED_AT = int(datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC).timestamp())
FULL_WIDTH = str.maketrans("0123456789+", "０１２３４５６７８９＋")  # noqa: RUF001
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
PERSIAN = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")
PREFIXES = ("0", "+44", "0044", "44", "(0)", "+44 (0) ", "")
# Between the groups of a number.
SEPARATORS = ("", " ", "-", ".", "/", " - ", ") ", "\u00a0", "\u2011", "_", ", ", "\t")


def encoded(text: str) -> str:
    return "".join(f"%{ord(sign):02X}" if sign.isascii() else quote(sign) for sign in text)


WRITINGS = (
    lambda text: text,
    lambda text: text.translate(FULL_WIDTH),
    lambda text: text.translate(ARABIC),
    lambda text: text.translate(PERSIAN),
    encoded,
    lambda text: quote(encoded(text)),
    lambda text: quote(text.translate(FULL_WIDTH), safe=""),
    lambda text: text.replace("9", "%39"),
    lambda text: text.replace("0", "\\u0030"),
)


def spelled(prefix: str, separator: str, writing: int) -> str:
    return WRITINGS[writing](prefix + separator.join(("700", "9123", "456")))


SPELLINGS = [
    *dict.fromkeys(spelled(prefix, separator, 0) for prefix in PREFIXES for separator in SEPARATORS),
    *(spelled(prefix, separator, n) for prefix in ("0", "+44 ") for separator in ("", "-") for n in range(1, 9)),
]


def told(said: str) -> str | None:
    """What of the number is in a text, whatever way it is spelled there: its last seven digits, if they are."""
    for _ in range(3):
        said = re.sub(r"%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), said)
    with suppress(UnicodeError):
        said = said.encode("latin-1").decode()
    said = re.sub(r"\\+u(00[0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), said)
    digits = "".join(str(int(sign)) if sign.isdecimal() else sign for sign in said)
    found = re.search(r"[^0-9A-Za-z]*".join(DIGITS[-7:]), digits)
    return found[0] if found else None


def test_the_test_itself_reads_every_spelling() -> None:
    assert len(SPELLINGS) >= 50
    assert [spelling for spelling in SPELLINGS if not told(f"x{spelling}.wav")] == []
    assert told("******3456 0700 900 123") is None


def as_reporting(archive: Archive) -> "psycopg.Connection[Any]":
    return psycopg.connect(archive.database_url.replace("postgres@", "etl_reporting@"), autocommit=True)


@pytest.fixture
def spelling_everywhere(archive: Archive) -> Archive:
    """Calls and events with the number in every column that a dialler fills, spelled in every way."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    load_spellings(archive, SPELLINGS)
    return archive


def load_spellings(archive: Archive, spellings: list[str]) -> None:
    calls, events = [], []
    for n, text in enumerate(spellings):
        at = {"number": NUMBER, "dialed_at": DIALED_AT + n, "extension": "1002", "end_reason": "hungup"}
        glued = f"20261123070{DIGITS if text == DIGITS else text}.wav"
        calls += [
            cdr(f"a{n}", **at, recording_url=f"ftp://rec/{text}-0.wav", ref=f"Call {text} back", contact_ref=f"M{n}"),
            cdr(f"b{n}x{text}", **at, recording_url=glued, ref="2040", contact_ref=f"C{text}", note=text),
            cdr(
                f"c{n}",
                **at | {"end_reason": f"said {text}"},
                contact_ref=text,
                call_dir=f"in {text}",
                dial_number=text,
            ),
            cdr(f"d{n}", **at | {"number": text}, contact_ref=f"M{n}"),
        ]
        events += [
            event(
                2 * n, "call", call_ref=f"b{n}x{text}", agent="1002", number=NUMBER, campaign_ref=f"Call {text} back"
            ),
            event(2 * n + 1, "status", status=f"busy {text}", campaign_ref=f"Call 0{text} back"),
        ]
    load(archive, *calls, key=CAMPAIGNS)
    load(archive, *events, key=SPOOL)
    with engine(archive.database_url) as connections:
        keep(connections, [*dict.fromkeys(names_of(spellings))])
        refresh(connections, datetime.now(UTC).date() + timedelta(days=3))


def names_of(spellings: list[str]) -> Iterator[Name]:
    """As many as a reference may have, of references with and without the number; and each in a row of its own."""
    yield Name("agent", "1002", f"Ask {spellings[0]}", f"On {spellings[-1]}")
    yield Name("campaign", "2040", f"Call {spellings[-1]} back", spellings[0])
    for n, text in enumerate(dict.fromkeys([*spellings, NUMBER])):
        yield Name("number", text, f"Jo {n}", None)
        yield Name("campaign", f"n{n}", f"Call {text} back", text)


def event(n: int, kind: str, /, **payload: object) -> bytes:
    captured = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC) + timedelta(seconds=n)
    message = json.dumps({"type": kind, "payload": {"ref": "1002", **payload}}).encode()
    return pack_heard(UUID(int=n).bytes, from_datetime(captured), b"enigma:notifications:agents:1002", message)


SOURCES = """
    SELECT format('%I.%I', nspname, relname) AS source FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname IN ('public', 'reporting') AND relkind IN ('r', 'p', 'v', 'm')
    AND has_table_privilege(c.oid, 'SELECT')
    UNION ALL
    SELECT format('reporting.%I(%s)', proname, CASE pronargs WHEN 1 THEN %(day)s ELSE %(days)s END)
    FROM pg_proc WHERE pronamespace = 'reporting'::regnamespace AND proretset
    AND has_function_privilege(oid, 'EXECUTE') AND proargtypes[0] = 'date'::regtype
"""


def sources(connection: "psycopg.Connection[Any]") -> list[str]:
    """All that who is connected may ask of the archive."""
    days = {"day": f"'{DAY}'", "days": f"'{DAY}', '{DAY + timedelta(days=1)}'"}
    query = SOURCES.replace("%I", "%%I").replace("(%s)", "(%%s)")
    return [name for (name,) in connection.execute(query, days).fetchall()]


def test_no_spelling_of_a_number_is_in_anything_that_reports_see(spelling_everywhere: Archive) -> None:
    with as_reporting(spelling_everywhere) as connection:
        asked = sources(connection)
        assert {"reporting.calls", "reporting.call_audit", "reporting.campaign_days"} <= {*asked}
        assert len([source for source in asked if "(" in source]) >= 14
        seen = 0
        for source in asked:
            for (row,) in connection.execute(f"SELECT whole::text FROM {source} AS whole".encode()).fetchall():
                assert told(row) is None, (source, row)
                seen += 1
        assert seen > 20 * len(SPELLINGS)


def test_who_may_see_numbers_sees_references_as_they_are(spelling_everywhere: Archive) -> None:
    found = spelling_everywhere.rows("SELECT whole::text AS said FROM reporting.calls AS whole")
    assert all(told(row["said"]) for row in found)
    assert not any("masked:" in row["said"] or "***" in row["said"] for row in found)


# With what is asked made to say what it compares: errors quote values, casts print them.
QUESTIONS = (
    "SELECT {column}::text::integer FROM {source}",
    "SELECT {column}::text::date FROM {source}",
    "SELECT ({column}::text)::uuid FROM {source}",
    "SELECT 1 / (position('7009123456' in {column}::text) - 0) FROM {source}",
    "SELECT * FROM {source} WHERE {column}::text::integer > 0",
    "SELECT count(*) FROM {source} GROUP BY {column} HAVING min({column}::text)::bigint > 0",
    "EXPLAIN (ANALYZE, VERBOSE) SELECT {column} FROM {source} WHERE {column}::text <> ''",
)


def test_neither_errors_nor_plans_tell_a_number(spelling_everywhere: Archive) -> None:
    columns = (
        "number",
        "call_ref",
        "contact_ref",
        "campaign_ref",
        "recording_url",
        "uuid",
        "end_reason",
        "dial_number",
    )
    with as_reporting(spelling_everywhere) as connection:
        for source in ("reporting.calls", f"reporting.calls_on('{DAY}')", f"reporting.contact_history_on('{DAY}')"):
            there = {row[0] for row in (connection.execute(f"SELECT * FROM {source}".encode()).description or [])}
            for column in there.intersection(columns):
                for question in QUESTIONS:
                    try:
                        said = str(
                            connection.execute(question.format(source=source, column=column).encode()).fetchall()
                        )
                    except psycopg.Error as error:
                        said = str(error) + str(error.diag.message_detail) + str(error.diag.context)
                    assert "7009123456" in question or told(said) is None, (question, column, said)


def test_nobody_finds_out_a_number_by_asking_for_it(spelling_everywhere: Archive) -> None:
    """Nor by how many rows a plan expects, or has looked at: those are the same for a number that nobody called."""
    with psycopg.connect(spelling_everywhere.database_url, autocommit=True) as administrator:
        administrator.execute("ANALYZE")
    with as_reporting(spelling_everywhere) as connection:
        for source in ("reporting.calls", f"reporting.calls_on('{DAY}')", f"reporting.contact_history_on('{DAY}')"):
            for column in ("contact_ref", "campaign_ref", "call_ref"):
                plans = []
                for value in (NUMBER, "07009888888"):
                    question = f"SELECT FROM {source} WHERE {column} = '{value}'"
                    assert connection.execute(question.encode()).fetchall() == [], question
                    plan = connection.execute(b"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF) " + question.encode())
                    lines = "\n".join(
                        line for (line,) in plan.fetchall() if "Time:" not in line and "Memory" not in line
                    )
                    plans.append(lines.replace(value, "?"))
                assert plans[0] == plans[1], (source, column)


def test_what_is_no_number_can_still_be_looked_up(spelling_everywhere: Archive) -> None:
    load(
        spelling_everywhere, cdr("k1", contact_ref="M0001234", number="07009111222", dialed_at=DIALED_AT, ref="2040-12")
    )
    load(spelling_everywhere, cdr("k2", contact_ref="M0001234", number=NUMBER, dialed_at=DIALED_AT + 1, ref="2040-12"))
    with as_reporting(spelling_everywhere) as connection:
        for source in ("contact_history", f"contact_history_on('{DAY}')"):
            query = f"SELECT call_ref, attempt, attempts, campaign_ref FROM reporting.{source} WHERE contact_ref = %s"
            found = connection.execute(query.encode(), ["M0001234"]).fetchall()
            assert sorted(found) == [("k1", 1, 2, "2040-12"), ("k2", 2, 2, "2040-12")]
            connection.execute("SET enable_seqscan = off")  # of so few rows
            plan = connection.execute(b"EXPLAIN " + query.encode(), ["M0001234"]).fetchall()
            assert "_on" not in source or any("open_reference_idx" in line for (line,) in plan)


def test_masked_references_stay_distinct_and_are_counted_as_one(archive: Archive) -> None:
    """The same contact, in whose reference is the number of one of its calls, and not of the others."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    one, other = "C7009123456", "C7009123457"
    load(
        archive,
        *(
            cdr(f"{ref}-{n}", contact_ref=ref, number=number, dialed_at=DIALED_AT + n)
            for ref in (one, other)
            for n, number in enumerate((f"0{ref[1:]}", "07009555555", f"+44{ref[1:]}"))
        ),
    )
    with as_reporting(archive) as connection:
        for source in ("contact_history", f"contact_history_on('{DAY}')"):
            query = f"SELECT contact_ref, attempts, numbers_tried FROM reporting.{source}"
            found = connection.execute(query.encode()).fetchall()
            assert [row[1:] for row in found] == [(3, 3)] * 6, source
            masked = {row[0] for row in found if row[0].startswith("masked:")}
            assert {row[0] for row in found} - masked == {one, other}, "their numbers aren't in the other rows"
            assert len(masked) == 2
        (keys,) = connection.execute("SELECT count(DISTINCT contact_key) FROM reporting.calls").fetchone() or (None,)
        assert keys == 2
    assert archive.rows("SELECT DISTINCT contact_ref FROM reporting.contact_history ORDER BY 1") == [
        {"contact_ref": one},
        {"contact_ref": other},
    ]


def test_calls_and_events_meet_though_their_reference_is_masked(spelling_everywhere: Archive) -> None:
    with as_reporting(spelling_everywhere) as connection:
        for source in ("call_audit", f"call_audit_on('{DAY}')"):
            query = f"SELECT count(*) FILTER (WHERE events IS NOT NULL), count(*) FROM reporting.{source}"
            assert connection.execute(query.encode()).fetchone() == (len(SPELLINGS), 4 * len(SPELLINGS))
        for source in ("unmatched_calls", f"unmatched_calls_on('{DAY}')"):
            query = f"SELECT count(*) FROM reporting.{source} WHERE lacks = 'CDR'"
            assert connection.execute(query.encode()).fetchone() == (0,)


def test_reports_in_every_format_tell_no_number(spelling_everywhere: Archive) -> None:
    reporting = spelling_everywhere.database_url.replace("postgres@", "etl_reporting@")
    for kind in ("campaign", "agent", "hours", "reasons"):
        for shape in ("table", "csv", "json", "html"):
            arguments = ("report", kind, "--from", str(DAY), "--to", str(DAY), "--format", shape)
            done = spelling_everywhere.run(*arguments, ETL_DATABASE_URL=reporting)
            assert done.returncode == 0, done.stderr
            for line in (done.stdout + done.stderr).splitlines():
                assert told(line) is None, (kind, shape, line)


def test_figures_of_an_older_etl_tell_no_number_either(archive: Archive) -> None:
    """A rollup of 0.1 doesn't say of a campaign whether its calls' numbers are in its reference."""
    load(archive, cdr(1, ref=f"C{DIGITS}", number=NUMBER, dialed_at=DIALED_AT), cdr(2, ref="2040", dialed_at=DIALED_AT))
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        with engine(archive.database_url) as connections:
            refresh(connections, DAY + timedelta(days=3))
        for flag in ("tells_number", "NULL"):
            administrator.execute(f"UPDATE reporting.campaign_figures SET tells_number = {flag}".encode())
            with as_reporting(archive) as connection:
                for view in ("campaign_days", "campaign_hours"):
                    found = connection.execute(f"SELECT campaign_ref FROM reporting.{view}".encode()).fetchall()
                    assert sorted(ref[:7] for (ref,) in found) == ["2040", "masked:"], (flag, view)


GROUPS = st.lists(st.integers(1, 4), min_size=3, max_size=10)


@given(
    st.sampled_from(PREFIXES),
    GROUPS,
    st.sampled_from(SEPARATORS),
    st.integers(0, len(WRITINGS) - 1),
    st.text("xX/:. ", max_size=3),
)
def test_any_spelling_is_masked(prefix: str, groups: list[int], separator: str, writing: int, around: str) -> None:
    MASKED.append((prefix, groups, separator, writing, around))


MASKED: list[tuple[str, list[int], str, int, str]] = []


def test_any_spelling_is_masked_by_postgres_too(archive: Archive) -> None:
    """What the property above drew, at once."""
    texts = []
    for prefix, groups, separator, writing, around in MASKED:
        left = DIGITS
        parts: list[str] = []
        for length in groups:
            parts, left = [*parts, left[:length]], left[length:]
        number = WRITINGS[writing](prefix + separator.join(part for part in (*parts, left) if part))
        texts.append(f"{around}{number}{around}")
    found = archive.rows(
        "SELECT text, reporting.mask_text(text) AS masked, reporting.tells_number(text, %s) AS tells"
        " FROM unnest(%s::text[]) AS text",
        NUMBER,
        texts,
    )
    assert [row for row in found if told(row["masked"]) or not row["tells"]] == []
