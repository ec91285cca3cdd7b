"""What is refused today could be done on 0.1, with its roles.sql: an attack that never was one would prove nothing by
failing. The statements are those of tests/logins.py, of which docs/security.md tells, typed into an archive of 0.1.

What they meet today is in tests/integration: test_logins.py, test_attacks.py, test_traces.py, test_pinned_functions.py,
test_masking.py, test_forget_spellings.py, test_forced_exports.py, test_tls_weakened.py, test_claim_times.py and
test_making_days.py; and in tests/acceptance: test_report.py.
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg.errors import (
    InsufficientPrivilege,
    InvalidParameterValue,
    LockNotAvailable,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedTable,
)

from etl import urls
from tests.acceptance.test_upgrade import (
    DAY,
    DONE,
    FAILED,
    FORGET,
    PERSON,
    Installation,
    empty_01,
    filled,
    lake_place,
    made,
)
from tests.integration.test_pinned_functions import DECOYS
from tests.integration.test_tls_weakened import certificates, opened, ours, redis_url
from tests.logins import HOLD, LOADER, POSTGRES, Attempt
from tests.tls import Authority
from tests.unit.test_spreadsheet import BEFORE, TRIGGERS, as_cells, is_formula

__all__ = ["certificates", "empty_01", "filled", "lake_place", "made", "ours"]  # fixtures

pytestmark = pytest.mark.timeout(300)

# What the loader of 0.1 could do, and none may do today.
COULD = {
    "fill ahead a number that Postgres counts",
    "change a call's key",
    "change an event",
    "enter a revision into the lake's books",
    "change the lake's books",
    "take a revision out of the lake's books",
    "drop a day on a forged revision",
    "make partitions without end",
    "make tables in `etl_staging`",
}
# What 0.1 had nothing of: neither to attack nor to protect.
ABSENT = {
    "change a call, and leave no trace": "no UPDATE left one: below",
    "switch the trace off": "there was none",
    "name a file that the lake's sweep takes away": "there was no sweep",
}


@pytest.fixture
def guarded(filled: Installation) -> Iterator[Installation]:
    """With the roles as 0.1's own file makes them."""
    with psycopg.connect(filled.database_url, autocommit=True) as administrator:
        roles = (filled.release_01.parent / "ops/postgres/roles.sql").read_text()
        administrator.execute(roles.encode())
        yield filled
        administrator.execute("DROP SCHEMA IF EXISTS attacker CASCADE")


def of_01(statement: str) -> str:
    """In 0.1's words: drop_day was forget_day, and the books didn't name the release."""
    statement = statement.replace("drop_day", "forget_day")
    return statement.replace(", published_at, release)", ", published_at)").replace("now(), '0.2.0' FROM", "now() FROM")


def could(url: str, attempt: Attempt) -> bool | None:
    """What is done is undone. None: 0.1 has nothing of the kind."""
    with psycopg.connect(url) as connection:
        try:
            for statement in attempt.how:
                done = connection.execute(of_01(statement).encode())
        except InsufficientPrivilege:
            return False
        except (InvalidParameterValue, UndefinedColumn, UndefinedFunction, UndefinedTable):
            return None
        finally:
            connection.rollback()
        return done.description is None or done.description[0].name != "forget_day" or done.fetchall() == [(True,)]


def as_role(site: Installation, role: str) -> str:
    return site.database_url.replace("postgres@", f"{role}@")


def test_what_the_loader_may_not_do_today_it_could_on_01(guarded: Installation) -> None:
    refused = [attempt for attempt in POSTGRES if LOADER not in attempt.who]
    found = {attempt.what: could(as_role(guarded, LOADER), attempt) for attempt in refused}

    assert {what for what, done in found.items() if done} == COULD
    assert ABSENT.keys() <= {what for what, done in found.items() if not done}


def test_given_the_loaders_password_then_a_day_of_01_was_gone(guarded: Installation) -> None:
    calls = guarded.value("SELECT count(*) FROM cdrs")
    forged = next(attempt for attempt in POSTGRES if attempt.what == "drop a day on a forged revision")
    with psycopg.connect(as_role(guarded, LOADER), autocommit=True) as attacker:
        for statement in (*forged.how, "DELETE FROM exports WHERE sha256 = 'x'"):
            if statement != HOLD:
                attacker.execute(of_01(statement).encode())

    assert calls > 0
    assert guarded.value("SELECT count(*) FROM cdrs") == 0
    assert guarded.value("SELECT count(*) FROM exports WHERE sha256 = 'x'") == 0


def test_given_the_loaders_password_then_calls_of_01_changed_traceless(guarded: Installation) -> None:
    with psycopg.connect(as_role(guarded, LOADER), autocommit=True) as attacker:
        attacker.execute("UPDATE cdrs SET number = '0000'")

    assert guarded.rows("SELECT DISTINCT number FROM cdrs") == [{"number": "0000"}]
    assert guarded.value("SELECT count(*) FROM cdr_revisions") == 0


def test_given_the_loaders_password_then_01_made_days_without_end(guarded: Installation) -> None:
    """Every query of many days pays for each. Today days come two days ahead, by Postgres' clock."""
    with psycopg.connect(as_role(guarded, LOADER)) as attacker:
        attacker.execute("SELECT make_partition('cdrs', current_date + n) FROM generate_series(3, 999, 99) AS n")
        made = attacker.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdrs'::regclass").fetchone()
        attacker.rollback()

    assert made is not None
    assert made[0] > 10


def test_given_the_reports_password_then_01_made_no_day(guarded: Installation) -> None:
    """For as long as that transaction lasted. Today makers of days wait for what only who writes the table can lock."""
    with (
        psycopg.connect(as_role(guarded, "etl_reporting")) as attacker,
        psycopg.connect(as_role(guarded, LOADER)) as loader,
    ):
        attacker.execute("SELECT pg_advisory_xact_lock(x'65746c01'::bigint)")
        loader.execute("SET lock_timeout = '200ms'")
        with pytest.raises(LockNotAvailable):
            loader.execute("SELECT make_partition('cdrs', current_date)")


def test_given_a_schema_of_ones_own_then_01_unmasked_all_numbers(guarded: Installation) -> None:
    with psycopg.connect(guarded.database_url, autocommit=True) as administrator:
        administrator.execute("CREATE SCHEMA attacker AUTHORIZATION etl_reporting")
    with psycopg.connect(as_role(guarded, "etl_reporting"), autocommit=True) as session:
        session.execute("SET default_transaction_read_only = off")
        masked = session.execute("SELECT number FROM reporting.calls WHERE call_ref = '200'").fetchone()
        session.execute(DECOYS.encode())
        session.execute("SET search_path = attacker, pg_catalog, reporting")
        seen = session.execute(
            "SELECT number FROM reporting.calls WHERE call_ref OPERATOR(pg_catalog.=) '200'"
        ).fetchone()

    assert masked == (f"******{PERSON[-4:]}",)
    assert seen == (PERSON,)


def test_what_stands_beside_a_masked_number_showed_it_on_01(guarded: Installation) -> None:
    guarded.tell("M", number=PERSON, recording_url=f"ftp://rec/{PERSON}-0.wav", ref=f"for {PERSON[:5]} {PERSON[5:]}")
    guarded.etl("0.1", "run")
    with psycopg.connect(as_role(guarded, "etl_reporting")) as session:
        shown = session.execute(
            "SELECT recording_url, campaign_ref FROM reporting.calls WHERE call_ref = 'M'"
        ).fetchone()

    assert shown == (f"ftp://rec/{PERSON}-0.wav", f"for {PERSON[:5]} {PERSON[5:]}")


def test_given_a_person_forgotten_then_01_left_the_number_in_the_row(guarded: Installation) -> None:
    spellings = {
        "recording_url": f"20261123{PERSON}456.wav",
        "dial_number": f"+44{PERSON[1:]}",
        "extra": f'"{PERSON[:4]}%3{PERSON[4]}{PERSON[5:]}"',
    }
    guarded.tell(
        f"{PERSON}-1",
        number=PERSON,
        recording_url=spellings["recording_url"],
        dial_number=spellings["dial_number"],
        note=spellings["extra"].strip('"'),
    )
    guarded.etl("0.1", "run")
    guarded.etl("0.1", *FORGET)

    (row,) = guarded.rows("SELECT * FROM cdrs WHERE recording_url = %s", spellings["recording_url"])
    assert row["number"].startswith("forgotten:")
    assert row["dial_number"] == spellings["dial_number"]
    assert row["extra"] == {"note": spellings["extra"].strip('"')}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cdrs SET number = '0000'",
        "WITH gone AS (DELETE FROM cdrs WHERE call_ref = '200') UPDATE load_batch_days SET inserted = inserted - 1"
        f" WHERE (batch_id, dataset, day) = (SELECT batch_id, dataset, day FROM load_batch_days WHERE day = '{DAY}'"
        " AND dataset = 'cdrs' ORDER BY inserted DESC LIMIT 1)",
    ],
    ids=["update", "delete"],
)
def test_given_books_that_were_made_to_fit_then_01_forced_in_silence(guarded: Installation, change: str) -> None:
    """No word of why, and all is green: today `--because` is wanted, and told."""
    guarded.etl("0.1", "export")
    with psycopg.connect(guarded.database_url, autocommit=True) as administrator:
        assert administrator.execute(change.encode()).rowcount

    guarded.etl("0.1", "export", "--dataset", "cdrs", "--day", str(DAY), "--force")

    assert "because" not in guarded.etl("0.1", "verify")
    guarded.etl("0.1", "reconcile")


# -- what is said on the way


def line_of(said: str, store: str) -> str:
    """What `etl check` says of the line, with its verdict."""
    return next(line for line in said.splitlines() if f"line to {store}" in line)


@pytest.mark.parametrize(
    ("front", "option"), [("stranger", ("ssl_cert_reqs", "none")), ("namesake", ("ssl_check_hostname", "false"))]
)
def test_given_an_option_then_01_told_a_false_redis_all(
    filled: Installation, certificates: list[Path], ours: Authority, front: str, option: tuple[str, str]
) -> None:
    """Whatever CA it was told to believe; and what it called that was no more than a warning."""
    with contextlib.contextmanager(opened)(urlsplit(filled.redis_url).port or 0, certificates) as fronts:
        false = getattr(fronts, front)
        filled.tell("T")
        filled.redis_url = redis_url(false, ours.ca)
        assert "certificate" in filled.etl("0.1", "run", code=FAILED).lower()
        filled.redis_url = redis_url(false, ours.ca, option)
        filled.etl("0.1", "run")
        said = filled.etl("0.1", "check", code=DONE)

    assert filled.value("SELECT count(*) FROM cdrs WHERE call_ref = 'T'") == 1
    assert "wrong" not in line_of(said, "Redis")


@pytest.mark.parametrize(
    ("front", "mode", "by"), [("stranger", "require", "PGSSLMODE"), ("namesake", "verify-ca", "the URL")]
)
def test_given_a_weaker_mode_then_01_told_a_false_postgres_all(
    filled: Installation,
    certificates: list[Path],
    ours: Authority,
    monkeypatch: pytest.MonkeyPatch,
    front: str,
    mode: str,
    by: str,
) -> None:
    """Of one that answers in another's name it said that all was well."""
    whole = filled.database_url
    sockets = Path(parse_qs(urlsplit(whole).query)["host"][0])
    with contextlib.contextmanager(opened)(sockets / ".s.PGSQL.5432", certificates) as fronts:
        url = f"postgresql://postgres@localhost:{getattr(fronts, front).port}{urlsplit(whole).path}"
        filled.tell("T")
        filled.database_url = urls.with_options(url, {"sslmode": "verify-full", "sslrootcert": str(ours.ca)})
        assert "certificate" in filled.etl("0.1", "run", code=FAILED).lower()
        filled.database_url = url
        if by == "PGSSLMODE":
            monkeypatch.setenv("PGSSLMODE", mode)
        else:
            filled.database_url = urls.with_options(url, {"sslmode": mode, "sslrootcert": str(ours.ca)})
        filled.etl("0.1", "run")
        said = filled.etl("0.1", "check", code=DONE)

    assert filled.value("SELECT count(*) FROM cdrs WHERE call_ref = 'T'") == 1
    assert ("fine" if mode == "verify-ca" else "warning") in line_of(said, "Postgres")


# -- what a spreadsheet runs


def test_given_formulas_behind_what_is_skipped_then_01_wrote_them(filled: Installation) -> None:
    """By `etl report`; and it left quotes out, by which a cell ends where another separator is expected."""
    formulas = [f"{before}{trigger}1+1" for before in BEFORE if "\0" not in before for trigger in TRIGGERS]
    for number, formula in enumerate(formulas):
        filled.tell(f"F{number}", ref=formula)
    filled.etl("0.1", "run")
    filled.etl("0.1", "rollup")

    said = filled.etl("0.1", "report", "campaign", "--day", str(DAY), "--format", "csv")

    names = [row["campaign_ref"] for row in csv.DictReader(io.StringIO(said, newline=""))]
    assert [name for name in names if "'" not in name and is_formula(name)]
    for separator in ",;\t":
        assert [cell for cell in as_cells(said, separator) if is_formula(cell)]
    for before, trigger in ((" ", "="), ("\n", "="), ("", "\uff1d"), (" ", "\uff20")):
        assert f"{before}{trigger}1+1" in names
    assert not re.fullmatch(r'("([^"]|"")*"(,|\r\n))*', said)
