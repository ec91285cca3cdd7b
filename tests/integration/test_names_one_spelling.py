"""One person is one, however plain SQL spells their name; and who may not write names is told what is lacking."""

import unicodedata
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import combinations

import psycopg
import pytest

from etl.errors import ConfigurationError
from etl.reporting.names import Kept, Name, keep
from etl.reporting.rollup import refresh
from tests.integration.test_least_privilege import as_role
from tests.integration.test_masking import DAY
from tests.integration.test_names_for_people import NOON, asked
from tests.store import ROLES, engine
from tests.world import Archive, cdr

pytestmark = pytest.mark.versions

SPACES = [chr(n) for n in range(0x10000) if chr(n).isspace() and n not in range(0x1C, 0x20)]  # those are no white space
NAME = "Zo\u00eb \u017d"
SPELLED = [
    *(unicodedata.normalize(form, NAME) for form in ("NFC", "NFD")),
    *(f"{space}{unicodedata.normalize('NFD', NAME).replace(' ', space)}{space}{space}" for space in SPACES),
]
RIGHTS = {
    "USAGE": "GRANT USAGE ON SCHEMA reporting TO {}",
    "EXECUTE": "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA reporting TO {}",
    **{right: f"GRANT {right} ON reporting.names TO {{}}" for right in ("SELECT", "INSERT", "UPDATE")},
}


@pytest.fixture
def many(archive: Archive) -> Archive:
    """A day's calls of as many agents as there are spellings, and one more."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    archive.push(*(cdr(n, extension=str(n), dialed_at=int(NOON.timestamp())) for n in range(len(SPELLED) + 1)))
    archive.load()
    with engine(archive.database_url) as connections:
        refresh(connections, DAY + timedelta(days=3))
    return archive


def people(archive: Archive, names: Sequence[tuple[str, str | None]]) -> list[list[int]]:
    """How many extensions each has by person_days, for its owner and for who sees no numbers."""
    with psycopg.connect(archive.database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM reporting.names")
        connection.cursor().executemany(
            """INSERT INTO reporting.names (kind, reference, name, "group") VALUES ('agent', %s, %s, %s)""",
            [(str(number), *each) for number, each in enumerate(names)],
        )
    query = "SELECT person, agent_group, cardinality(extensions) AS several FROM reporting.person_days ORDER BY 3"
    rows = [asked(archive, role, query) for role in ("etl_owner", "etl_reporting")]
    for some in rows:
        for row in some:
            for called in (row["person"], row["agent_group"] or "x"):
                assert called == unicodedata.normalize("NFC", " ".join(called.split()))
    return [[row["several"] for row in some] for some in rows]


def test_however_plain_sql_spells_a_name_it_is_one_person(many: Archive) -> None:
    assert len(SPELLED) > 20
    assert people(many, [(name, None) for name in SPELLED]) == [[1, len(SPELLED)]] * 2
    assert people(many, [("A", group) for group in SPELLED]) == [[1, len(SPELLED)]] * 2
    others = ["Zoe \u017d", "Zo\u00eb\u017d", "zo\u00eb \u017d", "Zo\u00eb \u017d\u0301", NAME, "1", " ", "\u00a0"]
    assert people(many, [(name, None) for name in others]) == [[1] * (len(SPELLED) + 1)] * 2
    assert people(many, [("A", name) for name in others[:-2]]) == [[1] * (len(SPELLED) + 1)] * 2
    assert people(many, [("A", None), ("A", " "), ("A", "\u2007")]) == [[1] * (len(SPELLED) - 2) + [3]] * 2


@pytest.fixture
def login(archive: Archive) -> Iterator[str]:
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute("CREATE ROLE etl_names_writer LOGIN")
        try:
            yield "etl_names_writer"
        finally:
            administrator.execute("DROP OWNED BY etl_names_writer; DROP ROLE etl_names_writer")


def test_whoever_lacks_a_right_is_told_which(archive: Archive, login: str) -> None:
    """Of every choice among the rights that it takes."""
    names = [Name("agent", "1", "Ada", None)]
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        for number in range(len(RIGHTS) + 1):
            for given in combinations(RIGHTS, number):
                administrator.execute(f"DROP OWNED BY {login}")
                for right in given:
                    administrator.execute(RIGHTS[right].format(login))
                told = attempt(as_role(archive.database_url, login), names)
                lacking = RIGHTS.keys() - {*given}
                if not lacking:
                    assert told == Kept(1, 0, 0)
                    continue
                assert isinstance(told, ConfigurationError), given
                assert told.code == "ETL-943", (given, told)
                if "USAGE" in lacking:
                    assert "schema reporting" in told.text
                elif lacking != {"EXECUTE"}:
                    assert f"({', '.join(sorted(lacking - {'EXECUTE'}))} " in told.text
                else:
                    assert "permission denied for function" in told.text


def attempt(url: str, names: Sequence[Name]) -> Kept | ConfigurationError:
    with engine(url) as connections:
        try:
            return keep(connections, names)
        except ConfigurationError as error:
            return error


def test_given_the_etl_reporting_rights_then_a_writer_needs_three_more(archive: Archive, login: str) -> None:
    """As docs/reports.md has it."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
        administrator.execute(f"GRANT etl_reporting TO {login}")
        administrator.execute(f"GRANT SELECT, INSERT, UPDATE ON reporting.names TO {login}")
    assert attempt(as_role(archive.database_url, login), [Name("agent", "1", "Ada", None)]) == Kept(1, 0, 0)
