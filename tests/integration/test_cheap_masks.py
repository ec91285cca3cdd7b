"""Masks cost little: what usual references say is told the short way, which says what the long one says; and plans grow
neither with the masks nor with how often they are asked for."""

import re
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lake import load
from tests.store import ROLES
from tests.world import Archive, cdr

pytestmark = pytest.mark.versions

DAY = datetime.now(UTC).date() - timedelta(days=1)
DIALED_AT = int(datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC).timestamp())

# -- the short way and the long one

NUMBERS = st.one_of(
    st.none(),
    st.from_regex(r"\A\+?[0-9]{0,13}\Z"),
    st.text("0179+ -%3\\u\uff13", max_size=14),
)
# Signs of which references and encodings are made; and whole parts of the number.
SIGNS = st.sampled_from([*"0179Mx-_.+/ %(\\", "%30", "%2537", "\\u0037", "\uff17", "\u0667", "\u00fc"])
DRAWN: list[tuple[str | None, str | None]] = []


@given(NUMBERS, st.lists(st.one_of(SIGNS, st.integers(1, 11)), max_size=14))
@settings(max_examples=1_000)
def test_references_around_numbers_are_drawn(number: str | None, parts: list[str | int]) -> None:
    """An integer stands for so many of the number's last signs."""
    DRAWN.append((number, "".join(part if isinstance(part, str) else (number or "")[-part:] for part in parts)))


def test_the_short_way_says_what_the_long_one_says(archive: Archive) -> None:
    pairs = [(number, reference) for number, reference in DRAWN if "\0" not in f"{number}{reference}"]
    found = archive.rows(
        "SELECT number, reference, reporting.has_number(reference, number) AS has,"
        " coalesce(reporting.has_spelled_number(reference, number), false) AS really_has,"
        " reporting.tells_number(reference, number) AS tells,"
        " reporting.tells_spelled_number(reference, number) AS really_tells,"
        " reporting.mask_text(reference) AS masked, reporting.mask_spelled_text(reference) AS really_masked,"
        " coalesce(reporting.may_tell(reference) AND reporting.has_six_digits(reference), false) AS may_tell"
        " FROM unnest(%s::text[], %s::text[]) AS pairs (number, reference)",
        *([pair[n] for pair in pairs] for n in (0, 1)),
    )
    assert len(found) >= 900
    for row in found:
        assert (row["has"], row["tells"]) == (row["really_has"], row["really_tells"]), row
        assert row["masked"] == row["really_masked"], row
        assert row["may_tell"] or (not row["tells"] and row["masked"] == row["reference"]), row
    for answer in ("has", "tells"):
        assert len({row[answer] for row in found}) == 2, answer


CALLED = "SELECT coalesce(sum(calls), 0) FROM pg_stat_xact_user_functions WHERE funcname ~ '_spelled_'"


def test_usual_references_are_told_the_short_way(archive: Archive) -> None:
    """None of those that are called and not put into the query, by Postgres' own count."""
    usual = ({"contact_ref": "M0001234"}, {"contact_ref": "7000000001"}, {"contact_ref": "CUST-000123"})
    load(archive, *(cdr(str(7000000100 + n), dialed_at=DIALED_AT, **one) for n, one in enumerate(usual)))
    load(archive, cdr("x", dialed_at=DIALED_AT, number="07009123456", contact_ref="(0700) 9123456"))
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        administrator.execute("SET track_functions = 'pl'")
        administrator.execute("SET SESSION AUTHORIZATION etl_reporting")
        for which, wanted in (("~ '^7'", False), ("= 'x'", True)):
            with administrator.transaction():
                administrator.execute(f"SELECT * FROM reporting.calls_on('{DAY}') WHERE call_ref {which}".encode())
                (calls,) = administrator.execute(CALLED).fetchone() or (None,)
                assert (calls > 0) is wanted, which


# -- plans


def test_masks_keep_no_query_from_being_parallel(archive: Archive) -> None:
    unsafe = (
        "SELECT oid::regprocedure::text AS name FROM pg_proc WHERE pronamespace = 'reporting'::regnamespace"
        " AND NOT proretset AND proparallel <> 's' AND prorettype <> 'void'::regtype"
    )
    assert archive.rows(unsafe) == []


def test_the_history_of_contacts_walks_thrice_over_the_calls(archive: Archive) -> None:
    load(archive, cdr("1", dialed_at=DIALED_AT, contact_ref="M0001234"))
    question = f"EXPLAIN SELECT * FROM reporting.{{}}_on('{DAY}')"

    def walks(view: str) -> int:
        plan = [line for row in archive.rows(question.format(view)) for line in row.values()]
        return sum(bool(re.search(rf"Scan .*on cdrs_{DAY:%Y%m%d}\b", line)) for line in plan)

    assert walks("contact_history") == 3 * walks("calls") > 0
