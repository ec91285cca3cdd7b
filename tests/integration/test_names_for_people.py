"""Names stand beside references wherever there are any, to whoever may see them; nothing in a name does harm, and who
is forgotten has none."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import psycopg
import pytest
import sqlalchemy as sa

from etl.app.serving import reading
from etl.errors import EtlError
from etl.reporting.names import Kept, Name, keep
from etl.reporting.rollup import refresh, rollup
from etl.reporting.spreadsheet import harmless
from etl.reporting.today import Wall
from etl.reporting.web import pages
from etl.store import schema
from etl.text import printable
from tests import lake
from tests.integration.test_figures_upgrade import upgrade
from tests.integration.test_least_privilege import as_role
from tests.integration.test_masking import DAY, NUMBER, event
from tests.lake import SPOOL, export_and_prune, load, on, with_lake
from tests.person import KEY, everything, forget
from tests.store import ROLES, engine
from tests.wall import at_noon, said
from tests.world import NAMES_FILE, Archive, cdr

pytestmark = pytest.mark.versions

NOON = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
AGENT = Name("agent", "1002", "Zoë Ž", "Sales")
CAMPAIGN = Name("campaign", "2040", "Spring, again", "Client A")
PERSON = Name("number", NUMBER, "Jo Bloggs", "Callers")
NAMES = {"extension": AGENT, "campaign_ref": CAMPAIGN, "number": PERSON}
# What others are made of.
INNER = {"calls_unmasked", "contact_calls", "statuses"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(1)",
    "\N{FULLWIDTH EQUALS SIGN}1+1",
    "a\nb",
    "tab\tand\x1b[2Jescape\x07",
    "\u202egnihton",
    "[bold]rich[/bold][link=x]",
    "x" * 200,
    "'; DROP TABLE cdrs; --",
    "%s %(x)s :x $1",
    "<r>rich</r>_x0041_",
    "Winter deals \U0001f384 2026",
    *(f"{'x' * n}{chr(0x1F600) * 90}" for n in (13, 14, 60, 61)),
]


@pytest.fixture
def database(archive: Archive) -> Iterator[sa.Engine]:
    with engine(archive.database_url) as opened:
        yield opened


@pytest.fixture
def loaded(archive: Archive, database: sa.Engine) -> Archive:
    """A day's calls, events and figures, and the roles."""
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        administrator.execute(ROLES)
    at = {"number": NUMBER, "dialed_at": int(NOON.timestamp()), "extension": "1002", "ref": "2040", "contact_ref": "M1"}
    load(archive, cdr(1, **at), cdr(2, **at), cdr(3, **at | {"extension": "1003", "ref": "2041", "number": "0712"}))
    load(
        archive,
        event(1, "status", status="available", campaign_ref="2040"),
        event(2, "call", call_ref="9", agent="1002", number=NUMBER, campaign_ref="2040"),
        event(3, "status", status="offline", campaign_ref="2040"),
        key=SPOOL,
    )
    refresh(database, DAY + timedelta(days=3))
    return archive


def asked(archive: Archive, role: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(as_role(archive.database_url, role), row_factory=psycopg.rows.dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def sources(archive: Archive) -> dict[str, set[str]]:
    """Each view that has references, and each function that gives its rows, with these references."""
    views = archive.rows(
        "SELECT c.relname AS view, array_agg(attname::text) AS columns FROM pg_class c"
        " JOIN pg_attribute ON attrelid = c.oid WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'"
        " AND attname IN ('extension', 'campaign_ref', 'number') GROUP BY 1"
    )
    functions = archive.rows("SELECT proname AS name FROM pg_proc WHERE pronamespace = 'reporting'::regnamespace")
    found = {}
    for row in views:
        if row["view"] not in INNER:
            found[row["view"]] = {*row["columns"]}
            if {"name": f"{row['view']}_on"} in functions:
                found[f"{row['view']}_on('{DAY}')"] = {*row["columns"]}
                found[f"{row['view']}_between('{DAY}', '{DAY}')"] = {*row["columns"]}
    return found


def test_names_stand_beside_every_reference_in_views_and_functions(loaded: Archive, database: sa.Engine) -> None:
    before = {source: asked(loaded, "etl_owner", f"SELECT * FROM reporting.{source}") for source in sources(loaded)}
    assert len(before) > 20
    assert keep(database, [AGENT, CAMPAIGN, PERSON]) == Kept(3, 0, 0)
    for source, columns in sources(loaded).items():
        for role in ("etl_owner", "etl_loader", "etl_reporting"):
            rows = asked(loaded, role, f"SELECT * FROM reporting.{source}")
            assert rows, source
            assert len(rows) == len(before[source]), source
            for row in rows:
                for column in columns:
                    given = NAMES[column]
                    is_seen = row[column] == given.reference  # a masked number isn't
                    named = (row[f"{given.kind}_name"], row[f"{given.kind}_group"])
                    assert named == ((given.name, given.group) if is_seen else (None, None)), (source, role)
            assert any(row[f"{NAMES[column].kind}_name"] for row in rows for column in columns - {"number"}), source
            if role == "etl_owner":
                unnamed = [
                    {name: value for name, value in row.items() if not name.endswith(("_name", "_group"))}
                    for row in rows
                ]
                were = [{name: value for name, value in row.items() if name in unnamed[0]} for row in before[source]]
                assert sorted(map(repr, unnamed)) == sorted(map(repr, were)), source


def test_who_sees_no_numbers_sees_no_name_of_one(loaded: Archive, database: sa.Engine) -> None:
    campaign = Name("campaign", f"Call {NUMBER} back", "Call back", None)
    keep(database, [PERSON, campaign, Name("agent", "1002", f"Ask +44{NUMBER[1:]}", "2026-11")])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        asked(loaded, "etl_reporting", "SELECT * FROM reporting.names")
    masked = [{"kind": "agent", "reference": "1002", "name": "Ask +******", "group": "******"}]
    assert asked(loaded, "etl_reporting", "SELECT * FROM reporting.names_masked") == masked
    assert asked(
        loaded, "etl_reporting", "SELECT DISTINCT agent_name, number_name FROM reporting.calls WHERE extension = '1002'"
    ) == [{"agent_name": "Ask +******", "number_name": None}]
    # Nor by what a function of theirs is told before a row is left out.
    looks = "SELECT * FROM reporting.names_masked WHERE 1 / CASE WHEN name LIKE '%J%' THEN 0 ELSE 1 END > 0"
    assert asked(loaded, "etl_reporting", looks) == masked
    with pytest.raises(psycopg.errors.DivisionByZero):
        asked(loaded, "etl_owner", looks)
    assert len(asked(loaded, "etl_owner", "SELECT * FROM reporting.names_masked")) == 3


def test_no_plan_of_who_sees_no_numbers_tells_whose_name_there_is(loaded: Archive, database: sa.Engine) -> None:
    """How many rows a condition leaves out is said by ANALYZE, and by the statistics before."""
    many = [Name(kind, f"Kunde 7{n:06}", f"+447{n:08}", None) for kind in ("campaign", "number") for n in range(150)]
    keep(database, [PERSON, Name("campaign", NUMBER, NUMBER, NUMBER), *many])
    with database.begin() as connection:
        connection.execute(sa.text("ANALYZE reporting.names"))
    view = "reporting.names_masked"
    for of in (view, *(f"reporting.{source}" for source in sources(loaded))):
        for column in ("reference", "name", '"group"') if of == view else ("number_name", "campaign_name"):
            for explain in ("EXPLAIN", "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF)"):
                told = set()
                for low, high in ((NUMBER[:6], f"{NUMBER[:6]}~"), ("0850", "0850~"), ("Kunde 70", "Kunde 70~")):
                    query = f"{explain} SELECT FROM {of} WHERE {column} >= '{low}' AND {column} < '{high}'"
                    try:
                        plan = repr(asked(loaded, "etl_reporting", query))
                    except psycopg.errors.UndefinedColumn:
                        continue
                    told.add(plan.replace(high, "HIGH").replace(low, "LOW"))
                assert len(told) < 2, (of, column, told)


def test_a_reference_that_is_masked_elsewhere_is_in_no_list_of_names(loaded: Archive, database: sa.Engine) -> None:
    reference = f"Kunde {NUMBER[-7:]}"  # by itself it's no number, and of this call it is
    load(loaded, cdr(7, number=NUMBER, ref=reference, dialed_at=int(NOON.timestamp())))
    keep(database, [Name("campaign", reference, "Kunde", None)])
    assert asked(loaded, "etl_reporting", "SELECT * FROM reporting.names_masked") == []
    (call,) = asked(loaded, "etl_reporting", "SELECT * FROM reporting.calls WHERE call_ref = '7'")
    assert call["campaign_ref"].startswith("masked:")


def test_whoever_may_ask_a_view_may_ask_its_functions(empty_database_url: str) -> None:
    """After the upgrade too, with the rights and options that a site gave."""
    with engine(empty_database_url) as connections:
        upgrade(connections, "0024")
        with psycopg.connect(empty_database_url, autocommit=True) as administrator:
            views = {
                view
                for (view,) in administrator.execute(
                    "SELECT DISTINCT relname FROM pg_class JOIN pg_proc ON proname = relname || '_on'"
                    " WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v' AND relname <> 'calls_unmasked'"
                )
            }
            administrator.execute("GRANT USAGE ON SCHEMA reporting TO PUBLIC")
            for view in views:
                administrator.execute(f"CREATE ROLE only_{view} LOGIN; GRANT SELECT ON reporting.{view} TO only_{view}")
            administrator.execute("GRANT SELECT ON reporting.contact_calls TO only_contact_history")
            administrator.execute("ALTER VIEW reporting.calls SET (security_barrier = true)")
            functions = "SELECT FROM pg_proc WHERE proname = %s AND has_function_privilege(%s, oid, 'EXECUTE')"
            may = {
                view for view in views if administrator.execute(functions, [f"{view}_on", f"only_{view}"]).fetchall()
            }
            schema.upgrade(connections)
            options = "SELECT reloptions FROM pg_class WHERE oid = 'reporting.calls'::regclass"
            assert administrator.execute(options).fetchone() == (["security_barrier=true"],)
            try:
                for view in sorted(may):
                    administrator.execute(f"SET ROLE only_{view}")
                    try:
                        administrator.execute(f"SELECT * FROM reporting.{view}_on('2015-02-19')")
                    except psycopg.errors.InsufficientPrivilege as refused:  # of what it's made of, as ever
                        lacking = str(refused)
                        assert "names" not in lacking, view
            finally:
                administrator.execute("RESET ROLE")
                for view in views:
                    administrator.execute(f"DROP OWNED BY only_{view}; DROP ROLE only_{view}")


def test_whoever_the_owner_lets_may_write_names_in_plain_sql(loaded: Archive, database: sa.Engine) -> None:
    insert = "INSERT INTO reporting.names (kind, reference, name) VALUES ('agent', '1002', 'Ada') RETURNING name"
    for role in ("etl_loader", "etl_keeper", "etl_reporting"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            asked(loaded, role, f"BEGIN READ WRITE; {insert}")
    with psycopg.connect(loaded.database_url, autocommit=True) as administrator:
        administrator.execute("SET ROLE etl_owner")
        administrator.execute(insert)
        administrator.execute("RESET ROLE")
        administrator.execute("CREATE ROLE names_writer; GRANT etl_reporting TO names_writer")
        try:
            administrator.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON reporting.names TO names_writer")
            administrator.execute("SET ROLE names_writer")
            keep(database, [Name("agent", "1003", "Bob", None)])
            administrator.execute("INSERT INTO reporting.names (kind, reference, name) VALUES ('agent', '1004', 'Eve')")
            administrator.execute("UPDATE reporting.names SET name = 'Bob B' WHERE reference = '1003'")
        finally:
            administrator.execute("RESET ROLE")
            administrator.execute("DROP OWNED BY names_writer; DROP ROLE names_writer")
    assert {row["agent_name"] for row in loaded.rows("SELECT * FROM reporting.agent_days")} == {"Ada", "Bob B"}
    refused = (
        "('agent', '', 'x')",
        "('agent', '1', '')",
        "('team', '1', 'x')",
        "('agent', '1', repeat('x', 10000000))",
    )
    for values in refused:
        with pytest.raises(psycopg.errors.CheckViolation):
            loaded.rows(f"INSERT INTO reporting.names (kind, reference, name) VALUES {values} RETURNING name")


def test_an_import_enters_all_lines_or_none_and_may_be_repeated(loaded: Archive, tmp_path: Path) -> None:
    own = {"ETL_DATABASE_URL": as_role(loaded.database_url, "etl_owner")}
    done = loaded.run("names", "import", str(NAMES_FILE), "--json", **own)
    assert json.loads(done.stdout) == {"new": 4, "changed": 0, "unchanged": 0}
    file = tmp_path / "names.csv"
    file.write_text("kind,reference,name,group\nagent,1002,Ada,Sales\nagent,1003,Zoë Ž,Sales\ncampaign,9,Nine,\n")
    assert loaded.run("names", "import", str(file), **own).stdout == "3 names: 1 new, 1 changed, 1 as they were\n"
    assert loaded.run("names", "import", str(file), **own).stdout == "3 names: 0 new, 0 changed, 3 as they were\n"
    file.write_text(file.read_text() + "agent,1004,Bob,\nagent,1002,Eve,\nboss,1,,\n")
    refused = loaded.run("names", "import", str(file), **own)
    assert refused.returncode == 2
    assert [line.split(":")[1:3] for line in refused.stderr.splitlines()] == [
        [" ETL-942", " nothing was imported, since there are lines to mend"],
        [" line 6", " agent 1002 is on line 2, too"],
        [" line 7", " kind is boss, and not one of agent, campaign, number"],
    ]
    assert loaded.value("SELECT count(*) FROM reporting.names") == 5
    for role in ("etl_loader", "etl_keeper", "etl_reporting"):
        url = as_role(loaded.database_url, role)
        refused = loaded.run("names", "import", str(NAMES_FILE), ETL_DATABASE_URL=url)
        assert (refused.returncode, refused.stderr[:13]) == (2, "etl: ETL-943:")
    refused = loaded.run("names", "import", str(tmp_path / "none.csv"), **own)
    assert (refused.returncode, refused.stderr[:13]) == (2, "etl: ETL-945:")


def test_extensions_of_one_name_and_group_are_one_person(loaded: Archive, database: sa.Engine) -> None:
    keep(database, [AGENT, Name("agent", "1003", AGENT.name, AGENT.group)])
    (person,) = loaded.rows("SELECT * FROM reporting.person_days")
    days = loaded.rows("SELECT * FROM reporting.agent_days")
    assert (person["person"], person["agent_group"], person["extensions"]) == ("Zoë Ž", "Sales", ["1002", "1003"])
    assert len(days) == 2
    for column in ("calls", "talk_seconds", "available_seconds", "logged_in_seconds"):
        assert person[column] == sum(row[column] for row in days), column
    keep(database, [Name("agent", "1003", AGENT.name, "Support")])
    assert loaded.value("SELECT count(*) FROM reporting.person_days") == 2
    # Nor are those one who are masked alike, or whose name is the other's extension.
    for name, other in (("staff 100234", "staff 100235"), ("1003", None)):
        keep(database, [Name("agent", "1002", name, None), *([Name("agent", "1003", other, None)] if other else [])])
        if not other:
            loaded.rows("DELETE FROM reporting.names WHERE reference = '1003' RETURNING name")
        for role in ("etl_owner", "etl_reporting"):
            rows = asked(loaded, role, "SELECT * FROM reporting.person_days")
            assert sorted(row["extensions"] for row in rows) == [["1002"], ["1003"]], (name, role)


@pytest.mark.parametrize("kind", ["campaign", "agent"])
def test_given_hostile_names_then_no_report_is_harmed(
    archive: Archive, database: sa.Engine, tmp_path: Path, kind: str
) -> None:
    names = {f"9{n}": name for n, name in enumerate(HOSTILE)}
    load(archive, *(cdr(n, ref=n, extension=n, dialed_at=int(NOON.timestamp())) for n in names))
    refresh(database, DAY + timedelta(days=3))
    with database.begin() as connection:  # as plain SQL may, past the import
        insert = 'INSERT INTO reporting.names (kind, reference, name, "group") VALUES (:kind, :reference, :name, :name)'
        given = [{"kind": kind, "reference": reference, "name": name} for reference, name in names.items()]
        connection.execute(sa.text(insert), given)
    made = {}
    for form in ("table", "html", "csv", "json", "xlsx"):
        file = tmp_path / form
        output = () if form == "table" else ("--output", str(file))
        done = archive.run("report", kind, "--day", str(DAY), "--format", form, *output)
        assert (done.returncode, done.stderr) == (0, "") or form == "csv", done.stderr
        made[form] = done.stdout if form == "table" else file.read_text() if form != "xlsx" else ""
    for name in names.values():
        assert printable(name).replace("\n", "\\n")[:20] in made["table"].replace("\n", "")
    for form in ("table", "html"):
        assert not {"\x1b", "\x07", "\u202e"} & {*made[form]}
    assert not any(each in made["html"] for each in ("<script>alert", "<img src", 'onerror=alert(1)">'))
    # As any text from the archive.
    rows = [*csv.DictReader(io.StringIO(made["csv"], newline=""))]
    column = {"campaign": "campaign_ref", "agent": "extension"}[kind]
    for part in ("name", "group"):
        assert {row[column]: row[f"{kind}_{part}"] for row in rows} == {n: harmless(name) for n, name in names.items()}
    found = json.loads(made["json"])
    assert {row[column]: row[f"{kind}_name"] for row in found["rows"]} == names
    assert found["total"][f"{kind}_name"] is None
    workbook = ZipFile(tmp_path / "xlsx")
    assert f"{kind}_name" in workbook.read("xl/sharedStrings.xml").decode()
    assert b"<f>" not in workbook.read("xl/worksheets/sheet1.xml")


def test_the_wall_shows_names_beside_references(archive: Archive, database: sa.Engine) -> None:
    now = at_noon(archive)
    keep(database, [AGENT, CAMPAIGN, Name("agent", "1003", "\u202e<b>", None)])
    archive.push(
        cdr(1, dialed_at=int(now.timestamp()), extension="1002", ref="2040"),
        cdr(2, dialed_at=int(now.timestamp()), ref="9"),
    )
    archive.load()
    states = (said("1002", "available", now, campaign_ref="2040"), said("1003", "busy", now), said("1004", "busy", now))
    load(archive, *states, key=SPOOL)
    with reading(archive.settings()) as engine_:
        today = Wall(engine_).look()
    agents = {row["extension"]: row for row in pages.agents(today)}
    assert {reference: row["called"] for reference, row in agents.items()} == {
        "1002": "Zoë Ž (1002)",
        "1003": "\\u202e<b> (1003)",
        "1004": "1004",
    }
    assert agents["1002"]["campaign"] == "Spring, again (2040)"
    page = (
        pages.environment()
        .get_template("today.html")
        .render(path="/", refresh=5, today=today, error=None, age=0, notes=[], agents=pages.agents(today), waiting=None)
    )
    assert ">Spring, again (2040)</th>" in page
    assert ">\\u202e&lt;b&gt; (1003)</a>" in page
    assert ">9</th>" in page


def test_given_who_is_forgotten_then_no_name_is_left_of_them(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    archive.more = {"forget_key": KEY}
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1, number=NUMBER))
    theirs = [
        PERSON,
        Name("campaign", f"Call {NUMBER} back", "Call back", None),
        Name("campaign", "9", "For 070 0912-3456", None),
        Name("agent", "7", "x", f"%30{NUMBER[1:]}"),
        Name("campaign", "8", f"forgotten: ring {NUMBER}", None),
    ]
    keep(database, [AGENT, CAMPAIGN, Name("number", "07009123457", "Another", None), *theirs])
    assert forget(archive, NUMBER, dry_run=True).undated["names"] == len(theirs)
    found = forget(archive, NUMBER)
    assert found.undated["names"] == len(theirs)
    assert found.searched is not None
    assert found.searched.is_proof
    assert [where for where, text in everything(archive) if NUMBER.encode() in text] == []
    assert {row["reference"] for row in archive.rows("SELECT * FROM reporting.names")} == {
        "1002",
        "2040",
        "07009123457",
    }


def test_the_search_finds_what_is_left_of_somebody_in_names(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    archive.more = {"forget_key": KEY}
    with_lake(archive, tmp_path / "lake")
    keep(database, [PERSON])
    found = forget(archive, NUMBER, dry_run=True)
    assert found.searched is not None
    assert {each.of for each in found.searched.remains if each.kind != "alike"} >= {"reporting.names"}


def test_given_a_receipt_then_who_has_a_name_alone_is_forgotten_again(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    archive.more = {"forget_key": KEY}
    with_lake(archive, tmp_path / "lake")
    keep(database, [PERSON])
    forget(archive, NUMBER)
    archive.rows("DELETE FROM forgotten RETURNING id")
    keep(database, [AGENT, PERSON])  # as a backup brings it back
    done = archive.run("forget", "--again", "--yes")
    assert done.returncode == 0, done.stderr
    assert archive.rows("SELECT reference FROM reporting.names") == [{"reference": AGENT.reference}]


BACK = "Call 07009777777 back"


def of_a_contact(archive: Archive, database: sa.Engine, folder: Path) -> list[Name]:
    """Calls of theirs in Postgres and, only, in the lake; names of their numbers, and of another's."""
    archive.more = {"forget_key": KEY}
    with_lake(archive, folder)
    load(archive, cdr(1, number=NUMBER, contact_ref="C1"), cdr(2, number=NUMBER), cdr(3, number="07009123457"))
    load(
        archive,
        on(1, 4, number="anonymous", contact_ref="C1"),
        on(1, 5, number="07009777777", ref=BACK, contact_ref="C1"),
    )
    load(archive, on(1, 6, number=None, contact_ref="C1", ref="07009888888"))
    rollup(database)
    export_and_prune(archive, lake.DAY + timedelta(days=1))
    theirs = [Name("number", each, "x", None) for each in (NUMBER, "07009777777", "07009888888")]
    others = [Name("number", each, "x", None) for each in ("07009123457", "anonymous")]
    keep(database, [AGENT, CAMPAIGN, *others, *theirs])
    return theirs


def test_given_a_contact_then_the_names_of_its_numbers_go(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    theirs = of_a_contact(archive, database, tmp_path / "lake")
    keep(database, [spelled := Name("campaign", "9", "For 070 0977-7777", None)])
    of_figures = "SELECT count(*) FROM reporting.campaign_figures WHERE campaign_ref = %s"
    figures = archive.value(of_figures, BACK)
    assert figures > 0
    foreseen = forget(archive, None, "C1", dry_run=True)
    assert (foreseen.undated["names"], foreseen.figures) == (len([*theirs, spelled]), figures)
    assert archive.value("SELECT count(*) FROM reporting.names") == 8

    found = forget(archive, None, "C1")

    assert (found.undated["names"], found.figures) == (foreseen.undated["names"], figures)
    assert found.searched is not None
    assert found.searched.is_proof
    left = {row["reference"] for row in archive.rows("SELECT reference FROM reporting.names")}
    assert left == {"1002", "2040", "07009123457", "anonymous"}
    assert archive.value(of_figures, BACK) == 0
    assert archive.value("SELECT count(*) FROM cdrs WHERE number = %s", NUMBER) == 1  # without the contact


def test_given_who_dies_before_the_names_then_those_of_numbers_are_gone(
    archive: Archive, database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after it finds the contact nowhere, and no number beside it."""
    of_a_contact(archive, database, tmp_path / "lake")

    def die(*_: object) -> int:
        raise EtlError("ETL-301", "killed")

    with monkeypatch.context() as patch:
        patch.setattr("etl.store.forget.erase_names", die)
        with pytest.raises(EtlError, match="killed"):
            forget(archive, None, "C1")
    assert forget(archive, None, "C1").undated["names"] == 0
    left = {row["reference"] for row in archive.rows("SELECT reference FROM reporting.names")}
    assert left == {"1002", "2040", "07009123457", "anonymous"}


def test_given_a_receipt_then_who_is_in_figures_alone_is_forgotten_again(
    archive: Archive, database: sa.Engine, tmp_path: Path
) -> None:
    archive.more = {"forget_key": KEY}
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1, ref=f"Call {NUMBER} back", number=None, extension=f"SIP/{NUMBER}"))
    rollup(database)
    tables = ("campaign_figures", "agent_call_figures")
    with psycopg.connect(archive.database_url, autocommit=True) as administrator:
        for table in tables:
            administrator.execute(f"CREATE TABLE public.before_{table} AS TABLE reporting.{table}".encode())
        forget(archive, NUMBER)
        administrator.execute("DELETE FROM forgotten")
        for table in tables:  # as a backup brings them back
            administrator.execute(f"DELETE FROM reporting.{table}".encode())
            administrator.execute(f"INSERT INTO reporting.{table} TABLE public.before_{table}".encode())
            administrator.execute(f"DROP TABLE public.before_{table}".encode())
    told = "SELECT count(*) FROM reporting.{} f WHERE f::text LIKE %s"
    assert all(archive.value(told.format(table), f"%{NUMBER}%") for table in tables)
    done = archive.run("forget", "--again", "--yes")
    assert done.returncode == 0, done.stderr
    assert not any(archive.value(told.format(table), f"%{NUMBER}%") for table in tables)


def test_what_channels_begin_with_is_masked_as_any_reference(loaded: Archive) -> None:
    loaded.rows(
        "INSERT INTO reporting.status_changes (day, extension, at, event_id, origin, status, channels)"
        " VALUES (%s, '50', %s, gen_random_uuid(), 'pubsub', 'available', %s) RETURNING day",
        DAY,
        NOON,
        f"Call {NUMBER} back",
    )
    query = "SELECT channels FROM reporting.statuses WHERE extension = '50'"
    assert [row["channels"][:7] for row in asked(loaded, "etl_reporting", query)] == ["masked:"]
    assert [row["channels"] for row in asked(loaded, "etl_owner", query)] == [f"Call {NUMBER} back"]
    others = asked(loaded, "etl_reporting", "SELECT DISTINCT channels FROM reporting.statuses WHERE extension = '1002'")
    assert others == [{"channels": "enigma:notifications:agents"}]
    # Whose gaps those are isn't known then: all of them count.
    states = asked(loaded, "etl_reporting", f"SELECT * FROM reporting.agent_states_on('{DAY}') WHERE extension = '50'")
    assert [state["closed_by"] for state in states] == ["gap"]
